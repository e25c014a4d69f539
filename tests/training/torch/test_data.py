"""Data: every token once, positions and targets by document, an exact resume, and n-gram losses counted another way."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

CONTEXT = 7


@pytest.fixture
def data(load):
    return load("data")


@pytest.fixture
def on_disk(load):
    return load("corpus")


def write(folder: Path, texts: list[str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, "utf-8")
    return [folder]


def random_texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdü", k=draw.randint(1, 30))) for _ in range(count)]


def documents(split) -> list[bytes]:
    """The documents of a split, read back."""
    found = []
    for shard, starts in zip(split.shards, split.starts, strict=True):
        ends = [*starts[1:], len(shard)]
        found += [bytes(shard[start:end]) for start, end in zip(starts, ends, strict=True)]
    return found


@pytest.mark.parametrize("shard", [50, 2**26])
def test_the_corpus_holds_every_document_once(on_disk, tmp_path, monkeypatch, shard):
    monkeypatch.setattr(on_disk, "SHARD_TOKENS", shard)
    texts = random_texts(0, 60)
    corpus = on_disk.prepare(write(tmp_path / "in", texts), "bytes", tmp_path / "out", 0.2)
    train, heldout = documents(corpus.train), documents(corpus.heldout)
    assert sorted(train + heldout) == sorted(text.encode() for text in texts)
    assert 2 <= len(heldout) <= 24
    assert (len(corpus.train.shards) > 1) == (shard == 50)


def test_what_is_held_out_depends_on_the_text_alone(on_disk, tmp_path):
    texts = random_texts(1, 60)
    one = on_disk.prepare(write(tmp_path / "one", texts), "bytes", tmp_path / "out", 0.2)
    lines = "".join(json.dumps({"text": text}) + "\n\n" for text in reversed(texts))
    (tmp_path / "all.jsonl").write_text(lines)
    other = on_disk.prepare([tmp_path / "all.jsonl"], "bytes", tmp_path / "out", 0.2)
    assert sorted(documents(one.heldout)) == sorted(documents(other.heldout))


def test_the_end_of_a_single_document_is_held_out(on_disk, tmp_path):
    corpus = on_disk.prepare(write(tmp_path / "in", ["abcdefghij" * 10]), "bytes", tmp_path / "out", 0.1)
    assert [len(text) for text in documents(corpus.train) + documents(corpus.heldout)] == [90, 10]


@pytest.mark.parametrize("shard", [50, 2**26])
def test_sequences_agree_with_a_token_by_token_account(on_disk, data, tmp_path, monkeypatch, shard):
    monkeypatch.setattr(on_disk, "SHARD_TOKENS", shard)
    split = on_disk.prepare(write(tmp_path / "in", random_texts(2, 60)), "bytes", tmp_path / "out", 0.2).train
    expected = []
    for tokens, starts in zip(split.shards, split.starts, strict=True):
        for begin in range(0, len(tokens) - CONTEXT, CONTEXT):
            row, pos = [], 0
            for place in range(begin, begin + CONTEXT):
                pos = 0 if place in starts or place == begin else pos + 1
                row.append((tokens[place], -1 if place + 1 in starts else tokens[place + 1], pos))
            expected.append(row)
    sequences = data.Sequences(split, CONTEXT)
    found = [[sequences[i][name] for name in ("tokens", "targets", "pos")] for i in range(len(sequences))]
    assert {array.dtype.name for row in found for array in row} == {"int32"}
    np.testing.assert_array_equal(found, np.array(expected, np.int32).transpose(0, 2, 1))


def test_batches_resume_exactly_and_show_each_sequence_once_an_epoch(on_disk, data, tmp_path):
    split = on_disk.prepare(write(tmp_path / "in", random_texts(3, 60)), "bytes", tmp_path / "out").train
    count = len(data.Sequences(split, CONTEXT))
    batches = data.training_batches(split, CONTEXT, 1, 5)
    epoch = [next(batches)["tokens"].tobytes() for _ in range(count)]
    assert Counter(epoch) == Counter(data.Sequences(split, CONTEXT)[i]["tokens"].tobytes() for i in range(count))
    state = json.loads(json.dumps(batches.get_state()))
    after = [next(batches)["tokens"].tobytes() for _ in range(count)]
    assert after != epoch
    again = data.training_batches(split, CONTEXT, 1, 5)
    again.set_state(state)
    assert [next(again)["tokens"].tobytes() for _ in range(count)] == after
    other = data.training_batches(split, CONTEXT, 1, 6)
    assert [next(other)["tokens"].tobytes() for _ in range(count)] != epoch


def test_evaluation_batches_are_full_and_of_distinct_sequences(on_disk, data, tmp_path):
    split = on_disk.prepare(write(tmp_path / "in", random_texts(4, 60)), "bytes", tmp_path / "out").train
    batches = data.evaluation_batches(split, CONTEXT, 4, 10)
    assert [batch["tokens"].shape for batch in batches] == [(4, CONTEXT)] * 3
    targets = np.concatenate([batch["targets"] for batch in batches])
    assert (targets[10:] == -1).all()
    assert (targets[:10] != -1).any(axis=1).all()


def test_text_is_tokenised_once_until_it_changes(on_disk, tmp_path, capsys):
    paths = write(tmp_path / "in", random_texts(5, 20))
    for text, tokenised in (("first", True), ("first", False), ("second", True)):
        (tmp_path / "in" / "000.txt").write_text(text)
        on_disk.prepare(paths, "bytes", tmp_path / "out")
        assert ("tokenising" in capsys.readouterr().out) == tokenised
    on_disk.prepare(paths, "bpe:270", tmp_path / "out")
    on_disk.prepare(paths, "bpe:271", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_damaged_corpus_is_said_to_be(on_disk, tmp_path, capsys):
    paths = write(tmp_path / "in", random_texts(6, 20))
    on_disk.prepare(paths, "bytes", tmp_path / "out")
    next((tmp_path / "out").rglob("train-00000.tokens")).write_bytes(b"abc")
    with pytest.raises(SystemExit, match="1"):
        on_disk.prepare(paths, "bytes", tmp_path / "out")
    assert "is missing or damaged; delete the folder" in capsys.readouterr().err


def test_binary_files_and_hidden_folders_in_a_folder_are_left_out(on_disk, tmp_path, capsys):
    paths = write(tmp_path / "in", random_texts(7, 20))
    (tmp_path / "in" / "binary.txt").write_bytes(b"\x80\x00\xff")
    (tmp_path / "in" / "image.png").write_bytes(b"abc")
    write(tmp_path / "in" / ".hidden", ["hidden"])
    corpus = on_disk.prepare(paths, "bytes", tmp_path / "out")
    assert len(documents(corpus.train) + documents(corpus.heldout)) == 20
    assert f"skipped {tmp_path / 'in' / 'binary.txt'}: not UTF-8 text" in capsys.readouterr().out


def test_a_trained_bpe_is_a_tokenizers_file_and_gives_the_text_back(on_disk, load, tmp_path):
    texts = ["the scan of the gate, über alles " * 9 + str(number) for number in range(40)]
    corpus = on_disk.prepare(write(tmp_path / "in", texts), "bpe:300", tmp_path / "out", 0.2)
    file = next((tmp_path / "out").rglob("tokenizer.json"))
    library = Tokenizer.from_file(str(file))
    assert corpus.tokenizer.vocab == library.get_vocab_size() == 300
    text = "the gate ü scan\n"
    tokens = corpus.tokenizer.encode(text)
    assert library.decode(tokens.tolist()) == text
    assert len(tokens) < len(text.encode())
    stream = corpus.tokenizer.stream(tokens[:0])
    assert "".join(stream.push(int(token)) for token in tokens) + stream.end() == text
    again = on_disk.prepare([tmp_path / "in"], str(file), tmp_path / "out", 0.2)
    np.testing.assert_array_equal(again.train.shards[0], corpus.train.shards[0])


def test_a_byte_stream_holds_half_characters_back(load):
    stream = load("tokenizer").Bytes().stream(np.zeros(0))
    assert [stream.push(byte) for byte in "aü".encode()] == ["a", "", "ü"]
    assert [stream.push(0xC3), stream.push(0x41)] == ["", "\N{REPLACEMENT CHARACTER}A"]
    stream.push(0xC3)
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_ngram_loss_is_that_of_counting_in_dictionaries(on_disk, data, load, tmp_path, monkeypatch, order):
    monkeypatch.setattr(load("ngram"), "CHUNK", 37)
    monkeypatch.setattr(on_disk, "SHARD_TOKENS", 200)
    corpus = on_disk.prepare(write(tmp_path / "in", random_texts(8, 60)), "bytes", tmp_path / "out", 0.2)
    heldout = data.evaluation_batches(corpus.heldout, CONTEXT, 4, 10**6)
    counts: Counter[bytes] = Counter()
    for text in documents(corpus.train):
        counts.update(text[i : i + n] for n in range(1, order + 1) for i in range(len(text) - n + 1))

    def likelihood(history: bytes, token: int) -> float:
        after = {
            gram: count for gram, count in counts.items() if len(gram) == len(history) + 1 and gram[:-1] == history
        }
        shorter = likelihood(history[1:], token) if history else 1 / 256
        if not after:
            return shorter
        return (counts[history + bytes([token])] + len(after) * shorter) / (sum(after.values()) + len(after))

    nats = []
    for batch in heldout:
        for tokens, targets, pos in zip(batch["tokens"], batch["targets"], batch["pos"], strict=True):
            for place in np.flatnonzero(targets != -1):
                reach = min(order - 1, pos[place] + 1)
                history = bytes(tokens[place + 1 - reach : place + 1].tolist())
                nats.append(-math.log(likelihood(history, int(targets[place]))))
    assert load("ngram").ngram_loss(corpus.train, heldout, order, 256) == pytest.approx(
        sum(nats) / len(nats), rel=1e-12
    )


def test_the_standard_library_is_text_enough_to_count(on_disk, data, load, tmp_path):
    corpus = on_disk.prepare([], "bytes", tmp_path / "out")
    assert corpus.train.tokens > 5e6
    heldout = data.evaluation_batches(corpus.heldout, 256, 16, 256)
    bigram, trigram = (load("ngram").ngram_loss(corpus.train, heldout, order, 256) for order in (2, 3))
    assert 2.3 < bigram < 2.6
    assert 1.6 < trigram < 2.0
