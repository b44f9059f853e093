"""`kc-interp fit`: tables for people, one JSON object, the same numbers from a store and its lines, one message a mistake."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kc_interp.records import Record, Store, run_key
from kc_interp.scaling.study import Study, load
from tests.test_analysis import arms, simulated, synergy_of
from tests.test_cli import Done, run
from tests.test_prequential import entries

MEASURE = "algebra.memorise"
ALL = ("SUM", "MAX+SUM", "MED+SUM", "MIN+SUM", "MAX+MED+SUM")


def write_study(
    folder: Path, *names: str, level: float = 0.9, factor: str = 'init = ["narrow", "wide"]', more: str = ""
) -> Study:
    """A study.toml of these arms at two levels of a factor, and the study."""
    lines = ['name = "simulated"', "seeds = 4", "[grid]", "d_model = [8, 16, 32, 64, 128]", factor]
    lines += ["[criterion]", 'component = "SUM"', f"level = {level}"]
    for arm in arms(*names):
        lines += ["[[arms]]", f'name = "{arm["name"]}"', f"operations = {json.dumps(arm['operations'])}"]
    (folder / "study.toml").write_text("\n".join(lines) + "\n" + more)
    return load(folder / "study.toml")


def fill(folder: Path, study: Study, records: list[Record], name: str = "records.sqlite") -> None:
    with Store.open(folder / name, write=True) as store:
        store.begin(study.name, study.settings)
        store.add([dataclasses.replace(record, member=index) for index, record in enumerate(records)])
        (folder / "exported.jsonl").write_text(store.export(study.name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of five tasks of which all but one run are there, and two runs that chose a learning rate."""
    made = tmp_path_factory.mktemp("fit")
    study = write_study(made, *ALL)
    records = simulated(study, synergy_of(0.4))
    specs = [{**record.spec, "seed": 1000 + record.seed} for record in records[:2]]
    tuning = [
        dataclasses.replace(record, arm=f"tuning: {record.arm}", key=run_key(spec), spec=spec)
        for record, spec in zip(records, specs, strict=False)
    ]
    fill(made, study, [*tuning, *records[1:]])
    return made


@pytest.fixture(scope="module")
def said(folder: Path) -> Done:
    return run("fit", "study.toml", "--measure", MEASURE, "-v", cwd=folder)


def fitted(folder: Path, *options: str) -> dict[str, Any]:
    done = run("fit", "study.toml", "--json", *options, cwd=folder)
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout)


def test_tables_say_units_runs_intervals_and_that_it_is_partial(said: Done) -> None:
    out = said.stdout
    assert out.startswith("simulated, partial: 199 of 200 runs\n2 runs that chose a learning rate are not part of this")
    for title in (
        "Thresholds: the size where half of the runs",
        "Sizes in parameters at which this share of all runs learns",
        "Median steps to learn, of all runs by width [95 %]",
        "Synergy: log10 threshold alone less together, in dex [95 %]",
        "Factors: log10 threshold at the first level less",
        "Above 0: the arm helps more at its level. The runs of all four are the units.",
        "In brackets: the Akaike weight; with so few tasks AICc's correction alone favours the constant.",
        "Capacity bound: ",
        "Laws at wide: 5 tasks (SUM, MAX+SUM, MED+SUM, MIN+SUM, MAX+MED+SUM)",
        "Exponent e of n ∝ K^e at wide",
        "Thresholds at wide predicted from the other tasks by algebra.memorise",
    ):
        assert title in " ".join(out.split())  # a narrow table wraps its title
    assert "learned: exact on test: SUM at least 90 %, a run is a seed" in out
    assert re.search(r"SUM, wide +20 +\d+ +[\d,]+ \[[\d,]+, [\d,]+\]", out)
    assert re.search(r"MAX\+SUM, wide +SUM, wide +\+0\.\d\d \[[+-]0\.\d\d, \+\d\.\d\d\] +(yes|no)", out)
    assert all(len(line) <= 140 for line in out.splitlines() if not line.startswith(("Laws", "No law")))


def test_json_is_one_object_with_every_number(folder: Path) -> None:
    data = fitted(folder, "--measure", MEASURE)
    assert (data["study"], data["runs"], data["asked"], data["complete"], data["tuning_runs"]) == (
        "simulated", 199, 200, False, 2,
    )  # fmt: skip
    [first, *_] = data["conditions"]
    assert (first["label"], first["runs"], first["operations"]) == ("SUM, narrow", 19, ["SUM"])
    assert set(first["thresholds"]) == {"parameters", "non-embedding"}
    assert set(first["thresholds"]["parameters"]["at"]) == {"0.1", "0.5", "0.9"}
    assert [cell["d_model"] for cell in first["times"]] == [8, 16, 32, 64, 128]
    synergies = [one for one in data["contrasts"] if one["kind"] == "synergy" and one["axis"] == "parameters"]
    assert len(synergies) == 8 and all(one["synergy"]["value"] > 0 for one in synergies)
    assert [one["setting"] for one in data["laws"]] == ["narrow", "wide"]
    assert [law["key"] for law in data["laws"][0]["laws"]] == [MEASURE]


