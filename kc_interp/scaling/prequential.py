"""Prequential description length: how many bits it takes to send a task's chains to someone who learns as they come.

Blier & Ollivier 2018 (https://arxiv.org/abs/1802.07044): examples are sent in blocks, the first by a uniform code over
the vocabulary, each later one by a model that was trained on those before it. Sent is the chain after each question, up
to the end symbol; questions are known to both sides. A task that is learned from few examples has a short code,
whatever the size of the model. It is no property of the task alone: another learner has another code.

The learner is always the same small transformer. It has a model of each prefix, as many independent draws as the prefix
has examples; since examples are drawn independently, the expected length is that of one stream. Models of few examples
overfit as training goes on, so a block may be sent by the model at any of a few steps, or uniformly, whichever is
shortest: saying which costs the logarithm of their number. Seeds are the units of the interval.

The learning curves of a study give no such length: their batches are drawn with replacement from a sample that is read
many times over, so that a loss there is not one on examples that were not seen before.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from kc_interp import metrics, plugins
from kc_interp.complexity.data import mean_and_interval
from kc_interp.complexity.measure import PREQUENTIAL, Measure
from kc_interp.data import Split
from kc_interp.errors import DataError, SpecError
from kc_interp.files import write_atomically
from kc_interp.model.device import tune_for_training
from kc_interp.records import canonical
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec, from_plain, to_plain
from kc_interp.tokens import Tokens
from kc_interp.train import Ensemble, provenance

_SCHEMA = 1


@dataclass(frozen=True)
class Learner:
    """Who learns, from how much: `first` examples are sent uniformly, then `models` blocks that each double the stream.

    `asked_after` are the shares of the training after which a model may send its block; `items` fresh examples tell its
    loss. With the defaults a task takes about two minutes of one CPU core.
    """

    first: int = 128
    models: int = 5
    seeds: int = 5
    items: int = 512
    asked_after: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    model: ModelSpec = field(default_factory=lambda: ModelSpec(d_model=32))
    train: TrainSpec = field(default_factory=lambda: TrainSpec(steps=800, batch_size=32, lr=4e-3, loss="completion"))

    def __post_init__(self) -> None:
        if min(self.first, self.models, self.items) < 1:
            raise SpecError(f"first is {self.first}, models {self.models}, items {self.items}; each must be at least 1")
        if self.seeds < 2:
            raise SpecError(f"seeds is {self.seeds}; an interval needs at least 2 learners")
        if not self.asked_after or not all(0 < share <= 1 for share in self.asked_after):
            raise SpecError(
                f"asked_after is {list(self.asked_after)}; give shares of the training, above 0 and up to 1"
            )
        if self.train.loss != "completion":
            raise SpecError(f"loss is {self.train.loss!r}; sent are completions, so train on 'completion'")

    @property
    def sizes(self) -> tuple[int, ...]:
        """On how many examples each model is trained; its block has as many."""
        return tuple(self.first * 2**index for index in range(self.models))

    @property
    def examples(self) -> int:
        """How many examples are sent in all."""
        return self.first + sum(self.sizes)

    @property
    def asked_at(self) -> tuple[int, ...]:
        """The steps after which a model may send its block."""
        return tuple(sorted({max(1, round(share * self.train.steps)) for share in self.asked_after}))


def code_bits(first_bits: float, blocks: Sequence[Sequence[float]]) -> float:
    """The length in bits of the whole code. A block's entries are its length by each code that both sides know.

    The shortest is used, and named: log2 of their number. A length that is no number (of a model that diverged) is
    never the shortest. Raises DataError for a block without any.

    >>> code_bits(9.0, [[8.0, 4.0], [2.0, 16.0]])
    17.0
    """
    total = first_bits
    for index, lengths in enumerate(blocks, start=2):
        finite = [length for length in lengths if math.isfinite(length)]
        if not finite:
            raise DataError(f"block {index} has no code of finite length; give the uniform one beside the models'")
        total += min(finite) + math.log2(len(lengths))
    return total


def description_lengths(
    task: TaskSpec, learner: Learner | None = None, *, on_progress: Callable[[float], None] = lambda share: None
) -> Float[np.ndarray, " seed"]:
    """Bits an example of each seed's code. Raises SpecError, DataError and PluginError before the first step."""
    learner = learner or Learner()
    data = DataSpec(holdout_pairs=0, holdout_triples=0)
    seeds, sizes = range(learner.seeds), learner.sizes
    specs = [
        RunSpec(task, dataclasses.replace(data, n_train=size), learner.model, learner.train, seed)
        for seed in seeds
        for size in sizes
    ]
    made = plugins.make_task(task)
    tokens, split = Tokens.of(made, data.vocabulary), Split.of(made, data)
    fresh = [
        metrics.Items.of(split.draw(made, learner.items, np.random.default_rng([5, seed]), test=False), tokens)
        for seed in seeds
    ]
    uniform = [float((one.lengths - one.prompts).double().mean()) * math.log2(len(tokens)) for one in fresh]
    tune_for_training()
    ensemble = Ensemble(specs)
    found = []
    for step in range(1, learner.train.steps + 1):
        ensemble.step()
        if step in learner.asked_at:
            found.append(np.stack([_bits(ensemble, fresh[seed], seed * len(sizes), len(sizes)) for seed in seeds]))
        on_progress(step / learner.train.steps)
    bits = np.stack(found)  # an example, by step asked, seed and size
    totals = [
        code_bits(
            learner.first * uniform[seed],
            [[size * each for each in (uniform[seed], *bits[:, seed, index])] for index, size in enumerate(sizes)],
        )
        for seed in seeds
    ]
    return np.asarray(totals) / learner.examples


