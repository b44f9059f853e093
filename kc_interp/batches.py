"""Training batches: what a run reads at a step is a function of its seed and the step, so that a run can be resumed.

Bucketed: chains of similar length share a batch, so that little is padding. The sequence of buckets does not depend on
a run's seed (only the chains drawn from them do): the members of an ensemble then read batches of one width, and each
reads what it would read alone. Stream: crops at random offsets of all chains laid end to end, as the paper does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from kc_interp.spec import TrainSpec
from kc_interp.tasks.task import Chains

IGNORE = -100
"""The target of a position that the loss does not count (torch's `ignore_index`)."""

SHORTEST, BUCKET_WIDTH = 16, 4
"""Inputs are padded to 16, 20, 24, … tokens: below 16 torch's softmax on a CPU is several times slower."""

_CHUNK = 256


@dataclass(frozen=True)
class Batch:
    """What one run reads at one step: token ids and, for each, the token that should follow (or IGNORE)."""

    tokens: Int[np.ndarray, "batch pos"]
    targets: Int[np.ndarray, "batch pos"]


class Batches:
    """The batches of one run. `ids` are the token ids of its training chains."""

    def __init__(self, ids: Int[np.ndarray, "example pos"], chains: Chains, spec: TrainSpec, seed: int) -> None:
        self.ids = ids.astype(np.int16)
        self._lengths, self._prompts = chains.lengths, chains.prompts
        self._spec, self._seed = spec, seed
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None
        if spec.batches == "stream":
            real = np.arange(ids.shape[1]) < chains.lengths[:, None]
            self._stream = self.ids[real]
            completes = (np.arange(ids.shape[1]) >= chains.prompts[:, None])[real]
            self._stream_targets = (
                np.where(completes, self._stream, IGNORE) if spec.loss == "completion" else self._stream
            )
        else:
            bucket = np.maximum(0, -((SHORTEST + 1 - chains.lengths) // BUCKET_WIDTH))
            self._order = np.argsort(bucket, kind="stable")
            sizes = np.bincount(bucket)
            self._starts, self._sizes = np.cumsum(sizes) - sizes, sizes
            self._share = np.cumsum(sizes) / len(bucket)

    def __getitem__(self, step: int) -> Batch:
        return self._crop(step) if self._spec.batches == "stream" else self._bucket(step)

    def _draws(self, step: int) -> tuple[float, np.ndarray]:
        """A uniform number shared by all runs, and one per item of this run's batch. Drawn in chunks of steps."""
        chunk, offset = divmod(step, _CHUNK)
        if self._plan is None or self._plan[0] != chunk:
            shared = np.random.default_rng([0, chunk]).random(_CHUNK)
            own = np.random.default_rng([1, self._seed, chunk]).random((_CHUNK, self._spec.batch_size))
            self._plan = (chunk, shared, own)
        return float(self._plan[1][offset]), self._plan[2][offset]

    def _bucket(self, step: int) -> Batch:
        shared, own = self._draws(step)
        bucket = int(np.searchsorted(self._share, shared, side="right"))
        rows = self._order[self._starts[bucket] + (own * self._sizes[bucket]).astype(np.int64)]
        width = min(SHORTEST + bucket * BUCKET_WIDTH + 1, self.ids.shape[1])
        ids = self.ids[rows, :width].astype(np.int64)
        position = np.arange(1, width)
        counted = position < self._lengths[rows, None]
        if self._spec.loss == "completion":
            counted &= position >= self._prompts[rows, None]
        return Batch(ids[:, :-1], np.where(counted, ids[:, 1:], IGNORE))

    def _crop(self, step: int) -> Batch:
        _, own = self._draws(step)
        size = min(self._spec.crop, len(self._stream) - 1)
        starts = (own * (len(self._stream) - size)).astype(np.int64)
        window = starts[:, None] + np.arange(size)
        return Batch(self._stream[window].astype(np.int64), self._stream_targets[window + 1].astype(np.int64))
