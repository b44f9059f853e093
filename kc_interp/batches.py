"""Training batches: what a run reads at a step is a function of its seed and the step, so that a run can be resumed.

Bucketed: chains of similar length share a batch, so that little is padding. The sequence of buckets does not depend on
a run's seed (only the chains drawn from them do): the members of an ensemble then read batches of one width, and each
reads what it would read alone. Stream: crops at random offsets of all chains laid end to end, as the paper does.

Where to read is drawn on the host, for many steps at once; reading is one lookup a step, on the device, for all runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kc_interp.errors import SpecError
from kc_interp.spec import TrainSpec

IGNORE = -100
"""The target of a position that the loss does not count (torch's `ignore_index`)."""

SHORTEST, BUCKET_WIDTH = 16, 4
"""Inputs are padded to 16, 20, 24, … tokens: below 16 torch's softmax on a CPU is several times slower."""

CHUNK = 256
"""So many steps are drawn at once."""

_REAL, _COMPLETION = 1 << 13, 1 << 14
"""Bits beside a token id: it is no padding; it is one that the model must write. What a loss counts is one of them."""


@dataclass(frozen=True)
class Batch:
    """What one run reads at one step: token ids and, for each, the token that should follow (or IGNORE)."""

    tokens: Int[np.ndarray, "batch pos"]
    targets: Int[np.ndarray, "batch pos"]


class Batches:
    """The batches of one run. `ids` are the token ids of its training chains (int16 is shared, not copied).

    Raises SpecError on a vocabulary of more than 8,192 tokens.
    """

    def __init__(
        self,
        ids: Int[np.ndarray, "example pos"],
        lengths: Int[np.ndarray, " example"],
        prompts: Int[np.ndarray, " example"],
        spec: TrainSpec,
        seed: int,
    ) -> None:
        if ids.max(initial=0) >= _REAL:
            raise SpecError(f"token {ids.max()} is beyond the {_REAL} that training batches can hold")
        self.ids = ids.astype(np.int16, copy=False)
        self.spec, self.seed = spec, seed
        self._lengths, self._prompts = lengths, prompts
        self._symbols = int(lengths.sum())
        self._bucket = np.maximum(0, -((SHORTEST + 1 - lengths) // BUCKET_WIDTH)).astype(np.int16)
        self._sizes = np.bincount(self._bucket)
        self._alone: EnsembleBatches | None = None

    def __getitem__(self, step: int) -> Batch:
        self._alone = self._alone or EnsembleBatches([self])
        tokens, targets = self._alone[step]
        return Batch(tokens[0].numpy(), targets[0].numpy())

    @property
    def source(self) -> tuple[int, str]:
        """Runs of one source read the same `flat` symbols."""
        return id(self.ids), self.spec.batches

    def flat(self) -> Int[np.ndarray, " symbol"]:
        """All chains in one row, each symbol with its bits: ordered by bucket, or the stream without padding."""
        place = np.arange(self.ids.shape[1])
        real = place < self._lengths[:, None]
        completes = real & (place >= self._prompts[:, None])
        symbols = self.ids | (real * np.int16(_REAL)) | (completes * np.int16(_COMPLETION))
        if self.spec.batches == "stream":
            return symbols[real]
        return symbols[np.argsort(self._bucket, kind="stable")].reshape(-1)

    @property
    def stride(self) -> int:
        """How far apart in `flat` the places are that `plan` gives."""
        return 1 if self.spec.batches == "stream" else self.ids.shape[1]

    @property
    def counted(self) -> int:
        """The bit of the symbols that the loss counts."""
        return _COMPLETION if self.spec.loss == "completion" else _REAL

    def plan(self, chunk: int) -> tuple[Int[np.ndarray, " step"], Int[np.ndarray, "step batch"]]:
        """For a chunk of steps: how many tokens the run reads of each item, and from which places on."""
        own = np.random.default_rng([1, self.seed, chunk]).random((CHUNK, self.spec.batch_size))
        if self.spec.batches == "stream":
            size = min(self.spec.crop, self._symbols - 1)
            return np.full(CHUNK, size), (own * (self._symbols - size)).astype(np.int32)
        shared = np.random.default_rng([0, chunk]).random(CHUNK)
        ends = np.cumsum(self._sizes)
        bucket = np.searchsorted(ends / len(self.ids), shared, side="right")
        starts = ends[bucket] - self._sizes[bucket]
        places = starts[:, None] + (own * self._sizes[bucket, None]).astype(np.int32)
        return np.minimum(SHORTEST + bucket * BUCKET_WIDTH, self.ids.shape[1] - 1), places.astype(np.int32)


class EnsembleBatches:
    """The batches of several runs at once, on a device: what several runs read is held there once.

    A step costs the host nothing but the launch of its lookups; every `CHUNK` steps the next places are sent over.
    """

    def __init__(self, runs: Sequence[Batches], device: torch.device | str = "cpu") -> None:
        self._runs, self._device = runs, torch.device(device)
        distinct = {run.source: run for run in runs}
        sizes = [run._symbols if run.spec.batches == "stream" else run.ids.size for run in distinct.values()]
        ends = np.cumsum(sizes)
        firsts = dict(zip(distinct, (ends - sizes).tolist(), strict=True))
        # A run with shorter chains than another's looks past its own: the widest look from the last symbol must exist.
        spare = 1 + max(run.spec.crop if run.spec.batches == "stream" else run.ids.shape[1] for run in runs)
        self._flat = torch.zeros(int(ends[-1]) + spare, dtype=torch.int16, device=self._device)
        for run, first, size in zip(distinct.values(), firsts.values(), sizes, strict=True):
            self._flat[first : first + size] = torch.from_numpy(run.flat())
        self._firsts = self._sent([firsts[run.source] for run in runs])[:, None]
        self._strides = self._sent([run.stride for run in runs])[:, None]
        self._counted = self._sent([run.counted for run in runs]).short()[:, None, None]
        self._place = torch.arange(spare, device=self._device)
        self._chunk = -1

    def _sent(self, values: Sequence[int] | np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.asarray(values))
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def __getitem__(self, step: int) -> tuple[Int[Tensor, "run batch pos"], Int[Tensor, "run batch pos"]]:
        """Tokens and targets at a step, padded to the widest run's: its width is known without asking the device."""
        chunk, offset = divmod(step, CHUNK)
        if chunk != self._chunk:
            plans = [run.plan(chunk) for run in self._runs]
            self._widths = np.stack([widths for widths, _ in plans])
            self._places = self._sent(np.stack([places for _, places in plans]))
            self._own_widths = self._sent(self._widths)[..., None, None]
            self._chunk = chunk
        widths = self._widths[:, offset]
        width = int(widths.max())
        place = self._place[: width + 1]
        found = self._flat[(self._firsts + self._places[:, offset] * self._strides)[:, :, None] + place]
        tokens, following = found[..., :-1] & (_REAL - 1), found[..., 1:]
        if width != widths.min():
            inside = place[:-1] < self._own_widths[:, offset]
            tokens, following = tokens * inside, following * inside
        counts = (following & self._counted) != 0
        return tokens.long(), torch.where(counts, (following & (_REAL - 1)).long(), IGNORE)
