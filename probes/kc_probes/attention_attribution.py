"""Where does each head look when a line is written and at the answer, by class of token, and does it matter there?

Four measures of the same entries of the attention pattern, for one query (row of the pattern) at a time:

- raw: the attention, as a share of the row;
- weighted: attention times the norm of what the source's value writes through W_O, as a share of the row (Kobayashi et
  al. 2020, "Attention is Not Only a Weight", https://arxiv.org/abs/2004.10102); all 0 in a head that writes nothing;
- gradient: attention times the gradient of the target's log-probability, in nats and signed. It is the first-order
  estimate of cut, and misses it where the model is sure of its symbol: there the log-probability is flat;
- cut: the causal effect, the nats of log-probability that the target loses when the entries are set to zero. The rest
  of the row keeps its weights, so that the row no longer sums to one; `renormalise` rescales it instead.

Only the query's own row is touched, for its own next symbol. A source may hold what it read from elsewhere in an
earlier block, so that a cut says through which positions the query is served, not where the information began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from kc_interp.circuits.attention import (
    MEASURES,
    Estimates,
    Queries,
    Rows,
    percentile_interval,
    site_of,
)
from kc_interp.errors import SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import Sites, forward
from kc_interp.probe import Subject
from kc_interp.tasks.task import Chains
from kc_probes.ablation import bootstrap
from kc_probes.attention_measured import asked, measured_of

MOST_HEADS = 16
"""CircuitsVis draws this many heads legibly."""

_KINDS = {
    "answer": "at the answer",
    "value": "where an intermediate result is written",
    "line": "over all symbols of intermediate lines",
}
_TITLES = {
    "raw": "Attention",
    "weighted": "Value-weighted attention",
    "gradient": "Gradient × attention",
    "cut": "Log-probability lost by cutting attention",
}
_UNITS = {"raw": "share of the row", "weighted": "share of the row", "gradient": "nats", "cut": "nats"}
_CONTROLS = {
    "raw": "uniform attention: the share of the positions that have this class",
    "weighted": "uniform attention, weighted likewise",
    "gradient": "as much attention to other sources, drawn at random",
    "cut": "cutting as much attention to other sources, drawn at random",
}


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation over cells of block, head and class, with its interval and its permutation null."""

    value: float | None
    low: float | None = None
    high: float | None = None
    null_95: float | None = None
    p: float | None = None
    cells: int = 0


def agreement(
    attributed: Float[np.ndarray, "resample cell"],
    effects: Float[np.ndarray, "resample cell"],
    rng: np.random.Generator,
    permutations: int,
) -> Agreement:
    """Of the absolute values; the first resample is the sample. None where one of the two is the same in all cells."""
    ranks = [rankdata(np.abs(part), axis=1) for part in (attributed, effects)]
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = ((part - part.mean(axis=1, keepdims=True)) for part in ranks)
        a, b = (part / np.sqrt((part**2).sum(axis=1, keepdims=True)) for part in (a, b))
    values = (a * b).sum(axis=1)
    if not np.isfinite(values[0]):
        return Agreement(None, cells=a.shape[1])
    shuffled = rng.permuted(np.tile(b[0], (permutations, 1)), axis=1) @ a[0]
    p = (1 + (shuffled >= values[0] - 1e-12).sum()) / (1 + permutations)
    low, high = percentile_interval(values[1:])
    return Agreement(float(values[0]), low, high, float(np.quantile(shuffled, 0.95)), float(p), a.shape[1])


