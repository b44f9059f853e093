"""How much do attention and feed-forward layers write to the residual stream, and how much does the loss rise without?

A ratio of the two means nothing before it is defined. A tied block is unrolled: each recurrence is a block of its own.
x is the stream that enters a block, a what its attention writes (hook_attn_out, with its bias), m what its MLP writes.
Over the measured positions of all chains ⟨x, y⟩ is the mean of the dot products and ‖x‖ = √⟨x, x⟩, a root mean square:
every ratio below is a ratio of means, never a mean of ratios, and none depends on how long chains are cut.

    norm.attention     ‖a‖ / ‖x‖, what attention writes against the stream that it reads
    norm.mlp           ‖m‖ / ‖x + a‖, the same of the MLP
    share.attention    ⟨a, u⟩ / ⟨u, u⟩ of the block's update u = a + m; the MLP's share is the rest (they sum to 1).
                       Below 0 or above 1 when the two write against each other
    norm-ratio         ‖a − ā‖ / ‖m − m̄‖ with ā, m̄ the means over the measured positions: what is written alike
                       everywhere, such as a bias, does not count
    causal.attention   rise of the loss, nats a symbol, when a is replaced at every position by its mean over all
                       positions of the sample of the same class: that of the token there (digit, operation, …), but the
                       answer, the position that predicts it and padding are classes of their own
    causal.mlp         the same of m
    causal.difference  the first rise less the second
    causal.balance     A / (A + M) of the two rises, one below 0 counting as 0: 1 all attention, 0 all MLP

`whole` is the model: in norm-ratio the squares are summed over blocks; u is the sum of all updates; all attention (all
MLP) outputs are replaced at once. Without a suffix the measured positions are those that predict the symbols the model
writes; `.answer` is the position that predicts the answer alone, and the answer's loss.

Norms are compared with the same model before training. A causal rise is compared with a disturbance of the same size:
the part that the mean takes away, turned by a random rotation (drawn for each block and part, the same at all
positions), is subtracted instead. A rise no larger than that says how much was taken, not that it was read. Replacing
by the value at a random position of the same class (resample ablation, in the table) stays among values that occur.
When it is wrong: attention is the only way between positions, so taking all of it away costs any model that solves the
task; and the rises are no parts of a sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import Edit
from kc_interp.probe import Subject
from kc_interp.statistics import finite
from kc_probes.ablation import Intact, Scores, draw, interval, require_enough, rotation
from kc_probes.untrained import initial

Part = Literal["attention", "mlp"]
PARTS: dict[Part, str] = {"attention": "hook_attn_out", "mlp": "hook_mlp_out"}
Replacement = Literal["mean", "rotated", "resampled"]

_NO_VARIANCE = 1e-12
"""Below this share of the mean square a variance is the rounding of a constant."""

_NO_RISE = 1e-6
"""Below this many nats a rise of the loss is rounding, and no ratio is made of it."""

Statistics = dict[str, Float[np.ndarray, " _"]]
"""Values under every weighting of the chains, by key."""


@dataclass(frozen=True)
class Moments:
    """Sums over the measured positions of each chain, from which every statistic of norms follows.

    `place` counts the blocks and, last, the whole model, whose attention is the sum of all attention outputs.
    """

    count: Float[np.ndarray, " chain"]
    pre: Float[np.ndarray, "chain block"]
    mid: Float[np.ndarray, "chain block"]
    squares: Float[np.ndarray, "part chain block"]
    sums: Float[np.ndarray, "part chain block d_model"]
    along: Float[np.ndarray, "part chain place"]
    update: Float[np.ndarray, "chain place"]

    @classmethod
    def of(cls, run: Intact, *, answer: bool) -> Moments:
        parts: list[tuple[Tensor, ...]] = []
        for number, chunk in enumerate(run.sample.chunks):
            marks = chunk.marks(answer=answer)
            pre, *written = (
                torch.stack([run.at(number, index, site).double() for index in range(run.spec.depth)])
                for site in ("hook_resid_pre", *PARTS.values())
            )
            wrote = torch.stack(written)
            both = torch.cat([wrote, wrote.sum(1, keepdim=True)], dim=1)
            update = both.sum(0)
            parts.append(
                (
                    marks.sum(1),
                    _squares(pre, marks),
                    _squares(pre + wrote[0], marks),
                    torch.stack([_squares(one, marks) for one in wrote]),
                    einsum(wrote, marks, "part block batch pos d, batch pos -> part batch block d"),
                    einsum(both, update, marks, "part n batch pos d, n batch pos d, batch pos -> part batch n"),
                    _squares(update, marks),
                )
            )
        joined = (torch.cat(c, dim=a) for c, a in zip(zip(*parts, strict=True), (0, 0, 0, 1, 1, 1, 0), strict=True))
        return cls(*(column.cpu().numpy() for column in joined))

    def statistics(self, weights: Float[np.ndarray, "weighting chain"]) -> Statistics:
        """Every statistic by key under each weighting of the chains; NaN where it is not defined."""
        count = weights @ self.count
        pre, mid, update = weights @ self.pre, weights @ self.mid, weights @ self.update
        squares = weights @ self.squares
        means = einsum(weights, self.sums, "w chain, part chain block d -> part w block d") / count[:, None, None]
        spread = squares - count[:, None] * np.square(means).sum(-1)
        spread = np.where(spread > _NO_VARIANCE * squares, spread, 0)
        attention_norm, mlp_norm = np.sqrt(_over(squares[0], pre)), np.sqrt(_over(squares[1], mid))
        share = _over(weights @ self.along, update)
        ratio = np.sqrt(_over(spread[0], spread[1]))
        found = {
            "whole.norm-ratio": np.sqrt(_over(spread[0].sum(-1), spread[1].sum(-1))),
            "whole.share.attention": share[0, :, -1],
            "whole.share.mlp": share[1, :, -1],
        }
        for index in range(ratio.shape[1]):
            columns = {
                "norm-ratio": ratio, "norm.attention": attention_norm, "norm.mlp": mlp_norm,
                "share.attention": share[0], "share.mlp": share[1],
            }  # fmt: skip
            found |= {f"block{index}.{key}": values[:, index] for key, values in columns.items()}
        return found


def _squares(x: Float[Tensor, "n batch pos d"], marks: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch n"]:
    return einsum(x, x, marks, "n batch pos d, n batch pos d, batch pos -> batch n")


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


@dataclass(frozen=True)
class Rise:
    """How much an ablation raises the loss of each chain: summed over the symbols written, and of the answer."""

    chain_nats: Float[np.ndarray, " chain"]
    answer_nats: Float[np.ndarray, " chain"]


@dataclass(frozen=True)
class Ablations:
    """Replaces what attention or the MLPs of some blocks write, in three ways, and scores the chains again.

    `turns` are the rotations of the control, several of each. `donors` gives each chunk's positions a position of the
    same class, counted through the whole sample, for resampling: one donor for all blocks and parts.
    """

    run: Intact
    turns: Sequence[Mapping[tuple[Part, int], Float[Tensor, "d_model d_model"]]]
    donors: tuple[Int[Tensor, "_ _"], ...]
    means: Mapping[tuple[Part, int], Float[Tensor, "kind d_model"]]

    @classmethod
    def of(cls, run: Intact, directions: int, rng: np.random.Generator) -> Ablations:
        places: list[tuple[Part, int]] = [(part, index) for index in range(run.spec.depth) for part in PARTS]
        like = run.params["embed.W_E"]
        turns = [{place: rotation(run.spec.d_model, rng, like) for place in places} for _ in range(directions)]
        means = {(part, index): run.class_means(index, PARTS[part]) for part, index in places}
        return cls(run, turns, tuple(_donors([chunk.kinds for chunk in run.sample.chunks], rng)), means)

    def rise(self, part: Part, indices: Sequence[int], how: Replacement) -> Rise:
        """The rise of each chain's losses with the part's output replaced in all of these blocks at once.

        That of the control is the mean over its rotations.
        """
        again = range(len(self.turns) if how == "rotated" else 1)
        scores = [self._scores(part, indices, how, turn) for turn in again]
        intact = self.run.scores
        return Rise(
            np.mean([found.chain_nats for found in scores], axis=0) - intact.chain_nats,
            np.mean([found.answer_nats for found in scores], axis=0) - intact.answer_nats,
        )

    def _scores(self, part: Part, indices: Sequence[int], how: Replacement, turn: int) -> Scores:
        site = PARTS[part]
        values = {
            index: torch.cat([self.run.at(c, index, site).flatten(0, 1) for c in range(len(self.donors))])
            for index in (indices if how == "resampled" else ())
        }

        def replaced(number: int, index: int) -> Edit:
            mean = self.means[part, index][self.run.sample.chunks[number].kinds]
            if how == "mean":
                return lambda value: mean[None]
            if how == "resampled":
                return lambda value: values[index][self.donors[number]][None]
            taken = (self.run.at(number, index, site) - mean) @ self.turns[turn][part, index]
            return lambda value: value - taken

        def edits(number: int) -> dict[str, Edit]:
            return {f"blocks.{index}.{site}": replaced(number, index) for index in indices}

        return self.run.changed(edits, first=min(indices))


def _donors(kinds: Sequence[Int[Tensor, "_ _"]], rng: np.random.Generator) -> Iterator[Int[Tensor, "_ _"]]:
    """For every position one drawn from all positions of its class, as its number in the sample laid flat."""
    flat = torch.cat([kind.flatten() for kind in kinds]).cpu().numpy()
    order = np.argsort(flat, kind="stable")
    size = np.bincount(flat)
    start = np.cumsum(size) - size
    drawn = order[start[flat] + (rng.random(len(flat)) * size[flat]).astype(np.int64)]
    for kind, part in zip(kinds, np.split(drawn, np.cumsum([kind.numel() for kind in kinds])[:-1]), strict=True):
        yield torch.from_numpy(part.reshape(tuple(kind.shape))).to(kind.device)


def rises(
    place: str,
    attention: Float[np.ndarray, " chain"],
    mlp: Float[np.ndarray, " chain"],
    count: Float[np.ndarray, " chain"],
    weights: Float[np.ndarray, "weighting chain"],
) -> Statistics:
    """The causal statistics of a place from each chain's rise in nats without its attention and without its MLP."""
    of_attention, of_mlp = (weights @ rise / (weights @ count) for rise in (attention, mlp))
    above = [np.where(rise > _NO_RISE, rise, 0) for rise in (of_attention, of_mlp)]
    return {
        f"{place}.causal.attention": of_attention,
        f"{place}.causal.mlp": of_mlp,
        f"{place}.causal.difference": of_attention - of_mlp,
        f"{place}.causal.balance": _over(above[0], above[0] + above[1]),
    }


