"""Which sums over keys can run in the order of buckets, from the text of a fn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archc.ir.graph import Graph
from archc.passes.buckets import Buckets, buckets

HASHED = """
    half = 4
    q = x @ W_q[heads = 2 dim = 3]
    k = x @ W_k[heads dim]
    _v = x @ W_v[heads dim]
    _a = argmax(x @ W_a[heads half], over = half)
    _b = argmax(x @ W_b[heads rounds = 3 half], over = half)
    _one = argmax(x @ W_1[half], over = half)
    _shared = x @ W_s[dim]
    s = dot(queries(q), keys(k), over = dim)
    p = softmax({scores}, over = keys, where = {mask})
    return dot({weights}, keys({values}), over = keys) @ W_o[heads dim -> width]
"""


def text(mask: str, scores: str = "s", weights: str = "p", values: str = "_v") -> str:
    return HASHED.format(mask=mask, scores=scores, weights=weights, values=values)


def found(graph: Graph) -> Buckets | str | None:
    return next(iter(buckets(graph).values()), None)


SAME = "queries(_a) == keys(_a)"
MET = "sum(where(queries(_b) == keys(_b), 1, 0), over = rounds)"


@pytest.mark.parametrize(
    ("mask", "token", "lanes", "rounds", "share"),
    [
        (f"causal and {SAME}", "_a", ("heads",), (), 1 / 4),
        ("keys(_a) == queries(_a) and window(5)", "_a", ("heads",), (), 1 / 4),
        ("queries(_one) == keys(_one) and causal", "_one", (), (), 1 / 4),
        (f"causal and {MET} > 0", "_b", ("heads",), ("rounds",), 1 - (3 / 4) ** 3),
        (f"(causal and {MET} >= 1) and window(9)", "_b", ("heads",), ("rounds",), 1 - (3 / 4) ** 3),
        (f"{MET.replace('sum', 'max')} > 0 and causal", "_b", ("heads",), ("rounds",), 1 - (3 / 4) ** 3),
    ],
)
def test_equal_numbers_of_a_query_and_a_key_are_buckets(
    mixer: Callable[[str], Graph], mask: str, token: str, lanes: tuple[str, ...], rounds: tuple[str, ...], share: float
) -> None:
    each = found(mixer(text(mask)))
    assert isinstance(each, Buckets)
    assert (each.bucket.label, each.lanes, each.rounds) == (token, lanes, rounds)
    assert each.share == pytest.approx(share)


@pytest.mark.parametrize(
    "mask",
    [
        "causal",
        "causal and queries(_a) <= keys(_a)",
        "causal and (queries(_a) == keys(_a) or window(2))",
        "causal and queries(pos) == keys(pos)",
        f"causal and {MET} > 1",  # in two rounds at least
        "causal and not (queries(_a) == keys(_a))",
        "causal and queries(_a) == keys(_one)",
    ],
)
def test_other_masks_are_no_buckets(mixer: Callable[[str], Graph], mask: str) -> None:
    assert found(mixer(text(mask))) is None


WHOLE = f"causal and {SAME}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (text(WHOLE, scores="s - sum(s, over = heads)"), "mixes"),
        (text(WHOLE, scores="s * bias[heads]"), "its pairs read weights"),
        (text(WHOLE, scores="s + queries(sum(x, over = width))"), "does not begin with the axes of the bucket"),
        (text(WHOLE, values="_shared"), "does not begin with the axes of the bucket"),
        (text(WHOLE, weights="p * p"), "more is made of its weights than one sum over keys"),
    ],
)
def test_what_cannot_run_lane_by_lane_says_why(mixer: Callable[[str], Graph], body: str, reason: str) -> None:
    each = found(mixer(body))
    assert isinstance(each, str)
    assert reason in each
