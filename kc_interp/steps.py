"""Single steps: every combination of operands of one template, once. What is computed in one step is read from all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from kc_interp.errors import ProbeError
from kc_interp.probe import Subject
from kc_interp.tasks.task import Chains, Task


@dataclass(frozen=True)
class Steps:
    """All single steps of one template: the chains, where their operands stand, and the operands as numbers."""

    chains: Chains
    operands: Int[np.ndarray, "example operand"]

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
    digits = [code for code, kind in enumerate(task.classes) if kind == "digit"]
    question = atoms.symbols[0, : atoms.prompts[0]] if len(atoms) else atoms.symbols[:0].reshape(-1)
    places = np.flatnonzero(classes[question] == "digit")
    if len(places) < 2 or len(atoms) != len(digits) ** len(places):
        raise ProbeError(
            f"{subject.name}: single steps of two or more digits are needed, every combination once; this task "
            f"lists {len(atoms)} of {len(places)} operands. A task offers them through `atoms()`; a mixture of "
            "operations needs `component`"
        )
    return Steps(atoms, np.searchsorted(digits, atoms.symbols[:, places]))
