"""A config.json against the data of the families: which family it is of, its fields, what about it cannot be said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from archc.diagnostics import ArchError, Diagnostic, Note, Source, Span, closest, error
from archc.exchange.expressions import is_expression, value_of
from archc.exchange.family import ANY, Family, Head, Variant, families, refused
from archc.exchange.letters import kinds
from archc.exchange.located import Located, read_json
from archc.exchange.spec_text import spec_text

_BY_DEFAULT = (Note("by default: the config does not have it"),)


@dataclass(frozen=True)
class Config:
    """A config that a spec can say: its family, the value of every field, the variants of the spec's text, the head."""

    family: Family
    fields: Mapping[str, Any]
    variants: tuple[Variant, ...]
    head: Head

    @property
    def text(self) -> str:
        """The spec."""
        return spec_text(self.family.spec, self.sizes, (*self.variants, self.head.text), self.blocks)

    @property
    def sizes(self) -> dict[str, Fraction]:
        """The parameters of the spec. A field without a value is of one that only a variant has."""
        gone = {name for v in self.variants for name in v.without}
        found = {n: size(text, self.fields) for n, text in self.family.sizes.items() if n not in gone}
        return {name: Fraction(value) for name, value in found.items() if value is not None}

    @property
    def blocks(self) -> tuple[str, ...] | None:
        """The blocks of the period of layers, by their names in the spec; None: as the spec has them."""
        blocks = self.family.blocks
        return None if blocks is None else tuple(blocks.kinds[kind] for kind in self.fields[blocks.field])


@dataclass(frozen=True)
class _Given:
    """The fields of a file under their present names."""

    values: dict[str, Located]
    problems: tuple[Diagnostic, ...]


def read_config(source: Source) -> Config:
    """What a config says. `ArchError` with everything that is wrong with it: E702 to E707, E712."""
    found = read_json(source)
    assert found.members is not None
    named = found.members.get("model_type")
    known = sorted({f.model_type for f in families()})
    if named is None:
        raise error("E703", f"'{source.name}' has no 'model_type'", help=f"archc knows {', '.join(known)}")
    candidates = [f for f in families() if f.model_type == named.value]
    if (why := refused().get(str(named.value))) is not None:
        raise error("E703", f"no spec computes what the model type {_shown(named.value)} does", named.span, help=why)
    if not candidates:
        near = closest(str(named.value), known)
        what = f"no spec is known for the model type {_shown(named.value)}" + (f"; {near}" if near else "")
        raise error("E703", what, named.span, help=f"archc knows {', '.join(known)}")
    failures: list[list[Diagnostic]] = []
    for family in candidates:
        given = _given(found.members, family)
        problems = [*given.problems, *_of_other_kinds(given.values, family)]
        if not any(problem.code == "E715" for problem in problems):
            problems += _wrong_layers(given.values, family)
        if not problems or all(p.code == "E704" for p in problems):
            fields = with_defaults({name: each.value for name, each in given.values.items()}, family)
            problems += _not_said(fields, given.values, family, candidates)
            if not problems:
                return Config(family, fields, variants(family, fields), _head(found.members, family))
        failures.append(problems)
    fewest = min(failures, key=len)
    raise ArchError(sorted(fewest, key=lambda each: each.span.start if each.span else 0))


def _head(members: Mapping[str, Located], family: Family) -> Head:
    """The head that a config names. `ArchError` E705 for one that the spec cannot say, where there are several."""
    given = members.get("architectures")
    first = family.heads[0]
    if given is None or not given.value or (len(family.heads) == 1 and not _of_other_task(given.value, first)):
        return first
    for head in family.heads:
        if given.value == [head.architecture]:
            return head
    known = " or ".join(dict.fromkeys(_shown([head.architecture]) for head in family.heads))
    what = f"'architectures' is {_shown(given.value)}; the spec can say {known} only"
    raise error("E705", what, given.span)


