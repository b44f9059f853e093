"""Executors: a worker that dies costs one more try and no result, what raises is reported, and Ray asks to be there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kc_interp.scaling.executors import Done, Executor, ExecutorError, Failed, Local, Progress, Ray
from kc_interp.scaling.schedule import Job, unpack, work
from kc_interp.scaling.study import Study
from tests.test_study import tiny

ROOT = Path(__file__).parents[1]


def jobs_of(study: Study, **changes: Any) -> list[Job]:
    return [Job(one, study.criterion, study.items, **changes) for one in study.grouped(study.runs())]


def values(answer: bytes) -> list[Any]:
    """What must not depend on who did the work."""
    return [(one["key"], one["metrics"], one["curve"], one["learned"]) for one in unpack(answer)[0]["runs"]]


@pytest.fixture
def local() -> Iterator[Local]:
    executor = Local(1, 1)
    yield executor
    executor.close()


def test_a_worker_that_is_killed_costs_nothing_and_one_that_raises_stops_no_other(local: Local) -> None:
    [job] = jobs_of(tiny(grid={}, base__train__steps=120))
    [broken] = jobs_of(tiny(grid={}), device="cuda:99")
    done: dict[str, bytes] = {}
    failed: list[Failed] = []
    killed = 0
    for event in local.run([job, broken]):
        if isinstance(event, Progress) and not killed:
            assert event.job == job and 0 < event.step < 120
            os.kill(local._pool[0].process.pid or 0, signal.SIGKILL)
            killed += 1
        elif isinstance(event, Done):
            done[event.job.ensemble.key] = event.answer
        elif isinstance(event, Failed):
            failed.append(event)
    assert killed == 1 and list(done) == [job.ensemble.key]
    assert [one.job for one in failed] == [broken] and "cuda" in failed[0].reason
    assert values(done[job.ensemble.key]) == values(work(job))


def test_a_job_whose_workers_die_twice_is_reported(local: Local) -> None:
    [job] = jobs_of(tiny(grid={}, base__train__steps=3000))
    events = []
    for event in local.run([job]):
        events.append(event)
        if isinstance(event, Progress) and local._pool[0].process.is_alive():
            os.kill(local._pool[0].process.pid or 0, signal.SIGKILL)
            local._pool[0].process.join()
    assert [type(event) for event in events if not isinstance(event, Progress)] == [Failed]
    assert events[-1] == Failed(job, "its worker process died 2 times (exit status -9)")


def test_workers_end_with_a_driver_that_is_killed() -> None:
    program = """
from kc_interp.scaling.executors import Local
from tests.test_executors import jobs_of
from tests.test_study import tiny
if __name__ == "__main__":
    local = Local(1, 1)
    for event in local.run(jobs_of(tiny(grid={}, base__train__steps=1_000_000))):
        print(local._pool[0].process.pid, flush=True)
"""
    driver = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.communicate()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_ray_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ExecutorError, match=r"needs Ray, which cannot be imported .*pip install 'kc-interp\[ray\]', or use"
    ):
        next(Ray().run(jobs_of(tiny(grid={}))))


def test_ray_is_imported_only_when_asked_for() -> None:
    program = "import sys; import kc_interp.scaling.sweep, kc_interp.scaling.executors; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def ray() -> Any:
    return pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")


def test_a_cluster_that_is_not_there_is_named() -> None:
    ray()
    with pytest.raises(ExecutorError, match=r"no Ray cluster answers at '127.0.0.1:1' .*ray start --head"):
        next(Ray("127.0.0.1:1").run(jobs_of(tiny(grid={}))))


@pytest.mark.slow
def test_a_node_that_goes_away_in_mid_sweep_costs_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes on this machine; the one that is no head is removed while it works."""
    ray()
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    jobs = jobs_of(tiny(runs_per_ensemble=1, base__train__steps=600))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    extra = cluster.add_node(num_cpus=1)
    executor: Executor = Ray(cluster.address)
    done: dict[str, bytes] = {}
    try:
        for event in executor.run(jobs):
            assert isinstance(event, Done), event
            done[event.job.ensemble.key] = event.answer
            if len(done) == 1:
                cluster.remove_node(extra, allow_graceful=False)
    finally:
        executor.close()
        cluster.shutdown()
    assert done.keys() == {job.ensemble.key for job in jobs}
    for job in jobs:
        assert values(done[job.ensemble.key]) == values(work(job))
