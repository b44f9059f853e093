"""Head weights: whom does each head's QK prefer, does its OV copy, and does the model depend on it where it answers?

Two readings of the weights, each with what the model does beside it:

- *QK*: the score that the query of the answer gives to each class of source, from the mean of what both read (at block
  0 embeddings alone). Beside it the attention that these scores predict and the actual one, and what the answer loses
  when the head that prefers most strongly is cut from the class that it prefers. The control turns query and key
  weights to random directions: their singular values stay.
- *OV*: what attending to a digit adds to the digits' logits by the direct path: the share of digits that raise
  themselves most, and the eigenvalues' share of positive sums (Elhage et al. 2021). Beside it what the answer loses
  when the head that copies most is cut from the operands. Controls: shuffled digits, random directions.

A head's index means nothing beyond its own model: numbers speak of the best head of a block, against the best head of
the control; tables and figures speak of heads. Heads to cut are picked by their weights, not by what the cut does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kc_interp.circuits import head_weights as read
from kc_interp.circuits.attention import MEASURES, Estimates, Queries, Rows, percentile_interval
from kc_interp.errors import SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.probe import Subject
from kc_interp.statistics import finite
from kc_probes.ablation import bootstrap
from kc_probes.attention_measured import asked, measured_of

RAW, CUT = MEASURES.index("raw"), MEASURES.index("cut")
_OTHERS = "cutting as much attention to other sources, drawn at random"
_SAYS = {
    "qk.spread": ("how far scores differ between classes", "a head tells classes apart by its weights"),
    "qk.predicted": (
        "actual attention that class means predict",
        "which class is attended to follows from the classes and the weights alone",
    ),
    "qk.attended": (
        "attention of the head that prefers most to the class it prefers",
        "the preference of its weights is what the head does",
    ),
    "qk.cut": (
        "cutting the head that prefers most from the class it prefers",
        "the answer depends on what the head prefers",
    ),
    "ov.copying": ("digits that raise their own logit most", "a head copies what it attends to"),
    "ov.eigenvalues": (
        "eigenvalues of digit on digit, their sum over their size",
        "a head raises what it attends to, in more directions of the digits",
    ),
    "ov.cut": ("cutting the head that copies most from the operands", "the answer depends on what this head reads"),
}
"""Title and what a larger value would mean."""

_QUERIES = {"answer": "the answer", "value": "an intermediate result", "line": "a symbol of an intermediate line"}


@dataclass(frozen=True)
class HeadWeights:
    """Reads every head's QK and OV by class of token.

    `chains` test items of `component` (of the whole mixture when the task has no such component) give the means and the
    cuts; intervals are over `resamples` of them, controls over `draws` of random weights or labels.
    """

    component: str | None = "SUM"
    chains: int = 64
    resamples: int = 200
    draws: int = 200

    def __post_init__(self) -> None:
        if min(self.chains, self.resamples) < 2:
            raise SpecError("chains and resamples must each be at least 2 for an interval")
        if self.draws < 100:
            raise SpecError(f"draws is {self.draws}; at least 100 are needed for a 95 % point")

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when the task's symbols are of one class, or a chain begins with its answer."""
        chains, queries = asked(subject, "head-weights", self.component, self.chains)
        ids, spec = subject.ids(chains), subject.checkpoint.spec.model
        answer = _only(queries, queries.kinds["answer"])
        measured = measured_of(subject, "head-weights", Rows.of(subject.params, spec, ids), answer, ids)
        weights = bootstrap(len(chains), self.resamples, subject.rng("head-weights: resamples"))
        estimates = Estimates.of(measured, answer.chain, np.ones(len(answer.chain), dtype=bool), weights)
        readings = read.Readings.of(subject.params, spec, ids)
        found = [
            Block.of(subject, readings, index, queries, ids[0].cpu().numpy(), weights, self.draws)
            for index in range(spec.depth)
        ]
        numbers = tuple(number for block in found for number in block.numbers(estimates, queries.names, self.draws))
        return Finding(
            probe="head-weights",
            subject=subject.name,
            title="Heads by their weights: whom they prefer, and whether they copy",
            sentence=_sentence(subject, found, numbers, queries.names),
            status="unlearned" if subject.learned is False else "ok",
            numbers=numbers,
            tables=(_qk_table(found, estimates, queries.names), _ov_table(found)),
            figures=tuple(_figures(found, estimates, queries.names, self.draws)),
            settings=dataclasses.asdict(self),
        )