@dataclass(frozen=True)
class AttentionAttribution:
    """What heads attend to by class of token: raw, value-weighted, gradient × attention, and the effect of cutting it.

    `chains` test items of `component` (of the whole mixture when the task has no such component); intervals are over
    `resamples` of them, nulls of agreement over `permutations` of the cells.
    """

    component: str | None = "SUM"
    chains: int = 64
    resamples: int = 500
    permutations: int = 2_000
    renormalise: bool = False

    def __post_init__(self) -> None:
        if min(self.chains, self.resamples) < 2:
            raise SpecError("chains and resamples must each be at least 2 for an interval")
        if self.permutations < 100:
            raise SpecError(f"permutations is {self.permutations}; at least 100 are needed for a 95 % point")

    def run(self, subject: Subject) -> Finding:
        """Every measure by class and kind of query, and how well each attribution agrees with the causal effect.

        Raises ProbeError when the task's symbols are all of one class, or the model's log-probabilities not finite.
        """
        chains, queries = asked(subject, "attention-attribution", self.component, self.chains)
        ids = subject.ids(chains)
        rows = Rows.of(subject.params, subject.checkpoint.spec.model, ids, renormalise=self.renormalise)
        measured = measured_of(subject, "attention-attribution", rows, queries, ids)
        weights = bootstrap(len(chains), self.resamples, subject.rng("attention-attribution: resamples"))
        found = {
            kind: Estimates.of(measured, queries.chain, counted, weights) for kind, counted in queries.kinds.items()
        }
        agreements = {
            (kind, name): self._agreement(subject, kind, index, estimates)
            for kind, estimates in found.items()
            for index, name in enumerate(MEASURES[:-1])
        }
        numbers = (*_numbers(found, queries.names), *_agreement_numbers(agreements, found, self.permutations))
        example = _Example.of(subject, chains, queries, rows, ids)
        component = subject.component(self.component)
        return Finding(
            probe="attention-attribution",
            subject=subject.name,
            title="What heads attend to, and whether it matters",
            sentence=_sentence(numbers, found, queries.names, component, learned=subject.learned),
            status="unlearned" if subject.learned is False else "ok",
            numbers=numbers,
            tables=(_claim_table(numbers, found, queries.names), *_head_tables(found, queries.names)),
            figures=(*_figures(found, queries.names), *example.figures()),
            settings=dataclasses.asdict(self),
        )

    def _agreement(self, subject: Subject, kind: str, index: int, estimates: Estimates) -> Agreement:
        if not estimates.queries:
            return Agreement(None)
        there = estimates.whole[0, 0, 1] > 0
        attributed, effects = (
            rearrange(
                estimates.cells[:, m, 0][..., there], "resample block head source -> resample (block head source)"
            )
            for m in (index, MEASURES.index("cut"))
        )
        rng = subject.rng(f"attention-attribution: {kind} {MEASURES[index]}")
        return agreement(attributed, effects, rng, self.permutations)


def _numbers(found: Mapping[str, Estimates], names: Sequence[str]) -> Iterator[Number]:
    """The model's numbers by kind of query, measure and class; and the first class of digits against brackets."""
    for kind, estimates in found.items():
        for index, name in enumerate(MEASURES):
            for source, title in enumerate(names):
                values = estimates.whole[:, index, :, source]
                absent = estimates.queries > 0 and estimates.whole[0, 0, 1, source] == 0
                yield _number(kind, name, title, values, estimates, f"no {title} stand before it" if absent else "")
            if "brackets" in names and names[0] in ("operands", "digits"):
                values = estimates.whole[:, index, :, 0] - estimates.whole[:, index, :, names.index("brackets")]
                yield _number(kind, name, f"{names[0]} minus brackets", values, estimates, "")


def _number(
    kind: str,
    name: str,
    source: str,
    values: Float[np.ndarray, "resample side"],
    estimates: Estimates,
    absent: str,
) -> Number:
    key, title = f"{kind}.{name}.{source.replace(' ', '-')}", f"{_TITLES[name]} to {source} {_KINDS[kind]}"
    if not estimates.queries or absent:
        return Number(key, title, None, note=absent or "no chain of this sample has a line before its answer")
    low, high = percentile_interval(values[1:, 0])
    more = "more of the attention goes to" if name in ("raw", "weighted") else "the symbol written depends more on"
    return Number(
        key,
        title,
        float(values[0, 0]),
        low,
        high,
        n=estimates.chains,
        control=float(values[0, 1]),
        control_says=_CONTROLS[name],
        higher_means=f"{more} {source.replace(' minus ', ' than to ' if name in ('raw', 'weighted') else ' than on ')}",
        note=f"{_UNITS[name]}; {estimates.queries} queries"
        + (", cut in all heads of all blocks at once" if name == "cut" else ""),
    )


def _agreement_numbers(
    agreements: Mapping[tuple[str, str], Agreement], found: Mapping[str, Estimates], permutations: int
) -> Iterator[Number]:
    for (kind, name), it in agreements.items():
        key, title = f"{kind}.agreement.{name}", f"{_TITLES[name]} against the effect of cutting, {_KINDS[kind]}"
        if it.value is None:
            why = "one of the two is the same in every head and class" if it.cells else "no chain has such a query"
            yield Number(key, title, None, note=f"no rank correlation: {why}")
            continue
        yield Number(
            key,
            title,
            it.value,
            it.low,
            it.high,
            n=found[kind].chains,
            control=it.null_95,
            control_says=f"95 % point of {permutations:,} shuffles of the cells",
            higher_means="where this measure is larger, cutting changes the symbol's log-probability more",
            note=f"Spearman, of absolute values, over {it.cells} cells of head and class; p = {it.p:.2g}",
        )


