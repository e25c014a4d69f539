"""Which loops are a delta rule: the state loses what it holds at a key, as far as the token says, and gains a value.

With keys k and r, values v and a decay a, all of the token: S = a S - k (r . a S) + k v, in whatever words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from archc.ir.graph import Graph, Kind, Operand, Region, Value
from archc.ops.table import OPS
from archc.passes.log_decay import log_decay
from archc.passes.placed import is_placed
from archc.passes.readout import ReadOut, read_outs
from archc.passes.scan_class import Factor, ScanClass

Factors = tuple[Factor, ...]


@dataclass(frozen=True, eq=False)
class DeltaScan(ScanClass):
    """A loop over one state S that runs in chunks: with D = exp(log_decay) S, `S = D + key (value - correction . D)`.

    `scan` is the loop; `decay` what `log_decay` is the logarithm of. `correction`: the factors of what reads the state
    before something is added; `decayed`: whether it reads D, as above, or S itself. Factors of heads alone are among
    those of keys, where what is corrected and what is added have them in common.
    """

    decay: Operand = 1
    correction: Factors = ()
    decayed: bool = True

    @property
    def state(self) -> Value:
        """The state before a token, as the body of the loop has it."""
        body: Region = self.scan.attrs["body"]
        return body.params[0]

    @property
    def signature(self) -> tuple[object, ...]:
        """What decides about the text of the call: loops that agree in it are called alike."""
        sides = (self.factors["key"], self.factors["value"], self.correction)
        numbers = tuple(f.operand for side in sides for f in side if not isinstance(f.operand, Value))
        log = self.log_decay
        decay = (log.form, log.times) if self.varies else log.operand
        return (self.heads, self.key, self.value, self.decayed, decay, tuple(map(len, sides)), numbers)


@dataclass(frozen=True)
class _Term:
    """A summand of what the body computes: a product of factors, and the state, a read-out of it, or neither."""

    of: Literal["state", "read", "token"]
    factors: Factors
    query: Factors = ()
    over: frozenset[str] = frozenset()


def delta_scans(graph: Graph) -> dict[Value, DeltaScan]:
    """Every live loop that is a delta rule, read out once by a contraction over its keys."""
    out: dict[Value, DeltaScan] = {}
    for region, _ in graph.regions():
        for value in region.values:
            if value.op == "loop" and value in region.live:
                found = _recognise(value, region)
                if found is not None:
                    out[value] = found
    return out


def inside_rule(rule: DeltaScan, users: Mapping[Value, Sequence[Value]]) -> set[Value]:
    """The values that only the kernel computes: the loop, what leads to the read-out, a decay that only it reads."""
    (read,) = rule.reads
    body: Region = rule.scan.attrs["body"]
    out = {rule.scan, *users[rule.scan], *read.path} - {read.value}
    summands = {v for v, held in _of_state(body).items() if held}
    decay = rule.decay if rule.decayed and isinstance(rule.decay, Value) else None
    while decay is not None and decay is not rule.log_decay.operand and summands.issuperset(users.get(decay, ())):
        out.add(decay)
        summands = {decay}
        decay = decay.operands[0]
    return out


def _recognise(loop: Value, region: Region) -> DeltaScan | None:
    body: Region = loop.attrs["body"]
    outs = region.users.get(loop, ())
    if len(body.params) != 1 or loop.args != (0,) or len(outs) != 1 or outs[0].attrs["index"] != 0:
        return None
    state = body.params[0]
    known = _of_state(body)
    apart = [v for v in body.values if not known[v]]
    if state.type.dtype == "complex" or any(OPS[v.op].flow not in ("pointwise", "alias") for v in apart):
        return None
    terms = _terms(body.results[0], known)
    reads = read_outs(outs[0], region)
    if terms is None or reads is None or len(reads) != 1:
        return None
    kept, held, added = ([t for t in terms if t.of == of] for of in ("state", "read", "token"))
    if not len(kept) == len(held) == len(added) == 1:
        return None
    rule = _rule(loop, kept[0], held[0], added[0], reads[0])
    return rule if rule is not None and _fits(rule) else None


def _rule(loop: Value, kept: _Term, held: _Term, added: _Term, read: ReadOut) -> DeltaScan | None:
    """The rule of S = kept S + held (query . S) + added."""
    state = loop.attrs["body"].params[0]
    key = held.over
    both = _both(held.factors, added.factors)
    of_held, of_added = _without(held.factors, both), _without(added.factors, both)
    assert of_held is not None
    assert of_added is not None
    decay = kept.factors
    after = _without(of_held, decay)
    gain = _number(-1, (*(of_held if after is None else after), *held.query))
    heads = {n for f in (*decay, *both, *gain) for n in f.names} | set(read.query.names)
    heads = (heads & set(state.names)) - key
    value = {n for n in state.names if n not in key and n not in heads}
    if len(decay) > 1 or any(f.power != 1 for f in decay) or not value or read.over != key or read.before:
        return None
    if read.bonus is not None or not set(read.query.names) <= heads | key:
        return None
    if any(f.names & key for f in (*decay, *of_held, *of_added)):
        return None
    if any(not f.names <= heads | key for f in (*both, *gain)) or any(not f.names <= heads | value for f in of_added):
        return None
    decaying: Operand = decay[0].operand if decay else 1
    in_heads, in_key, in_value = (tuple(n for n in state.names if n in part) for part in (heads, key, value))
    rule = DeltaScan(
        loop,
        "delta",
        in_heads,
        in_key,
        in_value,
        {"head": (), "key": both, "value": _number(1, of_added)},
        log_decay(decaying, loop.origin.calls),
        isinstance(decaying, Value),
        (read,),
        decay=decaying,
        correction=gain,
        decayed=after is not None,
    )
    return replace(rule, sentence=_sentence(rule))


def _fits(rule: DeltaScan) -> bool:
    """Whether the kernel is handed tokens of real numbers, at least the keys, the values and what reads each."""
    sides = (rule.factors["key"], rule.factors["value"], rule.correction, (Factor(rule.reads[0].query),))
    decay = rule.log_decay.operand
    operands = [f.operand for side in sides for f in side] + [decay]
    values = [v for v in operands if isinstance(v, Value)]
    tokens = all(any(isinstance(f.operand, Value) and f.operand.kind is Kind.TOKEN for f in side) for side in sides)
    return tokens and rule.log_decay.exists and all(v.type.dtype == "real" and not is_placed(v) for v in values)


def _terms(value: Operand, known: Mapping[Value, bool]) -> list[_Term] | None:
    """The summands of a value, or None if it is no sum of such products."""
    if not _reads(value, known):
        return [_Term("token", _factors(value, known))]
    assert isinstance(value, Value)
    match value.op:
        case "param":
            return [_Term("state", ())]
        case "fp32" | "narrow":
            return _terms(value.args[0], known)
        case "add" | "sub":
            left, right = (_terms(a, known) for a in value.args)
            if left is None or right is None:
                return None
            return left + (right if value.op == "add" else [_times(t, (Factor(-1),)) for t in right])
        case "neg":
            return _scaled(value.args[0], (Factor(-1),), known)
        case "div" if not _reads(value.args[1], known):
            return _scaled(value.args[0], _factors(value.args[1], known, -1), known)
        case "mul" | "contract" if "made" not in value.attrs and len(value.args) == 2:
            first, second = value.args
            inner, other = (first, second) if _reads(first, known) else (second, first)
            if _reads(other, known):
                return None
            scaled = _scaled(inner, _factors(other, known), known)
            return scaled if value.op == "mul" else _summed(scaled, value.attrs["over"])
        case "reduce" if value.attrs["fn"] == "sum":
            return _summed(_terms(value.args[0], known), value.attrs["over"])
    return None


def _factors(value: Operand, known: Mapping[Value, bool], power: int = 1) -> Factors:
    """The factors of a product that is written in the body; what has a name or is computed before the loop is one."""
    if not isinstance(value, Value) or value not in known or value.label:
        return (Factor(value, power),)
    match value.op:
        case "mul":
            return tuple(f for a in value.args for f in _factors(a, known, power))
        case "div":
            return (*_factors(value.args[0], known, power), *_factors(value.args[1], known, -power))
        case "neg":
            return (Factor(-1), *_factors(value.args[0], known, power))
    return (Factor(value, power),)


def _summed(terms: list[_Term] | None, over: Sequence[str]) -> list[_Term] | None:
    """A product with the state, summed over some of its axes: a read-out."""
    if terms is None or len(terms) != 1 or terms[0].of != "state" or not over:
        return None
    query = tuple(f for f in terms[0].factors if f.names & set(over))
    factors = tuple(f for f in terms[0].factors if f not in query)
    return [_Term("read", factors, query, frozenset(over))]


def _scaled(value: Operand, factors: Factors, known: Mapping[Value, bool]) -> list[_Term] | None:
    terms = _terms(value, known)
    return None if terms is None else [_times(t, factors) for t in terms]


def _times(term: _Term, factors: Factors) -> _Term:
    return replace(term, factors=(*term.factors, *factors))


def _of_state(body: Region) -> dict[Value, bool]:
    """Which values that the body computes come of its states."""
    out = dict.fromkeys(body.params, True)
    for value in body.values:
        out[value] = any(out.get(v, False) for v in value.operands)
    return out


def _reads(value: Operand, known: Mapping[Value, bool]) -> bool:
    return isinstance(value, Value) and known.get(value, False)


def _both(one: Factors, other: Factors) -> Factors:
    """The values that are factors of both, in the order of the second."""
    common = Counter(f for f in one if isinstance(f.operand, Value)) & Counter(other)
    out: list[Factor] = []
    for factor in other:
        if common[factor] > 0:
            common[factor] -= 1
            out.append(factor)
    return tuple(out)


def _without(factors: Factors, some: Factors) -> Factors | None:
    """The factors that are left; None if some are not among them."""
    left = list(factors)
    for factor in some:
        if factor not in left:
            return None
        left.remove(factor)
    return tuple(left)


def _number(number: float, factors: Factors) -> Factors:
    """A number times factors: numbers multiplied, and none where that is one."""
    values = tuple(f for f in factors if isinstance(f.operand, Value))
    for factor in factors:
        if not isinstance(factor.operand, Value):
            number = number * factor.operand**factor.power
    return values if number == 1 else (Factor(number), *values)


def _sentence(rule: DeltaScan) -> str:
    heads, key, value = (f"[{' '.join(names)}]" for names in (rule.heads, rule.key, rule.value))
    decay = "a decay per head" if rule.varies else "no decay" if rule.log_decay.operand == 1 else "a fixed decay"
    return f"delta rule in chunked matrix form, {decay}: heads {heads}, key {key}, value {value}"