def _only(queries: Queries, which: np.ndarray) -> Queries:
    kinds = {kind: counted[which] for kind, counted in queries.kinds.items()}
    return Queries(queries.chain[which], queries.position[which], kinds, queries.sources[which], queries.names)


@dataclass(frozen=True)
class Block:
    """What the weights of one block's heads say; index 0 of every resample axis is the sample."""

    index: int
    chains: int
    preferences: read.Preferences
    others: dict[str, read.Preferences]
    """By kind of query, the answer's left out: of the sample alone."""

    spread_null: Float[np.ndarray, " draw"]
    digits: tuple[str, ...]
    added: Float[np.ndarray, "head digit digit"]
    copying: Float[np.ndarray, "resample head"]
    copying_null: Float[np.ndarray, " draw"]
    eigenvalues: Float[np.ndarray, "resample head"]
    eigenvalues_null: Float[np.ndarray, " draw"]
    by_class: tuple[tuple[str, int, np.ndarray, np.ndarray], ...]
    """Class of token, how many, and by head: the share that copies, and the eigenvalues' score."""

    @classmethod
    def of(
        cls,
        subject: Subject,
        readings: read.Readings,
        index: int,
        queries: Queries,
        ids: Int[np.ndarray, "chain pos"],
        weights: Float[np.ndarray, "resample chain"],
        draws: int,
    ) -> Block:
        params, spec = subject.params, subject.checkpoint.spec.model
        heads = read.Heads.of(params, spec, index)
        answer = _only(queries, queries.kinds["answer"])
        by_class = read.ByClass.of(readings.blocks[index], answer)
        rng = subject.rng(f"head-weights: random directions of block {index}")
        once = weights[:1]
        spread_null = [by_class.preferences(read.rotated(heads, rng), once).spread[0].max() for _ in range(draws)]
        others = {}
        for kind, counted in queries.kinds.items():
            if kind != "answer" and counted.any():
                some = read.ByClass.of(readings.blocks[index], _only(queries, counted))
                others[kind] = some.preferences(heads, np.ones((1, int(counted.sum()))))

        inverse = 1 / readings.scale[answer.chain, answer.position]
        unembedding = read.unembedding(params, spec, float(1 / inverse.mean()))
        classes = np.asarray(subject.tokens.classes, dtype=object)
        present = np.isin(np.arange(len(classes)), ids[np.arange(ids.shape[1]) <= answer.position[:, None]])

        def added(tokens: Int[np.ndarray, " token"], of: Float[np.ndarray, "resample chain"]) -> np.ndarray:
            means = read.token_means(readings.blocks[index], ids, answer.position, tokens, of)
            return read.centred(heads.adds(means, unembedding)[..., tokens])

        digits = np.flatnonzero(present & (classes == "digit"))
        of_digits = added(digits, weights) if len(digits) > 1 else np.zeros((len(weights), spec.n_heads, 2, 2))
        sample = of_digits[0]
        size = sample.shape[-1]
        shuffled = [_best(read.copying(sample, rng.permutation(size))) for _ in range(draws)]
        inner = read.core(sample)
        turned = [_best(read.positive_eigenvalues(inner @ read.rotation(size - 1, rng))) for _ in range(draws)]
        rows = []
        for name, which in (
            ("all", present),
            *((kind, present & (classes == kind)) for kind in dict.fromkeys(classes)),
        ):
            tokens = np.flatnonzero(which)
            if len(tokens) > 1:
                own = added(tokens, once)[0]
                rows.append((name, len(tokens), read.copying(own), read.positive_eigenvalues(read.core(own))))
        return cls(
            index,
            len(ids),
            by_class.preferences(heads, weights),
            others,
            np.asarray(spread_null),
            tuple(subject.tokens.symbols[token] for token in digits),
            sample,
            read.copying(of_digits),
            np.asarray(shuffled),
            read.positive_eigenvalues(read.core(of_digits)),
            np.asarray(turned),
            tuple(rows),
        )

    @property
    def prefers(self) -> tuple[int, int] | None:
        """The head whose scores differ most between classes, and the class that it prefers; None if none does."""
        spread = self.preferences.spread[0]
        if spread.max() < 1e-9:
            return None
        head = int(spread.argmax())
        return head, int(np.nanargmax(self.preferences.relative[0, head]))

    @property
    def copies(self) -> int | None:
        """The head that copies most digits; of several the one with the higher eigenvalues."""
        share, score = self.copying[0], np.nan_to_num(self.eigenvalues[0], nan=-1.0)
        if np.isnan(share).all():
            return None
        return int(np.argmax(np.nan_to_num(share, nan=-1.0) + 1e-3 * score))

    def numbers(self, estimates: Estimates, names: Sequence[str], draws: int) -> Iterator[Number]:
        """The same keys for every model of this depth."""
        cells = estimates.cells[:, :, :, self.index]
        yield from self._qk_numbers(cells, names, draws)
        yield from self._ov_numbers(cells, names, draws)

    def _qk_numbers(
        self, cells: Float[np.ndarray, "resample measure side head source"], names: Sequence[str], draws: int
    ) -> Iterator[Number]:
        yield self._number(
            "qk.spread",
            self.preferences.spread.max(axis=1),
            float(np.quantile(self.spread_null, 0.95)),
            f"95 % point of {draws} random directions of the same weights, the best head of each",
            "standard deviation over positions, in units of the score; the best head; query of the answer",
        )
        actual, uniform = cells[:, RAW, 0], self.preferences.often[:, None]
        yield self._number(
            "qk.predicted",
            np.minimum(self.preferences.shares, actual).sum(axis=-1).mean(axis=-1),
            float(np.minimum(uniform[0], actual[0]).sum(axis=-1).mean()),
            "uniform attention instead of the prediction",
            "overlap of shares by class, mean over heads; 1 is the same",
        )
        if self.prefers is None:
            for key in ("qk.attended", "qk.cut"):
                yield self._absent(key, "no head prefers any class")
            return
        head, source = self.prefers
        picked = f"head {head} and {names[source]}, picked by weights"
        attended, cut = (cells[:, measured, :, head, source] for measured in (RAW, CUT))
        yield self._number("qk.attended", attended[:, 0], float(attended[0, 1]), "uniform attention", picked)
        yield self._number("qk.cut", cut[:, 0], float(cut[0, 1]), _OTHERS, f"nats the answer loses; {picked}")

    def _ov_numbers(
        self, cells: Float[np.ndarray, "resample measure side head source"], names: Sequence[str], draws: int
    ) -> Iterator[Number]:
        if self.copies is None:
            why = "no head adds anything to the digits' logits by the direct path"
            if len(self.digits) < 2:
                why = f"{len(self.digits)} digits occur in these chains; two are needed"
            for key in ("ov.copying", "ov.eigenvalues", "ov.cut"):
                yield self._absent(key, why)
            return
        yield self._number(
            "ov.copying",
            _best(self.copying),
            float(np.quantile(self.copying_null, 0.95)),
            f"95 % point of {draws} shuffles of the digits, the best head of each",
            f"share of {len(self.digits)} digits, the best head; direct path to the logits",
        )
        yield self._number(
            "ov.eigenvalues",
            _best(self.eigenvalues),
            float(np.quantile(self.eigenvalues_null, 0.95)),
            f"95 % point of {draws} random directions of the same singular values, the best head of each",
            "the best head; 1 copies, -1 takes away",
        )
        if names[0] not in ("operands", "digits") or self.preferences.often[0, 0] == 0:
            yield self._absent("ov.cut", "no digits stand before the answer")
            return
        cut = cells[:, CUT, :, self.copies, 0]
        picked = f"head {self.copies} and {names[0]}, picked by weights"
        yield self._number("ov.cut", cut[:, 0], float(cut[0, 1]), _OTHERS, f"nats the answer loses; {picked}")

    def _number(
        self, key: str, values: Float[np.ndarray, " resample"], control: float, control_says: str, note: str
    ) -> Number:
        title, higher_means = _SAYS[key]
        low, high = percentile_interval(values[1:])
        return Number(
            f"block{self.index}.{key}",
            f"Block {self.index}: {title}",
            float(values[0]),
            low,
            high,
            n=self.chains,
            control=control,
            control_says=control_says,
            higher_means=higher_means,
            note=note,
        )

    def _absent(self, key: str, why: str) -> Number:
        return Number(f"block{self.index}.{key}", f"Block {self.index}: {_SAYS[key][0]}", None, note=why)


