"""Single steps: every combination of operands of one template, once. What is computed in one step is read from all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError
from kc_interp.model.forward import Sites
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec
from kc_interp.tasks.task import Chains, Task


@dataclass(frozen=True)
class Steps:
    """All single steps of one template: the chains, and their operands, each by its place among the `digits`' codes."""

    chains: Chains
    operands: Int[np.ndarray, "example operand"]
    digits: Int[np.ndarray, " digit"]

    @property
    def query(self) -> int:
        return int(self.chains.answers[0]) - 1


def all_steps(subject: Subject, component: str | None) -> Steps:
    """Every single step with most operands, each combination of digits once.

    Raises ProbeError when there are none, fewer than two operands, or combinations are missing.
    """
    task: Task = subject.task.components().get(component or "", subject.task)
    atoms = task.atoms()
    classes = np.asarray(task.classes, dtype=object)
    if len(atoms):
        atoms = atoms.take(np.flatnonzero(atoms.prompts == atoms.prompts.max()))
    digits = np.flatnonzero(classes == "digit")
    question = atoms.symbols[0, : atoms.prompts[0]] if len(atoms) else atoms.symbols[:0].reshape(-1)
    places = np.flatnonzero(classes[question] == "digit")
    if len(places) < 2 or len(atoms) != len(digits) ** len(places):
        raise ProbeError(
            f"{subject.name}: single steps of two or more digits are needed, every combination once; this task "
            f"lists {len(atoms)} of {len(places)} operands. A task offers them through `atoms()`; a mixture of "
            "operations needs `component`"
        )
    return Steps(atoms, np.searchsorted(digits, atoms.symbols[:, places]), digits)


def neurons(
    params: Mapping[str, Tensor], spec: ModelSpec, sites: Sites, block: int
) -> Float[np.ndarray, "example neuron"]:
    """What a block's MLP neurons take at the last position, each as loud as what it writes is long.

    `sites` have recorded the block's `mlp.hook_post`.
    """
    taken = sites.cache[f"blocks.{block}.mlp.hook_post"][0, :, -1]
    loudness = params[f"blocks.{block % spec.n_layers}.mlp.W_out"][0].norm(dim=1)
    return np.asarray(taken.double().cpu().numpy() * loudness.double().cpu().numpy())