@dataclass(frozen=True)
class _Statistic:
    """What one statistic is called, what a larger one means, and why it may be missing."""

    title: str
    higher_means: str
    missing: str = ""


_SAYS = {
    "norm-ratio": _Statistic(
        "Centred ‖attention‖/‖MLP‖",
        "what attention writes varies more between positions and chains than what the MLP writes",
        "what the MLP writes does not vary here, so there is nothing to divide by",
    ),
    "causal.attention": _Statistic(
        "Rise of the loss without attention, nats a symbol", "the model's predictions depend more on its attention"
    ),
    "causal.mlp": _Statistic(
        "Rise of the loss without the MLP, nats a symbol", "the model's predictions depend more on its MLP"
    ),
    "causal.balance": _Statistic(
        "Attention's part of the two rises",
        "of the two ablations, that of attention costs more (1: only it costs anything)",
        "neither ablation raises the loss",
    ),
    "causal.difference": _Statistic(
        "Rise without attention less rise without the MLP, nats a symbol", "attention's ablation costs more"
    ),
    "share.attention": _Statistic(
        "Attention's share of the update",
        "more of the stream's change lies along what attention writes; the rest is the MLP's",
        "the stream is not changed here",
    ),
    "norm.attention": _Statistic(
        "‖attention‖/‖stream before it‖", "attention writes more beside what stands there", "the stream is 0 here"
    ),
    "norm.mlp": _Statistic(
        "‖MLP‖/‖stream before it‖", "the MLP writes more beside what stands there", "the stream is 0 here"
    ),
}
_ONLY_IN_BLOCKS = ("norm.attention", "norm.mlp")
_BEFORE = "the same model before training"
_TURNED = "a disturbance of the same size in random directions"


