"""The demo, small: eight models of one shape, every one named in the report, and the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kc_interp.demo import SEEDS, specs
from tests.test_cli import run


def test_the_design_is_two_arms_times_two_initialisations_of_one_size() -> None:
    made = specs()
    assert len(made) == 8
    assert {spec.model.d_model for spec in made.values()} == {32}
    assert {(tuple(s.task.settings["operations"]), s.model.init, s.seed) for s in made.values()} == {
        (operations, init, seed)
        for operations in (("SUM",), ("MAX", "MED", "SUM"))
        for init in ("narrow", "wide")
        for seed in SEEDS
    }
    assert len({(s.data, s.train, s.model.n_layers, s.model.n_heads) for s in made.values()}) == 1


@pytest.mark.slow
def test_the_demo_ends_in_a_report_that_presumes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kc_interp.evaluation.ITEMS", 60)
    arguments = ("demo", "--out", "d", "--d-model", "16", "--steps", "20", "--threads", "1", "--json")
    monkeypatch.setattr("kc_interp.plugins.installed", _only_geometry)
    said = json.loads(run(*arguments, cwd=tmp_path).stdout)
    models = said["roster"]["models"]
    assert len(models) == 8
    assert not any(model["learned"] for model in models)  # twenty steps teach nothing
    assert len(said["findings"]) == 8
    assert {finding["status"] for findings in said["findings"].values() for finding in findings} == {"unlearned"}
    assert [c["name"].split(":")[0] for c in said["comparisons"]] == ["Narrow initialisation", "Wide initialisation"]
    assert all("did not learn" in c["summary"] for c in said["comparisons"])
    page = (tmp_path / "d" / "report.html").read_text()
    assert "Which models learned SUM?" in page
    before = (tmp_path / "d" / "sum-wide-1" / "model.safetensors").read_bytes()
    again = json.loads(run(*arguments, cwd=tmp_path).stdout)
    assert (tmp_path / "d" / "sum-wide-1" / "model.safetensors").read_bytes() == before
    assert again["roster"] == said["roster"]


def _only_geometry(kind: str) -> list[object]:
    from kc_interp.plugins import Plugin

    table = {
        "probes": ("embedding-geometry", "kc_probes.embedding_geometry:EmbeddingGeometry"),
        "tasks": ("listops", "kc_interp.tasks.listops:ListOps"),
    }
    return [Plugin(kind, *table[kind], "kc-interp")]  # type: ignore[arg-type]
