"""Records as JSON lines: what many of them say alike is stated once, before the first that refers to it.

    {"kind": "study", "name": …, "settings": …}
    {"kind": "settings", "name": "3f0c…", "spec": …, "stages": …, "provenance": …}      all but the seeds
    {"kind": "words", "name": "9a41…", "findings": [{"numbers": {"title": […], "note": ["p = {}", …], …}, …}]}
    {"kind": "record", "settings": "3f0c…", "words": "9a41…", "spec": {"seed": 4}, "metrics": {"items": 1000},
     "sets": {"names": […], "each": {"exact": {"value": […], …}, …}}, "curve": {"step": […], …},
     "findings": [{"numbers": {"value": […], "note": ["0.03", …], …}, …}], …}

Settings and words are named by their content; a record's are the union of both. Rows of equal fields (the points of a
curve, the sets of the metrics, the numbers of a finding) stand in columns. Of a number's column the words may say where
it has None (null) and where a value follows (true), or the text of a note with gaps for its numerals. What a record
leaves out is at its default. `unfold` undoes `fold`. Lines of schema 1 state each record in full.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = 2
"""Of these lines; the store has its own."""

_FINDING = ("seconds", "sentence", "status", "subject")
_NUMBER = ("value", "low", "high", "n", "control", "note")
"""What a finding, and a number of it, say of one model; all else they say alike of many."""

_NUMERAL = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", re.ASCII)
_GAP = "{}"

Plain = dict[str, Any]


def fold(record: Mapping[str, Any]) -> tuple[Plain, Plain | None, Plain]:
    """A record as plain data in three parts: its settings, its words (None: it has no findings), and its own."""
    own = dict(record)
    spec, stages = _without_seed(own.pop("spec")), [_without_seed(stage) for stage in own.pop("stages")]
    settings = {"spec": spec[0], "stages": [stage for stage, _ in stages], "provenance": own.pop("provenance")}
    own |= {"spec": spec[1], "stages": [seed for _, seed in stages]}
    if own["curve"] is not None:
        own["curve"] = _columns(own["curve"])
    metrics = dict(own["metrics"])
    if isinstance(metrics.get("sets"), Mapping):
        names = sorted(sets := metrics.pop("sets"))
        own |= {"metrics": metrics, "sets": {"names": names, "each": _columns([sets[name] for name in names])}}
    if not own["findings"]:
        return settings, None, own
    findings = [_fold_finding(finding) for finding in own["findings"]]
    own["findings"] = [mine for _, mine in findings]
    return settings, {"findings": [words for words, _ in findings]}, own


def unfold(settings: Mapping[str, Any], words: Mapping[str, Any] | None, own: Mapping[str, Any]) -> Plain:
    """The record back from its three parts; what `own` leaves out stays so. Raises ValueError where they do not fit."""
    record = {**own, "provenance": settings["provenance"], "spec": {**settings["spec"], **own.get("spec", {})}}
    seeds = own.get("stages") or [{}] * len(settings["stages"])
    record["stages"] = [{**stage, **seed} for stage, seed in zip(settings["stages"], seeds, strict=True)]
    if own.get("curve") is not None:
        record["curve"] = _rows(own["curve"])
    if (sets := record.pop("sets", None)) is not None:
        each = dict(zip(sets["names"], _rows(sets["each"]), strict=True))
        record["metrics"] = {**own["metrics"], "sets": each}
    if words is not None:
        pairs = zip(words["findings"], own["findings"], strict=True)
        record["findings"] = [_unfold_finding(said, mine) for said, mine in pairs]
    return record


def _without_seed(spec: Mapping[str, Any]) -> tuple[Plain, Plain]:
    """Settings without their seed, and the seed."""
    return {k: v for k, v in spec.items() if k != "seed"}, {k: v for k, v in spec.items() if k == "seed"}


def _columns(rows: Sequence[Any]) -> Any:
    """A column a field where all rows have the same fields, and so on within the fields; else the rows as a list."""
    if not rows or not all(isinstance(row, Mapping) and row and row.keys() == rows[0].keys() for row in rows):
        return list(rows)
    return {name: _columns([row[name] for row in rows]) for name in rows[0]}


def _rows(columns: Any) -> list[Any]:
    if isinstance(columns, list):
        return columns
    cells = [_rows(column) for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]


def _fold_finding(finding: Mapping[str, Any]) -> tuple[Plain, Plain]:
    words = {name: value for name, value in finding.items() if name not in (*_FINDING, "numbers")}
    own = {name: value for name, value in finding.items() if name in _FINDING}
    if "numbers" not in finding:
        return words, own
    columns = _columns(finding["numbers"])
    if isinstance(columns, list):
        return words, {**own, "numbers": columns}
    said, mine = {}, {}
    for name, column in columns.items():
        if name in _NUMBER and isinstance(column, list):
            said[name], mine[name] = _cut(column) if name == "note" else _sparse(column)
        else:
            said[name] = column
    return {**words, "numbers": said}, {**own, "numbers": mine}


def _unfold_finding(words: Mapping[str, Any], own: Mapping[str, Any]) -> Plain:
    finding = {**words, **own}
    if "numbers" in words:
        columns = dict(words["numbers"])
        for name, given in own["numbers"].items():
            columns[name] = _filled(columns[name], given)
        finding["numbers"] = _rows(columns)
    return finding


def _sparse(column: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Where a column has a value, and its values."""
    return [None if value is None else True for value in column], [value for value in column if value is not None]


def _cut(notes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Texts with a gap for every numeral, and the numerals; as `_sparse` where that would not give the texts back."""
    if not all(isinstance(note, str) and _GAP not in note for note in notes):
        return _sparse(notes)
    gapped = [_NUMERAL.sub(_GAP, note) for note in notes]
    return gapped, [" ".join(_NUMERAL.findall(note)) for note in notes if _NUMERAL.search(note)]


def _filled(said: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """A column from what the words say of it and what is given."""
    values = list(reversed(given))
    column = []
    for one in said:
        if one is True:
            column.append(values.pop())
        elif isinstance(one, str) and _GAP in one:
            first, *rest = one.split(_GAP)
            numerals = zip(values.pop().split(), rest, strict=True)
            column.append(first + "".join(numeral + after for numeral, after in numerals))
        else:
            column.append(one)
    if values:
        raise ValueError("more values than the words have places for")
    return column
