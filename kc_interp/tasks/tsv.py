"""Public ListOps files: reading and writing the two layouts in which the data set is shared.

- `nangia-bowman` (https://github.com/nyu-mll/spinn): `label<TAB>expression`, no header.
- `lra` (Long Range Arena, https://github.com/google-research/long-range-arena): a header `Source<TAB>Target`, the
  expression first.

Both write expressions binary-bracketed, `( ( ( [SM 6 ) 5 ) ] )` for `[SUM 6 5]`, over ten digits and the operations
MIN, MAX, MED and SM (our SUM), and take `int(numpy.median)` for MED. Some lines are a bare digit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kc_interp.errors import DataError, ExpressionError
from kc_interp.files import write_atomically
from kc_interp.tasks.expressions import Application, Expression, Median, evaluate, parse
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains

Layout = Literal["nangia-bowman", "lra"]

LRA_HEADER = "Source\tTarget"

_TO_PUBLIC = {"MIN": "MIN", "MAX": "MAX", "MED": "MED", "SUM": "SM"}
_FROM_PUBLIC = {public: ours for ours, public in _TO_PUBLIC.items()}


@dataclass(frozen=True)
class Row:
    """One labelled expression; `line` counts from 1, the header included."""

    line: int
    label: int
    expression: Expression


def read(path: Path, *, modulus: int = 10, check: Median | None = None) -> Iterator[Row]:
    """The rows of a file, one at a time; its layout is known by its header.

    With `check`, every label is compared with the value of its expression under that median. Raises DataError with the
    path, the line and what was expected there.
    """
    try:
        with path.open(encoding="utf-8") as file:
            layout: Layout = "nangia-bowman"
            number = 0
            for number, line in enumerate(file, start=1):
                text = line.rstrip("\r\n")
                if number == 1 and text.split("\t") == LRA_HEADER.split("\t"):
                    layout = "lra"
                elif text:
                    yield _row(path, number, text, layout, modulus, check)
            if number <= (layout == "lra"):
                raise DataError(f"{path}: holds no expression; expected lines of an expression and its value")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not a text file (byte {error.start} is not UTF-8)") from error


def _row(path: Path, line: int, text: str, layout: Layout, modulus: int, check: Median | None) -> Row:
    where = f"{path}:{line}"
    fields = text.split("\t")
    order = "expression<TAB>label" if layout == "lra" else "label<TAB>expression"
    if len(fields) != 2:
        raise DataError(f"{where}: expected {order}, found {len(fields)} fields")
    label, spelled = reversed(fields) if layout == "lra" else fields
    if not label.strip().isdecimal() or int(label) >= modulus:
        raise DataError(f"{where}: expected {order} with a label from 0 to {modulus - 1}, found the label {label!r}")
    try:
        expression = parse(_without_parentheses(spelled), modulus, aliases=_FROM_PUBLIC)
    except ExpressionError as error:
        raise DataError(f"{where}: in the expression, {error}") from error
    if check is not None and (value := evaluate(expression, modulus, check)) != int(label):
        raise DataError(f"{where}: the label is {int(label)}, but the expression's value is {value} ({check} median)")
    return Row(line, int(label), expression)


def _without_parentheses(text: str) -> str:
    """The text with spaces for its parentheses, which must balance: every other symbol keeps its position."""
    level = 0
    for position, character in enumerate(text):
        level += (character == "(") - (character == ")")
        if level < 0:
            raise ExpressionError(f"at position {position}: found ')' that closes nothing", position)
    if level:
        raise ExpressionError(f"at position {len(text)}: the text ends with {level} '(' open; expected ')'", len(text))
    return text.replace("(", " ").replace(")", " ")


def write(path: Path, labelled: Iterable[tuple[int, Expression]], layout: Layout) -> Path:
    """Write labels with expressions as a file that `read` reads, whole or not at all.

    Raises DataError on an operation that the public files have no name for.
    """
    lines = [LRA_HEADER] if layout == "lra" else []
    for label, expression in labelled:
        spelled = binary_bracketed(expression)
        lines.append(f"{spelled}\t{label}" if layout == "lra" else f"{label}\t{spelled}")
    return write_atomically(path, "".join(f"{line}\n" for line in lines))


def binary_bracketed(expression: Expression) -> str:
    """The public spelling: `[SUM 6 5]` is `( ( ( [SM 6 ) 5 ) ] )`, every pair joined with what stands to its left."""
    if isinstance(expression, int):
        return str(expression)
    if expression.operation not in _TO_PUBLIC:
        raise DataError(
            f"the public layouts have no name for {expression.operation}; they hold {', '.join(_TO_PUBLIC)} only"
        )
    spelled = f"[{_TO_PUBLIC[expression.operation]}"
    for operand in expression.operands:
        spelled = f"( {spelled} {binary_bracketed(operand)} )"
    return f"( {spelled} ] )"


def to_chains(task: ListOps, rows: Iterable[Row]) -> tuple[Chains, int]:
    """The rows as chains of a task, worked out by it, and the number of bare digits left out (they ask nothing)."""
    expressions = [row.expression for row in rows]
    asked = [expression for expression in expressions if isinstance(expression, Application)]
    return task.of_expressions(asked), len(expressions) - len(asked)


def from_chains(task: ListOps, chains: Chains) -> Iterator[tuple[int, Expression]]:
    """The answer and the question of each chain, as `write` takes them."""
    symbols = task.symbols
    for row, length, answer in zip(chains.symbols, chains.prompts, chains.answers, strict=True):
        question = " ".join(symbols[code] for code in row[:length])
        yield int(symbols[row[answer]]), parse(question, task.modulus)
