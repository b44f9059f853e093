"""Complexity of data and algebra against exact numbers and brute force; the command that prints every measure."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kc_interp.cli.complexity import complexity, subsets
from kc_interp.complexity import algebra, code, data, measures
from kc_interp.complexity.measure import Measure
from kc_interp.complexity.series import series_complexity
from kc_interp.errors import SpecError
from kc_interp.tasks.expressions import OPERATIONS, Application, apply, parse
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.universe import table_entropy_bits

app = typer.Typer()
app.command()(complexity)


def by_key(found: list[Measure]) -> dict[str, Measure]:
    return {measure.key: measure for measure in found}


def algebra_of(*operations: str) -> dict[str, float | None]:
    return {key: measure.value for key, measure in by_key(algebra.measures(ListOps(operations))).items()}


@pytest.mark.parametrize(
    ("operation", "pairs", "triples", "bits"),
    [
        ("SUM", 3.322, 3.322, (332, 3_322)),
        ("MED", 3.049, 3.160, (305, 3_160)),
        ("MAX", 3.049, 2.706, (305, 2_706)),
        ("MIN", 3.049, 2.706, (305, 2_706)),
        ("PROD", 3.034, 2.567, (303, 2_567)),
    ],
)
def test_entropies_and_bits_to_memorise(operation: str, pairs: float, triples: float, bits: tuple[int, int]) -> None:
    found = {key: value or 0.0 for key, value in algebra_of(operation).items()}
    assert round(found["algebra.entropy.2"], 3) == pairs
    assert round(found["algebra.entropy.3"], 3) == triples
    assert (round(found["algebra.memorise.2"]), round(found["algebra.memorise.3"])) == bits
    assert found["algebra.memorise"] == pytest.approx(sum(found[f"algebra.memorise.{arity}"] for arity in (2, 3)))
    assert found["algebra.entropy.3"] == pytest.approx(table_entropy_bits(ListOps((operation,)), 3)[operation])


@pytest.mark.parametrize(
    ("operations", "order"),
    [
        (("MAX",), 10),
        (("MIN",), 10),
        (("SUM",), 10),
        (("PROD",), 10),
        (("NADD",), 20),
        (("MAX", "MIN"), 55),
        (("SUM", "PROD"), 100),
        (("MAX", "MED"), 10),
    ],
)
def test_orders_of_the_transformation_monoid(operations: tuple[str, ...], order: int) -> None:
    assert algebra_of(*operations)["algebra.monoid"] == order


def test_max_with_sum_has_more_than_300_000_transformations() -> None:
    measure = by_key(algebra.measures(ListOps(("MAX", "SUM"))))["algebra.monoid"]
    assert (measure.value, measure.note) == (300_000, "more than")


@pytest.mark.parametrize(
    ("operation", "classes"),
    [
        ("MAX", [1, 10, 10, 10]),
        ("MIN", [1, 10, 10, 10]),
        ("SUM", [1, 10, 10, 10]),
        ("PROD", [1, 10, 10, 10]),
        ("NADD", [1, 10, 10, 10]),
        ("MED", [1, 10, 55, 10]),
    ],
)
def test_prefix_classes_of_two_or_three_operands(operation: str, classes: list[int]) -> None:
    assert algebra.prefix_classes(ListOps((operation,))) == classes
    assert algebra_of(operation)["algebra.prefixes.joint"] == sum(classes)


def test_classes_merge_where_operations_agree_on_all_that_may_follow() -> None:
    # MAX of 0 so far and SUM of 0 so far: whatever comes next is the answer. SUM and NADD after two: both add the third.
    assert algebra.prefix_classes(ListOps(("MAX", "SUM"))) == [2, 20, 19, 10]
    assert algebra.prefix_classes(ListOps(("SUM", "NADD"))) == [2, 20, 10, 10]
    assert algebra_of("SUM", "NADD")["algebra.prefixes.sum"] == 62


SETS = st.sets(st.sampled_from(OPERATIONS), min_size=1).map(lambda names: tuple(sorted(names)))


@settings(max_examples=25)
@given(operations=SETS, modulus=st.integers(2, 3), longest=st.integers(2, 4))
def test_prefix_classes_are_those_of_all_continuations_written_out(
    operations: tuple[str, ...], modulus: int, longest: int
) -> None:
    streams = [s for length in range(longest + 1) for s in itertools.product(range(modulus), repeat=length)]

    def behaviour(name: str, prefix: tuple[int, ...]) -> frozenset[object]:
        """Each continuation that is possible, with its answer."""
        whole = [(more, prefix + more) for more in streams if len(prefix + more) <= longest]
        return frozenset((more, apply(name, list(w), modulus) if len(w) > 1 else None) for more, w in whole)

    written = {behaviour(name, prefix) for name in operations for prefix in streams}
    assert sum(algebra.prefix_classes(ListOps(operations, modulus=modulus, max_operands=longest))) == len(written)


@settings(max_examples=25)
@given(operations=SETS, modulus=st.integers(2, 3))
def test_monoids_are_those_of_all_compositions_written_out(operations: tuple[str, ...], modulus: int) -> None:
    """States are (value, parity) here, and a value alone in the code where no NADD needs the parity."""
    states = list(itertools.product(range(modulus), (0, 1) if "NADD" in operations else (0,)))

    def read(name: str, number: int) -> dict[tuple[int, int], tuple[int, int]]:
        if name == "NADD":
            return {(v, p): ((v - number if p else v + number) % modulus, 1 - p) for v, p in states}
        return {(v, p): (apply(name, [v, number], modulus), p) for v, p in states}

    maps = [read(name, number) for name in operations for number in range(modulus)]
    seen = {tuple(states)}
    waiting = list(seen)
    while waiting:
        images = waiting.pop()
        for step in maps:
            composed = tuple(step[image] for image in images)
            if composed not in seen:
                seen.add(composed)
                waiting.append(composed)
    assert algebra.monoid_order(algebra.generators(ListOps(operations, modulus=modulus))) == len(seen)


def test_a_large_modulus_is_measured_and_larger_tables_are_refused() -> None:
    found = by_key(algebra.measures(ListOps(("SUM",), modulus=40)))
    assert found["algebra.entropy.2"].value == pytest.approx(math.log2(40))
    assert (found["algebra.monoid"].value, found["algebra.prefixes.joint"].value) == (40, 121)
    assert algebra.monoid_order(algebra.generators(ListOps(("NADD",), modulus=100, max_operands=2))) == 200
    with pytest.raises(
        SpecError, match="4 operands over 100 numbers has 100,000,000 entries, more than 2,000,000; lower"
    ):
        algebra.measures(ListOps(("SUM",), modulus=100, max_operands=4))


def test_the_texts_of_a_sample_are_chains_questions_and_questions_with_answers() -> None:
    task = ListOps(("SUM",))
    questions = [parse(text) for text in ("[SUM 1 [SUM 4 3]]", "[SUM 9 2]")]
    chains = task.of_expressions([question for question in questions if isinstance(question, Application)])
    texts = [[task.symbols[code] for code in text] for text in data.texts(chains)]
    assert " ".join(texts[0]) == "[ SUM 1 [ SUM 4 3 ] ] > [ SUM 1 7 ] = 8 <end> [ SUM 9 2 ] = 1 <end>"
    assert " ".join(texts[1]) == "[ SUM 1 [ SUM 4 3 ] ] <end> [ SUM 9 2 ] <end>"
    assert " ".join(texts[2]) == "[ SUM 1 [ SUM 4 3 ] ] 8 <end> [ SUM 9 2 ] 1 <end>"


def test_answers_of_sum_compress_worst_beyond_their_intervals() -> None:
    found = {op: by_key(data.measures(ListOps((op,)), examples=500, seeds=4)) for op in ("MAX", "MED", "SUM")}
    for compressor in ("deflate", "bz2", "lzma", "zstd"):
        answers = {op: measures[f"data.answers.{compressor}"] for op, measures in found.items()}
        assert (answers["SUM"].low or 0) > (answers["MAX"].high or 0)
        questions = {op: m[f"data.questions.{compressor}"] for op, m in found.items()}
        # The control: questions of one operation do not tell which one it is.
        assert (questions["SUM"].low or 0) < (questions["MAX"].high or 0)
    assert all(m.low is not None and m.high is not None for m in found["SUM"].values())


def test_students_interval_of_three_numbers() -> None:
    mean, low, high = data.mean_and_interval([1.0, 2.0, 3.0])
    assert (mean, round(high - mean, 3), round(mean - low, 3)) == (2.0, 2.484, 2.484)


def test_an_arithmetic_and_a_pseudorandom_series_differ_in_data_and_not_in_code() -> None:
    """The rebuttal's example: of two predictors, program size sees no difference and data entropy sees all of it."""
    arithmetic, pseudorandom = series_complexity()
    assert arithmetic.ast_nodes == pseudorandom.ast_nodes
    assert arithmetic.bytecode_bytes == pseudorandom.bytecode_bytes
    assert arithmetic.source_bytes == pseudorandom.source_bytes
    assert abs(arithmetic.code_bytes - pseudorandom.code_bytes) <= 3
    assert arithmetic.data_bits_per_term < 0.1
    assert pseudorandom.data_bits_per_term > 0.98 * math.log2(10)
    with pytest.raises(SpecError, match="terms is 5; a series to compress needs at least 100"):
        series_complexity(terms=5)