@dataclass(frozen=True)
class Measured:
    """All statistics at one set of positions: under every weighting, and what stands beside the sample's own."""

    values: Statistics
    before: Statistics
    turned: Statistics
    resampled: Statistics

    def value(self, key: str) -> float | None:
        return finite(self.values[key][0])

    def control(self, key: str) -> float | None:
        return finite((self.turned if ".causal." in key else self.before)[key][0])

    def interval(self, key: str) -> tuple[float | None, float | None]:
        return interval(self.values[key])


@dataclass(frozen=True)
class AttentionMlp:
    """Norms, shares and causal weight of attention and MLP, for every block and the whole model (defined above).

    `chains` test items of `component` (of the mixture if the task has no such part), so that arms are compared on the
    same items; `resamples` of the chains make the intervals, in which means, rotations and donors are held fixed. The
    control of a causal number is a mean over `directions` rotations.
    """

    component: str | None = "SUM"
    chains: int = 256
    resamples: int = 1_000
    directions: int = 3

    def __post_init__(self) -> None:
        require_enough(self.chains, self.resamples)
        if self.directions < 1:
            raise SpecError(f"directions is {self.directions}; the control needs at least 1 random rotation")

    def run(self, subject: Subject) -> Finding:
        """`control` is the model before training for norms, a disturbance of equal size for causal numbers."""
        spec = subject.checkpoint.spec.model
        sample, items = draw(subject, self.component, self.chains, "attention-mlp: chains")
        run = Intact.of(subject.params, spec, sample, PARTS.values())
        before = Intact.of(initial(subject), spec, sample, PARTS.values())
        weights = sample.bootstrap(self.resamples, subject.rng("attention-mlp: resamples"))
        ablated = self._ablate(run, subject.rng("attention-mlp: control"))
        places = ["whole", *(f"block{index}" for index in range(spec.depth))]

        def causal(how: Replacement, answer: bool) -> Statistics:
            of = "answer_nats" if answer else "chain_nats"
            count = np.ones(len(sample)) if answer else sample.written
            found: Statistics = {}
            for place in places:
                attention, mlp = (getattr(ablated[place, part, how], of) for part in PARTS)
                found |= rises(place, attention, mlp, count, weights if how == "mean" else weights[:1])
            return found

        chain, answer = (
            Measured(
                Moments.of(run, answer=at_answer).statistics(weights) | causal("mean", at_answer),
                Moments.of(before, answer=at_answer).statistics(weights[:1]),
                causal("rotated", at_answer),
                causal("resampled", at_answer),
            )
            for at_answer in (False, True)
        )
        return Finding(
            probe="attention-mlp",
            subject=subject.name,
            title="Attention and feed-forward: what each writes, and what the loss is without it",
            sentence=_sentence(chain, items, len(sample), learned=subject.learned),
            status="unlearned" if subject.learned is False else "ok",
            numbers=tuple(_numbers(chain, answer, places, len(sample))),
            tables=(_table(chain, answer, places),),
            figures=tuple(_figures(chain, answer, places)),
            settings={**dataclasses.asdict(self), "items": items},
        )

    def _ablate(self, run: Intact, rng: np.random.Generator) -> dict[tuple[str, Part, Replacement], Rise]:
        """What every ablation costs: each block's, and the whole model's, of each part in each way."""
        ablations = Ablations.of(run, self.directions, rng)
        blocks_of = {"whole": list(range(run.spec.depth))} | {f"block{i}": [i] for i in range(run.spec.depth)}
        ways: tuple[Replacement, ...] = ("mean", "rotated", "resampled")
        return {
            (place, part, how): ablations.rise(part, indices, how)
            for place, indices in blocks_of.items()
            for part in PARTS
            for how in ways
        }


