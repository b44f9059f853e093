"""Prequential description length: shorter for what is learned from few examples, never longer than a uniform code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from kc_interp.complexity import PREQUENTIAL, Measure
from kc_interp.errors import DataError, SpecError
from kc_interp.scaling import law_report, prequential
from kc_interp.scaling.analysis import analyse
from kc_interp.scaling.prequential import Entry, Kept, Learner, code_bits, description_lengths, measure
from kc_interp.spec import ModelSpec, TaskSpec, TrainSpec, to_plain
from tests.test_analysis import arms, simulated, study
from tests.test_complexity_task import app, by_key

MAX = TaskSpec("listops", {"operations": ["MAX"], "depth": 1})
SHUFFLED = TaskSpec("listops", {"operations": ["MAX"], "depth": 1, "shuffled": ["MAX"]})


def learner(steps: int = 200, lr: float = 1e-2, init: Any = "wide", **settings: Any) -> Learner:
    """Small and quick: 32 examples, then 32, 64 and 128 more."""
    return Learner(
        **{"first": 32, "models": 3, "seeds": 2, "items": 128, **settings},
        model=ModelSpec(d_model=16, n_layers=1, n_heads=2, init=init),
        train=TrainSpec(steps=steps, batch_size=32, lr=lr, loss="completion"),
    )


def test_a_code_is_the_first_block_and_the_shortest_of_each_later_ones_with_its_name() -> None:
    assert code_bits(100 * math.log2(10), []) == pytest.approx(100 * math.log2(10))
    assert code_bits(1.0, [[8.0], [3.0, 2.0, 9.0, 4.0]]) == pytest.approx(1 + 8 + 2 + 2)
    assert code_bits(0.0, [[5.0, math.nan], [math.inf, 6.0]]) == pytest.approx(5 + 6 + 2)
    with pytest.raises(
        DataError, match="block 3 has no code of finite length; give the uniform one beside the models'"
    ):
        code_bits(0.0, [[1.0], [math.nan]])


def test_what_is_learned_from_few_examples_has_a_shorter_code_than_the_same_answers_shuffled() -> None:
    """The control has MAX's questions, answers and their frequencies, but nothing that one example says of another."""
    structured, shuffled = (description_lengths(task, learner()) for task in (MAX, SHUFFLED))
    assert structured.shape == (2,) and structured.max() < 0.75 * shuffled.min()


def test_who_learns_nothing_sends_everything_uniformly() -> None:
    """By hand: `= answer <end>` takes three of the 15 symbols in use; the index of the code costs one bit a block."""
    idle = learner(steps=1, lr=1e-12, init=1e-6, asked_after=(1.0,))
    assert idle.asked_at == (1,) and idle.sizes == (32, 64, 128) and idle.examples == 256
    bits = description_lengths(MAX, idle)
    assert bits == pytest.approx(3 * math.log2(15) + 3 / 256, abs=1e-4)


def test_a_learner_that_diverges_costs_no_more_than_the_names_of_its_codes() -> None:
    bits = description_lengths(MAX, learner(steps=4, lr=1e30))
    assert (bits <= 3 * math.log2(15) + 3 * math.log2(5) / 256 + 1e-6).all()


