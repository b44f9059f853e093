"""The study of circuits: its tables follow from records, its predictions are judged by rule, and it can be made again."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kc_interp.records import Record, Store
from kc_interp.scaling.study import load
from kc_interp.testing import known_answer

FOLDER = Path(__file__).parents[1] / "experiments" / "circuits"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("circuits_outcome", FOLDER / "outcome.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OUTCOME = script()


def record(
    arm: str, seed: int, numbers: dict[tuple[str, str], tuple[float, float | None]], learned: bool = True
) -> Record:
    findings = [
        {"probe": probe, "numbers": [{"key": key, "value": value, "control": control}]}
        for (probe, key), (value, control) in numbers.items()
    ]
    return Record(f"{arm} {seed}", "circuits", arm, seed, "e", seed, 48, 1, {}, {}, learned, findings=tuple(findings))


def made(joint_edges: float = 10.0, shuffled_number: float = 0.1) -> list[Record]:
    """Four seeds an arm that differ a little, as the predictions have it by default; and one that did not learn."""
    records = []
    for arm, edges, number in (
        ("SUM", 20.0, 0.1),
        ("MAX+MED+SUM", joint_edges, 0.6),
        ("shuffled SUM", 30.0, shuffled_number),
    ):
        for seed in range(4):
            little = 0.01 * (seed - 1.5)
            numbers: dict[tuple[str, str], tuple[float, float | None]] = {
                ("circuit", "circuit.edges"): (edges + seed - 1.5, 110),
                ("circuit", "part.attn0"): (0.97 + little / 10, 0.0),
                ("operand-structure", "attn0.order1"): (0.97, None),
                ("operand-structure", "mlp0.exchange"): (0.95 + little, 0.0),
                ("operand-structure", "mlp0.number"): (number + little, 0.11),
                ("operand-structure", "mlp1.number"): (number + 0.2 + little, 0.11),
            }
            records.append(record(arm, seed, numbers))
    return [*records, record("SUM", 9, {("circuit", "circuit.edges"): (1000.0, 110)}, learned=False)]


def judged(records: list[Record]) -> list[tuple[str, str]]:
    return [(number, so) for number, _, _, so in OUTCOME.predictions(OUTCOME.values_of(records))]


def test_the_study_asks_for_what_the_tables_show() -> None:
    study = load(FOLDER / "study.toml")
    assert {OUTCOME.ALONE, OUTCOME.JOINT, OUTCOME.SHUFFLED} <= {arm.name for arm in study.arms}
    assert {probe for probe, _ in OUTCOME.SHOWN} <= set(study.probes)
    assert study.name == OUTCOME.STUDY
    assert study.keep_weights


def test_predictions_are_judged_by_their_intervals() -> None:
    assert {so for _, so in judged(made())} == {"as predicted"}
    assert dict(judged(made(joint_edges=30)))["2"] == "**not as predicted**"
    assert dict(judged(made(joint_edges=20)))["2"] == "not shown: the interval includes 0"
    assert dict(judged(made(shuffled_number=0.4)))["4"] == "**not as predicted**"
    assert {so for _, so in judged([])} == {"undecided: too few seeds"}


def test_only_seeds_that_learned_count() -> None:
    text = "".join(OUTCOME.tables(made(), None))
    assert "| SUM | 5 | 4 |" in text
    assert "| edges that keep 90 % | 20 [17.9, 22.1], 20 | 10 [7.95, 12.1], 10 | 30 [27.9, 32.1], 30 |" in text
    assert "1000" not in text
    assert "seeds by verdict" not in text
    assert "\u221210 [\u221212.2, \u22127.77], p = 0.029" in text


def test_verdicts_are_counted_over_the_seeds_that_learned() -> None:
    flat, number = ("verdict", "verdict.table"), ("verdict", "verdict.number")
    records = [
        record("SUM", seed, {flat: (float(seed < 2), None), number: (float(seed >= 2), None)}) for seed in range(3)
    ]
    records.append(record("SUM", 3, {flat: (1.0, None)}, learned=False))
    text = "".join(OUTCOME.tables(records, None))
    assert "| seeds by verdict | flat table | table of pairs composed | structured by number | neither |" in text
    assert "| SUM | 2 | 0 | 1 | 0 |" in text


def test_the_page_is_what_the_committed_records_say() -> None:
    done = subprocess.run([sys.executable, "outcome.py", "--check"], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "run experiments/circuits/outcome.py"


def test_overlap_within_and_across_arms_is_told() -> None:
    overlap: dict[str, Any] = {
        "models": [
            {"key": f"{arm}{seed}", "arm": arm, "seed": seed, "itself": 0.8, "edges": [9, 9], "right": 1.0}
            for arm in ("A", "B")
            for seed in range(4)
        ]
    }
    names = [(model["key"], model["arm"]) for model in overlap["models"]]
    overlap["pairs"] = [
        {"one": one, "other": other, "weighted": 0.6 + 0.01 * index if arm == kind else 0.5, "shuffled": 0.4}
        for index, (one, arm) in enumerate(names)
        for other, kind in names[index + 1 :]
    ]
    text = "".join(OUTCOME._overlap_tables(overlap))
    assert "| within A | 6 |" in text
    assert "| A with B | 16 | 0.5 | 0.4 |" in text
    assert "p = 0.029" in text


def test_overlap_is_measured_from_the_weights_that_were_kept(tmp_path: Path) -> None:
    known = known_answer("lookup_sum")
    content = known.checkpoint().save(tmp_path / "model.safetensors").read_bytes()
    records = [record(arm, seed, {}) for arm in ("SUM", "MAX+MED+SUM") for seed in range(2)]
    unlearned = record("SUM", 9, {}, learned=False)
    with Store.open(tmp_path / "records.sqlite", write=True) as store:
        store.begin("circuits", {})
        store.add([*records, unlearned], {one.key: content for one in (*records, unlearned)})
    found = OUTCOME.measure_overlap(tmp_path / "records.sqlite", pairs=8, shuffles=2)
    assert sorted((model["arm"], model["seed"]) for model in found["models"]) == sorted(
        (one.arm, one.seed) for one in records
    )
    assert len(found["pairs"]) == 6
    assert {pair["jaccard"] for pair in found["pairs"]} == {1.0}
    assert found["refused"] == []
    assert json.loads(json.dumps(found)) == found
    text = "".join(OUTCOME._overlap_tables(found))
    assert "| SUM with MAX+MED+SUM | 4 |" in text or "| MAX+MED+SUM with SUM | 4 |" in text