def _numbers(chain: Measured, answer: Measured, places: Sequence[str], n: int) -> Iterator[Number]:
    """The whole model first; the keys are the same for every model of one depth."""
    for place in places:
        for measured, suffix, where in ((chain, "", "all symbols written"), (answer, ".answer", "the answer alone")):
            for statistic, says in _SAYS.items():
                if place == "whole" and statistic in _ONLY_IN_BLOCKS:
                    continue
                key = f"{place}.{statistic}"
                value = measured.value(key)
                yield Number(
                    key + suffix,
                    f"{says.title}, {_named(place)} ({where})",
                    value,
                    *measured.interval(key),
                    n=n,
                    control=measured.control(key),
                    control_says=_TURNED if statistic.startswith("causal") else _BEFORE,
                    higher_means=says.higher_means,
                    note=says.missing if value is None else "",
                )


def _named(place: str) -> str:
    return "whole model" if place == "whole" else place.replace("block", "block ")


def _table(chain: Measured, answer: Measured, places: Sequence[str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for place in places:
        for measured, where in ((chain, "chain"), (answer, "answer")):
            for part in PARTS:
                key = f"{place}.causal.{part}"
                in_block = measured.value(f"{place}.norm.{part}") if place != "whole" else None
                rows.append(
                    (
                        _named(place), where, part, in_block, measured.value(f"{place}.share.{part}"),
                        measured.value(key), *measured.interval(key), measured.control(key),
                        finite(measured.resampled[key][0]),
                    )
                )  # fmt: skip
    return Table(
        "What each part writes, and the rise of the loss without it",
        (
            "place", "positions", "part", "norm against the stream", "share of the update",
            "rise, nats: class mean", "low", "high", "rise: same size, random direction", "rise: resampled",
        ),
        tuple(rows),
        "Norms are root mean squares over positions. Class mean: the output replaced by its mean over positions of the "
        "same class; resampled: by that at a random position of the class. low, high: 95 % bootstrap over chains.",
    )  # fmt: skip


def _figures(chain: Measured, answer: Measured, places: Sequence[str]) -> Iterator[Figure]:
    in_blocks = places[1:]
    names = {"attention": "attention", "mlp": "MLP"}

    def bars(
        title: str, shows: str, refuted_by: str, places: Sequence[str], series: list[dict[str, object]], y: str
    ) -> Figure:
        data = {"x": [_named(place) for place in places], "series": series, "x_title": "block", "y_title": y}
        return Figure("bars", title, shows=shows, refuted_by=refuted_by, data=data)

    def spread(measured: Measured, name: str, keys: Sequence[str]) -> dict[str, object]:
        ends = [measured.interval(key) for key in keys]
        low, high = ([end[side] for end in ends] for side in (0, 1))
        return {"name": name, "y": [measured.value(key) for key in keys], "low": low, "high": high}

    def beside(values: Statistics, name: str, keys: Sequence[str]) -> dict[str, object]:
        return {"name": name, "y": [finite(values[key][0]) for key in keys]}

    norms = {part: [f"{place}.norm.{part}" for place in in_blocks] for part in PARTS}
    yield bars(
        "What attention and MLP write, against the stream",
        "The root mean square norm of what each part of a block writes, over that of the stream it reads, at the "
        "positions that predict what the model writes.",
        "The same bars before training: then they tell of the initialisation. And where removal costs nothing, in the "
        "next figure, a large bar was written and not read.",
        in_blocks,
        [spread(chain, names[part], norms[part]) for part in PARTS]
        + [beside(chain.before, f"{names[part]}, before training", norms[part]) for part in PARTS],
        "norm over norm of the stream",
    )
    for measured, title, what in (
        (chain, "Loss without attention or MLP: all symbols written", "symbols that the model writes"),
        (answer, "Loss without attention or MLP: the answer", "answer alone"),
    ):
        causal = {part: [f"{place}.causal.{part}" for place in places] for part in PARTS}
        yield bars(
            title,
            f"How much the loss of the {what} rises when a part's output is replaced by its mean over positions of the "
            "same class, block by block and in all blocks at once.",
            "A bar no higher than that of an equally large disturbance in random directions: then size matters, not "
            "what is said. All attention at once costs any model that solves the task, for nothing else moves "
            "information between positions.",
            places,
            [spread(measured, names[part], causal[part]) for part in PARTS]
            + [beside(measured.turned, f"{names[part]}, random direction", causal[part]) for part in PARTS],
            "rise of the loss, nats a symbol",
        )
    shares = {part: [f"{place}.share.{part}" for place in places] for part in PARTS}
    yield bars(
        "Share of the residual update",
        "How much of the stream's change over a block lies along what attention and along what the MLP wrote; the two "
        "sum to 1, and one is below 0 when it works against the other.",
        "Shares as they were before training. A share is a matter of direction and size alone: what is read of it, the "
        "figures above say.",
        places,
        [spread(chain, names[part], shares[part]) for part in PARTS]
        + [beside(chain.before, f"{names[part]}, before training", shares[part]) for part in PARTS],
        "share of the update",
    )


def _sentence(chain: Measured, items: str, n: int, *, learned: bool | None) -> str:
    def said(key: str, digits: str = ".2f") -> str:
        value, (low, high), control = chain.value(key), chain.interval(key), chain.control(key)
        if value is None:
            return f"not defined ({_SAYS[key.split('.', 1)[1]].missing})"
        bounds = "" if low is None or high is None else f"95 % interval {low:{digits}} to {high:{digits}}; "
        against = "before training" if ".causal." not in key else "equally large disturbance"
        return f"{value:{digits}} ({bounds}{against} {'undefined' if control is None else f'{control:{digits}}'})"

    spoken = (
        f"On {n} test items of {items}: centred ‖attention‖/‖MLP‖ over all blocks is {said('whole.norm-ratio')}. "
        "With every attention output at its class mean the loss rises by "
        f"{said('whole.causal.attention')} nats a symbol, "
        f"with every MLP output at its by {said('whole.causal.mlp')}. Norms say how much is written, not whether it is "
        "read; nothing but attention moves information between positions, so that its removal costs any model that "
        "solves the task; the two rises are no parts of a sum. The intervals are of this one checkpoint."
    )
    if learned is False:
        return f"This model has not learned its task, so nothing is claimed about how it solves it. {spoken}"
    return spoken
