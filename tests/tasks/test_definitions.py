"""The tasks as they are published: every answer is found again by someone who reads nothing but the sequence."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import archc

LENGTHS = {
    "selective_copying": (32, 33, 300),
    "induction": (3, 4, 256),
    "recall": (64, 65, 300),
    "phone_book": (31, 256),
}
OTHERWISE = {
    "selective_copying": {"vocab": 5, "items": 3},
    "induction": {"vocab": 3},
    "recall": {"vocab": 21, "pairs": 9, "power": 1.0},
    "phone_book": {"syllables": 1, "digits": 2},
}


@pytest.fixture(scope="module")
def emitted() -> dict[str, dict[str, str]]:
    """The files of a small model in both backends."""
    spec = "model small(width = 2, vocab = 4) { return E[vocab width](tokens) @ U[width -> vocab] }"
    return {name: {a.path: a.text for a in archc.compile(spec, backend=name)} for name in ("torch", "flax")}


@pytest.fixture(scope="module")
def tasks(emitted: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    path = tmp_path_factory.mktemp("emitted") / "tasks.py"
    path.write_text(emitted["torch"]["tasks.py"], "utf-8")
    spec = spec_from_file_location("emitted_tasks", path)
    assert spec
    assert spec.loader
    sys.modules["emitted_tasks"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["emitted_tasks"]


def drawn(task: Any, length: int, count: int = 40) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Sequences of a task, checked for what all have in common."""
    for number in range(count):
        tokens, places, answers = task.draw(np.random.default_rng((length, number)), length)
        assert tokens.shape == (length,)
        assert tokens.dtype == np.int32
        assert len(set(places.tolist())) == len(places) == len(answers)
        yield tokens, places, answers


def copied(tokens: list[int], place: int) -> int:
    """The first mark asks for the first token that is no blank."""
    mark = tokens[-1]
    return [token for token in tokens if token not in (0, mark)][place - tokens.index(mark)]


def followed(tokens: list[int], place: int) -> int:
    """What came after the token when it stood there first."""
    return tokens[tokens.index(tokens[place]) + 1]


def looked_up(tokens: list[int], place: int) -> int:
    """The next byte of the number of the name in the last line."""
    *lines, last = bytes(tokens[: place + 1]).decode("ascii").split("\n")
    numbers = dict(line.split(": ") for line in lines if line)
    name, _, begun = last.partition(": ")
    assert numbers[name].startswith(begun)
    return ord(numbers[name][len(begun)])


