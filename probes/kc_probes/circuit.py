"""The circuit: the exact causal effect of every node and every edge, and the smallest set of edges that does the work.

Inputs are chains of one template, each with another one of a different answer as its twin. An edge's effect is the
share of the logit difference between the two answers that is lost when that edge alone carries the twin's writing
(noising), or won back when it alone carries the clean one's in the twin's run (denoising): exact, not attributed. A
circuit is a set of edges; all others carry the twin's writing. It is searched on one half of the pairs and judged on
the other, against random circuits of as many edges.

Heads of two models have no common identity, so numbers that are compared between models speak of blocks, counts and
scores; the graph speaks of one model's heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from kc_interp.circuits import replacement
from kc_interp.circuits.attribution import eap, eap_ig_inputs
from kc_interp.circuits.effects import Comparison, Edge, Effects, Metric, edge_logits
from kc_interp.circuits.scores import (
    Completeness,
    Control,
    Curve,
    Estimate,
    Minimality,
    against_random,
    completeness,
    curve,
    faithfulness,
    minimality,
)
from kc_interp.circuits.search import acdc, by_score, greedy_backward
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.graph import CONSTANTS, Graph
from kc_interp.model.interventions import Streams, replaced
from kc_interp.pairs import Pairs, resample
from kc_interp.probe import Subject

_PURPOSE = "circuit"
_EXAMPLES = 3
_SHOWN_EDGES = 20
_TOLERANCE = 0.002
_ACDC = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
_SCORES = (
    ("faithfulness", "faithfulness on held-out pairs", "more of the logit difference is left without all other edges"),
    (
        "gap",
        "incompleteness: largest gap to the model when both lose the same edges",
        "more is missing from the circuit",
    ),
    ("idle", "share of its edges that change nothing, alone or with others gone", "less minimal: more could be spared"),
    ("cpr", "circuit performance ratio (CPR)", "fewer edges keep more"),
    ("cmd", "circuit-model distance (CMD)", "more edges are needed to behave like the model"),
)


@dataclass(frozen=True)
class Circuit:
    """Find the circuit of one answer on `pairs` pairs of chains of `steps` reductions, and judge it on as many others.

    The chains are those of `component` (of the whole mixture when the task has no such component), the same for every
    arm. `keep` is the share of the logit difference that the smallest circuit must keep.
    """

    component: str | None = "SUM"
    pairs: int = 64
    steps: int = 1
    keep: float = 0.9
    random_circuits: int = 50
    resamples: int = 500

    def __post_init__(self) -> None:
        if self.pairs < 4 or self.resamples < 20:
            raise SpecError(f"pairs is {self.pairs} and resamples {self.resamples}; at least 4 and 20 are needed")
        if not 0 < self.keep < 1:
            raise SpecError(f"keep is {self.keep}; a share of the logit difference lies between 0 and 1")

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when the task has too few chains of one template with different answers."""
        drawn = resample(subject, 2 * self.pairs, purpose=_PURPOSE, component=self.component, steps=self.steps)
        half = len(drawn) // 2
        try:
            searched, held = (self._ways(subject, drawn.take(part)) for part in (slice(0, half), slice(half, None)))
        except ProbeError as refusal:
            return self._finding(subject, drawn, None, str(refusal))
        return self._finding(subject, drawn, self._measured(subject, searched, held), "")

    def _ways(self, subject: Subject, pairs: Pairs) -> Ways:
        spec = subject.checkpoint.spec.model
        clean, twin = (Streams.of(subject.params, spec, ids) for ids in pairs.ids(subject))
        answers = pairs.answers(subject)
        rng, metric = subject.rng(f"{_PURPOSE}: resamples"), Metric(answers[0], answers[1])
        noising, denoising = (
            Comparison.of(base, source, metric, rng, self.resamples) for base, source in ((clean, twin), (twin, clean))
        )
        return Ways(pairs, noising, denoising)

    def _measured(self, subject: Subject, searched: Ways, held: Ways) -> Measured:
        graph, noising = searched.graph, searched.noising
        exact = noising.edges()
        backward = greedy_backward(noising, tolerance=_TOLERANCE)
        kept = list(curve(noising, backward).smallest(self.keep))
        approximations = {"EAP": noising.effects(eap(noising)), "EAP-IG": noising.effects(eap_ig_inputs(noising))}
        circuits = {"greedy backward": backward, "ACDC": acdc(noising, _ACDC, metric="logit difference")}
        circuits |= {
            name: by_score(graph, scores.value)
            for name, scores in {"largest exact effect first": exact, **approximations}.items()
        }
        parts = [[edge for edge in graph.varying if edge[0] in writers] for writers in _groups(graph).values()]
        masks = torch.from_numpy(np.stack([graph.mask(part) for part in parts])).to(noising.base.logits)
        rng = subject.rng(f"{_PURPOSE}: scores")
        return Measured(
            searched,
            kept,
            noising=exact,
            denoising=searched.denoising.edges(),
            approximations=approximations,
            curves={name: curve(held.noising, found) for name, found in circuits.items()},
            needed={name: len(curve(noising, found).smallest(self.keep)) for name, found in circuits.items()},
            nodes=noising.nodes(range(len(graph.writers))),
            parts=noising.effects(noising.moved(replaced(noising.base, noising.source, masks))),
            control=against_random(held.noising, kept, rng, self.random_circuits),
            complete=completeness(noising, kept, rng, greedy=5, judged=held.noising),
            minimal=minimality(held.noising, kept, rng, singles=20, samples=10),
            instead=_other_replacements(held, kept),
        )

    def _finding(self, subject: Subject, drawn: Pairs, found: Measured | None, refusal: str) -> Finding:
        graph = Graph.of(subject.checkpoint.spec.model)
        return Finding(
            probe="circuit",
            subject=subject.name,
            title="The circuit: exact effects of every edge, and the smallest set of edges that does the work",
            sentence=self._sentence(subject, drawn, found, refusal),
            status="unlearned" if subject.learned is False else "ok",
            numbers=tuple(self._numbers(graph, found, len(drawn) // 2, refusal)),
            tables=()
            if found is None
            else (_edges_table(found), _methods_table(found, self.keep), _instead_table(found)),
            figures=() if found is None else (self._figure(subject, found), _curves_figure(found)),
            settings=dataclasses.asdict(self),
        )

    def _numbers(self, graph: Graph, found: Measured | None, count: int, refusal: str) -> Iterator[Number]:
        """Under keys that depend on the depth of the model alone."""
        everything = len(graph.varying)
        kept = None if found is None else found.kept
        yield Number(
            "circuit.edges",
            f"Circuit: edges of the smallest found that keeps {self.keep:.0%}",
            None if kept is None else len(kept),
            n=count,
            unit="exact",
            control=everything,
            control_says="all edges that vary",
            higher_means="more edges are needed",
            note=refusal,
        )
        yield Number(
            "circuit.heads",
            "Circuit: heads in it",
            None if kept is None else len({writer for writer, _ in kept if _block_and_head(graph, writer)}),
            n=count,
            unit="exact",
            control=graph.depth * graph.n_heads,
            control_says="all heads",
            higher_means="more heads are needed",
            note=refusal,
        )
        for key, title, means in _SCORES:
            value, low, high, control, control_says = _score(key, found, self.keep)
            yield Number(
                f"circuit.{key}",
                f"Circuit: {title}",
                value,
                low,
                high,
                n=count,
                unit="exact" if key == "idle" else "input",
                control=control,
                control_says=control_says,
                higher_means=means,
                note=refusal,
            )
        for name in ("EAP", "EAP-IG"):
            rank, auroc = (None, None) if found is None else _agreement(found, found.approximations[name].value)
            for key, title, value, control in (
                (
                    "rank",
                    "rank correlation of its sizes with those of the exact effects",
                    rank,
                    0.0,
                ),
                (
                    "auroc",
                    "area under the ROC curve for the circuit's edges",
                    auroc,
                    0.5,
                ),
            ):
                yield Number(
                    f"{name.lower()}.{key}",
                    f"{name}: {title}",
                    value,
                    n=everything,
                    unit="exact",
                    control=control,
                    control_says="scores at random, on average",
                    higher_means="the approximation agrees better with the exact effects",
                    note=refusal,
                )
        for index, (name, writers) in enumerate(_groups(graph).items()):
            value, low, high = (None, None, None) if found is None else (float(x[index]) for x in found.parts.all)
            yield Number(
                f"part.{name}",
                f"Effect of {_group_title(name)}, all edges that leave it at once",
                value,
                low,
                high,
                n=count,
                control=None if found is None else 0.0,
                control_says="a part that carries nothing" if found else "",
                higher_means="more of the logit difference is lost without it",
                note=refusal or f"share of the logit difference; {len(writers)} node{'s' if len(writers) > 1 else ''}",
            )

    def _sentence(self, subject: Subject, drawn: Pairs, found: Measured | None, refusal: str) -> str:
        says = [
            f"{len(drawn)} pairs of chains like {subject.task.format(drawn.clean.take(slice(0, 1)))[0]}, alike in the "
            "class of every token, different in the answer; one half to search, the other to judge."
        ]
        if found is None:
            says.append(f"No circuit: {refusal}.")
        else:
            graph, held = found.ways.graph, found.control.own
            says.append(
                f"{len(found.kept)} of {len(graph.varying)} edges keep {held.value:.0%} of the logit difference on "
                f"held-out pairs (95 % interval {held.low:.0%} to {held.high:.0%}); of as many edges at random 95 % of "
                f"circuits keep no more than {np.quantile(found.control.random, 0.95):.0%}."
            )
            says.append(
                "Effects are exact for these inputs. The circuit is one that a greedy search found: another of as many "
                "edges may do as well, and other chains, or other seeds, may use other edges."
            )
        if subject.learned is False:
            says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
        return " ".join(says)

    def _figure(self, subject: Subject, found: Measured) -> Figure:
        graph, pairs, kept = found.ways.graph, found.ways.pairs, set(found.kept)
        moved = found.ways.noising.moved(edge_logits(found.ways.noising.base, found.ways.noising.source, graph.varying))
        whole = found.ways.noising.whole
        clean, twin = (subject.task.format(part.take(slice(0, _EXAMPLES))) for part in (pairs.clean, pairs.twin))
        nodes = [
            {"name": name, **_numbers_of(found.nodes, index)}
            for index, name in enumerate(graph.writers)
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
                        **_numbers_of(found.noising, index),
                        "kept": edge in kept,
                        "scores": {
                            name: round(float(scores.value[index]), 4)
                            for name, scores in {"denoising": found.denoising, **found.approximations}.items()
                        },
                    }
                    for index, edge in enumerate(graph.varying)
                ],
                "unit": "share of the logit difference",
                "kept_says": f"the smallest circuit that greedy backward search found to keep {self.keep:.0%}",
                "examples": [
                    {
                        "clean": clean[row],
                        "twin": twin[row],
                        "moved": [round(float(value), 4) for value in moved[:, row] / whole[row]],
                    }
                    for row in range(len(clean))
                ],
            },
        )


