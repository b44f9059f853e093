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
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import Edit, Sites, blocks, embed, forward, unembed
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec
from kc_interp.tasks.task import Chains, SymbolClass, Task
from kc_interp.tokens import lines

MEASURES = ("raw", "weighted", "gradient", "cut")
MOST_HEADS = 16
"""CircuitsVis draws this many heads legibly."""

_SOURCE_OF: Mapping[SymbolClass, str] = {
    "digit": "digits",
    "operation": "operations",
    "open": "brackets",
    "close": "brackets",
    "separator": "separators",
    "equals": "separators",
    "end": "others",
    "other": "others",
}
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
_ENTRIES_A_CALL = 16_384


@dataclass(frozen=True)
class Queries:
    """The positions from which chains are written, one entry a query: its chain, its position, the kinds it counts to.

    `sources[q, s]` indexes `names` with the class that position s has for query q, -1 where s comes after the query.
    """

    chain: Int[np.ndarray, " query"]
    position: Int[np.ndarray, " query"]
    kinds: Mapping[str, Bool[np.ndarray, " query"]]
    sources: Int[np.ndarray, "query pos"]
    names: tuple[str, ...]

    @classmethod
    def of(cls, task: Task, chains: Chains) -> Queries:
        """Every query of the chains that writes the answer or a symbol of a line before it (separators left out).

        A task with a method `steps` (ListOps) has its digits split: *operands* of the reduction that the query's line
        carries out, as they stand in the line before, and *other digits*, their copies in earlier lines among them.
        """
        line, place = lines(task, chains), np.arange(chains.symbols.shape[1])
        classes = np.asarray(task.classes, dtype=object)[chains.symbols]
        answer = place == chains.answers[:, None]
        inside = (place >= chains.prompts[:, None]) & (place < chains.lengths[:, None])
        written = inside & ~answer & ~np.isin(classes, ["separator", "equals", "end"])
        known = [_SOURCE_OF[kind] for kind in dict.fromkeys(task.classes) if kind != "end"]
        names = tuple(name for name in dict.fromkeys(_SOURCE_OF.values()) if name in known)
        number = np.asarray([names.index(_SOURCE_OF[k]) if _SOURCE_OF[k] in names else -1 for k in task.classes])
        chain, target = np.nonzero(answer | written)
        sources = number[chains.symbols][chain]
        kinds = {"answer": answer, "line": written}
        if callable(getattr(task, "steps", None)):
            operands, results = _reductions(classes, line)
            kinds = {"answer": answer, "value": results & written, "line": written}
            now = operands[chain] & (line[chain] == line[chain, target][:, None] - 1)
            sources = np.where(now, 0, sources + 1)
            names = ("operands", *("other digits" if name == "digits" else name for name in names))
        sources = np.where(place < target[:, None], sources, -1)
        found = {kind: where[chain, target] for kind, where in kinds.items()}
        return cls(chain, target - 1, found, sources, names)


def _reductions(
    classes: np.ndarray, line: Int[np.ndarray, "example pos"]
) -> tuple[Bool[np.ndarray, "example pos"], Bool[np.ndarray, "example pos"]]:
    """Which positions hold an operand of the reduction of their own line, and which the result of the line before.

    A line reduces the bracket that its leftmost `]` closes; the result takes the place of that bracket's `[`.
    """
    opens, closes = classes == "open", classes == "close"
    operands, results = np.zeros(line.shape, dtype=bool), np.zeros(line.shape, dtype=bool)
    for row, number in enumerate(line):
        for index in range(int(number.max())):
            here = number == index
            if not (closes[row] & here).any():
                continue
            end = int((closes[row] & here).argmax())
            start = int(np.flatnonzero(opens[row, :end])[-1])
            operands[row, start:end] = classes[row, start:end] == "digit"
            begins = int(here.argmax()) + (index > 0)  # the separator belongs to the line that it opens
            results[row, int((number == index + 1).argmax()) + 1 + start - begins] = True
    return operands, results


