"""The verdict: is a single step looked up in one table, put together from a table of pairs, or structured by number?

Judged from internals alone, over every single step of one template:

- how operands *enter*: what attention writes, by how many operands act together in it;
- where they *meet*: the first part in whose output operands interact, and whether one pair of them does so alone;
- what is *ordered by number*: how much of the MLP neurons' variance is the same whenever some of the operands have the
  same sum (and the others are the same), more than for sums of digits that have random values;
- what is *read out*: the same of the answer's logits, for the sum of all operands.

Activations of a part at all positions count, each as much as it moves the answer: it is scaled by the root mean square
of its gradient there, so that a pair which is put together at the second operand, and fetched later, is seen as well as
one that meets where the answer is predicted. A verdict is declared only of a model that knows the table; one that is in
between, or does not, is *neither*. How often it errs is measured in `experiments/verdict`, for SUM modulo 10. What the
model answers to steps that were never trained on does not enter: it is what the verdict is tested by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.circuits.reading import Interactions, explained, interactions
from kc_interp.errors import ProbeError
from kc_interp.model.forward import Sites, forward
from kc_interp.spec import ModelSpec

Kind = Literal["flat table", "table of pairs composed", "structured by number", "neither"]
KINDS: tuple[Kind, ...] = ("flat table", "table of pairs composed", "structured by number", "neither")


@dataclass(frozen=True)
class Rule:
    """What a verdict asks for. The values were set before error rates were measured on models that nobody had seen.

    `knows`: the least share of single steps that the model answers rightly. `meet`: the least share of a part's
    variance that comes from operands together, for them to meet there. `alone`: the least share of these interactions
    that one pair makes for pairs to be composed, and of what is handed on that the pair's result explains. `ordered`,
    `unordered`: the number index from which a model is structured by number, and up to which it is a table. `p`: the
    largest p-value at which number counts as more than chance.
    """

    knows: float = 0.8
    meet: float = 0.1
    alone: float = 0.8
    ordered: float = 0.1
    unordered: float = 0.05
    p: float = 0.01


@dataclass(frozen=True)
class Site:
    """One part: attention's output or an MLP's neurons over all positions, and what it writes, scaled by gradients.

    As principal components: shares of variance are those of the activations.
    """

    name: str
    activations: Float[np.ndarray, "example component"]
    written: Float[np.ndarray, "example written"]


@dataclass(frozen=True)
class Ordered:
    """How much depends on the operands' sum alone, beside sums of digits that have random values.

    `index` is (share - mean of the random values) / (1 - that mean): 0 as by chance, 1 when nothing but the sum counts.
    `p` counts random values that do at least as well, itself among them (Davison and Hinkley 1997).
    """

    share: float
    chance: float
    p: float

    @classmethod
    def of(
        cls, shares: Float[np.ndarray, " relabelling"], of_best: Float[np.ndarray, " relabelling"] | None = None
    ) -> Ordered:
        """The true values first. `of_best`: what `p` is counted in, where the best of several was taken."""
        return cls(float(shares[0]), float(shares[1:].mean()), _p(shares if of_best is None else of_best))

    @property
    def index(self) -> float:
        return (self.share - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0


@dataclass(frozen=True)
class Evidence:
    """What a verdict follows from.

    `enter`: of what attention writes, the share that each operand makes on its own, block by block (None: silent).
    `meets`: the first part where operands meet, None when none. `pair`: of the interactions there, the largest share
    that one pair alone makes (0 of two operands); `handed`: how much of what that part writes the pair's result
    explains; `paired`: how far the pair's sum orders the neurons that put it together. `together`: the largest share of
    an MLP's variance that all operands make together, beyond any fewer. `number`: of the MLP and the operands added up
    for which the share stands out most, its p over all of these; `read`: of the logits. `right` and `read` speak of
    steps that may have been trained on.
    """

    right: float
    enter: tuple[float | None, ...]
    meets: str | None
    pair: float
    handed: float
    paired: Ordered | None
    together: float
    together_at: str
    number: Ordered
    number_at: str
    read: Ordered


@dataclass(frozen=True)
class Verdict:
    """One of `KINDS`, and why."""

    kind: Kind
    why: str


def sites(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    ids: Int[Tensor, "1 batch pos"],
    answers: Int[Tensor, " batch"],
    digits: Int[Tensor, " digit"],
    trained: Bool[np.ndarray, " batch"],
) -> tuple[tuple[Site, ...], Float[np.ndarray, "batch digit"], Bool[np.ndarray, " batch"]]:
    """Attention and MLP of each block in order, the digits' logits, and whether the model answers rightly.

    `ids` end at the position that predicts the answer. Gradients are those of the answer's logit, less the mean of all
    digits', for the steps that may have been `trained` on: the others' answers do not enter.
    """
    names = [name for block in range(spec.depth) for name in _names(block)]
    edits = dict.fromkeys(names, _differentiable)
    seen = Sites(record=names, edits=edits)
    with torch.enable_grad():
        logits = forward(params, spec, ids, sites=seen)[0, :, -1]
        moved = logits.gather(1, answers[:, None])[:, 0] - logits[:, digits].mean(1)
        gradients = torch.autograd.grad(moved.sum(), [seen.cache[name] for name in names])
    seen_before = torch.from_numpy(trained).to(ids.device)
    own = {
        name: reduced(
            _numpy((seen.cache[name][0].detach() * gradient[0, seen_before].pow(2).mean(0).sqrt()).flatten(1).double())
        )
        for name, gradient in zip(names, gradients, strict=True)
    }
    found = [
        part
        for block in range(spec.depth)
        for attention, neurons, output in [map(own.__getitem__, _names(block))]
        for part in (Site(f"attn{block}", attention, attention), Site(f"mlp{block}", neurons, output))
    ]
    right = logits.argmax(1) == answers
    return tuple(found), _numpy(logits[:, digits].detach().double()), right.cpu().numpy()


def evidence(
    parts: Sequence[Site],
    logits: Float[np.ndarray, "example digit"],
    right: Bool[np.ndarray, " example"],
    operands: Int[np.ndarray, "example operand"],
    results: Int[np.ndarray, "digit digit"] | None,
    rng: np.random.Generator,
    *,
    trained: Bool[np.ndarray, " example"] | None = None,
    relabellings: int = 199,
    meet: float = Rule.meet,
) -> Evidence:
    """Read the parts of `sites`. `results` holds what two operands give by themselves; None when the task has no pairs.

    Of steps that were not `trained` on activations are read, what the model answers is not. Raises ProbeError unless
    every combination of operands is there once, and when there are fewer than four digits.
    """
    trained = np.ones(len(operands), dtype=bool) if trained is None else trained
    found = {part.name: interactions(part.activations, operands) for part in parts}
    digits = int(operands.max()) + 1
    values = np.stack([np.arange(digits), *_relabelled(operands, relabellings, rng)])
    shares = {
        (part.name, added): np.asarray(
            [explained(part.activations, grouped(operands, value, added)) or 0.0 for value in values]
        )
        for part in parts
        if part.name.startswith("mlp")
        for added in partitions(operands.shape[1])
    }
    standardised = {key: _standardised(share) for key, share in shares.items()}
    best = max(shares, key=lambda key: float(standardised[key][0]))
    most = np.max(list(standardised.values()), axis=0)
    read = np.asarray([explained(logits[trained], value[operands[trained]].sum(axis=1)) or 0.0 for value in values])
    last = {
        part.name: of.order[-1] if (of := found[part.name]) is not None else 0.0
        for part in parts
        if part.name.startswith("mlp")
    }
    together_at = max(last, key=lambda name: last[name])
    meets, pair, handed, paired = _meeting(parts, found, operands, results, values, meet)
    return Evidence(
        right=float(right[trained].mean()),
        enter=tuple(
            None if (of := found[part.name]) is None else of.order[0] for part in parts if part.name.startswith("attn")
        ),
        meets=meets,
        pair=pair,
        handed=handed,
        paired=paired,
        together=last[together_at],
        together_at=together_at,
        number=Ordered.of(shares[best], most),
        number_at=f"{best[0]} ({'+'.join(str(place + 1) for place in best[1])})",
        read=Ordered.of(read),
    )


def judge(of: Evidence, rule: Rule | None = None) -> Verdict:
    """The verdict. Number goes before pairs: a model that adds two numbers and then a third is structured by number."""
    rule = rule or Rule()
    if of.right < rule.knows:
        return Verdict("neither", f"it answers {of.right:.0%} of the single steps rightly, {rule.knows:.0%} are asked")
    composed = of.pair >= rule.alone and of.handed >= rule.alone and of.paired is not None
    # What follows a pair's result is ordered by it, however it was found: then the neurons that found it count.
    number, where = (of.paired, "that pair") if composed and of.paired else (of.number, of.number_at)
    ordered = number.p <= rule.p
    if ordered and number.index >= rule.ordered:
        if of.read.p <= rule.p:
            return Verdict("structured by number", f"the sum orders the neurons of {where}, and the answers")
        return Verdict("neither", f"the sum orders the neurons of {where}, but not the answers")
    if composed:
        return Verdict("table of pairs composed", f"one pair of operands meets alone in {of.meets}, as its result")
    if of.meets is None:
        return Verdict("neither", "its operands meet nowhere")
    if number.index > rule.unordered:
        return Verdict("neither", f"the sum may order the neurons of {where} a little, more than a table's")
    if of.pair >= rule.alone:
        lacks = "but not as its result" if of.paired is not None else "before any MLP"
        return Verdict("neither", f"one pair of operands meets alone in {of.meets}, {lacks}")
    if of.together < rule.meet:
        return Verdict(
            "neither", f"all operands together make {of.together:.0%} of an MLP's variance, no table of them"
        )
    return Verdict("flat table", f"all operands meet at once in {of.together_at}, and no number orders them")


def _meeting(
    parts: Sequence[Site],
    found: Mapping[str, Interactions | None],
    operands: Int[np.ndarray, "example operand"],
    results: Int[np.ndarray, "digit digit"] | None,
    values: Int[np.ndarray, "relabelling digit"],
    meet: float,
) -> tuple[str | None, float, float, Ordered | None]:
    """The first part with interactions; of three or more operands, what one pair has of them, and how it goes on."""
    neurons: Site | None = None
    for part in parts:
        neurons = part if part.name.startswith("mlp") else neurons
        of = found[part.name]
        if of is None or sum(of.order[1:]) < meet:
            continue
        if operands.shape[1] < 3 or results is None:
            return part.name, 0.0, 0.0, None
        pair = max(of.pairs, key=lambda places: of.pairs[places])
        result = results[operands[:, pair[0]], operands[:, pair[1]]]
        handed = explained(_part_of_pair(part.written, operands, pair), result) or 0.0
        paired = None
        if neurons is not None:
            own = _part_of_pair(neurons.activations, operands, pair)
            sums = [value[operands[:, pair]].sum(axis=1) for value in values]
            paired = Ordered.of(np.asarray([explained(own, group) or 0.0 for group in sums]))
        return part.name, of.pairs[pair] / sum(of.order[1:]), handed, paired
    return None, 0.0, 0.0, None


def reduced(
    activations: Float[np.ndarray, "example feature"], keep: float = 0.999
) -> Float[np.ndarray, "example component"]:
    """Principal components that hold about `keep` of the variance: its shares are the same, at less cost."""
    centred = activations - activations.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    loudest = np.argsort(variance)[::-1]
    centred = centred[:, loudest[: _enough(variance[loudest], keep)]]
    scale, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, ::-1][:, : _enough(scale[::-1], keep)]


def _enough(variance: Float[np.ndarray, " feature"], keep: float) -> int:
    """How many of these, largest first, hold so much of their sum; at least one."""
    held = np.cumsum(np.maximum(variance, 0.0))
    return min(len(held), 1 + int(np.searchsorted(held, keep * held[-1])))


def partitions(operands: int) -> tuple[tuple[int, ...], ...]:
    """Which operands may have been added up, the others still apart: every set of two or more."""
    return tuple(some for size in range(2, operands + 1) for some in combinations(range(operands), size))


def grouped(
    operands: Int[np.ndarray, "example operand"], values: Int[np.ndarray, " digit"], added: Sequence[int]
) -> Int[np.ndarray, " example"]:
    """One number for each sum of the `added` operands' values, and of the other operands."""
    group = values[operands[:, added]].sum(axis=1)
    for place in range(operands.shape[1]):
        if place not in added:
            group = group * (int(operands.max()) + 1) + operands[:, place]
    return group


