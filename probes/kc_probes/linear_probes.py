"""Linear probes: what can be read linearly from the residual stream, at which block, and when in the chain of thought?

Each line of a chain writes the result of one reduction. At the position that predicts it the stream is read before
every block, between its attention and its MLP, and after the last: the operands of the reduction, its result, how many
reductions are left, and, on lines before the last, the answer that is not yet worked out. The result is read at two
earlier positions too, the last symbol of the line before and the separator: is it there before it is needed? Scores are
held out by question, and once by orbit: of reductions that the probe has never seen, in any order.

Three controls: the commonest label; the same probe with random labels for every type of input (selectivity, Hewitt &
Liang 2019); and the same model with fresh weights. And an intervention: the directions along which a target's values
differ are taken out of the stream at that stage, beside as many found in the same way for random labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.circuits.linear import (
    Discriminants,
    Reading,
    choose_strength,
    control_labels,
    part_of,
    read_values,
    shares,
)
from kc_interp.circuits.transplant import untrained
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import Edit, Sites, blocks, embed, mlp, unembed
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec
from kc_interp.statistics import wilson
from kc_interp.tasks.task import Chains
from kc_probes.ablation import interval, require_enough
from kc_probes.written_lines import OPERANDS, Lines

FEWEST_QUESTIONS = 20
"""With fewer different test questions nothing can be held out."""

_CHAINS_A_CALL = 128
_LINES_SHOWN = 4
_UNKNOWN = "this task does not say what its lines work out"


@dataclass(frozen=True)
class Stage:
    """Where the stream is read: before block `block`, or with `mid` between its attention and its MLP."""

    block: int
    mid: bool
    says: str

    @classmethod
    def all_of(cls, depth: int) -> tuple[Stage, ...]:
        """In the order of computation; the last one, before a block that is not there, is after the last."""
        each = [
            (cls(block, False, f"before block {block}"), cls(block, True, f"after attention of block {block}"))
            for block in range(depth)
        ]
        return (*(stage for both in each for stage in both), cls(depth, False, "after the last block"))

    @property
    def key(self) -> str:
        return f"{'mid' if self.mid else 'stage'}{self.block}"


@dataclass(frozen=True)
class Target:
    """What is to be read: a number on some rows. `types` are what the control task labels at random."""

    key: str
    title: str
    rows: Bool[np.ndarray, " row"]
    labels: Int[np.ndarray, " row"]
    types: Int[np.ndarray, " row"]
    absent: str = ""

    @classmethod
    def all_of(cls, lines: Lines) -> tuple[Target, ...]:
        """The same targets for every task; one that it does not have has no rows, and `absent` says why."""
        none, every = np.zeros(len(lines), dtype=bool), np.ones(len(lines), dtype=bool)
        found = []
        for place in range(OPERANDS):
            key, title = f"operand{place + 1}", f"operand {place + 1} of the reduction"
            if lines.operands is None or lines.types is None:
                found.append(cls(key, title, none, lines.index, lines.index, _UNKNOWN))
            else:
                labels = lines.operands[:, place]
                found.append(cls(key, title, labels >= 0, labels, lines.types, "no reduction has so many operands"))
        if lines.results is None or lines.types is None:
            found.append(cls("result", "the line's result", none, lines.index, lines.index, _UNKNOWN))
        else:
            found.append(cls("result", "the line's result", every, lines.results, lines.types))
        return (
            *found,
            cls("left", "reductions left", every, lines.left, lines.shape, "every line has equally many left"),
            cls(
                "answer",
                "the answer, on lines before the last",
                lines.left > 0,
                lines.answers,
                lines.before,
                "no line comes before the last reduction",
            ),
        )


@dataclass(frozen=True)
class Streams:
    """The residual stream at every stage of every chain, short chains first: chunks `stage batch pos d_model`."""

    params: Mapping[str, Tensor]
    spec: ModelSpec
    chunks: tuple[Tensor, ...]

    @classmethod
    @torch.no_grad()
    def of(
        cls, params: Mapping[str, Tensor], spec: ModelSpec, ids: Int[Tensor, "1 batch pos"], lengths: np.ndarray
    ) -> Streams:
        names = [f"blocks.{index}.hook_resid_{part}" for index in range(spec.depth) for part in ("pre", "mid")]
        found = []
        for low in range(0, ids.shape[1], _CHAINS_A_CALL):
            width = int(lengths[low : low + _CHAINS_A_CALL].max()) - 1
            sites = Sites(record=names)
            after = blocks(params, spec, embed(params, ids[:, low : low + _CHAINS_A_CALL, :width]), sites=sites)
            found.append(torch.stack([*(sites.cache[name][0] for name in names), after[0]]))
        return cls(params, spec, tuple(found))

    def at(
        self, chain: Int[np.ndarray, " row"], position: Int[np.ndarray, " row"]
    ) -> Float[np.ndarray, "stage row d_model"]:
        """The stream of each row's chain at its position; rows must be in the order of chains."""
        parts = []
        for number, chunk in enumerate(self.chunks):
            mine = chain // _CHAINS_A_CALL == number
            parts.append(chunk[:, chain[mine] % _CHAINS_A_CALL, position[mine]])
        return torch.cat(parts, dim=1).double().cpu().numpy()

    @torch.no_grad()
    def predicted(
        self,
        stage: int,
        chain: Int[np.ndarray, " row"],
        position: Int[np.ndarray, " row"],
        edit: Edit,
    ) -> Int[np.ndarray, " row"]:
        """The most probable next token at each row's position when the stream of all rows is edited at a stage."""
        parts = []
        for number, chunk in enumerate(self.chunks):
            mine = chain // _CHAINS_A_CALL == number
            if not mine.any():
                continue
            # Only the chains that rows ask about.
            asked, row = np.unique(chain[mine] % _CHAINS_A_CALL, return_inverse=True)
            row, place = row.reshape(-1), position[mine]
            resid = chunk[stage, asked].clone()
            resid[row, place] = edit(resid[row, place])
            block, mid = divmod(stage, 2)
            entering = mlp(self.params, self.spec, resid[None], block) if mid else resid[None]
            after = blocks(self.params, self.spec, entering, first=block + mid)[0, row, place]
            parts.append(unembed(self.params, self.spec, after[None, None])[0, 0].argmax(-1))
        return torch.cat(parts).cpu().numpy()