@dataclass(frozen=True)
class Ways:
    """One set of pairs, compared both ways: noising has the clean chains as its base, denoising their twins."""

    pairs: Pairs
    noising: Comparison
    denoising: Comparison

    @property
    def graph(self) -> Graph:
        return self.noising.base.graph


@dataclass(frozen=True)
class Measured:
    """What was found on the searched pairs, and how it does on the held-out ones.

    `curves`: each method's circuits by size, on held-out pairs; `needed`: how many edges its smallest one has that
    keeps enough of the searched ones. `instead`: the circuit's faithfulness by what the cut edges carry.
    """

    ways: Ways
    kept: Sequence[Edge]
    noising: Effects
    denoising: Effects
    approximations: Mapping[str, Effects]
    curves: Mapping[str, Curve]
    needed: Mapping[str, int]
    nodes: Effects
    parts: Effects
    control: Control
    complete: Completeness
    minimal: Minimality
    instead: dict[str, tuple[float, float, float] | str]


def _groups(graph: Graph) -> dict[str, list[int]]:
    """What is compared between models: the token embedding, and each block's heads together and MLP."""
    groups = {"token": [0]}
    for block in range(graph.depth):
        groups[f"attn{block}"] = [graph.head(block, head) for head in range(graph.n_heads)]
        groups[f"mlp{block}"] = [graph.head(block, graph.n_heads)]
    return groups


