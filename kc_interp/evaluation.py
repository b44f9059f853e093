"""What one checkpoint can do: every definition of accuracy, on every set of items that a claim needs.

The sets: test items of the whole mixture and of each component alone (the same items for every model that shares the
split, whatever its mixture), items with a held-out step, and every single step of the task ("atoms"), the held-out
ones apart. Every accuracy has its Wilson interval and, beside it, what always giving the commonest answer would score.
The result is plain data: it is kept in the checkpoint.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from kc_interp import metrics
from kc_interp.checkpoint import Checkpoint
from kc_interp.data import Split, question_hashes
from kc_interp.errors import DataError
from kc_interp.metrics import DEFINITIONS, Items
from kc_interp.statistics import wilson
from kc_interp.tasks.task import Chains, Task

LEVEL = 0.9
"""From here on a component counts as learned."""

ITEMS = 1_000
_BIN = 10


def criterion(component: str | None) -> str:
    """*Learned* in words; the level is `LEVEL`."""
    of = f"test questions of {component} only" if component else "test questions of its task"
    return (
        f"{DEFINITIONS['exact'].says}, on {of}, none of which was trained on or holds a held-out step (free-running)."
    )


def evaluate(
    checkpoint: Checkpoint,
    *,
    items: int = ITEMS,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Metrics of a checkpoint as plain data: `sets` by name, `learned` by component, the criterion and its level.

    `items` questions are drawn for every set but the atoms, which are exhaustive. Raises DataError when there is none.
    """
    sets: dict[str, Any] = {}
    learned: dict[str, bool] = {}
    for asked in item_sets(checkpoint, items, seed):
        on_progress(asked.name)
        sets[asked.name] = _measure(checkpoint, asked)
        if asked.name.startswith("test: "):
            exact = sets[asked.name]["metrics"]["exact"]["value"]
            learned[asked.name.removeprefix("test: ")] = exact >= LEVEL
    if not learned:
        learned["mixture"] = sets["test"]["metrics"]["exact"]["value"] >= LEVEL
    return {
        "level": LEVEL,
        "criterion": criterion(None),
        "learned": learned,
        "sets": sets,
        "items": items,
        "seed": seed,
    }


@dataclass(frozen=True)
class ItemSet:
    """Distinct questions; `weights` counts how often each was drawn (there are few short ones, and they come often)."""

    name: str
    says: str
    task: Task
    chains: Chains
    weights: Int[np.ndarray, " item"]

    @classmethod
    def drawn(cls, name: str, says: str, task: Task, chains: Chains) -> ItemSet:
        """A sample, with its repetitions counted."""
        _, first, counts = np.unique(question_hashes(chains, 0), return_index=True, return_counts=True)
        order = np.argsort(first)
        return cls(name, says, task, chains.take(first[order]), counts[order])

    @classmethod
    def exhaustive(cls, name: str, says: str, task: Task, chains: Chains) -> ItemSet:
        """All there are, each once."""
        return cls(name, says, task, chains, np.ones(len(chains), dtype=np.int64))


def item_sets(checkpoint: Checkpoint, items: int, seed: int) -> Iterator[ItemSet]:
    """What a checkpoint is asked. The items of a component depend on the split and seed alone, not on the mixture."""
    task = checkpoint.task
    split = Split.of(task, checkpoint.spec.data)
    components = task.components()

    def rng(purpose: str) -> np.random.Generator:
        return np.random.default_rng([4, seed, checkpoint.spec.data.split_seed, zlib.crc32(purpose.encode())])

    chains = split.draw(task, items, rng("test"), test=True)
    yield ItemSet.drawn("test", "unseen questions of the whole mixture, seen steps", task, chains)
    for name, part in components.items():
        chains = split.draw(part, items, rng(f"test {name}"), test=True)
        yield ItemSet.drawn(f"test: {name}", f"unseen questions of {name} only, seen steps", part, chains)
    if len(split.orbits):
        for name, part in components.items() or [("mixture", task)]:
            try:
                chains = split.draw(part, items, rng(f"held-out {name}"), test=True, held_out=True)
            except DataError:
                continue  # this component has no step that is held out
            says = f"questions of {name} with a step never seen in any order"
            yield ItemSet.drawn(f"held-out: {name}", says, part, chains)
    for name, part in components.items() or [("mixture", task)]:
        seen, held = split.split_atoms(part)
        if len(seen):
            says = f"every single step of {name} that training may hold"
            yield ItemSet.exhaustive(f"atoms: {name}", says, part, seen)
        if len(held):
            says = f"every single step of {name} that training never holds"
            yield ItemSet.exhaustive(f"atoms held out: {name}", says, part, held)


