"""The circuit: the exact causal effect of every node and every edge, and the smallest set of edges that does the work.

Inputs are chains of one template, each with another one of a different answer as its twin. An edge's effect is the
share of the logit difference between the two answers that is lost when that edge alone carries the twin's writing
(noising), or won back when it alone carries the clean one's in the twin's run (denoising): exact, not attributed. A
circuit is a set of edges; all others carry the twin's writing. It is searched on one half of the pairs and judged on
the other, which shares no chain with it, against random circuits of as many edges.

Heads of two models have no common identity, so numbers that are compared between models speak of blocks, counts and
scores; the graph speaks of one model's heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from kc_interp.circuits.scores import Estimate
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.model.graph import Graph
from kc_interp.pairs import PLACES, Pairs, Within, given, resample
from kc_interp.probe import Subject
from kc_probes.circuit_measured import APPROXIMATIONS, EXACT, GREEDY, Measured, Ways, groups, measure
from kc_probes.circuit_shown import figures, tables

_FEW = 4
"""Fewer pairs give no interval."""

_SCORES = (
    ("faithfulness", "faithfulness", "more of the logit difference is left without all other edges"),
    (
        "gap",
        "incompleteness: largest gap to the model when both lose the same edges",
        "more is missing from the circuit",
    ),
    (
        "idle",
        "share of its edges that never change faithfulness by 0.01, cut alone or after others of it",
        "less minimal: more could be spared",
    ),
    ("cpr", "circuit performance ratio (CPR)", "fewer edges keep more"),
    ("cmd", "circuit-model distance (CMD)", "more edges are needed to behave like the model"),
)
_PLACES = {
    "operands": "the operands of the last line",
    "operation": "the operation of the last line",
    "brackets": "the brackets of the last line",
    "separator": "the separator that opens the last line",
    "query": "the position that predicts the answer",
    "rest": "all earlier lines",
}


@dataclass(frozen=True)
class Circuit:
    """Find the circuit of one answer on `pairs` pairs of chains of `steps` reductions, and judge it on as many others.

    The chains are those of `component` (of the whole mixture when the task has no such component), the same for every
    arm. `keep` is the share of the logit difference that the smallest circuit must keep. `within` says what a cut edge
    carries: the twin's writing at the same place of the same template or, where a template has too few chains, at a
    position of the same class. `given` are pairs of questions to use in place of drawn ones, clean and twin; `without`
    names edges to cut as well.
    """

    component: str | None = "SUM"
    pairs: int = 64
    steps: int = 1
    keep: float = 0.9
    random_circuits: int = 50
    resamples: int = 500
    within: Within = "template"
    given: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pairs < _FEW or self.resamples < 20:
            raise SpecError(f"pairs is {self.pairs} and resamples {self.resamples}; at least 4 and 20 are needed")
        if not 0 < self.keep < 1:
            raise SpecError(f"keep is {self.keep}; a share of the logit difference lies between 0 and 1")

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when there are too few chains, a pair given is no pair, or an edge named does not exist."""
        graph = Graph.of(subject.checkpoint.spec.model)
        without = [graph.edge(name) for name in dict.fromkeys(self.without)]
        chosen = self._pairs(subject)
        found, refusal = None, ""
        try:
            searched, held = (Ways.of(subject, pairs, self.resamples) for pairs in chosen)
            found = measure(subject, searched, held, keep=self.keep, circuits=self.random_circuits, without=without)
        except ProbeError as refused:
            refusal = str(refused)
        enough = min(map(len, chosen)) >= _FEW
        finding = Finding(
            probe="circuit",
            subject=subject.name,
            title="The circuit: exact effects of every edge, and the smallest set of edges that does the work",
            sentence=" ".join(self._says(subject, chosen, found, refusal)),
            status="unlearned" if subject.learned is False else "ok",
            numbers=tuple(self._numbers(graph, chosen, found, refusal)),
            tables=() if found is None else tables(found, self.keep, intervals=enough),
            figures=() if found is None else figures(subject, found, self.keep),
            settings=dataclasses.asdict(self),
        )
        return finding if enough else _without_intervals(finding)

    def _pairs(self, subject: Subject) -> tuple[Pairs, Pairs]:
        """Pairs to search on, and pairs to judge on: of pairs that are given, the same."""
        if self.given:
            same = given(subject, self.given)
            return same, same
        try:
            searched, held = self._drawn(subject, self.within)
        except ProbeError:
            searched, held = self._drawn(subject, "position class")
        return searched, held

    def _drawn(self, subject: Subject, within: Within) -> list[Pairs]:
        component, steps = self.component, self.steps
        return resample(subject, self.pairs, purpose="circuit", component=component, steps=steps, sets=2, within=within)

    def _numbers(
        self, graph: Graph, chosen: tuple[Pairs, Pairs], found: Measured | None, refusal: str
    ) -> Iterator[Number]:
        """Under keys that depend on the depth of the model alone."""
        everything, (searched, held) = len(graph.varying), map(len, chosen)
        kept = None if found is None else found.kept
        heads = {graph.head(block, head) for block in range(graph.depth) for head in range(graph.n_heads)}
        for key, title, value, control, of in (
            ("edges", f"edges of the smallest found that keeps {self.keep:.0%}", kept, everything, "edges that vary"),
            ("heads", "heads in it", kept and {writer for writer, _ in kept} & heads, len(heads), "heads"),
        ):
            yield Number(
                f"circuit.{key}",
                f"Circuit: {title}",
                None if value is None else len(value),
                n=searched,
                unit="exact",
                control=control,
                control_says=f"all {of}",
                higher_means=f"more {key} are needed",
                note=refusal,
            )
        for key, title, means in _SCORES:
            one, at_random, says = (None, 0.0, "") if found is None else _score(key, found)
            note = refusal or ("on the pairs it was searched on, so too good" if self.given else "on held-out pairs")
            yield _number(f"circuit.{key}", f"Circuit: {title}", one, held, at_random, says, means, note)
        yield from _of_approximations(found, searched, refusal)
        for index, (name, writers) in enumerate(groups(graph).items()):
            one = None if found is None else Estimate(*(float(x[index]) for x in found.parts.all))
            note = refusal or f"share of the logit difference; {len(writers)} node{'s' if len(writers) > 1 else ''}"
            title = f"Effect of {_group_title(name)}, all edges that leave it at once"
            yield _number(f"part.{name}", title, one, searched, 0.0, "a part that carries nothing", _LOST, note)
        mixed = chosen[0].within == "position class"
        absent = "these chains share no template, so a class has no one place" if mixed else "no such position here"
        for block, name in product(range(graph.depth), PLACES):
            values = None if found is None else found.places.get((name, block))
            note = refusal or ("share of the logit difference" if values else absent)
            one = None if values is None else Estimate(*values)
            title = f"Effect of all edges into block {block}: at {_PLACES[name]}"
            key, says = f"at.{name}.{block}", "positions that carry nothing"
            yield _number(key, title, one, searched, 0.0, says, "more of it is lost without what is read there", note)

    def _says(
        self, subject: Subject, chosen: tuple[Pairs, Pairs], found: Measured | None, refusal: str
    ) -> Iterator[str]:
        if subject.learned is False:
            yield "This model has not learned its task, so nothing is claimed about how it solves it."
        searched, held = chosen
        example = subject.task.format(searched.clean.take(slice(0, 1)))[0]
        mixed = searched.within == "position class"
        alike = "equally long, with the answer at one place" if mixed else "alike in the class of every token"
        if self.given:
            count = f"{len(searched)} given pair{'s' if len(searched) > 1 else ''}"
            yield f"{count} of chains like {example}, {alike}. Nothing is held out: the circuit is judged on the pairs"
            yield "that it was searched on, so its scores are too good."
        else:
            yield f"{len(searched)} pairs of chains like {example} to search on and {len(held)} to judge on, {alike},"
            yield "different in the answer; no chain is in both."
            if len(held) < self.pairs:
                yield f"{self.pairs} a side were asked for, and there are no more such chains."
        if mixed and self.within == "template":
            yield "No template has enough chains for both."
        where = "at a position of the same class" if mixed else "at the same place of the same template"
        if found is None:
            yield f"No circuit: {refusal}."
            return
        own, edges = found.control.own, len(found.graph.varying)
        yield f"An edge that is cut carries another chain's writing {where}."
        bounds = f" (95 % interval {own.low:.0%} to {own.high:.0%})" if len(held) >= _FEW else ""
        yield (
            f"{len(found.kept)} of {edges} edges keep {own.value:.0%} of the logit difference on "
            f"{'the same' if self.given else 'held-out'} pairs{bounds}; of as many edges at random 95 % of circuits "
            f"keep no more than {np.quantile(found.control.random, 0.95):.0%}."
        )
        yield (
            "Effects are exact for these inputs. The circuit is one that a greedy search found: another of as many "
            "edges may do as well, and other chains, or other seeds, may use other edges."
        )


