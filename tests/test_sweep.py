"""Sweeps: whoever does the work and whenever it is killed, the same keys and values; none lost, none made twice."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import kc_interp
from kc_interp import evaluation
from kc_interp import train as training
from kc_interp.cli import sweep as command
from kc_interp.errors import KCInterpError, SpecError
from kc_interp.finding import from_plain as finding_from
from kc_interp.records import Record, Store, StoreError, read_lines, to_lines
from kc_interp.scaling import schedule
from kc_interp.scaling.executors import Done, Event, Failed, Progress
from kc_interp.scaling.schedule import Job, transplanted, warm_state, work
from kc_interp.scaling.study import Run, Study, load
from kc_interp.scaling.sweep import Update, parameter_count, rounds, sweep
from kc_interp.spec import to_plain
from kc_interp.train import Ensemble, train
from tests.test_study import tiny

ROOT = Path(__file__).parents[1]
ARMS = [
    {"name": "sum", "operations": ["SUM"]},
    {"name": "later", "operations": ["SUM"], "start_from": "max"},
    {"name": "max", "operations": ["MAX"]},
    {"name": "curriculum", "operations": ["SUM"], "before": [{"operations": ["MAX", "SUM"], "steps": 20}]},
]


@pytest.fixture(scope="module", autouse=True)
def _few_points_a_curve() -> Iterator[None]:
    """Of forty: evaluating after every step is most of the time of so short a training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "EVALUATIONS", 3)
        yield


class Here:
    """The work in this process, ending with Ctrl-C after so many ensembles."""

    def __init__(self, most: int | None = None, fail: str | None = None) -> None:
        self.most, self.fail, self.jobs = most, fail, 0

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        for job in jobs:
            if self.jobs == self.most:
                raise KeyboardInterrupt
            self.jobs += 1
            if any(run.arm == self.fail for run in job.ensemble.runs):
                yield Failed(job, "it was told to")
            else:
                yield Progress(job, 1)
                yield Done(job, work(job))

    def close(self) -> None:
        pass


def swept(study: Study, path: Path, executor: Here | None = None, **options: Any) -> list[Record]:
    with Store.open(path, write=True) as store:
        sweep(study, store, executor or Here(), **options)
        return store.records(study.name, curves=True)


def values(records: Iterable[Record]) -> dict[str, Any]:
    """What must not depend on when and where a run was made."""
    return {r.key: (r.arm, r.seed, r.ensemble, r.member, r.metrics, r.curve, r.learned, r.findings) for r in records}


