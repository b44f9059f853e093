"""The driver: what a study asks for and the store does not hold is handed out, and what comes back is stored.

It alone writes. An ensemble's answer is stored whole before it counts as done, so that a driver killed at any moment
goes on with the ensembles that are missing, and ends with the keys and values of one that was left alone. A study that
tunes its learning rates or places its runs adaptively goes in rounds: the runs of a round follow from the completed
rounds before it, whoever trained them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kc_interp.errors import KCInterpError
from kc_interp.records import Record, Store
from kc_interp.scaling.executors import Done, Executor, Failed, Progress
from kc_interp.scaling.schedule import Job, states_of, unpack
from kc_interp.scaling.study import Ensemble, Run, Study, TunedRate, check
from kc_interp.spec import to_plain

Verdicts = Mapping[str, bool | None]
"""Whether a run learned (None: its task lacks the skill in question), by its key, for every run that is stored."""


@dataclass(frozen=True)
class Update:
    """Where a sweep stands: runs stored, runs asked for, the share of the work done, and what was stored last."""

    done: int
    total: int
    share: float
    seconds_left: float | None
    last: tuple[Record, ...] = ()


@dataclass
class Outcome:
    """What a sweep did. `failures` are sentences; `driver_seconds` is what it did itself while workers could wait."""

    made: int = 0
    failures: list[str] = field(default_factory=list)
    rates: list[TunedRate] = field(default_factory=list)
    wall_seconds: float = 0.0
    driver_seconds: float = 0.0


def sweep(
    study: Study,
    store: Store,
    executor: Executor,
    *,
    device: str = "cpu",
    keep_states: bool = True,
    on_update: Callable[[Update], None] = lambda update: None,
    on_tuned: Callable[[Sequence[TunedRate]], None] = lambda rates: None,
) -> Outcome:
    """Run what is missing. The caller closes store and executor.

    `keep_states`: workers keep the state of unfinished ensembles beside the store (they must see its disk). `on_tuned`
    is told the learning rates once they are found. Raises
    SpecError, DataError, PluginError or StoreError before anything starts; an ensemble that fails is in the outcome,
    and the next sweep tries it again.
    """
    check(study)
    store.begin(study.name, study.settings)
    began = time.perf_counter()
    drive = _Drive(study, store, device, keep_states, on_update)

    def stored() -> list[Record]:
        found = store.records(study.name)
        drive.outcome.rates = study.rates(found)
        on_tuned(drive.outcome.rates)
        return found

    for ensembles in rounds(study, drive.verdicts, stored):
        drive.expect(ensembles)
        for level in _levels(ensembles):
            drive.work_on(level, executor)
        if drive.outcome.failures:
            break
    drive.outcome.wall_seconds = time.perf_counter() - began
    return drive.outcome


def rounds(study: Study, verdicts: Verdicts, stored: Callable[[], Iterable[Record]] = list) -> Iterator[list[Ensemble]]:
    """The ensembles of a study in rounds, the completed ones included; `verdicts` is read anew after each.

    What finds the learning rates is a round of its own, after which the records that are `stored` are asked for. On a
    grid there is one more. Adaptively each round has a batch of every condition that is not settled; it must be
    completed before the next is asked for. Runs whose weights those of a batch need are made with them; they count for
    their own arm's placement only where that asks for them too.
    """
    if study.tuning is not None:
        yield study.grouped(study.tuning_runs())
        study = study.tuned(stored())
    if study.placement.kind == "grid":
        yield study.grouped(study.runs())
        return
    from kc_interp.scaling import placement

    placed = [condition for condition in study.conditions() if condition[0].placed]
    searches = [(*condition, _search(study, *condition), []) for condition in placed]  # type: ignore[var-annotated]
    known: set[str] = set()
    while True:
        fresh: dict[str, Run] = {}
        batch: list[tuple[Run, placement.Run, list[placement.Outcome]]] = []
        for arm, point, search, outcomes in searches:
            for asked in search.next_batch(outcomes).runs:
                runs = study.with_sources(arm, {**point, "d_model": asked.width}, asked.seed)
                fresh |= {run.key: run for run in runs if run.key not in known}
                batch.append((runs[-1], asked, outcomes))
        if not batch:
            return
        known |= fresh.keys()
        yield study.grouped(list(fresh.values()))
        for run, asked, outcomes in batch:
            outcomes.append(placement.Outcome(asked, bool(verdicts[run.key])))


def _search(study: Study, arm: Any, point: Mapping[str, Any]) -> Any:
    """The placement of one condition's runs: its sizes are parameter counts at the widths of the grid."""
    from kc_interp.scaling.placement import Placement

    widths = tuple(sorted(set(study.grid.d_model)))
    sizes = tuple(parameter_count(study.run(arm, {**point, "d_model": width}, 0)) for width in widths)
    asked = study.placement
    return Placement(widths, sizes, asked.runs, asked.batch, asked.width_dex)