def test_every_measure_has_its_own_key_a_unit_and_a_definition() -> None:
    found = measures(ListOps(("MAX", "SUM")), examples=50, seeds=2)
    assert len({m.key for m in found}) == len(found)
    assert all(m.unit and m.definition and m.title and m.value is not None for m in found)
    assert {m.family for m in found} == {"code", "data", "algebra"}
    assert measures(ListOps(("MAX",)), families=["algebra"]) == algebra.measures(ListOps(("MAX",)))


def test_samples_that_allow_no_interval_are_refused() -> None:
    with pytest.raises(SpecError, match="seeds is 1; an interval needs at least 2 samples"):
        data.measures(ListOps(("MAX",)), seeds=1)
    with pytest.raises(SpecError, match="examples is 5; a sample to compress needs at least 10"):
        data.measures(ListOps(("MAX",)), examples=5)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "220"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_all_fifteen_subsets_under_json() -> None:
    printed = json.loads(
        run("--all-subsets", "--families", "code,algebra", "--variants", "numeric,loop-free", "--json")
    )
    assert len(printed["values"]) == 15
    keys = [measure["key"] for measure in printed["measures"]]
    assert all(list(values) == keys for values in printed["values"].values())
    assert {m["part"] for m in printed["measures"]} == {"joint", "sum", "saving"}
    assert printed["values"]["MAX+SUM"]["algebra.monoid"] == {"value": 300_000, "note": "more than"}
    assert printed["largest_single"]["algebra.prefixes.joint"] == ["MED"]
    assert "algebra.monoid" not in printed["largest_single"]  # 10 for all four: it ranks nothing


