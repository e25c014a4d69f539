"""What the data say of fields that a config leaves out is what transformers takes there."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import transformers

from archc.exchange.expressions import is_expression
from archc.exchange.family import Family, families
from archc.exchange.fields import with_defaults


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_field_that_is_left_out_is_what_transformers_takes(family: Family) -> None:
    theirs = dict(flat(transformers.AutoConfig.for_model(family.model_type).to_dict(), family))
    ours = with_defaults({}, family)
    both = {name for name in ours.keys() & theirs.keys() if not computed(family, name, theirs[name])}
    assert len(both) >= 8
    assert {name: number(ours[name]) for name in both} == {name: theirs[name] for name in both}


def number(value: Any) -> Any:
    """As JSON has it; inside of lists too."""
    match value:
        case Fraction():
            return float(value)
        case list():
            return [number(each) for each in value]
    return value


def computed(family: Family, name: str, theirs: Any) -> bool:
    """Whether both leave a field open that is computed from others."""
    return theirs is None and is_expression(family.fields[name])


def flat(config: dict[str, Any], family: Family) -> Iterator[tuple[str, Any]]:
    """Fields by the names that the data have; a list of one number for all layers as that number."""
    for name, value in config.items():
        if name in family.groups:
            yield from ((f"{name}.{inner}", each) for inner, each in (value or {}).items())
        elif name in family.each_layer and isinstance(value, list):
            yield name, value[0]
        else:
            yield name, value