def _measure(checkpoint: Checkpoint, asked: ItemSet) -> dict[str, Any]:
    task, chains, weights = asked.task, asked.chains, asked.weights
    items = Items.of(chains, checkpoint.tokens)
    params, spec = checkpoint.stacked, checkpoint.spec.model
    forced = metrics.forced(params, spec, [items])
    decoded = metrics.decode(params, spec, items)
    equals = checkpoint.tokens.classes.index("equals") if "equals" in checkpoint.tokens.classes else None
    separated = not any(used and kind == "separator" for used, kind in zip(task.used, task.classes, strict=True))
    found: dict[str, torch.Tensor] = {
        "exact": forced.exact[0],
        "exact_expected": forced.exact_expected[0],
        "final": metrics.final_answers(decoded, items) == items.targets,
        "answer": forced.answer[0],
        "answer_nats": forced.answer_nats[0],
        "answer_brier": forced.answer_brier[0],
        "chain_nats": forced.chain_nats[0],
    }
    if equals is not None:
        said = metrics.papers_answers(decoded, items, equals, separated_by_equals=separated)
        found["paper"] = said == items.targets
    exact = found["exact"].cpu().numpy()
    answers = chains.answer_symbols()
    groups = {**task.groups(chains), "length": _binned(chains.lengths)}
    return {
        "says": asked.says,
        "n": len(chains),
        "drawn": int(weights.sum()),
        "chance": _chance(answers, weights),
        "metrics": {
            name: {"mode": DEFINITIONS[name].mode, **_summary(found[name].cpu().numpy(), weights)}
            for name in DEFINITIONS
            if name in found
        },
        "by": {
            group: {
                str(label): {
                    **_summary(exact[rows], weights[rows]),
                    "chance": _chance(answers[rows], weights[rows]),
                }
                for label in sorted(set(labels.tolist()))
                for rows in [labels == label]
            }
            for group, labels in groups.items()
        },
    }


def _summary(values: np.ndarray, weights: Int[np.ndarray, " item"]) -> dict[str, float | int]:
    """Weighted mean with its 95 % interval: Wilson's for shares, normal for means of real numbers.

    `n` is the number of distinct items. The interval counts (Σw)² / Σw² of them (Kish 1965): an item that was drawn
    twice tells no more than once.
    """
    effective = float(weights.sum()) ** 2 / float(np.square(weights).sum())
    mean = float(np.average(values, weights=weights))
    if values.dtype == bool:
        low, high = wilson(mean * effective, effective)
    else:
        variance = float(np.average(np.square(values - mean), weights=weights))
        half = 1.96 * math.sqrt(variance / (effective - 1)) if effective > 1 else math.nan
        low, high = mean - half, mean + half
    return {"value": mean, "n": len(values), **({"low": low, "high": high} if math.isfinite(low) else {})}


def _chance(answers: np.ndarray, weights: Int[np.ndarray, " item"]) -> float:
    """The accuracy of always giving the commonest answer."""
    return float(np.bincount(answers, weights).max() / weights.sum())


def _binned(lengths: np.ndarray) -> np.ndarray:
    """Chain lengths in bins of ten symbols, as labels that sort by size."""
    low = lengths // _BIN * _BIN
    width = len(str(int(low.max(initial=0)) + _BIN - 1))
    return np.asarray([f"{a:0{width}d}-{a + _BIN - 1:0{width}d}" for a in low])


def learned(measured: Mapping[str, Any], component: str | None) -> bool | None:
    """Whether a component was learned (None: all of them); None if that was not measured."""
    verdicts: Mapping[str, bool] = measured.get("learned", {})
    if component is not None and component in verdicts:
        return verdicts[component]
    return all(verdicts.values()) if verdicts else None
