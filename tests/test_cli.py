"""The command line as a user meets it: results on stdout, one message for a mistake, nothing lost, nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import kc_interp
from kc_interp.cli import main
from kc_interp.errors import CheckpointError

ROOT = Path(__file__).parents[1]
TINY = [
    "--ops", "SUM", "--modulus", "4", "--depth", "1", "--d-model", "16", "--n-heads", "2", "--n-train", "400",
    "--steps", "60", "--batch-size", "16", "--set", "data.holdout_pairs=1", "--set", "data.holdout_triples=1",
    "--set", "data.test_fraction=0.3", "--set", "train.checkpoint_every=20", "--threads", "1",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    stdout: str
    stderr: str


def run(*arguments: str, cwd: Path, check: int | None = 0) -> Done:
    """The command in this process: each test would else wait seconds for torch."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["kc-interp", *arguments])
        patch.setenv("COLUMNS", "140")
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
    done = Done(status, out.getvalue(), err.getvalue())
    if check is not None:
        assert status == check, done
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, trained by the command."""
    folder = tmp_path_factory.mktemp("user")
    done = run("train", *TINY, "--out", "runs/sum", "--json", cwd=folder)
    printed = json.loads(done.stdout)
    assert printed["checkpoint"] == "runs/sum/model.safetensors"
    assert printed["spec"]["task"]["settings"]["operations"] == ["SUM"]
    assert set(printed["metrics"]["learned"]) == {"SUM"}
    return folder


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom kc_interp.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'scipy', 'plotly', 'numpy', 'transformer_lens') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("[]")


def test_version_and_completion(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout.strip() == f"kc-interp {kc_interp.__version__}"
    assert "--install-completion" in run("--help", cwd=tmp_path).stdout


def test_every_command_has_help(tmp_path: Path) -> None:
    for command in (
        ["demo"],
        ["train"],
        ["eval"],
        ["probe"],
        ["export"],
        ["list"],
        ["complexity"],
        ["sweep"],
        ["data"],
        ["data", "check"],
    ):
        assert "Usage:" in run(*command, "--help", cwd=tmp_path).stdout


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    assert "--no-such" in run("train", "--no-such", cwd=tmp_path, check=2).stderr


def test_a_trained_run_opens_from_any_folder(runs: Path, tmp_path: Path) -> None:
    checkpoint = kc_interp.load(runs / "runs" / "sum")
    assert checkpoint.metrics["sets"]["test: SUM"]["n"] > 0
    elsewhere = run("eval", "--model", str(runs / "runs" / "sum"), "--items", "50", "--json", cwd=tmp_path)
    found = json.loads(elsewhere.stdout)["models"]["sum"]
    assert set(found["sets"]["test: SUM"]["metrics"]) == {
        "exact", "exact_expected", "final", "paper", "answer", "answer_nats", "answer_brier", "chain_nats",
    }  # fmt: skip
    shown = run("eval", "--model", "runs/sum", "--items", "50", cwd=runs).stdout
    for word in (
        "teacher-forced",
        "free-running",
        "Chance",
        "atoms: SUM",
        "held-out: SUM",
        "arity",
        "learned from 80 %",
    ):
        assert word in shown


def test_probe_writes_a_report_and_findings_and_says_where(runs: Path) -> None:
    done = run("probe", "--model", "runs/sum", "--only", "embedding-geometry", "--out", "seen", "--json", cwd=runs)
    printed = json.loads(done.stdout)
    assert printed["findings"]["sum"][0]["probe"] == "embedding-geometry"
    assert json.loads((runs / "seen" / "findings.json").read_text())["roster"]["models"][0]["name"] == "sum"
    assert (runs / "seen" / "report.html").read_text().startswith("<!doctype html>")
    shown = run("probe", "--model", "runs/sum", "--only", "embedding-geometry", cwd=runs).stdout
    assert "report: runs/sum/report/report.html" in shown
    assert "Which models learned SUM?" in shown


def test_two_sides_are_compared_within_their_initialisation(runs: Path) -> None:
    run("train", *TINY, "--seed", "1", "--init", "narrow", "--out", "runs/other", cwd=runs)
    run("train", *TINY, "--seed", "2", "--out", "runs/third", cwd=runs)
    done = run(
        "probe", "--model", "runs/sum", "--compare", "runs/third", "--compare", "runs/other",
        "--only", "embedding-geometry", "--out", "both", "--json", cwd=runs,
    )  # fmt: skip
    printed = json.loads(done.stdout)
    assert [c["name"] for c in printed["comparisons"]] == ["Wide initialisation: SUM alone against SUM alone"]
    assert "Not compared: other; the other side has no model with the narrow initialisation." in printed["notes"]


def test_a_probes_setting_can_be_given(runs: Path) -> None:
    done = run(
        "probe", "--model", "runs/sum", "--only", "embedding-geometry", "--set", "embedding-geometry.chains=64", "--out", "set",
        "--json", cwd=runs,
    )  # fmt: skip
    assert json.loads(done.stdout)["findings"]["sum"][0]["settings"]["chains"] == 64


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--ops", "SUM,MAXX", "--out", "x"], "unknown operation 'MAXX'; did you mean 'MAX'?"),
        (["train", "--d-model", "30", "--n-heads", "4", "--out", "x"], "d_model 30 is not divisible by n_heads 4"),
        (["train", "--preset", "quik", "--out", "x"], "no such preset; did you mean 'quick'?"),
        (["train", "--set", "train.clipp=1", "--out", "x"], "unknown key 'clipp'; did you mean 'clip'?"),
        (["train", "--set", "train.clip", "--out", "x"], "expected KEY=VALUE"),
        (["train", "--config", "none.toml", "--out", "x"], "none.toml: cannot be read"),
        (["train", "--task", "lisptops", "--out", "x"], "no task 'lisptops' is installed; did you mean 'listops'?"),
        (
            ["train", "--set", "model.n_ctx=10", "--out", "x"],
            "n_ctx is 10, but the longest sequence of this task has 60",
        ),
        (["train", "--set", "data.holdout_pairs=45", "--out", "x"], "holding out 45 pairs leaves none to train on"),
        (["train", "--device", "cuda:9", "--out", "x"], "torch sees no CUDA device here"),
        (["train", "--weights", "1,a", "--out", "x"], "--weights 1,a: expected numbers"),
        (["eval", "--model", "nothing"], "nothing: no such file"),
        (["probe", "--model", "nothing"], "nothing: no such file"),
        (["probe", "--model", "nothing", "--only", "embeding"], "no probe 'embeding' is installed; did you mean"),
        (["data", "counts", "--modulus", "1"], "modulus is 1; it must lie between 2 and 100"),
        (["data", "import", "nothing.tsv"], "nothing.tsv: cannot be read"),
        (["data", "check", "--test", "x.tsv"], "--test compares with a training file"),
    ],
)
def test_a_mistake_gets_one_message_and_leaves_nothing(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path, check=1)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_error_under_json_is_one_object(tmp_path: Path) -> None:
    done = run("eval", "--model", "nothing", "--json", cwd=tmp_path, check=1)
    assert json.loads(done.stdout)["error"].startswith("nothing: no such file")


def test_a_folder_that_holds_a_run_is_refused_unless_told(runs: Path) -> None:
    shutil.copytree(runs / "runs" / "sum", runs / "runs" / "copy")
    before = (runs / "runs" / "copy" / "model.safetensors").read_bytes()
    done = run("train", *TINY, "--out", "runs/copy", cwd=runs, check=1)
    assert "already holds a run" in done.stderr
    assert (runs / "runs" / "copy" / "model.safetensors").read_bytes() == before
    (runs / "runs" / "copy" / "notes.txt").write_text("mine")
    run("train", *TINY, "--seed", "5", "--force", "--out", "runs/copy", cwd=runs)
    assert kc_interp.load(runs / "runs" / "copy").spec.seed == 5
    assert (runs / "runs" / "copy" / "notes.txt").read_text() == "mine"


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The command as a process of its own, from a source tree."""
    return subprocess.Popen(
        [sys.executable, "-m", "kc_interp", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'probes'}"},
    )  # fmt: skip