def _group_title(name: str) -> str:
    kind, block = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
    words = {"attn": "the heads of block", "mlp": "the MLP of block"}
    return "the token embedding" if kind == "token" else f"{words[kind]} {block}"


def _block_and_head(graph: Graph, writer: int) -> bool:
    return graph.writers[writer].startswith("a")


def _numbers_of(effects: Effects, index: int) -> dict[str, float]:
    return {name: round(float(getattr(effects, name)[index]), 4) for name in ("low", "high")} | {
        "effect": round(float(effects.value[index]), 4)
    }


def _other_replacements(held: Ways, kept: Sequence[Edge]) -> dict[str, tuple[float, float, float] | str]:
    """The circuit's faithfulness when cut edges carry something else; a refusal in words where there is no share."""
    base, metric = held.noising.base, held.noising.metric
    found: dict[str, tuple[float, float, float] | str] = {}
    for name, source in {"mean": replacement.mean(base), "zero": replacement.zero(base)}.items():
        try:
            other = Comparison(base, source, metric, held.noising.weights).checked()
        except ProbeError as refusal:
            found[name] = str(refusal)
            continue
        value, low, high = (float(x[0]) for x in faithfulness(other, [kept]).all)
        found[name] = value, low, high
    return found


def _edges_table(found: Measured) -> Table:
    graph, kept = found.ways.graph, set(found.kept)
    rows: list[tuple[Cell, ...]] = []
    for index in np.argsort(-np.abs(found.noising.value), kind="stable")[:_SHOWN_EDGES]:
        numbers = (round(float(x[index]), 4) for x in (*found.noising.all, found.denoising.value))
        rows.append((graph.name(graph.varying[index]), *numbers, "yes" if graph.varying[index] in kept else "no"))
    return Table(
        f"The {len(rows)} edges with the largest effect",
        ("edge", "lost without it", "low", "high", "restored by it", "kept"),
        tuple(rows),
        "Shares of the logit difference. Lost: noising; restored: denoising. Chosen for their size, so read the "
        "intervals as those of candidates.",
    )


