"""JSON lines of records: what repeats is stated once, nothing is lost, and lines of the older schema give the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kc_interp.lines import fold, unfold
from kc_interp.records import Record, StoreError, canonical, read_lines, to_lines
from tests.test_records import PLAIN, SETTINGS, record

NOTES = st.none() | st.text(max_size=8) | st.sampled_from(["p = 0.05, best of 2,000", "{}", "{3}", "1e-05 {", "٣ of 4"])
VALUES = st.none() | st.floats(-9, 9, allow_subnormal=False)  # training flushes them to zero, for the whole process
NUMBERS = st.lists(
    st.fixed_dictionaries(
        {"key": st.text(max_size=3), "value": VALUES, "note": NOTES, "high": st.none()},
        optional={"control": st.integers(0, 3), "odd": PLAIN},
    ),
    max_size=3,
)
FINDINGS = st.lists(
    st.fixed_dictionaries({"probe": st.text(max_size=3)}, optional={"numbers": NUMBERS, "sentence": NOTES}), max_size=3
)
SETS = st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({"n": PLAIN, "exact": st.fixed_dictionaries({"value": PLAIN})}), max_size=3)  # fmt: skip
SPECS = st.dictionaries(st.sampled_from(["seed", "task", "model"]), PLAIN)
CURVES = st.none() | st.lists(st.dictionaries(st.sampled_from(["step", "SUM"]), st.integers()), max_size=3)


@settings(max_examples=200)
@given(
    spec=SPECS, stages=st.lists(SPECS, max_size=2), findings=FINDINGS, curve=CURVES,
    metrics=st.fixed_dictionaries({}, optional={"sets": SETS | PLAIN, "items": PLAIN}),
)  # fmt: skip
def test_folding_loses_nothing(**changed: Any) -> None:
    plain = dataclasses.asdict(dataclasses.replace(record(0), **changed))
    shared, words, own = (json.loads(canonical(part)) for part in fold(plain))
    assert canonical(unfold(shared, words, own)) == canonical(plain)


def number(key: str, value: float | None, note: str, low: float | None = None) -> dict[str, Any]:
    said = {"title": f"Title of {key}", "control_says": "relabelled", "higher_means": "more", "unit": "exact"}
    return {"key": key, **said, "value": value, "low": low, "high": None, "n": None, "control": 0.5, "note": note}


def finding(first: float, p: str) -> dict[str, Any]:
    numbers = [number("a", first, f"p = {p}, of 2,000"), number("b", None, "too few"), number("c", 0.25, "", 0.125)]
    return {"probe": "p", "title": "T", "subject": f"s{p}", "sentence": f"p is {p}.", "status": "ok", "seconds": 1.5,
            "settings": {"chains": 8}, "numbers": numbers, "tables": [], "figures": []}  # fmt: skip


def two(**changes: Any) -> list[Record]:
    """Two seeds of one run, with a finding each."""
    return [record(seed, findings=(finding(seed / 8, p),), **changes) for seed, p in ((1, "0.03"), (2, "1e-05"))]


def test_what_two_records_say_alike_is_stated_once() -> None:
    lines = [json.loads(line) for line in to_lines("tiny", SETTINGS, two()).splitlines()]
    assert [line.pop("kind") for line in lines] == ["study", "settings", "words", "record", "record"]
    _, shared, words, first, second = lines
    assert shared["spec"] == {"model": {"d_model": 8}, "task": {"operations": ["SUM"]}}
    assert words["findings"][0]["numbers"]["title"] == ["Title of a", "Title of b", "Title of c"]
    assert words["findings"][0]["numbers"]["note"] == ["p = {}, of {}", "too few", ""]
    assert words["findings"][0]["numbers"]["value"] == [True, None, True]
    assert first["settings"] == second["settings"] == shared["name"] and second["words"] == words["name"]
    assert second["findings"] == [
        {
            "seconds": 1.5, "sentence": "p is 1e-05.", "status": "ok", "subject": "s1e-05",
            "numbers": {"value": [0.25, 0.25], "low": [0.125], "high": [], "n": [], "control": [0.5] * 3, "note": ["1e-05 2,000"]},
        }
    ]  # fmt: skip
    assert (second["spec"], second["curve"]["step"]) == ({"seed": 2}, [10, 20])
    assert second["sets"] == {"names": ["test: SUM"], "each": {"n": [10], "chance": [0.1], "exact": {"value": [0.5], "low": [0.4], "high": [0.6]}}}  # fmt: skip
    assert not {"start", "weights", "stages", "provenance"} & second.keys()


def test_lines_are_the_same_bytes_after_reading_them() -> None:
    text = to_lines("tiny", SETTINGS, two())
    assert read_lines(text) == ({"tiny": SETTINGS}, two())
    assert to_lines("tiny", *_only(text)) == text
    doubled = "".join(text.splitlines(keepends=True) * 2)
    assert read_lines(doubled)[1] == two() * 2, "files of several studies can stand one after another"


def _only(text: str) -> tuple[dict[str, Any], list[Record]]:
    studies, records = read_lines(text)
    return studies["tiny"], records


OLDER = Path(__file__).parent / "data" / "records-schema-1.jsonl"


def test_lines_of_schema_1_give_the_same_records_in_the_newer_form() -> None:
    older = OLDER.read_text()
    assert {json.loads(line)["schema"] for line in older.splitlines()} == {1}
    settings, records = _only(older)
    assert records == two()
    newer = to_lines("tiny", settings, records)
    assert _only(newer) == (settings, records) and newer == to_lines("tiny", SETTINGS, two())


def without(text: str, kind: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if json.loads(line)["kind"] != kind)


GOOD = to_lines("tiny", SETTINGS, two())
BAD = {
    "settings that no line states": (without(GOOD, "settings"), r"line 3 is no record .*refers to the settings \w{12}, which no line before it"),
    "words that no line states": (without(GOOD, "words"), r"line 3 is no record .*refers to the words \w{12}, which no line before it"),
    "a kind of a newer version": (GOOD.replace('"kind":"words"', '"kind":"poems"'), "line 3 is no record of ours .*its kind is 'poems'"),
    "a newer schema": (GOOD.replace('"schema":2', '"schema":3'), "line 1 has schema 3, this version reads up to schema 2; read it with"),
    "a value too few": (GOOD.replace('"value":[0.125,0.25]', '"value":[0.125]'), "line 4 is no record of ours"),
    "a value too many": (GOOD.replace('"value":[0.125,0.25]', '"value":[0.125,0.25,1]'), "line 4 .*more values than the words have places for"),
    "a point without its step": (GOOD.replace('"step":[10,20]', '"step":[10]'), "line 4 is no record of ours"),
    "settings changed by hand": (GOOD.replace('"d_model":8}', '"d_model":9}'), "line 4 has the key .* but its settings give"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=list(BAD))
def test_lines_that_do_not_fit_together_are_refused(text: str, message: str) -> None:
    assert text != GOOD
    with pytest.raises(StoreError, match=message):
        read_lines(text, where="file.jsonl")
