"""Complexity of code: programs that really have their variant's property, assembled by one rule, and sizes of them."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kc_interp.complexity import code, measures
from kc_interp.complexity.compressors import COMPRESSORS, compressed_bytes
from kc_interp.complexity.library import Library, Program, shipped
from kc_interp.errors import SpecError
from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.listops import ListOps

ROOT = Path(__file__).parents[1]
PAPER = ("MAX", "MIN", "MED", "SUM")
SUBSETS = [chosen for size in range(1, 5) for chosen in itertools.combinations(PAPER, size)]
PAIRS = list(itertools.combinations(OPERATIONS, 2))


def nodes_of(library: Library) -> list[ast.AST]:
    """Every node that a program of this library could be made of (imports serve annotations, which are dropped)."""
    kept = [s for s in library.definitions.values() if not isinstance(s, (ast.Import, ast.ImportFrom))]
    return [node for statement in kept for node in ast.walk(statement)]


def calls(nodes: list[ast.AST]) -> set[str]:
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def has(nodes: list[ast.AST], *kinds: type[ast.AST]) -> bool:
    return any(isinstance(node, kinds) for node in nodes)


LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def test_numeric_programs_loop_for_themselves() -> None:
    nodes = nodes_of(shipped("numeric"))
    assert has(nodes, ast.For) and has(nodes, ast.BinOp) and has(nodes, ast.Compare)
    assert calls(nodes) == {"ordered", "folded", "step", "result.insert", "len"}


def test_symbolic_programs_only_recognise_and_look_up() -> None:
    nodes = nodes_of(shipped("symbolic"))
    assert not has(nodes, ast.BinOp, ast.AugAssign, ast.UnaryOp, ast.BoolOp, ast.Slice)
    compared = {type(operator) for node in nodes if isinstance(node, ast.Compare) for operator in node.ops}
    assert compared == {ast.Eq, ast.In}
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    assert constants == ["0123456789"]
    assert not calls(nodes) & {"max", "min", "sorted", "sum", "len", "ord", "int", "range", "enumerate"}


def test_loop_free_programs_have_no_loop_in_any_disguise() -> None:
    library = shipped("loop_free")
    nodes = nodes_of(library)
    assert not has(nodes, *LOOPS, ast.Lambda, ast.Starred)
    assert calls(nodes) == {"larger", "smaller"}
    for name, statement in library.definitions.items():
        assert name not in {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} or name == "MODULUS"
        if isinstance(statement, ast.FunctionDef):
            assert not statement.args.vararg and 2 <= len(statement.args.posonlyargs) <= 3


@pytest.mark.parametrize("operation", OPERATIONS)
def test_table_programs_are_literals_and_look_ups(operation: str) -> None:
    for variant in ("table", "table-folded"):
        nodes = list(ast.walk(ast.parse(code.program(ListOps((operation,)), variant).source)))
        assert not has(nodes, ast.BinOp, ast.Compare, ast.If, ast.IfExp, ast.AugAssign)
        answers = sum(isinstance(node, ast.Tuple) and len(node.elts) == 10 for node in nodes)
        whole = variant == "table" or operation == "MED"
        # Rows of pairs and their table; ten such tables and their table for triples.
        assert answers == (11 + 111 if whole else 11)


def test_every_operation_has_a_solution_in_every_file() -> None:
    for name in ("numeric", "symbolic", "loop_free"):
        assert set(shipped(name).solutions) == set(OPERATIONS)


@pytest.mark.parametrize("variant", code.VARIANTS)
def test_every_solution_agrees_with_the_evaluator_on_every_pair_and_triple(variant: str) -> None:
    for subset in [*SUBSETS, OPERATIONS]:
        made = code.program(ListOps(subset), variant)  # checks what it makes, as the next test shows
        if len(subset) in (1, len(OPERATIONS)):
            assert code.check(made, 10, 3) == 1_100 * len(subset)


@pytest.mark.parametrize("name", ["numeric", "symbolic", "loop_free"])
def test_the_solutions_that_were_not_chosen_are_right_too(name: str) -> None:
    library = shipped(name)
    for operation, solutions in library.solutions.items():
        for solution in solutions:
            one = Program(
                name, (operation,), (solution,), library.text(solution) + f"SOLVE = {{{operation!r}: {solution}}}\n"
            )
            assert code.check(one, 10, 3) == 1_100


@pytest.mark.parametrize("variant", ["numeric", "symbolic", "table-folded"])
@pytest.mark.parametrize("modulus", [2, 7, 26])
def test_programs_follow_the_modulus(variant: str, modulus: int) -> None:
    made = code.program(ListOps(OPERATIONS, modulus=modulus), variant)
    assert made.run().keys() == set(OPERATIONS)  # made only after it was checked
    assert str(modulus) in made.source or variant != "numeric"


def test_more_operands_are_solved_by_programs_that_loop() -> None:
    task = ListOps(OPERATIONS, modulus=5, max_operands=4)
    assert code.check(code.program(task, "numeric"), 5, 4) == 6 * (25 + 125 + 625)
    assert code.check(code.program(task, "table-folded"), 5, 4) == 6 * (25 + 125 + 625)


def test_a_wrong_program_is_refused_before_it_is_measured() -> None:
    guess = Library("numeric", "def max_by_guess(*operands):\n    return operands[0]").assemble(("MAX",), {})
    with pytest.raises(
        SpecError, match=r"the numeric program answers 0 to MAX of 0, 1 \(mod 10\); the evaluator says 1"
    ):
        code.check(guess, 10, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            code,
            "shipped",
            lambda name: Library(name, "def max_by_guess(*operands):\n    return MODULUS\nMODULUS = 10"),
        )
        with pytest.raises(SpecError, match="the numeric program answers 11 to MAX of 0, 0"):
            code.program(ListOps(("MAX",), modulus=11), "numeric")


def test_shared_code_stands_in_a_joint_program_once() -> None:
    joint = code.program(ListOps(("MAX", "MED")), "numeric")
    assert joint.chosen == ("max_by_order", "med_by_order")
    assert joint.source.count("def ordered") == 1
    assert code.program(ListOps(("MAX",)), "numeric").chosen == ("max_by_scan",)


@pytest.mark.parametrize("name", ["numeric", "symbolic", "loop_free"])
@pytest.mark.parametrize("subset", [("SUM",), ("MAX", "MED"), ("MAX", "MIN", "MED")])
def test_of_several_solutions_the_shortest_assembly_is_taken(name: str, subset: tuple[str, ...]) -> None:
    library = shipped(name)
    chosen = len(library.assemble(subset, {}).minified)
    every = itertools.product(*(library.solutions[operation] for operation in subset))
    others = [len(only(library, solutions).assemble(subset, {}).minified) for solutions in every]
    assert min(others) <= chosen <= min(others) + 2


def only(library: Library, solutions: tuple[str, ...]) -> Library:
    """The library with these solutions alone."""
    wanted = frozenset[str]().union(*(library.needs(solution) for solution in solutions))
    kept = {id(s): s for name, s in library.definitions.items() if name in wanted}
    return Library(library.variant, "\n".join(ast.unparse(statement) for statement in kept.values()))


def test_another_package_can_add_an_operation() -> None:
    more = shipped("numeric").with_source(
        "def range_by_order(*operands):\n    found = ordered(operands)\n    return found[-1] - found[0]\n"
    )
    made = more.assemble(("MED", "RANGE"), {"MODULUS": 10})
    assert made.source.count("def ordered") == 1
    assert made.run()["RANGE"](7, 2, 4) == 5


def renamed(source: str) -> str:
    """The same program by other names, with comments."""
    for index, name in enumerate(
        ("ordered", "folded", "operands", "operand", "total", "best", "step", "place", "value")
    ):
        source = re.sub(rf"\b{name}\b", f"a_rather_long_name_{index}", source)
    return re.sub(r"^(def .*)$", r"# a remark\n\1  # and another", source, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["numeric", "symbolic", "loop_free"])
@pytest.mark.parametrize("subset", [("SUM",), ("MAX", "MED"), OPERATIONS])
def test_names_comments_and_docstrings_change_no_size(name: str, subset: tuple[str, ...]) -> None:
    library = shipped(name)
    other = Library(name, renamed(library.source))
    assert other.source != library.source
    sizes = [code.sizes(made.assemble(subset, {}).minified) for made in (library, other)]
    assert sizes[0] == sizes[1]


def test_the_order_in_which_operations_are_listed_changes_nothing() -> None:
    one, other = (code.measures(ListOps(ops)) for ops in (("SUM", "MAX", "MED"), ("MAX", "MED", "SUM")))
    assert one == other


@pytest.mark.parametrize("variant", code.VARIANTS)
def test_a_joint_program_costs_at_most_its_parts(variant: str) -> None:
    for pair in PAIRS:
        for size in ("source", *COMPRESSORS, "ast", "bytecode"):
            value = {m.key: m.value for m in code.measures(ListOps(pair), [variant])}
            joint, total = (value[f"code.{variant}.{size}.{part}"] for part in ("joint", "sum"))
            assert joint is not None and total is not None and joint <= total + 4, (pair, size)


def test_each_operation_costs_something_and_nothing_is_shared_by_max_and_sum() -> None:
    found = {m.key: m.value for m in code.measures(ListOps(("MAX", "SUM")), ["numeric", "loop-free"])}
    alone = {m.key: m.value for m in code.measures(ListOps(("SUM",)), ["numeric"])}
    assert found["code.numeric.deflate.joint"] > alone["code.numeric.deflate.joint"] > 20
    # The control: a compressor saves on the syntax of any two programs, where no definition is shared.
    assert found["code.numeric.ast.saving"] == 0 < found["code.numeric.deflate.saving"]
    sharing = {m.key: m.value for m in code.measures(ListOps(("MAX", "MED")), ["numeric"])}
    assert sharing["code.numeric.ast.saving"] > 5


def test_whether_sum_is_the_hardest_operation_depends_on_the_variant() -> None:

    def largest(key: str) -> str:
        sizes = {op: {m.key: m.value or 0.0 for m in code.measures(ListOps((op,)))}[key] for op in PAPER}
        return max(sizes, key=lambda op: sizes[op])

    assert largest("code.numeric.deflate.joint") == "MED"
    assert largest("code.loop-free.deflate.joint") == "MED"
    assert largest("code.table.lzma.joint") == "MED"
    assert largest("code.symbolic.ast.joint") == "SUM"


@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_sizes_have_no_header_and_repetition_is_cheap(compressor: str, data: bytes) -> None:
    assert compressed_bytes(b"", compressor) == 0
    assert 0 <= compressed_bytes(data, compressor) <= len(data) + 60
    assert compressed_bytes(bytes(5_000), compressor) < 40


def test_raw_deflate_is_zlib_without_its_six_bytes_and_the_empty_block() -> None:
    data = Path(__file__).read_bytes()
    assert compressed_bytes(data, "deflate") == len(zlib.compress(data, 9)) - 6 - 2


def test_measures_are_the_same_in_every_process() -> None:
    program = (
        "from kc_interp.complexity import measures\nfrom kc_interp.tasks.listops import ListOps\n"
        "print([(m.key, m.value) for m in measures(ListOps(), families=['code'], variants=['numeric', 'symbolic'])])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1 and "code.numeric.deflate.joint" in printed.pop()


def test_what_cannot_be_written_is_missing_with_its_reason() -> None:
    wide = {m.key: m for m in code.measures(ListOps(("MAX",), max_operands=4, modulus=5))}
    assert wide["code.loop-free.deflate.joint"].value is None
    assert wide["code.loop-free.deflate.joint"].note == "they take two or three operands; the task has up to 4"
    assert wide["code.numeric.deflate.joint"].value is not None
    large = {m.key: m for m in code.measures(ListOps(("MAX",), modulus=100), ["table"])}
    assert large["code.table.zstd.sum"].note == "a table has 1,010,000 entries, more than 30,000"
    other = {m.key: m for m in code.measures(ListOps(("MED",), median="numpy"), ["numeric", "table"])}
    assert other["code.numeric.deflate.joint"].note == "they solve the upper median; the task's is 'numpy'"
    assert other["code.table.deflate.joint"].value is not None


def test_messages() -> None:
    task = ListOps(("MAX",))
    with pytest.raises(SpecError, match=r"no variant 'numerical' of programs; did you mean 'numeric'\?"):
        code.program(task, "numerical")
    with pytest.raises(SpecError, match=r"no family of measures 'codes'; did you mean 'code'\?"):
        measures(task, families=["codes"])
    with pytest.raises(SpecError, match="no compressor 'gzip'; known: bz2, deflate, lzma, zstd"):
        compressed_bytes(b"", "gzip")
    with pytest.raises(SpecError, match=r"the numeric programs do not solve 'MAXX'; did you mean 'MAX'\?"):
        shipped("numeric").assemble(("MAXX",), {})
    with pytest.raises(SpecError, match="no loop-free program of MAX: they take two or three operands"):
        code.program(ListOps(("MAX",), max_operands=5), "loop-free")
