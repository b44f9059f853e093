"""Where attention looks and what depends on it, query by query: the classes of sources, four measures, exact cuts.

Measures of the same entries of a head's pattern, for one query (row of the pattern) at a time:

- raw: the attention, as a share of the row;
- weighted: attention times the norm of what the source's value writes through W_O, as a share of the row (Kobayashi et
  al. 2020, "Attention is Not Only a Weight", https://arxiv.org/abs/2004.10102); all 0 in a head that writes nothing;
- gradient: attention times the gradient of the target's log-probability, in nats and signed;
- cut: the causal effect, the nats of log-probability that the target loses when the entries are set to zero.

Only the query's own row is touched, for its own next symbol, so that a cut costs one position and no other row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.model.forward import Edit, Sites, blocks, embed, unembed
from kc_interp.spec import ModelSpec
from kc_interp.tasks.task import Chains, SymbolClass, Task
from kc_interp.tokens import lines

MEASURES = ("raw", "weighted", "gradient", "cut")
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
        sites = Sites(record={site_of(i, at) for i in range(spec.depth) for at in ("hook_resid_pre", "k", "v")})
        blocks(params, spec, embed(params, ids), sites=sites)
        pattern = "batch pos head d_head, head d_head d_model -> batch head pos d_model"
        norms = [
            einsum(sites.cache[site_of(i, "v")][0], params[f"blocks.{i % spec.n_layers}.attn.W_O"][0], pattern).norm(
                dim=-1
            )
            for i in range(spec.depth)
        ]
        return cls(params, spec, sites.cache, torch.stack(norms), renormalise)

    def read(
        self, chain: Int[Tensor, " query"], position: int, target: Int[Tensor, " query"]
    ) -> tuple[Float[Tensor, "block query head pos"], Float[Tensor, "block query head pos"], Float[Tensor, " query"]]:
        """The rows of the pattern at `position`, the gradient of the target's log-probability in them, and that."""
        sites = Sites(record=[site_of(index, "pattern") for index in range(self.spec.depth)])
        with torch.enable_grad():
            resid = self._entering(0, chain, position).detach().requires_grad_()
            nats = self._nats(resid, 0, chain, position, target, sites)
            rows = [sites.cache[site_of(index, "pattern")] for index in range(self.spec.depth)]
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
            edits = {site_of(index, "pattern"): self._scaling(scale[low : low + size]) for index, scale in keep.items()}
            resid = self._entering(first, chain, position).expand(min(size, variants - low), -1, -1, -1)
            found.append(self._nats(resid, first, chain, position, target, Sites(edits=edits)))
        return torch.cat(found)

    def _scaling(self, keep: Float[Tensor, "variant query head pos"]) -> Edit:
        def edit(pattern: Float[Tensor, "variant query head 1 pos"]) -> Float[Tensor, "variant query head 1 pos"]:
            pattern = pattern * keep[:, :, :, None]
            return pattern / pattern.sum(-1, keepdim=True).clamp(min=1e-12) if self.renormalise else pattern

        return edit

    def _entering(self, index: int, chain: Int[Tensor, " query"], position: int) -> Float[Tensor, "1 query 1 d_model"]:
        return self.cache[site_of(index, "hook_resid_pre")][:, chain, position : position + 1]

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
            index: tuple(self.cache[site_of(index, part)][:, chain, :position] for part in "kv")
            for index in range(first, self.spec.depth)
        }
        resid = blocks(self.params, self.spec, resid, first=first, past=past, sites=sites)  # type: ignore[arg-type]
        nats = unembed(self.params, self.spec, resid)[:, :, 0].log_softmax(-1)
        return nats.gather(-1, repeat(target, "query -> variant query 1", variant=len(nats)))[..., 0]


def site_of(index: int, at: str) -> str:
    """TransformerLens's name of a site: of the block itself ("hook_resid_pre"), or of its attention ("pattern")."""
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
    at_random = as_much_of_others(pattern, member, draws.to(pattern.device))
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


def as_much_of_others(
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


def percentile_interval(resampled: Float[np.ndarray, " resample"]) -> tuple[float | None, float | None]:
    """The 95 % percentile interval; none for what most resamples do not have."""
    finite = resampled[np.isfinite(resampled)]
    if 2 * len(finite) <= len(resampled):
        return None, None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
