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
from jaxtyping import Bool

from kc_interp import metrics
from kc_interp.checkpoint import Checkpoint
from kc_interp.data import Split, question_hashes
from kc_interp.errors import DataError
from kc_interp.metrics import DEFINITIONS, Items
from kc_interp.statistics import wilson
from kc_interp.tasks.task import Chains, Task

LEVEL = 0.8
"""From here on a component counts as learned: four chains in five, each of some 25 symbols, without one mistake."""

ITEMS = 1_000
_BIN = 10


def criterion(component: str | None) -> str:
    """*Learned* in words; the level is `LEVEL`."""
    of = f"questions of {component} only" if component else "questions of its task"
    return (
        f"{DEFINITIONS['exact'].says}, on distinct test {of}, none of which was trained on or holds a held-out step "
        "(free-running)."
    )


def evaluate(
    checkpoint: Checkpoint,
    *,
    items: int = ITEMS,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Metrics of a checkpoint as plain data: `sets` by name, `learned` by component, the criterion and its level.

    `items` questions are drawn for every set but the atoms, which are exhaustive; repetitions are left out. Raises
    DataError when there is none.
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
    """Distinct questions under a name, with the task that works them out."""

    name: str
    says: str
    task: Task
    chains: Chains

    @classmethod
    def drawn(cls, name: str, says: str, task: Task, chains: Chains) -> ItemSet:
        """A sample without its repetitions: a hundred pairs hold five test items, and drawn often they would be all
        that a mean speaks of and tell no more than five."""
        _, first = np.unique(question_hashes(chains, 0), return_index=True)
        return cls(name, says, task, chains.take(np.sort(first)))


def item_sets(checkpoint: Checkpoint, items: int, seed: int) -> Iterator[ItemSet]:
    """What a checkpoint is asked. The items of a component depend on the split and seed alone, not on the mixture."""
    task = checkpoint.task
    split = Split.of(task, checkpoint.spec.data)
    components = task.components()

    def rng(purpose: str) -> np.random.Generator:
        return np.random.default_rng([4, seed, checkpoint.spec.data.split_seed, zlib.crc32(purpose.encode())])

    chains = split.draw(task, items, rng("test"), test=True)
    yield ItemSet.drawn("test", "distinct unseen questions of the whole mixture, seen steps", task, chains)
    for name, part in components.items():
        chains = split.draw(part, items, rng(f"test {name}"), test=True)
        yield ItemSet.drawn(f"test: {name}", f"distinct unseen questions of {name} only, seen steps", part, chains)
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
            yield ItemSet(f"atoms: {name}", says, part, seen)
        if len(held):
            says = f"every single step of {name} that training never holds"
            yield ItemSet(f"atoms held out: {name}", says, part, held)


def _measure(checkpoint: Checkpoint, asked: ItemSet) -> dict[str, Any]:
    task, chains = asked.task, asked.chains
    items = Items.of(chains, checkpoint.tokens)
    params, spec = checkpoint.stacked, checkpoint.spec.model
    forced = metrics.forced(params, spec, [items])
    found: dict[str, torch.Tensor] = {
        "exact": forced.exact[0],
        "exact_expected": forced.exact_expected[0],
        "answer": forced.answer[0],
        "answer_nats": forced.answer_nats[0],
        "answer_brier": forced.answer_brier[0],
        "chain_nats": forced.chain_nats[0],
    }
    found |= _lenient(checkpoint, task, items, found["exact"].cpu())
    exact = found["exact"].cpu().numpy()
    answers = chains.answer_symbols()
    groups = {**task.groups(chains), "length": _binned(chains.lengths)}
    return {
        "says": asked.says,
        "n": len(chains),
        "chance": chance(answers),
        "metrics": {
            name: {"mode": DEFINITIONS[name].mode, **summary(found[name].cpu().numpy())}
            for name in DEFINITIONS
            if name in found
        },
        "by": {
            group: {
                str(label): {
                    **summary(exact[rows]),
                    "chance": chance(answers[rows]),
                }
                for label in sorted(set(labels.tolist()))
                for rows in [labels == label]
            }
            for group, labels in groups.items()
        },
    }


def _lenient(
    checkpoint: Checkpoint, task: Task, items: Items, exact: Bool[torch.Tensor, " item"]
) -> dict[str, Bool[torch.Tensor, " item"]]:
    """The metrics that look at what was written: only chains that are not exact need to be decoded."""
    failed = torch.nonzero(~exact)[:, 0]
    found = {"final": exact.clone()}
    if "equals" in checkpoint.tokens.classes:
        found["paper"] = exact.clone()
    if not len(failed):
        return found
    rest = items.take(failed)
    decoded = metrics.decode(checkpoint.stacked, checkpoint.spec.model, rest)
    found["final"][failed] = metrics.final_answers(decoded, rest) == rest.targets
    if "paper" in found:
        separated = not any(used and kind == "separator" for used, kind in zip(task.used, task.classes, strict=True))
        equals = checkpoint.tokens.classes.index("equals")
        said = metrics.papers_answers(decoded, rest, equals, separated_by_equals=separated)
        found["paper"][failed] = said == rest.targets
    return found


def summary(values: np.ndarray) -> dict[str, float | int]:
    """Mean with its 95 % interval: Wilson's for shares, normal for means of real numbers."""
    n = len(values)
    mean = float(values.mean())
    if values.dtype == bool:
        low, high = wilson(int(values.sum()), n)
    else:
        half = 1.96 * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        low, high = mean - half, mean + half
    return {"value": mean, "n": n, **({"low": low, "high": high} if math.isfinite(low) else {})}


def chance(answers: np.ndarray) -> float:
    """The accuracy of always giving the commonest answer."""
    return float(np.unique(answers, return_counts=True)[1].max() / len(answers))


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
