"""Switch heads off: what does each cost, what do they cost together, and what does the model then answer?

A head is one of an unrolled block (a tied block has its heads anew at each recurrence), named L<block>H<head>. Switched
off it writes nothing ("zero": its z is 0 at every position), or at every position the mean of what it writes at
positions of the same class ("mean", with the classes of `ablation`): the first also takes away what is always
there, a bias that the rest of the model counts on, the second only what differs.

Costs are paired, chain by chain: exact chains lost (teacher-forced, which is what a greedy decode would write; the
share of chains right before less after), answers lost, and nats by which the answer's NLL rises. The control subtracts
a vector of the same size instead: the part taken away, turned by a random rotation, one drawn for each head. A head
that costs no more than that is no more needed than its size. Two seeds' heads of one index need not correspond, so
compare models by the numbers called `whole`, which do not depend on the order of heads:

    largest-…         the costliest single head (a best of many, as is its control)
    heads-that-cost   heads without which answers are lost: the paired 95 % interval lies above 0
    heads-beyond-size heads that cost the answer more nats than their own control, chain by chain: the paired 95 %
                      interval of the difference lies above 0
    effective-heads   (Σ c)² / Σ c² of the heads' costs c in nats, one below 0 counting as 0: 1 when one head bears all,
                      the number of heads when all cost alike (inverse Simpson index; Hill 1973,
                      https://doi.org/10.2307/1934352). Noise counts as heads do, in the control too
    all-off           all heads of all blocks at once

When it is wrong: a head whose work another takes over costs nothing alone; the switches show both off.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.errors import SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import Edit, Sites, blocks, embed, unembed
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec
from kc_interp.statistics import finite
from kc_interp.tokens import lines
from kc_probes.ablation import Intact, Scores, draw, interval, require_enough, rotation

Mode = Literal["zero", "mean"]
MODES: dict[Mode, str] = {"zero": "set to zero", "mean": "set to its class mean"}

MOST_HEADS_IN_ALL_SUBSETS = 10
MOST_HEADS_SHOWN = 16
_SYMBOLS = 5
_TOKENS_A_CALL = 8_192
_TURNED = "the same size, in random directions"

Head = tuple[int, int]
"""Unrolled block and head."""


@dataclass(frozen=True)
class Costs:
    """What each ablation costs each chain: 1 where it was right and is not (−1: the reverse), and the answer's nats.

    The rows of `ablation` are the heads in order and, last, all of them at once.
    """

    exact: Float[np.ndarray, "ablation chain"]
    answer: Float[np.ndarray, "ablation chain"]
    nats: Float[np.ndarray, "ablation chain"]

    @classmethod
    def of(cls, intact: Scores, ablated: Sequence[Scores]) -> Costs:
        """From the scores before and after every ablation."""

        def cost(name: str, sign: int) -> Float[np.ndarray, "ablation chain"]:
            after = np.stack([getattr(scores, name) for scores in ablated]).astype(float)
            return sign * (after - getattr(intact, name))

        return cls(cost("exact", -1), cost("answer", -1), cost("answer_nats", 1))


@dataclass(frozen=True)
class Heads:
    """Switches heads of a recorded run off and scores its chains again. `means` are each block's z by class."""

    run: Intact
    means: Sequence[Float[Tensor, "kind head d_head"]]

    @classmethod
    def of(cls, run: Intact) -> Heads:
        """The run must have recorded `attn.hook_z`."""
        z = (run.class_means(index, "attn.hook_z") for index in range(run.spec.depth))
        return cls(
            run,
            [rearrange(mean, "kind (head d_head) -> kind head d_head", head=run.spec.n_heads) for mean in z],
        )

    @property
    def names(self) -> list[Head]:
        return list(itertools.product(range(self.run.spec.depth), range(self.run.spec.n_heads)))

    def off(self, heads: Sequence[Head], mode: Mode) -> Scores:
        """The scores with these heads switched off at every position."""
        by_block = _by_block(heads)

        def edit(number: int, index: int) -> Edit:
            return lambda z: _without(z, by_block[index], self._instead(number, index, mode)[None])

        def edits(number: int) -> dict[str, Edit]:
            return {f"blocks.{index}.attn.hook_z": edit(number, index) for index in by_block}

        return self.run.changed(edits, first=min(by_block))

    def turned(self, heads: Sequence[Head], mode: Mode, turns: Mapping[int, Tensor]) -> Scores:
        """The control: what `off` takes from a block's attention is turned by that block's rotation and subtracted."""
        by_block = _by_block(heads)

        def edit(number: int, index: int) -> Edit:
            z = self.run.at(number, index, "attn.hook_z")
            taken = (z - self._instead(number, index, mode))[:, :, by_block[index]]
            w_o = self.run.params[f"blocks.{index % self.run.spec.n_layers}.attn.W_O"][0, by_block[index]]
            wrote = einsum(taken, w_o, "batch pos head d_head, head d_head d_model -> batch pos d_model")
            change = wrote @ turns[index]
            return lambda attn_out: attn_out - change

        def edits(number: int) -> dict[str, Edit]:
            return {f"blocks.{index}.hook_attn_out": edit(number, index) for index in by_block}

        return self.run.changed(edits, first=min(by_block))

    def _instead(self, number: int, index: int, mode: Mode) -> Float[Tensor, "batch pos head d_head"]:
        means = self.means[index]
        return (means if mode == "mean" else torch.zeros_like(means))[self.run.sample.chunks[number].kinds]