@dataclass(frozen=True)
class Held:
    """Which rows a probe is fitted on, by question and by orbit; and weightings of the held-out questions."""

    train: Bool[np.ndarray, " row"]
    seen_orbit: Bool[np.ndarray, " row"]
    weights: Float[np.ndarray, "weighting chain"]

    @classmethod
    def of(cls, lines: Lines, share: float, resamples: int, rng: np.random.Generator) -> Held:
        """Weightings begin with the held-out questions themselves; a question's rows stay together."""
        test = part_of(lines.chain, share, rng)
        seen = np.ones(len(lines), dtype=bool) if lines.orbits is None else ~part_of(lines.orbits, share, rng)
        weights = np.zeros((resamples + 1, int(lines.chain.max()) + 1))
        names = np.unique(lines.chain[test])
        weights[0, names] = 1
        weights[1:, names] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        return cls(~test, seen, weights)


@dataclass(frozen=True)
class Scored:
    """One target at one stage. Arrays over `weighting` begin with the estimate and go on with its resamples."""

    accuracy: Float[np.ndarray, " weighting"]
    selectivity: Float[np.ndarray, " weighting"]
    r2: Float[np.ndarray, " weighting"]
    fresh_accuracy: float
    fresh_selectivity: float
    fresh_r2: float
    loss: Float[np.ndarray, " weighting"]
    random_loss: float
    directions: int
    majority: float
    questions: int
    by_line: tuple[Cell, ...]