def _best(values: Float[np.ndarray, "*batch head"]) -> Float[np.ndarray, "*batch"]:
    """The largest over heads, of those that have a value; NaN if none has."""
    there = np.where(np.isnan(values), -np.inf, values).max(axis=-1)
    return np.asarray(np.where(np.isinf(there), np.nan, there))


def _sentence(subject: Subject, blocks: Sequence[Block], numbers: Sequence[Number], names: Sequence[str]) -> str:
    of = {number.key: number for number in numbers}
    says = []
    for block in blocks:
        spread, cut = of[f"block{block.index}.qk.spread"], of[f"block{block.index}.qk.cut"]
        if block.prefers is None or spread.value is None or spread.control is None or cut.value is None:
            says.append(f"In block {block.index} no head prefers any class where the answer is predicted.")
        else:
            head, source = block.prefers
            says.append(
                f"In block {block.index} the weights of head {head} prefer {names[source]} most where the answer is "
                f"predicted (scores differ by {spread.value:.1f}, {_beyond(spread)} the {spread.control:.1f} of random "
                f"directions); the head gives them {of[f'block{block.index}.qk.attended'].value:.0%} of its attention, "
                f"and the answer loses {cut.value:z.2f} nats when that is cut (as much of other sources "
                f"{cut.control:z.2f})."
            )
        copying, lost = of[f"block{block.index}.ov.copying"], of[f"block{block.index}.ov.cut"]
        if copying.value is None or copying.control is None:
            says.append(f"There {copying.note}.")
            continue
        without = "" if lost.value is None else f"; without its {names[0]} the answer loses {lost.value:z.2f} nats"
        says.append(
            f"There the head that copies most raises the attended digit itself for {copying.value:.0%} of the digits "
            f"({_beyond(copying)} the {copying.control:.0%} of shuffled digits){without}."
        )
    says.append(
        "Weights are read by the direct path and by class means: what depends on which digit stands where, and what "
        "later parts make of a head, is not in them. One checkpoint; a head's index means nothing in another one."
    )
    if subject.learned is False:
        says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
    return " ".join(says)


