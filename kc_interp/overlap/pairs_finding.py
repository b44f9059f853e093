"""What comparing the circuits of several models says: within either side and across, beside both nulls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from kc_interp.circuits.matching import STATISTICS, Compared, Matching
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.overlap.measured import Asked, Measured
from kc_interp.overlap.sides import Contrast, Mean, contrast
from kc_interp.overlap.words import mean_of, p_value, share

TITLES: Mapping[str, str] = {
    "jaccard": "Overlap of edges (Jaccard)",
    "weighted": "Overlap of effects (weighted Jaccard)",
    "rank": "Rank correlation of effects' sizes",
}

Pair = tuple[int, int]


def overlap_finding(models: Sequence[Measured], first: int, found: Mapping[Pair, Compared], asked: Asked) -> Finding:
    """The circuits of the first `first` models against each other, and against the others'. Of the first model.

    `found` holds every pair of indices, the smaller one first.
    """
    contrasts = {name: contrast(_matrix(len(models), found, name), first) for name in STATISTICS}
    return Finding(
        probe="circuit-overlap",
        subject=models[0].name,
        title="Circuits compared: heads matched by role, against random matchings and shuffled circuits",
        sentence=" ".join(_overlap_says(models, first, found, contrasts["weighted"])),
        numbers=tuple(
            number for name in STATISTICS for number in _overlap_numbers(name, contrasts[name], found, first)
        ),
        tables=(_of_models(models), _of_pairs(models, first, found)),
        figures=_overlap_figures(models, first, found),
        settings=dataclasses.asdict(asked),
    )


def _matrix(count: int, found: Mapping[Pair, Compared], name: str) -> Float[np.ndarray, "model model"]:
    values = np.full((count, count), np.nan)
    for (one, other), pair in found.items():
        value = getattr(pair.overlap, name)
        values[one, other] = values[other, one] = np.nan if value is None else value
    return values


def _side(pair: Pair, first: int) -> str:
    sides = {index >= first for index in pair}
    return "across" if len(sides) == 2 else "second side" if sides == {True} else "first side"


def _overlap_numbers(name: str, of: Contrast, found: Mapping[Pair, Compared], first: int) -> Iterator[Number]:
    rows = (
        ("within-first", "within the first side", of.within[0], "first side"),
        ("within-second", "within the second side", of.within[1], "second side"),
        ("across", "across the sides", of.across, "across"),
    )
    for key, title, mean, side in rows:
        nulls = [one.shuffled[name].mean for pair, one in found.items() if _side(pair, first) == side]
        usable = [null for null in nulls if null is not None]
        yield _number(
            f"{name}.{key}",
            f"{TITLES[name]}: {title}",
            _possible(mean, -1.0 if name == "rank" else 0.0),
            float(np.mean(usable)) if usable and mean.value is not None else None,
            "the same with shuffled circuits, matched alike",
            "the circuits are more alike",
        )
    p = "" if of.difference.value is None else f"exchanging sides: {of.p_note or f'p = {of.p:.3g}, one-sided, exact'}"
    yield _number(
        f"{name}.difference",
        f"{TITLES[name]}: within sides minus across",
        of.difference,
        None if of.difference.value is None else 0.0,
        "sides that do not matter",
        "models of one side are more alike than models of two",
        p,
    )


def _possible(mean: Mean, least: float) -> Mean:
    """Its interval within what the statistic can be: of few models the jackknife's may reach beyond."""
    if mean.low is None or mean.high is None:
        return mean
    return dataclasses.replace(mean, low=max(mean.low, least), high=min(mean.high, 1.0))


def _number(
    key: str, title: str, mean: Mean, control: float | None, control_says: str, means: str, note: str = ""
) -> Number:
    """A mean over pairs; without an interval it speaks of these models alone, and is exact for them."""
    says = "; ".join(part for part in (f"{mean.pairs} pairs" if mean.pairs > 1 else "", mean.note, note) if part)
    return Number(
        key,
        title,
        mean.value,
        mean.low,
        mean.high,
        mean.models,
        "seed" if mean.low is not None else "exact",
        control,
        control_says if control is not None else "",
        means,
        says,
    )


