"""The lines of chains as rows: where each one's result is written, what it works out, and what is left after it.

A ListOps line is the line before with one application replaced by its value. So the value stands where the two lines
first differ: there the line before has the `[` that the application opens with, and no number equals a bracket.
Other tasks do not say what a line works out; of those only the answer and the lines left are known, and a line is read
at the separator that opens it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from kc_interp.errors import ProbeError
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains, Task
from kc_interp.tokens import lines

OPERANDS = 3
"""Operands are read by place, the first three."""


@dataclass(frozen=True)
class Lines:
    """One row for each line that a chain writes, chain by chain; numbers are places among the task's digits.

    `opens` is the position of the separator that opens the line, `queries` the one that predicts its result. `left` is
    how many lines come after it. `before` and `shape` number what stood in the line before: its symbols, and their
    classes alone. With `steps` known, `operands` (-1 beyond the arity), `results`, `orbits` and `types` (a number for
    each operation with its operands in order) describe the reduction; else they are None.
    """

    chain: Int[np.ndarray, " row"]
    index: Int[np.ndarray, " row"]
    opens: Int[np.ndarray, " row"]
    queries: Int[np.ndarray, " row"]
    left: Int[np.ndarray, " row"]
    answers: Int[np.ndarray, " row"]
    before: Int[np.ndarray, " row"]
    shape: Int[np.ndarray, " row"]
    operands: Int[np.ndarray, "row operand"] | None = None
    results: Int[np.ndarray, " row"] | None = None
    orbits: Int[np.ndarray, " row"] | None = None
    types: Int[np.ndarray, " row"] | None = None

    @classmethod
    def of(cls, task: Task, chains: Chains) -> Lines:
        """Raises ProbeError when chains have no lines or answers are no digits."""
        digits = np.flatnonzero(np.asarray(task.classes, dtype=object) == "digit")
        if not np.isin(chains.answer_symbols(), digits).all():
            raise ProbeError("an answer is no digit; linear probes read numbers from chains of one symbol a number")
        line = lines(task, chains)
        if not (line.max(axis=1, initial=0) > 0).all():
            raise ProbeError(
                "a chain has no line after its question: no symbol of the class 'separator' or 'equals' opens one"
            )
        chain, opens = np.nonzero(np.diff(line, axis=1, prepend=0) > 0)
        index = line[chain, opens]
        starts = np.where(index > 1, np.append(0, opens[:-1]) + 1, 0)
        before = [chains.symbols[row, low:high] for row, low, high in zip(chain, starts, opens, strict=True)]
        classes = np.unique(np.asarray(task.classes, dtype=str), return_inverse=True)[1].reshape(-1)
        known = {
            "chain": chain,
            "index": index,
            "opens": opens,
            "left": line.max(axis=1)[chain] - index,
            "answers": np.searchsorted(digits, chains.answer_symbols())[chain],
            "before": _numbered(before),
            "shape": _numbered([classes[symbols] for symbols in before]),
        }
        if not isinstance(task, ListOps):
            return cls(**known, queries=opens)
        steps = task.steps(chains)
        at = (
            opens
            + 1
            + [
                _first_difference(chains.symbols[r, p + 1 :], was)
                for r, p, was in zip(chain, opens, before, strict=True)
            ]
        )
        operands = np.full((len(chain), max(OPERANDS, steps.operands.shape[1])), -1)
        operands[:, : steps.operands.shape[1]] = steps.operands
        orbits = task.orbits(chains)
        return cls(
            **known,
            queries=at - 1,
            operands=operands,
            results=np.searchsorted(digits, chains.symbols[chain, at]),
            orbits=orbits[orbits >= 0],
            types=_numbered(list(np.column_stack([steps.operations, steps.operands]))),
        )

    def __len__(self) -> int:
        return len(self.chain)


def _first_difference(line: Int[np.ndarray, " pos"], before: Int[np.ndarray, " was"]) -> int:
    width = min(len(line), len(before))
    return int((line[:width] != before[:width]).argmax())


def _numbered(rows: list[np.ndarray]) -> Int[np.ndarray, " row"]:
    """Equal rows have equal numbers."""
    numbers: dict[bytes, int] = {}
    return np.asarray([numbers.setdefault(row.astype(np.int64).tobytes(), len(numbers)) for row in rows])
