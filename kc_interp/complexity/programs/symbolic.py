"""Symbolic programs: digits are opaque symbols that can be looked up and recognised, and whose order is a string."""

from collections.abc import Callable

ORDER = "0123456789"
FIRST, *REST = ORDER  # type: ignore[str-unpack]  # its symbols, which no index may name
NEXT = dict(zip(ORDER, [*REST, FIRST]))  # noqa: B905  (one construct fewer in what is measured)


def ordered(operands: tuple[str, ...]) -> list[str]:
    """The operands in the symbols' order."""
    result = []
    for symbol in ORDER:
        for operand in operands:
            if operand == symbol:
                result.append(operand)
    return result


def folded(step: Callable[[str, str], str], operands: tuple[str, ...]) -> str:
    """The step applied from the last operand back to the first."""
    *rest, value = operands
    for operand in reversed(rest):
        value = step(operand, value)
    return value


def added(a: str, b: str) -> str:
    """Walk from a as many places as b is from the first symbol."""
    for symbol in ORDER:
        if symbol == b:
            break
        a = NEXT[a]
    return a


def subtracted(a: str, b: str) -> str:
    """How many places b must walk to reach a, as a symbol."""
    for symbol in ORDER:  # noqa: B007  (returned)
        if a == b:
            break
        b = NEXT[b]
    return symbol


def multiplied(a: str, b: str) -> str:
    """Add a as many times as b is from the first symbol."""
    total = FIRST
    for symbol in ORDER:
        if symbol == b:
            break
        total = added(total, a)
    return total


def max_by_scan(*operands: str) -> str:
    """The last symbol of the order that is there."""
    for symbol in ORDER:
        if symbol in operands:
            best = symbol
    return best


def max_by_order(*operands: str) -> str:
    """Sort and take the last."""
    return ordered(operands).pop()


def min_by_scan(*operands: str) -> str:
    """The first symbol of the order that is there."""
    for symbol in ORDER:
        if symbol in operands:
            break
    return symbol


def min_by_order(*operands: str) -> str:
    """Sort and take the first."""
    first, *_ = ordered(operands)
    return first


def med_by_order(*operands: str) -> str:
    """Sort and take from alternate ends, the low one first: the last one left is the middle, or the upper of two."""
    rest = ordered(operands)
    while rest:
        rest.reverse()
        middle = rest.pop()
    return middle


def sum_by_loop(*operands: str) -> str:
    """Add one after the other."""
    total = FIRST
    for operand in operands:
        total = added(total, operand)
    return total


def sum_by_fold(*operands: str) -> str:
    """Fold addition."""
    return folded(added, operands)


def prod_by_loop(*operands: str) -> str:
    """Multiply one after the other."""
    total, *rest = operands
    for operand in rest:
        total = multiplied(total, operand)
    return total


def prod_by_fold(*operands: str) -> str:
    """Fold multiplication."""
    return folded(multiplied, operands)


def nadd_by_loop(*operands: str) -> str:
    """From the last to the first, subtract what has been found so far."""
    total = FIRST
    for operand in reversed(operands):
        total = subtracted(operand, total)
    return total


def nadd_by_fold(*operands: str) -> str:
    """Fold subtraction."""
    return folded(subtracted, operands)
