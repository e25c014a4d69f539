"""The logarithm of a decay, which chunks of a scan are made of: read off the expression of the decay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from archc.diagnostics import Span
from archc.ir.graph import Operand, Value
from archc.passes.in_calls import can_be_read
from archc.passes.ranges import range_of

NO_LOGARITHM = "its decay may be 0 or negative, and chunks take its logarithm; exp(...) or sigmoid(...) is above 0"


@dataclass(frozen=True)
class LogDecay:
    """The logarithm of the decay: `times` * (the operand of exp, log(sigmoid(x)), log(1 - sigmoid(x)), or log(x)), by
    `form`."""

    form: Literal["exponent", "log_sigmoid", "log_rest", "log"]
    operand: Operand
    times: float = 1

    @property
    def exists(self) -> bool:
        """Whether the decay is above 0 whatever weights and tokens are."""
        return self.form != "log" or range_of(self.operand).positive

    @property
    def has_floor(self) -> bool:
        """Whether single precision may round the decay to 0, whose logarithm is infinite: `1 + tanh(x)` below -9."""
        return self.form == "log" and not range_of(self.operand).low > 0


def log_decay(decay: Operand, calls: tuple[Span, ...]) -> LogDecay:
    """The log of a decay: exp(e) gives e, a sigmoid and 1 less a sigmoid their logs, a power multiplies.

    calls: of the function that the scan is written in, which has to name what the decay is taken from.
    """
    if not isinstance(decay, Value) or not can_be_read(decay, calls):
        return LogDecay("log", decay)
    match decay.op, decay.args:
        case "exp", (exponent,):
            return LogDecay("exponent", exponent)
        case "sigmoid", (x,):
            return LogDecay("log_sigmoid", x)
        case "sub", (1, Value(op="sigmoid", args=(x,))):
            return LogDecay("log_rest", x)
        case (("fp32" | "narrow"), (inner,)):
            return log_decay(inner, calls)
        case "pow", (base, power) if not isinstance(power, Value):
            found = log_decay(base, calls)
            return replace(found, times=found.times * power)
    return LogDecay("log", decay)