def _sentence(
    numbers: Sequence[Number],
    found: Mapping[str, Estimates],
    names: Sequence[str],
    component: str | None,
    *,
    learned: bool | None,
) -> str:
    """What is attended and what cutting it costs, where results are written; and what this does not show."""
    by_key = {number.key: number for number in numbers}
    shown = [name for name in ("operands", "digits", "brackets") if name in names]
    of = f"{component} test items" if component else "test items of the mixture"
    parts = [f"On {found['answer'].chains} {of}."]
    for kind in [kind for kind in ("answer", "value") if kind in found and found[kind].queries]:
        for name in shown:
            raw, cut = by_key[f"{kind}.raw.{name}"], by_key[f"{kind}.cut.{name}"]
            if raw.value is None or cut.value is None:
                continue
            interval = "" if cut.low is None else f"95 % interval {cut.low:.2f} to {cut.high:.2f}; "
            parts.append(
                f"{_KINDS[kind].capitalize()}, {name} get {raw.value:.0%} of the attention (mean over heads; uniform "
                f"attention {raw.control:.0%}), and cutting it in every head costs the symbol {cut.value:.2f} nats "
                f"({interval}as much attention to other sources {cut.control:.2f})."
            )
    agreed = [(name, by_key[f"answer.agreement.{name}"]) for name in MEASURES[:-1]]
    if spoken := [f"{name} {number.value:.2f}" for name, number in agreed if number.value is not None]:
        parts.append(
            f"Rank correlation with the effect of cutting, over heads and classes at the answer: {', '.join(spoken)}."
        )
    parts.append(
        "This says through which positions this one checkpoint is served where it writes; not what is computed from "
        "them, not where their content came from, and not what another seed would do."
    )
    if learned is False:
        parts.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
    return " ".join(parts)


def _claim_table(numbers: Sequence[Number], found: Mapping[str, Estimates], names: Sequence[str]) -> Table:
    """The paper's digits-against-brackets claim: kind of query and measure by class, each with interval and control."""
    by_key = {number.key: number for number in numbers}
    rows: list[tuple[Cell, ...]] = []
    for kind in found:
        for name in MEASURES:
            cells = [by_key[f"{kind}.{name}.{source.replace(' ', '-')}"] for source in names]
            rows.append((_KINDS[kind], f"{name} ({_UNITS[name]})", *map(_with_interval, cells)))
            controls = [None if cell.control is None else f"{cell.control:.3f}" for cell in cells]
            rows.append((_KINDS[kind], f"{name}, control", *controls))
    return Table(
        "Digits against brackets: what is attended, and what depends on it",
        ("query", "measure", *names),
        tuple(rows),
        "Value (95 % bootstrap interval over chains). Raw and weighted are means over heads, gradient their sum, "
        "cut is made in all heads of all blocks at once. Controls: uniform attention (raw, weighted); as much "
        "attention to other sources, drawn at random (gradient, cut). Separators include the equals sign.",
    )


def _with_interval(number: Number) -> str | None:
    if number.value is None:
        return None
    if number.low is None or number.high is None:
        return f"{number.value:.3f}"
    return f"{number.value:.3f} ({number.low:.3f} to {number.high:.3f})"


def _heads(estimates: Estimates) -> list[tuple[int, int]]:
    return list(np.ndindex(*estimates.cells.shape[3:5]))


def _head_tables(found: Mapping[str, Estimates], names: Sequence[str]) -> Iterator[Table]:
    """Every head and class, for each kind of query."""
    for kind, estimates in found.items():
        if not estimates.queries:
            continue
        rows: list[tuple[Cell, ...]] = []
        for block, head in _heads(estimates):
            for source, title in enumerate(names):
                of = estimates.cells[:, :, :, block, head, source]
                raw, weighted, gradient, cut = of[0, :, 0].tolist()
                ends = percentile_interval(of[1:, -1, 0])
                uniform, others = float(of[0, 0, 1]), float(of[0, -1, 1])
                rows.append((block, head, title, raw, uniform, weighted, gradient, cut, *ends, others))
        yield Table(
            f"Heads {_KINDS[kind]}",
            (
                "block", "head", "sources", "raw", "uniform", "weighted", "gradient", "cut", "low", "high",
                "cut, other sources",
            ),
            tuple(rows),
            "Shares of the row; nats. Each head cut on its own. low, high: 95 % bootstrap over chains of the effect of "
            f"cutting, for one cell: of these {len(rows)}, one in twenty may miss its true value.",
        )  # fmt: skip