@dataclass(frozen=True)
class LinearProbes:
    """Reads operands, results, the answer and what is left, at every block and line, held out and with controls.

    `chains` test items of `component` (of the mixture if the task has no such part), repeated questions left out; a
    share `held_out` of the questions, and of the orbits, is not fitted on. `controls` random labellings make one
    control task, `erasures` the control of the intervention. `resamples` of the held-out questions make intervals, the
    probes held fixed.
    """

    component: str | None = "SUM"
    chains: int = 600
    held_out: float = 0.3
    controls: int = 2
    erasures: int = 3
    resamples: int = 500

    def __post_init__(self) -> None:
        require_enough(self.chains, self.resamples)
        if not 0.05 <= self.held_out <= 0.95:
            raise SpecError(f"held_out is {self.held_out}; it must lie between 0.05 and 0.95")
        if min(self.controls, self.erasures) < 1:
            raise SpecError(
                f"controls is {self.controls} and erasures {self.erasures}; a control needs at least 1 random labelling"
            )

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when the task's chains have no lines, no digits as answers, or too few test questions."""
        return _Run.of(self, subject).finding()


@dataclass(frozen=True)
class _Run:
    """One subject's lines, its streams and those of fresh weights, and what is held out."""

    probe: LinearProbes
    subject: Subject
    chains: Chains
    lines: Lines
    held: Held
    streams: Streams
    fresh: Streams

    @classmethod
    def of(cls, probe: LinearProbes, subject: Subject) -> _Run:
        component = subject.component(probe.component)
        chains = subject.items(probe.chains, "linear-probes: chains", component)
        chains = chains.take(np.sort(np.unique(chains.symbols, axis=0, return_index=True)[1]))
        if len(chains) < FEWEST_QUESTIONS:
            raise ProbeError(
                f"{subject.name}: {len(chains)} different test questions; linear probes need {FEWEST_QUESTIONS} to "
                "hold some out. Raise `chains`, or test_fraction when training"
            )
        chains = chains.take(np.argsort(chains.lengths, kind="stable"))
        task = subject.task if component is None else subject.task.components()[component]
        lines = Lines.of(task, chains)
        held = Held.of(lines, probe.held_out, probe.resamples, subject.rng("linear-probes: held out"))
        spec, ids = subject.checkpoint.spec.model, subject.ids(chains)
        return cls(
            probe,
            subject,
            chains,
            lines,
            held,
            Streams.of(subject.params, spec, ids, chains.lengths),
            Streams.of(_fresh(subject), spec, ids, chains.lengths),
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        return Stage.all_of(self.streams.spec.depth)

    def finding(self) -> Finding:
        read, fresh = (streams.at(self.lines.chain, self.lines.queries) for streams in (self.streams, self.fresh))
        targets = Target.all_of(self.lines)
        scored = {
            (target.key, stage): self._scored(target, stage, read[stage], fresh[stage])
            for target in targets
            for stage in range(len(self.stages))
        }
        numbers = [self._right()]
        numbers += [
            number
            for target in targets
            for index, stage in enumerate(self.stages)
            for number in _numbers(target, stage, scored[target.key, index])
        ]
        numbers += self._unseen(targets, read)
        numbers += self._earlier(targets)
        return Finding(
            probe="linear-probes",
            subject=self.subject.name,
            title="Linear probes: what can be read, at which block and line, and whether it is used",
            sentence=self._sentence(targets, scored),
            status="unlearned" if self.subject.learned is False else "ok",
            numbers=tuple(numbers),
            tables=(_table(targets, scored, self.stages),),
            figures=tuple(_figures(targets, scored, self.stages)),
            settings=dataclasses.asdict(self.probe),
        )

    def _right(self) -> Number:
        """What the model itself writes at the positions read, on all lines held out: what there is to lose."""
        test = ~self.held.train
        truth = self.chains.symbols[self.lines.chain, self.lines.queries + 1]
        right = self._writes[test]
        return _number(
            "lines.right",
            "Lines whose result the model writes, given what comes before",
            self._share(right, np.ones(len(right)), test),
            len(np.unique(self.lines.chain[test])),
            float((truth[test] == np.bincount(truth[~test]).argmax()).mean()),
            "always the commonest symbol",
            "there is more to lose when directions are taken out",
        )

    @cached_property
    def _truth(self) -> Int[np.ndarray, " line"]:
        """The next symbol (a token) at every line's position."""
        return self.subject.tokens.encode(self.chains.symbols[self.lines.chain, self.lines.queries + 1])

    @cached_property
    def _writes(self) -> Bool[np.ndarray, " line"]:
        """Whether the model itself, its streams as they are, writes the next symbol of each line."""
        return np.asarray(self._predicts(np.ones(len(self.lines), dtype=bool)) == self._truth)

    def _predicts(
        self, rows: Bool[np.ndarray, " line"], stage: int | None = None, edit: Edit = lambda stream: stream
    ) -> Int[np.ndarray, " row"]:
        """The model's most probable next symbol (a token) at these rows' positions, their streams edited at a stage."""
        last = len(self.stages) - 1
        return self.streams.predicted(
            last if stage is None else stage, self.lines.chain[rows], self.lines.queries[rows], edit
        )

    def _split(self, target: Target) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]] | None:
        """Rows to fit on and rows held out; None where there is nothing to tell apart."""
        train, test = target.rows & self.held.train, target.rows & ~self.held.train
        if len(np.unique(target.labels[train])) < 2 or not test.any():
            return None
        return train, test

    def _share(self, part: np.ndarray, whole: np.ndarray, rows: Bool[np.ndarray, " row"]) -> np.ndarray:
        return shares(part.astype(float), whole.astype(float), self.lines.chain[rows], self.held.weights)

    def _accuracy(
        self, reading: Reading, features: np.ndarray, labels: np.ndarray, rows: Bool[np.ndarray, " row"]
    ) -> Float[np.ndarray, " weighting"]:
        right = reading.read(features[rows]) == labels[rows]
        return self._share(right, np.ones(len(right)), rows)

    def _scored(self, target: Target, stage: int, read: np.ndarray, fresh: np.ndarray) -> Scored | None:
        split = self._split(target)
        if split is None:
            return None
        train, test = split
        labels = target.labels
        rng = self.subject.rng(f"linear-probes: {target.key} {stage}")
        strength = choose_strength(read[train], labels[train], self.lines.chain[train], rng)
        reading = Reading.fit(read[train], labels[train], strength)
        right = reading.read(read[test]) == labels[test]
        accuracy = self._share(right, np.ones(len(right)), test)
        of_fresh = self._accuracy(Reading.fit(fresh[train], labels[train], strength), fresh, labels, test)
        control, fresh_control = self._controls(target, (read, fresh), train, test, strength, rng)
        loss, random_loss, directions = self._erased(target, stage, read, train, test, rng)
        return Scored(
            accuracy=accuracy,
            selectivity=accuracy - control,
            r2=self._r2(read, labels, train, test),
            fresh_accuracy=float(of_fresh[0]),
            fresh_selectivity=float((of_fresh - fresh_control)[0]),
            fresh_r2=float(self._r2(fresh, labels, train, test)[0]),
            loss=loss,
            random_loss=float(random_loss[0]),
            directions=directions,
            majority=float((labels[test] == np.bincount(labels[train]).argmax()).mean()),
            questions=len(np.unique(self.lines.chain[test])),
            by_line=_by_line(right, self.lines.index[test], self.lines.left[test]),
        )

    def _controls(
        self,
        target: Target,
        streams: tuple[np.ndarray, ...],
        train: Bool[np.ndarray, " row"],
        test: Bool[np.ndarray, " row"],
        strength: float,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "stream weighting"]:
        """The control task's accuracy on each of these streams, the mean over its labellings."""
        found = np.zeros((len(streams), len(self.held.weights)))
        for _ in range(self.probe.controls):
            labels = target.labels.copy()
            labels[target.rows] = control_labels(target.labels[target.rows], target.types[target.rows], rng)
            if len(np.unique(labels[train])) < 2:  # few types may all draw one label: then it is always read
                found += 1 / self.probe.controls
                continue
            for row, read in enumerate(streams):
                reading = Reading.fit(read[train], labels[train], strength)
                found[row] += self._accuracy(reading, read, labels, test) / self.probe.controls
        return found

    def _r2(self, read: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Held-out R²: against the mean of the rows fitted on."""
        values = labels.astype(float)
        missed = (values[test] - read_values(read[train], values[train], read[test])) ** 2
        return 1 - self._share(missed, (values[test] - values[train].mean()) ** 2, test)

    def _erased(
        self,
        target: Target,
        stage: int,
        read: np.ndarray,
        train: Bool[np.ndarray, " row"],
        test: Bool[np.ndarray, " row"],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """The share of held-out lines whose next symbol is no longer right, and the same for random labels; how many
        directions were taken out: those that labels correlate with more than random ones do with any.
        """
        labels = target.labels[train]
        own = Discriminants.of(read[train], labels)
        others = [
            Discriminants.of(read[train], control_labels(labels, np.arange(len(labels)), rng))
            for _ in range(self.probe.erasures)
        ]
        directions = own.above(max(other.correlations.max(initial=0.0) for other in others))
        truth, before = self._truth[test], self._writes[test]

        def loss(found: Discriminants) -> Float[np.ndarray, " weighting"]:
            after = self._predicts(test, stage, lambda stream: found.erase(stream, directions)) == truth
            return self._share(before.astype(float) - after, np.ones(len(after)), test)

        if not directions:
            return np.zeros(len(self.held.weights)), np.zeros(len(self.held.weights)), 0
        return loss(own), np.mean([loss(other) for other in others], axis=0), directions

    def _unseen(self, targets: tuple[Target, ...], read: np.ndarray) -> Iterator[Number]:
        """The result of reductions whose orbit no row that was fitted on has."""
        result = next(target for target in targets if target.key == "result")
        seen = self.held.seen_orbit
        train, test = result.rows & self.held.train & seen, result.rows & ~self.held.train & ~seen
        for stage, where in enumerate(self.stages):
            key, title = f"result.unseen.{where.key}", f"the line's result, new reductions: accuracy {where.says}"
            if len(np.unique(result.labels[train])) < 2 or not test.any():
                yield Number(key, title, None, note=result.absent or "too few reductions to hold some out")
                continue
            rng = self.subject.rng(f"linear-probes: unseen {stage}")
            labels = result.labels
            strength = choose_strength(read[stage][train], labels[train], self.lines.chain[train], rng)
            reading = Reading.fit(read[stage][train], labels[train], strength)
            yield _number(
                key,
                title,
                self._accuracy(reading, read[stage], labels, test),
                len(np.unique(self.lines.chain[test])),
                float((labels[test] == np.bincount(labels[train]).argmax()).mean()),
                "always the commonest result",
                "results are laid out alike for reductions that the probe never met: no list of cases",
            )

    def _earlier(self, targets: tuple[Target, ...]) -> Iterator[Number]:
        """The result at the end of the line before and at the separator, on lines where it is not the next symbol."""
        result = next(target for target in targets if target.key == "result")
        places = {
            "line-end": ("at the last symbol of the line before", self.lines.opens - 1),
            "separator": ("at the separator that opens the line", self.lines.opens),
        }
        for name, (words, position) in places.items():
            early = dataclasses.replace(result, rows=result.rows & (position < self.lines.queries))
            split = self._split(early)
            read = self.streams.at(self.lines.chain, position)
            for stage, where in enumerate(self.stages):
                key, title = f"result.{name}.{where.key}", f"the line's result, {words}: accuracy {where.says}"
                if split is None:
                    yield Number(key, title, None, note=result.absent or "no line has its result further on")
                    continue
                train, test = split
                rng = self.subject.rng(f"linear-probes: {name} {stage}")
                strength = choose_strength(read[stage][train], result.labels[train], self.lines.chain[train], rng)
                reading = Reading.fit(read[stage][train], result.labels[train], strength)
                (control,) = self._controls(early, (read[stage],), train, test, strength, rng)
                yield _number(
                    key,
                    title,
                    self._accuracy(reading, read[stage], result.labels, test),
                    len(np.unique(self.lines.chain[test])),
                    float(control[0]),
                    "control task: random labels for each reduction",
                    "the result is there before it is needed",
                )

    def _sentence(self, targets: tuple[Target, ...], scored: Mapping[tuple[str, int], Scored | None]) -> str:
        says = [f"{len(self.chains)} test questions with {len(self.lines)} lines."]
        for target in targets:
            found = [
                (stage.says, cell)
                for index, stage in enumerate(self.stages)
                if (cell := scored[target.key, index]) is not None
            ]
            if found:
                says.append(f"{target.title[0].upper()}{target.title[1:]}: {_says(found)}")
        says.append(
            "What can be read need not be used, and what a linear probe misses may be there in another form. Without "
            "the directions of one target those correlated with it suffer too."
        )
        if self.subject.learned is False:
            says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
        return " ".join(says)


def _says(found: list[tuple[str, Scored]]) -> str:
    """One target: where it is read best, and where its directions are needed most."""
    where, best = max(found, key=lambda each: float(each[1].selectivity[0]))
    lows = [interval(samples)[0] or -1.0 for samples in (best.selectivity, best.accuracy - best.fresh_accuracy)]
    if min(lows) <= 0:
        return "nowhere read beyond its controls."
    says = (
        f"read best {where}, {best.accuracy[0]:.0%} right ({best.accuracy[0] - best.selectivity[0]:.0%} of random "
        f"labels, {best.fresh_accuracy:.0%} from fresh weights)"
    )
    needed = [(beyond, at, cell) for at, cell in found if (beyond := _beyond(cell)) is not None]
    if not needed:
        return f"{says}; too few questions to tell its directions from those of random labels."
    beyond, at, cell = max(needed, key=lambda each: each[0])
    if beyond <= 0:
        return f"{says}; nowhere do lines need its directions more than as many of random labels."
    return (
        f"{says}; {at}, where that costs most, {cell.loss[0]:.0%} of the lines lose their next symbol without its "
        f"{cell.directions} directions, {cell.random_loss:.0%} without as many of random labels."
    )


def _fresh(subject: Subject) -> Mapping[str, Tensor]:
    """The same shape with fresh weights, on the model's device."""
    generator = torch.Generator().manual_seed(int(subject.rng("linear-probes: fresh weights").integers(2**31)))
    return untrained(subject.params, subject.checkpoint.spec.model, generator)


def _by_line(right: np.ndarray, index: np.ndarray, left: np.ndarray) -> tuple[Cell, ...]:
    """The share read rightly on each line (the last shown one takes all later ones) and on last lines; None if none."""
    each = [np.minimum(index, _LINES_SHOWN) == line for line in range(1, _LINES_SHOWN + 1)]
    return tuple(round(float(right[rows].mean()), 3) if rows.any() else None for rows in (*each, left == 0))


def _number(
    key: str,
    title: str,
    samples: Float[np.ndarray, " weighting"],
    questions: int,
    control: float,
    control_says: str,
    higher_means: str,
    note: str = "",
) -> Number:
    """With the interval over questions; where no resample differs, that of a proportion of so many questions."""
    value = float(samples[0])
    low, high = interval(samples)
    if low == high and value in (0.0, 1.0):
        low, high = wilson(round(value * questions), questions)
    if low is None:
        note = f"{note}; " * bool(note) + "too few rows in most resamples for an interval"
    return Number(key, title, value, low, high, questions, "input", control, control_says, higher_means, note)


def _numbers(target: Target, stage: Stage, cell: Scored | None) -> Iterator[Number]:
    """Accuracy, selectivity, R² and the loss without the probe's directions."""
    titles = {
        "accuracy": f"{target.title}: accuracy {stage.says}",
        "selectivity": f"{target.title}: selectivity {stage.says}",
        "r2": f"{target.title}: R² as a number {stage.says}",
        "loss": f"{target.title}: lines lost without its directions {stage.says}",
    }
    if cell is None:
        for name, title in titles.items():
            yield Number(f"{target.key}.{name}.{stage.key}", title, None, note=target.absent or "it has one value only")
        return
    fresh = "the same model with fresh weights"
    rows = {
        "accuracy": (cell.accuracy, cell.fresh_accuracy, fresh, "more of it can be read linearly"),
        "selectivity": (cell.selectivity, cell.fresh_selectivity, fresh, "more can be read than learned by heart"),
        "r2": (cell.r2, cell.fresh_r2, fresh, "the stream holds it more like a number"),
        "loss": (
            cell.loss,
            cell.random_loss,
            "as many directions of random labels",
            "the model needs what lies there more",
        ),
    }
    notes = {
        "accuracy": f"the commonest label: {cell.majority:.3f}",
        "selectivity": "accuracy less that of the control task",
        "loss": f"directions taken out: {cell.directions}, those beyond random labels'; at the positions read",
    }
    for name, (samples, control, says, means) in rows.items():
        if name == "loss" and not cell.directions:
            note = "nothing to take out: no direction correlates with it more than random labels do"
            yield Number(f"{target.key}.loss.{stage.key}", titles["loss"], None, note=note)
            continue
        yield _number(
            f"{target.key}.{name}.{stage.key}",
            titles[name],
            samples,
            cell.questions,
            control,
            says,
            means,
            notes.get(name, ""),
        )


def _table(
    targets: tuple[Target, ...], scored: Mapping[tuple[str, int], Scored | None], stages: tuple[Stage, ...]
) -> Table:
    columns = [f"line {index}" for index in range(1, _LINES_SHOWN)] + [f"line {_LINES_SHOWN} and on", "last line"]
    rows: list[tuple[Cell, ...]] = []
    for target in targets:
        for index, stage in enumerate(stages):
            cell = scored[target.key, index]
            if cell is not None:
                rows.append((target.title, stage.says, round(cell.majority, 3), *cell.by_line))
    return Table(
        "Held-out accuracy line by line",
        ("target", "stage", "commonest label", *columns),
        tuple(rows),
        "At the position that predicts the line's result; one probe for all lines. Empty: no held-out line.",
    )


def _beyond(cell: Scored | None) -> float | None:
    """The share of lines lost beyond what random labels cost; None where there was nothing to take out."""
    return None if cell is None or not cell.directions else float(cell.loss[0]) - cell.random_loss


def _figures(
    targets: tuple[Target, ...], scored: Mapping[tuple[str, int], Scored | None], stages: tuple[Stage, ...]
) -> Iterator[Figure]:
    cells = [[scored[target.key, index] for index in range(len(stages))] for target in targets]
    shared = {
        "x": [stage.says for stage in stages],
        "y": [target.title for target in targets],
        "zmid": 0.0,
        "x_title": "",
        "y_title": "",
    }
    yield Figure(
        kind="heatmap",
        title="What can be read, and where",
        shows="Selectivity of linear probes at the position that predicts a line's result: held-out accuracy less that "
        "of the same probe with random labels. In each cell: the accuracy.",
        refuted_by="A model with fresh weights that is read as well (the control, in the numbers): then positions and "
        "symbols give it away. Readable does not mean used: see the next figure.",
        data={
            **shared,
            "z": [[None if cell is None else float(cell.selectivity[0]) for cell in row] for row in cells],
            "text": [["" if cell is None else f"{cell.accuracy[0]:.0%}" for cell in row] for row in cells],
            "z_title": "selectivity",
        },
    )
    yield Figure(
        kind="heatmap",
        title="What is lost without the directions of what can be read",
        shows="The share of lines whose next symbol is no longer right when the directions along which a target's "
        "values differ are set to their mean at this stage, less the share lost without as many directions of random "
        "labels. In each cell: the share lost.",
        refuted_by="No more loss than without directions of random labels: then what can be read there is not used "
        "there, or not as these directions have it.",
        data={
            **shared,
            "z": [[_beyond(cell) for cell in row] for row in cells],
            "text": [
                ["" if cell is None or not cell.directions else f"{cell.loss[0]:.0%}" for cell in row] for row in cells
            ],
            "z_title": "lost beyond random labels",
        },
    )
