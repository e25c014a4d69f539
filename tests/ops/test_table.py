"""The table of ops is closed: no op without all of its rules, no op that the reference cannot evaluate."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from archc.ops.base import Op
from archc.ops.table import INFER, OPS, assemble
from archc.reference import rules as reference

RULES = [f.name for f in fields(Op)]


def test_an_op_cannot_be_declared_without_a_rule() -> None:
    rules: dict[str, Any] = {f.name: getattr(OPS["add"], f.name) for f in fields(Op)}
    for rule in RULES:
        with pytest.raises(TypeError, match=rule):
            Op(**{k: v for k, v in rules.items() if k != rule})


@pytest.mark.parametrize("rule", [r for r in RULES if r != "name"])
def test_the_table_names_the_op_and_the_rule_that_is_missing(rule: str) -> None:
    without: Any = {rule: None}
    with pytest.raises(AssertionError, match=f"op 'scan' has no rule '{rule}'"):
        assemble([OPS["add"], replace(OPS["scan"], **without)])


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(AssertionError, match="op 'add' is declared twice"):
        assemble([OPS["add"], OPS["add"]])


def test_every_op_is_there_under_its_own_name() -> None:
    assert all(op.name == name for name, op in OPS.items())
    assert {name: op.infer for name, op in OPS.items()} == INFER


def test_the_reference_has_a_rule_for_every_op_and_no_other() -> None:
    rules = reference.RULES
    with pytest.raises(AssertionError, match="op 'scan' has no rule in the reference"):
        reference.assemble([{name: rule for name, rule in rules.items() if name != "scan"}])
    with pytest.raises(AssertionError, match="op 'add' has two rules in the reference"):
        reference.assemble([rules, {"add": rules["add"]}])
    with pytest.raises(AssertionError, match="a rule for 'ad', which is no op"):
        reference.assemble([{"ad": rules["add"]}, rules])
