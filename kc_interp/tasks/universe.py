"""How many ListOps questions there are, exactly, and how much of that a training set has seen.

With N_0 = n numbers, k operations and 2 … m operands, N_d = n + k · (N_{d-1}^2 + … + N_{d-1}^m) expressions have
nesting at most d. One operation, ten digits and up to three operands: 1,100 questions of one reduction, 1.37e9 of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from kc_interp.errors import SpecError
from kc_interp.tasks.codes import FIRST_OPERATION
from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.listops import ListOps, question_codes
from kc_interp.tasks.task import Chains

_MOST_BITS = 1_000_000


def questions(depth: int, *, operations: int = 1, max_operands: int = 3, modulus: int = 10) -> int:
    """The number of questions (expressions that are not a bare number) of nesting at most `depth`.

    Raises SpecError when the exact number would have more than a million bits.

    >>> questions(1), questions(2)
    (1100, 1368863100)
    """
    expressions = modulus
    for _ in range(depth):
        if expressions.bit_length() * max_operands > _MOST_BITS:
            raise SpecError(f"nesting {depth} with {max_operands} operands has too many questions to count exactly")
        expressions = modulus + operations * sum(expressions**arity for arity in range(2, max_operands + 1))
    return expressions - modulus


def universe(task: ListOps) -> int:
    """The number of different questions that a task can draw."""
    depth = task.depth if task.p_operation > 0 else 1
    counts = {"operations": len(task.operations), "max_operands": task.max_operands, "modulus": task.modulus}
    if task.lengths is None:
        return questions(depth, **counts)
    low, high = task.lengths
    return sum(questions_by_length(depth, high, **counts)[low:])


def questions_by_length(
    depth: int, longest: int, *, operations: int = 1, max_operands: int = 3, modulus: int = 10
) -> list[int]:
    """The number of questions of nesting at most `depth` by their number of symbols, 0 to `longest`.

    >>> questions_by_length(1, 6)
    [0, 0, 0, 0, 0, 100, 1000]
    """
    number = [0] * (longest + 1)
    number[1:2] = [modulus]
    expressions = number
    for _ in range(depth):
        power, operands = expressions, [0] * (longest + 1)
        for _ in range(2, max_operands + 1):
            power = _product(power, expressions)
            operands = [a + b for a, b in zip(operands, power, strict=True)]
        applied = [0, 0, 0, *(operations * count for count in operands)][: longest + 1]
        expressions = [a + b for a, b in zip(number, applied, strict=True)]
    return [a - b for a, b in zip(expressions, number, strict=True)]


def _product(a: list[int], b: list[int]) -> list[int]:
    """Counts of pairs by the sum of their lengths, as far as the lists go."""
    return [sum(a[i] * b[length - i] for i in range(length + 1)) for length in range(len(a))]


@dataclass(frozen=True)
class AtomCoverage:
    """Single reductions of one operation that occur in some line, of all there are: in order, and as multisets."""

    seen: int
    total: int
    orbits_seen: int
    orbits: int


@dataclass(frozen=True)
class Coverage:
    """What a set of chains covers: of all questions of its task, and per operation of all single reductions.

    `questions` counts repetitions, `distinct` does not.
    """

    questions: int
    distinct: int
    universe: int
    atoms: Mapping[str, AtomCoverage]

    @property
    def share(self) -> float:
        """Distinct questions over all questions."""
        return self.distinct / self.universe


def coverage(task: ListOps, chains: Chains) -> Coverage:
    """Count what these chains show. Reductions with more operands than the task has are left out."""
    steps = task.steps(chains)
    fits = (steps.operands[:, task.max_operands :] < 0).all(axis=1)
    operations, operands = steps.operations[fits], steps.operands[fits, : task.max_operands]
    arities = range(2, task.max_operands + 1)
    atoms = {}
    for name in task.operations:
        mine = operands[operations == OPERATIONS.index(name)]
        atoms[name] = AtomCoverage(
            seen=_distinct(mine),
            total=sum(task.modulus**arity for arity in arities),
            orbits_seen=_distinct(np.sort(mine, axis=1)),
            orbits=sum(math.comb(task.modulus + arity - 1, arity) for arity in arities),
        )
    return Coverage(len(chains), _distinct(question_codes(chains)), universe(task), atoms)


def _distinct(rows: Int[np.ndarray, "row column"]) -> int:
    return len(np.unique(rows, axis=0)) if len(rows) else 0


def table_entropy_bits(task: ListOps, arity: int) -> dict[str, float]:
    """Bits per answer of each operation's table of one arity: the entropy of its answers over uniform operands."""
    atoms = task.atoms()
    chosen = atoms.take(task.groups(atoms)["arity"] == arity)
    answers, names = chosen.answer_symbols(), chosen.symbols[:, 1] - FIRST_OPERATION
    entropies = {}
    for name in task.operations:
        counts = np.bincount(answers[names == OPERATIONS.index(name)])
        share = counts[counts > 0] / counts.sum()
        entropies[name] = float(-(share * np.log2(share)).sum())
    return entropies
