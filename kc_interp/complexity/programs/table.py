"""How the table-literal programs read their tables; the tables and one function per operation are written in."""

from typing import Any


def read(table: Any, *operands: int) -> Any:
    """The entry of a nested table."""
    for operand in operands:
        table = table[operand]
    return table


def folded(table: Any, *operands: int) -> int:
    """The pairs' table applied from the last operand back to the first."""
    *rest, value = operands
    for operand in reversed(rest):
        value = table[operand][value]
    return value