_LOST = "more of the logit difference is lost without it"


def _number(
    key: str,
    title: str,
    one: Estimate | None,
    n: int,
    against: float,
    says: str,
    means: str,
    note: str,
) -> Number:
    """With its interval over pairs, and its control only where there is a number."""
    value, low, high = (None, None, None) if one is None else dataclasses.astuple(one)
    control, control_says = (None, "") if one is None else (against, says)
    return Number(key, title, value, low, high, n, "input", control, control_says, higher_means=means, note=note)


def _score(key: str, found: Measured) -> tuple[Estimate, float, str]:
    """The score, its control and what the control is."""
    if key == "faithfulness":
        random = float(np.quantile(found.control.random, 0.95))
        return found.control.own, random, f"95 % point of {len(found.control.random)} random circuits of as many edges"
    if key in ("cpr", "cmd"):
        one, other = (getattr(found.curves[name], key)() for name in (GREEDY, EXACT))
        return one, other.value, f"edges of {EXACT}"
    if key == "gap":
        value, low, high = (float(part[found.complete.worst]) for part in found.complete.gap.all)
        signed = (value, low, high) if value >= 0 else (-value, -high, -low)
        return Estimate(*signed), 0.0, "the whole model, which misses nothing"
    return found.minimal.spare(), found.idle, "random circuits of as many edges, on average"


