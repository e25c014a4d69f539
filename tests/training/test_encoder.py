"""Encoders: trained to predict masked tokens, chosen anew in every epoch, resumed exactly, judged on fixed ones."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer

import archc
from tests.training.project import Project, one_line, same_weights, write_text

SPEC = """
## Two layers, with a second input and a second output, and positions for 64 tokens.
encoder filler(width = 32, depth = 2, vocab = 257, heads = 2, length = 64) {
    input segment
    block layer_ {
        x = x + attention(layer_norm(x), heads, mask = everything)
        x = x + mlp(layer_norm(x), 2 * width)
    }
    x = E[vocab width](tokens) + P[length width](pos) + S[kinds = 2 width](segment)
    x = stack(x, depth, [layer_])
    logits = layer_norm(x) @ E[width -> vocab]
    tied E
    init default = normal(0.02)
    return logits, mean(x, over = time) @ V[answers = 2]
}
"""
SUMMED = """
encoder summed(width = 8, vocab = 257) {
    x = E[vocab width](tokens)
    return (x + mean(x, over = time)) @ U[width -> vocab]
}
"""
DECODER = """
model small(width = 8, vocab = 256, length = 48) {
    input voice
    x = E[vocab width](tokens) + P[length width](pos) + V[voices = 2 width](voice)
    x = x + scan(decay = sigmoid(x @ W_a[width -> width']), input = x) * s[width]
    return x @ U[width -> vocab], x @ R[width -> one = 1]
}
"""
MASK = 256


def laid_out(folder: Path, backend, cache: Path, spec: str = SPEC) -> Project:
    archc.compile(spec, backend=backend, out=folder, force=True)
    write_text(folder / "text")
    return Project(folder, backend, cache)


@pytest.fixture
def project(tmp_path, backend, cache):
    return laid_out(tmp_path, backend, cache)


@pytest.fixture(scope="session")
def all_trained():
    """By backend: a fixture of the session would outlive a backend that a test names itself."""
    return {}


@pytest.fixture
def trained(tmp_path_factory, backend, cache, all_trained):
    if backend not in all_trained:
        all_trained[backend] = laid_out(tmp_path_factory.mktemp("trained"), backend, cache)
        all_trained[backend].trained("--steps", 60, "--eval-every", 30, "--save-every", 0)
    return all_trained[backend]


@pytest.fixture
def masking(load):
    return load("masking").Masking(mask=MASK, vocab=256, predicted=0.15, masked=0.8, replaced=0.1)


def row(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(seed).integers(0, 256, length).astype(np.int32)
    return {"tokens": tokens, "pos": np.arange(length, dtype=np.int32)}


same_in_both = pytest.mark.parametrize("backend", ["torch"], scope="session")


# ---- what is masked ---------------------------------------------------------------------------------------------


def test_masking_and_data_are_the_same_text_in_both_backends(tmp_path):
    emitted = [{a.path: a.text for a in archc.compile(SPEC, backend=name)} for name in ("torch", "flax")]
    for path in ("masking.py", "corpus.py", "data.py", "tokenizer.py", "options.py", "settings.py", "config.toml"):
        assert emitted[0][path] == emitted[1][path]


@same_in_both
def test_the_shares_predicted_masked_replaced_and_kept_are_as_asked(masking):
    mask, sequences, length = masking.of(7), 400, 100
    fates: Counter[str] = Counter()
    for number in range(sequences):
        before = row(length, number)
        after = mask(number, before)
        chosen = after["targets"] != -1
        assert chosen.sum() == 15
        np.testing.assert_array_equal(after["targets"][chosen], before["tokens"][chosen])
        np.testing.assert_array_equal(after["tokens"][~chosen], before["tokens"][~chosen])
        np.testing.assert_array_equal(after["pos"], before["pos"])
        seen, was = after["tokens"][chosen], before["tokens"][chosen]
        fates["masked"] += int((seen == MASK).sum())
        fates["kept"] += int((seen == was).sum())
        fates["replaced"] += int(((seen != MASK) & (seen != was)).sum())
    count = 15 * sequences
    for fate, share in (("masked", 0.8), ("replaced", 0.1 * 255 / 256), ("kept", 0.1 + 0.1 / 256)):
        assert abs(fates[fate] - share * count) < 4 * math.sqrt(share * (1 - share) * count)


@same_in_both
def test_every_place_is_predicted_as_often_and_at_least_one_in_a_sequence(masking):
    mask = masking.of(0)
    places = sum((mask(number, row(20))["targets"] != -1).astype(int) for number in range(2000))
    assert places.sum() == 3 * 2000
    assert np.abs(places - 300).max() < 5 * math.sqrt(300 * 0.85)
    assert (mask(0, row(2))["targets"] != -1).sum() == 1


@same_in_both
def test_seed_and_number_decide_what_is_masked_and_the_input_stays_as_it_was(masking):
    before = row(64)
    kept = before["tokens"].copy()

    def masked(seed: int, number: int) -> list[int]:
        return masking.of(seed)(number, before)["tokens"].tolist()

    assert masked(1, 2) == masked(1, 2)
    assert len({tuple(masked(seed, number)) for seed in range(3) for number in range(3)}) == 9
    np.testing.assert_array_equal(before["tokens"], kept)


@same_in_both
def test_an_epoch_is_masked_in_other_places_than_the_one_before_and_resumes(load, masking, tmp_path):
    data = load("data")
    (tmp_path / "in").mkdir()
    write_text(tmp_path / "in" / "text")
    split = load("corpus").prepare([tmp_path / "in" / "text"], "bytes", tmp_path / "out", 0.1).train
    count = len(data.Sequences(split, 32))
    assert count == sum(len(shard) // 32 for shard in split.shards)
    batches = data.training_batches(split, 32, 1, 3, masking.of(3))

    def epoch() -> dict[bytes, bytes]:
        rows = [next(batches) for _ in range(count)]
        whole = [np.where(r["targets"] == -1, r["tokens"], r["targets"]) for r in rows]
        return {w.tobytes(): r["targets"].tobytes() for w, r in zip(whole, rows, strict=True)}

    first = epoch()
    state = json.loads(json.dumps(batches.get_state()))
    second = epoch()
    assert set(first) == set(second)
    assert sum(first[text] == second[text] for text in first) < len(first) / 10
    batches.set_state(state)
    assert epoch() == second


@same_in_both
def test_positions_begin_anew_with_every_document(load, tmp_path):
    data = load("data")
    starts = np.array([0, 5, 6, 17, 24, 40])
    split = load("corpus").Split((np.arange(48, dtype=np.uint8),), (starts,))
    found = [data.Sequences(split, 8)[i] for i in range(6)]
    assert all(
        {name: array.dtype.name for name, array in f.items()} == {"tokens": "int32", "pos": "int32"} for f in found
    )
    np.testing.assert_array_equal(np.concatenate([f["tokens"] for f in found]), np.arange(48))
    expected = [place - max(s for s in (*starts, 8 * (place // 8)) if s <= place) for place in range(48)]
    np.testing.assert_array_equal(np.concatenate([f["pos"] for f in found]), expected)


@same_in_both
def test_the_frequencies_of_tokens_are_those_of_the_training_text(load, masking, tmp_path):
    data, module = load("data"), load("masking")
    write_text(tmp_path / "text")
    corpus = load("corpus").prepare([tmp_path / "text"], "bytes", tmp_path / "out", 0.2)
    heldout = data.evaluation_batches(corpus.heldout, 32, 4, 8, masking.of(0))
    counts = Counter(b"".join(bytes(shard) for shard in corpus.train.shards))
    targets = [int(t) for batch in heldout for t in batch["targets"].ravel() if t != -1]
    nats = [-math.log((counts[t] + 1) / (sum(counts.values()) + 256)) for t in targets]
    assert module.unigram_loss(corpus.train, heldout, 256) == pytest.approx(sum(nats) / len(nats), rel=1e-12)


# ---- the mask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["[MASK]", "<mask>", None])
@same_in_both
def test_the_mask_is_the_tokenizer_s_own_or_the_first_spare_token(load, tmp_path, name):
    tokenizer, masking = load("tokenizer"), load("masking")
    tokenizer.train_bpe(["the scan of the gate"] * 9, 260).save(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    if name:
        library.add_special_tokens(["[CLS]", AddedToken(name), "[SEP]"])
        library.save(str(tmp_path / "tokenizer.json"))
    read = tokenizer.read_tokenizer(tmp_path / "tokenizer.json")
    expected = library.token_to_id(name) if name else read.vocab
    assert masking.mask_token(read, 300) == expected


def test_a_vocabulary_without_a_spare_token_is_refused(tmp_path, backend, cache):
    project = laid_out(tmp_path, backend, cache, SPEC.replace("vocab = 257", "vocab = 256"))
    message = one_line(project.train())
    assert "masking needs a token of its own, and the tokenizer uses all 256 of the model" in message
    assert "--set vocab=257" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--context 65", "context: input should be less than or equal to 64, not '65'"),
        ("--masked 0.8 --replaced 0.3", "masked = 0.8 and replaced = 0.3 are more than all together"),
        ("--predicted 0", "predicted: input should be greater than 0, not '0'"),
        ("--data task:induction", "data: tasks ask for the next token, which an encoder sees"),
    ],
)
def test_a_mistake_gives_one_line(trained, arguments, message):
    assert message in one_line(trained.train(*arguments.split(), "--out", trained.folder / "mistake"))


# ---- the training -----------------------------------------------------------------------------------------------


def test_it_learns_from_both_sides(trained):
    losses, heldout = trained.values("loss"), trained.values("heldout_loss")
    assert np.isclose(losses[0], np.log(257), rtol=0.05)
    assert losses[-10:].mean() < losses[0] - 2
    assert heldout[-1] < heldout[0]


def test_twelve_steps_equal_six_a_kill_and_six_to_the_last_bit(project):
    outcome = project.trained("--out", project.folder / "whole")
    assert "held-out loss to beat: frequencies of tokens" in outcome.stdout
    process = project.start("train.py", *project.training("--out", project.folder / "parts", "--save-every", 6))
    project.kill_after(7, process, "parts")
    project.trained("--out", project.folder / "parts", "--resume")
    for metric in ("loss", "grad_norm", "heldout_loss"):
        assert project.column(metric, "parts") == project.column(metric, "whole")
    assert same_weights(project.weights(12, "parts"), project.weights(12, "whole"))


def logits(backend, load, training, tokens: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """What the model of a training says of tokens [B, T] in segment 0."""
    blank = np.zeros_like(tokens)
    if backend == "torch":
        with torch.no_grad():
            return training.model(*(torch.tensor(x, dtype=torch.int64) for x in (tokens, blank, pos)))[0].numpy()
    return np.asarray(load("stacks").with_weights(training.graph, training.params)(tokens, blank, pos)[0])


def started(load, tmp_path: Path, trained: Project, *arguments: str):
    """A training in this process, before its first step."""
    given = ["--data", str(trained.folder / "text"), "--context", "32", "--batch", "4", "--eval-sequences", "8"]
    return load("train").Training(load("settings").load_settings([*given, "--out", str(tmp_path / "run"), *arguments]))


def test_the_loss_is_the_mean_over_the_predicted_tokens_alone(backend, load, tmp_path, trained):
    training = started(load, tmp_path, trained)
    state = training.batches.get_state()
    batch = next(training.batches)
    training.batches.set_state(state)
    scores = logits(backend, load, training, batch["tokens"], batch["pos"]).astype(np.float64)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    chosen = batch["targets"] != -1
    assert chosen.sum() == 4 * round(0.15 * 32)
    nats = -np.take_along_axis(scores, np.maximum(batch["targets"], 0)[..., None], -1)[..., 0]
    assert training.advance()["loss"] == pytest.approx(nats[chosen].mean(), rel=1e-5)


def test_held_out_text_is_masked_in_the_same_places_whatever_the_seed(load, tmp_path, trained):
    batches = [started(load, tmp_path / seed, trained, "--seed", seed).heldout for seed in ("0", "1")]
    assert len(batches[0]) == 2
    for one, other in zip(*batches, strict=True):
        assert one.keys() == other.keys() == {"tokens", "targets", "pos"}
        assert all(np.array_equal(one[name], other[name]) for name in one)


# ---- the folder -------------------------------------------------------------------------------------------------


def test_an_encoder_s_folder_has_nothing_for_generating_and_a_model_s_nothing_for_masking(backend):
    encoder, model = ({a.path: a.text for a in archc.compile(s, backend=backend)} for s in (SPEC, DECODER))
    assert set(model) - set(encoder) >= {"generate.py", "ngram.py", "tasks.py"}
    assert "masking.py" in set(encoder) - set(model)
    assert "generate" not in "".join(text for path, text in encoder.items() if not path.startswith("kernels/"))
    assert "masked" not in "".join(model[path] for path in ("corpus.py", "data.py", "settings.py", "config.toml"))


def test_a_sequence_counts_as_one_document_where_the_model_sums_over_it(backend):
    apart, summed = ({a.path: a.text for a in archc.compile(s, backend=backend)} for s in (SPEC, SUMMED))
    assert "cannot tell packed documents apart" in summed["README.md"]
    assert "cannot tell packed documents apart" not in apart["README.md"]
    assert "packed" in apart["test_model.py"]
    assert "packed" not in summed["test_model.py"]


@pytest.mark.parametrize("spec", [SPEC, SUMMED, DECODER])
def test_the_emitted_tests_pass(tmp_path, backend, cache, spec):
    laid_out(tmp_path, backend, cache, spec)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_model.py"]
    quick = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=quick)
    assert done.returncode == 0, done.stdout


def test_a_body_without_logits_says_that_it_cannot_be_trained(tmp_path, backend, cache):
    body = SUMMED.replace(" @ U[width -> vocab]", "")
    outcome = laid_out(tmp_path, backend, cache, body).train()
    assert "the model gives no logits for its tokens, so there is nothing to train" in one_line(outcome)


@pytest.mark.parametrize("spec", [SUMMED, DECODER])
def test_further_inputs_and_outputs_do_not_stop_a_training(tmp_path, backend, cache, spec):
    project = laid_out(tmp_path, backend, cache, spec)
    project.trained("--steps", 2)
    assert np.isfinite(project.values("heldout_loss")).all()
