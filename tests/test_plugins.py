"""Other packages' probes and tasks are found and run, a broken one breaks alone, and listing imports nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kc_interp import plugins
from kc_interp.checkpoint import load
from kc_interp.errors import PluginError, SpecError
from kc_interp.plugins import find, installed, make_probe, make_task
from kc_interp.probe import Subject
from kc_interp.probing import run_probes
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.tasks.listops import ListOps
from kc_interp.train import train
from tests.packages import install

ROOT = Path(__file__).resolve().parents[1]
ADDING = (ROOT / "tests" / "adding.py").read_text()
COUNTING = '''
"""A probe of another package."""
from dataclasses import dataclass
from kc_interp.finding import Finding, Number

@dataclass(frozen=True)
class Counting:
    """Counts parameters.

    More is said here.
    """
    factor: int = 1

    def run(self, subject):
        count = subject.checkpoint.parameter_count * self.factor
        return Finding("?", subject.name, "Counting", "So many.", numbers=(Number("count", "Count", count),))

@dataclass(frozen=True)
class Failing:
    def run(self, subject):
        raise ZeroDivisionError("never mind")

@dataclass(frozen=True)
class Speechless:
    def run(self, subject):
        return None

@dataclass(frozen=True)
class Unplain:
    def run(self, subject):
        return Finding("?", subject.name, "t", "s", settings={"model": object()})

class Loose:
    def run(self, subject):
        return None

@dataclass(frozen=True)
class Idle:
    pass

@dataclass(frozen=True)
class Refusing:
    size: int = 0

    def __post_init__(self):
        if self.size:
            raise ValueError("too large")
'''


@pytest.fixture
def foo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution "foo" with probes, a task, and some that are broken."""
    install(
        monkeypatch,
        tmp_path / "foo",
        "foo",
        modules={"foo_probes": COUNTING, "foo_adding": ADDING, "foo_broken": "import a_module_that_is_not_there\n"},
        probes={
            "counting": "foo_probes:Counting",
            "broken": "foo_broken:Anything",
            "absent": "foo_probes:NotThere",
            "loose": "foo_probes:Loose",
            "idle": "foo_probes:Idle",
            "refusing": "foo_probes:Refusing",
        },
        tasks={"adding": "foo_adding:Adding", "no-task": "foo_probes:Counting"},
    )
    return tmp_path


def names(kind: plugins.Kind) -> list[str]:
    return [plugin.name for plugin in installed(kind)]


@pytest.mark.usefixtures("foo")
def test_another_packages_task_is_found_trained_and_loaded_and_its_probe_run(tmp_path: Path) -> None:
    spec = RunSpec(
        TaskSpec("adding", {"modulus": 5}),
        DataSpec(n_train=200, test_fraction=0.3, holdout_pairs=1),
        ModelSpec(d_model=8, n_heads=2),
        TrainSpec(steps=4, batch_size=8),
    )
    train([spec], folders=[tmp_path / "run"])
    checkpoint = load(tmp_path / "run")
    assert checkpoint.task == make_task(TaskSpec("adding", {"modulus": 5}))
    assert checkpoint.tokens.symbols == ("<end>", "+", ">", "=", *"01234")
    probe = make_probe("counting", {"factor": 2})
    [found] = run_probes({"counting": probe}, [Subject("m", checkpoint)])
    assert (found.probe, found.status) == ("counting", "ok")
    assert found["count"].value == 2 * checkpoint.parameter_count


@pytest.mark.usefixtures("foo")
def test_listing_names_ours_first_and_imports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("foo_probes", "foo_broken", "foo_adding", "kc_probes.embedding_geometry"):
        monkeypatch.delitem(sys.modules, module, raising=False)  # put back afterwards: others hold its classes
    probes, tasks = installed("probes"), installed("tasks")
    assert not {"foo_probes", "foo_broken", "foo_adding", "kc_probes.embedding_geometry"} & sys.modules.keys()
    owners = [plugin.distribution for plugin in probes]
    assert owners == sorted(owners, key=lambda owner: owner != "kc-interp") and "foo" in owners
    assert {"listops", "adding"} <= {plugin.name for plugin in tasks}
    counting = find("probes", "counting")
    assert (counting.singular, counting.value, counting.says()) == (
        "probe",
        "foo_probes:Counting",
        "Counts parameters.",
    )


