"""Circuits of two models, compared: heads matched within each block by role, and how much of the circuits then agrees.

Heads have no common identity across seeds, so they are matched by what they do. A head's *role* is a vector of exact
quantities that mean the same in every model of a shape, for the same inputs:

- `in`: the effects of the edges into its query, key and value, by kind of writer (token, the heads of an earlier block
  together, an earlier MLP): what it is moved by, and through what;
- `out`: the effects of the edges that leave it, by kind of reader: who uses what it writes;
- `reads`: the effect of all edges into it where it looks at one position alone: which operand it carries;
- `attends`: the attention that the answer's query pays to each position;
- `direct`: what it adds to the logit difference directly.

Effects are those of `kc_interp.circuits.effects`, shares of the whole logit difference. Single heads of other blocks
are summed over, since they have no common identity either. Each kind of quantity counts alike: distances are in units
of its spread over the heads of both models. Heads are assigned one to one (Kuhn 1955, "The Hungarian method").

Matching raises overlap by itself: of any two lists of numbers, sorted ones agree better. Two things keep it honest.
Heads are matched on one half of the inputs and overlap is measured on the other; and overlap is set against two nulls:
*random matchings* of the heads, all of them where they are few (does the role say more of a head than its block?), and
*shuffled circuits* (`shuffled`), in which every kind of edge keeps its effects but not the heads that they belong to,
matched by role like the real one (do the models share how heads are wired up, beyond sharing which kinds of edges
matter?). Only the second is a null for "the same circuit".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from kc_interp.circuits.effects import Comparison
from kc_interp.circuits.reading import direct_attribution
from kc_interp.circuits.search import smallest
from kc_interp.errors import ProbeError
from kc_interp.model.forward import Sites, blocks
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import Streams
from kc_interp.spec import ModelSpec

Matching = tuple[tuple[int, ...], ...]
"""For each block, unrolled: the other model's head that stands for head 0, 1, …"""

MOST_MATCHINGS = 2_000
"""So many random matchings are drawn where there are more to enumerate."""


@dataclass(frozen=True)
class Profile:
    """One model's circuit on one set of inputs, in numbers that can be compared with another model's.

    `effects`: of every edge alone, as a share of the whole; 0 where no edge varies. `kept`: the smallest circuit found.
    `heads`: further quantities of each head, by kind (see the module's docstring).
    """

    spec: ModelSpec
    effects: Float[np.ndarray, "writer reader"]
    kept: Bool[np.ndarray, "writer reader"]
    heads: Mapping[str, Float[np.ndarray, "depth head quantity"]]

    @classmethod
    def of(cls, noising: Comparison, keep: float = 0.9) -> Profile:
        """Effects of all edges, roles of all heads and a greedy search's circuit. Raises ProbeError as `worth` does."""
        graph = noising.base.graph
        effects = np.zeros(graph.visible.shape)
        effects[tuple(np.transpose(graph.varying))] = noising.edges().value
        kept, _ = smallest(noising, keep)
        return cls(noising.base.spec, effects, graph.mask(kept), heads_of(noising))

    @cached_property
    def graph(self) -> Graph:
        """The nodes and edges of the model."""
        return Graph.of(self.spec)

    @property
    def edges(self) -> int:
        """How many edges the circuit keeps."""
        return int(self.kept.sum())

    @cached_property
    def ranks(self) -> Float[np.ndarray, "writer reader"]:
        """The ranks of all edges that vary by the size of their effects, from below; 0 elsewhere."""
        from scipy.stats import rankdata

        ranks, varying = np.zeros(self.effects.shape), self.graph.mask(self.graph.varying)
        ranks[varying] = rankdata(np.abs(self.effects[varying]))
        return ranks

    def roles(self, block: int) -> dict[str, Float[np.ndarray, "head quantity"]]:
        """What each head of a block does, by kind of quantity."""
        graph = self.graph
        writers, readers = _kinds(graph)
        heads = range(graph.n_heads)
        into = [[self.effects[:, graph.reader(block, part, head)] for part in range(3)] for head in heads]
        out = np.asarray([self.effects[graph.head(block, head)] for head in heads])
        return {
            "in": (np.asarray(into) @ _indicator(writers)).reshape(graph.n_heads, -1),
            "out": out @ _indicator(readers),
            **{kind: values[block] for kind, values in self.heads.items()},
        }