@dataclass(frozen=True)
class Rows:
    """All chains run once; from this run single rows of the pattern are read, and computed anew with entries scaled.

    `norms` are those of what the value of each position writes through W_O.
    """

    params: Mapping[str, Tensor]
    spec: ModelSpec
    cache: Mapping[str, Tensor]
    norms: Float[Tensor, "block batch head pos"]
    renormalise: bool = False

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        params: Mapping[str, Tensor],
        spec: ModelSpec,
        ids: Int[Tensor, "1 batch pos"],
        *,
        renormalise: bool = False,
    ) -> Rows:
        """Run the chains. `params` has a run axis of one."""
        sites = Sites(record={_site(i, at) for i in range(spec.depth) for at in ("hook_resid_pre", "k", "v")})
        blocks(params, spec, embed(params, ids), sites=sites)
        pattern = "batch pos head d_head, head d_head d_model -> batch head pos d_model"
        norms = [
            einsum(sites.cache[_site(i, "v")][0], params[f"blocks.{i % spec.n_layers}.attn.W_O"][0], pattern).norm(
                dim=-1
            )
            for i in range(spec.depth)
        ]
        return cls(params, spec, sites.cache, torch.stack(norms), renormalise)

    def read(
        self, chain: Int[Tensor, " query"], position: int, target: Int[Tensor, " query"]
    ) -> tuple[Float[Tensor, "block query head pos"], Float[Tensor, "block query head pos"], Float[Tensor, " query"]]:
        """The rows of the pattern at `position`, the gradient of the target's log-probability in them, and that."""
        sites = Sites(record=[_site(index, "pattern") for index in range(self.spec.depth)])
        with torch.enable_grad():
            resid = self._entering(0, chain, position).detach().requires_grad_()
            nats = self._nats(resid, 0, chain, position, target, sites)
            rows = [sites.cache[_site(index, "pattern")] for index in range(self.spec.depth)]
            gradients = torch.autograd.grad(nats.sum(), rows)
        pattern, gradient = (torch.stack([row[0, :, :, 0].detach() for row in part]) for part in (rows, gradients))
        return pattern, gradient, nats[0].detach()

    @torch.no_grad()
    def scaled(
        self,
        chain: Int[Tensor, " query"],
        position: int,
        target: Int[Tensor, " query"],
        keep: Mapping[int, Float[Tensor, "variant query head pos"]],
    ) -> Float[Tensor, "variant query"]:
        """The target's log-probability when the row at `position` in each block of `keep` is multiplied by it."""
        first, variants = min(keep), len(next(iter(keep.values())))
        size = max(1, _ENTRIES_A_CALL // (len(chain) * (position + 1)))
        found = []
        for low in range(0, variants, size):
            edits = {_site(index, "pattern"): self._scaling(scale[low : low + size]) for index, scale in keep.items()}
            resid = self._entering(first, chain, position).expand(min(size, variants - low), -1, -1, -1)
            found.append(self._nats(resid, first, chain, position, target, Sites(edits=edits)))
        return torch.cat(found)

    def _scaling(self, keep: Float[Tensor, "variant query head pos"]) -> Edit:
        def edit(pattern: Float[Tensor, "variant query head 1 pos"]) -> Float[Tensor, "variant query head 1 pos"]:
            pattern = pattern * keep[:, :, :, None]
            return pattern / pattern.sum(-1, keepdim=True).clamp(min=1e-12) if self.renormalise else pattern

        return edit

    def _entering(self, index: int, chain: Int[Tensor, " query"], position: int) -> Float[Tensor, "1 query 1 d_model"]:
        return self.cache[_site(index, "hook_resid_pre")][:, chain, position : position + 1]

    def _nats(
        self,
        resid: Float[Tensor, "variant query 1 d_model"],
        first: int,
        chain: Int[Tensor, " query"],
        position: int,
        target: Int[Tensor, " query"],
        sites: Sites,
    ) -> Float[Tensor, "variant query"]:
        """The log-probability of each target when `resid` enters block `first` at `position` alone."""
        past = {
            index: tuple(self.cache[_site(index, part)][:, chain, :position] for part in "kv")
            for index in range(first, self.spec.depth)
        }
        resid = blocks(self.params, self.spec, resid, first=first, past=past, sites=sites)  # type: ignore[arg-type]
        nats = unembed(self.params, self.spec, resid)[:, :, 0].log_softmax(-1)
        return nats.gather(-1, repeat(target, "query -> variant query 1", variant=len(nats)))[..., 0]


def _site(index: int, at: str) -> str:
    return f"blocks.{index}.{at}" if at.startswith("hook") else f"blocks.{index}.attn.hook_{at}"


@dataclass(frozen=True)
class Measured:
    """Every measure of every query, of each head and of the whole model; `side` 0 is the value, 1 its control.

    The whole is the mean over heads of raw and weighted, their sum of gradient, and of cut the effect of cutting in
    every head of every block at once, which is not the sum of the effects of single heads.
    """

    cells: Float[np.ndarray, "measure side query block head source"]
    whole: Float[np.ndarray, "measure side query source"]


def measure(rows: Rows, queries: Queries, ids: Int[Tensor, "1 batch pos"], rng: np.random.Generator) -> Measured:
    """All measures of all queries, position by position."""
    shape = (len(MEASURES), 2, len(queries.chain), rows.spec.depth, rows.spec.n_heads, len(queries.names))
    cells, whole = np.zeros(shape), np.zeros((*shape[:3], shape[-1]))
    for position in np.unique(queries.position).tolist():
        at = np.flatnonzero(queries.position == position)
        chain = torch.from_numpy(queries.chain[at]).to(ids.device)
        target = ids[0, chain, position + 1]
        sources = queries.sources[at, : position + 1]
        member = torch.from_numpy(np.stack([sources == index for index in range(len(queries.names))])).to(rows.norms)
        draws = rng.random((rows.spec.depth, len(at), rows.spec.n_heads, position + 1))
        of_heads, of_model = _measure_position(rows, chain, position, target, member, torch.from_numpy(draws))
        cells[:, :, at], whole[:, :, at] = of_heads.double().cpu().numpy(), of_model.double().cpu().numpy()
    return Measured(cells, whole)


def _measure_position(
    rows: Rows,
    chain: Int[Tensor, " query"],
    position: int,
    target: Int[Tensor, " query"],
    member: Float[Tensor, "source query pos"],
    draws: Float[Tensor, "block query head pos"],
) -> tuple[Float[Tensor, "measure side query block head source"], Float[Tensor, "measure side query source"]]:
    """All measures of the queries at one position. `member` is 1 where a source is of the class."""
    pattern, gradient, nats = rows.read(chain, position, target)
    at_random = _as_much_of_others(pattern, member, draws.to(pattern.device))
    within = repeat(
        member, "source query pos -> source block query head pos", block=len(pattern), head=pattern.shape[2]
    )
    taken = torch.stack([within, at_random])

    norms = rows.norms[:, chain, :, : position + 1]
    attended = torch.stack([pattern, torch.full_like(pattern, 1 / (position + 1))])
    written = attended * norms
    written = written / written.sum(-1, keepdim=True).clamp(min=1e-30)
    of_class = "side block query head pos, source query pos -> side query block head source"
    estimated = "block query head pos, side source block query head pos -> side query block head source"
    first_three = [
        einsum(attended, member, of_class),
        einsum(written, member, of_class),
        einsum(pattern * gradient, taken, estimated),
    ]

    own = torch.eye(pattern.shape[2], dtype=torch.bool, device=pattern.device)[:, None, :, None]
    lost = []
    for index in range(rows.spec.depth):
        keep = torch.where(own, 1 - taken[:, :, index, None], 1)
        keep = rearrange(keep, "side source cut query head pos -> (side source cut) query head pos")
        left = rows.scaled(chain, position, target, {index: keep})
        pattern_of_left = "(side source cut) query -> side query cut source"
        lost.append(rearrange(nats - left, pattern_of_left, side=2, source=len(member)))
    cut = rearrange(torch.stack(lost), "block side query head source -> side query block head source")

    everywhere = rearrange(1 - taken, "side source block query head pos -> block (side source) query head pos")
    left = rows.scaled(chain, position, target, dict(enumerate(everywhere)))
    cut_everywhere = rearrange(nats - left, "(side source) query -> side query source", side=2)
    raw, weighted, estimate = first_three
    whole = [raw.mean((2, 3)), weighted.mean((2, 3)), estimate.sum((2, 3)), cut_everywhere]
    return torch.stack([*first_three, cut]), torch.stack(whole)


def _as_much_of_others(
    pattern: Float[Tensor, "block query head pos"],
    member: Float[Tensor, "source query pos"],
    draws: Float[Tensor, "block query head pos"],
) -> Float[Tensor, "source block query head pos"]:
    """The control of a cut: which part of each other entry to take so that as much attention goes as with the class.

    Entries are taken in the order of `draws`, the last one in part; all of them where they hold less than the class.
    """
    mass = einsum(pattern, member, "block query head pos, source query pos -> source block query head")[..., None]
    others = pattern * (1 - rearrange(member, "source query pos -> source 1 query 1 pos"))
    order = draws.argsort(dim=-1).expand_as(others)
    ordered = others.gather(-1, order)
    removed = (mass - (ordered.cumsum(-1) - ordered)).clamp(min=0).minimum(ordered)
    return torch.zeros_like(others).scatter(-1, order, torch.where(ordered > 0, removed / ordered, 0))


@dataclass(frozen=True)
class Estimates:
    """Means over the queries of one kind, of the sample (index 0) and of its bootstrap resamples of chains."""

    cells: Float[np.ndarray, "resample measure side block head source"]
    whole: Float[np.ndarray, "resample measure side source"]
    chains: int
    queries: int

    @classmethod
    def of(
        cls,
        measured: Measured,
        chain: Int[np.ndarray, " query"],
        counted: Bool[np.ndarray, " query"],
        weights: Float[np.ndarray, "resample chain"],
    ) -> Estimates:
        """`weights` count each chain in each resample; a resample without a query of this kind gives NaN."""
        queries = weights @ np.bincount(chain[counted], minlength=weights.shape[1])

        def means(values: Float[np.ndarray, "measure side query *rest"]) -> np.ndarray:
            by_chain = np.zeros((weights.shape[1], *values.shape[:2], *values.shape[3:]))
            np.add.at(by_chain, chain[counted], np.moveaxis(values, 2, 0)[counted])
            total = weights @ rearrange(by_chain, "chain ... -> chain (...)")
            with np.errstate(invalid="ignore"):
                return (total / queries[:, None]).reshape(-1, *by_chain.shape[1:])

        chains = len(np.unique(chain[counted]))
        return cls(means(measured.cells), means(measured.whole), chains, int(counted.sum()))


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
    low, high = _interval(values[1:])
    return Agreement(float(values[0]), low, high, float(np.quantile(shuffled, 0.95)), float(p), a.shape[1])


def _interval(resampled: Float[np.ndarray, " resample"]) -> tuple[float | None, float | None]:
    """The 95 % percentile interval; none for what most resamples do not have."""
    finite = resampled[np.isfinite(resampled)]
    if 2 * len(finite) <= len(resampled):
        return None, None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


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
        component = self.component if self.component in subject.task.components() else None
        chains = subject.items(self.chains, "attention-attribution: chains", component)
        if (chains.answers < 1).any():
            raise ProbeError(f"{subject.name}: a chain begins with its answer, so that no position predicts it")
        queries = Queries.of(subject.task, chains)
        if len(queries.names) < 2:
            raise ProbeError(
                f"{subject.name}: all symbols of this task count as {' '.join(queries.names) or 'the end'}; "
                "attention-attribution compares classes of symbols and needs two; leave it out with --only"
            )
        ids = subject.ids(chains)
        rows = Rows.of(subject.params, subject.checkpoint.spec.model, ids, renormalise=self.renormalise)
        measured = measure(rows, queries, ids, subject.rng("attention-attribution: entries cut at random"))
        if not np.isfinite(measured.whole).all():
            raise ProbeError(f"{subject.name}: the model's log-probabilities are not finite; did its training diverge?")
        counts = subject.rng("attention-attribution: resamples").multinomial(
            len(chains), np.full(len(chains), 1 / len(chains)), size=self.resamples
        )
        weights = np.concatenate([np.ones((1, len(chains))), counts])
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
    low, high = _interval(values[1:, 0])
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
                ends = _interval(of[1:, -1, 0])
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
    ends = [_interval(column) for column in values[1:].T]
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
        sites = Sites(record=[_site(index, "pattern") for index in range(spec.depth)])
        with torch.no_grad():
            forward(rows.params, spec, ids[:, row : row + 1, : position + 1], sites=sites)
        patterns = torch.stack([sites.cache[_site(index, "pattern")][0, 0] for index in range(spec.depth)])
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


__all__ = ["AttentionAttribution", "Queries", "Rows"]