def test_the_table_names_units_and_what_is_joint() -> None:
    shown = run(
        "--ops", "MAX,SUM", "--ops", "MAX", "--ops", "SUM", "--variants", "numeric", "--examples", "50", "--seeds", "2"
    )
    for word in (
        "joint",
        "sum of singles",
        "saved by joining",
        "bytes",
        "nodes",
        "bits/example",
        "bits/answer",
        "300k+",
        "± (95 %)",
    ):
        assert word in shown
    assert "measuring" not in shown


def test_programs_are_written_as_they_were_measured(tmp_path) -> None:
    run("--ops", "SUM,MAX", "--families", "code", "--variants", "numeric", "--programs", str(tmp_path), "--json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MAX+SUM.numeric.min.py", "MAX+SUM.numeric.py"]
    assert (tmp_path / "MAX+SUM.numeric.min.py").read_text() == code.program(
        ListOps(("MAX", "SUM")), "numeric"
    ).minified


def test_subsets_are_named_once_small_ones_first() -> None:
    assert subsets(["MAX,sum", "SUM,MED"], every=True) == [
        "MAX", "SUM", "MED", "MAX,SUM", "MAX,MED", "SUM,MED", "MAX,SUM,MED",
    ]  # fmt: skip
    assert subsets(["MAX,SUM", "SUM", "MAX,SUM"], every=False) == ["MAX,SUM", "SUM"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ops", "MAXX"], "unknown operation 'MAXX'; did you mean 'MAX'?"),
        (["--families", "codes"], "no family of measures 'codes'; did you mean 'code'?"),
        (["--variants", "loopfree"], "no variant 'loopfree' of programs; did you mean 'loop-free'?"),
        (["--modulus", "1"], "modulus is 1; it must lie between 2 and 100"),
        (["--families", "data", "--seeds", "1"], "seeds is 1; an interval needs at least 2 samples"),
    ],
)
def test_a_mistake_gets_an_instruction(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, SpecError) and says in str(done.exception)


def test_a_longer_sample_is_cheaper_by_the_example() -> None:
    task = ListOps(("SUM",))
    sizes = [
        np.mean([data.sample_bits(task, "lzma", examples=n, seed=s)["chains"] for s in range(3)]) for n in (50, 1_000)
    ]
    assert sizes[1] < sizes[0]
