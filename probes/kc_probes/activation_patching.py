"""Activation patching: which activations carry the difference between two questions to the answer?

Pairs of chains share the class of every token, line by line, and differ at the same declared positions: one symbol of
the question, what follows from it in later lines, and the answer. Denoising runs the corrupted chain and restores one
activation from the clean one; noising does the reverse. The effect is the share of the clean-minus-corrupted logit
difference that the patch restores (denoising) or destroys (noising), a ratio of means over pairs: Vig et al. 2020;
Meng et al. 2022; Heimersheim and Nanda 2024, "How to use and interpret activation patching".

A patch does two things: it removes what stood there and puts something else in its place. The control patches from
another pair's run, which removes as much and brings the wrong content: about a half where only the removal counts.

The final answer is read from a chain whose last line already holds the partial results, so patching a whole
consistent chain cannot say whether the model looks at that line or at the question. *Chain reliance* can: it makes one
part of the chain inconsistent with the rest and asks which of the two the answer follows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import forward
from kc_interp.model.patch import Run, Site, patch
from kc_interp.pairs import Pairs, draw, drawn_from
from kc_interp.probe import Subject
from kc_interp.statistics import wilson

Direction = Literal["denoising", "noising"]
DIRECTIONS: tuple[Direction, ...] = ("denoising", "noising")
SITES: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out", "z")

_STREAM = SITES[:3]
_NAMES: Mapping[Site, str] = {
    "resid_pre": "residual stream into",
    "attn_out": "attention of",
    "mlp_out": "MLP of",
    "z": "head of",
}
_PLACES = {
    "question": "the changed symbol of the question",
    "last-line": "the changed symbol of the last line",
    "query": "the position that predicts the answer",
}
_PARTS = {"last-line": "the last line", "earlier-lines": "everything before the last line"}


@dataclass(frozen=True)
class Effects:
    """Of one site: the effect of every patch, its 95 % interval over pairs (bootstrap), and the control's effect."""

    value: Float[np.ndarray, "layer head pos"]
    low: Float[np.ndarray, "layer head pos"]
    high: Float[np.ndarray, "layer head pos"]
    control: Float[np.ndarray, "layer head pos"]


@dataclass(frozen=True)
class Patched:
    """What one set of pairs says: the logit difference with its interval, and the effects unless `refused`."""

    label: str
    pairs: Pairs | None
    difference: tuple[float, float, float] | None = None
    refused: str = ""
    effects: Mapping[tuple[Direction, Site], Effects] = field(default_factory=dict)


