"""The answers of an operation to every pair, every triple, … of Z_n: what the programs are run against."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from jaxtyping import Int

from kc_interp.errors import SpecError
from kc_interp.tasks import expressions, reduction
from kc_interp.tasks.expressions import OPERATIONS, Median
from kc_interp.tasks.listops import ListOps

ENTRY_LIMIT = 2_000_000
"""Larger answer tables (of one operation and one number of operands) are refused."""

WHOLE_UP_TO = 20_000
SPACED = 2_000


def arities(task: ListOps) -> range:
    """The numbers of operands that an operation of the task may have. Raises SpecError when a table is too large."""
    entries = task.modulus**task.max_operands
    if entries > ENTRY_LIMIT:
        raise SpecError(
            f"the answer table of {task.max_operands} operands over {task.modulus} numbers has {entries:,} entries, "
            f"more than {ENTRY_LIMIT:,}; lower --modulus or --max-operands"
        )
    return range(2, task.max_operands + 1)


@functools.lru_cache(maxsize=32)
def answers(operation: str, arity: int, modulus: int, median: Median) -> Int[np.ndarray, " *operand"]:
    """The answer table, one axis per operand."""
    operands = np.indices((modulus,) * arity).reshape(arity, -1).T
    codes = np.full(len(operands), OPERATIONS.index(operation))
    table = reduction.compute(codes, operands, modulus, median).reshape((modulus,) * arity)
    table.flags.writeable = False  # it is kept, and shared by all who ask
    return table


@functools.lru_cache(maxsize=256)
def atomic_rows(operation: str, arity: int, modulus: int, median: Median) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Operands with their answer by the plain evaluator: all, or SPACED evenly spaced ones of a large table."""
    entries = modulus**arity
    stride = 1 if entries <= WHOLE_UP_TO else entries // SPACED
    rows = itertools.islice(itertools.product(range(modulus), repeat=arity), None, None, stride)
    return tuple((row, expressions.apply(operation, list(row), modulus, median)) for row in rows)


def literal(table: Int[np.ndarray, " *operand"]) -> str:
    """The table as nested tuples of Python, the first operand outermost."""
    return str(table.tolist()).replace("[", "(").replace("]", ")")
