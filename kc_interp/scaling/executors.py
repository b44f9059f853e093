"""Where ensembles are worked on: in processes of this machine, or on a Ray cluster. The driver sees one interface.

A worker that dies (a kill, no memory, a node that goes away) costs its ensemble one more try, elsewhere; one that dies
again, or raises, is reported, and the others go on. Work is a function of its job alone, so a second try gives what
the first would have given.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kc_interp.errors import KCInterpError

if TYPE_CHECKING:
    from kc_interp.scaling.schedule import Job


class ExecutorError(KCInterpError):
    """There is nothing to compute on: Ray is not installed, its cluster does not answer, or no worker starts."""


@dataclass(frozen=True)
class Progress:
    """A job has made so many steps."""

    job: Job
    step: int


@dataclass(frozen=True)
class Done:
    """A job's answer, for `schedule.unpack`."""

    job: Job
    answer: bytes


@dataclass(frozen=True)
class Failed:
    """A job that gave no answer, and why."""

    job: Job
    reason: str


Event = Progress | Done | Failed


@runtime_checkable
class Executor(Protocol):
    """The contract: every job ends in one Done or Failed, in any order. Jobs are taken as there is room for them."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Work on the jobs. Raises ExecutorError when there is nothing to work on."""

    def close(self) -> None:
        """End what is still at work, and let go of processes and connections."""


TRIES = 2
"""How often a job is begun before its worker's death counts as the job's fault."""


class Local:
    """Worker processes on this machine, each with its own threads (None: the cores divided among them).

    They are spawned, so they share no state with the driver, kept from one `run` to the next, and end with the driver,
    however that ends.
    """

    def __init__(self, workers: int = 1, threads: int | None = None) -> None:
        self.workers = workers
        self.threads = threads or max(1, (os.cpu_count() or 1) // workers)
        self._pool: list[_Worker] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """See `Executor`."""
        source = iter(jobs)
        again: list[tuple[Job, int]] = []

        def following() -> tuple[Job, int] | None:
            return again.pop() if again else next(((job, 1) for job in source), None)

        while True:
            self._assign(following)
            busy = {worker.connection: worker for worker in self._pool if worker.job is not None}
            if not busy:
                return
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                job, tries = worker.assigned()
                event = worker.receive()
                if event is not None:
                    yield event
                    continue
                self._pool.remove(worker)
                status = worker.end()
                if tries < TRIES:
                    again.append((job, tries + 1))
                else:
                    yield Failed(job, f"its worker process died {tries} times (exit status {status})")

    def _assign(self, following: Callable[[], tuple[Job, int] | None]) -> None:
        """Give every idle worker something to do, and start those that are missing, while there are jobs."""
        idle = [worker for worker in self._pool if worker.job is None]
        while idle or len(self._pool) < self.workers:
            if (assignment := following()) is None:
                return
            if idle:
                worker = idle.pop()
            else:
                worker = _Worker(self.threads)
                self._pool.append(worker)
            worker.give(*assignment)

    def close(self) -> None:
        """See `Executor`."""
        while self._pool:
            self._pool.pop().end()


class _Worker:
    """One process and the job it is at."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job: Job | None = None
        self.tries = 0
        self.process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, job: Job, tries: int) -> None:
        self.job, self.tries = job, tries
        with contextlib.suppress(OSError):  # a worker that is gone is noticed when its answer is awaited
            self.connection.send(job)

    def assigned(self) -> tuple[Job, int]:
        assert self.job is not None, "only a worker at work has something to say"
        return self.job, self.tries

    def receive(self) -> Event | None:
        """What the worker says; None when it is gone."""
        job, _ = self.assigned()
        try:
            kind, said = self.connection.recv()
        except (EOFError, OSError):
            return None
        if kind == "step":
            return Progress(job, said)
        self.job = None
        return Done(job, said) if kind == "done" else Failed(job, said)

    def end(self) -> int | None:
        """End the process; its exit status. One that Ctrl-C reached too has a moment to keep its state."""
        self.connection.close()
        self.process.join(timeout=2)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _serve(connection: Connection, threads: int) -> None:
    """The life of a worker process: jobs in, steps and answers out, until the driver closes the connection or dies."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported, which happens in `answer`
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            connection.send(answer(connection.recv(), _Throttled(connection)))


def answer(job: Job, on_progress: Callable[[int], None] = lambda step: None) -> tuple[str, Any]:
    """`work` as a message: what it raises is an answer too, since only a worker's death is worth another try."""
    from kc_interp.scaling import schedule

    try:
        return "done", schedule.work(job, on_progress)
    except KCInterpError as error:
        return "failed", str(error)
    except BrokenPipeError:
        raise  # the driver is gone
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


def _die_with_the_driver() -> None:
    """A driver that is killed closes no connection that a worker in the middle of a step would look at."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a child process"
    wait([parent.sentinel])
    os._exit(1)


class _Throttled:
    """Sends the number of steps at most twice a second."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._last = connection, 0.0

    def __call__(self, step: int) -> None:
        now = time.monotonic()
        if now - self._last > 0.5:
            self._last = now
            self._connection.send(("step", step))


class Ray:
    """A Ray cluster (extra `ray`), from the same study: one task an ensemble, retried when its worker or node dies.

    `address`: as `ray.init` takes it, "auto" for the cluster that this machine belongs to. kc_interp must be installed
    on every node, in the same version. `workers`: how many ensembles are handed over at a time (None: all). Each asks
    for `threads` CPUs and `gpus` GPUs.
    """

    def __init__(
        self, address: str = "auto", *, workers: int | None = None, threads: int | None = None, gpus: float = 0
    ) -> None:
        self.address, self.workers, self.threads, self.gpus = address, workers, threads or 1, gpus
        self._ray: Any = None
        self._ours = False
        self._pending: dict[Any, Job] = {}

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """See `Executor`."""
        self._connect()
        remote = self._ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=TRIES - 1)(answer)
        source = iter(jobs)
        while True:
            while self.workers is None or len(self._pending) < self.workers:
                if (job := next(source, None)) is None:
                    break
                self._pending[remote.remote(job)] = job
            if not self._pending:
                return
            for reference in self._ray.wait(list(self._pending), num_returns=1)[0]:
                yield self._event(self._pending.pop(reference), reference)

    def _event(self, job: Job, reference: Any) -> Event:
        try:
            kind, said = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Failed(job, f"Ray gave it up after {TRIES} tries: {type(error).__name__}: {_first_line(error)}")
        return Done(job, said) if kind == "done" else Failed(job, said)

    def _connect(self) -> None:
        self._ray = _ray()
        if self._ray.is_initialized():
            return
        try:
            _require_answer(self.address)
            self._ray.init(address=self.address, log_to_driver=False, logging_level="error")
        except (OSError, RuntimeError, ValueError) as error:
            raise ExecutorError(
                f"no Ray cluster answers at {self.address!r} ({_first_line(error)}); start one with `ray start "
                "--head`, name another with --address, or use --executor local"
            ) from error
        self._ours = True

    def close(self) -> None:
        """See `Executor`. A connection that others opened stays open."""
        for reference in self._pending:
            self._ray.cancel(reference, force=True)
        self._pending.clear()
        if self._ours:
            self._ray.shutdown()
            self._ours = False


def _require_answer(address: str) -> None:
    """Raise OSError when nothing listens at host:port: Ray itself would wait for minutes."""
    wanted = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    host, colon, port = wanted.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ExecutorError(
            f"--executor ray needs Ray, which cannot be imported ({error}); install it with "
            "pip install 'kc-interp[ray]', or use --executor local"
        ) from error
