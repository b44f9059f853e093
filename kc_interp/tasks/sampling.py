"""Drawing ListOps questions, level by level over the whole batch: first the brackets, then the contents.

The skeleton (which operands are operations, and how many operands each has) does not depend on the operations in use,
so every mixture has the same distribution of lengths; redrawing only the contents keeps the length of each question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kc_interp.errors import DataError
from kc_interp.tasks.codes import CLOSE, END, FIRST_DIGIT, FIRST_OPERATION, OPEN

_RARE, _MOST_DRAWN = 200_000, 100_000
"""So many questions are drawn for the first of a stratum before it counts as empty; and at most so many at once."""


@dataclass
class _Level:
    """The nodes at one nesting, siblings side by side; `first` is the place of each parent's first child."""

    nodes: int
    operations: Int[np.ndarray, " operation"]
    first: Int[np.ndarray, " parent"]
    arity: Int[np.ndarray, " parent"]


def skeletons(
    count: int, rng: np.random.Generator, *, depth: int, max_operands: int, p_operation: float
) -> tuple[Int[np.ndarray, "example pos"], Int[np.ndarray, " example"]]:
    """Questions with placeholder contents (the first operation, the number 0), and their lengths.

    The root is an operation; each operand is one with probability `p_operation` while the nesting allows it; the number
    of operands is uniform from 2 to `max_operands`.
    """
    levels = [_Level(count, np.arange(count), np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for nesting in range(1, depth + 1):
        parents = len(levels[-1].operations)
        if not parents:
            break
        arity = rng.integers(2, max_operands + 1, parents)
        ends = np.cumsum(arity)
        nodes = int(ends[-1])
        chance = p_operation if nesting < depth else 0.0
        operations = np.flatnonzero(rng.random(nodes, np.float32) < chance) if chance else np.zeros(0, np.int64)
        levels.append(_Level(nodes, operations, ends - arity, arity))
    sizes = _sizes(levels)
    lengths = sizes[0]
    symbols = np.full((count, int(lengths.max(initial=1))), END, dtype=np.int16)
    flat = symbols.ravel()
    at = np.arange(count) * symbols.shape[1]
    for nesting, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        flat[at] = FIRST_DIGIT
        opens = at[level.operations]
        flat[opens] = OPEN
        flat[opens + 1] = FIRST_OPERATION
        flat[opens + size[level.operations] - 1] = CLOSE
        if nesting + 1 < len(levels):
            children = levels[nesting + 1]
            before = np.cumsum(sizes[nesting + 1]) - sizes[nesting + 1]
            at = np.repeat(opens + 2 - before[children.first], children.arity) + before
    return symbols, lengths


def skeletons_between(
    count: int,
    rng: np.random.Generator,
    bounds: tuple[int, int],
    *,
    depth: int,
    max_operands: int,
    p_operation: float,
) -> tuple[Int[np.ndarray, "example pos"], Int[np.ndarray, " example"]]:
    """Questions as `skeletons` draws them, those alone whose number of symbols lies within `bounds`, ends included.

    Raises DataError where hardly any does.
    """
    low, high = bounds
    parts: list[np.ndarray] = []
    drawn = found = 0
    while found < count:
        share = (found + 1) / (drawn + 1)
        wanted = min(_MOST_DRAWN, round(1.1 * (count - found) / share) + 256)
        symbols, lengths = skeletons(wanted, rng, depth=depth, max_operands=max_operands, p_operation=p_operation)
        fits = (low <= lengths) & (lengths <= high)
        parts.append(symbols[fits][:, :high])
        drawn, found = drawn + wanted, found + int(fits.sum())
        if drawn >= _RARE and found < drawn / _RARE:
            raise DataError(
                f"of {drawn:,} questions {found or 'none'} had {low} to {high} symbols, with depth {depth}, "
                f"max_operands {max_operands} and p_operation {p_operation:g}; widen lengths, or change one of these"
            )
    width = max((part.shape[1] for part in parts), default=1)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=END) for part in parts]
    symbols = np.concatenate([np.zeros((0, width), dtype=np.int16), *padded])[:count]
    lengths = (symbols != END).sum(axis=1)
    return np.ascontiguousarray(symbols[:, : int(lengths.max(initial=1))]), lengths


def _sizes(levels: list[_Level]) -> list[Int[np.ndarray, " node"]]:
    """How many symbols each node takes, level by level: 1 for a number, brackets and name around its operands else."""
    sizes: list[np.ndarray] = []
    for level, children in zip(reversed(levels), [None, *reversed(levels)], strict=False):
        size = np.ones(level.nodes, dtype=np.int64)
        if children is not None:
            size[level.operations] = 3 + np.add.reduceat(sizes[-1], children.first)
        sizes.append(size)
    return sizes[::-1]


def fill(
    question: Int[np.ndarray, "example pos"],
    rng: np.random.Generator,
    *,
    operations: Int[np.ndarray, " operation"],
    cumulative: Float[np.ndarray, " operation"] | None,
    modulus: int,
) -> None:
    """Draw every operation (of `operations`, by cumulative weight, None: uniform) and number (uniform), in place."""
    flat = question.ravel()
    if not question.flags.c_contiguous:
        raise ValueError("question must be contiguous: it is filled in place")
    # Assigning by index is several times faster than by mask.
    is_number = flat >= FIRST_DIGIT
    numbers = np.flatnonzero(is_number)
    names = np.flatnonzero((flat >= FIRST_OPERATION) & ~is_number)
    if cumulative is None:
        drawn = rng.integers(0, len(operations), len(names), dtype=np.int16)
    else:
        drawn = np.searchsorted(cumulative, rng.random(len(names)) * cumulative[-1], side="right")
    flat[names] = operations[drawn]
    flat[numbers] = rng.integers(FIRST_DIGIT, FIRST_DIGIT + modulus, len(numbers), dtype=np.int16)
