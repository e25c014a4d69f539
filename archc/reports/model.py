"""What a report holds: the answers of all folds about one model, as data that JSON and Python share.

Plain dataclasses, which the command line prints without importing pydantic; `schema.Report` is the same as its model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Work:
    """Floating-point operations by the unit that does them; a multiply-add is 2."""

    matrix: float
    vector: float
    scan: float


@dataclass(frozen=True)
class BlockParams:
    """The trained parameters of a kind of layer: `each` in one layer, `total` in all `layers` of the kind."""

    block: str
    layers: int
    each: int
    total: int


@dataclass(frozen=True)
class TensorParams:
    """A trained tensor, once for all layers that have it: `count` elements in each of `layers` layers."""

    name: str
    block: str
    axes: dict[str, int]
    layers: int
    count: int


@dataclass(frozen=True)
class Params:
    """Trained parameters. `non_embedding` is without looked-up tables (`embedding`) and an untied `head`."""

    total: int
    embedding: int
    head: int
    non_embedding: int
    frozen: int
    blocks: tuple[BlockParams, ...]
    tensors: tuple[TensorParams, ...]


@dataclass(frozen=True)
class BlockFlops:
    """The forward work of one layer of a kind, per token of the training sequence."""

    block: str
    layers: int
    forward_per_token: Work


@dataclass(frozen=True)
class Flops:
    """Work per token: forward and training over the sequence, decoding at the context."""

    forward_per_token: Work
    train_per_token: Work
    decode_per_token: Work
    blocks: tuple[BlockFlops, ...]


@dataclass(frozen=True)
class State:
    """An array that a decoder remembers in each of `layers` layers of a kind.

    `tokens` is how many tokens it holds at the context, `limit` the most it ever holds (None: all there are), `bytes`
    its size in one layer for one sequence, `why` the expression that needs it.
    """

    name: str
    block: str
    layers: int
    what: Literal["keys", "conv", "prev", "scan", "maxscan", "loop"]
    axes: dict[str, int]
    tokens: int
    limit: int | None
    stored: Literal["compute", "fp32", "complex", "int", "bool"]
    bytes: int
    why: str


@dataclass(frozen=True)
class Cache:
    """The state of a decoder per sequence: all bytes, bytes by what they are, and the arrays."""

    bytes_per_sequence: int
    by_kind: dict[str, int]
    states: tuple[State, ...]


@dataclass(frozen=True)
class Scan:
    """How a scan runs: its class, and why in a sentence. `fits`: no state is kept for every token."""

    name: str
    block: str
    layers: int
    kind: str
    fits: bool
    sentence: str


@dataclass(frozen=True)
class Pairs:
    """A sum over keys: run by the framework's fused attention where it is `fused`, else composed in query blocks."""

    name: str
    block: str
    layers: int
    fused: bool
    sentence: str


@dataclass(frozen=True)
class Memory:
    """Bytes on one device that holds the whole model; activations are not counted."""

    weights: int
    gradients: int
    optimizer: int
    caches: int
    total: int


@dataclass(frozen=True)
class Workload:
    """What was asked for: training on `batch` sequences of `seq` tokens, decoding a token after `context` others."""

    batch: int
    seq: int
    context: int


@dataclass(frozen=True)
class Findings:
    """Everything the compiler can say about a model without running it."""

    name: str
    size: str | None
    kind: Literal["model", "encoder"]
    archc: str
    settings: dict[str, int | float]
    layers: tuple[str, ...]
    pattern: str
    workload: Workload
    params: Params
    flops: Flops
    cache: Cache
    scans: tuple[Scan, ...]
    attention: tuple[Pairs, ...]
    training: Memory
    decoding: Memory
    conventions: tuple[str, ...]
