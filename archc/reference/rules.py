"""The rules of all ops in NumPy; the reference refuses to load while one is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from archc.ops.table import OPS
from archc.reference import contract, model, pair, pointwise, reduce, shape, source, time
from archc.reference.frame import Evaluate


def assemble(families: Iterable[Mapping[str, Evaluate]]) -> dict[str, Evaluate]:
    """Rule by op. Raises `AssertionError` that names an op with two rules, one without a rule, or a rule without op."""
    rules: dict[str, Evaluate] = {}
    for family in families:
        for name, rule in family.items():
            assert name not in rules, f"op '{name}' has two rules in the reference"
            assert name in OPS, f"the reference has a rule for '{name}', which is no op"
            rules[name] = rule
    for name in OPS:
        assert name in rules, f"op '{name}' has no rule in the reference"
    return rules


RULES: dict[str, Evaluate] = assemble(
    family.RULES for family in (source, pointwise, contract, reduce, shape, time, pair, model)
)
