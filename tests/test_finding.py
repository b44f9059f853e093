"""A finding survives JSON unchanged, and no number that is not finite reaches a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kc_interp.finding import SCHEMA, Finding, Number, dumps, from_plain, to_plain
from tests.sample_findings import failed, findings_of, roster


@pytest.mark.parametrize("index", range(5))
def test_every_kind_of_finding_is_the_same_after_a_trip_through_json(index: int) -> None:
    finding = findings_of(roster().models[1])[index]
    back = from_plain(json.loads(json.dumps(to_plain(finding), allow_nan=False)))
    assert to_plain(back) == to_plain(finding)
    assert back.numbers == finding.numbers and back.tables == finding.tables


def test_a_number_that_is_not_finite_becomes_null_and_never_zero() -> None:
    number = Number("a", "A", float("nan"), float("-inf"), np.float64("inf"), control=float(np.float32(0.5)))
    plain = json.loads(dumps({"numbers": [number]}))["numbers"][0]
    assert (plain["value"], plain["low"], plain["high"], plain["control"]) == (None, None, None, 0.5)


def test_arrays_tuples_and_nested_mappings_become_plain_lists_and_dicts() -> None:
    plain = to_plain({"a": np.arange(4).reshape(2, 2), "b": (1, None, True), 3: {"c": np.float64(1.5)}})
    assert plain == {"a": [[0, 1], [2, 3]], "b": [1, None, True], "3": {"c": 1.5}}


def test_the_json_names_its_schema_and_does_not_depend_on_the_order_of_keys() -> None:
    assert json.loads(dumps({}))["schema"] == SCHEMA
    assert dumps({"a": 1, "b": 2}) == dumps({"b": 2, "a": 1})


def test_a_number_is_found_by_its_key_and_a_missing_key_is_an_error() -> None:
    finding = Finding("p", "s", "t", "s", numbers=(Number("x", "X", 1.0),))
    assert finding["x"].value == 1.0
    with pytest.raises(KeyError, match="y"):
        finding["y"]


def test_a_failed_finding_keeps_its_message() -> None:
    finding = failed(roster().models[0], "lower `pairs`")
    assert from_plain(to_plain(finding)).sentence == "lower `pairs`"
