"""What a probe is, what it is given, and what happens when it fails.

A probe is a frozen dataclass of settings with one method. `Subject` is everything it may look at: one trained model,
its task and samples of its test items. Claims about a training mixture are made elsewhere, over seeds
(`kc_interp.comparison`), from the numbers that each probe returns for each model under the same keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kc_interp.checkpoint import Checkpoint
from kc_interp.data import Split
from kc_interp.errors import ProbeError, did_you_mean
from kc_interp.finding import Finding
from kc_interp.tasks.task import Chains, Task
from kc_interp.tokens import Tokens


@dataclass(frozen=True)
class Subject:
    """One trained model as a probe sees it. Sampling is by `seed`: the same seed gives the same items."""

    name: str
    checkpoint: Checkpoint
    seed: int = 0
    learned: bool | None = None

    @property
    def task(self) -> Task:
        return self.checkpoint.task

    @property
    def tokens(self) -> Tokens:
        return self.checkpoint.tokens

    @property
    def params(self) -> Mapping[str, Tensor]:
        """The parameters with a leading `run` axis of one, as `kc_interp.model.forward.forward` takes them."""
        return self.checkpoint.stacked

    @cached_property
    def split(self) -> Split:
        return Split.of(self.task, self.checkpoint.spec.data)

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator that depends on the subject's seed and the purpose alone: probes do not disturb each other."""
        return np.random.default_rng(
            [self.seed, int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest())]
        )

    def component(self, name: str | None) -> str | None:
        """The component if this task has it; None, the whole mixture, if not."""
        return name if name in self.task.components() else None

    def items(self, count: int, purpose: str, component: str | None = None) -> Chains:
        """Test items (never trained on): of the whole mixture, or of one component ("SUM") common to several arms."""
        task = self.task
        if component is not None:
            parts = task.components()
            if component not in parts:
                raise ProbeError(
                    f"{self.name}: no component {component!r} in this task{did_you_mean(component, parts)}"
                )
            task = parts[component]
        return self.split.draw(task, count, self.rng(purpose), test=True)

    def ids(self, chains: Chains) -> Int[Tensor, "1 batch pos"]:
        """The chains as token ids on the model's device, with a leading `run` axis of one."""
        return torch.from_numpy(self.tokens.encode(chains.symbols))[None].to(self.checkpoint.device)


@runtime_checkable
class Probe(Protocol):
    """The contract at the plug-in boundary: a frozen dataclass of settings with this one method."""

    def run(self, subject: Subject) -> Finding:
        """Measure the subject. Raises ProbeError when it cannot; anything else raised is a defect of the probe."""
