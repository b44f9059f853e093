"""Activation patching: which activations carry the difference between two questions to the answer?

Pairs of chains share the class of every token, line by line, and differ at declared positions: one symbol of the
question, what follows from it in later lines, and the answer. Denoising runs the corrupted chain and restores one
activation from the clean one; noising does the reverse. The effect is the share of the clean-minus-corrupted logit
difference that the patch restores (denoising) or destroys (noising), a ratio of means over pairs: Vig et al. 2020;
Meng et al. 2022; Heimersheim and Nanda 2024, "How to use and interpret activation patching".

The final answer is read from a chain whose last line already holds the partial results, so patching a whole
consistent chain cannot say whether the model looks at that line or at the question. `chain reliance` can: it makes one
line inconsistent with the rest and asks which of the two the answer follows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import forward
from kc_interp.model.patch import Run, Site, patch
from kc_interp.probe import Subject
from kc_interp.statistics import wilson
from kc_interp.tasks.task import Chains
from kc_interp.tokens import lines

_STREAM: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out")
_NAMES: dict[Site, str] = {
    "resid_pre": "residual stream into",
    "resid_mid": "residual stream inside",
    "attn_out": "attention of",
    "mlp_out": "MLP of",
    "z": "head of",
}
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Pairs:
    """Clean chains and their twins, of one template: equal lengths, equal classes, different at the same positions."""

    kind: str
    clean: Chains
    twin: Chains
    differs: tuple[int, ...]

    @property
    def query(self) -> int:
        """The position whose next token is the answer."""
        return int(self.clean.answers[0]) - 1


@dataclass(frozen=True)
class Effects:
    """Of one kind of pair: the effect of every patch with its 95 % interval over pairs (bootstrap), and the control.

    Arrays are `layer head pos`. The control patches from another pair's run (a derangement), which cannot restore this
    pair's answer except by chance.
    """

    value: Float[np.ndarray, "layer head pos"]
    low: Float[np.ndarray, "layer head pos"]
    high: Float[np.ndarray, "layer head pos"]
    control: Float[np.ndarray, "layer head pos"]


@dataclass(frozen=True)
class ActivationPatching:
    """Patch the residual stream, attention and MLP outputs and each head, by layer and position, both ways.

    `pairs` chains of `steps` reductions of `component` (the whole mixture when the task has no such component) are
    drawn for each of `experiments` sets of differing positions per kind of change the task offers.
    """

    component: str | None = "SUM"
    pairs: int = 64
    steps: int = 2
    experiments: int = 2

    def run(self, subject: Subject) -> Finding:
        """`control` of every number is the same patch taken from another pair's run."""
        sets = [found for kind in subject.task.counterfactuals for found in self._pairs(subject, kind)]
        if not sets:
            raise ProbeError(
                f"{subject.name}: no {self.pairs} pairs of one template among its test items; lower `pairs`, or change `steps`"
            )
        numbers: list[Number] = []
        tables: list[Table] = []
        figures: list[Figure] = []
        for index, pairs in enumerate(sets):
            label = f"{pairs.kind} {1 + sum(other.kind == pairs.kind for other in sets[:index])}"
            self._one_set(subject, pairs, label, numbers, tables, figures)
        reliance, reliance_table = self._reliance(subject, sets)
        return Finding(
            probe="activation-patching",
            subject=subject.name,
            title="Activation patching: what carries the difference to the answer",
            sentence=self._sentence(subject, sets, numbers, reliance),
            status="unlearned" if subject.learned is False else "ok",
            numbers=(*reliance, *numbers),
            tables=(reliance_table, *tables),
            figures=tuple(figures),
        )

    def _pairs(self, subject: Subject, kind: str) -> list[Pairs]:
        """The most frequent sets of differing positions among twins of the most frequent template."""
        task = subject.task
        component = self.component if self.component in task.components() else None
        if kind == "operation" and component is not None:
            component = None  # a single operation has no other to be changed into
        drawn = subject.items(60 * self.pairs, f"activation-patching {kind}", component)
        steps = (subject.task.orbits(drawn) >= 0).sum(axis=1)
        drawn = drawn.take(np.flatnonzero(steps == min(self.steps, steps.max())))
        template = Counter(map(tuple, _classes(subject, drawn))).most_common(1)[0][0]
        drawn = drawn.take(np.flatnonzero((_classes(subject, drawn) == np.asarray(template)).all(axis=1)))
        source = task if component is None else task.components()[component]
        twins = source.counterfactual(drawn, kind, subject.rng(f"activation-patching {kind} twins"))
        places = [tuple(np.flatnonzero(row)) for row in drawn.symbols != twins.symbols]
        found = []
        for differs, count in Counter(places).most_common(self.experiments):
            if count >= self.pairs:
                rows = np.asarray([i for i, place in enumerate(places) if place == differs])[: self.pairs]
                found.append(Pairs(kind, drawn.take(rows), twins.take(rows), differs))
        return found

    def _one_set(
        self,
        subject: Subject,
        pairs: Pairs,
        label: str,
        numbers: list[Number],
        tables: list[Table],
        figures: list[Figure],
    ) -> None:
        """Add what one set of pairs says: summary numbers, heatmaps both ways, a table of heads."""
        tokens = _token_labels(subject, pairs)
        line = lines(subject.task, pairs.clean)[0]
        runs = {
            name: Run.of(subject.params, subject.checkpoint.spec.model, _inputs(subject, chains, pairs.query))
            for name, chains in (("clean", pairs.clean), ("corrupted", pairs.twin))
        }
        answers = {
            "clean": torch.from_numpy(subject.tokens.encode(pairs.clean.answer_symbols())),
            "corrupted": torch.from_numpy(subject.tokens.encode(pairs.twin.answer_symbols())),
        }
        spread = _difference(runs["clean"].logits, answers) - _difference(runs["corrupted"].logits, answers)
        weights = _bootstrap(len(pairs.clean), subject.rng("activation-patching bootstrap"))
        low = np.quantile(weights @ spread, 0.025)
        question = [p for p in pairs.differs if line[p] == 0]
        last = [p for p in pairs.differs if line[p] == line[pairs.query] - 1]
        where = {
            "changed symbol in the question": question,
            "changed symbol in the last line": last,
            "answer query": [pairs.query],
        }
        if low <= 0:
            numbers.append(
                Number(
                    f"{label}.effect",
                    f"{label}: all effects",
                    None,
                    n=len(pairs.clean),
                    note=(
                        "refused: over these pairs the model's logit difference between the two answers does not exceed 0 "
                        f"(95 % interval from {low:.2f})"
                    ),
                )
            )
            return
        for direction in ("denoising", "noising"):
            grid: dict[Site, Effects] = {
                site: _effects(runs, answers, site, direction, weights) for site in (*_STREAM, "z")
            }
            for site in _STREAM:
                for index in range(subject.checkpoint.spec.model.depth):
                    for place, positions in where.items():
                        numbers.extend(
                            _number(grid[site], label, direction, site, index, place, p, len(pairs.clean))
                            for p in positions[:1]
                        )
            figures.append(_heatmap(grid, tokens, pairs, label, direction))
            tables.append(_heads_table(grid["z"], tokens, label, direction))
        figures.append(_heads_figure(grid["z"], tokens, label))

    def _reliance(self, subject: Subject, sets: list[Pairs]) -> tuple[list[Number], Table]:
        """Which line the answer follows when the last line of the clean chain is replaced by its twin's."""
        usable = [pairs for pairs in sets if pairs.kind == "operand" and lines(subject.task, pairs.clean).max() >= 2]
        rows: list[tuple[Cell, ...]] = []
        totals: Counter[str] = Counter()
        for pairs in usable:
            line = lines(subject.task, pairs.clean)[0]
            final = line[pairs.query] - 1 if line[pairs.query] > 0 else 0
            kept = np.arange(pairs.clean.symbols.shape[1])
            for changed, name in (
                (line == final, "last line"),
                ((line < final) & (kept < pairs.query), "all before the last line"),
            ):
                mixed = np.where(changed, pairs.twin.symbols, pairs.clean.symbols)
                said = self._answers(subject, mixed, pairs.query)
                clean = subject.tokens.encode(pairs.clean.answer_symbols())
                twin = subject.tokens.encode(pairs.twin.answer_symbols())
                by_last = twin if name == "last line" else clean
                by_earlier = clean if name == "last line" else twin
                counts = {
                    "last line": int((said == by_last).sum()),
                    "earlier lines": int((said == by_earlier).sum()),
                    "neither": int(((said != by_last) & (said != by_earlier)).sum()),
                }
                totals.update(counts)
                example = subject.task.format(
                    Chains(mixed[:1], pairs.clean.lengths[:1], pairs.clean.prompts[:1], pairs.clean.answers[:1])
                )[0]
                rows.append((name, example, counts["last line"], counts["earlier lines"], counts["neither"], len(said)))
        table = Table(
            "Chain reliance: one part of the chain is made inconsistent; whose answer does the model give?",
            (
                "inconsistent part",
                "example (answer as if nothing had changed)",
                "answer of the last line",
                "answer of the earlier lines",
                "neither",
                "pairs",
            ),
            tuple(rows),
            "" if rows else "no set of pairs here has an intermediate line",
        )
        if not rows:
            return [], table
        n = sum(totals.values())
        chance = 1 / max(sum(kind == "digit" for kind in subject.tokens.classes), 1)
        numbers = []
        for key, title in (
            ("last line", "answers that follow the last line"),
            ("earlier lines", "answers that follow the earlier lines"),
        ):
            low, high = wilson(totals[key], n)
            numbers.append(
                Number(
                    f"chain.{key.replace(' ', '-')}",
                    f"Chain reliance: {title}",
                    totals[key] / n,
                    low,
                    high,
                    n,
                    "input",
                    control=chance,
                    control_says="a guess among the digits",
                    higher_means="the answer is read from the " + key,
                )
            )
        return numbers, table

    @staticmethod
    @torch.no_grad()
    def _answers(subject: Subject, symbols: Int[np.ndarray, "example pos"], query: int) -> Int[np.ndarray, " example"]:
        """The token the model gives after position `query`."""
        ids = torch.from_numpy(subject.tokens.encode(symbols[:, : query + 1]))[None].to(subject.checkpoint.device)
        return forward(subject.params, subject.checkpoint.spec.model, ids)[0, :, -1].argmax(-1).cpu().numpy()

    def _sentence(self, subject: Subject, sets: list[Pairs], numbers: list[Number], reliance: list[Number]) -> str:
        says = [f"{len(sets)} sets of {len(sets[0].clean)} pairs, alike in the class of every token."]
        if reliance:
            last, earlier = reliance
            says.append(
                f"With one part of the chain made inconsistent, {last.value:.0%} of the answers follow the last line "
                f"(95 % interval {last.low:.0%} to {last.high:.0%}) and {earlier.value:.0%} the earlier ones."
            )
        refused = sum(number.value is None for number in numbers)
        if refused:
            says.append(
                f"For {refused} of the sets effects are refused: the model does not tell the two answers apart."
            )
        says.append(
            "A large effect says that the activation carries the difference between these two chains; it does not say "
            "what is computed from it, nor that other questions use the same path."
        )
        if subject.learned is False:
            says.append("The model has not learned its task, so nothing here describes a working algorithm.")
        return " ".join(says)


