"""Files: imports, what each file sees, and which model of a file is meant."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from archc.diagnostics import ArchError, Source
from archc.elaborate import Program, elaborate, load
from archc.passes.params import params
from archc.resources import read
from tests.elaborate.specs import model, program, values, weights

MODEL = "model m(width = 8, vocab = 16) {{\nx = E[vocab width](tokens)\n{}\nlogits = x @ U[width -> vocab]\n}}\n"


def files(folder: Path, **texts: str) -> Program:
    """Writes files and elaborates `main`; a name with __ is in a folder."""
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".arch")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return elaborate(load(Source("main.arch", texts["main"]), folder))


def test_an_import_is_relative_to_its_file(tmp_path: Path) -> None:
    found = files(
        tmp_path,
        main='import "parts/mix.arch"\n' + MODEL.format("x = mix(x)"),
        parts__mix='import "deep/gain.arch"\nimport "../top.arch"\nfn mix(x) { return gain(top(x)) }\n',
        parts__deep__gain="fn gain(x[width]) { return x * g[width] }\n",
        top="fn top(x) { return 2 * x }\n",
    )
    assert list(weights(found)) == ["mix.gain.g"]
    assert [s.name for s in found.sources] == ["main.arch", "parts/mix.arch", "parts/deep/gain.arch", "top.arch"]


def test_files_may_import_one_another(tmp_path: Path) -> None:
    found = files(
        tmp_path,
        main='import "other.arch"\n' + MODEL.format("x = far(x)") + "fn near(x) { return 2 * x }\n",
        other='import "main.arch"\nfn far(x) { return near(x) }\n',
    )
    assert len(found.sources) == 2


def test_a_file_imported_by_two_ways_is_read_once(tmp_path: Path) -> None:
    found = files(
        tmp_path,
        main='import "a.arch"\nimport "b.arch"\n' + MODEL.format("x = a(x) + b(x)"),
        a='import "base.arch"\nfn a(x) { return base(x) }\n',
        b='import "base.arch"\nfn b(x) { return base(x) }\n',
        base="fn base(x) { return 2 * x }\n",
    )
    assert [s.name for s in found.sources] == ["main.arch", "a.arch", "base.arch", "b.arch"]


def test_a_file_sees_what_it_imports_and_not_what_that_imports(tmp_path: Path) -> None:
    with pytest.raises(ArchError, match=r"E101.*base"):
        files(
            tmp_path,
            main='import "a.arch"\n' + MODEL.format("x = a(x) + base(x)"),
            a='import "base.arch"\nfn a(x) { return base(x) }\n',
            base="fn base(x) { return 2 * x }\n",
        )


def test_an_own_fn_goes_before_an_imported_one_but_not_in_the_imported_file(tmp_path: Path) -> None:
    found = files(
        tmp_path,
        main='import "a.arch"\n' + MODEL.format("x = a(x) + part(x)") + "fn part(x) { return tanh(x) }\n",
        a="fn a(x) { return part(x) }\nfn part(x) { return sigmoid(x) }\n",
    )
    assert [v.op for v in values(found) if v.op in ("tanh", "sigmoid")] == ["sigmoid", "tanh"]


def test_an_own_fn_does_not_change_what_a_fn_of_std_means() -> None:
    own = "fn rotary(x, part = 1, base = 2) { return x * part * base }"
    text = "x = x + attention(x, 2)"
    assert any(v.op == "cos" for v in values(model(f"{text}\nx = rotary(x)", more=own)))


def test_an_own_fn_goes_before_a_builtin() -> None:
    assert not any(v.op == "gelu" for v in values(model("x = gelu(x)", more="fn gelu(x) { return x * sigmoid(x) }")))


def test_of_several_models_the_one_called_like_the_file_is_meant() -> None:
    text = "model a(w = 2, v = 3) { logits = E[v w](tokens) }\nmodel b(w = 2, v = 3) { logits = E[v w](tokens) }\n"
    library = load(Source("folder/b.arch", text), None)
    assert elaborate(library).graph.name == "b"
    assert elaborate(library, "a").graph.name == "a"


@pytest.mark.parametrize("name", ["griffin", "mamba2", "dcformer", "rwkv6"])
def test_the_order_of_declarations_does_not_matter(name: str) -> None:
    """fns of a file, and init, tied and size lines of a body, may stand in any order."""
    text = read("specs", f"{name}.arch")
    total = params(program(text, "tiny").graph).total
    for seed in range(5):
        random = Random(seed)
        items = text.strip().split("\n}\n\n")
        items[-1] = items[-1].removesuffix("\n}")
        random.shuffle(items)
        lines = "\n}\n\n".join(items) + "\n}\n"
        moved = _move_silent_lines(lines, random)
        assert moved != text
        assert params(program(moved, "tiny").graph).total == total


def _move_silent_lines(text: str, random: Random) -> str:
    """Puts init, tied and size lines somewhere else in their body."""
    bodies = text.split("\n}\n")
    out = []
    for body in bodies:
        lines = body.split("\n")
        silent = [x for x in lines if x.strip().startswith(("init ", "tied ", "size "))]
        random.shuffle(silent)
        rest = [x for x in lines if x not in silent]
        heads = [i for i, x in enumerate(rest) if x.startswith(("fn ", "model "))]
        for line in silent:
            opened = next(i for i, x in enumerate(rest) if i >= heads[-1] and x.endswith("{"))
            rest.insert(opened + 1, line)
        out.append("\n".join(rest))
    return "\n}\n".join(out)
