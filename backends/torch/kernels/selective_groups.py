"""Groups of channels, each of which has keys and queries of its own in a selective scan."""

from collections.abc import Sequence
from math import prod

from torch import Tensor


def shared_run(groups: Sequence[int], have: Sequence[int]) -> tuple[int, int] | None:
    """How many groups share a row of keys with axes `have`, 1 where they do, and how far apart these groups are.

    None if they are in several places, so that no single distance leads from one to the next.

    >>> shared_run((8, 4, 2), (8, 1, 2)), shared_run((8, 4), (8, 4)), shared_run((8, 4, 2), (1, 4, 1))
    ((4, 2), (1, 1), None)
    """
    lacking = [i for i, (whole, mine) in enumerate(zip(groups, have, strict=True)) if whole != mine]
    if not lacking:
        return 1, 1
    run = slice(lacking[0], lacking[-1] + 1)
    return None if prod(have[run]) > 1 else (prod(groups[run]), prod(groups[run.stop :]))


def of_groups(rows: Tensor, axes: Sequence[int]) -> Tensor:
    """Keys or queries [B, T, *groups, N] as a kernel reads them: repeated if groups share them in several places."""
    groups = axes[: rows.dim() - 3]
    if shared_run(groups, rows.shape[2:-1]) is None:
        return rows.expand(*rows.shape[:2], *groups, -1)
    return rows