def heads_of(noising: Comparison) -> dict[str, Float[np.ndarray, "depth head quantity"]]:
    """Of each head: its effect by the position it reads, its attention at the answer, its direct attribution."""
    base, graph = noising.base, noising.base.graph
    grid = (graph.depth, graph.n_heads)
    places = range(base.positions)
    sets = [
        ([edge for edge in graph.varying if graph.node_of(edge[1]) == graph.head(block, head)], (place,))
        for block in range(graph.depth)
        for head in range(graph.n_heads)
        for place in places
    ]
    reads = noising.at(sets).value.reshape(*grid, len(places))
    direct = direct_attribution(base, noising.metric) - direct_attribution(noising.source, noising.metric)
    share = direct.double().mean(1).cpu().numpy() / -noising.whole.mean()
    own = [[share[graph.head(block, head)] for head in range(graph.n_heads)] for block in range(graph.depth)]
    return {"reads": reads, "attends": _attention(base), "direct": np.asarray(own)[:, :, None]}


@torch.no_grad()
def _attention(base: Streams) -> Float[np.ndarray, "depth head pos"]:
    """The mean attention of the last position to each position."""
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(base.spec.depth)]
    sites = Sites(record=names)
    blocks(base.params, base.spec, base.written[: base.graph.head(0)].sum(0)[None], sites=sites)
    return np.stack([sites.cache[name][0, :, :, -1].mean(0).double().cpu().numpy() for name in names])


def _kinds(graph: Graph) -> tuple[Int[np.ndarray, " writer"], Int[np.ndarray, " reader"]]:
    """The kind of every writer and reader: heads of a block are of one kind, and so are their queries, …"""
    names = (
        [name.split(".")[0] for name in graph.writers],
        [name.split(".")[0] + name[-3:] * name.endswith(">") for name in graph.readers],
    )
    writers, readers = (np.unique(some, return_inverse=True)[1].reshape(-1) for some in names)
    return writers, readers


def _indicator(kinds: Int[np.ndarray, " item"]) -> Float[np.ndarray, "item kind"]:
    return np.eye(kinds.max() + 1)[kinds]


def match(a: Profile, b: Profile) -> Matching:
    """The heads of b that stand for those of a, by least distance of roles. Tied blocks are matched once for all.

    Raises ProbeError when the two have other numbers of blocks or heads, or saw inputs of other lengths.
    """
    from scipy.optimize import linear_sum_assignment

    check_alike(a, b)
    found: dict[int, tuple[int, ...]] = {}
    for layer in range(a.spec.n_layers):
        cost = sum(distances(a, b, block) for block in range(layer, a.spec.depth, a.spec.n_layers))
        found[layer] = tuple(map(int, linear_sum_assignment(cost)[1]))
    return tuple(found[block % a.spec.n_layers] for block in range(a.spec.depth))


def distances(a: Profile, b: Profile, block: int) -> Float[np.ndarray, "head head"]:
    """How far each head of a is from each of b in role: squared, each kind of quantity by its spread over both."""
    total = np.zeros((a.spec.n_heads, b.spec.n_heads))
    other = b.roles(block)
    for kind, own in a.roles(block).items():
        spread = float(np.concatenate([own, other[kind]]).var(axis=0).sum())
        if spread > 1e-12:
            total += ((own[:, None] - other[kind][None]) ** 2).sum(-1) / spread
    return total