def test_the_same_numbers_come_from_the_store_and_from_its_lines(folder: Path, tmp_path: Path) -> None:
    from_store = fitted(folder, "--no-laws")
    write_study(tmp_path, *ALL)
    (tmp_path / "records.jsonl").write_text((folder / "exported.jsonl").read_text())
    beside, named = fitted(tmp_path, "--no-laws"), fitted(folder, "--no-laws", "--records", "exported.jsonl")
    sources = [data.pop("source") for data in (from_store, beside, named)]
    assert sources == ["records.sqlite", "records.jsonl", "exported.jsonl"]
    assert from_store == beside == named and from_store["laws"] == []
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["records.jsonl", "study.toml"]  # nothing written


def test_the_code_length_of_each_task_is_a_predictor_where_it_was_kept(folder: Path, tmp_path: Path) -> None:
    """Nothing is learned here: the file beside the study has every task."""
    study = write_study(tmp_path, *ALL)
    tasks = [arm.task(study.base.task, {}) for arm in study.arms]
    (tmp_path / "prequential.json").write_text(entries(*tasks))
    lines = ("--records", str(folder / "exported.jsonl"), "--measure", MEASURE, "--prequential")
    data = fitted(tmp_path, *lines)
    assert [law["key"] for law in data["laws"][1]["laws"]] == [MEASURE, "data.prequential"]
    points = {one["task"]: one["complexity"] for one in data["laws"][1]["laws"][1]["points"]}
    assert points == {"SUM": 5, "MAX+SUM": 6, "MED+SUM": 7, "MIN+SUM": 8, "MAX+MED+SUM": 9}
    exponents = {law["key"]: law["huber_exponent"] for law in data["laws"][1]["laws"]}
    out = run("fit", "study.toml", *lines, cwd=tmp_path).stdout
    table = out[out.index("Exponent e of n ∝ K^e at wide") :]
    assert "Huber" in table and all(f"{value:.2f}" in table for value in exponents.values())


def test_strata_of_question_length_have_thresholds_and_contrasts_of_their_own(tmp_path: Path) -> None:
    more = "[base.task]\nsettings = { p_operation = 0.25 }\n"
    study = write_study(tmp_path, "SUM", "MAX+SUM", factor="lengths = [[5, 6], [9, 14]]", more=more)
    truth = {(5, 6): 4.0, (9, 14): 4.6}
    fill(tmp_path, study, simulated(study, lambda arm, point: truth[point["lengths"]]))
    data = fitted(tmp_path, "--no-laws")
    assert data["runs"] == data["asked"] == 80 and data["complete"] and not data["strangers"]
    found = {one["label"]: one["thresholds"]["parameters"]["t"] for one in data["conditions"]}
    assert set(found) == {f"{arm}, {s}" for arm in ("SUM", "MAX+SUM") for s in ("5 to 6 symbols", "9 to 14 symbols")}
    for label, t in found.items():
        assert t["low"] < (4.0 if "5 to 6" in label else 4.6) < t["high"]
    factors = [one for one in data["contrasts"] if one["kind"] == "factor" and one["axis"] == "parameters"]
    assert len(factors) == 2 and all(one["factor"] == "lengths" and one["excludes_zero"] for one in factors)
    assert len(data["capacity"]) == 2, "questions of another length are another task"


