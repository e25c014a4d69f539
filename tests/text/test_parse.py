"""What the parser makes of a text, and where it says that it read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from lark import Lark

from archc import resources
from archc.diagnostics import Source
from archc.text import ast
from archc.text.grammar import parser
from archc.text.parse import parse
from archc.text.recover import syntax_errors
from tests.text.texts import shape, texts


def tree(text: str) -> ast.File:
    return parse(Source("spec.arch", text))


def statement(text: str) -> ast.Stmt:
    item = tree(f"fn f(x) {{\n{text}\n}}").items[0]
    (found,) = item.body
    return found


def value(text: str) -> ast.Expr:
    found = statement(f"y = {text}")
    assert isinstance(found, ast.Let)
    return found.value


def written(node: ast.Expr) -> str:
    """Every operation in brackets."""
    match node:
        case ast.Binary():
            return f"({written(node.left)} {node.op} {written(node.right)})"
        case ast.Unary():
            return f"({node.op} {written(node.value)})"
        case ast.Contract():
            return f"({written(node.left)} @ {node.weight.name.text})"
        case _:
            return node.span.text


@pytest.mark.parametrize("path", resources.paths("specs"))
def test_a_spec_parses_and_every_node_stands_within_its_parent(path: str) -> None:
    file = parse(Source(path, resources.read("specs", path)))
    for node in file.walk():
        assert node.span.start < node.span.end
        assert node.span.text == node.span.text.strip() or node is file
        for child in node.children():
            assert node.span.start <= child.span.start <= child.span.end <= node.span.end


@settings(deadline=None, max_examples=25)
@given(texts())
def test_a_node_read_again_from_its_span_is_the_same(text: str) -> None:
    for node in tree(text).walk():
        match node:
            case ast.Expr() if not isinstance(node, ast.Override | ast.AxisList):
                assert shape(value(node.span.text)) == shape(node)
            case ast.Ident() | ast.AxisRef():
                assert node.span.text.startswith(node.text.rstrip("'"))


def test_the_grammar_is_unambiguous_for_parser_and_lexer() -> None:
    Lark(resources.read("grammars", "arch.lark"), parser="lalr", strict=True)


def test_tables_from_the_cache_parse_as_fresh_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = resources.read("specs", "griffin.arch")
    trees = [parser.__wrapped__().parse(text) for _ in range(2)]
    assert [p.name for p in (tmp_path / "archc").iterdir()] == ["arch.lark.tables"]
    assert trees[0] == trees[1]


def test_spoilt_tables_are_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tables = tmp_path / "archc" / "arch.lark.tables"
    parser.__wrapped__()
    whole = tables.read_bytes()
    tables.write_bytes(whole[: len(whole) // 2])
    assert parser.__wrapped__().parse("fn f() { return 1 }")
    assert len(tables.read_bytes()) > len(whole) // 2


def test_a_cache_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert parser.__wrapped__().parse("fn f() { return 1 }")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * c ^ d ^ e", "(a + (b * (c ^ (d ^ e))))"),
        ("a - b - c / d / e", "((a - b) - ((c / d) / e))"),
        ("-a ^ -b", "(- (a ^ (- b)))"),
        ("x @ A[b] @ C[d] * s + b", "((((x @ A) @ C) * s) + b)"),
        ("-x @ W[h]", "((- x) @ W)"),
        ("(a * x) @ W[h]", "((a * x) @ W)"),
        ("not a < b and c or d", "(((not (a < b)) and c) or d)"),
        ("a\n  + b\n  and c", "((a + b) and c)"),
    ],
)
def test_operators_bind_as_in_a_paper(text: str, expected: str) -> None:
    assert written(value(text)) == expected


def test_a_label_names_a_call_wherever_one_may_stand() -> None:
    sum_ = value("x + attend: attention(x, n = 3)")
    assert isinstance(sum_, ast.Binary)
    assert isinstance(sum_.right, ast.Call)
    assert sum_.right.label is not None
    assert (sum_.right.label.text, sum_.right.callee.text) == ("attend", "attention")
    assert sum_.right.span.text == "attend: attention(x, n = 3)"
    assert shape(value("f(l: g(x))"))[2][0][2][3][1:] == ("l",)


def test_the_list_of_a_stack_holds_overrides_by_call() -> None:
    found = value("[a, b * 3, at(7, 15): c, last(2): l: d(e), [f g], h: i()]")
    assert isinstance(found, ast.ListExpr)
    kinds = [type(entry).__name__ for entry in found.entries]
    assert kinds == ["Name", "Binary", "Override", "Override", "ListExpr", "Call"]
    override = found.entries[2]
    assert isinstance(override, ast.Override)
    assert (override.where.callee.text, len(override.where.args)) == ("at", 2)


def test_axes_in_brackets_are_one_entry_and_a_single_name_is_a_name() -> None:
    assert shape(value("[heads dim']")) == (
        "ListExpr",
        (("AxisList", (("AxisRef", "heads", 0), ("AxisRef", "dim", 1))),),
    )
    assert shape(value("[a]")) == ("ListExpr", (("Name", "a"),))
    assert shape(value("[]")) == ("ListExpr", ())


def test_arrows_are_positional_arguments() -> None:
    call = value("cut(x, dim -> half half still, -> pair, over = dim)")
    assert isinstance(call, ast.Call)
    _, full, half, over = call.args
    assert isinstance(full.value, ast.Arrow)
    assert isinstance(half.value, ast.Arrow)
    assert full.name is None
    assert [a.text for a in full.value.right] == ["half", "half", "still"]
    assert half.value.left is None
    assert shape(over) == ("Arg", ("Ident", "over"), ("Name", "dim"))


def test_a_weight_without_an_arrow_makes_nothing_explicitly() -> None:
    assert shape(value("s[]")) == ("WeightRef", ("Ident", "s"), (), None)
    assert shape(value("s[->]")) == ("WeightRef", ("Ident", "s"), (), ())


def test_reserved_words_are_names_elsewhere() -> None:
    text = "model block(input, size = 3) {\n    encoder = fn(input = size, model = tied)\n    size 9b: size = 1\n}"
    assert [type(s).__name__ for s in tree(text).items[0].body] == ["Let", "SizeDecl"]


def test_an_encoder_is_a_model_of_another_kind() -> None:
    items = tree("encoder e() { }\nmodel m() { }").items
    assert [item.kind for item in items if isinstance(item, ast.ModelDef)] == ["encoder", "model"]


def test_imports_stand_apart_from_declarations() -> None:
    file = tree('import "std/norms.arch"\nfn f() { return 1 }')
    assert ([i.path for i in file.imports], len(file.items)) == (["std/norms.arch"], 1)


def test_documentation_is_the_marked_lines_directly_above() -> None:
    text = """
## Far away.

## First line,
##   second.
fn f() {  ## not this
    y = 1  ## nor this
    ## A block.
    block b { x = x }
}
# plain
fn g() { block b { x = x } }
"""
    f, g = tree(text).items
    b = f.body[1]
    assert isinstance(b, ast.BlockDef)
    assert (f.doc, b.doc, g.doc) == ("First line,\nsecond.", "A block.", "")


def test_a_number_is_exact() -> None:
    number = value("64e-5")
    assert isinstance(number, ast.Number)
    assert number.value * 3125 == 2


def test_a_sum_of_thousands_of_terms_parses() -> None:
    assert isinstance(value(" + ".join("a" for _ in range(5000))), ast.Binary)


def test_a_text_that_parses_has_no_errors() -> None:
    assert syntax_errors(Source("spec.arch", "fn f() { return 1 }")) == ()
