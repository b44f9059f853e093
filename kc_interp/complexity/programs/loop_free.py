"""Loop-free programs: two or three ints, expressions and `if` alone.

A third operand that is not given defaults to the one that changes nothing: 0 for MAX and sums, 1 for products, the
largest number for MIN and for MED (the median of a, b and the largest number is the larger of a and b, the upper one).
"""

MODULUS = 10


def larger(a: int, b: int) -> int:
    """The larger of two."""
    return a if a > b else b


def smaller(a: int, b: int) -> int:
    """The smaller of two."""
    return a if a < b else b


def max_by_branches(a: int, b: int, c: int = 0) -> int:
    """Move the larger into a."""
    if b > a:
        a = b
    if c > a:
        a = c
    return a


def max_by_pairs(a: int, b: int, c: int = 0) -> int:
    """The larger of two, twice."""
    return larger(larger(a, b), c)


def min_by_branches(a: int, b: int, c: int = MODULUS - 1) -> int:
    """Move the smaller into a."""
    if b < a:
        a = b
    if c < a:
        a = c
    return a


def min_by_pairs(a: int, b: int, c: int = MODULUS - 1) -> int:
    """The smaller of two, twice."""
    return smaller(smaller(a, b), c)


def med_by_branches(a: int, b: int, c: int = MODULUS - 1) -> int:
    """Sort the first two; the middle is then the third, held between them."""
    if a > b:
        a, b = b, a
    if c < a:
        c = a
    if c > b:
        c = b
    return c


def med_by_pairs(a: int, b: int, c: int = MODULUS - 1) -> int:
    """The third, held between the smaller and the larger of the first two."""
    return larger(smaller(a, b), smaller(larger(a, b), c))


def sum_by_formula(a: int, b: int, c: int = 0) -> int:
    """Add, then reduce."""
    return (a + b + c) % MODULUS


def prod_by_formula(a: int, b: int, c: int = 1) -> int:
    """Multiply, then reduce."""
    return a * b * c % MODULUS


def nadd_by_formula(a: int, b: int, c: int = 0) -> int:
    """Subtract and add, then reduce."""
    return (a - b + c) % MODULUS