def _beyond(number: Number) -> str:
    return "more than" if (number.value or 0.0) > (number.control or 0.0) + 1e-9 else "no more than"


def _qk_table(blocks: Sequence[Block], estimates: Estimates, names: Sequence[str]) -> Table:
    """Every head, kind of query and class of source; what the model does is there for the answer alone."""
    rows: list[tuple[Cell, ...]] = []
    for block in blocks:
        for kind, found in {"answer": block.preferences, **block.others}.items():
            for head, source in np.ndindex(*found.scores.shape[1:]):
                if found.often[0, source] == 0:
                    continue
                done: tuple[Cell, ...] = (None, None, None)
                if kind == "answer":
                    own = estimates.cells[0, :, :, block.index, head, source]
                    done = (float(own[RAW, 0]), float(own[CUT, 0]), float(own[CUT, 1]))
                rows.append(
                    (
                        block.index, head, _QUERIES[kind], names[source], float(found.relative[0, head, source]),
                        float(found.shares[0, head, source]), float(found.often[0, source]), *done,
                    )
                )  # fmt: skip
    return Table(
        "QK by class: whom each head prefers, and what it does",
        (
            "block", "head", "query that writes", "sources", "score", "predicted share", "uniform", "actual share",
            "cut", "cut, other sources",
        ),
        tuple(rows),
        "Score: relative to its mean over positions; one more is e times the attention. Predicted: if all of one class "
        "scored alike. Cut: nats the answer loses without these entries of this head, beside as much attention to "
        "other sources. Actual shares and cuts are those of the answer's query.",
    )  # fmt: skip