@dataclass(frozen=True)
class ActivationPatching:
    """Patch the residual stream, attention and MLP outputs and each head, by layer and position, both ways.

    For each kind of change that the task offers, `experiments` sets of `pairs` chains of `steps` reductions, each set
    with its own differing positions. Operands are changed in items of `component` (of the whole mixture when the task
    has no such component), the same for every arm; what a component alone cannot change, its operation, in the mixture.
    """

    component: str | None = "SUM"
    pairs: int = 48
    steps: int = 2
    experiments: int = 2
    resamples: int = 500

    def __post_init__(self) -> None:
        if self.pairs < 2 or self.resamples < 2:
            raise SpecError("pairs and resamples must each be at least 2: the control patches from another pair")
        if self.experiments < 1:
            raise SpecError(f"experiments is {self.experiments}; at least 1 set of differing positions is needed")

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when the task offers no change of one symbol, or too few pairs share their positions."""
        task = subject.task
        if not task.counterfactuals:
            raise ProbeError(
                f"{subject.name}: this task offers no counterfactual (a twin that differs in one symbol and in its "
                "answer), and activation-patching compares such twins; leave it out with --only"
            )
        drawn = {kind: self._pairs(subject, kind) for kind in task.counterfactuals}
        if not any(drawn.values()):
            raise ProbeError(
                f"{subject.name}: no {self.pairs} pairs of one template differ at the same positions among "
                f"{drawn_from(self.pairs)} test items of {self.steps} steps; lower `pairs`, or change `steps`"
            )
        sets = [
            self._patched(subject, f"{kind}-{index + 1}", found[index] if index < len(found) else None)
            for kind, found in drawn.items()
            for index in range(self.experiments)
        ]
        operands = [pairs for found in drawn.values() for pairs in found if pairs.kind == "operand"]
        reliance = tuple(_reliance(subject, [pairs for pairs in operands if pairs.last_line > 0]))
        depth = subject.checkpoint.spec.model.depth
        shown = [it for it in sets if it.effects]
        return Finding(
            probe="activation-patching",
            subject=subject.name,
            title="Activation patching: what carries the difference to the answer",
            sentence=_sentence(sets, reliance, learned=subject.learned),
            status="unlearned" if subject.learned is False else "ok",
            numbers=(*reliance, *(number for it in sets for number in _numbers(it, depth))),
            tables=(
                _declared(subject, sets),
                _reliance_table(subject, operands),
                *(_heads_table(subject, it, direction) for it in shown for direction in DIRECTIONS),
            ),
            figures=tuple(
                figure
                for it in shown
                for direction in DIRECTIONS
                for figure in (_stream_figure(subject, it, direction), _heads_figure(subject, it, direction))
            ),
            settings=dataclasses.asdict(self),
        )

    def _pairs(self, subject: Subject, kind: str) -> list[Pairs]:
        return draw(
            subject,
            kind,
            self.pairs,
            purpose="activation-patching",
            component=self.component,
            steps=self.steps,
            sets=self.experiments,
        )

    def _patched(self, subject: Subject, label: str, pairs: Pairs | None) -> Patched:
        if pairs is None:
            return Patched(
                label, None, refused=f"no further {self.pairs} pairs of one template differ at one set of places"
            )
        model = subject.checkpoint.spec.model
        clean, corrupted = (Run.of(subject.params, model, ids) for ids in pairs.ids(subject))
        answers = pairs.answers(subject)
        spread = _difference(clean.logits, answers) - _difference(corrupted.logits, answers)
        rng, count = subject.rng(f"activation-patching: {label} resamples"), len(pairs.clean)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=self.resamples) / count
        low, high = np.quantile(weights @ spread, [0.025, 0.975])
        difference = float(spread.mean()), float(low), float(high)
        if not np.isfinite(spread).all():
            raise ProbeError(f"{subject.name}: the model's logits are not finite; did its training diverge?")
        if low <= 0:
            why = f"the logit difference that effects are shares of does not exceed 0 (95 % interval from {low:.2f})"
            return Patched(label, pairs, difference, refused=f"refused: {why}")
        ways: dict[Direction, tuple[Run, Run]] = {"denoising": (corrupted, clean), "noising": (clean, corrupted)}
        effects = {
            (direction, site): _effects(base, source, answers, site, weights)
            for direction, (base, source) in ways.items()
            for site in SITES
        }
        return Patched(label, pairs, difference, effects=effects)


def _difference(
    logits: Float[Tensor, "*patch batch d_vocab"], answers: Int[Tensor, "two batch"]
) -> Float[np.ndarray, "*patch batch"]:
    """Logit of the clean answer minus that of the corrupted one, for each pair."""
    clean, corrupted = (
        logits.gather(-1, answer[:, None].expand(*logits.shape[:-1], 1))[..., 0].double() for answer in answers
    )
    return (clean - corrupted).cpu().numpy()


def _effects(
    base: Run, source: Run, answers: Int[Tensor, "two batch"], site: Site, weights: Float[np.ndarray, "resample batch"]
) -> Effects:
    """The share of the logit difference from `base` to `source` that each patch makes up: a ratio of means."""
    untouched = _difference(base.logits, answers)
    whole = _difference(source.logits, answers) - untouched
    cache = {name: value.roll(1, dims=1) for name, value in source.cache.items()}
    another = Run(source.params, source.spec, cache, source.logits.roll(1, dims=0))
    moved, control = (_difference(patch(base, run, site), answers) - untouched for run in (source, another))
    resampled = einsum(moved, weights, "layer head pos batch, resample batch -> resample layer head pos")
    low, high = np.quantile(resampled / (weights @ whole)[:, None, None, None], [0.025, 0.975], axis=0)
    return Effects(moved.mean(-1) / whole.mean(), low, high, control.mean(-1) / whole.mean())


def _numbers(it: Patched, depth: int) -> Iterator[Number]:
    """The numbers of one set, under keys that depend on the depth of the model alone."""
    count = None if it.pairs is None else len(it.pairs.clean)
    title = f"{it.label}: logit difference between the two answers, clean chain minus corrupted one"
    value, low, high = it.difference or (None, None, None)
    yield Number(
        f"{it.label}.difference",
        title,
        value,
        low,
        high,
        n=count,
        control=None if value is None else 0.0,
        control_says="a model that does not tell the two questions apart",
        higher_means="the model tells the two questions apart more clearly",
        note=it.refused if value is None else "logits; effects are shares of it",
    )
    for direction in DIRECTIONS:
        for site in _STREAM:
            for index in range(depth):
                for place, words in _PLACES.items():
                    key = f"{it.label}.{direction}.{site}.block{index}.{place}"
                    title = f"{it.label}, {direction}: {_NAMES[site]} block {index} at {words}"
                    position = it.pairs.places[place] if it.pairs is not None else None
                    if it.refused or position is None:
                        yield Number(key, title, None, n=count, note=it.refused or "these twins do not differ there")
                        continue
                    of, at = it.effects[direction, site], (index, 0, position)
                    yield Number(
                        key,
                        title,
                        float(of.value[at]),
                        float(of.low[at]),
                        float(of.high[at]),
                        n=count,
                        control=float(of.control[at]),
                        control_says="the same patch from another pair's run",
                        higher_means="this activation carries more of the difference to the answer",
                        note=f"share of the logit difference; position {position}",
                    )


def _follows(subject: Subject, pairs: Pairs, part: str) -> tuple[Int[np.ndarray, "example pos"], int, int]:
    """Chains with one part taken from their twins; how many answers follow the last line, how many the others."""
    place = np.arange(pairs.clean.symbols.shape[1])
    changed = (pairs.line == pairs.last_line if part == "last-line" else pairs.line < pairs.last_line) & (
        place <= pairs.query
    )
    mixed = np.where(changed, pairs.twin.symbols, pairs.clean.symbols)
    ids = torch.from_numpy(subject.tokens.encode(mixed[:, : pairs.query + 1]))[None].to(subject.checkpoint.device)
    with torch.no_grad():
        said = forward(subject.params, subject.checkpoint.spec.model, ids)[0, :, -1].argmax(-1).cpu().numpy()
    clean, twin = (subject.tokens.encode(chains.answer_symbols()) for chains in (pairs.clean, pairs.twin))
    last, earlier = (twin, clean) if part == "last-line" else (clean, twin)
    return mixed, int((said == last).sum()), int((said == earlier).sum())


def _reliance(subject: Subject, usable: Sequence[Pairs]) -> Iterator[Number]:
    """Which part the answer follows when one part of the chain is made inconsistent: each pair counts once a number."""
    chance = 1 / max(subject.tokens.classes.count("digit"), 1)
    for part, words in _PARTS.items():
        counts = [_follows(subject, pairs, part)[1:] for pairs in usable]
        n = sum(len(pairs.clean) for pairs in usable)
        for index, followed in enumerate(("last-line", "earlier-lines")):
            key = f"chain.{part}-changed.follows-{followed}"
            title = f"With {words} taken from the twin: answers that follow {_PARTS[followed]}"
            if not usable:
                yield Number(key, title, None, note="no set of operand pairs has a line between question and answer")
                continue
            total = sum(count[index] for count in counts)
            low, high = wilson(total, n)
            yield Number(
                key,
                title,
                total / n,
                low,
                high,
                n=n,
                control=chance,
                control_says="a guess among the digits",
                higher_means=f"the answer is read from {_PARTS[followed]}",
            )


def _sentence(sets: Sequence[Patched], reliance: Sequence[Number], *, learned: bool | None) -> str:
    measured = [it for it in sets if it.pairs is not None]
    count = len(measured[0].pairs.clean) if measured[0].pairs is not None else 0
    says = [f"{len(measured)} sets of {count} pairs, alike in the class of every token, different in the answer."]
    for number in reliance:
        if number.value is not None and number.low is not None and number.high is not None:
            interval = f"(95 % interval {number.low:.0%} to {number.high:.0%}; a guess {number.control:.0%})"
            says.append(f"{number.title}: {number.value:.0%} {interval}.")
    if refused := [it.label for it in measured if it.refused]:
        says.append(f"Effects are refused for {', '.join(refused)}: the model does not tell the two answers apart.")
    says.append(
        "A large effect says that the activation carries the difference between these chains; it does not say what is "
        "computed from it, nor that other questions, or other seeds, use the same path."
    )
    if learned is False:
        says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
    return " ".join(says)


def _labels(subject: Subject, pairs: Pairs) -> list[str]:
    """The first clean chain up to the query, numbered; what differs in its twin stands behind a slash."""
    symbols = subject.task.symbols
    clean, twin = pairs.clean.symbols[0], pairs.twin.symbols[0]
    return [
        f"{place} {symbols[clean[place]]}" + (f"/{symbols[twin[place]]}" if place in pairs.differs else "")
        for place in range(pairs.query + 1)
    ]


def _declared(subject: Subject, sets: Sequence[Patched]) -> Table:
    """What each set of pairs changes, and in which lines."""
    rows: list[tuple[Cell, ...]] = []
    for it in sets:
        if it.pairs is None:
            rows.append((it.label, None, None, None, None, None))
            continue
        clean, twin = (subject.task.format(part.take(slice(0, 1)))[0] for part in (it.pairs.clean, it.pairs.twin))
        where = ", ".join(f"{place} (line {it.pairs.line[place]})" for place in it.pairs.differs)
        rows.append((it.label, len(it.pairs.clean), clean, twin, where, it.pairs.last_line))
    return Table(
        "The pairs: what is changed, and in which line",
        ("set", "pairs", "a clean chain", "its corrupted twin", "positions that differ (line)", "last line"),
        tuple(rows),
        "Line 0 is the question; the last position is the answer; what is called the last line is the one before it. "
        "Twins are consistent chains: the change is carried through every later line.",
    )


def _reliance_table(subject: Subject, operands: Sequence[Pairs]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for pairs in operands:
        for part, words in _PARTS.items() if pairs.last_line > 0 else ():
            mixed, last, earlier = _follows(subject, pairs, part)
            example = dataclasses.replace(pairs.clean, symbols=mixed).take(slice(0, 1))
            n = len(pairs.clean)
            rows.append((words, subject.task.format(example)[0], last, earlier, n - last - earlier, n))
    return Table(
        "Chain reliance: one part of the chain is made inconsistent; whose answer does the model give?",
        (
            "taken from the twin", "an example, with the clean chain's answer", "answer of the last line",
            "answer of the earlier lines", "neither", "pairs",
        ),
        tuple(rows),
        "" if rows else "No set of operand pairs here has a line between question and answer.",
    )  # fmt: skip


def _stream_figure(subject: Subject, it: Patched, direction: Direction) -> Figure:
    depth = len(it.effects[direction, "resid_pre"].value)
    rows = {
        f"{_NAMES[site]} block {index}": it.effects[direction, site].value[index, 0].tolist()
        for index in range(depth)
        for site in _STREAM
    }
    what = "each single activation"
    return _heatmap(subject, it, direction, "stream, attention and MLP", what, rows)


def _heads_figure(subject: Subject, it: Patched, direction: Direction) -> Figure:
    value = it.effects[direction, "z"].value
    rows = {f"block {i} head {h}": value[i, h].tolist() for i, h in np.ndindex(*value.shape[:2])}
    return _heatmap(subject, it, direction, "each head", "the output of each single head", rows)


def _heatmap(
    subject: Subject, it: Patched, direction: Direction, of: str, what: str, rows: Mapping[str, Sequence[float]]
) -> Figure:
    assert it.pairs is not None
    verb, origin = ("restores", "clean") if direction == "denoising" else ("destroys", "corrupted")
    return Figure(
        kind="heatmap",
        title=f"{direction.capitalize()}, {it.label}: {of}",
        shows=f"How much of the answer's logit difference {what} {verb} when it is taken, at one position, from the "
        f"{origin} chain. One {it.pairs.kind} of the question differs, and what follows from it: columns are the "
        "positions of one of the pairs, a/b marks what differs, the last one predicts the answer.",
        refuted_by="Effects as large when the activation comes from another pair's run (the control, in the table of "
        "heads and in the numbers).",
        data={
            "x": _labels(subject, it.pairs),
            "y": list(rows),
            "z": [list(values) for values in rows.values()],
            "zmid": 0.0,
            "x_title": "position and token",
            "y_title": "",
            "z_title": "share of the logit difference",
        },
    )


def _heads_table(subject: Subject, it: Patched, direction: Direction) -> Table:
    """The ten largest effects of single heads."""
    assert it.pairs is not None
    of, labels = it.effects[direction, "z"], _labels(subject, it.pairs)
    flat = rearrange(np.abs(of.value), "layer head pos -> (layer head pos)")
    rows: list[tuple[Cell, ...]] = []
    for index in np.argsort(-flat, kind="stable")[:10]:
        at = tuple(int(part) for part in np.unravel_index(index, of.value.shape))
        numbers = (round(float(part[at]), 4) for part in (of.value, of.low, of.high, of.control))
        rows.append((at[0], at[1], labels[at[2]], *numbers))
    return Table(
        f"{direction.capitalize()}, {it.label}: the ten heads and positions with the largest effect",
        ("block", "head", "position", "effect", "low", "high", "control: another pair"),
        tuple(rows),
        "Chosen for their size, so read them as candidates; the intervals do not account for the choice.",
    )


__all__ = ["ActivationPatching", "Effects", "Patched"]
