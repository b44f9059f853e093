"""Numeric programs: ints, arithmetic, comparison, and loops over any number of operands."""

from collections.abc import Callable

MODULUS = 10


def ordered(operands: tuple[int, ...]) -> list[int]:
    """The operands from small to large: insertion sort."""
    result: list[int] = []
    for operand in operands:
        place = 0
        for other in result:
            place += other < operand
        result.insert(place, operand)
    return result


def folded(step: Callable[[int, int], int], operands: tuple[int, ...]) -> int:
    """The step applied from the last operand back to the first."""
    value = operands[-1]
    for operand in operands[-2::-1]:
        value = step(operand, value)
    return value


def max_by_scan(*operands: int) -> int:
    """Keep the largest so far."""
    best = operands[0]
    for operand in operands:
        if operand > best:
            best = operand
    return best


def max_by_order(*operands: int) -> int:
    """Sort and take the last."""
    return ordered(operands)[-1]


def max_by_fold(*operands: int) -> int:
    """Fold the larger of two."""
    return folded(lambda a, b: a if a > b else b, operands)


def min_by_scan(*operands: int) -> int:
    """Keep the smallest so far."""
    best = operands[0]
    for operand in operands:
        if operand < best:
            best = operand
    return best


def min_by_order(*operands: int) -> int:
    """Sort and take the first."""
    return ordered(operands)[0]


def min_by_fold(*operands: int) -> int:
    """Fold the smaller of two."""
    return folded(lambda a, b: a if a < b else b, operands)


def med_by_order(*operands: int) -> int:
    """Sort and take the middle, of an even count the upper."""
    return ordered(operands)[len(operands) // 2]


def med_by_rank(*operands: int) -> int:
    """Find the operand with at most half of them below and more than half not above."""
    half = len(operands) // 2
    for candidate in operands:
        below = 0
        upto = 0
        for other in operands:
            below += other < candidate
            upto += other <= candidate
        if below <= half < upto:
            break
    return candidate


def sum_by_loop(*operands: int) -> int:
    """Add all, then reduce."""
    total = 0
    for operand in operands:
        total += operand
    return total % MODULUS


def sum_by_fold(*operands: int) -> int:
    """Fold addition."""
    return folded(lambda a, b: (a + b) % MODULUS, operands)


def prod_by_loop(*operands: int) -> int:
    """Multiply all, then reduce."""
    total = 1
    for operand in operands:
        total *= operand
    return total % MODULUS


def prod_by_fold(*operands: int) -> int:
    """Fold multiplication."""
    return folded(lambda a, b: a * b % MODULUS, operands)


def nadd_by_loop(*operands: int) -> int:
    """From the last to the first, subtract what has been found so far."""
    total = 0
    for operand in operands[::-1]:
        total = operand - total
    return total % MODULUS


def nadd_by_fold(*operands: int) -> int:
    """Fold subtraction: a - (b - c) = a - b + c."""
    return folded(lambda a, b: (a - b) % MODULUS, operands)