def check_alike(a: Profile, b: Profile) -> None:
    """Raises ProbeError when two models' heads cannot be matched one to one on the same inputs."""
    for setting in ("n_layers", "repeat", "n_heads"):
        one, other = getattr(a.spec, setting), getattr(b.spec, setting)
        if one != other:
            raise ProbeError(
                f"heads are matched one to one within blocks, but {setting} is {one} in one model and {other} in the "
                "other; compare models of one shape"
            )
    one, other = (profile.heads["attends"].shape[-1] for profile in (a, b))
    if one != other:
        raise ProbeError(f"the two models read inputs of {one} and {other} symbols; give both the same inputs")


def matchings(spec: ModelSpec, rng: np.random.Generator) -> tuple[list[Matching], bool]:
    """Every way to match the heads within each layer, and True; random ones, and False, where they are many."""
    heads, layers = tuple(range(spec.n_heads)), spec.n_layers
    if math.factorial(spec.n_heads) ** layers <= MOST_MATCHINGS:
        each = itertools.product(itertools.permutations(heads), repeat=layers)
        return [layer * spec.repeat for layer in each], True
    drawn = (
        tuple(tuple(map(int, rng.permutation(spec.n_heads))) for _ in range(layers)) for _ in range(MOST_MATCHINGS)
    )
    return [layer * spec.repeat for layer in drawn], False


@dataclass(frozen=True)
class Overlap:
    """How much of two circuits agrees under one matching of heads.

    `jaccard`: edges kept in both, of those kept in either. `weighted`: the effect that both have, of the effect that
    either has, edge by edge (Ruzicka 1958; effects of opposite signs share nothing). `rank`: Spearman's correlation
    of the sizes of all edges' effects; None where one model's are all equal.
    """

    jaccard: float
    weighted: float
    rank: float | None

    def __iter__(self) -> Iterator[tuple[str, float | None]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self))


STATISTICS = tuple(field.name for field in fields(Overlap))


def overlap(a: Profile, b: Profile, matching: Matching | None = None) -> Overlap:
    """Of b's circuit in the names of a's heads. None: head 0 is head 0, as in two checkpoints of one run."""
    return overlaps(a, b, [matching or (tuple(range(a.spec.n_heads)),) * a.spec.depth])[0]


def overlaps(a: Profile, b: Profile, some: Sequence[Matching]) -> list[Overlap]:
    """The same under each of these matchings. Raises ProbeError when the models' shapes differ."""
    check_alike(a, b)
    graph = a.graph
    varying = np.flatnonzero(graph.mask(graph.varying))
    index = np.stack([renamed(graph, matching).flat[varying] for matching in some])
    one, other = a.effects.flat[varying], b.effects.flat[index]
    together = np.where(one * other > 0, np.minimum(np.abs(one), np.abs(other)), 0.0).sum(axis=1)
    either_effect = np.maximum(np.abs(one), np.abs(other)).sum(axis=1)
    kept, others = a.kept.flat[varying], b.kept.flat[index]
    both, either = (kept & others).sum(axis=1), (kept | others).sum(axis=1)
    ranks, other_ranks = a.ranks.flat[varying], b.ranks.flat[index]
    ranks, other_ranks = ranks - ranks.mean(), other_ranks - other_ranks.mean(axis=1, keepdims=True)
    size = np.sqrt((ranks**2).sum() * (other_ranks**2).sum(axis=1))
    product = other_ranks @ ranks
    return [
        Overlap(
            float(both[row] / either[row]) if either[row] else 1.0,
            float(together[row] / either_effect[row]) if either_effect[row] else 1.0,
            float(product[row] / size[row]) if size[row] > 1e-12 else None,
        )
        for row in range(len(some))
    ]


def renamed(graph: Graph, matching: Matching) -> Int[np.ndarray, "writer reader"]:
    """Where the other model's array of edges, flat, holds what stands for each edge of this one."""
    writers, readers = np.arange(len(graph.writers)), np.arange(len(graph.readers))
    for block, heads in enumerate(matching):
        for own, other in enumerate(heads):
            writers[graph.head(block, own)] = graph.head(block, other)
            for part in range(3):
                readers[graph.reader(block, part, own)] = graph.reader(block, part, other)
    return writers[:, None] * len(readers) + readers[None]


