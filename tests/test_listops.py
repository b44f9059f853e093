"""ListOps: the vectorised chains against the tree evaluator, the sampler's distribution, and the settings it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kc_interp.errors import DataError, ExpressionError, SpecError
from kc_interp.tasks import expressions
from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains, Task
from kc_interp.tokens import Tokens, lines
from tests.cases import CASES, Case


def skeletons(task: ListOps, chains: Chains) -> np.ndarray:
    """The symbol classes of each chain, one string each."""
    classes = np.asarray([name[0] + name[1] for name in task.classes])
    return np.asarray(["".join(row) for row in classes[chains.symbols]])


def by_hand(task: ListOps, question: str) -> str:
    """The chain of a question, as the tree evaluator writes it."""
    *between, answer = expressions.reductions(expressions.parse(question, task.modulus), task.modulus, task.median)
    separator = " > " if task.shape == "paper" else " = "
    return separator.join([question, *between]) + f" = {answer}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.text} mod {case.modulus} {case.median}")
def test_a_typed_question_becomes_its_chain(case: Case) -> None:
    task = ListOps(OPERATIONS, modulus=case.modulus, median=case.median)
    chain = task.parse(case.text)
    [text] = task.format(chain)
    assert text == " > ".join((case.text, *case.lines[:-1])) + f" = {case.lines[-1]}"
    assert task.symbols[chain.answer_symbols()[0]] == str(case.value)
    assert task.symbols[chain.symbols[0, chain.lengths[0] - 1]] == "<end>"
    assert task.symbols[chain.symbols[0, chain.prompts[0]]] == (">" if len(case.lines) > 1 else "=")
    assert lines(task, chain).max() == len(case.lines)
    groups = task.groups(chain)
    assert groups["depth"] == [case.depth] and groups["steps"] == [len(case.lines)]
    assert groups["operation"] == [case.text[1:].split()[0]]


@given(
    st.sets(st.sampled_from(OPERATIONS), min_size=1),
    st.sampled_from([2, 7, 10, 26, 100]),
    st.sampled_from(["upper", "numpy"]),
    st.integers(1, 4),
    st.integers(2, 5),
    st.sampled_from(["paper", "equals"]),
    st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_sampled_chains_are_what_the_tree_evaluator_writes(
    operations: set[str], modulus: int, median: Any, depth: int, most: int, shape: Any, seed: int
) -> None:
    task = ListOps(tuple(operations), None, modulus, median, depth, most, 0.4, shape)
    chains = task.sample(30, np.random.default_rng(seed))
    for text in task.format(chains):
        question = text.replace(" > ", " = ").split(" = ")[0]
        assert text == by_hand(task, question)
        assert expressions.depth(expressions.parse(question, modulus)) <= depth
    assert chains.lengths.max() <= task.max_length
    assert task.used[chains.symbols].all()


def test_every_atomic_reduction_equals_plain_python() -> None:
    """All 6,600 of them, for both medians, against an evaluator that shares no code with the vectorised one."""
    for median in ("upper", "numpy"):
        task = ListOps(OPERATIONS, median=median)
        atoms = task.atoms()
        assert len(atoms) == 6 * 1_100
        expected = [
            f"[{name} {' '.join(map(str, values))}] = {expressions.apply(name, list(values), 10, median)}"
            for name in OPERATIONS
            for arity in (2, 3)
            for values in itertools.product(range(10), repeat=arity)
        ]
        assert task.format(atoms) == expected


def test_numpy_median_is_numpys() -> None:
    task = ListOps(("MED",), median="numpy", max_operands=4)
    atoms = task.atoms()
    for row, answer in zip(task.steps(atoms).operands[::7], atoms.answer_symbols()[::7], strict=True):
        assert int(np.median(row[row >= 0])) == int(task.symbols[answer])


def test_it_is_a_task() -> None:
    assert isinstance(ListOps(), Task)


def test_the_longest_chain_has_max_length() -> None:
    assert ListOps().max_length == 60
    for depth, most in ((1, 2), (2, 3), (3, 3), (2, 5)):
        task = ListOps(("SUM",), depth=depth, max_operands=most, p_operation=1.0)
        question = "1"
        for _ in range(depth):
            question = f"[SUM {' '.join([question] * most)}]"
        assert task.parse(question).lengths[0] == task.max_length
        longest = task.sample(500, np.random.default_rng(0)).lengths.max()
        assert longest <= task.max_length and (depth > 2 or most > 3 or longest == task.max_length)


def test_a_question_of_one_reduction_has_no_separator() -> None:
    assert ListOps().format(ListOps().parse("[SUM 1 4]")) == ["[SUM 1 4] = 5"]
    flat, nested = ListOps(depth=1), ListOps(depth=2)
    assert ">" not in Tokens.of(flat).symbols and ">" in Tokens.of(nested).symbols
    assert ">" not in Tokens.of(ListOps(shape="equals")).symbols
    assert ListOps(p_operation=0.0, depth=3).max_length == flat.max_length


def test_codes_do_not_depend_on_the_operations_in_use() -> None:
    text = "[SUM 1 [SUM 4 3]]"
    assert np.array_equal(ListOps(("SUM",)).parse(text).symbols, ListOps(OPERATIONS).parse(text).symbols)
    assert Tokens.of(ListOps(("SUM",))).symbols == ("<end>", "[", "]", ">", "=", "SUM", *map(str, range(10)))


def test_the_same_seed_gives_the_same_chains_and_another_seed_others() -> None:
    task = ListOps()
    first, again, other = (task.sample(500, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert task.format(first) == task.format(again) != task.format(other)


def test_mixtures_share_their_brackets() -> None:
    """A seed gives every mixture the very same skeletons, hence the same lengths, depths and steps."""
    alone, joint = ListOps(("SUM",)), ListOps(("MAX", "MED", "SUM"), (1, 2, 5))
    one, three = (task.sample(3_000, np.random.default_rng(5)) for task in (alone, joint))
    assert np.array_equal(skeletons(alone, one), skeletons(joint, three))
    assert set(joint.groups(three)["operation"]) == {"MAX", "MED", "SUM"}


def test_the_sampler_draws_what_its_settings_say() -> None:
    task = ListOps(("MAX", "MED", "SUM"), weights=(1.0, 2.0, 5.0))
    chains = task.sample(40_000, np.random.default_rng(3))
    groups = task.groups(chains)
    for name, share in (("MAX", 1 / 8), ("MED", 2 / 8), ("SUM", 5 / 8)):
        assert (groups["operation"] == name).mean() == pytest.approx(share, abs=0.015)
    assert (groups["arity"] == 2).mean() == pytest.approx(0.5, abs=0.015)
    # No operand is an operation: (1/2)^2 or (1/2)^3 by arity. Two to the power of minus two plus minus three, halved.
    assert (groups["depth"] == 1).mean() == pytest.approx((1 / 4 + 1 / 8) / 2, abs=0.012)
    assert groups["steps"].mean() == pytest.approx(1 + 2.5 * 0.5, abs=0.03)
    digits = chains.symbols[:, 2:][chains.symbols[:, 2:] >= 11]
    assert set(np.unique(digits)) == set(range(11, 21))


def test_redrawing_keeps_the_brackets_and_changes_the_contents() -> None:
    task = ListOps(depth=3)
    chains = task.sample(1_000, np.random.default_rng(0))
    again = task.redraw(chains, np.random.default_rng(1))
    assert np.array_equal(skeletons(task, chains), skeletons(task, again))
    for name in ("lengths", "prompts", "answers"):
        assert np.array_equal(getattr(chains, name), getattr(again, name))
    assert (chains.symbols != again.symbols).any(axis=1).mean() > 0.99
    assert all(text == by_hand(task, text.split(" > ")[0].split(" = ")[0]) for text in task.format(again)[:200])


def test_no_chains_are_chains_too() -> None:
    task = ListOps()
    none = task.sample(0, np.random.default_rng(0))
    assert len(none) == 0 and len(task.redraw(none, np.random.default_rng(0))) == 0
    assert task.orbits(none).shape[0] == 0 and task.format(none) == []


def test_steps_are_read_from_the_lines_in_order() -> None:
    task = ListOps(OPERATIONS)
    steps = task.steps(Chains.concatenate([task.parse("[MAX [MIN 2 1] [SUM 5 5 6]]"), task.parse("[MED 3 4]")], end=0))
    assert steps.chain.tolist() == [0, 0, 0, 1] and steps.index.tolist() == [0, 1, 2, 0]
    assert [OPERATIONS[index] for index in steps.operations] == ["MIN", "SUM", "MAX", "MED"]
    assert steps.operands.tolist() == [[2, 1, -1], [5, 5, 6], [1, 6, -1], [3, 4, -1]]


def test_an_orbit_is_an_operation_with_its_operands_in_any_order() -> None:
    task = ListOps(OPERATIONS)
    orbit = {
        text: int(task.orbits(task.parse(text))[0, 0])
        for text in ("[SUM 1 2]", "[SUM 2 1]", "[MAX 1 2]", "[SUM 1 2 0]", "[SUM 0 2 1]", "[SUM 1 2 2]", "[SUM 1 1 2]")
    }
    assert orbit["[SUM 1 2]"] == orbit["[SUM 2 1]"] and orbit["[SUM 1 2 0]"] == orbit["[SUM 0 2 1]"]
    assert len(set(orbit.values())) == 5
    atoms = task.atoms()
    assert len(np.unique(task.orbits(atoms))) == 6 * (55 + 220)
    for other in (ListOps(("SUM",)), ListOps(("NADD", "SUM"), depth=4, max_operands=6, shape="equals")):
        assert other.orbits(other.parse("[SUM 2 1]"))[0, 0] == orbit["[SUM 1 2]"]


def test_orbits_of_nested_questions_pad_with_minus_one() -> None:
    task = ListOps()
    orbits = task.orbits(Chains.concatenate([task.parse("[SUM 1 [MAX 4 3]]"), task.parse("[SUM 4 1]")], end=0))
    assert orbits[0, 1] == orbits[1, 0] and orbits[1, 1] == -1 and (orbits[0] >= 0).all()


def test_counterfactuals_change_one_symbol_of_the_question_and_the_answer() -> None:
    task = ListOps(("MAX", "MED", "SUM"), depth=3)
    chains = task.sample(2_000, np.random.default_rng(0))
    for kind, kept in (("operand", "digit"), ("operation", "operation")):
        twins = task.counterfactual(chains, kind, np.random.default_rng(1))
        assert np.array_equal(skeletons(task, chains), skeletons(task, twins))
        differs = twins.symbols != chains.symbols
        inside = np.arange(differs.shape[1]) < chains.prompts[:, None]
        changed = differs.any(axis=1)
        assert changed.mean() > 0.9
        assert np.array_equal((differs & inside).sum(axis=1), changed.astype(int))
        assert (twins.answer_symbols() != chains.answer_symbols())[changed].all()
        rows, places = np.nonzero(differs & inside)
        assert {task.classes[code] for code in chains.symbols[rows, places]} == {kept}
        for text in task.format(twins)[:100]:
            assert text == by_hand(task, text.split(" > ")[0].split(" = ")[0])


def test_a_question_that_no_change_alters_is_its_own_twin() -> None:
    task = ListOps(("MAX", "MED", "SUM"))
    hopeless, rare = task.parse("[MAX 0 0]"), task.parse("[MAX 9 9]")
    rng = np.random.default_rng(0)
    assert task.format(task.counterfactual(hopeless, "operation", rng)) == ["[MAX 0 0] = 0"]
    assert task.format(task.counterfactual(rare, "operand", rng)) == ["[MAX 9 9] = 9"]
    assert task.format(task.counterfactual(rare, "operation", rng)) == ["[SUM 9 9] = 8"]


def test_a_task_of_one_operation_offers_no_change_of_operation() -> None:
    task = ListOps(("SUM",))
    assert task.counterfactuals == ("operand",)
    with pytest.raises(DataError, match="no counterfactual of kind 'operation'; this task offers: operand"):
        task.counterfactual(task.parse("[SUM 1 2]"), "operation", np.random.default_rng(0))


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_corrupted_line_changes_its_own_value_and_no_other_line(line: int) -> None:
    task = ListOps(depth=3)
    chains = task.sample(500, np.random.default_rng(0))
    corrupted, had = task.corrupt_line(chains, line, np.random.default_rng(1))
    number = lines(task, chains)
    differs = corrupted.symbols != chains.symbols
    assert np.array_equal(differs.sum(axis=1), had.astype(int))
    assert (number[differs] == line).all()
    assert np.array_equal(had & (task.groups(chains)["steps"] <= line), np.zeros(500, dtype=bool))
    assert had[task.groups(chains)["steps"] > line].mean() > 0.9
    for before, after in zip(task.format(chains.take(had))[:100], task.format(corrupted.take(had))[:100], strict=True):
        values = [
            expressions.evaluate(expressions.parse(text.replace(" = ", " > ").split(" > ")[line]))
            for text in (before, after)
        ]
        assert values[0] != values[1]


def test_a_chain_without_the_line_is_not_corrupted() -> None:
    task = ListOps()
    chain = task.parse("[SUM 1 4]")
    same, had = task.corrupt_line(chain, 1, np.random.default_rng(0))
    assert not had.any() and np.array_equal(same.symbols, chain.symbols)


def test_components_are_the_operations_alone_with_all_else_equal() -> None:
    task = ListOps(("MAX", "SUM"), (1, 3), modulus=7, depth=3, shape="equals")
    parts = task.components()
    assert parts["SUM"] == ListOps(("SUM",), modulus=7, depth=3, shape="equals") and list(parts) == ["MAX", "SUM"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operations": ()}, "give a list of one or more of MAX, MIN"),
        ({"operations": "SUM"}, "give a list of one or more"),
        ({"operations": ("SUN",)}, "unknown operation 'SUN'; did you mean 'SUM'"),
        ({"operations": ("SUM", "SUM")}, "name one twice"),
        ({"weights": (1.0,)}, "1 weights for 3 operations"),
        ({"weights": (1.0, 0.0, 1.0)}, "each must be above 0"),
        ({"modulus": 1}, "modulus is 1; it must lie between 2 and 100"),
        ({"modulus": 101}, "between 2 and 100"),
        ({"median": "lower"}, "median is 'lower'; known: numpy, upper"),
        ({"shape": "equal"}, "shape is 'equal'; did you mean 'equals'"),
        ({"depth": 0}, "depth is 0"),
        ({"p_operation": 1.5}, "a probability lies between 0 and 1"),
        ({"max_operands": 1}, "max_operands is 1; an operation has at least 2"),
        ({"max_operands": 18}, "max_operands is 18; modulus 10 allows up to 17"),
        ({"lengths": [9]}, r"lengths is \(9,\); give the shortest and the longest question, e.g. \[9, 14\]"),
        ({"lengths": 9}, "lengths is 9; give the shortest and the longest"),
        ({"lengths": (14, 9)}, r"lengths is \(14, 9\); give the shortest and the longest"),
        ({"lengths": (5, 9.0)}, r"lengths is \(5, 9.0\); give the shortest and the longest"),
        ({"lengths": (22, 30)}, r"\(22, 30\); with depth 2 and max_operands 3 questions have 5 to 21 symbols"),
        ({"lengths": (1, 4)}, "questions have 5 to 21 symbols"),
        ({"lengths": (7, 9), "depth": 1}, "questions have 5 to 6 symbols"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ListOps(**changes)


@pytest.mark.parametrize("stratum", [(5, 6), (9, 14), (20, 21)])
def test_a_stratum_has_its_lengths_alone_in_the_shares_that_they_have_among_all(stratum: tuple[int, int]) -> None:
    """The same shapes as those of the whole task that are so long: two routes to one distribution."""
    low, high = stratum
    whole, part = ListOps(("MAX", "SUM")), ListOps(("MAX", "SUM"), lengths=stratum)
    chains = whole.sample(60_000, np.random.default_rng(0))
    chains = chains.take((low <= chains.prompts) & (chains.prompts <= high))
    assert len(chains) > 300
    drawn = part.sample(len(chains), np.random.default_rng(1))
    assert len(drawn) == len(chains) and low <= drawn.prompts.min() <= drawn.prompts.max() <= high
    wanted, found = (np.bincount(part.groups(c)["steps"], minlength=5) / len(c) for c in (chains, drawn))
    assert np.abs(found - wanted).max() < 4 * np.sqrt(0.5 / len(chains))
    again = part.redraw(drawn, np.random.default_rng(2))
    assert np.array_equal(again.prompts, drawn.prompts)
    assert (part.max_length, part.used.tolist()) == (whole.max_length, whole.used.tolist())
    assert part.components()["SUM"].lengths == stratum


def test_a_seed_draws_without_a_stratum_what_it_drew_before_there_were_any() -> None:
    chains = ListOps(("SUM",)).sample(3, np.random.default_rng(0))
    assert ListOps().format(chains)[0].startswith("[SUM [SUM 7 5 9] [SUM 9 2 2] [SUM 7 8 5]] > [SUM 1 [SUM 9 2 2]")


def test_a_stratum_in_which_hardly_any_question_lies_is_refused() -> None:
    task = ListOps(("SUM",), max_operands=2, lengths=(6, 8))  # 5, 9, 13 and 17 symbols are there
    with pytest.raises(DataError, match=r"questions none had 6 to 8 symbols, with depth 2, max_operands 2 and p_op"):
        task.sample(1, np.random.default_rng(0))


def test_the_largest_orbit_number_fits_into_63_bits() -> None:
    for modulus in (2, 10, 100):
        most = next(k for k in itertools.count(2) if 6 * (modulus + 1) ** k >= 2**63) - 1
        task = ListOps(OPERATIONS, modulus=modulus, max_operands=most)
        chain = task.parse(f"[NADD {' '.join([str(modulus - 1)] * most)}]")
        digits = sum(modulus * (modulus + 1) ** place for place in range(most))
        assert task.orbits(chain).tolist() == [[digits * 6 + 5]]


def test_lists_from_toml_become_tuples() -> None:
    assert hash(ListOps(operations=["MAX", "SUM"], weights=[1, 2])) == hash(ListOps(("MAX", "SUM"), (1, 2)))


def test_a_bare_number_is_no_question() -> None:
    with pytest.raises(ExpressionError, match="at position 1: found a bare number"):
        ListOps().parse(" 7")


def test_a_question_beyond_the_task_is_still_read() -> None:
    task = ListOps(("SUM",), depth=1)
    assert task.format(task.parse("[MAX 1 [MIN 2 [SUM 3 4 5 6]]]"))[0].endswith("> [MAX 1 2] = 2")
