"""What a circuit over training says: when it is there, whether it stays, and what changes at the jump."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from kc_interp.circuits.transplant import Kept
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.overlap.history import KNOWS, History, Jump, Point
from kc_interp.overlap.measured import Asked
from kc_interp.overlap.words import p_value, share


def history_finding(found: History, subject: str, asked: Asked, learned: bool | None) -> Finding:
    """The circuit over training. Of the finished model."""
    points = found.points
    with_circuit = [point for point in points if point.profile is not None]
    return Finding(
        probe="circuit-over-training",
        subject=subject,
        title="The circuit over training: at every checkpoint, on the plateau and at the jump",
        sentence=" ".join(_history_says(found, with_circuit)),
        status="unlearned" if learned is False else "ok",
        numbers=tuple(_history_numbers(found, with_circuit)),
        tables=(_history_table(found),),
        figures=_history_figures(found, asked.keep),
        settings=dataclasses.asdict(asked),
    )


def _history_numbers(found: History, with_circuit: Sequence[Point]) -> Iterator[Number]:
    points = found.points
    for key, title, one in (("jump", "exact chains", found.jump), ("jump-right", "answers to them", found.jump_right)):
        what = "its test items" if key == "jump" else "single reductions"
        yield Number(
            f"{key}.step",
            f"Over training: step after which {title if key == 'jump' else f'answers to {what}'} rise most",
            points[one.before].step if one else None,
            n=len(points),
            unit="exact",
            higher_means="it is learned later",
            note=_jump_note(one, points) if one else "accuracy never rises",
        )
        yield Number(
            f"{key}.rise",
            f"Over training: rise of {'exact chains' if key == 'jump' else 'answers'} between two checkpoints there",
            one.rise if one else None,
            n=len(points),
            unit="exact",
            control=(points[-1].exact if key == "jump" else points[-1].right).share / max(1, len(points) - 1),
            control_says="an even rise from nothing to the end",
            higher_means="it is learned more suddenly",
        )
    first = with_circuit[0]
    edges = first.profile.edges if first.profile else 0
    yield Number(
        "circuit.first-step",
        "Over training: first checkpoint with a circuit",
        first.step,
        n=len(points),
        unit="exact",
        higher_means="the circuit forms later",
        note=f"where at least {KNOWS:.0%} of the answers are right; {edges} edges",
    )
    both, null = first.final if first.final else (None, None)
    yield Number(
        "circuit.first-overlap",
        "Over training: effects that the first circuit shares with the last",
        both.weighted if both else None,
        n=len(points),
        unit="exact",
        control=null.mean if null else None,
        control_says="random matchings of heads, on average" if null else "",
        higher_means="the circuit forms at once and stays",
        note=f"p = {p_value(null.p)}" if null else "",
    )


def _jump_note(one: Jump, points: Sequence[Point]) -> str:
    plateau = "no plateau before" if one.plateau is None else f"plateau until step {points[one.plateau].step:,}"
    return f"until step {points[one.after].step:,}; {plateau}; checkpoints between are not known"


def _history_says(found: History, with_circuit: Sequence[Point]) -> Iterator[str]:
    points = found.points
    yield f"{len(points)} checkpoints of one run, from step {points[0].step:,} to {points[-1].step:,}."
    if found.jump:
        before, after = points[found.jump.before], points[found.jump.after]
        yield (
            f"Exact chains rise most between steps {before.step:,} and {after.step:,}, "
            f"from {before.exact.share:.0%} to {after.exact.share:.0%}."
        )
    if found.jump_right:
        before, after = points[found.jump_right.before], points[found.jump_right.after]
        yield (
            f"Answers to single reductions, which the circuit is about, do so between {before.step:,} and "
            f"{after.step:,}, from {before.right.share:.0%} to {after.right.share:.0%}."
        )
    first = with_circuit[0]
    yield f"The first circuit is found at step {first.step:,}: before, fewer than {KNOWS:.0%} of the answers are right."
    if first.final and first.profile:
        itself = share(points[-1].final[0].weighted if points[-1].final else None)
        yield (
            f"It has {first.profile.edges} edges and shares {first.final[0].weighted:.2f} of the effects with the last "
            f"one (random matchings of heads: {share(first.final[1].mean)}); the last one shares {itself} with itself "
            "on other inputs."
        )
    yield "One run: where another seed's plateau ends, and how, is not known from it."


def _history_table(found: History) -> Table:
    columns = ("step", "exact chains", "low", "high", "answers right", "edges", "shared with the last",
               "random matchings", *(f"effect of {name}" for name in found.groups), "why no circuit")  # fmt: skip
    rows = tuple(
        (
            point.step,
            point.exact.share,
            point.exact.low,
            point.exact.high,
            point.right.share,
            point.profile.edges if point.profile else None,
            point.final[0].weighted if point.final else None,
            point.final[1].mean if point.final else None,
            *(map(float, point.effects.value) if point.effects else [None] * len(found.groups)),
            point.refusal,
        )
        for point in found.points
    )
    note = "Effects are shares of the logit difference of single reductions. Low and high: 95 % interval over items."
    return Table("Every checkpoint", columns, rows, note)


def _history_figures(found: History, keep: float) -> tuple[Figure, ...]:
    points = found.points
    steps = [point.step for point in points]

    def line(name: str, values: Sequence[float | None], kept: Sequence[Kept] | None = None) -> dict[str, object]:
        bounds = {side: [getattr(one, side) for one in kept] for side in ("low", "high")} if kept else {}
        return {"name": name, "x": steps, "y": list(values), **bounds}

    exact, right = [point.exact for point in points], [point.right for point in points]
    effects = [
        line(name, [None if point.effects is None else float(point.effects.value[index]) for point in points])
        for index, name in enumerate(found.groups)
    ]
    shown = [index for index, one in enumerate(points[-1].into) if "." not in one.part.name]
    exchanged = [
        line(points[-1].into[index].part.name, [point.into[index].donor.share for point in points],
             [point.into[index].donor for point in points])
        for index in shown
    ]  # fmt: skip
    return (
        Figure(
            "lines",
            "Accuracy, and the circuit's overlap with the last one",
            "Exact chains on test items, answers to single reductions, and the effects that each checkpoint's circuit "
            "shares with the last one's on other inputs (gaps: no circuit yet), beside random matchings of heads.",
            "Overlap that rises with accuracy from the level of random matchings: then no circuit is there before.",
            {"series": [
                line("exact chains", [one.share for one in exact], exact),
                line("answers to single reductions", [one.share for one in right], right),
                line("shared with the last circuit", [p.final[0].weighted if p.final else None for p in points]),
                line("random matchings of heads", [p.final[1].mean if p.final else None for p in points]),
            ], "x_title": "step", "y_title": "share"},
        ),
        Figure(
            "lines",
            f"Edges that keep {keep:.0%} of the logit difference",
            "The smallest circuit that a greedy search finds at each checkpoint (gaps: refused before it is known).",
            "A number that does not change after the jump: then nothing is cleaned up.",
            {"series": [line("edges", [p.profile.edges if p.profile else None for p in points])], "x_title": "step",
             "y_title": "edges"},
        ),
        Figure(
            "lines",
            "Effects of the parts",
            "The share of the logit difference that is lost when all edges that leave a part carry another input's.",
            "Lines that do not move at the jump: then no part changes its weight there.",
            {"series": effects, "x_title": "step", "y_title": "share lost"},
        ),
        Figure(
            "lines",
            "The trained model with one part of an earlier checkpoint",
            "Accuracy of the finished model on single reductions when one part is as it was at each checkpoint.",
            "Lines at the trained model's accuracy from the start: then the part was never learned.",
            {"series": exchanged, "x_title": "step of the part", "y_title": "accuracy of the answer"},
        ),
    )  # fmt: skip