def _of_approximations(found: Measured | None, n: int, refusal: str) -> Iterator[Number]:
    means = "the approximation agrees better with the exact effects"
    for name in APPROXIMATIONS:
        agreed = None if found is None else found.agreement.get(name)
        refused = found and found.approximations[name]
        undefined = refused if isinstance(refused, str) else "all effects, or all scores, are equal"
        everything = refused if isinstance(refused, str) else "the circuit has every edge that varies"
        rank, auroc = (None, None) if agreed is None else (agreed.rank, agreed.circuit)
        for key, title, one, control, why in (
            ("rank", "rank correlation of its sizes with those of the exact effects", rank, 0.0, undefined),
            ("auroc", "area under the ROC curve for the circuit's edges", auroc, 0.5, everything),
        ):
            note = refusal or ("" if one else why)
            says = "scores at random, on average"
            yield _number(f"{name.lower()}.{key}", f"{name}: {title}", one, n, control, says, means, note)


def _group_title(name: str) -> str:
    kind, block = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
    words = {"attn": "the heads of block", "mlp": "the MLP of block"}
    return "the token embedding" if kind == "token" else f"{words[kind]} {block}"


def _without_intervals(finding: Finding) -> Finding:
    """Of fewer pairs than an interval needs: every value is exact for these, and says nothing of others."""
    bounds = {"low": None, "high": None}

    def exact(number: Number) -> Number:
        return dataclasses.replace(number, low=None, high=None, unit="exact")

    def plain(table: Table) -> Table:
        columns = [index for index, name in enumerate(table.columns) if name not in bounds]
        rows = tuple(tuple(row[index] for index in columns) for row in table.rows)
        return dataclasses.replace(table, columns=tuple(table.columns[index] for index in columns), rows=rows)

    def bare(figure: Figure) -> Figure:
        if figure.kind != "circuit":
            return figure
        parts = {name: [{**part, **bounds} for part in figure.data[name]] for name in ("nodes", "edges")}
        return dataclasses.replace(figure, data={**figure.data, **parts})

    return dataclasses.replace(
        finding,
        sentence=f"{finding.sentence} Intervals need at least {_FEW} pairs, so there are none.",
        numbers=tuple(map(exact, finding.numbers)),
        tables=tuple(map(plain, finding.tables)),
        figures=tuple(map(bare, finding.figures)),
    )
