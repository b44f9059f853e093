"""The control of a shuffled table: the same answers as often, in other places, and still a table of multisets."""

import numpy as np
import pytest

from kc_interp.complexity.measure import measures
from kc_interp.errors import DataError, SpecError
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains

PLAIN = ListOps(("MAX", "SUM"))
SHUFFLED = ListOps(("MAX", "SUM"), shuffled=("SUM",))


def table(task: ListOps) -> dict[str, str]:
    """Answer by question over the atomic table."""
    return dict(line.split(" = ") for line in task.format(task.atoms()))


def by_arity(found: dict[str, str], operation: str, arity: int) -> dict[tuple[int, ...], int]:
    kept = {}
    for question, answer in found.items():
        _, name, *operands = question.replace("[", "[ ").replace("]", "").split()
        if name == operation and len(operands) == arity:
            kept[tuple(map(int, operands))] = int(answer)
    return kept


@pytest.mark.parametrize(("operation", "arity"), [("SUM", 2), ("SUM", 3)])
def test_each_arity_keeps_its_answers_and_their_frequencies(operation: str, arity: int) -> None:
    before, after = (by_arity(table(task), operation, arity) for task in (PLAIN, SHUFFLED))
    assert len(after) == 10**arity
    assert np.array_equal(np.bincount(list(before.values())), np.bincount(list(after.values())))
    same = np.mean([before[operands] == after[operands] for operands in before])
    assert 0.03 < same < 0.25  # one in ten by chance; never the table itself


@pytest.mark.parametrize("arity", [2, 3])
def test_the_order_of_operands_does_not_matter(arity: int) -> None:
    found = by_arity(table(SHUFFLED), "SUM", arity)
    assert all(answer == found[tuple(sorted(operands))] for operands, answer in found.items())


def test_other_operations_keep_their_table_and_the_brackets_drawn_do_not_change() -> None:
    assert by_arity(table(PLAIN), "MAX", 3) == by_arity(table(SHUFFLED), "MAX", 3)
    one, other = (task.sample(50, np.random.default_rng(3)) for task in (PLAIN, SHUFFLED))
    assert np.array_equal(one.prompts, other.prompts)
    assert np.array_equal(one.symbols[:, :4], other.symbols[:, :4])


def test_every_line_of_a_chain_follows_the_shuffled_table() -> None:
    task = ListOps(("SUM",), shuffled=("SUM",), depth=2)
    found = table(task)
    for line in task.format(task.sample(200, np.random.default_rng(0))):
        lines = line.replace(" = ", " > ").split(" > ")
        assert found[lines[-2]] == lines[-1]


def test_the_table_follows_from_the_seed_whatever_else_is_trained() -> None:
    alone = by_arity(table(ListOps(("SUM",), shuffled=("SUM",))), "SUM", 3)
    assert alone == by_arity(table(SHUFFLED), "SUM", 3)
    wider = ListOps(("SUM",), shuffled=("SUM",), max_operands=4)
    assert alone == by_arity(table(wider), "SUM", 3)
    assert alone != by_arity(table(ListOps(("SUM",), shuffled=("SUM",), shuffle_seed=1)), "SUM", 3)


def test_components_and_orbits_keep_the_shuffle() -> None:
    parts = SHUFFLED.components()
    assert parts["SUM"].shuffled == ("SUM",) and parts["MAX"].shuffled == ()
    chains: Chains = SHUFFLED.atoms()
    assert np.array_equal(SHUFFLED.orbits(chains), PLAIN.orbits(PLAIN.atoms()))


def test_what_cannot_be_shuffled_is_said() -> None:
    with pytest.raises(SpecError, match="shuffled names 'SUN', not in use; did you mean 'SUM'"):
        ListOps(("SUM",), shuffled=("SUN",))
    with pytest.raises(SpecError, match="NADD depends on the order of its operands"):
        ListOps(("NADD",), shuffled=("NADD",))
    with pytest.raises(SpecError, match="too large; lower max_operands or modulus"):
        ListOps(("SUM",), shuffled=("SUM",), max_operands=6)
    with pytest.raises(DataError, match="use fewer operands"):
        SHUFFLED.parse("[SUM 1 2 3 4 5 6]")
    with pytest.raises(SpecError, match="SUM answers by a shuffled table"):
        measures(SHUFFLED, families=("code",))
    assert "The answers of SUM are shuffled" in SHUFFLED.says