def _score(
    key: str, found: Measured | None, keep: float
) -> tuple[float | None, float | None, float | None, float | None, str]:
    """Value, interval, control and what the control is."""
    if found is None:
        return None, None, None, None, ""
    random = f"95 % point of {len(found.control.random)} random circuits of as many edges"
    edges = len(found.ways.graph.varying)
    if key == "faithfulness":
        own = found.control.own
        return own.value, own.low, own.high, float(np.quantile(found.control.random, 0.95)), random
    if key in ("cpr", "cmd"):
        one: Estimate = getattr(found.curves["greedy backward"], key)()
        other: Estimate = getattr(found.curves["largest exact effect first"], key)()
        return one.value, one.low, one.high, other.value, "edges of largest exact effect first"
    if key == "gap":
        value, low, high = (float(part[found.complete.worst]) for part in found.complete.gap.all)
        if value < 0:
            value, low, high = -value, -high, -low
        return value, low, high, 0.0, "the whole model, which misses nothing"
    spare = len(found.minimal.superfluous()) / max(len(found.kept), 1)
    return spare, None, None, 1 - len(found.kept) / edges, "the same share of a circuit of all edges, at least"


def _agreement(found: Measured, scores: Float[np.ndarray, " edge"]) -> tuple[float, float | None]:
    """Of an approximation with the exact effects: rank correlation of sizes, AUROC for the edges of the circuit."""
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    sizes, kept = np.abs(scores), set(found.kept)
    within = [edge in kept for edge in found.ways.graph.varying]
    rank = float(spearmanr(sizes, np.abs(found.noising.value)).statistic)
    return rank, float(roc_auc_score(within, sizes)) if 0 < sum(within) < len(within) else None


def _methods_table(found: Measured, keep: float) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, own in found.curves.items():
        scores = {**found.approximations, "largest exact effect first": found.noising}.get(name)
        rank, auroc = (None, None) if scores is None else _agreement(found, scores.value)
        areas = (round(estimate.value, 4) for estimate in (own.cpr(), own.cmd()))
        rows.append((name, found.needed[name], *areas, *(None if x is None else round(x, 4) for x in (rank, auroc))))
    return Table(
        "Methods: how many edges each needs, and how approximations agree with the exact effects",
        ("method", f"edges that keep {keep:.0%}", "CPR", "CMD", "rank correlation", "AUROC"),
        tuple(rows),
        "Edges on the searched pairs, idle ones not counted; CPR (area under faithfulness against size) and CMD (area "
        "between it and 1) on held-out ones. Rank correlation of sizes with the exact effects; AUROC for the edges of "
        "the greedy circuit.",
    )


def _curves_figure(found: Measured) -> Figure:
    """Faithfulness against size, by method."""
    return Figure(
        kind="lines",
        title="How much a circuit keeps by its number of edges",
        shows="Faithfulness on held-out pairs of each method's circuits: what is left of the logit difference when all "
        "other edges carry another chain's writing.",
        refuted_by="A curve no higher than that of random circuits: then the edges chosen do not matter.",
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


def _instead_table(found: Measured) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("a chain of another answer", *(round(x, 4) for x in dataclasses.astuple(found.control.own)), "")
    ]
    for name, result in found.instead.items():
        words = {"mean": "the mean over chains", "zero": "nothing (zeros)"}[name]
        if isinstance(result, str):
            rows.append((words, None, None, None, result))
        else:
            rows.append((words, *(round(value, 4) for value in result), ""))
    return Table(
        "Faithfulness of the circuit by what the other edges carry",
        ("the other edges carry", "faithfulness", "low", "high", "refused"),
        tuple(rows),
        "On held-out pairs, all of one template. The circuit was searched for with the first.",
    )
