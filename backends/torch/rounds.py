"""What one round of the loop of each Triton kernel results in, so that its instructions can be counted by element."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

ROUND: dict[str, tuple[str, ...]] = {
    "scan_forward": ("K", "S", "BC"),
    "scan_backward": ("K", "S", "BC"),
    "scan_pieces": ("K", "S", "BC"),
    "scan_carries": ("BC",),
    "complex_forward": ("K", "S", "BC"),
    "complex_backward": ("K", "S", "BC"),
    "complex_pieces": ("K", "S", "BC"),
    "complex_carries": ("BC",),
    "conv_forward": ("K", "S", "BC"),
    "conv_backward": ("K", "S", "BC"),
    "conv_token": ("BC",),
    "selective_forward": ("BLOCK", "STATES", "SIZE"),
    "selective_backward": ("BLOCK", "GROUP", "SIZE"),
    "composed_token": ("HP", "BK"),
    "composed_token_sums": ("BLOCK",),
    "chunked_forward": ("Q", "BV"),
    "chunked_backward_queries": ("Q", "BK"),
    "chunked_backward_keys": ("Q", "BK"),
    "outer_token": ("BV",),
    "chunked_key_forward": ("Q", "BV"),
    "chunked_key_backward_queries": ("Q", "BK"),
    "chunked_key_backward_keys": ("Q", "BK"),
}
"""The constants of a kernel whose product is the elements of a round: of tokens and channels in scans and
convolutions, each state counted in a selective scan (whose backward pass repeats the code of a group of states), of
outputs or of gradients of keys and queries in scans of outer products, of pairs in a token with composed heads."""


def results_of_a_round(kernel: str, constants: Mapping[str, Any]) -> int | None:
    """Elements; None for a kernel that is not listed.

    >>> results_of_a_round("conv_forward", {"K": 8, "S": 8, "BC": 32})
    2048
    """
    names = ROUND.get(kernel)
    return None if names is None else prod(int(constants[name]) for name in names)