def _by_block(heads: Sequence[Head]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, head in heads:
        found.setdefault(index, []).append(head)
    return found


def _without(
    z: Float[Tensor, "1 batch pos head d_head"],
    heads: Sequence[int],
    instead: Float[Tensor, "1 batch pos head d_head"],
) -> Float[Tensor, "1 batch pos head d_head"]:
    """z with these heads replaced."""
    z = z.clone()
    z[..., heads, :] = instead[..., heads, :]
    return z


def masks(heads: int) -> list[int]:
    """The sets of heads that are precomputed, as bits: all subsets up to ten heads; beyond, none, singles and pairs."""
    if heads <= MOST_HEADS_IN_ALL_SUBSETS:
        return list(range(2**heads))
    singles = [1 << head for head in range(heads)]
    return [0, *singles, *(a | b for a, b in itertools.combinations(singles, 2))]


@torch.no_grad()
def subsets(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    prefix: Int[Tensor, " pos"],
    heads: Sequence[Head],
    off: Sequence[int],
) -> Float[Tensor, "mask d_vocab"]:
    """The probabilities of what follows `prefix` for every mask in `off`: bit h sets the output (z) of `heads[h]` to 0.

    Exact: every mask is a forward pass of its own, packed along the batch axis.
    """
    keep = torch.ones(len(off), spec.depth, spec.n_heads, dtype=params["embed.W_E"].dtype, device=prefix.device)
    for bit, (index, head) in enumerate(heads):
        keep[:, index, head] = torch.tensor([1 - (mask >> bit & 1) for mask in off]).to(keep)
    resid = embed(params, prefix[None, None])

    def edit(kept: Float[Tensor, "mask head"]) -> Edit:
        return lambda z: z * kept[None, :, None, :, None]

    found = []
    for part in keep.split(max(1, _TOKENS_A_CALL // len(prefix))):
        sites = Sites(edits={f"blocks.{index}.attn.hook_z": edit(part[:, index]) for index in range(spec.depth)})
        packed = repeat(resid, "1 1 pos d_model -> 1 mask pos d_model", mask=len(part))
        after = blocks(params, spec, packed, answer_only=True, sites=sites)
        found.append(unembed(params, spec, after)[0, :, -1].softmax(-1))
    return torch.cat(found)


@dataclass(frozen=True)
class _Metric:
    """One cost: its field in `Costs`, its title, and what a larger one means."""

    of: str
    title: str
    higher_means: str


_METRICS = {
    "exact-lost": _Metric("exact", "exact chains lost", "more chains are no longer written exactly"),
    "answer-nats": _Metric("nats", "rise of the answer's NLL, nats", "the answer becomes less probable"),
}


@dataclass(frozen=True)
class Measured:
    """Mean costs over the chains by field of `Costs`, of one mode (`means`) and of its control.

    Rows are weightings of the chains, the sample itself first; columns are ablations. `changed`: whether any chain is
    different at all.
    """

    means: Mapping[str, Float[np.ndarray, "weighting ablation"]]
    control: Mapping[str, Float[np.ndarray, "weighting ablation"]]
    chains: int
    changed: Mapping[str, Bool[np.ndarray, " ablation"]]

    @classmethod
    def of(cls, costs: Costs, control: Costs, weights: Float[np.ndarray, "weighting chain"]) -> Measured:
        shares = weights / weights.sum(axis=1, keepdims=True)
        fields = [field.name for field in dataclasses.fields(Costs)]
        means, controls = ({of: shares @ getattr(each, of).T for of in fields} for each in (costs, control))
        return cls(means, controls, weights.shape[1], {of: getattr(costs, of).any(axis=1) for of in fields})

    def bounds(self, of: str, row: int) -> tuple[float | None, float | None]:
        """The paired 95 % interval of one ablation's cost.

        When no chain changed no resample does: then the share of chains that do lies below 1 - 0.025^(1/n) (the exact
        binomial bound), which bounds what is lost either way; a mean of nats has no such bound and no interval.
        """
        if self.changed[of][row]:
            return interval(self.means[of][:, row])
        most = 1 - 0.025 ** (1 / self.chains)
        return (None, None) if of == "nats" else (-most, most)

    def costly(self) -> Count:
        """How many heads there are without which answers are lost."""
        return Count.of(self.means["answer"])

    def control_costly(self) -> Count:
        """The same of the control."""
        return Count.of(self.control["answer"])

    def beyond_size(self) -> Count:
        """How many heads cost the answer more nats than the disturbance of their size does."""
        return Count.of(self.means["nats"] - self.control["nats"])


@dataclass(frozen=True)
class Count:
    """How many heads have a paired 95 % interval above 0, with 95 % bounds on how many truly cost something.

    The bounds ask every head at 95 % over all heads together (Bonferroni): `low` have an interval above 0 even so, and
    only the rest of those beyond `high` are shown to cost nothing.
    """

    value: int
    low: int
    high: int

    @classmethod
    def of(cls, means: Float[np.ndarray, "weighting ablation"]) -> Count:
        """From every single head's mean cost under each weighting; the last column, all heads at once, is left out."""
        single = means[1:, :-1]
        each = 0.025 / single.shape[1]
        lower, surely, possibly = np.quantile(single, [0.025, each, 1 - each], axis=0)
        value = int((lower > 0).sum())
        return cls(value, int((surely > 0).sum()), max(value, int((possibly > 0).sum())))


def effective_number(costs: Float[np.ndarray, "*batch head"]) -> Float[np.ndarray, " *batch"]:
    """(Σ c)² / Σ c² of the costs above 0 along the last axis; NaN where no cost is.

    >>> effective_number(np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    array([1., 3.])
    """
    above = np.maximum(costs, 0)
    total, squares = np.square(above.sum(-1)), np.square(above).sum(-1)
    return np.asarray(np.divide(total, squares, out=np.full(total.shape, np.nan), where=squares > 0))


@dataclass(frozen=True)
class HeadAblation:
    """Switch every head off, alone and in sets.

    `chains` test items of `component` (of the mixture if the task has no such part), so that arms are compared on the
    same items; `resamples` of them make paired intervals, the class means held fixed; `examples` chains, from few lines
    to many, are shown with every set of heads off.
    """

    component: str | None = "SUM"
    chains: int = 256
    resamples: int = 1_000
    examples: int = 4

    def __post_init__(self) -> None:
        require_enough(self.chains, self.resamples)
        if not 1 <= self.examples <= self.chains:
            raise SpecError(f"examples is {self.examples}; it must lie between 1 and chains ({self.chains})")

    def run(self, subject: Subject) -> Finding:
        """`control` is the cost of a disturbance of the same size in random directions."""
        spec = subject.checkpoint.spec.model
        sample, items = draw(subject, self.component, self.chains, "head-ablation: chains")
        heads = Heads.of(Intact.of(subject.params, spec, sample, ("hook_attn_out", "attn.hook_z")))
        weights = sample.bootstrap(self.resamples, subject.rng("head-ablation: resamples"))
        found = self._measure(heads, weights, subject.rng("head-ablation: control"))
        shown = _largest(found)
        return Finding(
            probe="head-ablation",
            subject=subject.name,
            title="Switching heads off: what each costs, and what the model then answers",
            sentence=_sentence(found, heads, items, learned=subject.learned),
            status="unlearned" if subject.learned is False else "ok",
            numbers=(*_whole_numbers(found, len(sample)), *_head_numbers(found, heads.names, len(sample))),
            tables=(_table(found, heads.names),),
            figures=(*_figures(found, heads.names, shown), self._switches(subject, heads, shown)),
            settings={**dataclasses.asdict(self), "items": items},
        )

    @staticmethod
    def _measure(
        heads: Heads, weights: Float[np.ndarray, "weighting chain"], rng: np.random.Generator
    ) -> dict[Mode, Measured]:
        """Every head off alone, then all of them; the control is turned alike in both modes."""
        spec, names, intact = heads.run.spec, heads.names, heads.run.scores
        ablations = [*([head] for head in names), names]
        like = heads.run.params["embed.W_E"]
        turns = [{index: rotation(spec.d_model, rng, like) for index in _by_block(off)} for off in ablations]
        found: dict[Mode, Measured] = {}
        for mode in MODES:
            off = [heads.off(which, mode) for which in ablations]
            turned = [heads.turned(which, mode, turn) for which, turn in zip(ablations, turns, strict=True)]
            found[mode] = Measured.of(Costs.of(intact, off), Costs.of(intact, turned), weights)
        return found

    def _switches(self, subject: Subject, heads: Heads, shown: Sequence[int]) -> Figure:
        chains, names = heads.run.sample.chains, [heads.names[row] for row in shown]
        ranks = np.lexsort((chains.lengths, lines(subject.task, chains).max(axis=1)))
        chosen = ranks[np.linspace(0, len(ranks) - 1, self.examples).round().astype(int)]
        ids, off = subject.ids(chains)[0], masks(len(names))
        examples = []
        for row in chosen.tolist():
            answer = int(chains.answers[row])
            probabilities = subsets(subject.params, heads.run.spec, ids[row, :answer], names, off)
            answers = [ranked(line, subject.tokens.symbols) for line in probabilities.cpu().numpy()]
            words = [subject.task.symbols[code] for code in chains.symbols[row, : answer + 1].tolist()]
            examples.append(
                {"tokens": words[:-1], "target": words[-1], "answers": dict(zip(map(str, off), answers, strict=True))}
            )
        return Figure(
            "switches",
            "Switch heads off: the answer without them",
            shows="What the model answers, given the correct chain up to there, when the output of the pressed heads "
            "is set to zero at every position: an exact forward pass for each set, "
            + ("all sets." if len(names) <= MOST_HEADS_IN_ALL_SUBSETS else "single heads and pairs.")
            + ("" if len(names) == len(heads.names) else f" The {len(names)} costliest of {len(heads.names)} heads."),
            refuted_by="A head that looks needed in one example and whose removal costs nothing over all chains, in "
            "the bars above; or an answer that any disturbance of this size changes (their control).",
            data={"heads": [label(head) for head in names], "examples": examples},
        )


def ranked(probabilities: Float[np.ndarray, " d_vocab"], symbols: Sequence[str]) -> list[list[Any]]:
    """The most probable symbols as [symbol, probability], to four digits; those that round to 0 are left out."""
    order = np.argsort(-probabilities, kind="stable")[:_SYMBOLS].tolist()
    pairs = [[symbols[token], round(float(probabilities[token]), 4)] for token in order]
    return pairs[:1] + [pair for pair in pairs[1:] if pair[1]]


def label(head: Head) -> str:
    """How a head is called: L<unrolled block>H<head>."""
    return f"L{head[0]}H{head[1]}"


def _largest(found: Mapping[Mode, Measured]) -> list[int]:
    """The rows of the heads to draw: all, or the sixteen that cost most nats in either mode, in the model's order."""
    most = np.max([np.abs(it.means["nats"][0, :-1]) for it in found.values()], axis=0)
    return sorted(np.argsort(-most, kind="stable")[:MOST_HEADS_SHOWN].tolist())


def _whole_numbers(found: Mapping[Mode, Measured], n: int) -> Iterator[Number]:
    """The numbers that do not depend on the order of heads."""
    for mode, it in found.items():
        for key, metric in _METRICS.items():
            largest = it.means[metric.of][:, :-1].max(axis=1)
            yield Number(
                f"whole.{mode}.largest-{key}",
                f"Costliest single head {MODES[mode]}: {metric.title}",
                float(largest[0]),
                *(interval(largest) if it.changed[metric.of][:-1].any() else it.bounds(metric.of, 0)),
                n=n,
                control=float(it.control[metric.of][0, :-1].max()),
                control_says=f"costliest head's part of {_TURNED}",
                higher_means=f"with one head off {metric.higher_means}",
                note="a best of many, and so is the control",
            )
        costly, beyond = it.costly(), it.beyond_size()
        yield Number(
            f"whole.{mode}.heads-that-cost",
            f"Heads without which answers are lost ({MODES[mode]})",
            costly.value,
            costly.low,
            costly.high,
            n=n,
            control=it.control_costly().value,
            control_says=f"as many heads' parts of {_TURNED}",
            higher_means="more heads are needed one by one",
            note="heads whose 95 % interval lies above 0 (by chance alone about one in forty would); the count's "
            "interval allows for all of them",
        )
        yield Number(
            f"whole.{mode}.heads-beyond-size",
            f"Heads that cost more than a disturbance of their size ({MODES[mode]})",
            beyond.value,
            beyond.low,
            beyond.high,
            n=n,
            control=(len(it.changed["answer"]) - 1) / 40,
            control_says="what is expected if no head costs more than its disturbance (2.5 % of them)",
            higher_means="more heads are needed for what they write, not for its size",
            note="heads whose paired 95 % interval lies above 0; the count's interval allows for all of them",
        )
        effective = effective_number(it.means["nats"][:, :-1])
        low, high = interval(effective)
        yield Number(
            f"whole.{mode}.effective-heads",
            f"Effective number of heads ({MODES[mode]})",
            finite(effective[0]),
            low,
            high,
            n=n,
            control=finite(effective_number(it.control["nats"][0, :-1])),
            control_says=_TURNED,
            higher_means="the cost of single heads is spread over more of them",
            note="" if np.isfinite(effective[0]) else "no head's removal makes the answer less probable",
        )
        for key, metric in _METRICS.items():
            yield _number(it, key, metric, -1, f"whole.{mode}.all-off.{key}", f"All heads {MODES[mode]}", n)


def _head_numbers(found: Mapping[Mode, Measured], names: Sequence[Head], n: int) -> Iterator[Number]:
    for row, (index, head) in enumerate(names):
        for mode, it in found.items():
            for key, metric in _METRICS.items():
                title = f"{label((index, head))} {MODES[mode]}"
                yield _number(it, key, metric, row, f"block{index}.head{head}.{mode}.{key}", title, n)


def _number(it: Measured, key: str, metric: _Metric, row: int, name: str, title: str, n: int) -> Number:
    return Number(
        name,
        f"{title}: {metric.title}",
        float(it.means[metric.of][0, row]),
        *it.bounds(metric.of, row),
        n=n,
        control=float(it.control[metric.of][0, row]),
        control_says=_TURNED,
        higher_means=f"without it {metric.higher_means}",
        note="" if it.changed[metric.of][row] else "no chain changed at all",
    )


def _table(found: Mapping[Mode, Measured], names: Sequence[Head]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row, name in enumerate([*map(label, names), "all heads"]):
        row = row if row < len(names) else -1
        for mode, it in found.items():
            cells: list[Cell] = [name, MODES[mode]]
            for of in ("exact", "answer", "nats"):
                cells += [
                    float(it.means[of][0, row]),
                    *it.bounds(of, row),
                    float(it.control[of][0, row]),
                ]
            rows.append(tuple(cells))
    columns = [
        column
        for title in ("exact chains lost", "answers lost", "answer NLL, rise in nats")
        for column in (title, "low", "high", "control")
    ]
    return Table(
        "The cost of each head",
        ("head", "ablation", *columns),
        tuple(rows),
        f"low, high: paired 95 % bootstrap over chains, none where no chain changed. Control: {_TURNED}. "
        "Heads are tested one by one: expect a false alarm in one of twenty intervals.",
    )


def _figures(found: Mapping[Mode, Measured], names: Sequence[Head], shown: Sequence[int]) -> Iterator[Figure]:
    for key, metric in _METRICS.items():
        series: list[dict[str, Any]] = []
        for mode, it in found.items():
            ends = [it.bounds(metric.of, row) for row in shown]
            series.append(
                {
                    "name": MODES[mode],
                    "y": [float(it.means[metric.of][0, row]) for row in shown],
                    "low": [low for low, _ in ends],
                    "high": [high for _, high in ends],
                }
            )
        for mode, it in found.items():
            control = it.control[metric.of][0]
            series.append(
                {"name": f"as large as {mode}, random direction", "y": [float(control[row]) for row in shown]}
            )
        which = "" if len(shown) == len(names) else f" The {len(shown)} costliest of {len(names)} heads are drawn."
        yield Figure(
            "bars",
            "Without each head: " + {"exact-lost": "exact chains lost", "answer-nats": "the answer's NLL"}[key],
            shows=f"{metric.title[0].upper()}{metric.title[1:]}, when one head is switched off at every position."
            + which,
            refuted_by="A bar no higher than that of a disturbance of the same size in random directions. A low bar "
            "does not show that a head is idle: another may stand in for it (switch both off below).",
            data={
                "x": [label(names[row]) for row in shown],
                "series": series,
                "x_title": "head",
                "y_title": metric.title,
            },
        )


def _sentence(found: Mapping[Mode, Measured], heads: Heads, items: str, *, learned: bool | None) -> str:
    mean, names = found["mean"], heads.names
    exact, control = mean.means["exact"][0, :-1], mean.control["exact"][0, :-1].max()
    row = int(exact.argmax())
    low, high = mean.bounds("exact", row)
    bounds = "" if low is None or high is None else f"95 % interval {low:.1%} to {high:.1%}; "
    worst = (
        f"The largest loss of exact chains is {exact[row]:.1%} ({label(names[row])}; {bounds}of the disturbances "
        f"{control:.1%})."
        if exact[row] > 0
        else f"No head alone loses exact chains (of the disturbances the largest loses {control:.1%})."
    )
    spoken = (
        f"On {len(heads.run.sample)} test items of {items}, of which the model writes "
        f"{heads.run.scores.exact.mean():.1%} exactly: of {len(names)} heads, each held at its class mean in turn, "
        f"{mean.costly().value} cost answers beyond a 95 % interval (a disturbance of the same size: "
        f"{mean.control_costly().value}), and {mean.beyond_size().value} cost the answer more nats than their own "
        f"disturbance. {worst} That a head is needed for these chains does not say what it computes, and "
        "one that costs nothing alone may have a stand-in. The intervals are of this one checkpoint."
    )
    if learned is False:
        return f"This model has not learned its task, so nothing is claimed about how it solves it. {spoken}"
    return spoken