def _ov_table(blocks: Sequence[Block]) -> Table:
    rows = tuple(
        (block.index, head, name, count, finite(copies[head]), finite(score[head]))
        for block in blocks
        for name, count, copies, score in block.by_class
        for head in range(len(copies))
    )
    return Table(
        "OV by class: does attending to a token raise its own logit?",
        ("block", "head", "tokens", "of them", "copied", "eigenvalues"),
        rows,
        "Copied: the share of these tokens that raise their own logit most, of these tokens' logits; by chance one in "
        "as many. Eigenvalues: their sum over the sum of their sizes. Empty: the head adds nothing to these logits by "
        "the direct path.",
    )


def _figures(blocks: Sequence[Block], estimates: Estimates, names: Sequence[str], draws: int) -> Iterator[Figure]:
    heads = range(blocks[0].copying.shape[1])
    labels = [f"block {block.index} head {head}" for block in blocks for head in heads]
    preferred = [[finite(cell) for cell in row] for block in blocks for row in block.preferences.relative[0]]
    highest = ", ".join(f"{np.quantile(block.spread_null, 0.95):.1f}" for block in blocks)
    yield Figure(
        "heatmap",
        "QK: whom each head prefers, where the answer is predicted",
        "The mean attention score of each class of source by weights and what is read, relative to its mean over "
        "positions; one more is e times the attention.",
        f"Rows whose spread is within that of random directions of the same weights ({highest} by block); or actual "
        "attention (below) that is not where the scores are.",
        {
            "x": list(names), "y": labels, "z": preferred, "zmid": 0.0,
            "x_title": "sources", "y_title": "", "z_title": "score",
        },
    )  # fmt: skip
    yield Figure(
        "heatmap",
        "Actual attention, where the answer is predicted",
        "The share of each head's attention by class of source: beside the scores above, what the head does.",
        "Shares as under uniform attention (in the table); or cuts (in the table) that cost the answer nothing.",
        {
            "x": list(names), "y": labels,
            "z": [row for block in blocks for row in estimates.cells[0, RAW, 0, block.index].tolist()], "zmid": None,
            "x_title": "sources", "y_title": "", "z_title": "share of the row",
        },
    )  # fmt: skip
    copying = [block for block in blocks if block.copies is not None]
    if not copying:
        return
    best = max(copying, key=lambda block: float(_best(block.copying[0])))
    assert best.copies is not None
    yield Figure(
        "heatmap",
        f"OV: what attending to a digit adds, block {best.index} head {best.copies}",
        "The head of all that copies most. Rows: the digit attended to; columns: the digit whose logit it adds to, by "
        "the direct path, beyond what any digit adds and beyond what it adds to all. A diagonal copies.",
        f"No diagonal; or one as good in shuffled digits ({np.quantile(best.copying_null, 0.95):.0%} of them, the best "
        f"head of each of {draws}).",
        {
            "x": list(best.digits), "y": list(best.digits), "z": best.added[best.copies].tolist(), "zmid": 0.0,
            "x_title": "logit", "y_title": "digit attended to", "z_title": "logit added",
        },
    )  # fmt: skip
