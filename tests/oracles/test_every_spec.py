"""No spec is held against the compiler's own reference alone."""

from __future__ import annotations

from archc.specs_index import shipped
from tests.equations.test_equations import PAPERS
from tests.oracles.families import FAMILIES


def test_every_spec_is_held_against_transformers_or_its_paper_s_equations() -> None:
    theirs = {family.read.family.spec for family in FAMILIES.values()}
    assert set(shipped()) - theirs - set(PAPERS) == set()
