"""The findings of a run as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.gpu.records import Row

COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "smoke": (("what", "what"), ("error", "error"), ("right", "right")),
    "ceilings": (("what", "what"), ("a_second", "a second")),
    "race": (
        ("case", "class"), ("shape", "shape"), ("pass", "pass"), ("contender", "contender"), ("us", "us"),
        ("us_20", "20 %"), ("us_80", "80 %"), ("us_graph", "as a graph"), ("gb_s", "useful GB/s"),
        ("share_of_copy", "of copy"), ("floor", "floor"), ("share_of_floor", "of floor"), ("peak_bytes", "peak bytes"),
        ("error", "error"), ("failed", "failed"),
    ),
    "steps": (
        ("model", "model"), ("size", "size"), ("parameters", "weights"), ("length", "tokens"), ("ms", "ms"),
        ("ms_20", "20 %"), ("ms_80", "80 %"), ("tokens_s", "tokens/s"), ("share_of_product", "of product"),
        ("remat", "computed again"), ("peak_bytes", "peak bytes"), ("failed", "failed"),
    ),
    "decoding": (
        ("model", "model"), ("size", "size"), ("context", "context"), ("us", "us a token"), ("us_20", "20 %"),
        ("us_80", "80 %"), ("us_graph", "as a graph"), ("tokens_s", "tokens/s"), ("state_bytes", "state bytes"),
        ("failed", "failed"),
    ),
    "sweep": (
        ("case", "class"), ("shape", "shape"), ("what", "pass"), ("tile", "tile"), ("us", "us"), ("us_20", "20 %"),
        ("us_80", "80 %"), ("us_graph", "as a graph"), ("failed", "failed"),
    ),
}  # fmt: skip
"""By stage: the keys of its rows and what stands above them."""
AXES = ("B", "T", "C", "N", "H", "K", "V")


def markdown(title: str, rows: Sequence[Row]) -> str:
    """A heading and a table for each stage that found something."""
    parts = [f"# {title}\n"]
    for stage, columns in COLUMNS.items():
        found = [row for row in rows if row["stage"] == stage]
        if found:
            parts.append(f"## {stage.capitalize()}\n\n{_table(columns, found)}")
    return "\n".join(parts)


def _table(columns: Sequence[tuple[str, str]], rows: Iterable[Row]) -> str:
    """Only the columns that some row has."""
    filled = [{**row, "shape": _shape(row)} for row in rows]
    used = [(key, name) for key, name in columns if any(row.get(key) not in (None, "") for row in filled)]
    lines = [[name for _, name in used], ["---"] * len(used)]
    lines += [[_cell(key, row.get(key)) for key, _ in used] for row in filled]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shape(row: Row) -> str:
    return ", ".join(f"{axis} {row[axis]}" for axis in AXES if axis in row)


def _cell(key: str, value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "**no**" if key == "right" else "no"
        case float() if key.startswith("share"):
            return f"{100 * value:.0f} %"
        case float():
            return f"{value:.3g}" if abs(value) < 100 or abs(value) >= 1e6 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case _:
            return str(value).replace("|", "/").replace("\n", " ")