def parameter_count(run: Run) -> int:
    """The trainable parameters of a run that was not made yet."""
    from kc_interp import plugins
    from kc_interp.checkpoint import context_length
    from kc_interp.model import parameters
    from kc_interp.tokens import Tokens

    task = plugins.make_task(run.spec.task)
    d_vocab = len(Tokens.of(task, run.spec.data.vocabulary))
    return parameters.count(run.spec.model, d_vocab=d_vocab, n_ctx=context_length(run.spec, task))


def total_runs(study: Study) -> int:
    """How many runs a study asks for (adaptively: at most), those that find its learning rates included."""
    tuning = len(study.tuning_runs())
    if study.placement.kind == "adaptive":
        needed = [len(study.with_sources(arm, point, 0)) for arm, point in study.conditions() if arm.placed]
        return tuning + study.placement.runs * sum(needed)
    return tuning + len(study.seed_list) * len(list(study.grid.points())) * len(study.arms)


def total_cost(study: Study) -> float:
    """What all ensembles of a study on a grid cost. Their learning rates, unknown or not, make no difference."""
    own = dataclasses.replace(study, tuning=None).runs()
    return sum(one.cost for runs in (study.tuning_runs(), own) for one in study.grouped(runs))


def _levels(ensembles: Sequence[Ensemble]) -> list[list[Ensemble]]:
    """Ensembles whose members begin with others' weights come after those."""
    levels = sorted({ensemble.runs[0].level for ensemble in ensembles})
    return [[ensemble for ensemble in ensembles if ensemble.runs[0].level == level] for level in levels]


