"""Reading, printing and evaluating ListOps expressions as trees; what a reader is told when one does not parse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kc_interp.errors import ExpressionError
from kc_interp.tasks import expressions
from kc_interp.tasks.expressions import OPERATIONS, Application, Expression, parse, show
from tests.cases import CASES, Case

numbers = st.integers(0, 9)
trees = st.recursive(
    numbers,
    lambda inner: st.builds(
        Application, st.sampled_from(OPERATIONS), st.lists(inner, min_size=2, max_size=5).map(tuple)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.text} mod {case.modulus} {case.median}")
def test_the_tree_evaluator_agrees_with_pen_and_paper(case: Case) -> None:
    tree = parse(case.text, case.modulus)
    assert show(tree) == case.text
    assert expressions.evaluate(tree, case.modulus, case.median) == case.value
    assert expressions.depth(tree) == case.depth
    assert tuple(expressions.reductions(tree, case.modulus, case.median)) == case.lines


@given(trees)
def test_what_is_printed_is_read_back(tree: Expression) -> None:
    assert parse(show(tree)) == tree


@given(trees, st.data())
def test_white_space_does_not_matter(tree: Expression, data: st.DataObject) -> None:
    blank = st.sampled_from([" ", "\t", "\n", "  "])
    text = "".join(word + data.draw(blank) for word in expressions.words(tree))
    assert parse(text) == tree
    assert parse(f" {show(tree)} ") == tree


@given(trees)
def test_every_line_has_the_value_of_the_question(tree: Expression) -> None:
    value = expressions.evaluate(tree)
    for line in expressions.reductions(tree):
        assert expressions.evaluate(parse(line)) == value


@given(st.text(alphabet="[]MAXSU 0123-4,x", max_size=30))
def test_any_text_parses_or_is_refused_at_a_position_inside_it(text: str) -> None:
    refused = refusal(text)
    assert refused is None or 0 <= refused.position <= len(text)


def refusal(text: str) -> ExpressionError | None:
    try:
        parse(text)
    except ExpressionError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "the expression is empty"),
        ("   ", 0, "the expression is empty"),
        ("[MAX 2 9", 8, "ends inside the [MAX opened at 0; expected an operand or ']'"),
        ("[MAX 2 [MIN 4 7 0", 17, "ends inside the [MIN opened at 7"),
        ("[MAX 2 9]]", 9, "found ']' after the end of the expression"),
        ("]", 0, "found ']' that closes nothing"),
        ("[MAX 2 9] 4", 10, "found '4' after the end of the expression"),
        ("[MAXI 2 9]", 1, "unknown operation 'MAXI'; did you mean 'MAX'"),
        ("[sum 2 9]", 1, "unknown operation 'sum'; did you mean 'SUM'"),
        ("[2 9]", 1, "found '2' after '['; expected an operation: MAX, MIN"),
        ("[", 1, "found the end of the text after '['"),
        ("[[MAX 1 2] 3]", 1, "found '[' after '['; expected an operation"),
        ("[MAX 2 10]", 7, "number 10 is outside modulus 10; expected 0 to 9"),
        ("[MAX 2 -1]", 7, "found '-1'; expected a number from 0 to 9"),
        ("[MAX 2 MIN 4]", 7, "an operation follows '[' directly"),
        ("[MAX 2 [SUM 3]]", 13, "SUM has 1 operand; expected a numbe"),
        ("[MAX]", 4, "MAX has no operand"),
        ("[MAX 2 ٣]", 7, "expected a number from 0 to 9"),
        ("[MAX " * 201, 1000, "nested deeper than 200 operations"),
    ],
)
def test_a_broken_expression_is_told_where_and_what_was_expected(text: str, position: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert caught.value.position == position
    assert message in str(caught.value)
    assert message.startswith("the expression is empty") or f"at position {position}: " in str(caught.value)