def test_the_measure_is_the_mean_over_seeds_and_the_same_again() -> None:
    quick = learner(steps=20)
    found, bits = measure(MAX, quick), description_lengths(MAX, quick)
    assert (found.key, found.family, found.unit, found.value) == (PREQUENTIAL, "data", "bits/example", bits.mean())
    assert found.low is not None and found.high is not None and found.low < bits.mean() < found.high
    assert "256 chains" in found.definition and "20 steps" in found.definition and "2 seeds" in found.definition


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 1}, "seeds is 1; an interval needs at least 2 learners"),
        ({"first": 0}, "first is 0, models 3, items 128; each must be at least 1"),
        ({"models": 0}, "each must be at least 1"),
        ({"asked_after": ()}, r"asked_after is \[\]; give shares of the training"),
        ({"asked_after": (0.5, 2.0)}, r"asked_after is \[0.5, 2.0\]; give shares of the training, above 0 and up to 1"),
    ],
)
def test_a_learner_that_gives_no_interval_or_no_code_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        learner(**settings)
    with pytest.raises(SpecError, match="loss is 'all'; sent are completions"):
        Learner(train=TrainSpec(loss="all"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[TaskSpec]:
    """What was learned: nothing is trained, a task's code is about as long as its operations' names."""
    learned: list[TaskSpec] = []

    def lengths(task: TaskSpec, learner: Learner | None = None, *, on_progress: Any = None) -> np.ndarray:
        learned.append(task)
        name = "+".join(task.settings["operations"])
        if name == "MIN":
            raise DataError("too hard to draw")
        return len(name) + ord(name[1]) / 1000 + np.asarray([0.9, 1.0, 1.1])

    monkeypatch.setattr(prequential, "description_lengths", lengths)
    return learned


def test_what_was_measured_is_kept_and_not_learned_again(counted: list[TaskSpec], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "prequential.json"
    first = Kept(path)(MAX)
    assert counted == [MAX] and Kept(path)(MAX) == first and counted == [MAX]
    other = TaskSpec("listops", {**MAX.settings, "modulus": 7})
    Kept(path)(other)
    Kept(path, Learner(seeds=3))(MAX)
    assert counted == [MAX, other, MAX], "another task and another learner are other measures"
    held = json.loads(path.read_text())
    assert (held["schema"], len(held["measures"])) == (1, 3)
    assert held["measures"][0]["provenance"]["torch"]
    assert Kept(path)(MAX) == first and len(counted) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not read as the code lengths that --prequential keeps"),
        ('{"schema":1}', r"\('measures'\); remove it to measure anew"),
        ('{"schema":1,"measures":[{"tusk":1}]}', "unknown key 'tusk'; did you mean 'task'"),
        ('{"schema":1,"measures":[{}]}', "remove it to measure anew"),
        ('{"schema":9,"measures":[]}', "written with schema 9, this version reads up to 1; upgrade"),
    ],
)
def test_a_file_that_does_not_read_is_refused(text: str, message: str, counted: list[TaskSpec], tmp_path: Path) -> None:
    path = tmp_path / "prequential.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Kept(path)(MAX)
    assert not counted and path.read_text() == text


def test_a_law_has_it_of_its_own_tasks_alone(counted: list[TaskSpec], tmp_path: Path) -> None:
    """SUM has no threshold within the sizes: it is no point, and nobody learns it. MIN cannot be learned: said so."""
    names = ("SUM", "MIN", "MAX+SUM", "MED+SUM", "MIN+SUM", "MAX+MED+SUM")
    asked = study(arms=arms(*names), grid={"d_model": [8, 16, 32, 64, 128]})
    found = analyse(asked, simulated(asked, lambda arm, point: 9.0 if arm.operations == ("SUM",) else 4.3))
    said: list[tuple[float, str]] = []
    [report] = law_report.laws(
        found,
        ["algebra.memorise"],
        trained=Kept(tmp_path / "prequential.json"),
        on_progress=lambda share, says: said.append((share, says)),
    )
    assert [law.key for law in report.laws] == ["algebra.memorise", PREQUENTIAL]
    law = report.laws[1]
    assert law.tasks is not None and law.tasks.names == ("MAX+SUM", "MED+SUM", "MIN+SUM", "MAX+MED+SUM")
    assert law.tasks.complexity.tolist() == pytest.approx([8.065, 8.069, 8.073, 12.065]) and (law.tasks.x_sd > 0).all()
    assert law.missing == {"MIN": "too hard to draw"}
    assert [task.settings["operations"] for task in counted] == [name.split("+") for name in names[1:]]
    shares = [share for share, _ in said]
    assert shares == sorted(shares) and shares[-1] < 1 and (0.0, "learning MIN") in said
    assert json.loads(json.dumps(law_report.plain(report)))["laws"][1]["huber_exponent"] == law.huber


def test_a_law_of_it_needs_training_to_be_asked_for() -> None:
    found = analyse(study(), [])
    with pytest.raises(SpecError, match=r"data\.prequential is measured by training; ask for it with --prequential"):
        law_report.laws(found, [PREQUENTIAL])


def test_the_command_shows_it_beside_the_others(counted: list[TaskSpec]) -> None:
    arguments = ["--ops", "SUM", "--ops", "MAX,SUM", "--families", "algebra", "--prequential", "--seeds", "3"]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    printed = json.loads(done.stdout)
    assert printed["values"]["MAX+SUM"][PREQUENTIAL]["value"] == pytest.approx(8.065)
    assert printed["values"]["SUM"][PREQUENTIAL]["low"] < 4.085 < printed["values"]["SUM"][PREQUENTIAL]["high"]
    [described] = [one for one in printed["measures"] if one["key"] == PREQUENTIAL]
    assert "3 seeds" in described["definition"] and described["unit"] == "bits/example"
    assert [task.settings["modulus"] for task in counted] == [10, 10]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False).stdout
    assert "Complexity of data" in shown and "chains given questions, prequential" in shown
    without = json.loads(CliRunner().invoke(app, [*arguments[:6], "--json"], catch_exceptions=False).stdout)
    assert PREQUENTIAL not in without["values"]["SUM"] and len(counted) == 4


def test_it_is_no_measure_that_is_taken_unasked() -> None:
    from kc_interp.complexity import measures
    from kc_interp.tasks.listops import ListOps

    found = measures(ListOps(("MAX",)), examples=20, seeds=2)
    assert all(isinstance(one, Measure) for one in found) and PREQUENTIAL not in by_key(found)


def entries(*tasks: TaskSpec) -> str:
    """A file as `Kept` would leave it for these tasks, with the learner that the commands have."""
    made = [to_plain(Entry(task, Learner(), 5.0 + i, 4.5 + i, 5.5 + i, {})) for i, task in enumerate(tasks)]
    return json.dumps({"schema": 1, "measures": made})
