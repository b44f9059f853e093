"""The committed study: it can be run as it stands, and a reduced copy of it goes through every command to its figures."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from kc_interp.records import read_lines
from kc_interp.scaling import study as studies
from kc_interp.scaling.sweep import total_runs
from tests.test_cli import run as run_in

FOLDER = Path(__file__).parents[1] / "experiments" / "capacity"


def toml(value: Any) -> str:
    """Plain data as TOML, tables inline: enough to write a study back."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def run(*arguments: str) -> Any:
    """The one JSON object that the command prints."""
    return json.loads(run_in(*arguments, "--json", cwd=FOLDER).stdout)


def reduced(folder: Path) -> Path:
    """The study with its arms, factors and placement, in small: two widths, few steps, few items."""
    data = tomllib.loads((FOLDER / "study.toml").read_text())
    data["base"]["train"].update(steps=6, batch_size=8)
    data["base"]["data"]["n_train"] = 300
    data.update(items=20, probes=[])  # a second a run; studies with probes are tested elsewhere
    data["grid"]["d_model"] = [8, 12]
    data["tuning"].update(d_model=[8], steps=4, seeds=1, lrs=[1e-3, 4e-3])
    data["placement"].update(runs=1, batch=1)
    for arm in data["arms"]:
        for stage in arm.get("before", ()):
            stage["steps"] = 4
        if "steps" in arm:
            arm["steps"] = 2
    path = folder / "study.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in data.items()))
    return path


def test_the_committed_study_is_sound() -> None:
    study = studies.load(FOLDER / "study.toml")
    studies.check(dataclasses.replace(study, grid=dataclasses.replace(study.grid, d_model=(12, 16))))
    assert {arm.name for arm in study.arms} >= {"SUM", "MAX+SUM", "MED+SUM", "MAX+MED+SUM", "NADD+SUM"}
    assert study.grid.init == ("narrow", "wide") and study.constant_examples_of == "SUM"
    assert total_runs(study) == 24 * len(study.arms) * 2 + 48
    assert "Prediction, written on" in (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = reduced(tmp_path_factory.mktemp("capacity"))
    assert run("sweep", str(path))["failures"] == []
    return path


def test_a_reduced_copy_is_swept_fitted_and_drawn(swept: Path) -> None:
    assert run("sweep", str(swept))["made"] == 0
    fitted = run("fit", str(swept), "--no-laws")
    assert len(fitted["conditions"]) == 18 and all(one["runs"] == 1 for one in fitted["conditions"])
    assert fitted["complete"] and fitted["tuning_runs"] == 8
    run("figures", str(swept), "--no-open")
    page = (swept.parent / "figures" / "index.html").read_text()
    assert "scrambled MAX+SUM" in page


def test_its_lines_alone_tell_the_same(swept: Path, tmp_path: Path) -> None:
    for name in ("study.toml", "records.jsonl"):
        (tmp_path / name).write_text((swept.parent / name).read_text())
    here, there = (run("fit", str(path), "--no-laws") for path in (swept, tmp_path / "study.toml"))
    assert here["conditions"] == there["conditions"] and here["contrasts"] == there["contrasts"]


def test_the_tables_of_its_page_are_those_of_its_records() -> None:
    done = subprocess.run([sys.executable, FOLDER / "outcome.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "run experiments/capacity/outcome.py"


def test_the_figures_of_its_page_are_there_and_drawn_from_all_of_its_records() -> None:
    study = studies.load(FOLDER / "study.toml")
    _, records = read_lines((FOLDER / "records.jsonl").read_text())
    arms = {arm.name for arm in study.arms}
    runs, asked = sum(record.arm in arms for record in records), total_runs(study) - 48
    images = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (FOLDER / "README.md").read_text())
    assert images and all(name.startswith("figures/") for name in images)
    for name in images:
        root = ElementTree.parse(FOLDER / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg", name
        said = re.findall(r"partial: ([\d,]+) of at most ([\d,]+) runs", " ".join(root.itertext()))
        assert said == ([(f"{runs:,}", f"{asked:,}")] if runs < asked else []), f"{name}: draw it anew with --svg"
