"""Tables in Markdown, and what a page says between two marks: pages that are made from results, around a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kc_interp.files import write_atomically


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its blank line after it.

    >>> table(("a",), [("x",)]).splitlines()
    ['| a |', '| --- |', '| x |', '']
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines) + "\n"


def between(page: Path, source: str, text: str) -> str:
    """The page with `text` in the place of what stands between `<!-- from SOURCE -->` and `<!-- end -->`."""
    begin, end = f"<!-- from {source} -->\n", "<!-- end -->\n"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    return before + begin + text + end + rest.split(end)[1]


def update(page: Path, made: str, *, check: bool) -> int:
    """Write the page; with `check` only say whether it is as it would be made: 1 when it is not, the exit status."""
    if check:
        return int(made != page.read_text(encoding="utf-8"))
    write_atomically(page, made)
    return 0
