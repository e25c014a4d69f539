"""The page of all specs is what the compiler says of them now."""

from __future__ import annotations

from pathlib import Path

from archc.reports.gallery import gallery
from archc.specs_index import shipped

PAGE = Path(__file__).parents[2] / "docs" / "gallery.md"


def test_the_page_is_up_to_date() -> None:
    """`archc specs --gallery > docs/gallery.md` makes it so."""
    assert gallery() == PAGE.read_text(encoding="utf-8")


def test_the_page_has_published_figures_of_every_spec() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"\n## {name}\n" in page for name in shipped())
    # arXiv:2404.07839, table 1; keys of 8 layers, 2048 tokens, and the states of 18 layers
    assert "| 2b | (recurrent x 2, local) x 8, recurrent x 2 | 2,682,862,080 |" in page
    assert "| 16.4 MiB | 16.4 MiB |" in page
