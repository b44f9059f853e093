"""Complexity of the code: the size of the program of a set of operations, in four variants under one rule.

The variants are described in `programs`. A program is assembled (`library`), minified, run against the evaluator on the
atomic table, and only then measured. The joint program of several operations holds shared code once; beside it stands
the sum of the programs of each alone, and what joining saves. A compressor also saves on syntax that any two programs
share (`def`, `return`); the saving in syntax nodes, which counts shared definitions alone, is the control.
"""

from __future__ import annotations

import ast
import dis
import functools
import marshal
import string
import types
from collections.abc import Mapping, Sequence

from kc_interp.complexity import tables
from kc_interp.complexity.compressors import COMPRESSORS, compressed_bytes
from kc_interp.complexity.library import Library, Program, ast_nodes, shipped
from kc_interp.complexity.measure import Measure, Part
from kc_interp.errors import SpecError, did_you_mean
from kc_interp.tasks.expressions import OPERATIONS, Median
from kc_interp.tasks.listops import ListOps

VARIANTS = ("numeric", "symbolic", "loop-free", "table-folded", "table")
"""The last two are the two forms of the table-literal variant."""

SYMBOLS = string.digits + string.ascii_letters + "αβγδεζηθικλμνξοπρστυφχψωабвгдежзийклмн"
"""The symbols of symbolic programs. From the 63rd on each takes two bytes of program text."""

TABLE_LIMIT = 30_000
"""A table-literal program is not written when one operation's tables have more entries."""

_SAYS: Mapping[str, str] = {
    "numeric": "on ints with arithmetic, comparison and loops",
    "symbolic": "on opaque symbols, their order being data of the program",
    "loop-free": "on two or three ints with expressions and if alone",
    "table-folded": "with the answers to pairs as literals, folded (all numbers of operands where a fold is wrong)",
    "table": "with the answers to every number of operands as literals",
}

_UNITS: Mapping[str, tuple[str, str, str]] = {
    "source": ("source", "bytes", "bytes of minified source"),
    "deflate": ("raw deflate", "bytes", "bytes of minified source after raw deflate at level 9, header subtracted"),
    "bz2": ("bz2", "bytes", "bytes of minified source after bz2, header subtracted"),
    "lzma": ("raw LZMA", "bytes", "bytes of minified source after raw LZMA, header subtracted"),
    "zstd": ("zstd", "bytes", "bytes of minified source after magicless zstd at level 22, header subtracted"),
    "ast": ("syntax", "nodes", "syntax-tree nodes of the minified source (a literal is one node, however long)"),
    "bytecode": (
        "bytecode",
        "bytes",
        "bytes of CPython instructions and constants, names and caches left out (depends on the Python version)",
    ),
}

_PARTS: Mapping[Part, str] = {
    "joint": "one program for all operations, shared code once",
    "sum": "sum of the programs of each operation alone",
    "saving": "sum of the single programs less the joint one, less an empty program for each operation but the first",
}


def program(task: ListOps, variant: str, operations: Sequence[str] | None = None) -> Program:
    """The program of these operations (None: all of the task), assembled, minified and checked.

    Operations are put into the order of OPERATIONS, so that how they were listed changes nothing. Raises SpecError
    when the variant does not exist or cannot be written for this task, or an answer differs from the evaluator's.
    """
    wanted = task.operations if operations is None else operations
    ordered = tuple(sorted(wanted, key=OPERATIONS.index))
    if reason := unavailable(task, variant, ordered):
        raise SpecError(f"no {variant} program of {', '.join(ordered)}: {reason}")
    return _program(variant, ordered, task.modulus, task.max_operands, task.median)


def unavailable(task: ListOps, variant: str, operations: Sequence[str]) -> str | None:
    """Why this variant has no program for these settings; None when it has. Raises SpecError on an unknown variant."""
    if variant not in VARIANTS:
        raise SpecError(f"no variant {variant!r} of programs{did_you_mean(variant, VARIANTS)}")
    if variant.startswith("table"):
        entries = sum(task.modulus**arity for arity in range(2, task.max_operands + 1))
        return None if entries <= TABLE_LIMIT else f"a table has {entries:,} entries, more than {TABLE_LIMIT:,}"
    if variant == "loop-free" and task.max_operands > 3:
        return f"they take two or three operands; the task has up to {task.max_operands}"
    if "MED" in operations and task.median != "upper":
        return f"they solve the upper median; the task's is {task.median!r}"
    return None


@functools.lru_cache(maxsize=4096)
def _program(variant: str, operations: tuple[str, ...], modulus: int, max_operands: int, median: Median) -> Program:
    settings: dict[str, int | str] = {"MODULUS": modulus, "ORDER": SYMBOLS[:modulus]}
    if variant.startswith("table"):
        library = _with_tables(variant, operations, modulus, max_operands, median)
    else:
        library = shipped(variant.replace("-", "_"))
    made = library.assemble(operations, settings)
    check(made, modulus, max_operands, median)
    return made