@pytest.mark.usefixtures("foo")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "broken",
            r"the probe 'broken' of foo \(foo_broken:Anything\) cannot be imported: ModuleNotFoundError: No mod",
        ),
        ("absent", r"the probe 'absent' of foo .* cannot be imported: AttributeError"),
        ("loose", r"the probe 'loose' \(foo_probes:Loose\) is not a dataclass of settings"),
        ("idle", "'idle' is announced as a probe, but has no method `run`"),
        ("countin", "no probe 'countin' is installed; did you mean 'counting'"),
    ],
)
def test_a_broken_probe_is_refused_by_its_name_and_the_others_work(name: str, message: str) -> None:
    assert name == "countin" or name in names("probes")
    with pytest.raises(PluginError, match=message):
        make_probe(name)
    assert make_probe("counting") and make_probe("embedding-geometry")


@pytest.mark.usefixtures("foo")
def test_settings_that_do_not_fit_a_plug_in_are_refused() -> None:
    with pytest.raises(SpecError, match="probe counting: unknown key 'facto'; did you mean 'factor'"):
        make_probe("counting", {"facto": 1})
    with pytest.raises(PluginError, match="'refusing' of foo refuses its settings: ValueError: too large"):
        make_probe("refusing", {"size": 1})
    with pytest.raises(SpecError, match="modulus is 1, terms is 3; each must be at least 2"):
        make_task(TaskSpec("adding", {"modulus": 1}))
    with pytest.raises(PluginError, match="'no-task' is announced as a task, but lacks symbols, classes, used"):
        make_task(TaskSpec("no-task"))


@pytest.mark.usefixtures("foo")
def test_two_packages_with_one_name_are_refused_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        monkeypatch,
        tmp_path / "bar",
        "bar",
        modules={"bar_tasks": ADDING},
        probes={"counting": "bar_probes:Other"},
        tasks={"listops": "bar_tasks:Adding"},
    )
    both = r"two packages offer a probe 'counting': bar \(bar_probes:Other\) and foo \(foo_probes:Counting\); uninstall"
    with pytest.raises(PluginError, match=both):
        make_probe("counting")
    with pytest.raises(PluginError, match=r"two packages offer a task 'listops': kc-interp .* and bar"):
        make_task(TaskSpec("listops"))
    assert names("probes").count("counting") == 2 and make_probe("embedding-geometry")


@pytest.mark.usefixtures("foo")
def test_a_probe_that_raises_or_returns_nonsense_is_a_failed_finding_and_the_others_run() -> None:
    import foo_probes  # type: ignore[import-not-found]

    from tests.test_checkpoint import untrained

    probes = {
        "failing": foo_probes.Failing(),
        "speechless": foo_probes.Speechless(),
        "unplain": foo_probes.Unplain(),
        "counting": foo_probes.Counting(),
    }
    seen: list[tuple[str, str]] = []
    subjects = [Subject("a", untrained()), Subject("b", untrained())]
    found = run_probes(probes, subjects, on_progress=lambda *at: seen.append(at))
    assert [(one.probe, one.subject) for one in found] == seen == [(p, s) for p in probes for s in "ab"]
    assert [one.status for one in found[::2]] == ["failed", "failed", "failed", "ok"]
    assert found[0].sentence == "ZeroDivisionError: never mind"
    assert "the probe returned NoneType, expected a kc_interp.finding.Finding" in found[2].sentence
    assert "object is not JSON serializable" in found[4].sentence


def test_a_source_tree_that_is_not_installed_finds_the_built_ins(tmp_path: Path) -> None:
    """On a bare GPU machine: the tree copied, the dependencies there, no distribution of ours."""
    for part in ("kc_interp", "probes"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    program = """
import sys
from importlib import metadata
real = metadata.entry_points
metadata.entry_points = lambda **select: [e for e in real(**select) if e.dist is None or e.dist.name != "kc-interp"]
from kc_interp import plugins
from kc_interp.spec import TaskSpec
assert plugins.__file__.startswith(sys.argv[1]), plugins.__file__
print(sorted(p.name for p in plugins.installed("probes")), plugins.make_task(TaskSpec()), end=" ")
print(type(plugins.make_probe("embedding-geometry")).__module__)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "'embedding-geometry'" in found.stdout and repr(ListOps()) in found.stdout
    assert found.stdout.split()[-1] == "kc_probes.embedding_geometry"
