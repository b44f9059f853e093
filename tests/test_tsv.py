"""Public ListOps files: both layouts read and written, and the line that is wrong named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kc_interp.errors import DataError
from kc_interp.tasks import listops, tsv
from kc_interp.tasks.expressions import Application, evaluate, parse, show
from kc_interp.tasks.listops import ListOps
from tests.cases import CASES


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_binary_bracketed_spelling_is_the_published_one() -> None:
    assert tsv.binary_bracketed(parse("[SUM 6 5]")) == "( ( ( [SM 6 ) 5 ) ] )"
    nested = "( ( ( [MAX 2 ) ( ( ( ( [MIN 4 ) 7 ) 0 ) ] ) ) ] )"
    assert tsv.binary_bracketed(parse("[MAX 2 [MIN 4 7 0]]")) == nested
    assert tsv.binary_bracketed(7) == "7"


def test_nangia_and_bowmans_layout_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "1\t( ( ( [SM 6 ) 5 ) ] )\n6\t( ( ( [MED 4 ) 9 ) ] )\n\n3\t3\n")
    rows = list(tsv.read(path, check="numpy"))
    assert [(row.line, row.label, show(row.expression)) for row in rows] == [
        (1, 1, "[SUM 6 5]"),
        (2, 6, "[MED 4 9]"),
        (4, 3, "3"),
    ]


def test_the_long_range_arenas_layout_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "b.tsv", "Source\tTarget\n( ( ( [SM 6 ) 5 ) ] )\t1\n[MAX 2 9 [MIN 4 7 ] 0 ]\t9\n")
    assert [(row.line, row.label, show(row.expression)) for row in tsv.read(path)] == [
        (2, 1, "[SUM 6 5]"),
        (3, 9, "[MAX 2 9 [MIN 4 7] 0]"),
    ]


@pytest.mark.parametrize("layout", ["nangia-bowman", "lra"])
def test_the_case_table_survives_a_file(layout: tsv.Layout, tmp_path: Path) -> None:
    public = [
        case for case in CASES if case.modulus == 10 and not {"PROD", "NADD"} & set(re.findall("[A-Z]+", case.text))
    ]
    path = tsv.write(tmp_path / "c.tsv", [(case.value, parse(case.text)) for case in public], layout)
    assert [(row.label, show(row.expression)) for row in tsv.read(path)] == [(case.value, case.text) for case in public]


@pytest.mark.parametrize("layout", ["nangia-bowman", "lra"])
def test_sampled_chains_survive_a_file(layout: tsv.Layout, tmp_path: Path) -> None:
    task = ListOps(("MIN", "MAX", "MED", "SUM"), median="numpy", depth=4, max_operands=5, p_operation=0.3)
    chains = task.sample(200, np.random.default_rng(0))
    path = tsv.write(tmp_path / "d.tsv", tsv.from_chains(task, chains), layout)
    again, bare = tsv.to_chains(task, tsv.read(path, check="numpy"))
    assert task.format(again) == task.format(chains) and bare == 0


def test_bare_digits_are_read_and_counted_but_ask_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "e.tsv", "3\t3\n1\t( ( ( [SM 6 ) 5 ) ] )\n")
    chains, bare = tsv.to_chains(ListOps(), tsv.read(path))
    assert ListOps().format(chains) == ["[SUM 6 5] = 1"] and bare == 1


@given(
    st.recursive(
        st.integers(0, 9),
        lambda inner: st.builds(
            Application,
            st.sampled_from(["MIN", "MAX", "MED", "SUM"]),
            st.lists(inner, min_size=2, max_size=5).map(tuple),
        ),
        max_leaves=15,
    )
)
def test_the_spelling_is_balanced_and_binary(tree: Application | int) -> None:
    spelled = tsv.binary_bracketed(tree).split()
    assert spelled.count("(") == spelled.count(")")
    # A binary tree: one pair of parentheses fewer than leaves.
    assert spelled.count("(") == len([word for word in spelled if word not in "()"]) - 1
    assert isinstance(evaluate(tree), int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1\t( ( ( [SM 6 ) 5 ) ] )\nx\t3\n",
            r":2: expected label<TAB>expression with a label from 0 to 9, found the label 'x'",
        ),
        ("1 [SM 6 5 ]\n", ":1: expected label<TAB>expression, found 1 fields"),
        ("Source\tTarget\n1\t( [SM 6 5 ] )\n", r":2: expected expression<TAB>label"),
        ("1\t( ( [SM 6 ) 5 ) ] )\n", r":1: in the expression, at position 18: found '\)' that closes nothing"),
        ("1\t( ( ( ( [SM 6 ) 5 ) ] )\n", r":1: in the expression, at position 23: the text ends with 1 '\(' open"),
        ("1\t( [SUN 6 5 ] )\n", r":1: in the expression, at position 3: unknown operation 'SUN'; did you mean 'SUM'"),
        ("1\t\n", ":1: in the expression, the expression is empty"),
        ("0\t0\n2\t( ( ( [SM 6 ) 5 ) ] )\n", r":2: the label is 2, but the expression's value is 1 \(numpy median\)"),
        ("", "holds no expression"),
        ("Source\tTarget\n", "holds no expression"),
    ],
)
def test_a_broken_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "broken.tsv", text)
    with pytest.raises(DataError, match=message) as caught:
        list(tsv.read(path, check="numpy"))
    assert str(path) in str(caught.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not a text file"):
        list(tsv.read(tmp_path / "binary"))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(tsv.read(tmp_path / "absent"))


def test_an_operation_without_a_public_name_leaves_no_file(tmp_path: Path) -> None:
    rows = [(1, parse("[SUM 6 5]")), (2, parse("[PROD 1 2]"))]
    with pytest.raises(DataError, match="no name for PROD; they hold MIN, MAX, MED, SUM only"):
        tsv.write(tmp_path / "f.tsv", rows, "lra")
    assert list(tmp_path.iterdir()) == []


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = written(tmp_path / "g.tsv", "3\t3\nbroken\n")
    rows = tsv.read(path)
    assert next(rows).label == 3
    with pytest.raises(DataError, match=":2:"):
        next(rows)


def test_chains_that_would_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chains of 26 symbols or so against a limit of 70; the real one is some gigabytes."""
    monkeypatch.setattr(listops, "SYMBOL_LIMIT", 70)
    deep = parse("[SUM [SUM [SUM 1 2] 3] 4]")
    assert isinstance(deep, Application)
    with pytest.raises(DataError, match=r"3 chains .* too many at once; read fewer or shorter expressions"):
        ListOps().of_expressions([deep] * 3)
    assert len(ListOps().of_expressions([deep])) == 1
