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
from kc_interp.circuits.agreement import Agreement, agreement
from kc_interp.circuits.attribution import eap, eap_ig
from kc_interp.circuits.effects import Comparison, Edge, Effects, Metric, edge_logits
from kc_interp.circuits.kept import acdc, best_first, faithfulness, greedy_backward, random_circuits
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.graph import CONSTANTS, Graph
from kc_interp.model.interventions import Streams, replaced
from kc_interp.pairs import Pairs, resample
from kc_interp.probe import Subject

_PURPOSE = "circuit"
_EXAMPLES = 3
_SHOWN_EDGES = 20


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
        graph, rng = searched.graph, subject.rng(f"{_PURPOSE}: random circuits")
        kept = greedy_backward(searched.noising, self.keep)
        random = random_circuits(graph, len(kept), self.random_circuits, rng)
        parts = [[edge for edge in graph.varying if edge[0] in writers] for writers in _groups(graph).values()]
        logits = replaced(
            searched.noising.base,
            searched.noising.source,
            torch.from_numpy(np.stack([graph.mask(part) for part in parts])).to(searched.noising.base.logits),
        )
        exact = searched.noising.edges()
        approximations = {"EAP": eap(searched.noising), "EAP-IG": eap_ig(searched.noising)}
        within = np.asarray([edge in set(kept) for edge in graph.varying])
        return Measured(
            searched,
            kept,
            noising=exact,
            approximations=approximations,
            agreement={
                name: agreement(searched.noising, scores.value, exact.value, within, self.keep)
                for name, scores in {"exact": exact, **approximations}.items()
            },
            acdc=acdc(searched.noising, (1 - self.keep) / 10),
            denoising=searched.denoising.edges(),
            nodes=searched.noising.nodes(range(len(graph.writers))),
            parts=searched.noising.effects(searched.noising.moved(logits)),
            held_out=faithfulness(held.noising, [kept]),
            strongest=faithfulness(held.noising, best_first(searched.noising, exact.value, [len(kept)])),
            random=faithfulness(held.noising, random).value,
            spared=1 - faithfulness(held.noising, [[edge for edge in kept if edge != one] for one in kept]).value,
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
            figures=() if found is None else (self._figure(subject, found),),
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
        random = None if found is None else float(np.quantile(found.random, 0.95))
        random_says = f"95 % point of {self.random_circuits} random circuits of as many edges"
        for key, title, effects in (
            ("circuit.faithfulness", "Circuit: faithfulness on held-out pairs", found and found.held_out),
            (
                "strongest.faithfulness",
                "Circuit: faithfulness of as many edges, those of largest effect",
                found and found.strongest,
            ),
        ):
            value, low, high = (None, None, None) if not effects else (float(x[0]) for x in effects.all)
            yield Number(
                key, title, value, low, high, n=count, control=random, control_says=random_says if found else "",
                higher_means="more of the logit difference is left without all other edges", note=refusal,
            )  # fmt: skip
        yield Number(
            "circuit.idle",
            "Circuit: share of its edges whose removal alone costs less than 1 % on held-out pairs",
            None if found is None else float((found.spared < 0.01 + 1 - found.held_out.value[0]).mean()),
            n=count,
            unit="exact",
            control=None if found is None else 1.0,
            control_says="a circuit that does nothing" if found else "",
            higher_means="less minimal: more of its edges could be spared",
            note=refusal,
        )
        for name in ("EAP", "EAP-IG"):
            agreed = None if found is None else found.agreement[name]
            for key, title, value, control in (
                (
                    "rank",
                    "rank correlation of its sizes with those of the exact effects",
                    None if agreed is None else agreed.rank,
                    0.0,
                ),
                (
                    "auroc",
                    "area under the ROC curve for the circuit's edges",
                    None if agreed is None else agreed.auroc,
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
            graph, held = found.ways.graph, found.held_out
            says.append(
                f"{len(found.kept)} of {len(graph.varying)} edges keep {held.value[0]:.0%} of the logit difference on "
                f"held-out pairs (95 % interval {held.low[0]:.0%} to {held.high[0]:.0%}); random circuits of as many "
                f"edges keep up to {np.quantile(found.random, 0.95):.0%}."
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

    `spared`: what is missing of the whole when each kept edge is cut as well. `instead`: the circuit's faithfulness by
    what the cut edges carry.
    """

    ways: Ways
    kept: Sequence[Edge]
    noising: Effects
    approximations: Mapping[str, Effects]
    agreement: Mapping[str, Agreement]
    acdc: Sequence[Edge]
    denoising: Effects
    nodes: Effects
    parts: Effects
    held_out: Effects
    strongest: Effects
    random: Float[np.ndarray, " circuit"]
    spared: Float[np.ndarray, " kept"]
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


def _methods_table(found: Measured, keep: float) -> Table:
    """Every method's circuit and agreement, on the searched pairs."""
    noising = found.ways.noising
    rows: list[tuple[Cell, ...]] = []
    for name, edges in {"greedy backward": found.kept, "ACDC": found.acdc}.items():
        left = float(faithfulness(noising, [edges]).value[0])
        rows.append((name, len(edges), round(left, 4), None, None))
    for name, agreed in found.agreement.items():
        auroc = None if agreed.auroc is None else round(agreed.auroc, 4)
        title = "largest exact effect first" if name == "exact" else f"{name}, largest score first"
        rows.append((title, agreed.size, keep, round(agreed.rank, 4), auroc))
    return Table(
        "Methods: how many edges each needs, and how approximations agree with the exact effects",
        ("method", "edges", "faithfulness", "rank correlation", "AUROC"),
        tuple(rows),
        "On the searched pairs. Best-first circuits have as many edges as the faithfulness asked for takes; idle edges "
        "are not counted. Correlation of sizes with the exact effects; AUROC for the edges of the greedy circuit.",
    )


def _instead_table(found: Measured) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("a chain of another answer", *(round(float(x[0]), 4) for x in found.held_out.all), "")
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