STUDY = tiny(arms=ARMS, runs_per_ensemble=3, grid={}, base__train__steps=12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed sweep."""
    path = tmp_path_factory.mktemp("whole") / "records.sqlite"
    swept(STUDY, path)
    return path


def records_of(path: Path) -> list[Record]:
    with Store.open(path) as store:
        return store.records(STUDY.name, curves=True)


def test_a_sweep_makes_what_the_study_asks_for_once(whole: Path) -> None:
    found = records_of(whole)
    assert {record.key for record in found} == {run.key for run in STUDY.runs()}
    executor = Here()
    assert values(swept(STUDY, whole, executor)) == values(found) and executor.jobs == 0


def test_a_record_is_what_training_and_evaluating_its_ensemble_by_hand_give(whole: Path) -> None:
    """Two routes: the store, and `train` with `evaluate` on the same specs."""
    [ensemble, *_] = STUDY.grouped(STUDY.runs())
    found = {record.key: record for record in records_of(whole)}
    trained = train([run.spec for run in ensemble.runs])
    for run, one in zip(ensemble.runs, trained, strict=True):
        record = found[run.key]
        assert record.spec == to_plain(run.spec) and record.parameters == one.parameter_count == parameter_count(run)
        measured = evaluation.evaluate(one, items=STUDY.items)
        for name, asked in measured["sets"].items():
            kept = record.metrics["sets"][name]
            assert (kept["n"], kept["chance"]) == (asked["n"], asked["chance"])
            for metric in ("exact", "answer", "answer_nats"):
                assert kept[metric] == {k: v for k, v in asked["metrics"][metric].items() if k != "mode"}
        assert record.metrics["sets"].keys() == measured["sets"].keys()
        for kept_point, point in zip(record.curve or (), one.training["curve"], strict=True):
            assert kept_point == pytest.approx(point, abs=1e-6)
        with Store.open(whole) as store:
            opened = kc_interp.load(store.weights_path(record) or "")
        assert all(torch.equal(value, opened.params[name]) for name, value in one.params.items())


def test_provenance_says_what_made_a_record(whole: Path) -> None:
    [record, *_] = records_of(whole)
    assert {
        "kc_interp",
        "python",
        "torch",
        "numpy",
        "device",
        "threads",
        "commit",
        "members",
    } <= record.provenance.keys()
    assert record.made.startswith("20") and (record.wall_seconds or 0) > 0


def test_stages_follow_each_other_in_one_curve(whole: Path) -> None:
    curriculum = [record for record in records_of(whole) if record.arm == "curriculum"]
    for record in curriculum:
        steps = [(point["stage"], point["step"]) for point in record.curve or ()]
        assert steps == sorted(steps) and steps[-1] == (1, 32) and (0, 20) in steps
        assert record.stages[0]["task"]["settings"]["operations"] == ["MAX", "SUM"]
        assert record.spec["task"]["settings"]["operations"] == ["SUM"]


def test_a_stage_begins_with_the_weights_of_the_one_before() -> None:
    """Symbols that both vocabularies have keep their rows, fresh ones are those of the seed; no moment is inherited."""
    [run] = (run for run in tiny(arms=ARMS, seeds=1, grid={}).runs() if run.arm == "curriculum")
    [first] = train([run.stages[0]])
    fresh = Ensemble([run.stages[1]])
    path_state = warm_state([run.stages[1]], [first], torch.device("cpu"))
    member = fresh.members[0]
    wanted = transplanted(first, fresh.member_params(0), tokens=member.tokens)
    theirs = {symbol: index for index, symbol in enumerate(first.tokens.symbols)}
    for index, symbol in enumerate(member.tokens.symbols):
        expected = first.params["embed.W_E"][theirs[symbol]]
        assert torch.equal(wanted["embed.W_E"][index], expected), symbol
    assert torch.equal(wanted["blocks.0.attn.W_Q"], first.params["blocks.0.attn.W_Q"])
    from safetensors.torch import load as tensors_of

    state = tensors_of(path_state)
    assert not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    for name, value in fresh.member_params(0).items():
        assert wanted[name].shape == value.shape
    assert torch.equal(state["params"][0], torch.cat([wanted[name].flatten() for name in fresh.params]))


def test_symbols_that_the_source_lacks_keep_their_fresh_rows() -> None:
    [run] = tiny(seeds=1, grid={}, arms=[{"name": "joint", "operations": ["MAX", "SUM"]}]).runs()
    [source] = (one for one in tiny(seeds=1, grid={}, arms=[{"name": "a", "operations": ["MAX"]}], criterion__component=None).runs())  # fmt: skip
    [trained] = train([source.spec])
    ensemble = Ensemble([run.spec])
    fresh = ensemble.member_params(0)
    made = transplanted(trained, fresh, tokens=ensemble.members[0].tokens)
    row = ensemble.members[0].tokens.symbols.index("SUM")
    assert torch.equal(made["embed.W_E"][row], fresh["embed.W_E"][row])
    assert torch.equal(made["unembed.W_U"][:, row], fresh["unembed.W_U"][:, row])
    assert not torch.equal(made["embed.W_E"], fresh["embed.W_E"])


def test_an_arm_that_starts_from_another_begins_where_that_ended(whole: Path) -> None:
    """With a learning rate of almost nothing it stays there."""
    arms = [
        {"name": "first", "operations": ["SUM"]},
        {"name": "then", "operations": ["SUM"], "start_from": "first", "steps": 1},
    ]
    study = tiny(arms=arms, seeds=1, grid={}, base__train__lr=1e-12)
    found = {record.arm: record for record in swept(study, whole.parent / "start.sqlite")}
    assert found["then"].start == found["first"].key
    for name, measured in found["first"].metrics["sets"].items():
        assert found["then"].metrics["sets"][name]["answer_nats"] == pytest.approx(measured["answer_nats"], abs=1e-5)


def test_an_interrupted_sweep_ends_as_one_that_was_left_alone(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with pytest.raises(KeyboardInterrupt):
        swept(STUDY, path, Here(2))
    assert values(swept(STUDY, path)) == values(records_of(whole))


def test_half_an_ensemble_is_completed_without_a_double(whole: Path, tmp_path: Path) -> None:
    """As after an import of records that someone has thinned out."""
    path = tmp_path / "records.sqlite"
    with Store.open(whole) as store:
        studies, records = read_lines(store.export(STUDY.name))
    with Store.open(path, write=True) as store:
        kept = [record for record in records if record.arm == "max"]
        store.import_lines(to_lines(STUDY.name, studies[STUDY.name], kept[1:]))
    executor = Here()
    with Store.open(path, write=True) as store:
        outcome = sweep(dataclasses.replace(STUDY), store, executor)
        assert any("are not in" in failure and "train their arm first" in failure for failure in outcome.failures)
        found = store.records(STUDY.name, curves=True)
    expected = values(records_of(whole))
    assert all(expected[record.key] == values([record])[record.key] for record in found)
    assert {record.key for record in found if record.arm != "later"} == {
        k for k, v in expected.items() if v[0] != "later"
    }


def test_an_ensemble_that_fails_is_reported_and_the_others_are_made(tmp_path: Path) -> None:
    study = tiny(seeds=1, runs_per_ensemble=1, grid={})
    with Store.open(tmp_path / "records.sqlite", write=True) as store:
        outcome = sweep(study, store, Here(fail="joint"))
        assert outcome.failures == ["1 runs of joint at d_model 8: it was told to"] and outcome.made == 1
        assert sweep(study, store, Here()).made == 1


def test_progress_tells_the_share_the_time_left_and_the_last_results(tmp_path: Path) -> None:
    told: list[Update] = []
    swept(tiny(seeds=1, runs_per_ensemble=1), tmp_path / "records.sqlite", on_update=told.append)
    assert [update.done for update in told] == sorted(update.done for update in told)
    assert told[0].share == 0 and told[0].seconds_left is None
    assert told[-1].share == pytest.approx(1) and told[-1].seconds_left == pytest.approx(0, abs=1e-6)
    assert sum(len(update.last) for update in told) == told[-1].total == 4


def test_probes_run_on_every_finished_model(tmp_path: Path) -> None:
    study = tiny(seeds=1, grid={}, probes=["embedding-geometry"])
    for record in swept(study, tmp_path / "records.sqlite"):
        [found] = [finding_from(plain) for plain in record.findings]
        assert found.probe == "embedding-geometry" and found.status in ("ok", "unlearned")
        assert found.numbers and found.sentence and not found.tables and not found.figures


ADAPTIVE = tiny(
    arms=[{"name": "sum", "operations": ["SUM"]}, {"name": "joint", "operations": ["MAX", "SUM"]}],
    grid={"d_model": [4, 8, 12]},
    base__train__steps=10,
    placement={"kind": "adaptive", "runs": 3, "batch": 2},
    runs_per_ensemble=4,
)


def test_an_adaptive_batch_depends_on_completed_batches_only(tmp_path: Path) -> None:
    found = swept(ADAPTIVE, tmp_path / "whole.sqlite")
    assert sorted(r.arm for r in found) == ["joint"] * 3 + ["sum"] * 3
    path = tmp_path / "killed.sqlite"
    for most in (1, 1):
        with pytest.raises(KeyboardInterrupt):
            swept(ADAPTIVE, path, Here(most))
    assert values(swept(ADAPTIVE, path)) == values(found)


def test_an_adaptive_study_goes_where_successes_end() -> None:
    """Given verdicts by width alone, later runs gather at the step between failure and success."""
    study = dataclasses.replace(
        ADAPTIVE,
        grid=dataclasses.replace(ADAPTIVE.grid, d_model=(4, 8, 16, 32, 64, 128)),
        placement=dataclasses.replace(ADAPTIVE.placement, runs=24, batch=6),
    )
    verdicts: dict[str, bool | None] = {}
    asked: list[Run] = []
    for ensembles in rounds(study, verdicts):
        for run in (run for ensemble in ensembles for run in ensemble.runs):
            verdicts[run.key] = run.spec.model.d_model >= 32
            asked.append(run)
    assert len(asked) == len(verdicts) == 48
    late = [run.spec.model.d_model for run in asked[24:]]
    assert sum(width in (16, 32) for width in late) > len(late) / 2


# The command.


def run(*arguments: str, cwd: Path, workers: bool = False) -> tuple[int, str, str]:
    """The command in this process, with or without worker processes: exit status, stdout, stderr."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command.sweep)
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setenv("COLUMNS", "140")
        if not workers and "--executor" not in arguments:
            patch.setattr(command, "_executor", lambda *options: Here())
        try:
            app([*arguments], standalone_mode=False)
        except KCInterpError as error:
            err.write(f"kc-interp: {error}\n")
            status = 1
    return status, out.getvalue(), err.getvalue()


FILE = """
name = "tiny"
seeds = 2
items = 50
runs_per_ensemble = {size}
[base.task.settings]
depth = 1
modulus = 4
[base.data]
n_train = 300
holdout_pairs = 1
holdout_triples = 1
test_fraction = 0.3
[base.model]
d_model = 8
n_layers = 1
n_heads = 1
[base.train]
steps = {steps}
batch_size = 16
checkpoint_every = 50
[[arms]]
name = "sum"
operations = ["SUM"]
[[arms]]
name = "joint"
operations = ["MAX", "SUM"]
[criterion]
component = "SUM"
level = 0.05
"""


def write_study(folder: Path, steps: int = 30, size: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "study.toml").write_text(FILE.format(steps=steps, size=size))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that the command has run."""
    folder = write_study(tmp_path_factory.mktemp("user") / "one")
    status, out, err = run("study.toml", "--json", "--device", "cpu", "--threads", "1", cwd=folder, workers=True)
    assert status == 0, err
    printed = json.loads(out)
    assert (printed["runs"], printed["asked"], printed["made"], printed["failures"]) == (4, 4, 4, [])
    assert printed["export"] == "records.jsonl"
    assert "2/4 runs, about" in err and "exact on test: SUM" in err
    return folder


def test_the_store_is_beside_the_study_and_its_lines_beside_it(folder: Path) -> None:
    studies, records = read_lines((folder / "records.jsonl").read_text())
    assert list(studies) == ["tiny"] and len(records) == 4
    assert (folder / "records.sqlite").is_file() and not list((folder / "records.files" / "states").iterdir())


def test_status_says_what_is_there_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    status, out, _ = run("study.toml", "--status", cwd=folder)
    assert status == 0 and "tiny: 4 of 4 runs" in out and "joint" in out
    write_study(tmp_path)
    status, out, _ = run("study.toml", "--status", "--json", cwd=tmp_path)
    assert json.loads(out)["runs"] == 0 and not (tmp_path / "records.sqlite").exists()
    (tmp_path / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    status, out, _ = run("study.toml", "--status", "--export", "b.jsonl", cwd=tmp_path)
    assert status == 0 and "tiny: 4 of 4 runs" in out
    assert (tmp_path / "b.jsonl").read_bytes() == (folder / "records.jsonl").read_bytes()
    assert not (tmp_path / "records.sqlite").exists()


def test_records_are_exported_where_asked(folder: Path) -> None:
    assert run("study.toml", "--status", "--export", "out/a.jsonl", cwd=folder)[0] == 0
    assert (folder / "out" / "a.jsonl").read_text() == (folder / "records.jsonl").read_text()
    assert run("study.toml", "--status", "--export", "a.csv", cwd=folder)[0] == 0
    assert len(list(csv.DictReader(io.StringIO((folder / "a.csv").read_text())))) == 4
    status, _, err = run("study.toml", "--export", "a.txt", cwd=folder)
    assert status == 1 and "--export a.txt: the name must end in .jsonl or .csv" in err


def test_a_fresh_clone_takes_up_the_committed_lines(folder: Path, tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "records.jsonl").write_text((folder / "records.jsonl").read_text())
    status, out, err = run("study.toml", "--json", cwd=tmp_path)
    assert status == 0 and json.loads(out)["made"] == 0 and "4 records read from records.jsonl" in err
    assert (tmp_path / "records.jsonl").read_text() == (folder / "records.jsonl").read_text()


def test_committed_lines_that_do_not_read_are_refused_as_often_as_the_sweep_is_tried(tmp_path: Path) -> None:
    """The store that the first try made is empty: it must not stand for the records."""
    write_study(tmp_path)
    (tmp_path / "records.jsonl").write_bytes(b"\xff{")
    for _ in range(2):
        status, out, err = run("study.toml", cwd=tmp_path)
        assert status == 1 and not out and "records.jsonl: cannot be read as JSON lines" in err


def test_begun_anew_in_a_fresh_clone_the_committed_records_are_kept_too(folder: Path, tmp_path: Path) -> None:
    write_study(tmp_path, steps=20)
    (tmp_path / "records.jsonl").write_text((folder / "records.jsonl").read_text())
    status, out, err = run("study.toml", "--new", "--json", cwd=tmp_path)
    assert status == 0 and json.loads(out)["made"] == 4 and "kept as the study 'tiny.1'" in err
    with Store.open(tmp_path / "records.sqlite") as store:
        assert len(store.records("tiny.1")) == len(store.records("tiny")) == 4


def test_a_changed_study_is_refused_and_begun_anew_when_asked(folder: Path) -> None:
    write_study(folder, steps=20)
    try:
        status, out, err = run("study.toml", "--json", cwd=folder)
        assert status == 1 and not out
        assert "the study 'tiny' has changed since its records were made (base.train.steps was 30, is 20)" in err
        status, out, err = run("study.toml", "--new", "--json", "--store", "copy.sqlite", cwd=folder)
        assert status == 0 and json.loads(out)["made"] == 4
        write_study(folder)
        status, out, err = run("study.toml", "--new", "--json", "--store", "copy.sqlite", cwd=folder)
        assert status == 0 and "the records so far are kept as the study 'tiny.1'" in err
        with Store.open(folder / "copy.sqlite") as store:
            assert len(store.records("tiny.1")) == len(store.records("tiny")) == 4
    finally:
        write_study(folder)


def test_mistakes_get_one_message(folder: Path) -> None:
    with Store.open(folder / "records.sqlite", write=True):
        status, _, err = run("study.toml", cwd=folder)
        assert status == 1 and f"process {os.getpid()} is writing to this store" in err
    status, _, err = run("study.toml", "--executor", "raye", cwd=folder)
    assert status == 1 and "--executor raye; did you mean 'ray'?" in err
    status, _, err = run("none.toml", cwd=folder)
    assert status == 1 and "none.toml: no such file; expected a study (TOML)" in err


PROGRAM = """
import sys, typer
from kc_interp.cli.sweep import sweep
if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(sweep)
    app(["study.toml", "--device", "cpu", "--threads", "1", "-q"])
"""


def drive(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, text=True)


def killed_again_and_again(folder: Path, kills: int, longest: float) -> list[Record]:
    """Kill the driver at random moments, then let it finish; the records, which no kill may have spoilt."""
    moments = random.Random(0)
    for _ in range(kills):
        driver = drive(folder)
        time.sleep(moments.uniform(0.5, longest))
        driver.kill()
        driver.wait()
        if (folder / "records.sqlite").exists():
            with contextlib.closing(sqlite3.connect(folder / "records.sqlite")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert drive(folder).wait() == 0
    return records_of(folder / "records.sqlite")


def undisturbed(folder: Path) -> list[Record]:
    """In this process and without a worker, with the points that a worker's curve has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "EVALUATIONS", 40)
        return swept(load(folder / "study.toml"), folder / "whole.sqlite")


def test_a_driver_killed_at_any_moment_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    folder = write_study(tmp_path, steps=80, size=2)
    killed = killed_again_and_again(folder, kills=2, longest=5)
    assert len(killed) == 4 and values(killed) == values(undisturbed(folder))


@pytest.mark.slow
def test_a_driver_killed_twenty_times_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    folder = write_study(tmp_path, steps=1500, size=1)
    killed = killed_again_and_again(folder, kills=20, longest=12)
    assert len(killed) == 4 and values(killed) == values(undisturbed(folder))


def test_training_goes_on_from_the_state_that_a_kill_left(tmp_path: Path) -> None:
    """Not from the beginning: the first step reported is beyond the state's."""
    study = tiny(seeds=1, grid={}, base__train__checkpoint_every=20, base__train__steps=60)
    [ensemble] = study.grouped(study.runs())
    job = Job(ensemble, study.criterion, study.items, states=str(tmp_path))

    def stop(step: int) -> None:
        if step == 60:
            raise _Stop

    with pytest.raises(_Stop):
        work(job, stop)
    steps: list[int] = []
    answer = work(job, steps.append)
    assert steps[0] > 40
    [state] = schedule.states_of(tmp_path, ensemble)
    state.write_bytes(b"damaged")
    again = work(dataclasses.replace(job, states=None))
    from tests.test_executors import values as answers

    assert answers(answer) == answers(again) == answers(work(job))


class _Stop(Exception):
    pass


def test_messages_of_a_driver_name_the_study(tmp_path: Path) -> None:
    study = tiny(grid={"n_heads": [3]})
    with Store.open(tmp_path / "a.sqlite", write=True) as store:
        with pytest.raises(SpecError, match="at n_heads 3, d_model 8: d_model 8 is not divisible by n_heads 3"):
            sweep(study, store, Here())
        assert not store.studies(), "nothing was begun"
        sweep(tiny(seeds=1, grid={}), store, Here())
        with pytest.raises(StoreError, match="seeds was 1, is 2"):
            sweep(tiny(seeds=2, grid={}), store, Here())