def _classes(subject: Subject, chains: Chains) -> np.ndarray:
    """The class of every position as an integer, so that equal rows are equal templates."""
    kinds = sorted(set(subject.task.classes))
    return np.asarray([kinds.index(kind) for kind in subject.task.classes])[chains.symbols]


def _inputs(subject: Subject, chains: Chains, query: int) -> Int[Tensor, "batch pos"]:
    return subject.ids(chains)[0, :, : query + 1]


def _token_labels(subject: Subject, pairs: Pairs) -> list[str]:
    """The first clean chain, symbol by symbol up to the query; what differs in its twin stands behind a slash."""
    symbols = subject.task.symbols
    clean, twin = pairs.clean.symbols[0], pairs.twin.symbols[0]
    return [
        symbols[clean[p]] if p not in pairs.differs else f"{symbols[clean[p]]}/{symbols[twin[p]]}"
        for p in range(pairs.query + 1)
    ]


def _difference(logits: Tensor, answers: dict[str, Tensor]) -> Float[np.ndarray, "*patch batch"]:
    """Logit of the clean answer minus that of the corrupted one, for each pair (the last axis but one is the batch)."""
    shape = (*logits.shape[:-1], 1)
    clean, corrupted = (answers[name].to(logits.device)[:, None].expand(shape) for name in ("clean", "corrupted"))
    return (logits.gather(-1, clean) - logits.gather(-1, corrupted))[..., 0].double().cpu().numpy()