def _figures(found: Mapping[str, Estimates], names: Sequence[str]) -> Iterator[Figure]:
    """By kind of query: digits against brackets by head, then heads by classes, attended and cut."""
    for kind, estimates in found.items():
        if not estimates.queries:
            continue
        labels = [f"block {block} head {head}" for block, head in _heads(estimates)]
        cells = rearrange(
            estimates.cells, "resample measure side block head source -> resample measure side (block head) source"
        )
        shown = [
            index for index, name in enumerate(names) if name in ("operands", "other digits", "digits", "brackets")
        ]
        uniform = ", ".join(f"{names[index]} {cells[0, 0, 1, 0, index]:.0%}" for index in shown)
        if len(shown) > 1:
            yield Figure(
                "bars",
                f"Digits against brackets, {_KINDS[kind]}",
                "The share of each head's attention that goes to these sources, with its 95 % interval over chains. "
                f"Uniform attention would give: {uniform}.",
                "Shares as under uniform attention; or an effect of cutting near 0 (below): then the head looks, but "
                "nothing depends on it.",
                {
                    "x": labels,
                    "series": [_bars(cells[:, 0, 0, :, index], names[index]) for index in shown],
                    "x_title": "head", "y_title": "share of attention",
                },
            )  # fmt: skip
        for name, zmid, refuted_by in (
            ("raw", None, "The same shares in the model before training, or under uniform attention (in the table)."),
            ("cut", 0.0, "Effects as large when as much attention to other sources is cut (in the table)."),
        ):
            yield Figure(
                "heatmap",
                f"{_TITLES[name]}, {_KINDS[kind]}",
                "Each head by class of source. "
                + ("Rows sum to one." if name == "raw" else "Nats that the symbol loses when this head alone is cut."),
                refuted_by,
                {
                    "x": list(names), "y": labels, "z": cells[0, MEASURES.index(name), 0].tolist(), "zmid": zmid,
                    "x_title": "sources", "y_title": "", "z_title": _UNITS[name],
                },
            )  # fmt: skip


def _bars(values: Float[np.ndarray, "resample head"], name: str) -> dict[str, object]:
    ends = [percentile_interval(column) for column in values[1:].T]
    return {
        "name": name,
        "y": values[0].tolist(),
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
    }


@dataclass(frozen=True)
class _Example:
    """One chain up to the query of its answer: its patterns, and what the answer loses without each single source."""

    chain: str
    tokens: list[str]
    patterns: Float[np.ndarray, "block head dest src"]
    lost: Float[np.ndarray, " src"]

    @classmethod
    def of(
        cls, subject: Subject, chains: Chains, queries: Queries, rows: Rows, ids: Int[Tensor, "1 batch pos"]
    ) -> _Example:
        """The first chain with a line before its answer, if there is one."""
        between = queries.chain[queries.kinds["line"]]
        row = int(between[0]) if len(between) else 0
        position = int(chains.answers[row]) - 1
        spec, chain = rows.spec, torch.tensor([row], device=ids.device)
        sites = Sites(record=[site_of(index, "pattern") for index in range(spec.depth)])
        with torch.no_grad():
            forward(rows.params, spec, ids[:, row : row + 1, : position + 1], sites=sites)
        patterns = torch.stack([sites.cache[site_of(index, "pattern")][0, 0] for index in range(spec.depth)])
        target = ids[0, chain, position + 1]
        keep = 1 - repeat(torch.eye(position + 1).to(rows.norms), "cut pos -> cut 1 head pos", head=spec.n_heads)
        whole = {index: torch.ones_like(keep[:1]) for index in range(spec.depth)}
        nats = rows.scaled(chain, position, target, whole)
        left = rows.scaled(chain, position, target, dict.fromkeys(range(spec.depth), keep))
        tokens = [subject.task.symbols[code] for code in chains.symbols[row, : position + 1]]
        lost = (nats - left)[:, 0].double().cpu().numpy()
        return cls(subject.task.format(chains.take(slice(row, row + 1)))[0], tokens, patterns.cpu().numpy(), lost)

    def figures(self) -> Iterator[Figure]:
        names = [f"block {block} head {head}" for block, head in np.ndindex(*self.patterns.shape[:2])]
        left_out = f" The first {MOST_HEADS} of {len(names)} heads." if len(names) > MOST_HEADS else ""
        flat = rearrange(self.patterns, "block head dest src -> (block head) dest src")[:MOST_HEADS]
        yield Figure(
            "attention",
            f"Attention on {self.chain}",
            f"Where every head looks from every position (rows) of one worked example.{left_out}",
            "One example proves nothing: a head whose shares over many chains (the bars) say otherwise.",
            {"tokens": self.tokens, "heads": names[:MOST_HEADS], "patterns": np.round(flat.astype(float), 4).tolist()},
        )
        yield Figure(
            "tokens",
            f"What the answer of {self.chain} is read from",
            "Nats that the answer loses when its query cannot attend to this one position, in any head.",
            "Another distribution over the chains of the table; or positions that matter only together, which single "
            "cuts do not see.",
            {"tokens": self.tokens, "values": self.lost.tolist()},
        )