def _bits(ensemble: Ensemble, items: metrics.Items, first: int, count: int) -> Float[np.ndarray, " member"]:
    """Mean bits of a chain under each of some members. All members at once would need gigabytes."""
    params = {name: value.detach()[first : first + count] for name, value in ensemble.params.items()}
    nats = metrics.forced(params, ensemble.model, [items] * count).chain_nats.double().mean(1)
    return nats.numpy() / math.log(2)


def measure(
    task: TaskSpec, learner: Learner | None = None, *, on_progress: Callable[[float], None] = lambda share: None
) -> Measure:
    """The mean over seeds with its 95 % interval. The same values wherever the same training gives the same weights."""
    learner = learner or Learner()
    bits = description_lengths(task, learner, on_progress=on_progress)
    return _measure(learner, *mean_and_interval(bits.tolist()))


def _measure(learner: Learner, value: float, low: float, high: float) -> Measure:
    model, train = learner.model, learner.train
    return Measure(
        key=PREQUENTIAL,
        title="chains given questions, prequential",
        value=value,
        unit="bits/example",
        family="data",
        definition=f"{learner.examples:,} chains sent to a transformer that learns from them in blocks (d_model "
        f"{model.d_model}, {model.depth} layers, {train.steps:,} steps of {train.batch_size} chains; Blier & Ollivier "
        f"2018), the questions known; mean of {learner.seeds} seeds with a 95 % interval",
        low=low,
        high=high,
    )


@dataclass(frozen=True)
class Entry:
    """A measure that was taken: of which task by which learner, its value with its interval, and what made it."""

    task: TaskSpec
    learner: Learner
    value: float
    low: float
    high: float
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """The measure of any task, out of a JSON file that keeps what was taken before: no task is learned twice."""

    path: Path
    learner: Learner = field(default_factory=Learner)

    def __call__(self, task: TaskSpec, on_progress: Callable[[float], None] = lambda share: None) -> Measure:
        """From the file, or by training. Raises DataError on a file that does not read, and what training raises."""
        entries = self._entries()
        for entry in entries:
            if all(canonical(to_plain(a)) == canonical(to_plain(b)) for a, b in self._pairs(entry, task)):
                return _measure(self.learner, entry.value, entry.low, entry.high)
        value, low, high = mean_and_interval(description_lengths(task, self.learner, on_progress=on_progress).tolist())
        entries.append(Entry(task, self.learner, value, low, high, provenance(torch.device("cpu"))))
        lines = ",\n".join(sorted(canonical(to_plain(entry)) for entry in entries))
        write_atomically(self.path, f'{{"schema":{_SCHEMA},"measures":[\n{lines}\n]}}\n')
        return _measure(self.learner, value, low, high)

    def _pairs(self, entry: Entry, task: TaskSpec) -> Sequence[tuple[Any, Any]]:
        return (entry.task, task), (entry.learner, self.learner)

    def _entries(self) -> list[Entry]:
        if not self.path.exists():
            return []
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            schema, measures = held["schema"], held["measures"]
            entries = [from_plain(Entry, one, where="measures") for one in measures] if schema <= _SCHEMA else []
        except (ValueError, KeyError, TypeError, SpecError) as error:
            raise DataError(
                f"{self.path}: does not read as the code lengths that --prequential keeps ({error}); remove it to "
                "measure anew"
            ) from error
        if schema > _SCHEMA:
            raise DataError(f"{self.path}: written with schema {schema}, this version reads up to {_SCHEMA}; upgrade")
        return entries
