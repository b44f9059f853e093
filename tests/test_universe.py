"""Exact counts of questions, entropies of the answer tables, and what a training set covers."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from kc_interp.errors import SpecError
from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.universe import coverage, questions, questions_by_length, table_entropy_bits, universe


def enumerated(depth: int, operations: int, most: int, modulus: int) -> list[str]:
    """Every expression of a small universe, written out."""
    found = [str(number) for number in range(modulus)]
    if depth:
        inner = enumerated(depth - 1, operations, most, modulus)
        found += [
            f"[{name} {' '.join(parts)}]"
            for name in OPERATIONS[:operations]
            for arity in range(2, most + 1)
            for parts in itertools.product(inner, repeat=arity)
        ]
    return found


@pytest.mark.parametrize(
    ("depth", "operations", "most", "modulus"), [(1, 1, 3, 10), (1, 6, 4, 3), (2, 1, 3, 2), (2, 3, 2, 3)]
)
def test_the_count_is_that_of_all_questions_written_out(depth: int, operations: int, most: int, modulus: int) -> None:
    written = {text for text in enumerated(depth, operations, most, modulus) if text[0] == "["}
    counts = {"operations": operations, "max_operands": most, "modulus": modulus}
    assert questions(depth, **counts) == len(written)
    longest = 3 * sum(most**level for level in range(depth)) + most**depth
    by_length = Counter(len(text.replace("[", "[ ").replace("]", " ]").split()) for text in written)
    assert questions_by_length(depth, longest, **counts) == [by_length[length] for length in range(longest + 1)]


def test_the_universe_by_nesting() -> None:
    assert questions(1) == 1_100
    assert questions(2) == 1110**2 + 1110**3
    assert f"{questions(2):.2e}" == "1.37e+09"
    assert f"{questions(3):.1e}" == "2.6e+27"
    assert f"{questions(3, operations=3):.1e}" == "3.9e+33"
    assert f"{questions(3, operations=4):.1e}" == "1.6e+35"
    assert universe(ListOps(("SUM",))) == questions(2)
    assert universe(ListOps(("SUM",), p_operation=0.0)) == 1_100
    assert universe(ListOps(("SUM",), lengths=(5, 6))) == 1_100
    assert universe(ListOps(("SUM",), lengths=(7, 100))) == questions(2) - 1_100


def test_a_count_of_more_than_a_million_bits_is_refused() -> None:
    with pytest.raises(SpecError, match="nesting 20 with 3 operands has too many questions to count exactly"):
        questions(20)


def test_the_answer_tables_have_the_published_entropies() -> None:
    task = ListOps(OPERATIONS)
    rounded = [{k: round(v, 3) for k, v in table_entropy_bits(task, arity).items()} for arity in (2, 3)]
    assert rounded[0] == {"MAX": 3.049, "MIN": 3.049, "MED": 3.049, "SUM": 3.322, "PROD": 3.034, "NADD": 3.322}
    assert rounded[1] == {"MAX": 2.706, "MIN": 2.706, "MED": 3.16, "SUM": 3.322, "PROD": 2.567, "NADD": 3.322}


def test_coverage_counts_what_the_lines_show() -> None:
    task = ListOps(("MAX", "SUM"))
    parts = [task.parse(text) for text in ("[SUM 1 [MAX 4 3]]", "[SUM 4 1]", "[SUM 4 1]", "[MAX 1 1 2]")]
    found = coverage(task, type(parts[0]).concatenate(parts, end=0))
    assert (found.questions, found.distinct) == (4, 3)
    assert found.universe == questions(2, operations=2) and found.share == 3 / found.universe
    assert (found.atoms["SUM"].seen, found.atoms["SUM"].orbits_seen) == (2, 1)
    assert (found.atoms["MAX"].seen, found.atoms["MAX"].orbits_seen) == (2, 2)
    assert (found.atoms["MAX"].total, found.atoms["MAX"].orbits) == (1_100, 275)


def test_the_atoms_cover_themselves() -> None:
    task = ListOps(("PROD",), modulus=7, max_operands=4)
    found = coverage(task, task.atoms()).atoms["PROD"]
    assert found.seen == found.total == 7**2 + 7**3 + 7**4 and found.orbits_seen == found.orbits
    assert coverage(task, task.sample(0, np.random.default_rng(0))).atoms["PROD"].seen == 0
