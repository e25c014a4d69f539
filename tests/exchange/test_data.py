"""The data beside the specs: every word of it is used, and none is missing."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache

import pytest

from archc.elaborate import Program
from archc.exchange.expressions import is_expression, names
from archc.exchange.family import Family, Variant, families
from archc.exchange.fields import with_defaults
from archc.exchange.rows import Row, moves, read_row
from archc.exchange.spec_text import spec_text
from archc.specs_index import program, shipped

FAMILIES = families()


checked = cache(program)  # several tests ask the same of the same text


def made(spec: str, variants: tuple[Variant, ...]) -> Program:
    """A spec in variants."""
    return checked(spec_text(spec, {}, variants))


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def test_data_stands_beside_a_spec_and_names_all_of_its_sizes(family: Family) -> None:
    assert family.spec in shipped()
    texts = [(family.heads[0].text,), *((variant, family.heads[0].text) for variant in family.variants)]
    own = {name for text in texts for name in made(family.spec, text).settings}
    computed = {name for name in own if name not in family.sizes}
    assert family.sizes.keys() <= own
    assert computed <= {"std", "std_out"}, "parameters that only initial values read"


def test_every_field_that_is_read_has_a_default(family: Family) -> None:
    texts = [*family.sizes.values(), *family.must.values(), *family.fields.values()]
    read = {name for text in texts if is_expression(text) for name in names(text)} | family.read
    assert read <= family.fields.keys()
    assert family.must.keys() <= family.fields.keys()
    assert with_defaults({}, family).keys() == family.fields.keys()
    assert {v for v in family.renamed.values() if "." not in v} <= family.fields.keys() | family.groups


def test_every_variant_changes_the_text_and_is_a_model_with_tensors(family: Family) -> None:
    for variant in family.variants:
        assert variant.when.keys() <= family.fields.keys()
        assert variant.replace or variant.without or variant.also
        found = made(family.spec, (variant, family.heads[0].text)).graph
        assert family.moves(found, family.heads[0])


def test_names_that_mean_something_else_mean_a_tensor(family: Family) -> None:
    heads = [(head.text,) for head in family.heads]
    texts = [*heads, *((variant, *heads[0]) for variant in family.variants)]
    graphs = [made(family.spec, text).graph for text in texts]
    plan = {move.theirs for graph in graphs for move in family.moves(graph, family.heads[0])}
    assert set(family.copies.values()) <= plan
    for new in family.aliases.values():
        assert any(name.startswith(new) or name.endswith(new) for name in plan)
    assert not any(fnmatchcase(name, pattern) for name in plan for pattern in family.ignored)


@pytest.mark.parametrize("rows", ["nothing.weight = E", "E", "U"])
def test_a_weight_without_a_row_and_a_row_twice_are_mistakes_of_the_data(rows: str) -> None:
    family = next(f for f in FAMILIES if f.name == "llama")
    graph = program("llama:tiny").graph
    outer: tuple[Row, ...] = (*family.outer, read_row("nothing.weight", "E"))
    if rows in ("E", "U"):
        outer = tuple(row for row in family.outer if row.parts[0].ours != rows)
    with pytest.raises(AssertionError, match="the data and the spec differ"):
        moves(graph, outer, family.layers, family.prefix)