def _bootstrap(count: int, rng: np.random.Generator) -> Float[np.ndarray, "resample pair"]:
    """Rows of weights that turn values per pair into means of resampled pairs."""
    return rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count


def _effects(
    runs: dict[str, Run],
    answers: dict[str, Tensor],
    site: Site,
    direction: str,
    weights: Float[np.ndarray, "resample pair"],
) -> Effects:
    """Restored (denoising) or destroyed (noising) share of the logit difference, a ratio of means over pairs."""
    base, source = (
        (runs["corrupted"], runs["clean"]) if direction == "denoising" else (runs["clean"], runs["corrupted"])
    )
    untouched = _difference(base.logits, answers)
    whole = _difference(source.logits, answers) - untouched
    deranged = Run(
        source.params,
        source.spec,
        {key: value.roll(1, dims=1) for key, value in source.cache.items()},
        source.logits.roll(1, 0),
    )
    moved = _difference(patch(base, source, site), answers) - untouched
    control = _difference(patch(base, deranged, site), answers) - untouched
    resampled = np.einsum("lhpb,rb->rlhp", moved, weights) / (weights @ whole)[:, None, None, None]
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return Effects(moved.mean(-1) / whole.mean(), low, high, control.mean(-1) / whole.mean())


def _number(
    effects: Effects, label: str, direction: str, site: Site, index: int, place: str, position: int, count: int
) -> Number:
    at = (index, 0, position)
    return Number(
        key=f"{label}.{direction}.{site}.block{index}.{place}".replace(" ", "-"),
        title=f"{label}, {direction}: {_NAMES[site]} block {index} at the {place}",
        value=float(effects.value[at]),
        low=float(effects.low[at]),
        high=float(effects.high[at]),
        n=count,
        unit="input",
        control=float(effects.control[at]),
        control_says="the same patch from another pair",
        higher_means="this activation carries more of the difference to the answer",
    )


