"""What operators of torch over scans and convolutions with equations have in common: arguments, what autograd wants."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from kernels.operators import free_name, gradient_of_numbers, schema
from torch import Tensor


class Given(NamedTuple):
    """The arguments of a scan with gates, or of a convolution and what follows it, all contiguous.

    x: tokens and w: weights of the gates, numbers: those behind the weights. outer: what the kernel takes as it is.
    pos: [B, T], or None for whole documents. start: the state that comes in, if any. learns: whether a gradient will be
    wanted, for which something is kept.
    """

    x: list[Tensor]
    w: list[Tensor]
    numbers: list[float]
    outer: list[Tensor]
    pos: Tensor | None
    start: Tensor | None
    learns: bool

    @property
    def one_token(self) -> bool:
        """Whether this is a token behind a state, of which no gradient is wanted; x may be shapes."""
        shape: Any = getattr(self.x[0], "shape", self.x[0])
        return self.start is not None and not self.learns and bool(shape[1] == 1)


class Result(NamedTuple):
    """The result y, or going back its gradient; the last state; what is kept for the backward pass, perhaps nothing."""

    y: Tensor
    last: Tensor
    kept: Tensor


class Last(NamedTuple):
    """Besides, for the gradients: that of the last state, if there is one."""

    dlast: Tensor | None


class Scan(NamedTuple):
    """A scan with gates: `made(given)` are its results, empty; `forward(gates, given, result)` fills them.

    `backward(gates, given, result, *last)`, where `result.y` is the gradient of y, gives those of x, w, outer and
    start, a list of tensors. `forward_flops`, `backward_flops`: matrix operations of arguments that are shapes.
    result: what `made` gives, y first and what is kept last; last: the gradients of the results between.
    """

    made: Callable[[Given], Any]
    forward: Callable[[Any, Given, Any], None]
    backward: Callable[..., list[Tensor]]
    forward_flops: Callable[[Given], int]
    backward_flops: Callable[[Given], int]
    result: Any = Result
    last: Any = Last


COUNT = len(Given._fields)


def register(name: str, gates: Any, scan: Scan) -> Any:
    """The scan with these gates as an operator `(*Given) -> result`, known to autograd, torch.compile and counters."""
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    results = len(scan.result._fields)
    both = schema(Given, gives=f"({', '.join(['Tensor'] * results)})")
    back_too = schema(Given, scan.result, scan.last, gives="Tensor[]")

    @torch.library.custom_op(free_name(name), mutates_args=(), schema=both)
    def fused(*args: Any) -> Any:
        given = Given(*args)
        result = scan.made(given)
        scan.forward(gates, given, result)
        return result

    @torch.library.custom_op(free_name(f"{name}_backward"), mutates_args=(), schema=back_too)
    def gradients(*args: Any) -> list[Tensor]:
        given, result, last = args[:COUNT], args[COUNT : COUNT + results], args[COUNT + results :]
        return scan.backward(gates, Given(*given), scan.result(*result), *last)

    def back(ctx: Any, dy: Tensor | None, *behind: Tensor | None) -> tuple[Any, ...]:
        """As many as `Given` has."""
        given, kept = _kept(ctx, results - 1)
        dy = torch.zeros_like(given.x[0]) if dy is None else dy.contiguous()
        found = gradients(*given, dy, *kept, *(None if d is None else d.contiguous() for d in behind[:-1]))
        dx, found = found[: len(given.x)], found[len(given.x) :]
        dw, found = found[: len(given.w)], found[len(given.w) :]
        douter, (dstart,) = found[:-1], found[-1:]
        numbers = gradient_of_numbers(given.numbers)
        return dx, dw, numbers, douter, None, dstart if ctx.starts else None, None

    fused.register_fake(lambda *args: tuple(scan.made(Given(*args))))
    gradients.register_fake(_empty_gradients)
    fused.register_autograd(back, setup_context=_keep)
    register_flop_formula(fused._opoverload.overloadpacket)(lambda *args, **_: scan.forward_flops(Given(*args[:COUNT])))
    register_flop_formula(gradients._opoverload.overloadpacket)(
        lambda *args, **_: scan.backward_flops(Given(*args[:COUNT]))
    )
    return fused


def wide_of(tensors: list[Tensor]) -> torch.dtype:
    """The dtype of the recurrence: at least single precision."""
    wide = torch.float32
    for each in tensors:
        wide = torch.promote_types(wide, each.dtype)
    return wide


def _empty_gradients(*args: Any) -> list[Tensor]:
    given, last = Given(*args[:COUNT]), args[COUNT + 1]
    return [torch.empty_like(z) for z in (*given.x, *given.w, *given.outer, last)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given = Given(*inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given.x, *given.w, *given.outer, given.pos, given.start, *output[1:])
    ctx.numbers, ctx.counts, ctx.starts = given.numbers, (len(given.x), len(given.w)), given.start is not None


def _kept(ctx: Any, results: int) -> tuple[Given, list[Tensor]]:
    """The arguments, and the results behind y."""
    (*arrays, pos, start), kept = ctx.saved_tensors[:-results], ctx.saved_tensors[-results:]
    first, second = ctx.counts[0], sum(ctx.counts)
    return Given(arrays[:first], arrays[first:second], ctx.numbers, arrays[second:], pos, start, True), kept
