"""A checkpoint in words and numbers: its task, its size, how it was trained, what it learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kc_interp.finding import Cell, Figure, Table
from kc_interp.report.printed import percent, verdict

if TYPE_CHECKING:
    from kc_interp.checkpoint import Checkpoint
    from kc_interp.tasks.task import Task

UNMEASURED = "Not evaluated: checkpoint.with_metrics(kc_interp.evaluation.evaluate(checkpoint)) measures it."
_WORKED = 64
"""Chains drawn to show the longest of."""

_METRICS = ("exact", "answer")


@dataclass(frozen=True)
class Described:
    """What a reader is told of a checkpoint. `measured` and `curve` are None where it holds no such numbers."""

    title: str
    says: str
    example: str
    rows: tuple[tuple[str, str], ...]
    measured: Table | None
    curve: Figure | None


def described(checkpoint: Checkpoint) -> Described:
    """Read from its settings, its task and what it carries; nothing is run, and no weight is looked at."""
    task, components = checkpoint.task, list(checkpoint.task.components())
    trained = "+".join(components) if components else checkpoint.spec.task.name
    return Described(
        f"A model of {trained}",
        getattr(task, "says", None) or next(iter((type(task).__doc__ or "").strip().splitlines()), ""),
        _worked(task),
        tuple(_rows(checkpoint, components)),
        _measured(checkpoint.metrics) if checkpoint.metrics.get("sets") else None,
        _curve(checkpoint.training.get("curve") or ()),
    )


def _worked(task: Task) -> str:
    """The longest of some chains of the task, the same each time."""
    chains = task.sample(_WORKED, np.random.default_rng(0))
    longest = int(chains.lengths.argmax())
    return task.format(chains.take(slice(longest, longest + 1)))[0]


def _rows(checkpoint: Checkpoint, components: list[str]) -> Iterator[tuple[str, str]]:
    spec, model, train = checkpoint.spec, checkpoint.spec.model, checkpoint.spec.train
    if components:
        yield "operations", ", ".join(components)
    stack = f"{model.n_layers} block{'s' if model.n_layers > 1 else ''}"
    tied = f", applied {model.repeat} times" if model.repeat > 1 else ""
    heads = f"{model.n_heads} head{'s' if model.n_heads > 1 else ''} of {model.head_size}"
    yield (
        "size",
        f"d_model {model.d_model}, {stack}{tied}, {heads}, MLP {model.mlp_size} ({model.act}, norm {model.norm})",
    )
    yield "parameters", f"{checkpoint.parameter_count:,}"
    yield "vocabulary and context", f"{len(checkpoint.tokens)} tokens, {checkpoint.n_ctx} positions"
    yield "initialisation", f"{model.init} (standard deviation {model.init_std:.3g})"
    done = checkpoint.training.get("steps")
    steps = f"{train.steps:,}" if done in (None, train.steps) else f"{done:,} of {train.steps:,}"
    yield "steps", f"{steps} of {train.batch_size} chains, from {spec.data.n_train:,} drawn"
    yield "learning rate", f"{train.lr:g}, {train.schedule}"
    yield "seed", f"{spec.seed} (split {spec.data.split_seed})"
    if checkpoint.path is not None:
        # The folder tells runs apart, the rest of the path is of one machine alone.
        path = checkpoint.path
        yield "file", f"{path.parent.name}/{path.name}" if path.name == "model.safetensors" else path.name


def _measured(metrics: Mapping[str, Any]) -> Table:
    """Every set of items with its share of exact chains, its interval, and what the commonest answer would score."""
    rows: list[tuple[Cell, ...]] = []
    for name, found in sorted(metrics["sets"].items(), key=_place):
        if name == "test" and len(metrics["learned"]) == 1 and len(metrics["sets"]) > 1:
            continue  # of one part the whole mixture is the same again
        exact, answer = (found["metrics"].get(metric, {}) for metric in _METRICS)
        part = name.removeprefix("test: ") if name.startswith("test: ") else None
        learned = metrics["learned"].get(part) if part else None
        rows.append(
            (str(found["says"]), *_share(exact), _share(answer)[0], percent(found["chance"]), found["n"],
             "" if learned is None else verdict(learned))
        )  # fmt: skip
    return Table(
        "What it learned",
        ("questions", "exact chain", "95 % interval", "answer, helped", "commonest answer", "n", ""),
        tuple(rows),
        f"Exact chain: {metrics['criterion']} Learned from {percent(metrics['level'])} on. Answer, helped: given the "
        "correct chain up to it. Commonest answer: what always giving it would score.",
    )


def _place(item: tuple[str, Any]) -> tuple[int, str]:
    """Tests first, then what was held out, then single steps; a file has them by the alphabet."""
    kinds = ("test", "held-out", "atoms", "atoms held out")
    kind = item[0].partition(":")[0]
    return (kinds.index(kind) if kind in kinds else len(kinds), item[0])


def _share(found: Mapping[str, Any]) -> tuple[str, str]:
    bounds = [found.get(name) for name in ("low", "high")]
    interval = "" if None in bounds else f"[{percent(bounds[0])},\u00a0{percent(bounds[1])}]"
    return percent(found.get("value")), interval


def _curve(points: Any) -> Figure | None:
    """Accuracy over training steps, of the mixture and of each part."""
    names = [name for name in (points[0] if points else {}) if name not in ("step", "loss_nats")]
    if len(points) < 2 or not names:
        return None
    series = [{"name": name, "x": [p["step"] for p in points], "y": [p.get(name) for p in points]} for name in names]
    return Figure(
        "lines",
        "While it was trained",
        "The share of test chains whose every symbol is right, given the correct symbols before it.",
        "",
        {"series": series, "x_title": "training step", "y_title": "exact chains"},
    )
