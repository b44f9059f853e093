"""What a probe says of one model: plain data with intervals, a control and a sentence on what it does not show.

Plain means JSON: numbers, strings, lists, dicts. A finding never holds a model or a tensor, and nothing here imports
anything above it, so that plots and reports can be made from a file alone: only a notebook that asks for a display
brings in what makes it, and that sees no model either. The JSON has a schema version.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 1

Cell = str | int | float | None


class _Shown:
    """Shows itself in a notebook (`kc_interp.notebook`)."""

    def _repr_mimebundle_(self: Any, **_asked: Any) -> dict[str, str]:
        from kc_interp import notebook

        return notebook.bundle(self)


@dataclass(frozen=True)
class Number(_Shown):
    """One number of a finding. None means "not measured" (with `note` saying why), never 0.

    A title such as "operand 1, denoising: attention of block 0" names a group before its colon: reports set three or
    more numbers of one group under one heading. `low` and `high` bound the 95 % interval over `unit`s, of which there
    are `n`. `control` is what the same statistic gives where the claim must fail (a null's mean or upper 95 % point, a
    shuffled table, a random matrix), and `control_says` names it. `higher_means` says in words what a larger value
    would mean.
    """

    key: str
    title: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: Literal["input", "seed", "head", "exact"] = "input"
    control: float | None = None
    control_says: str = ""
    higher_means: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table(_Shown):
    """A table a person can read; `columns` name the cells of each row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Figure(_Shown):
    """A figure as data: `kind` picks the drawing in `kc_interp.plots` (or the report's CircuitsVis bridge).

    Every figure says what it `shows` and what would `refute` the reading that it invites.

    kinds and their `data`:
      heatmap    x: labels, y: labels, z: rows of numbers (None = blank), zmid: centre of a diverging scale or None,
                 x_title, y_title, z_title; optional text: rows of strings
      bars       x: labels, series: [{name, y, low?, high?}], y_title; optional x_title, reference: {y, name}
      lines      series: [{name, x, y, low?, high?}], x_title, y_title; optional reference: {y, name}, log_x
      scatter    points: [{x, y, label}], x_title, y_title; optional path: true (join in order)
      attention  tokens: labels, heads: labels, patterns: head × dest × src numbers   (CircuitsVis AttentionHeads)
      tokens     tokens: labels, values: numbers                                       (CircuitsVis ColoredTokens)
      switches   heads: labels, examples: [{tokens, target, answers: {"mask": [symbol, probability]}}],
                 bit h of a mask = head h off
      circuit    depth, n_heads: the grid, recurrences unrolled; nodes: [{name, effect, low?, high?, text?}];
                 edges: [{source, target, effect, low?, high?, kept?, scores?: {method: number}}], named as in
                 `kc_interp.circuit_figure`; optional unit: of every effect, kept_says: which edges are kept,
                 rows: a name for each block,
                 examples: [{clean, twin, moved: a number per edge, moved_nodes?: a number per node}]
    """

    kind: Literal["heatmap", "bars", "lines", "scatter", "attention", "tokens", "switches", "circuit"]
    title: str
    shows: str
    refuted_by: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Finding(_Shown):
    """One probe's answer about one subject.

    `status`: ok; unlearned (measured, but the model has not learned its task, so nothing is claimed); failed (the probe
    raised: `sentence` is its message). `sentence` says what the numbers show and what they do not.
    """

    probe: str
    subject: str
    title: str
    sentence: str
    status: Literal["ok", "unlearned", "failed"] = "ok"
    numbers: tuple[Number, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    def __getitem__(self, key: str) -> Number:
        """The number with this key."""
        for number in self.numbers:
            if number.key == key:
                return number
        raise KeyError(key)


def to_plain(value: Any) -> Any:
    """A finding (or any part of it) as plain data. A number that is not finite becomes None: JSON has no NaN."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        items = value.tolist() if hasattr(value, "tolist") else value
        return [to_plain(item) for item in items] if isinstance(items, Sequence) else to_plain(items)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def from_plain(data: Mapping[str, Any]) -> Finding:
    """A finding back from its plain data."""
    return Finding(
        **{
            **data,
            "numbers": tuple(Number(**number) for number in data["numbers"]),
            "tables": tuple(
                Table(t["title"], tuple(t["columns"]), tuple(tuple(row) for row in t["rows"]), t["note"])
                for t in data["tables"]
            ),
            "figures": tuple(Figure(**figure) for figure in data["figures"]),
        }
    )


def dumps(document: Mapping[str, Any]) -> str:
    """JSON of a document of findings: sorted keys, no NaN, the schema version inside."""
    return json.dumps(to_plain({"schema": SCHEMA, **document}), indent=1, sort_keys=True, allow_nan=False)