def test_ctrl_c_keeps_what_is_done_and_resume_ends_with_the_same_weights(runs: Path) -> None:
    longer = [*TINY, "--steps", "800", "--set", "train.checkpoint_every=40"]
    undisturbed = start("train", *longer, "--out", "runs/whole", cwd=runs)
    assert undisturbed.wait(timeout=120) == 0
    cut = runs / "runs" / "cut"
    process = start("train", *longer, "--out", "runs/cut", cwd=runs)
    deadline = time.monotonic() + 60
    while not (cut / "train-state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "continue with: kc-interp train --resume" in errors
    with pytest.raises(CheckpointError, match="is the run finished"):
        kc_interp.load(cut)
    resumed = start("train", "--resume", "--threads", "1", "--out", "runs/cut", cwd=runs)
    assert resumed.wait(timeout=120) == 0
    one, other = kc_interp.load(runs / "runs" / "whole"), kc_interp.load(cut)
    assert one.spec == other.spec
    assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())


def test_a_config_file_is_overridden_by_options_and_those_by_set(tmp_path: Path) -> None:
    from kc_interp.cli.train import build

    config = tmp_path / "run.toml"
    config.write_text("seed = 7\n[task]\ndepth = 1\noperations = ['SUM']\n[train]\nlr = 0.01\nsteps = 5\n")
    spec = build("quick", config, {"train": {"steps": 9}, "": {"seed": None}}, ["train.clip=0.5", "task.modulus=7"])
    assert (spec.seed, spec.train.lr, spec.train.steps, spec.train.clip) == (7, 0.01, 9, 0.5)
    assert spec.task.settings["depth"] == 1
    assert spec.task.settings["modulus"] == 7


