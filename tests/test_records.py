"""The store of results: what goes in comes out, by every route; a kill, a full disk and a second writer lose nothing."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kc_interp import records
from kc_interp.records import (
    Record,
    Store,
    StoreError,
    canonical,
    differences,
    lean,
    pack_curves,
    read_lines,
    run_key,
    to_csv,
    unpack_curves,
)

SETTINGS = {"grid": {"d_model": [8, 16]}, "arms": [{"name": "sum"}]}
ROOT = Path(__file__).parents[1]


def record(seed: int = 0, **changes: Any) -> Record:
    """A record of one run of the study "tiny"."""
    spec = changes.pop("spec", {"seed": seed, "model": {"d_model": 8}, "task": {"operations": ["SUM"]}})
    exact = {"value": 0.5, "low": 0.4, "high": 0.6}
    made = Record(
        key="", study="tiny", arm="sum", seed=seed, ensemble="e", member=seed, d_model=8, parameters=100, spec=spec,
        metrics={"sets": {"test: SUM": {"n": 10, "chance": 0.1, "exact": exact}}}, learned=seed % 2 == 0,
        curve=({"step": 10, "loss_nats": 2.0, "SUM": 0.25}, {"step": 20, "loss_nats": None, "SUM": 1.0}),
        wall_seconds=1.5, made="2026-01-01T00:00:00+00:00", provenance={"torch": "2", "commit": None},
    )  # fmt: skip
    made = dataclasses.replace(made, **changes)
    return dataclasses.replace(made, key=run_key(made.spec, made.stages, made.start))


def filled(path: Path, *added: Record) -> Path:
    with Store.open(path, write=True) as store:
        store.begin("tiny", SETTINGS)
        store.add(added or [record(0), record(1)])
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


def test_what_goes_in_comes_out_with_its_curve(path: Path) -> None:
    added = [record(0), record(1, findings=({"probe": "p", "numbers": []},), stages=({"a": 1},), start="abc")]
    with Store.open(filled(path, *added)) as store:
        assert store.records("tiny", curves=True) == added
        assert store.records("tiny") == [dataclasses.replace(one, curve=None) for one in added]
        assert store.keys("tiny") == {one.key for one in added}
        assert store.records(keys=[added[1].key], curves=True) == added[1:]
        assert store.records(arm="other") == []
        assert store.studies() == {"tiny": SETTINGS}
        assert store.status("tiny") == [{"arm": "sum", "d_model": 8, "runs": 2, "learned": 1, "judged": 2}]


# No subnormal floats: training in the same process sets the CPU to flush them.
NUMBERS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
)
PLAIN = st.recursive(NUMBERS | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6)  # fmt: skip
TABLES = st.dictionaries(st.text(max_size=5), PLAIN, max_size=3)
POINTS = st.fixed_dictionaries(
    {"step": st.integers(1, 10**6), "loss_nats": st.none() | st.floats(0, 9, width=32, allow_subnormal=False)},
    optional={"SUM": st.floats(0, 1, allow_subnormal=False), "a b": st.floats(0, 1, allow_subnormal=False)},
)
RECORDS = st.lists(
    st.builds(
        record, seed=st.integers(0, 99), spec=TABLES, metrics=TABLES, provenance=TABLES, arm=st.text(max_size=5),
        learned=st.none() | st.booleans(), stages=st.lists(TABLES, max_size=2).map(tuple),
        start=st.none() | st.text(max_size=5), ensemble=st.sampled_from(["e", "f"]),
        findings=st.lists(TABLES, max_size=2).map(tuple), wall_seconds=st.none() | st.floats(0, 9, allow_subnormal=False),
        curve=st.none() | st.lists(POINTS, max_size=4).map(tuple),
    ),
    max_size=5, unique_by=lambda one: one.key,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # tempfile does, to name a file
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=RECORDS)
def test_records_survive_the_store_and_json_lines(made: list[Record], tmp_path: Path) -> None:
    """Two routes to the same records: the store, and its JSON lines in another store."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    added = [dataclasses.replace(one, member=index) for index, one in enumerate(made)]
    with Store.open(folder / "a.sqlite", write=True) as one, Store.open(folder / "b.sqlite", write=True) as other:
        one.begin("tiny", SETTINGS)
        one.add(added)
        by_key = {found.key: found for found in one.records(curves=True)}
        assert by_key == {each.key: each for each in added}
        text = one.export("tiny")
        assert other.import_lines(text) == len(added)
        assert other.import_lines(text) == 0
        kept = [
            dataclasses.replace(each, findings=tuple(map(lean, each.findings))) for each in one.records(curves=True)
        ]
        assert other.records(curves=True) == kept
        assert other.export("tiny") == text