def _of_other_task(architectures: Any, head: Head) -> bool:
    """Whether a name says another head than the one there is: `LlamaForSequenceClassification`. What else older
    configs call their models (`LLaMAForCausalLM`, `LlamaModel`) is left to their tensors.
    """
    tasks = {str(name).partition("For")[2] for name in architectures if isinstance(architectures, list)}
    return not tasks <= {"", "CausalLM", head.architecture.partition("For")[2]}


def size(text: str, fields: Mapping[str, Any]) -> Any:
    """What the data says of a parameter: the value of a field, or of an expression of fields."""
    return value_of(text, fields) if is_expression(text) else fields[text]


def variants(family: Family, fields: Mapping[str, Any]) -> tuple[Variant, ...]:
    """The variants of the spec's text that the fields ask for."""

    def holds(name: str, wanted: Any) -> bool:
        return bool(fields[name] != family.fields[name] if wanted == ANY else fields[name] == wanted)

    return tuple(v for v in family.variants if all(holds(name, wanted) for name, wanted in v.when.items()))


def with_defaults(given: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The fields that are given, and all others as the library takes them where nothing is given."""
    out = dict(given)
    todo = [name for name in family.fields if name not in out]
    while todo:
        later = []
        for name in todo:
            try:
                out[name] = _computed(family.fields[name], out)
            except KeyError:  # reads a default that is not computed yet
                later.append(name)
        assert len(later) < len(todo), f"defaults of '{family.name}' read one another: {later}"
        todo = later
    return out


def _given(members: Mapping[str, Located], family: Family) -> _Given:
    """Every member under its present name; what is in no table, or given twice, is a problem."""
    values: dict[str, Located] = {}
    problems: list[Diagnostic] = []
    for written, each in _flat(members, family):
        name = _present(written, family)
        if family.blocks is not None and name == family.blocks.pattern:
            name, each, unknown = family.blocks.field, *_as_kinds(each, family)
            problems += unknown
            if unknown:
                continue
        if name not in family.fields:
            if name not in family.free and name != "model_type":
                problems.append(_unknown(written, each.span, family))
            continue
        each = _of_all_layers(each) if name in family.each_layer else each
        if _is_default(each.value, name, family):
            continue
        elif name in values and values[name].value != each.value:
            note = Note(f"here it is {_shown(values[name].value)}", values[name].span)
            problems.append(Diagnostic("E712", f"'{name}' is given twice: {_shown(each.value)}", each.span, (note,)))
        else:
            values[name] = each
    return _Given(values, tuple(problems))


def _as_kinds(given: Located, family: Family) -> tuple[Located, tuple[Diagnostic, ...]]:
    """A pattern of letters as the list of kinds that it means."""
    start = Span(given.span.source, given.span.end - 1 - len(str(given.value)), given.span.end - 1)
    try:
        return replace(given, value=list(kinds(start, family))), ()
    except ArchError as wrong:
        return given, wrong.diagnostics


def _of_all_layers(given: Located) -> Located:
    """A list of one number, as often as there are layers, as that number."""
    match given.value:
        case [first, *rest] if all(each == first for each in rest):
            return replace(given, value=first)
    return given


def _flat(members: Mapping[str, Located], family: Family) -> Iterator[tuple[str, Located]]:
    """Members with those of groups in their place, `rope_parameters.rope_theta`; an empty group is nothing."""
    for name, each in members.items():
        if name in family.groups and (each.value is None or each.members is not None):
            yield from ((f"{name}.{inner}", value) for inner, value in (each.members or {}).items())
        else:
            yield name, each


def _present(name: str, family: Family) -> str:
    """The present name of a field; groups are renamed with their members."""
    while True:
        group, dot, inner = name.partition(".")
        if name in family.renamed:
            name = family.renamed[name]
        elif dot and group in family.renamed:
            name = f"{family.renamed[group]}.{inner}"
        else:
            return name


def _is_default(value: Any, name: str, family: Family) -> bool:
    """Whether a value asks for the default: null where the library computes one."""
    if name in family.as_default and value == family.as_default[name]:
        return True
    return value is None and is_expression(family.fields[name])


def _unknown(name: str, span: Span, family: Family) -> Diagnostic:
    near = closest(name, [*family.fields, *family.renamed])
    what = f"it is not known what '{name}' changes in a model of the type '{family.model_type}'"
    return Diagnostic("E704", what + (f"; {near}" if near else ""), span)


def _of_other_kinds(values: Mapping[str, Located], family: Family) -> Iterator[Diagnostic]:
    """Fields whose values are of another kind than their defaults."""
    for name, each in values.items():
        default, value = family.fields[name], each.value
        if any(value == allowed for allowed in family.allowed(name)) or any(
            value == variant.when.get(name, ...) for variant in family.variants
        ):
            continue
        if name in family.each_layer and isinstance(value, list):
            what = f"'{name}' is {_shown(value)}; the spec can say the same for all layers only"
            yield Diagnostic("E705", what, each.span)
            continue
        least = 0 if family.allowed(name) else 1  # no size, but one of some values
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        wanted, fits = {
            bool: ("true or false", isinstance(value, bool)),
            str: ("a text", isinstance(value, str)),
            int: ("a whole number above zero", whole),
        }.get(type(default), ("a number above zero", whole or (isinstance(value, Fraction) and value > 0)))
        if default is None or (isinstance(default, str) and is_expression(default)):
            wanted, fits = "a whole number above zero", whole
        if isinstance(default, list | dict) or (default is None and (value is None or family.allowed(name))):
            continue
        if not fits:
            yield Diagnostic("E706", f"'{name}' is {_shown(value)}, not {wanted}", each.span)


def _wrong_layers(values: Mapping[str, Located], family: Family) -> Iterator[Diagnostic]:
    """What is wrong with the list of the kinds of layers, that of the default included."""
    if family.blocks is None:
        return
    name, kinds = family.blocks.field, family.blocks.kinds
    given = values.get(name)
    value, span = (given.value, given.span) if given is not None else (family.fields[name], None)
    help = f"kinds of layers: {', '.join(kinds)}"
    if not isinstance(value, list) or not value:
        yield Diagnostic("E707", f"'{name}' lists no layers", span, help=help)
        return
    for kind in dict.fromkeys(map(str, value)):
        if kind not in kinds:
            near = closest(kind, kinds)
            what = f"'{name}' holds the unknown kind '{kind}'" + (f"; {near}" if near else "")
            yield Diagnostic("E707", what, span, _BY_DEFAULT if given is None else (), help)


def _not_said(
    fields: Mapping[str, Any], given: Mapping[str, Located], family: Family, candidates: list[Family]
) -> Iterator[Diagnostic]:
    """Fields whose values the spec cannot say."""
    for name in family.fields:
        allowed = [_computed(each, fields) for each in family.allowed(name)]
        if not family.allowed(name) or any(fields[name] == each for each in allowed):
            continue
        others = [v for f in candidates if f is not family and name in f.fields for v in f.allowed(name)]
        can = [v for v in [*allowed, *others] if not is_expression(v) and v != fields[name]]
        known = " or ".join(dict.fromkeys(map(_shown, can)))
        what = f"'{name}' is {_shown(fields[name])}; the spec can say {known} only"
        origin = next((each for each in family.allowed(name) if is_expression(each)), None)
        notes = [Note(f"{known} is {origin.removeprefix('= ')}")] if origin is not None else []
        if fields[name] in others:
            notes.append(Note(f"{_shown(fields[name])} can be said, but not together with other fields of this config"))
        if name not in given:
            notes += _BY_DEFAULT
        yield Diagnostic("E705", what, given[name].span if name in given else None, tuple(notes))


def _computed(value: Any, fields: Mapping[str, Any]) -> Any:
    """A value of the data, computed if it is an expression."""
    return value_of(value, fields) if is_expression(value) else value


def _shown(value: Any) -> str:
    """A value as the file writes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"'{value}'"
        case Fraction():
            return str(int(value)) if value.denominator == 1 else repr(float(value))
        case list():
            return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value)
