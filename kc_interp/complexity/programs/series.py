"""Two series mod 10 by programs of the same length: an arithmetic one, and one that only looks random."""


def arithmetic(count: int) -> list[int]:
    """Each term is the last one plus 7 (mod 10): 30157 is 7, and 99990 is 0."""
    state = 12345
    terms = []
    for _ in range(count):
        state += 30157
        state %= 99990
        terms.append(state % 10)
    return terms


def pseudorandom(count: int) -> list[int]:
    """The last digit of a multiplicative generator modulo the prime 99991 (period 99,990)."""
    state = 12345
    terms = []
    for _ in range(count):
        state *= 30157
        state %= 99991
        terms.append(state % 10)
    return terms
