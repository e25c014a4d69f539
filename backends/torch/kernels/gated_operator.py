"""What operators of torch over scans with gates have in common: arguments, what is kept, what autograd wants."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from kernels.operators import free_name, gradient_of_numbers, schema
from torch import Tensor


class Given(NamedTuple):
    """The arguments of a scan with gates, all contiguous.

    x: tokens and w: weights of the gates, numbers: those behind the weights. outer: what the kernel takes as it is.
    pos: [B, T], or None for whole documents. start: the state that comes in, if any. kept: whether a gradient will be
    wanted, for which something is kept.
    """

    x: list[Tensor]
    w: list[Tensor]
    numbers: list[float]
    outer: list[Tensor]
    pos: Tensor | None
    start: Tensor | None
    kept: bool


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

    `backward(gates, given, result, dlast)`, where `result.y` is the gradient of y, gives those of x, w, outer and
    start, a list of tensors. `forward_flops`, `backward_flops`: matrix operations of arguments that are shapes.
    """

    made: Callable[[Given], Result]
    forward: Callable[[Any, Given, Result], None]
    backward: Callable[[Any, Given, Result, Tensor | None], list[Tensor]]
    forward_flops: Callable[[Given], int]
    backward_flops: Callable[[Given], int]


COUNT, RESULTS = len(Given._fields), len(Result._fields)


def register(name: str, gates: Any, scan: Scan) -> Any:
    """The scan with these gates as an operator `(*Given) -> Result`, known to autograd, torch.compile and counters."""
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    both = schema(Given, gives="(Tensor, Tensor, Tensor)")
    back_too = schema(Given, Result, Last, gives="Tensor[]")

    @torch.library.custom_op(free_name(name), mutates_args=(), schema=both)
    def fused(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        given = Given(*args)
        result = scan.made(given)
        scan.forward(gates, given, result)
        return result

    @torch.library.custom_op(free_name(f"{name}_backward"), mutates_args=(), schema=back_too)
    def gradients(*args: Any) -> list[Tensor]:
        return scan.backward(gates, *_parted(args))

    def back(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        """As many as `Given` has."""
        given, last, kept = _kept(ctx)
        dy = torch.zeros_like(given.x[0]) if dy is None else dy.contiguous()
        found = gradients(*given, dy, last, kept, None if dlast is None else dlast.contiguous())
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


def _parted(args: tuple[Any, ...]) -> tuple[Given, Result, Tensor | None]:
    given, result, (dlast,) = args[:COUNT], args[COUNT : COUNT + RESULTS], args[COUNT + RESULTS :]
    return Given(*given), Result(*result), dlast


def _empty_gradients(*args: Any) -> list[Tensor]:
    given, result, _ = _parted(args)
    return [torch.empty_like(z) for z in (*given.x, *given.w, *given.outer, result.last)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    given, result = Given(*inputs), Result(*output)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given.x, *given.w, *given.outer, given.pos, given.start, result.last, result.kept)
    ctx.numbers, ctx.counts, ctx.starts = given.numbers, (len(given.x), len(given.w)), given.start is not None


def _kept(ctx: Any) -> tuple[Given, Tensor, Tensor]:
    *arrays, pos, start, last, kept = ctx.saved_tensors
    first, second = ctx.counts[0], sum(ctx.counts)
    given = Given(arrays[:first], arrays[first:second], ctx.numbers, arrays[second:], pos, start, True)
    return given, last, kept