def test_data_commands(tmp_path: Path) -> None:
    counts = json.loads(run("data", "counts", "--ops", "SUM", "--n-train", "1000", "--json", cwd=tmp_path).stdout)
    assert counts["questions"] == {"1": 1100, "2": 1_368_863_100}
    assert run("data", "sample", "-n", "3", "--ops", "MAX,SUM", cwd=tmp_path).stdout.count("=") == 3
    run("data", "sample", "-n", "200", "--out", "a.tsv", cwd=tmp_path)
    run("data", "sample", "-n", "50", "--test", "--seed", "1", "--out", "b.tsv", cwd=tmp_path)
    read = json.loads(
        run(
            "data", "import", "a.tsv", "--check", "upper", "--out", "l.tsv", "--layout", "lra", "--json", cwd=tmp_path
        ).stdout
    )
    assert read["rows"] == 200
    assert (tmp_path / "l.tsv").read_text().startswith("Source\tTarget\n")
    clean = json.loads(run("data", "check", "a.tsv", "--test", "b.tsv", "--own-split", "--json", cwd=tmp_path).stdout)
    assert clean["faults"] == []
    leaky = run("data", "check", "a.tsv", "--test", "a.tsv", "--json", cwd=tmp_path, check=1)
    assert "distinct questions are in both" in json.loads(leaky.stdout)["faults"][0]


def test_list_names_what_is_installed_and_whose_it_is(tmp_path: Path) -> None:
    listed = json.loads(run("list", "--json", cwd=tmp_path).stdout)
    assert {p["name"] for p in listed["probes"]} >= {"activation-patching", "embedding-geometry"}
    assert {p["distribution"] for p in listed["tasks"]} == {"kc-interp"}


def test_a_full_disk_is_one_message_and_leaves_no_half_file(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kc_interp.files.os.fsync", full)
    done = run(
        "probe",
        "--model",
        str(runs / "runs" / "sum"),
        "--only",
        "embedding-geometry",
        "--out",
        "r",
        cwd=tmp_path,
        check=1,
    )
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_ctrl_c_while_probing_keeps_the_findings_made_so_far(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kc_probes.head_ablation import HeadAblation

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HeadAblation, "run", interrupted)
    done = run(
        "probe", "--model", "runs/sum", "--only", "embedding-geometry", "--only", "head-ablation", "--out", "cut",
        cwd=runs, check=130,
    )  # fmt: skip
    assert "report: cut/report.html" in done.stdout
    found = json.loads((runs / "cut" / "findings.json").read_text())
    assert [finding["probe"] for finding in found["findings"]["sum"]] == ["embedding-geometry"]
    assert "This report is incomplete: probing was interrupted." in found["notes"]


def test_a_probe_that_fails_says_so_and_the_others_still_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kc_probes.head_ablation import HeadAblation

    def broken(*_: object) -> None:
        raise ZeroDivisionError("heads")

    monkeypatch.setattr(HeadAblation, "run", broken)
    done = run(
        "probe", "--model", "runs/sum", "--only", "head-ablation", "--only", "embedding-geometry", "--out", "one",
        cwd=runs,
    )  # fmt: skip
    assert "failed: head-ablation on sum: ZeroDivisionError: heads" in done.stdout
    found = json.loads((runs / "one" / "findings.json").read_text())
    assert [finding["status"] for finding in found["findings"]["sum"]] == ["failed", "unlearned"]


def test_the_readmes_python_opens_a_run_in_transformer_lens(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^\S", block, re.MULTILINE)) == 3
    monkeypatch.chdir(runs)
    seen: dict[str, Any] = {}
    exec(block.replace("[SUM 1 [SUM 4 3]]", "[SUM 1 3]"), seen)  # the test's run has four numbers and no nesting
    model = kc_interp.load("runs/sum").hooked()
    assert type(model).__name__ == "HookedTransformer"
    assert seen["logits"].shape[-1] == model.cfg.d_vocab
    assert "blocks.1.attn.hook_pattern" in seen["cache"]