def test_a_record_keeps_a_finding_to_six_digits_without_its_tables() -> None:
    finding = {"probe": "p", "tables": [1], "figures": [2], "numbers": [{"value": 0.123456789, "n": 12345678}]}
    kept = {"probe": "p", "tables": [], "figures": [], "numbers": [{"value": 0.123457, "n": 12345678}]}
    assert lean(finding) == kept
    assert lean(kept) == kept


def test_records_are_read_as_far_as_asked(path: Path) -> None:
    measured = {name: {"n": 10, "exact": {"value": 0.1}} for name in ("test: SUM", "atoms: SUM", 'odd "é"')}
    finding = {"probe": "p", "numbers": [{"key": "a", "value": 0.5}]}
    # More than are decoded at a time, with and without a seed among their settings.
    added = [record(seed, metrics={"items": 10, "sets": measured}, findings=(finding,)) for seed in range(230)]
    added += [record(999, spec={"task": {}}), record(1000, metrics={})]
    with Store.open(filled(path, *added)) as store:
        found = store.records("tiny", findings=False, sets=["test: SUM", "not: there"])
        kept = {"sets": {"test: SUM": measured["test: SUM"]}}
        few = [dataclasses.replace(one, curve=None, findings=(), metrics=kept) for one in added[:230]]
        assert found[:230] == few and found[231].metrics == {"sets": {}}
        assert store.records("tiny", curves=True) == added
        [odd] = store.records(keys=[added[0].key], sets=['odd "é"'])
        assert odd.metrics == added[0].metrics and odd.findings == (finding,)
        assert found[0].spec["model"] is found[1].spec["model"] and found[0].spec["seed"] != found[1].spec["seed"]


def test_an_ensemble_is_stored_whole_or_not_at_all(path: Path) -> None:
    filled(path, record(1))
    with Store.open(path, write=True) as store:
        with pytest.raises(StoreError, match="holds one of these 3 records already, or lacks their study"):
            store.add([record(5), record(6), record(1)])
        assert store.keys("tiny") == {record(1).key}
        with pytest.raises(StoreError, match="lacks their study"):
            store.add([record(5, study="unheard of")])


def test_weights_and_curves_are_named_by_their_content(path: Path) -> None:
    filled(path)
    with Store.open(path, write=True) as store:
        store.add([record(2), record(3)], {record(2).key: b"same", record(3).key: b"same"})
        found = {one.seed: store.weights_path(one) for one in store.records()}
        assert found[0] is None and found[2] == found[3] is not None
        assert found[2].read_bytes() == b"same" and found[2].stem == records.digest(b"same")
        [curves, other] = sorted((store.files / "curves").iterdir())
        assert {curves.stem, other.stem} == {records.digest(curves.read_bytes()), records.digest(other.read_bytes())}
        curves.write_bytes(curves.read_bytes()[:-1])
        assert len(store.records()) == 4
        with pytest.raises(StoreError, match=r"the curves that a record names cannot be read"):
            store.records(curves=True)


def test_curves_keep_what_is_missing_apart_from_what_has_no_number(tmp_path: Path) -> None:
    curves = {"0": [{"step": 1, "loss_nats": None}], "3": [{"step": 1, "SUM": 0.5}, {"step": 2, "loss_nats": 1.0}]}
    (tmp_path / "c").write_bytes(pack_curves(curves))
    assert unpack_curves(tmp_path / "c") == curves
    assert isinstance(unpack_curves(tmp_path / "c")["3"][1]["step"], int)


