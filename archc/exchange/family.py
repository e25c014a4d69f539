"""How another library writes the model of one spec, as data: `specs/NAME.hf.toml` beside `specs/NAME.arch`.

    model_type, architecture   what the library calls it
    spec, replace, also        of what is a few words of another spec away: the spec, and what its text is then
    like                       another file, whose tables this one adds to; one that has no spec is only there for that
    base                       how names of tensors begin that the library leaves away where there is no head
    free                       fields that do not change what a trained model computes
    ignored                    tensors, by pattern, that hold nothing learned
    each_layer                 fields that may have a number for each layer, where the spec has one for all of them
    [sizes]                    parameter of the spec = the field, or an expression of fields, that gives it
    [fields]                   field = its default in the library; an expression begins with =, and so does = none
    [must]                     field = the only value that the spec can say, where that is not the default
    [renamed]                  older name of a field, or of a group of fields = the present one
    [as_default]               field = a value that stands for its default
    [blocks]                   field with the list of kinds of layers, and one with a pattern of letters
    [blocks.kinds], [.letters]   kind = block of the spec, of two with one block the first is written; letter = kind
    [[variants]]               when.FIELD = a value that the spec can say after `replace`, `without` a parameter, and
                               with the fns that are `also` there; = any: every other than the default
    [[heads]]                  another architecture of the same body: what the spec is after `replace`; those with more
                               tensors first. `bare`: its names of tensors begin without `base`
    [tensors], [layers.tensors]  rows (see `rows`); [layers] has the prefix of the layers' names too
    [aliases], [copies]        other names, or ends of names, or, with a point behind them, beginnings; tensors that
                               repeat another one

A field that no size and no expression reads must have the value under [must], else its default: whatever a spec cannot
say is refused, and so is every field that is in no table.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

from archc.exchange.expressions import is_expression, names
from archc.exchange.rows import Move, Row, moves, read_row
from archc.ir.graph import Graph
from archc.resources import paths, read

SUFFIX = ".hf.toml"
ANY = "= any"
_COMMON = "common"


@dataclass(frozen=True)
class Variant:
    """What the text of the spec becomes where fields have other values than it can say as it stands."""

    when: Mapping[str, Any]
    replace: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()
    also: str = ""


@dataclass(frozen=True)
class Head:
    """What stands behind the body of a model, by the name of the architecture, and what the spec's text is then."""

    architecture: str
    text: Variant = Variant({})
    bare: bool = False


@dataclass(frozen=True)
class Blocks:
    """The field that lists the kinds of layers, and the block of the spec that each kind is.

    `repeats`: the list is repeated to fill the depth, and cut. `pattern`: the field that has them as letters, if there
    is one; `letters` the kind that each is.
    """

    field: str
    kinds: Mapping[str, str]
    repeats: bool = False
    pattern: str = ""
    letters: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """The data of one family; `spec` is the name of the spec. See the head of this file.

    `heads`: of as many architectures as the library has for the body, the shipped spec first. `common`: the fields that
    any model of the library may have.
    """

    name: str
    spec: str
    model_type: str
    heads: tuple[Head, ...]
    base: str
    sizes: Mapping[str, str]
    fields: Mapping[str, Any]
    must: Mapping[str, Any]
    free: frozenset[str]
    renamed: Mapping[str, str]
    as_default: Mapping[str, Any]
    each_layer: frozenset[str]
    blocks: Blocks | None
    variants: tuple[Variant, ...]
    outer: tuple[Row, ...]
    layers: tuple[Row, ...]
    prefix: str
    aliases: Mapping[str, str]
    copies: Mapping[str, str]
    ignored: tuple[str, ...]
    common: frozenset[str]

    @property
    def groups(self) -> frozenset[str]:
        """Fields that are objects whose members are fields: `rope_parameters` of `rope_parameters.rope_theta`."""
        known = (*self.fields, *self.renamed)
        return frozenset(name.partition(".")[0] for name in known if "." in name)

    @property
    def read(self) -> frozenset[str]:
        """The fields that a size, a block list or an expression of a size or default reads."""
        texts = [*self.sizes.values(), *(v for v in self.fields.values() if is_expression(v))]
        found = {name for text in texts for name in (names(text) if is_expression(text) else {text})}
        return frozenset(found | ({self.blocks.field} if self.blocks else set()))

    def moves(self, graph: Graph, head: Head) -> tuple[Move, ...]:
        """Every tensor that the library has of a model of this family."""
        found = moves(graph, self.outer, self.layers, self.prefix)
        return tuple(replace(m, theirs=m.theirs.removeprefix(self.base)) for m in found) if head.bare else found

    def allowed(self, field: str) -> tuple[Any, ...]:
        """The values that a field may have, an expression among them perhaps; none: any."""
        if field not in self.must and field in self.read:
            return ()
        others = [v.when[field] for v in self.variants if field in v.when]
        if ANY in others:
            return ()
        return (self.must.get(field, self.fields[field]), *others)


