"""Reducing many ListOps expressions at once, on arrays of symbol codes: no Python loop over examples.

The operation that a line reduces is the one reached by always following the first operation among the operands. It is
the one that the leftmost `]` closes, so a line's work is: find that bracket, look back for its `[`, splice the value
in.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from kc_interp.errors import DataError
from kc_interp.tasks.codes import CLOSE, END, EQUALS, FIRST_DIGIT, FIRST_OPERATION, OPEN
from kc_interp.tasks.expressions import OPERATIONS, Median
from kc_interp.tasks.task import Chains

TABLE_LIMIT = 200_000
"""Up to this many possible steps (operation and operands), a function of steps is looked up instead of computed."""

CHUNK = 6_000
"""Rows reduced at a time: of similar length, so that little is padding, and few enough to stay in the cache."""

_NONE = -1


@dataclass(frozen=True)
class Steps:
    """Single reductions, one an entry: which chain, which step of it, the operation, and its operands in order.

    `operations` indexes OPERATIONS; `operands` holds numbers of Z_n, -1 beyond the arity.
    """

    chain: Int[np.ndarray, " step"]
    index: Int[np.ndarray, " step"]
    operations: Int[np.ndarray, " step"]
    operands: Int[np.ndarray, "step operand"]


@dataclass(frozen=True)
class Rules:
    """What each reduction comes to: Z_n, its median, and which operations answer by a shuffled table of their own."""

    modulus: int
    median: Median = "upper"
    shuffled: tuple[str, ...] = ()
    shuffle_seed: int = 0


def apply(
    operations: Int[np.ndarray, " step"], operands: Int[np.ndarray, "step operand"], rules: Rules
) -> Int[np.ndarray, " step"]:
    """The value of each reduction; operands are padded on the right with -1."""
    width = operands.shape[1]
    if has_table(rules.modulus, width):
        return look_up(_values(rules, width), operations, operands, rules.modulus)
    if rules.shuffled:
        raise DataError(
            f"a shuffled table for up to {width} operands of modulus {rules.modulus} is too large to keep; use fewer "
            "operands or a smaller modulus"
        )
    return compute(operations, operands, rules.modulus, rules.median)


def has_table(modulus: int, width: int) -> bool:
    """Whether all steps of up to `width` operands are few enough to tabulate."""
    return len(OPERATIONS) * (modulus + 1) ** width <= TABLE_LIMIT


def look_up(
    table: Int[np.ndarray, " any_step"],
    operations: Int[np.ndarray, " step"],
    operands: Int[np.ndarray, "step operand"],
    modulus: int,
) -> Int[np.ndarray, " step"]:
    """The entry of each step in a table over `every_step`."""
    return table.take(_places(operations, operands, modulus))


def _places(
    operations: Int[np.ndarray, " step"], operands: Int[np.ndarray, "step operand"], modulus: int
) -> Int[np.ndarray, " step"]:
    key = operations.astype(np.int64)
    for column in operands.T:
        key *= modulus + 1
        key += column
        key += 1
    return key


def every_step(modulus: int, width: int) -> tuple[Int[np.ndarray, " any_step"], Int[np.ndarray, "any_step operand"]]:
    """Operations and operands of all steps, in the order of a table (which also has places for impossible ones)."""
    places = np.indices((len(OPERATIONS), *[modulus + 1] * width)).reshape(width + 1, -1)
    return places[0], places[1:].T - 1


@functools.lru_cache(maxsize=16)
def _values(rules: Rules, width: int) -> Int[np.ndarray, " any_step"]:
    values = compute(*every_step(rules.modulus, width), rules.modulus, rules.median)
    for name in rules.shuffled:
        _shuffle(values, name, rules, width)
    return values


def _shuffle(values: Int[np.ndarray, " any_step"], name: str, rules: Rules, width: int) -> None:
    """Permute an operation's answers in a table of all steps, in place.

    Operands in another order keep one answer, and answers change places only among multisets of one size with equally
    many orders: so each arity's table has the same answers as before, each as often. The permutation of an arity
    follows from seed, operation and arity alone.
    """
    operation, modulus = OPERATIONS.index(name), rules.modulus
    moved = values.copy()
    for arity in range(2, width + 1):
        multisets = np.asarray(list(itertools.combinations_with_replacement(range(modulus), arity)))
        padded = np.full((len(multisets), width), _NONE)
        padded[:, :arity] = multisets
        codes = np.full(len(multisets), operation)
        answers = look_up(values, codes, padded, modulus)
        repeats = np.stack([(multisets == number).sum(1) for number in range(modulus)], axis=1)
        kinds = np.unique(np.sort(repeats, axis=1), axis=0, return_inverse=True)[1].ravel()
        rng = np.random.default_rng([rules.shuffle_seed, zlib.crc32(name.encode()), arity])
        for kind in range(kinds.max() + 1):
            places = np.flatnonzero(kinds == kind)
            answers[places] = answers[rng.permutation(places)]
        moved[_places(codes, padded, modulus)] = answers
    operations, operands = every_step(modulus, width)
    rows = np.flatnonzero((operations == operation) & _is_step(operands))
    ranked = np.sort(np.where(operands[rows] == _NONE, modulus, operands[rows]), axis=1)
    ranked[ranked == modulus] = _NONE
    values[rows] = look_up(moved, operations[rows], ranked, modulus)


def _is_step(operands: Int[np.ndarray, "any_step operand"]) -> Bool[np.ndarray, " any_step"]:
    """Two operands or more, none after a missing one: the places of a table that mean a step."""
    there = operands != _NONE
    return there[:, :2].all(1) & ~(there[:, 1:] & ~there[:, :-1]).any(1)


def compute(
    operations: Int[np.ndarray, " step"], operands: Int[np.ndarray, "step operand"], modulus: int, median: Median
) -> Int[np.ndarray, " step"]:
    """The value of each reduction, operation by operation."""
    values = np.empty(len(operations), dtype=np.int16)
    for index in np.flatnonzero(np.bincount(operations, minlength=len(OPERATIONS))):
        rows = operations == index
        values[rows] = _apply_one(OPERATIONS[index], operands[rows], modulus, median)
    return values


def _apply_one(
    name: str, operands: Int[np.ndarray, "step operand"], modulus: int, median: Median
) -> Int[np.ndarray, " step"]:
    if name == "MED":
        return _median(operands, modulus, median)
    columns = operands.T
    total = columns[0].astype(np.int64)
    for place, column in enumerate(columns[1:], start=1):
        if name == "MAX":
            total = np.maximum(total, column)
        elif name == "MIN":
            total = np.where(column >= 0, np.minimum(total, column), total)
        elif name == "PROD":
            total = np.where(column >= 0, total * column % modulus, total)
        else:
            signed = np.maximum(column, 0)
            total = total - signed if name == "NADD" and place % 2 else total + signed
    return total % modulus


def _median(operands: Int[np.ndarray, "step operand"], modulus: int, median: Median) -> Int[np.ndarray, " step"]:
    arity = (operands >= 0).sum(axis=1)
    ranked = np.sort(np.where(operands >= 0, operands, modulus), axis=1)
    rows = np.arange(len(operands))
    upper = ranked[rows, arity // 2]
    return upper if median == "upper" else (ranked[rows, (arity - 1) // 2] + upper) // 2


def _innermost(
    flat: Int[np.ndarray, " symbol"], closes: Int[np.ndarray, " step"]
) -> tuple[Int[np.ndarray, " step"], Int[np.ndarray, "step operand"]]:
    """The index of the `[` that each innermost `]` closes, and the operands between, padded with -1."""
    arity = np.full(len(closes), 2)
    missing = np.flatnonzero(flat.take(closes - 4) != OPEN)
    while len(missing):
        arity[missing] += 1
        missing = missing[flat.take((closes - arity - 2)[missing]) != OPEN]
    opens = closes - arity - 2
    width = int(arity.max(initial=2))
    columns = np.empty((width, len(closes)), dtype=np.int16)  # read by column later
    for place in range(width):
        # Reading past the bracket is harmless (it is masked), past the end of the array is not.
        columns[place] = flat.take(opens + (2 + place), mode="clip")
        columns[place] -= FIRST_DIGIT
        if place > 1:
            columns[place, arity <= place] = _NONE
    return opens, columns.T


def chains_of(
    question: Int[np.ndarray, "example pos"],
    lengths: Int[np.ndarray, " example"],
    *,
    rules: Rules,
    separator: int,
) -> Chains:
    """The whole chains of questions: one reduction a line, `separator` between lines, `=` before the answer, end."""
    reduce = functools.partial(_reduce, rules=rules, separator=separator)
    count = len(question)
    if count <= CHUNK:
        return reduce(question, lengths)
    order = np.argsort(lengths.astype(np.int16), kind="stable")
    parts = []
    for rows in np.array_split(order, -(-count // CHUNK)):
        width = int(lengths[rows[-1]])
        parts.append((rows, reduce(question[rows, :width], lengths[rows])))
    symbols = np.full((count, max(part.symbols.shape[1] for _, part in parts)), END, dtype=np.int16)
    totals = np.empty(count, dtype=np.int64)
    for rows, part in parts:
        symbols[rows, : part.symbols.shape[1]] = part.symbols
        totals[rows] = part.lengths
    return Chains(symbols, totals, lengths.astype(np.int64), totals - 2)


@dataclass(frozen=True)
class _Applications:
    """Where the applications of a batch of questions stand in the flattened array, ordered by their `]`.

    `operands` are the positions of the operands, place by place; beyond an application's arity they are None-like: the
    position of its own `]`.
    """

    opens: Int[np.ndarray, " application"]
    closes: Int[np.ndarray, " application"]
    operands: Int[np.ndarray, "place application"]


def _applications(flat: Int[np.ndarray, " symbol"]) -> _Applications:
    """Match all brackets at once: at one nesting, opening and closing ones alternate."""
    brackets = np.flatnonzero((flat == OPEN) | (flat == CLOSE))
    opening = flat[brackets] == OPEN
    level = np.cumsum(np.where(opening, 1, -1)) + ~opening
    pairs = brackets[np.argsort(level.astype(np.int16), kind="stable")].reshape(-1, 2)
    spans = np.ones(flat.size, dtype=np.int64)  # how far the next operand is: past a whole application, or one symbol
    spans[pairs[:, 0]] = pairs[:, 1] - pairs[:, 0] + 1
    partner = np.empty(flat.size, dtype=np.int64)
    partner[pairs[:, 1]] = pairs[:, 0]
    closes = brackets[~opening]
    opens = partner[closes]
    places = [opens + 2]
    while True:
        following = np.minimum(places[-1] + spans[places[-1]], closes)
        if len(places) > 1 and (following == closes).all():
            return _Applications(opens, closes, np.stack(places))
        places.append(following)


def _reduce(
    question: Int[np.ndarray, "example pos"],
    lengths: Int[np.ndarray, " example"],
    *,
    rules: Rules,
    separator: int,
) -> Chains:
    """`chains_of` for one chunk of questions.

    Nothing moves while a question is reduced: the value takes the place of the `[`, and the rest of the application is
    blanked out. All lines side by side, without the blanks, are the chains.
    """
    steps = (question == OPEN).sum(axis=1)
    # By falling number of steps, the rows that still have work to do are always the first ones: slices, not copies.
    order = np.argsort(-steps, kind="stable")
    steps = steps[order]
    count, width = question.shape
    line = np.full((count, width), _NONE, dtype=np.int16)
    np.copyto(line, question[order], where=is_before(width, lengths[order]))
    found = _applications(line.ravel())
    first = np.cumsum(steps) - steps
    most = int(steps.max(initial=0))
    parts = np.full((count, most + 1, width + 1), _NONE, dtype=np.int16)
    parts[:, 0, 1:] = line
    total = lengths[order].astype(np.int64)
    held = total.copy()
    place = np.arange(width, dtype=np.int16)
    for step in range(most):
        active = int(np.searchsorted(-steps, -step))
        line, held = line[:active], held[:active]
        flat = line.ravel()
        which = first[:active] + step
        opens, closes = found.opens[which], found.closes[which]
        operands = flat[found.operands[:, which]] - np.int16(FIRST_DIGIT)  # a `]` comes out negative
        np.maximum(operands, _NONE, out=operands)
        value = apply(flat[opens + 1] - np.int16(FIRST_OPERATION), operands.T, rules) + FIRST_DIGIT
        begins = (opens - np.arange(active) * width + 1).astype(np.int16)
        blank = (place - begins[:, None]).view(np.uint16) < (closes - opens).astype(np.uint16)[:, None]
        line = line | -blank.astype(np.int16)
        line.ravel()[opens] = value
        parts[:active, step + 1, 0] = np.where(steps[:active] == step + 1, EQUALS, separator)
        parts[:active, step + 1, 1:] = line
        held = held - 2 - (operands >= 0).sum(axis=0)  # what was blank already does not count
        total[:active] += held + 1
    symbols = np.full((count, int(total.max(initial=0)) + 1), END, dtype=np.int16)
    symbols.ravel()[np.flatnonzero(is_before(symbols.shape[1], total))] = parts[parts != _NONE]
    back = np.empty_like(order)
    back[order] = np.arange(count)
    total = total[back]
    return Chains(symbols[back], total + 1, lengths.astype(np.int64), total - 1)


def is_before(width: int, lengths: Int[np.ndarray, " example"]) -> Bool[np.ndarray, "example pos"]:
    """Which of `width` positions come before each length. Narrow integers: comparing them is four times faster."""
    narrow = np.int16 if width < 2**15 else np.int64
    return np.arange(width, dtype=narrow) < np.minimum(lengths, width).astype(narrow)[:, None]


def steps_of(chains: Chains) -> Steps:
    """Every reduction that the lines of the chains show, in order."""
    width = chains.symbols.shape[1]
    flat = chains.symbols.ravel()
    # The leftmost bracket of a line is the one that follows no other since the line began. A chain ends with `=` and
    # the answer, so that its first bracket follows the `=` of the chain before.
    marks = np.flatnonzero((flat >= CLOSE) & (flat <= EQUALS))
    closing = flat[marks] == CLOSE
    closing[1:] &= ~closing[:-1]
    closes = marks[closing]
    opens, operands = _innermost(flat, closes)
    chain = opens // width
    index = np.arange(len(chain)) - np.searchsorted(chain, chain)
    return Steps(chain, index, flat[opens + 1] - np.int16(FIRST_OPERATION), operands)
