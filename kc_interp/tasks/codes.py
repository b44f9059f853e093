"""The symbol codes of ListOps: fixed for a modulus, whatever operations are in use.

End, brackets and separators come first, then the six operations, then the numbers 0 … n-1 as one symbol each.
"""

from __future__ import annotations

from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.task import SymbolClass

END, OPEN, CLOSE, SEPARATOR, EQUALS = range(5)
FIRST_OPERATION = 5
FIRST_DIGIT = FIRST_OPERATION + len(OPERATIONS)


def alphabet(modulus: int) -> tuple[str, ...]:
    """The symbols by code."""
    return ("<end>", "[", "]", ">", "=", *OPERATIONS, *map(str, range(modulus)))


def classes(modulus: int) -> tuple[SymbolClass, ...]:
    """The class of each symbol, parallel to `alphabet`."""
    marks: tuple[SymbolClass, ...] = ("end", "open", "close", "separator", "equals")
    operation: SymbolClass = "operation"
    digit: SymbolClass = "digit"
    return (*marks, *(operation for _ in OPERATIONS), *(digit for _ in range(modulus)))