@cache
def families() -> tuple[Family, ...]:
    """Every family that there is data of, by name."""
    specs = {path.removesuffix(".arch") for path in paths("specs")}
    found = (path.removesuffix(SUFFIX) for path in paths("specs", SUFFIX))
    return tuple(_family(name) for name in found if name in specs or "spec" in _read(name))


def refused() -> Mapping[str, str]:
    """Model types that look like a spec and compute something else: what differs."""
    found: dict[str, str] = _read(_COMMON)["refused"]
    return found


def _family(name: str) -> Family:
    data = _merged(_read(_COMMON), _whole(name))
    layers = data["layers"]
    blocks = data.get("blocks")
    return Family(
        name,
        data.get("spec", name),
        data["model_type"],
        tuple(map(_head, (data, *data.get("heads", ())))),
        data.get("base", ""),
        data["sizes"],
        _exact(data["fields"]),
        _exact(data.get("must", {})),
        frozenset(data.get("free", ())),
        data.get("renamed", {}),
        data.get("as_default", {}),
        frozenset(data.get("each_layer", ())),
        Blocks(**blocks) if blocks else None,
        tuple(map(_variant, data.get("variants", ()))),
        tuple(read_row(*row) for row in data["tensors"].items()),
        tuple(read_row(*row) for row in layers["tensors"].items()),
        layers["prefix"],
        data.get("aliases", {}),
        data.get("copies", {}),
        tuple(data.get("ignored", ())),
        frozenset(_read(_COMMON)["fields"]),
    )


def _whole(name: str) -> dict[str, Any]:
    """The data of a file over that of the file it is like."""
    own = _read(name)
    return _merged(_whole(own["like"]), own) if "like" in own else own


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(read("specs", name + SUFFIX), parse_float=_number)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables member by member, what is `also` there and most lists one after the other, else what is above."""
    out = dict(below)
    for key, value in above.items():
        match out.get(key), value:
            case dict() as old, dict() as new:
                out[key] = _merged(old, new)
            case list() as old, list() as new if key in ("free", "ignored", "variants", "replace"):
                out[key] = [*old, *new]
            case str() as old, str() as new if key == "also":
                out[key] = f"{old}\n{new}"
            case _:
                out[key] = value
    return out


class Real(Fraction):
    """An exact number of the data that was written with a point or an exponent, and is written so in a config."""


def _number(text: str) -> Real | float:
    return float(text) if text.strip("+-") in ("inf", "nan") else Real(text)


def _exact(table: Mapping[str, Any]) -> dict[str, Any]:
    """`= none` as None; other expressions stay texts."""
    return {name: None if value == "= none" else value for name, value in table.items()}


def _head(data: Mapping[str, Any]) -> Head:
    return Head(data["architecture"], Variant({}, _replaced(data), (), data.get("also", "")), data.get("bare", False))


def _variant(data: Mapping[str, Any]) -> Variant:
    return Variant(_exact(data["when"]), _replaced(data), tuple(data.get("without", ())), data.get("also", ""))


def _replaced(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((old, new) for old, new in data.get("replace", ()))