def check(made: Program, modulus: int, max_operands: int, median: Median = "upper") -> int:
    """Run a minified program over the atomic table; the number of reductions that agreed with the evaluator.

    Tables of more than 20,000 rows are checked at 2,000 evenly spaced ones. Raises SpecError at the first that differs.
    """
    agreed = 0
    symbols: Sequence[object] = SYMBOLS if made.variant == "symbolic" else range(modulus)
    for operation, solve in made.run().items():
        for arity in range(2, max_operands + 1):
            for operands, answer in tables.atomic_rows(operation, arity, modulus, median):
                found = solve(*[symbols[operand] for operand in operands])
                if found != symbols[answer]:
                    raise SpecError(
                        f"the {made.variant} program answers {found!r} to {operation} of "
                        f"{', '.join(map(str, operands))} (mod {modulus}); the evaluator says {answer}"
                    )
                agreed += 1
    return agreed


def _with_tables(variant: str, operations: tuple[str, ...], modulus: int, max_operands: int, median: Median) -> Library:
    """The library of table readers with the tables of these operations and one solution each written in."""
    lines = []
    for operation in operations:
        table = {arity: tables.answers(operation, arity, modulus, median) for arity in range(2, max_operands + 1)}
        if variant == "table-folded" and _folds(operation, modulus, max_operands, median):
            lines += [
                f"{operation} = {tables.literal(table[2])}",
                _READER.format(operation.lower(), "folded", operation),
            ]
        else:
            entries = ", ".join(f"{arity}: {tables.literal(entry)}" for arity, entry in table.items())
            called = f"{operation}, len(operands)"
            lines += [f"{operation} = {{{entries}}}", _READER.format(operation.lower(), "read", called)]
    return Library(variant, shipped("table").source).with_source("\n".join(lines))


_READER = "def {}_by_table(*operands):\n    return {}({}, *operands)"


def _folds(operation: str, modulus: int, max_operands: int, median: Median) -> bool:
    """Whether the pairs' table folded from the right gives the evaluator's answers to more operands."""
    pairs = tables.answers(operation, 2, modulus, median)
    folded = pairs
    for arity in range(3, max_operands + 1):
        folded = pairs[:, folded]
        if (folded != tables.answers(operation, arity, modulus, median)).any():
            return False
    return True


def sizes(source: str) -> dict[str, int]:
    """Every size of a minified program, by name."""
    text = source.encode()
    return {
        "source": len(text),
        **{name: compressed_bytes(text, name) for name in COMPRESSORS},
        "ast": ast_nodes(ast.parse(source)),
        "bytecode": _bytecode_bytes(compile(source, "<program>", "exec")),
    }


def _bytecode_bytes(code: types.CodeType) -> int:
    """Two bytes an instruction, and the marshalled constants (version 0 of the format, which holds no references)."""
    constants = [
        _bytecode_bytes(constant) if isinstance(constant, types.CodeType) else len(marshal.dumps(constant, 0))
        for constant in code.co_consts
    ]
    return 2 * sum(1 for _ in dis.get_instructions(code)) + sum(constants)


@functools.lru_cache(maxsize=4096)
def _sizes(made: Program) -> Mapping[str, int]:
    return sizes(made.minified)


@functools.cache
def _empty() -> Mapping[str, int]:
    return sizes(Program("none", (), (), "SOLVE = {}\n").minified)


def measures(task: ListOps, variants: Sequence[str] = VARIANTS) -> list[Measure]:
    """Size of the joint program, sum of the single ones, and saving, for every variant and size."""
    found = []
    for variant in variants:
        reason = unavailable(task, variant, task.operations) or ""
        values = {name: dict[Part, int]() for name in _UNITS} if reason else _parts(task, variant)
        for name, (title, unit, definition) in _UNITS.items():
            for part, says in _PARTS.items():
                value = values[name].get(part)
                found.append(
                    Measure(
                        key=f"code.{variant}.{name}.{part}",
                        title=f"{variant}, {title}",
                        value=None if value is None else float(value),
                        unit=unit,
                        family="code",
                        definition=f"programs {_SAYS[variant]}: {definition}; {says}",
                        part=part,
                        note=reason,
                    )
                )
    return found


def _parts(task: ListOps, variant: str) -> dict[str, dict[Part, int]]:
    joint = _sizes(program(task, variant))
    singles = [_sizes(program(task, variant, (operation,))) for operation in task.operations]
    parts: dict[str, dict[Part, int]] = {}
    for name in _UNITS:
        total = sum(single[name] for single in singles)
        saving = total - joint[name] - (len(singles) - 1) * _empty()[name]
        parts[name] = {"joint": joint[name], "sum": total, "saving": saving}
    return parts
