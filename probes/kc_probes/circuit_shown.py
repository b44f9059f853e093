"""The circuit probe's tables and figures, from what it measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from kc_interp.circuits.effects import Effects
from kc_interp.circuits.scores import Estimate
from kc_interp.finding import Cell, Figure, Table
from kc_interp.model.graph import CONSTANTS
from kc_interp.probe import Subject
from kc_probes.circuit_measured import EXACT, GREEDY, Measured, estimates, strongest

_EXAMPLES = 3
_SHOWN_EDGES = 20
_CLEAR = 0.5
"""Of the mean: a pair of smaller difference is no example, since shares of it say little."""

_HELD = "Chosen on the searched pairs, measured on the others."


def tables(found: Measured, keep: float, *, intervals: bool) -> tuple[Table, ...]:
    """All that have a row. Without intervals none is in words; columns `low` and `high` are there all the same."""
    methods = _methods(found, keep, intervals)
    made = (_edges(found), _without(found), _acts(found), _interactions(found), methods, _instead(found))
    return tuple(table for table in made if table.rows)


def figures(subject: Subject, found: Measured, keep: float) -> tuple[Figure, ...]:
    """The graph, and what circuits keep by their size."""
    return _circuit(subject, found, keep), _curves(found)


def _edges(found: Measured) -> Table:
    graph, kept, index = found.graph, set(found.kept), {edge: row for row, edge in enumerate(found.graph.varying)}
    exact, back = estimates(found.noising), estimates(found.denoising)
    rows = [
        (graph.name(edge), *_rounded(*exact[index[edge]], back[index[edge]][0]), "yes" if edge in kept else "no")
        for edge in strongest(graph, found.noising)[:_SHOWN_EDGES]
    ]
    return Table(
        f"The {len(rows)} edges with the largest effect",
        ("edge", "lost without it", "low", "high", "restored by it", "kept"),
        tuple(rows),
        "Shares of the logit difference. Lost: noising; restored: denoising. Chosen for their size, so read the "
        "intervals as those of candidates.",
    )


def _without(found: Measured) -> Table:
    edges, effects = found.without or ((), None)
    values = [] if effects is None else estimates(effects)
    names = [*map(found.graph.name, edges), "all of these at once"]
    return Table(
        "What is lost without the edges asked for",
        ("edge", "lost without it", "low", "high"),
        tuple((name, *_rounded(*value)) for name, value in zip(names, values, strict=False)),
        "Shares of the logit difference, by exact noising of these edges in the whole model.",
    )


def _acts(found: Measured) -> Table:
    return Table(
        "Where the circuit's edges act: the largest effects of one edge at one class of positions",
        ("edge", "its reader looks at", "lost without it", "low", "high"),
        tuple((found.graph.name(edge), place, *_rounded(*value)) for edge, place, value in found.acts),
        f"Shares of the logit difference when the edge is replaced at these positions alone. {_HELD} Classes are those "
        "of the line that the answer is worked out from; query: the position that predicts the answer; rest: all "
        "earlier lines.",
    )


def _interactions(found: Measured) -> Table:
    of = found.interactions
    rows: list[tuple[Cell, ...]] = [
        (found.graph.name(one), found.graph.name(other), *_rounded(together[0], *beyond))
        for (one, other), together, beyond in zip(of.pairs, estimates(of.joint), estimates(of.beyond), strict=True)
    ]
    return Table(
        "Pairs of the circuit's edges that interact most",
        ("edge", "and edge", "lost without both", "beyond the sum of each", "low", "high"),
        tuple(rows),
        f"Shares of the logit difference, each pair replaced at once, exactly. {_HELD} Above 0: each stands in for the "
        "other, and only both together cost the answer. Below 0: either alone costs what both do, as two edges of one "
        "path. Among the circuit's largest edges alone.",
    )


def _methods(found: Measured, keep: float, intervals: bool) -> Table:
    def words(estimate: Estimate | None) -> str:
        """`0.91 [0.87, 0.93]`."""
        if estimate is None:
            return "not defined"
        bounds = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if intervals else ""
        return f"{estimate.value:.3f}{bounds}"

    rows: list[tuple[Cell, ...]] = []
    for name, own in found.curves.items():
        agreed = found.agreement.get(name)
        cells = [words(own.cpr()), words(own.cmd())]
        cells += ["", ""] if agreed is None else [words(agreed.rank), words(agreed.circuit)]
        rows.append((name, found.needed[name], *cells))
    for name, refusal in found.approximations.items():
        if isinstance(refusal, str):
            rows.append((name, None, refusal, "", "", ""))
    return Table(
        "Methods: how many edges each needs, and how approximations agree with the exact effects",
        ("method", f"edges that keep {keep:.0%}", "CPR", "CMD", "rank correlation", "AUROC"),
        tuple(rows),
        ("With 95 % intervals over pairs. " if intervals else "")
        + "Edges on the searched pairs, idle ones not counted; CPR (area under faithfulness against size) and CMD "
        "(area between it and 1) on held-out ones. Rank correlation of sizes with the exact effects; AUROC for "
        f"the edges of the {GREEDY} circuit; both on the searched pairs.",
    )


def _instead(found: Measured) -> Table:
    by_class = found.held.pairs.within == "position class"
    mean, first = "the mean over chains, at each position", "a chain of another answer"
    if by_class:
        mean, first = "the mean over all positions of the same class", "a chain of another answer, by class of position"
    words = {"mean": mean, "zero": "nothing (zeros)"}
    rows: list[tuple[Cell, ...]] = [(first, *_rounded(*dataclasses.astuple(found.control.own)), "")]
    for name, result in found.instead.items():
        if isinstance(result, str):
            rows.append((words[name], None, None, None, result))
        else:
            rows.append((words[name], *_rounded(*result), ""))
    return Table(
        "Faithfulness of the circuit by what the other edges carry",
        ("the other edges carry", "faithfulness", "low", "high", "refused"),
        tuple(rows),
        f"On held-out pairs, replaced within the {found.held.pairs.within}. The circuit was searched with the first.",
    )


def _circuit(subject: Subject, found: Measured, keep: float) -> Figure:
    graph, pairs, kept = found.graph, found.searched.pairs, set(found.kept)
    whole = found.searched.noising.whole
    rows = np.flatnonzero(whole / whole.mean() >= _CLEAR)[:_EXAMPLES]
    clean, twin = (subject.task.format(part.take(rows)) for part in (pairs.clean, pairs.twin))
    scores = {"denoising": found.denoising} | {
        name: effects for name, effects in found.approximations.items() if isinstance(effects, Effects)
    }
    nodes = [
        {"name": name, **numbers}
        for name, numbers in zip(graph.writers, _numbers(found.nodes), strict=True)
        if name not in CONSTANTS
    ]
    return Figure(
        kind="circuit",
        title="The circuit: every edge by its exact effect",
        shows="Each edge's effect when it alone carries another chain's writing: the share of the logit difference "
        "between the two answers that is lost.",
        refuted_by="Random circuits of as many edges that keep as much (in the numbers), or kept edges that can be "
        "spared on held-out pairs.",
        data={
            "depth": graph.depth,
            "n_heads": graph.n_heads,
            "nodes": [*nodes, {"name": "logits", "effect": None, "low": None, "high": None}],
            "edges": [
                {
                    "source": graph.writers[edge[0]],
                    "target": graph.readers[edge[1]],
                    **numbers,
                    "kept": edge in kept,
                    "scores": {name: round(float(of.value[index]), 4) for name, of in scores.items()},
                }
                for index, (edge, numbers) in enumerate(zip(graph.varying, _numbers(found.noising), strict=True))
            ],
            "unit": "share of the logit difference",
            "kept_says": f"the smallest circuit that greedy backward search found to keep {keep:.0%}",
            "examples": [
                {
                    "clean": clean[index],
                    "twin": twin[index],
                    "moved": [round(float(value), 4) for value in found.moved[:, row] / whole[row]],
                }
                for index, row in enumerate(rows)
            ],
        },
    )


def _curves(found: Measured) -> Figure:
    """Faithfulness against size, by method."""
    return Figure(
        kind="lines",
        title="How much a circuit keeps by its number of edges",
        shows="Faithfulness on held-out pairs of each method's circuits: what is left of the logit difference when all "
        "other edges carry another chain's writing.",
        refuted_by=f"A curve of {GREEDY} no higher than that of {EXACT}, or of random circuits: then which edges were "
        "chosen does not matter.",
        data={
            "series": [
                {
                    "name": name,
                    "x": own.sizes.tolist(),
                    "y": [round(float(value), 4) for value in own.faithfulness.value],
                }
                for name, own in found.curves.items()
            ],
            "x_title": "edges",
            "y_title": "faithfulness",
            "reference": {"y": 1.0, "name": "the whole model"},
        },
    )


def _numbers(effects: Effects) -> Iterator[dict[str, float]]:
    for value, low, high in estimates(effects):
        yield dict(zip(("effect", "low", "high"), _rounded(value, low, high), strict=True))


def _rounded(*values: float) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)