class _Drive:
    """One sweep in progress: what is stored, what is under way, and how long the rest may take."""

    def __init__(
        self, study: Study, store: Store, device: str, keep_states: bool, on_update: Callable[[Update], None]
    ) -> None:
        self.study, self.store, self.device = study, store, device
        self.states = store.files / "states" if keep_states else None
        self.on_update = on_update
        self.verdicts = {record.key: record.learned for record in store.records(study.name)}
        self.outcome = Outcome()
        self._total = total_runs(study)
        self._cost = total_cost(study) if study.placement.kind == "grid" else 0.0
        self._before, self._made = 0.0, 0.0
        self._under_way: dict[str, float] = {}
        self._began = time.monotonic()

    def expect(self, ensembles: Sequence[Ensemble]) -> None:
        """Count the work of a round that is done already."""
        self._before += sum(one.cost for one in ensembles if not self._missing(one))

    def _missing(self, ensemble: Ensemble) -> bool:
        return any(run.key not in self.verdicts for run in ensemble.runs)

    def work_on(self, ensembles: Sequence[Ensemble], executor: Executor) -> None:
        """Have all that is missing of these worked on, and store it as it comes."""
        self._tell(())
        for event in executor.run(self._jobs([one for one in ensembles if self._missing(one)])):
            began = time.perf_counter()
            ensemble = event.job.ensemble
            if isinstance(event, Progress):
                self._under_way[ensemble.key] = ensemble.cost * event.step / ensemble.steps
                self._tell(())
            elif isinstance(event, Done):
                self._under_way.pop(ensemble.key, None)
                self._store(event)
            else:
                self._under_way.pop(ensemble.key, None)
                self._fail(event.job.ensemble, event)
            self.outcome.driver_seconds += time.perf_counter() - began

    def _jobs(self, ensembles: Sequence[Ensemble]) -> Iterator[Job]:
        for ensemble in ensembles:
            began = time.perf_counter()
            try:
                starts = self._starts(ensemble)
            except KCInterpError as error:
                self._fail(ensemble, str(error))
                continue
            finally:
                self.outcome.driver_seconds += time.perf_counter() - began
            yield Job(
                ensemble,
                self.study.criterion,
                self.study.items,
                self.study.probes,
                starts,
                None if self.states is None else str(self.states.resolve()),
                self.device,
            )

    def _starts(self, ensemble: Ensemble) -> dict[str, bytes]:
        """The weights that members begin with, from the store. Raises KCInterpError when some are not there."""
        wanted = {run.source for run in ensemble.runs if run.source is not None}
        if not wanted:
            return {}
        found = {record.key: self.store.weights_path(record) for record in self.store.records(keys=wanted)}
        missing = [key for key in sorted(wanted) if (path := found.get(key)) is None or not path.is_file()]
        if missing:
            raise KCInterpError(
                f"the weights of run {missing[0][:8]}, from which it starts, are not in {self.store.files}; train "
                "their arm first, or all anew with --new where the records came without weights"
            )
        return {key: path.read_bytes() for key, path in found.items() if path is not None}

    def _store(self, event: Done) -> None:
        ensemble = event.job.ensemble
        facts, weights = unpack(event.answer)
        fresh = [
            self._record(ensemble, member, facts)
            for member, run in enumerate(ensemble.runs)
            if run.key not in self.verdicts
        ]
        kept = {record.key: weights[record.key] for record in fresh} if self.study.keep_weights else {}
        self.store.add(fresh, kept)
        self.verdicts.update({record.key: record.learned for record in fresh})
        self.outcome.made += len(fresh)
        self._made += ensemble.cost
        if self.states is not None:
            for path in states_of(self.states, ensemble):
                path.unlink()
        self._tell(tuple(fresh))

    def _record(self, ensemble: Ensemble, member: int, facts: Mapping[str, Any]) -> Record:
        run, found = ensemble.runs[member], facts["runs"][member]
        plain = [to_plain(stage) for stage in run.stages]
        return Record(
            key=run.key,
            study=self.study.name,
            arm=run.arm,
            seed=run.seed,
            ensemble=ensemble.key,
            member=member,
            d_model=run.spec.model.d_model,
            parameters=found["parameters"],
            spec=plain[-1],
            stages=tuple(plain[:-1]),
            start=run.start,
            metrics=found["metrics"],
            learned=found["learned"],
            curve=tuple(found["curve"]),
            findings=tuple(found["findings"]),
            wall_seconds=facts["wall_seconds"],
            made=facts["made"],
            provenance=facts["provenance"],
        )

    def _fail(self, ensemble: Ensemble, event: Failed | str) -> None:
        reason = event if isinstance(event, str) else event.reason
        arms = ", ".join(sorted({run.arm for run in ensemble.runs}))
        width = ensemble.runs[0].spec.model.d_model
        self.outcome.failures.append(f"{len(ensemble.runs)} runs of {arms} at d_model {width}: {reason}")

    def _tell(self, last: tuple[Record, ...]) -> None:
        """Report the share of work done. The time left is what this session's pace makes of it."""
        now = self._made + sum(self._under_way.values())
        if self.study.placement.kind == "grid":
            share, gained = (self._before + now) / max(self._cost, 1), now / max(self._cost, 1)
        else:
            share, gained = len(self.verdicts) / self._total, self.outcome.made / self._total
        elapsed = time.monotonic() - self._began
        left = elapsed * (1 - share) / gained if gained > 0 else None
        self.on_update(Update(len(self.verdicts), self._total, share, left, last))