def shuffled(profiles: Sequence[Profile], rng: np.random.Generator) -> list[Profile]:
    """The profiles of one model with the heads behind each kind of edge, and of quantity, exchanged at random.

    Within a block only, one exchange for each kind, the same in all profiles: every kind keeps its effects, what is
    lost is that one head has these edges together.
    """
    graph = profiles[0].graph
    writers, readers = _kinds(graph)
    rows = np.tile(np.arange(len(writers))[:, None], (1, len(readers)))
    columns = np.tile(np.arange(len(readers))[None], (len(writers), 1))
    for kind_out, kind_in in itertools.product(range(writers.max() + 1), range(readers.max() + 1)):
        out, into = np.flatnonzero(writers == kind_out), np.flatnonzero(readers == kind_in)
        if graph.visible[out[0], into[0]]:
            cells = np.ix_(out, into)
            rows[cells], columns[cells] = rng.permutation(out)[:, None], rng.permutation(into)[None]
    heads = {kind: [rng.permutation(graph.n_heads) for _ in range(graph.depth)] for kind in profiles[0].heads}
    return [
        Profile(
            one.spec,
            one.effects[rows, columns],
            one.kept[rows, columns],
            {
                kind: np.stack([own[order] for own, order in zip(values, heads[kind], strict=True)])
                for kind, values in one.heads.items()
            },
        )
        for one in profiles
    ]


@dataclass(frozen=True)
class Null:
    """One statistic of overlap under a null: its mean and 95 % point, and how often it is as large as the value.

    `p` counts the value itself among the draws (Davison and Hinkley 1997), or, of an exact enumeration, where it is one
    of them. None where the statistic is undefined.
    """

    mean: float | None
    high: float | None
    p: float | None
    draws: int

    @classmethod
    def of(cls, value: float | None, drawn: Sequence[float | None], *, exact: bool = False) -> Null:
        usable = np.asarray([one for one in drawn if one is not None])
        if value is None or not len(usable):
            return cls(None, None, None, len(drawn))
        reached = int((usable >= value - 1e-9).sum())
        p = reached / len(usable) if exact else (1 + reached) / (1 + len(usable))
        return cls(float(usable.mean()), float(np.quantile(usable, 0.95)), p, len(usable))


@dataclass(frozen=True)
class Compared:
    """Two models: the matching, their overlap on the inputs that it was not made on, and both nulls by statistic.

    `exact`: the random matchings are all there are.
    """

    matching: Matching
    overlap: Overlap
    random: Mapping[str, Null]
    shuffled: Mapping[str, Null]
    exact: bool

    @property
    def inverse(self) -> Matching:
        """The first model's heads that stand for those of the second."""
        return tuple(tuple(int(place) for place in np.argsort(heads)) for heads in self.matching)


def compared(
    a: tuple[Profile, Profile], b: tuple[Profile, Profile], rng: np.random.Generator, *, shuffles: int = 199
) -> Compared:
    """Two models by two profiles each: heads are matched on the first, overlap is measured on the second.

    Raises ProbeError as `match` does.
    """
    matching = match(a[0], b[0])
    found = overlap(a[1], b[1], matching)
    every, exact = matchings(a[0].spec, rng)
    by_chance = overlaps(a[1], b[1], every)
    rewired = []
    for _ in range(shuffles):
        other = shuffled(b, rng)
        rewired.append(overlap(a[1], other[1], match(a[0], other[0])))
    return Compared(
        matching,
        found,
        {name: Null.of(value, [getattr(one, name) for one in by_chance], exact=exact) for name, value in found},
        {name: Null.of(value, [getattr(one, name) for one in rewired]) for name, value in found},
        exact,
    )
