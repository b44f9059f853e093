"""ListOps expressions as trees: reading `[MAX 2 9 [MIN 4 7] 0]`, printing, evaluating, and writing the reduction lines.

Plain recursive Python, kept independent of the vectorised reduction (`reduction.py`), which is tested against it.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from kc_interp.errors import ExpressionError, did_you_mean

OPERATIONS = ("MAX", "MIN", "MED", "SUM", "PROD", "NADD")
"""Every operation, in the order of its symbol codes."""

MAX_NESTING = 200
"""Deeper expressions are refused: the evaluator recurses, and no data set comes near."""

Median = Literal["upper", "numpy"]

_WORD = re.compile(r"[\[\]]|[^\s\[\]]+")
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Application:
    """An operation with its operands; an operand is a number or another application."""

    operation: str
    operands: tuple[Expression, ...]


Expression = Application | int


def parse(text: str, modulus: int = 10, *, aliases: Mapping[str, str] | None = None) -> Expression:
    """The expression that `text` spells; white space is free, and a bare number is an expression.

    `aliases` are other names of operations ({"SM": "SUM"}), read beside ours. Raises ExpressionError, with the position
    of the character at fault and what was expected there.

    >>> show(parse("[MAX 2 [MIN 4 7]]"))
    '[MAX 2 [MIN 4 7]]'
    """
    words = [(match.group(), match.start()) for match in _WORD.finditer(text)]
    if not words:
        raise ExpressionError("the expression is empty; expected one such as [MAX 2 9 [MIN 4 7] 0]", 0)
    open_at: list[tuple[str, int]] = []
    operands: list[list[Expression]] = [[]]
    index = 0
    while index < len(words):
        word, position = words[index]
        if not open_at and operands[0]:
            _fail(position, f"found {word!r} after the end of the expression; expected nothing more")
        if word == "[":
            if len(open_at) == MAX_NESTING:
                _fail(position, f"nested deeper than {MAX_NESTING} operations")
            following = words[index + 1] if index + 1 < len(words) else ("", len(text))
            open_at.append((_operation(*following, aliases or {}), position))
            operands.append([])
            index += 1
        elif word == "]":
            if not open_at:
                _fail(position, "found ']' that closes nothing; expected '[' or a number")
            operation, _ = open_at.pop()
            found = operands.pop()
            if len(found) < 2:
                count = "1 operand" if found else "no operand"
                _fail(position, f"{operation} has {count}; expected a number or '[': at least 2 operands")
            operands[-1].append(Application(operation, tuple(found)))
        else:
            operands[-1].append(_number(word, position, modulus))
        index += 1
    if open_at:
        operation, opened = open_at[-1]
        _fail(len(text), f"the text ends inside the [{operation} opened at {opened}; expected an operand or ']'")
    return operands[0][0]


def _fail(position: int, message: str) -> NoReturn:
    raise ExpressionError(f"at position {position}: {message}", position)


def _operation(word: str, position: int, aliases: Mapping[str, str]) -> str:
    if word in aliases:
        return aliases[word]
    if word in OPERATIONS:
        return word
    if not word or word in "[]" or _NUMBER.fullmatch(word):
        found = repr(word) if word else "the end of the text"
        _fail(position, f"found {found} after '['; expected an operation: {', '.join(OPERATIONS)}")
    _fail(position, f"unknown operation {word!r}{did_you_mean(word.upper(), OPERATIONS)}")


def _number(word: str, position: int, modulus: int) -> int:
    if not _NUMBER.fullmatch(word):
        hint = "; an operation follows '[' directly" if word in OPERATIONS else ""
        _fail(position, f"found {word!r}; expected a number from 0 to {modulus - 1}, '[' or ']'{hint}")
    if len(word) > 9 or int(word) >= modulus:
        _fail(position, f"number {word} is outside modulus {modulus}; expected 0 to {modulus - 1}")
    return int(word)


def words(expression: Expression) -> Iterator[str]:
    """The symbols of an expression in order: `[`, `MAX`, `2`, …, `]`."""
    if isinstance(expression, int):
        yield str(expression)
        return
    yield "["
    yield expression.operation
    for operand in expression.operands:
        yield from words(operand)
    yield "]"


def spaced(symbols: list[str]) -> str:
    """Symbols as a person writes them: no space inside brackets."""
    return " ".join(symbols).replace("[ ", "[").replace(" ]", "]")


def show(expression: Expression) -> str:
    """The expression as `parse` reads it."""
    return spaced(list(words(expression)))


def apply(operation: str, values: list[int], modulus: int, median: Median = "upper") -> int:
    """One reduction: the operation on at least two numbers of Z_n.

    MED of an even count is the upper median, or `int(numpy.median)`: the truncated mean of the middle two.
    NADD alternates signs, a - b + c - …

    >>> [apply(name, [2, 9, 4], 10) for name in OPERATIONS]
    [9, 2, 4, 5, 2, 7]
    """
    if operation == "MAX":
        return max(values)
    if operation == "MIN":
        return min(values)
    if operation == "MED":
        return statistics.median_high(values) if median == "upper" else math.floor(statistics.median(values))
    if operation == "SUM":
        return sum(values) % modulus
    if operation == "PROD":
        return math.prod(values) % modulus
    return (sum(values[::2]) - sum(values[1::2])) % modulus


def evaluate(expression: Expression, modulus: int = 10, median: Median = "upper") -> int:
    """The value of an expression."""
    if isinstance(expression, int):
        return expression
    values = [evaluate(operand, modulus, median) for operand in expression.operands]
    return apply(expression.operation, values, modulus, median)


def depth(expression: Expression) -> int:
    """The nesting: 0 for a number, 1 for an operation on numbers."""
    return 0 if isinstance(expression, int) else 1 + max(depth(operand) for operand in expression.operands)


def reduce_once(expression: Application, modulus: int = 10, median: Median = "upper") -> Expression:
    """The next line: always the first operand that is an operation is followed, and the innermost one replaced."""
    for index, operand in enumerate(expression.operands):
        if isinstance(operand, Application):
            reduced = reduce_once(operand, modulus, median)
            return Application(
                expression.operation, (*expression.operands[:index], reduced, *expression.operands[index + 1 :])
            )
    return apply(expression.operation, [o for o in expression.operands if isinstance(o, int)], modulus, median)


def reductions(expression: Expression, modulus: int = 10, median: Median = "upper") -> list[str]:
    """The lines after the question, the last of which is the answer.

    >>> reductions(parse("[SUM 1 [MAX 4 3]]"))
    ['[SUM 1 4]', '5']
    """
    lines = []
    while isinstance(expression, Application):
        expression = reduce_once(expression, modulus, median)
        lines.append(show(expression))
    return lines
