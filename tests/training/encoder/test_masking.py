"""What an encoder predicts: tokens chosen anew in every epoch, most of them masked, and which token the mask is."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

import archc
from tests.training.encoder.specs import MASK, SPEC, laid_out
from tests.training.project import one_line, write_text

same_in_both = pytest.mark.parametrize("backend", ["torch"], scope="session")


@pytest.fixture
def masking(load):
    return load("masking").Masking(mask=MASK, vocab=256, predicted=0.15, masked=0.8, replaced=0.1)


def row(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(seed).integers(0, 256, length).astype(np.int32)
    return {"tokens": tokens, "pos": np.arange(length, dtype=np.int32)}


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