SOLVERS: dict[str, Callable[[list[int], int], int]] = {
    "selective_copying": copied,
    "induction": followed,
    "recall": followed,
    "phone_book": looked_up,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_answer_can_be_read_in_the_tokens_before_it(tasks: ModuleType, name: str) -> None:
    for task in (tasks.TASKS[name](), tasks.TASKS[name](**OTHERWISE[name])):
        for length in LENGTHS[name]:
            assert task.misfit(length) == ""
            for tokens, places, answers in drawn(task, length):
                found = [SOLVERS[name](tokens.tolist(), place) for place in places]
                assert found == answers.tolist()


@pytest.mark.parametrize("name", SOLVERS)
def test_tokens_and_answers_have_words(tasks: ModuleType, name: str) -> None:
    task = tasks.TASKS[name](**OTHERWISE[name])
    vocab = 256 if task.words is None else len(task.words)
    seen: set[int] = set()
    for tokens, _, answers in drawn(task, LENGTHS[name][-1]):
        seen |= {*tokens.tolist(), *answers.tolist()}
    assert min(seen) >= 0
    assert max(seen) < vocab
    if task.words is not None:
        assert seen == set(range(vocab))
        assert len(set(task.words)) == vocab
        assert all(re.fullmatch(r"\S+", word) for word in task.words)


def test_as_many_questions_are_asked_as_published(tasks: ModuleType) -> None:
    """One mark an item, one question at the end, each key once, the digits of one number."""
    for name, length, count, first in (
        ("selective_copying", 4096, 16, 4080),
        ("induction", 256, 1, 255),
        ("recall", 256, 16, 32),
        ("phone_book", 256, 7, 249),
    ):
        for _, places, _ in drawn(tasks.TASKS[name](), length, 20):
            assert len(places) == count
            assert min(places) >= first
            assert name == "recall" or places.tolist() == list(range(first, length))


def test_copied_tokens_stand_anywhere_among_blanks(tasks: ModuleType) -> None:
    counts = np.zeros(20)
    for tokens, places, _ in drawn(tasks.SelectiveCopying(vocab=6, items=4), 20, 2000):
        assert (tokens == 0).sum() == 12
        assert (tokens[places] == 5).all()
        counts += tokens != 0
    assert counts[16:].tolist() == [2000] * 4
    assert np.abs(counts[:16] - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_the_special_token_stands_twice_and_the_first_time_anywhere(tasks: ModuleType) -> None:
    firsts: Counter[int] = Counter()
    for tokens, _, _ in drawn(tasks.Induction(), 12, 2000):
        first, last = np.flatnonzero(tokens == 15)
        assert last == 11
        firsts[int(first)] += 1
    assert set(firsts) == set(range(10))
    assert max(abs(count - 200) for count in firsts.values()) < 5 * np.sqrt(2000 * 0.1 * 0.9)


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_keys_are_asked_for_at_distances_of_a_power_law(tasks: ModuleType, power: float) -> None:
    gaps: Counter[int] = Counter()
    for tokens, places, answers in drawn(tasks.Recall(vocab=12, pairs=1, power=power), 18, 3000):
        assert 1 <= tokens[0] < 6 <= answers[0] < 12
        gaps[(int(places[0]) - 2) // 2] += 1
    total = sum((gap + 1) ** (power - 1) for gap in range(8))
    for gap in range(8):
        share = (gap + 1) ** (power - 1) / total
        assert abs(gaps[gap] - 3000 * share) < 5 * np.sqrt(3000 * share * (1 - share))


def test_keys_and_values_are_distinct_and_of_either_half(tasks: ModuleType) -> None:
    for tokens, _, answers in drawn(tasks.Recall(vocab=40, pairs=19), 76):
        assert sorted(tokens[:38:2]) == list(range(1, 20))
        assert len(set(answers)) == 19
        assert min(answers) >= 20


def test_a_phone_book_is_text_with_a_line_for_each_name(tasks: ModuleType) -> None:
    for length in range(31, 300, 7):
        for tokens, _, answers in drawn(tasks.PhoneBook(), length, 3):
            book, _, question = bytes([*tokens.tolist(), answers[-1]]).decode("ascii").rpartition("\n\n")
            lines = book.lstrip("\n").split("\n")
            assert all(re.fullmatch(r"[A-Z][a-z]{5}: \d{7}", line) for line in [*lines, question])
            assert len({line[:6] for line in lines}) == len(lines) == (length + 1) // 16 - 1
            assert question in lines


def test_a_generator_in_the_same_state_draws_the_same(tasks: ModuleType) -> None:
    for name, task in tasks.TASKS.items():
        one, other, third = (
            list(map(list, task().draw(np.random.default_rng(s), LENGTHS[name][-1]))) for s in (1, 1, 2)
        )
        assert one == other != third


@pytest.mark.parametrize("name", SOLVERS)
def test_a_sequence_that_is_too_short_is_said_to_be(tasks: ModuleType, name: str) -> None:
    least = LENGTHS[name][0]
    assert tasks.TASKS[name]().misfit(least) == ""
    assert str(least) in tasks.TASKS[name]().misfit(least - 1)


def test_there_are_keys_for_all_pairs(tasks: ModuleType) -> None:
    assert tasks.Recall(vocab=20, pairs=9).misfit(40) == tasks.Recall(vocab=20, pairs=0).misfit(39) == ""
    for pairs in (10, 0):
        assert tasks.Recall(vocab=20, pairs=pairs).misfit(40) == "vocab = 20 has 9 keys for 10 pairs"


def test_no_number_of_pairs_is_as_many_as_there_is_room_for(tasks: ModuleType) -> None:
    task = tasks.Recall(pairs=0)
    for length in (4, 31, 64):
        for tokens, places, answers in drawn(task, length):
            assert len(places) == length // 4 == task.choices(length)
            assert [followed(tokens.tolist(), place) for place in places] == answers.tolist()
    assert task.misfit(3) == "1 pairs and their questions take 4 tokens"


def test_a_book_has_no_more_lines_than_there_are_names(tasks: ModuleType) -> None:
    assert tasks.PhoneBook(syllables=1).misfit(12 * 76 - 1) == ""
    assert tasks.PhoneBook(syllables=1).misfit(12 * 77 - 1) == "there are only 75 names for 76 lines"


def test_parameters_out_of_range_are_refused(tasks: ModuleType) -> None:
    for name, values, message in (
        ("induction", {"vocab": 2}, "greater than or equal to 3"),
        ("recall", {"power": 0}, "greater than 0"),
        ("phone_book", {"digit": 3}, "Extra inputs are not permitted"),
    ):
        with pytest.raises(ValidationError, match=message):
            tasks.TASKS[name](**values)


def test_tasks_are_the_same_text_in_both_backends_and_need_no_framework(emitted: dict[str, dict[str, str]]) -> None:
    assert emitted["torch"]["tasks.py"] == emitted["flax"]["tasks.py"]
    assert emitted["torch"]["sources.py"] == emitted["flax"]["sources.py"]
    imported = re.findall(r"^(?:import|from) (\w+)", emitted["torch"]["tasks.py"], re.MULTILINE)
    assert set(imported) <= {"numpy", "pydantic", *sys.stdlib_module_names}


def test_the_listing_has_every_parameter_with_its_default(tasks: ModuleType) -> None:
    lines = tasks.listing().splitlines()
    for name, task in tasks.TASKS.items():
        assert f"task:{name}" in lines
        for part in str(task()).removeprefix(f"task:{name}:").split(","):
            assert any(line.strip().startswith(f"{part} ") for line in lines)