def test_out_is_the_json_object_beside_the_tables(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fit.json"
    done = run("fit", "study.toml", "--no-laws", "-o", str(path), cwd=folder)
    assert "Thresholds" in done.stdout and f"written: {path}" in done.stdout
    assert json.loads(path.read_text()) == fitted(folder, "--no-laws")


def test_too_few_tasks_are_said_in_words(tmp_path: Path) -> None:
    study = write_study(tmp_path, "SUM", "MAX+SUM")
    fill(tmp_path, study, simulated(study, synergy_of(0.4)))
    out = run("fit", "study.toml", cwd=tmp_path).stdout
    assert "simulated, complete: 80 of 80 runs" in out
    assert "No law at narrow: 2 tasks with a threshold; a law needs at least 4." in out


def test_a_study_that_nothing_learned_is_reported_with_bounds(tmp_path: Path) -> None:
    study = write_study(tmp_path, *ALL[:4])
    fill(tmp_path, study, simulated(study, lambda arm, point: 9.0))
    out = run("fit", "study.toml", cwd=tmp_path).stdout
    assert re.search(r"SUM, narrow +20 +0 +> [\d,]+", out)
    assert re.search(r"MAX\+SUM, wide +SUM, wide +not located +no", out)
    assert "Capacity bound: none of 160 runs solves it" in out
    assert "No law at wide: 0 tasks with a threshold" in out


def test_a_changed_study_is_fitted_as_it_is_and_the_change_is_named(folder: Path, tmp_path: Path) -> None:
    write_study(tmp_path, *ALL, level=0.01)
    store = ("--store", str(folder / "records.sqlite"))
    done = run("fit", "study.toml", "--no-laws", *store, cwd=tmp_path)
    assert "the study has changed since its records were made (criterion.level was 0.9, is 0.01)" in done.stderr
    data = fitted(tmp_path, "--no-laws", *store)
    assert data["changed"] == "criterion.level was 0.9, is 0.01"
    assert all(one["learned"] == one["runs"] for one in data["conditions"])


def test_without_its_files_a_store_still_gives_thresholds(folder: Path, tmp_path: Path) -> None:
    write_study(tmp_path, *ALL)
    with sqlite3.connect(folder / "records.sqlite") as source, sqlite3.connect(tmp_path / "records.sqlite") as copy:
        source.backup(copy)
    done = run("fit", "study.toml", "--no-laws", cwd=tmp_path)
    assert "the curves that a record names cannot be read" in done.stderr
    assert "times to learn are left out" in done.stderr
    data = fitted(tmp_path, "--no-laws")
    assert data["conditions"][0]["times"] == [] and data["conditions"][0]["notes"] == ["no learning curve was read"]


def test_mistakes_get_one_message(folder: Path, tmp_path: Path) -> None:
    def refused(*arguments: str, cwd: Path = folder) -> str:
        done = run("fit", *arguments, cwd=cwd, check=1)
        assert not done.stdout and done.stderr.startswith("kc-interp: ") and "Traceback" not in done.stderr
        return done.stderr

    assert "none.toml: no such file; expected a study (TOML)" in refused("none.toml")
    assert "give one of them" in refused("study.toml", "--store", "a", "--records", "b")
    assert "b.jsonl: cannot be read as JSON lines" in refused("study.toml", "--records", "b.jsonl")
    assert "no measure 'algebra.memorize'; did you mean 'algebra.memorise'?" in refused(
        "study.toml", "--measure", "algebra.memorize", "-q"
    )
    assert "data.prequential is measured by training; ask for it with --prequential" in refused(
        "study.toml", "--measure", "data.prequential", "-q"
    )
    assert "--no-laws leaves out; give one of them" in refused("study.toml", "--prequential", "--no-laws")
    study = write_study(tmp_path, "SUM")
    assert "no records of study.toml: neither records.sqlite nor records.jsonl is there" in refused(
        "study.toml", cwd=tmp_path
    )
    fill(tmp_path, study, [])
    assert "no records of the study 'simulated' (the study is there, but none of its runs is finished)" in refused(
        "study.toml", cwd=tmp_path
    )
    (tmp_path / "study.toml").write_text((tmp_path / "study.toml").read_text().replace("simulated", "other"))
    assert "no records of the study 'other' (it holds: simulated)" in refused("study.toml", cwd=tmp_path)
    write_study(tmp_path, "MAX")
    lost = [dataclasses.replace(r, arm="gone") for r in simulated(study, synergy_of(0))[:2]]
    fill(tmp_path, study, lost, "lost.sqlite")
    message = refused("study.toml", "--store", "lost.sqlite", "-q", cwd=tmp_path)
    assert "none of its 2 records belongs to a condition" in message and "2 runs of arm 'gone'" in message


def test_a_store_or_lines_of_a_newer_version_are_refused(folder: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path, "SUM")
    fill(tmp_path, study, simulated(study, synergy_of(0))[:2])
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    done = run("fit", "study.toml", cwd=tmp_path, check=1)
    assert "records.sqlite: written with schema 99, this version reads up to schema" in done.stderr
    newer = re.sub(r'"schema":\d+', '"schema":99', (tmp_path / "exported.jsonl").read_text())
    (tmp_path / "newer.jsonl").write_text(newer)
    done = run("fit", "study.toml", "--records", "newer.jsonl", "--json", cwd=tmp_path, check=1)
    assert "newer.jsonl: line 1 has schema 99" in json.loads(done.stdout)["error"]