def test_a_key_depends_on_settings_stages_and_start_and_not_on_their_order() -> None:
    assert run_key({"a": 1, "b": 2}) == run_key({"b": 2, "a": 1})
    assert len({run_key({"a": 1}), run_key({"a": 2}), run_key({"a": 1}, [{}]), run_key({"a": 1}, [], "x")}) == 4


def test_a_second_writer_is_refused_with_the_number_of_the_first_and_readers_are_not(path: Path) -> None:
    with Store.open(path, write=True) as store:
        store.begin("tiny", SETTINGS)
        with pytest.raises(StoreError, match=f"process {os.getpid()} is writing to this store; wait for it, or end it"):
            Store.open(path, write=True)
        store.add([record(0)])
        with Store.open(path) as reader:
            assert len(reader.records("tiny")) == 1
    with Store.open(path, write=True) as store:
        store.add([record(1)])


def test_the_lock_goes_with_a_writer_that_is_killed(path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from kc_interp.records import Store
store = Store.open(Path({str(path)!r}), write=True)
store.begin("tiny", {SETTINGS!r})
store._connection.execute("BEGIN IMMEDIATE")
store._connection.execute("DELETE FROM studies")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    with Store.open(path, write=True) as store:
        assert store.studies() == {"tiny": SETTINGS}


def test_a_store_for_reading_refuses_writes(path: Path) -> None:
    with Store.open(filled(path)) as store, pytest.raises(AssertionError, match="opened for reading"):
        store.add([record(7)])


def sqlite_file(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


BAD = {
    "a newer version": (
        lambda path: sqlite_file(path, "PRAGMA user_version = 99"),
        "written with schema 99, this version reads up to schema 1; open it with the kc-interp that wrote it",
    ),
    "text": (lambda path: path.write_text("no database at all, but long enough to be one " * 99), "not a store of results"),
    "another database": (lambda path: sqlite_file(path, "CREATE TABLE mine (a)"), "not one that kc-interp made"),
    "a folder": (lambda path: path.mkdir(), "cannot be opened or written"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=list(BAD))
def test_a_bad_store_is_refused_with_its_path_and_left_as_it_is(spoil: Any, message: str, path: Path) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as refused:
        Store.open(path, write=True)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)
    assert before is None or path.read_bytes() == before


def test_a_store_that_is_not_there_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(StoreError, match="no such store; kc-interp sweep makes it, and --store names another"):
        Store.open(path)
    assert not path.exists()


def test_a_full_disk_loses_nothing_that_was_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own refusal, and the file system's."""
    filled(path)
    big = record(8, metrics={"text": "x" * 200_000})
    with Store.open(path, write=True) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match=r"cannot be written \(database or disk is full\); free some space: all"):
            store.add([record(7), big])
        assert len(store.keys("tiny")) == 2
        store._connection.execute("PRAGMA max_page_count = 100000")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
                store.add([big], {big.key: b"weights"})
        store.add([big], {big.key: b"weights"})
    with Store.open(path) as store:
        assert len(store.keys("tiny")) == 3


def full(handle: int) -> None:
    raise OSError(28, "No space left on device")


def test_an_older_store_is_migrated_by_a_writer_and_refused_to_a_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    monkeypatch.setattr(records, "MIGRATIONS", (*records.MIGRATIONS, "ALTER TABLE studies ADD COLUMN note TEXT"))
    with pytest.raises(StoreError, match="older schema 1; run the sweep once, which migrates it"):
        Store.open(path)
    with Store.open(path, write=True) as store:
        assert len(store.records("tiny", curves=True)) == 2
        assert store._connection.execute("SELECT note FROM studies").fetchall() == [(None,)]
        assert store._connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_changed_study_is_refused_by_what_changed(path: Path) -> None:
    with Store.open(filled(path), write=True) as store:
        store.begin("tiny", SETTINGS)
        changed = {"grid": {"d_model": [8, 32]}, "arms": [{"name": "sum", "operations": ["SUM"]}], "items": 5}
        with pytest.raises(StoreError) as refused:
            store.begin("tiny", changed)
        for part in (
            'arms.0.operations was not there, is ["SUM"]', "grid.d_model was [8, 16], is [8, 32]",
            "items was not there, is 5", "start anew with --new",
        ):  # fmt: skip
            assert part in str(refused.value)
        assert store.set_aside("tiny") == "tiny.1"
        store.begin("tiny", changed)
        assert len(store.keys("tiny.1")) == 2 and not store.keys("tiny")
        assert store.set_aside("tiny") == "tiny.2" and store.set_aside("unheard of") is None


def test_many_differences_are_counted() -> None:
    assert differences({}, {f"s{n}": n for n in range(9)}).endswith("; and 5 more")


GOOD = canonical({"schema": 1, "kind": "record", **dataclasses.asdict(record(0))})
LINES = {
    "no JSON": ("{", "line 1 is no record of ours (JSONDecodeError"),
    "another kind of thing": ('{"a": 1}', "line 1 is no record of ours (KeyError: 'schema')"),
    "an unknown field": (GOOD.replace('"arm":', '"army":'), "line 1 is no record of ours (TypeError"),
    "a newer schema": (GOOD.replace('"schema":1', '"schema":7'), "line 1 has schema 7, this version reads up to"),
    "settings changed by hand": (GOOD.replace('"d_model":8}', '"d_model":9}'), "but its settings give"),
}


@pytest.mark.parametrize(("line", "message"), LINES.values(), ids=list(LINES))
def test_lines_that_are_no_records_are_refused_and_nothing_is_added(line: str, message: str, path: Path) -> None:
    with Store.open(filled(path), write=True) as store:
        fresh = canonical({"schema": 1, "kind": "record", **dataclasses.asdict(record(9))})
        with pytest.raises(StoreError) as refused:
            store.import_lines(f"{line}\n{fresh}\n", where="file.jsonl")
        assert str(refused.value).startswith("file.jsonl: ") and message in str(refused.value)
        assert len(store.keys("tiny")) == 2


def test_exported_lines_start_with_the_study_and_name_no_weights(path: Path) -> None:
    filled(path, record(0, weights="abc"))
    with Store.open(path) as store:
        text = store.export("tiny")
        first, shared, one = map(json.loads, text.splitlines())
        assert first == {"schema": 2, "kind": "study", "name": "tiny", "settings": SETTINGS}
        assert shared["kind"] == "settings" and one["kind"] == "record" and "weights" not in one
        assert read_lines(text) == ({"tiny": SETTINGS}, [record(0)])
        with pytest.raises(StoreError, match="holds no study 'other'; it holds: tiny"):
            store.export("other")


def test_exported_findings_have_no_tables_and_no_figures_and_older_lines_that_have_them_are_read(path: Path) -> None:
    heavy = {"probe": "p", "sentence": "s", "numbers": [{"key": "a", "value": 0.5}], "tables": [{"rows": [[1]]}],
             "figures": [{"kind": "bars"}]}  # fmt: skip
    light = {**heavy, "tables": [], "figures": []}
    older = "\n".join(
        canonical({"schema": 1, **line})
        for line in (
            {"kind": "study", "name": "tiny", "settings": SETTINGS},
            {"kind": "record", **dataclasses.asdict(record(0, findings=(heavy,)))},
        )
    )
    with Store.open(path, write=True) as store:
        assert store.import_lines(older) == 1
        [kept] = store.records("tiny", curves=True)
        assert kept == record(0, findings=(heavy,))
        text = store.export("tiny")
        assert read_lines(text)[1] == [dataclasses.replace(kept, findings=(light,))]
        assert store.import_lines(text) == 0
    with Store.open(path.with_name("other.sqlite"), write=True) as other:
        assert other.import_lines(text) == 1 and other.keys("tiny") == {kept.key}
        assert other.records("tiny", curves=True) == [dataclasses.replace(kept, findings=(light,))]


def test_a_spreadsheet_gets_a_row_a_run_and_a_column_a_number() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([record(0), record(1, metrics={})]))))
    assert rows[0]["sets.test: SUM.exact.low"] == "0.4" and rows[1]["sets.test: SUM.exact.low"] == ""
    assert rows[1]["seed"] == "1" and rows[0]["task.operations"] == "SUM" and rows[0]["model.d_model"] == "8"