def _heatmap(grid: dict[Site, Effects], tokens: list[str], pairs: Pairs, label: str, direction: str) -> Figure:
    rows = [
        (f"{_NAMES[site]} block {index}", grid[site].value[index, 0])
        for index in range(len(grid["resid_pre"].value))
        for site in _STREAM
    ]
    verb = "restores" if direction == "denoising" else "destroys"
    return Figure(
        kind="heatmap",
        title=f"{direction.capitalize()}, {label}: one {pairs.kind} of the question changed",
        shows=(
            f"How much of the answer's logit difference each single activation {verb} when it is taken from the "
            f"{'clean' if direction == 'denoising' else 'corrupted'} chain. Columns are positions (shown for one pair; "
            "a/b marks what differs), up to the one that predicts the answer."
        ),
        refuted_by="Effects as large when the activation comes from another pair (the control in the numbers).",
        data={
            "x": [f"{position} {token}" for position, token in enumerate(tokens)],
            "y": [name for name, _ in rows],
            "z": [values.tolist() for _, values in rows],
            "zmid": 0.0,
            "x_title": "position and token",
            "y_title": "",
            "z_title": "share of the logit difference",
        },
    )


def _heads_figure(effects: Effects, tokens: list[str], label: str) -> Figure:
    layers, heads, _ = effects.value.shape
    return Figure(
        kind="heatmap",
        title=f"Noising, {label}: each head by position",
        shows="How much of the logit difference is destroyed when one head's output at one position comes from the corrupted chain.",
        refuted_by="No head above the control, or the same effect when the head is patched from another pair.",
        data={
            "x": [f"{position} {token}" for position, token in enumerate(tokens)],
            "y": [f"block {layer} head {head}" for layer in range(layers) for head in range(heads)],
            "z": effects.value.reshape(layers * heads, -1).tolist(),
            "zmid": 0.0,
            "x_title": "position and token",
            "y_title": "",
            "z_title": "share of the logit difference",
        },
    )


def _heads_table(effects: Effects, tokens: list[str], label: str, direction: str) -> Table:
    """The ten largest effects of single heads."""
    order = np.argsort(-np.abs(effects.value).ravel(), kind="stable")[:10]
    rows: list[tuple[Cell, ...]] = []
    for flat in order:
        layer, head, position = np.unravel_index(flat, effects.value.shape)
        at = (layer, head, position)
        rows.append(
            (
                int(layer),
                int(head),
                f"{position} {tokens[position]}",
                *(round(float(part[at]), 4) for part in (effects.value, effects.low, effects.high, effects.control)),
            )
        )
    return Table(
        f"{direction.capitalize()}, {label}: the ten heads with the largest effect",
        ("block", "head", "position", "effect", "low", "high", "control: other pair"),
        tuple(rows),
        "Chosen for their size, so read them as candidates; the intervals do not account for the choice.",
    )


__all__ = ["ActivationPatching", "Effects", "Pairs"]