def _part_of_pair(
    written: Float[np.ndarray, "example feature"], operands: Int[np.ndarray, "example operand"], pair: tuple[int, int]
) -> Float[np.ndarray, "example feature"]:
    """The mean over all other operands: what is written of this pair."""
    digits = int(operands.max()) + 1
    group = operands[:, pair[0]] * digits + operands[:, pair[1]]
    means = np.zeros((digits**2, written.shape[1]))
    np.add.at(means, group, written)
    return (means / np.bincount(group, minlength=digits**2)[:, None])[group]


def _relabelled(
    operands: Int[np.ndarray, "example operand"], count: int, rng: np.random.Generator
) -> list[Int[np.ndarray, " digit"]]:
    """Random values of the digits whose sums group the steps in other ways, each way once; fewer where there are fewer.

    Values that shift and stretch Z_n are left out: modulo n their sums group alike. Of five digits 50 ways are left, so
    that no p is below 1/51, whatever the model.
    """
    digits = int(operands.max()) + 1
    if digits < 4:
        raise ProbeError(
            f"{digits} digits can be given no other order that matters; a verdict needs a modulus from 4 on"
        )
    found: list[Int[np.ndarray, " digit"]] = []
    ways = {_way(np.arange(digits), operands)}
    for _ in range(10 * count):
        value = rng.permutation(digits)
        affine = not ((value - value[0] - (value[1] - value[0]) * np.arange(digits)) % digits).any()
        if not affine and (way := _way(value, operands)) not in ways:
            ways.add(way)
            found.append(value)
        if len(found) == count:
            break
    return found


def _way(value: Int[np.ndarray, " digit"], operands: Int[np.ndarray, "example operand"]) -> bytes:
    """How sums of these values group the steps, whatever the groups are called."""
    _, first, group = np.unique(value[operands].sum(axis=1), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group.reshape(-1)].astype(np.int16).tobytes()


def _standardised(shares: Float[np.ndarray, " relabelling"]) -> Float[np.ndarray, " relabelling"]:
    """In units of the random values' spread, so that the largest of several may be taken."""
    return (shares - shares.mean()) / max(float(shares.std()), 1e-9)


def _p(shares: Float[np.ndarray, " relabelling"]) -> float:
    """The share of labellings, the true one first and among them, that do at least as well as the true one."""
    return float((shares >= shares[0] - 1e-12).mean())


def _names(block: int) -> tuple[str, str, str]:
    return f"blocks.{block}.hook_attn_out", f"blocks.{block}.mlp.hook_post", f"blocks.{block}.hook_mlp_out"


def _differentiable(value: Tensor) -> Tensor:
    return value + torch.zeros_like(value).requires_grad_()


def _numpy(value: Tensor) -> np.ndarray:
    return value.cpu().numpy()
