"""What transplants between several models say, part by part, with the receiver as the unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kc_interp.circuits.transplant import Transplant
from kc_interp.comparison import t_interval
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.overlap.measured import Asked
from kc_interp.overlap.words import mean_of

Pair = tuple[int, int]
"""Donor and receiver, by index."""


def transplant_finding(
    models: Sequence[str], found: Mapping[Pair, Sequence[Transplant]], *, stitched: bool, asked: Asked
) -> Finding:
    """Transplants between models, by (donor, receiver) as indices, by part. Of the first model.

    Where several models receive, the unit is the receiver: the mean over its donors.
    """
    names = [one.part.name for one in next(iter(found.values()))]
    units = {name: _of_receivers(found, index) for index, name in enumerate(names)}
    how = "through a learned linear stitch" if stitched else "directly"
    return Finding(
        probe="circuit-transplant" if stitched else "circuit-transplant-direct",
        subject=models[0],
        title=f"Transplants {how}: one part of a model replaced by another model's",
        sentence=" ".join(_transplants_say(len(found), stitched)),
        numbers=tuple(_transplant_number(name, units[name], stitched) for name in names),
        tables=(_transplant_table(models, found),),
        figures=(_transplant_figure(names, units, stitched),),
        settings=dataclasses.asdict(asked),
    )


def _of_receivers(found: Mapping[Pair, Sequence[Transplant]], index: int) -> dict[str, list[float]]:
    """Accuracy by what is put in place of the part: one mean a receiver."""
    by_receiver: dict[int, list[Transplant]] = {}
    for (_, receiver), parts in found.items():
        by_receiver.setdefault(receiver, []).append(parts[index])
    values: dict[str, list[float]] = {}
    for some in by_receiver.values():
        for kind, shares in {
            "donor": [one.donor.share for one in some],
            "untrained donor": [kept.share for one in some for kept in one.untrained],
            "its own": [one.own.share for one in some if one.own is not None],
            "its mean": [one.mean.share for one in some],
            "whole": [one.whole.share for one in some],
        }.items():
            if shares:
                values.setdefault(kind, []).append(float(np.mean(shares)))
    return values


def _transplants_say(count: int, stitched: bool) -> Iterator[str]:
    yield f"{count} transplant{'s' if count > 1 else ''} of each part; how many answers are then right."
    if stitched:
        yield (
            "Inputs are others than the stitch was fitted on. A stitch selects what is linear in the donor's part, so "
            "an untrained donor's, stitched alike, is the control, and the receiver's own part through a stitch shows "
            "what the fit loses. A part that an untrained donor replaces as well needs nothing that was learned; where "
            "a trained one does better, its part says what the receiver's would, whatever way it came to it."
        )
    else:
        yield (
            "Coordinates are taken to mean the same in both: that holds for models that share an ancestor, while they "
            "have not drifted apart. Beside it, the part's mean over the inputs."
        )


def _transplant_number(name: str, units: Mapping[str, list[float]], stitched: bool) -> Number:
    values = units["donor"]
    interval = t_interval(values)
    low, high = interval or (None, None)
    control = units.get("untrained donor") if stitched else units["its mean"]
    whole = float(np.mean(units["whole"]))
    return Number(
        f"transplant.{name.replace(' ', '-')}",
        f"Transplant: accuracy with the donor's {name}",
        float(np.mean(values)),
        low,
        high,
        len(values),
        "seed" if interval else "exact",
        float(np.mean(control)) if control else None,
        ("an untrained donor's, stitched alike" if stitched else "the part's mean over inputs") if control else "",
        "the donor's part says what the receiver's would",
        f"whole model {whole:.3g}" + ("" if interval else "; these checkpoints only"),
    )


def _transplant_table(models: Sequence[str], found: Mapping[Pair, Sequence[Transplant]]) -> Table:
    rows = tuple(
        (
            models[donor],
            models[receiver],
            one.part.name,
            one.donor.share,
            one.donor.low,
            one.donor.high,
            mean_of([kept.share for kept in one.untrained]),
            None if one.own is None else one.own.share,
            one.mean.share,
            one.whole.share,
            one.explained,
        )
        for (donor, receiver), parts in found.items()
        for one in parts
    )
    columns = ("donor", "receiver", "part of the receiver", "accuracy", "low", "high", "untrained donor",
               "its own part", "its mean", "whole", "variance explained")  # fmt: skip
    return Table(
        "Accuracy of the receiver, one part replaced",
        columns,
        rows,
        "Low and high: 95 % interval over inputs. Variance explained: of the receiver's part by the stitched donor's.",
    )


def _transplant_figure(names: Sequence[str], units: Mapping[str, Mapping[str, list[float]]], stitched: bool) -> Figure:
    series = []
    for kind in ("donor", "untrained donor", "its own", "its mean"):
        if all(kind in units[name] for name in names):
            bounds = [t_interval(units[name][kind]) or (None, None) for name in names]
            one: dict[str, object] = {"name": kind, "y": [float(np.mean(units[name][kind])) for name in names]}
            if all(low is not None for low, _ in bounds):
                low, high = np.clip(np.asarray(bounds, dtype=float), 0.0, 1.0).T.tolist()  # shares of answers
                one |= {"low": low, "high": high}
            series.append(one)
    return Figure(
        "bars",
        f"Accuracy after a transplant, {'through a stitch' if stitched else 'directly'}",
        "How many answers are right when one part is replaced, by what replaces it.",
        "A donor no better than the untrained one, or than the part's mean: then nothing learned is handed over.",
        {"x": list(names), "series": series, "y_title": "accuracy of the answer",
         "reference": {"y": float(np.mean(units[names[0]]["whole"])), "name": "whole model"}},
    )  # fmt: skip