def _overlap_says(
    models: Sequence[Measured], first: int, found: Mapping[Pair, Compared], of: Contrast
) -> Iterator[str]:
    unlearned = [one.name for one in models if one.subject.learned is False]
    if unlearned:
        yield f"Not learned: {', '.join(unlearned)}; what their circuits share says nothing about the task."
    yield "Heads are matched within each block by role on one half of the inputs; overlap is measured on the other."
    if len(models) == 2:
        (pair,) = found.values()
        by_chance, rewired = pair.random["weighted"], pair.shuffled["weighted"]
        every = f"{'all' if pair.exact else 'random'} {by_chance.draws}"
        yield (
            f"These two checkpoints only: of the edges' effects {pair.overlap.weighted:.0%} are in both; {every} "
            f"matchings of heads give {share(by_chance.mean)} on average (p = {p_value(by_chance.p)}), circuits with "
            f"shuffled heads, matched alike, {share(rewired.mean)} (p = {p_value(rewired.p)})."
        )
    else:
        for title, mean in (("within the first side", of.within[0]), ("within the second", of.within[1])):
            if mean.value is not None:
                yield f"Effects shared {title}: {mean.value:.0%} (mean of {mean.pairs} pairs)."
        if of.across.value is not None:
            yield f"Across: {of.across.value:.0%} (mean of {of.across.pairs} pairs)."
        if of.difference.low is not None and of.difference.high is not None and of.difference.value is not None:
            apart = of.difference.low > 0 or of.difference.high < 0
            yield (
                f"Within minus across {of.difference.value:+.3f} (95 % interval over seeds {of.difference.low:+.3f} to "
                f"{of.difference.high:+.3f}{'' if apart else ', which includes 0: no difference is shown'})."
            )
    most = np.mean([one.itself.weighted for one in models])
    yield f"A model shares {most:.0%} with itself on the other half of the inputs: more cannot be expected of another."
    yield (
        "Overlap beyond random matchings says that heads have roles; only what exceeds the shuffled circuits says that "
        "the same heads are wired alike. A circuit is one that a greedy search found; effects are exact."
    )


def _of_models(models: Sequence[Measured]) -> Table:
    return Table(
        "Each model: answers, and its circuit on either half of the inputs",
        ("model", "answers right", "edges", "edges, other half", *(f"{name} with itself" for name in STATISTICS)),
        tuple(
            (
                one.name,
                one.right.share,
                *(profile.edges for profile in one.profiles),
                *(value for _, value in one.itself),
            )
            for one in models
        ),
        "With itself: the circuits of the two halves, heads as they are. The most that another model's can reach.",
    )


def _of_pairs(models: Sequence[Measured], first: int, found: Mapping[Pair, Compared]) -> Table:
    columns = ["one", "other", "side", "heads matched"]
    for name in STATISTICS:
        columns += [name, f"{name}: random matchings", f"{name}: p", f"{name}: shuffled", f"{name}: p, shuffled"]
    rows = []
    for pair, one in found.items():
        row = [models[pair[0]].name, models[pair[1]].name, _side(pair, first), shown(one.matching)]
        for name, value in one.overlap:
            by_chance, rewired = one.random[name], one.shuffled[name]
            row += [value, by_chance.mean, by_chance.p, rewired.mean, rewired.p]  # type: ignore[list-item]
        rows.append(tuple(row))
    return Table(
        "Each pair of models: overlap, and what both nulls give",
        tuple(columns),
        tuple(rows),
        "Heads matched: for each block, the other model's head that stands for head 0, 1, … of the first.",
    )


def shown(matching: Matching) -> str:
    """`0-2 1-0 2-1 3-3 | …`: head of the one, head of the other, block by block."""
    return " | ".join(" ".join(f"{own}-{other}" for own, other in enumerate(heads)) for heads in matching)


def _overlap_figures(models: Sequence[Measured], first: int, found: Mapping[Pair, Compared]) -> tuple[Figure, ...]:
    weighted = _matrix(len(models), found, "weighted")
    np.fill_diagonal(weighted, [one.itself.weighted for one in models])
    names = [one.name for one in models]
    kinds = list(dict.fromkeys(_side(pair, first) for pair in found))
    labels = [f"{kind}: {name}" for kind in kinds for name in STATISTICS]
    values: dict[str, list[float | None]] = {
        "matched by role": [],
        "random matchings": [],
        "shuffled, matched alike": [],
    }
    for kind in kinds:
        some = [one for pair, one in found.items() if _side(pair, first) == kind]
        for name in STATISTICS:
            values["matched by role"].append(mean_of([getattr(one.overlap, name) for one in some]))
            values["random matchings"].append(mean_of([one.random[name].mean for one in some]))
            values["shuffled, matched alike"].append(mean_of([one.shuffled[name].mean for one in some]))
    return (
        Figure(
            "heatmap",
            "Effects that two models' edges share",
            "The effect that edges have in both models, of the effect they have in either, heads matched by role; on "
            "the diagonal a model with itself on other inputs.",
            "Pairs across the sides as high as pairs within: then the sides do not differ in their circuits.",
            {"x": names, "y": names, "z": [list(map(_or_none, row)) for row in weighted], "zmid": None, "x_title": "",
             "y_title": "", "z_title": "weighted overlap"},
        ),
        Figure(
            "bars",
            "Overlap against both nulls",
            "Mean overlap of pairs of models; beside it that of random matchings of heads, and of circuits whose heads "
            "were shuffled and then matched by role as well.",
            "Bars no higher than those of shuffled circuits: then the models share which kinds of edges matter, and no "
            "more.",
            {"x": labels, "series": [{"name": name, "y": y} for name, y in values.items()], "y_title": "overlap"},
        ),
    )  # fmt: skip


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
