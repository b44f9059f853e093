"""What a command says and where: results on stdout (a table, or one JSON object), progress and notes on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress

    from kc_interp.finding import Number


@dataclass(frozen=True)
class Output:
    """The voice of one command."""

    as_json: bool = False
    quiet: bool = False
    verbose: int = 0

    def __post_init__(self) -> None:
        """The command line alone configures logging; the library only logs."""
        level = logging.ERROR if self.quiet else {0: logging.WARNING, 1: logging.INFO}.get(self.verbose, logging.DEBUG)
        logger = logging.getLogger("kc_interp")
        logger.setLevel(level)
        if not logger.handlers:
            from rich.logging import RichHandler

            logger.addHandler(RichHandler(console=self._err, show_path=False, show_time=False))

    @property
    def _err(self) -> Console:
        return Console(stderr=True, highlight=False)

    @property
    def _out(self) -> Console:
        return Console(highlight=False)

    def result(self, data: Mapping[str, Any], *shown: Table | str) -> None:
        """The one result: `data` under --json, else what is `shown`."""
        if self.as_json:
            sys.stdout.write(json.dumps(data, allow_nan=False, default=str) + "\n")
            sys.stdout.flush()
            return
        for part in shown:
            self._out.print(Text(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))

    def note(self, text: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            self._err.print(Text(text), soft_wrap=True)

    def detail(self, text: str) -> None:
        """A note that only -v shows."""
        if self.verbose:
            self.note(text)

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Bar]:
        """A progress bar on stderr; silent under --quiet, and plain occasional lines where stderr is no terminal."""
        console = self._err
        if self.quiet or not console.is_terminal:
            yield Bar(None, 0, what, total, None if self.quiet else self)
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}" if total else ""),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[says]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as shown:
            yield Bar(shown, shown.add_task(what, total=total, says=""), what, total, None)

    def page(self, path: Path, *, no_open: bool) -> None:
        """Open a page where a person will see it; elsewhere its path has been printed, which is enough."""
        self.visit(path.resolve().as_uri(), no_open=no_open)

    def visit(self, url: str, *, no_open: bool) -> None:
        """`page`, for what is not a file."""
        if no_open or self.as_json or self.quiet or not _has_display():
            return
        webbrowser.open(url)


@dataclass
class Bar:
    """One progress bar, or none."""

    _shown: Progress | None
    _task: Any
    _what: str
    _total: int | None
    _plain: Output | None
    _last: int = -1

    def __call__(self, done: float, says: str = "") -> None:
        """Where it stands; `says` is what it shows behind the bar."""
        if self._shown is not None:
            self._shown.update(self._task, completed=done, says=says)
        elif self._plain is not None and self._total and (tenth := int(10 * done / self._total)) > self._last:
            self._last = tenth
            self._plain.note(f"{self._what}: {done:,.0f}/{self._total:,} {says}".rstrip())


def _has_display() -> bool:
    if os.environ.get("CI") or not sys.stdout.isatty():
        return False
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


_NAME = 20
"""What stands first in a line is not squeezed below this many characters."""

_SHORT = 24


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> Table:
    """A table for people; all columns but the first are right-aligned when they hold numbers."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for index, column in enumerate(columns):
        numeric = index > 0 and all(_is_number(row[index]) for row in rows)
        made.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=min(_NAME, max((len(row[0]) for row in rows), default=0)) if index == 0 else None,
            no_wrap=not numeric and all(len(row[index]) <= _SHORT for row in rows),
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in ".-–−<"


def number(value: float | None) -> str:
    """A number to three digits."""
    return "not measured" if value is None else f"{value:.3g}"


def numbers(found: Sequence[Number], *, controls: bool) -> list[tuple[str, str, str, str]]:
    """Rows of a table: title, value, 95 % interval and control; with `controls`, each says what its control is."""
    return [
        (
            one.title,
            number(one.value),
            "" if one.low is None else f"{number(one.low)} to {number(one.high)}",
            "" if one.control is None else number(one.control) + (f" ({one.control_says})" if controls else ""),
        )
        for one in found
    ]


def share(summary: Mapping[str, Any]) -> str:
    """`97.2 % [96.0, 98.1]` of a metric that is a share."""
    value = f"{100 * summary['value']:.1f} %"
    return value + (f" [{100 * summary['low']:.1f}, {100 * summary['high']:.1f}]" if "low" in summary else "")
