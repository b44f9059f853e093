"""Splits and leaks: what is held out is in no line of any training chain, and holding out changes nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from kc_interp.data import LeakReport, Split, check_leaks, line_hashes, question_hashes
from kc_interp.errors import DataError
from kc_interp.spec import DataSpec
from kc_interp.tasks import tsv
from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains

JOINT = ListOps(("MAX", "MED", "SUM"))
SPEC = DataSpec()


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.of(JOINT, SPEC)


@pytest.fixture(scope="module")
def train(split: Split) -> Chains:
    return split.draw(JOINT, 20_000, np.random.default_rng(0), test=False)


@pytest.fixture(scope="module")
def test_items(split: Split) -> Chains:
    return split.draw(JOINT, 1_000, np.random.default_rng(1), test=True)


def applications(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The reduction of every line of a printed chain, found by plain string search."""
    found = []
    for line in text.replace(" > ", " = ").split(" = ")[:-1]:
        name, *numbers = line[: line.index("]")].rsplit("[", 1)[1].split()
        found.append((name, tuple(sorted(map(int, numbers)))))
    return found


def held_multisets(split: Split) -> set[tuple[str, tuple[int, ...]]]:
    """The held-out orbits by name, through the exhaustive table."""
    _, held = split.split_atoms(JOINT)
    return {applications(text)[0] for text in JOINT.format(held)}


def test_no_line_of_a_training_chain_holds_a_held_out_orbit(split: Split, train: Chains) -> None:
    seen = {step for text in JOINT.format(train) for step in applications(text)}
    held = held_multisets(split)
    assert held and not seen & held
    # All else was seen: 3 operations of 275 multisets.
    assert len(seen) == 3 * 275 - len(held)


def test_a_held_out_pair_takes_every_triple_that_contains_it_along(split: Split) -> None:
    held = held_multisets(split)
    for name in JOINT.operations:
        pairs = [numbers for operation, numbers in held if operation == name and len(numbers) == 2]
        triples = {numbers for operation, numbers in held if operation == name and len(numbers) == 3}
        assert len(pairs) == SPEC.holdout_pairs and all(a != b for a, b in pairs)
        with_pair = {tuple(sorted((*pair, digit))) for pair in pairs for digit in range(10)}
        assert with_pair <= triples and len(triples - with_pair) == SPEC.holdout_triples


def test_larger_operations_lose_the_pair_too() -> None:
    task = ListOps(("SUM",), max_operands=5)
    split = Split.of(task, DataSpec(holdout_pairs=1, holdout_triples=0))
    held = [applications(text)[0][1] for text in task.format(split.split_atoms(task)[1])]
    [pair] = {numbers for numbers in held if len(numbers) == 2}
    atoms = task.atoms()
    contains = [set(pair) <= set(applications(text)[0][1]) for text in task.format(atoms)]
    assert np.array_equal(split.held_out(task, atoms), contains)


def test_every_arm_holds_out_the_same_of_an_operation() -> None:
    joint = set(Split.of(JOINT, SPEC).orbits.tolist())
    parts = [set(Split.of(part, SPEC).orbits.tolist()) for part in JOINT.components().values()]
    assert set.union(*parts) == joint and sum(map(len, parts)) == len(joint)
    alone = Split.of(ListOps(("SUM",), depth=4, shape="equals"), SPEC)
    assert set(alone.orbits.tolist()) == parts[2]
    assert set(Split.of(JOINT, DataSpec(split_seed=1)).orbits.tolist()) != joint


def test_hold_outs_do_not_change_the_length_distribution(split: Split, train: Chains, test_items: Chains) -> None:
    """Not even by one chain: the strata are those of the first draw."""
    plain = JOINT.sample(20_000, np.random.default_rng(0))
    assert np.array_equal(train.lengths, plain.lengths) and np.array_equal(train.prompts, plain.prompts)
    for name in ("depth", "steps", "arity"):
        assert np.array_equal(JOINT.groups(train)[name], JOINT.groups(plain)[name])
    assert np.array_equal(test_items.lengths, JOINT.sample(1_000, np.random.default_rng(1)).lengths)
    # Without redrawing inside the stratum the chains would be shorter.
    kept = ~split.held_out(JOINT, plain) & ~split.is_test(plain)
    assert plain.lengths[kept].mean() < plain.lengths.mean() - 1


def test_arms_draw_the_same_brackets(split: Split, train: Chains) -> None:
    alone = ListOps(("SUM",))
    chains = Split.of(alone, SPEC).draw(alone, 20_000, np.random.default_rng(0), test=False)
    assert np.array_equal(chains.lengths, train.lengths)
    assert np.array_equal(chains.symbols == 1, train.symbols[:, : chains.symbols.shape[1]] == 1)
    assert not split.held_out(JOINT, chains).any()


def test_training_and_test_questions_are_disjoint(split: Split, train: Chains, test_items: Chains) -> None:
    printed = [JOINT.format(part) for part in (train, test_items)]
    asked = [{text.replace(" > ", " = ").split(" = ")[0] for text in texts} for texts in printed]
    assert not asked[0] & asked[1]
    report = check_leaks(JOINT, split, train, test_items)
    assert report.clean and report.shared_questions == report.test_items_in_train == report.held_out_lines == 0
    assert report.train_distinct == len(asked[0]) and report.test_distinct == len(asked[1])
    assert split.is_test(test_items).all() and not split.held_out(JOINT, test_items).any()


def test_the_test_fraction_is_what_was_asked_for(split: Split) -> None:
    chains = JOINT.sample(40_000, np.random.default_rng(2))
    deep = chains.take(JOINT.groups(chains)["steps"] >= 3)
    assert split.is_test(deep).mean() == pytest.approx(0.05, abs=0.005)
    half = Split.of(JOINT, DataSpec(test_fraction=0.5))
    assert half.is_test(deep).mean() == pytest.approx(0.5, abs=0.015)
    # Another seed, another test set: independent choices overlap by a twentieth.
    other = Split.of(JOINT, DataSpec(split_seed=7))
    both = split.is_test(deep) & other.is_test(deep)
    assert both.mean() == pytest.approx(0.05**2, abs=0.002)


def test_the_hash_sees_the_question_alone() -> None:
    """Not its padding, its batch, the shape of its chain or the operations in use; and every symbol of it."""
    chains = JOINT.sample(3_000, np.random.default_rng(0))
    hashes = question_hashes(chains, 5)
    one_by_one = [question_hashes(chains.take(slice(i, i + 1)), 5)[0] for i in range(0, 3_000, 50)]
    assert hashes[::50].tolist() == one_by_one
    texts = [text.replace(" > ", " = ").split(" = ")[0] for text in JOINT.format(chains)]
    assert len(set(hashes.tolist())) == len(set(texts))
    for other in (ListOps(("SUM",), shape="equals"), ListOps(OPERATIONS, median="numpy")):
        assert question_hashes(other.parse(texts[0]), 5)[0] == hashes[0]
    assert question_hashes(JOINT.parse("[SUM 1 2]"), 0)[0] != question_hashes(JOINT.parse("[SUM 2 1]"), 0)[0]


def test_the_hash_is_the_same_on_every_machine() -> None:
    """Recomputed with Python's own integers: no byte order, no overflow, no numpy version enters."""

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    codes = [1, 8, 12, 1, 5, 15, 14, 2, 2]
    padded = [code + 1 for code in codes] + [0] * 3
    words = [sum(padded[4 * place + i] << 16 * i for i in range(4)) for place in range(3)]
    by_hand = mix((sum(mix(word ^ mix(7 + place)) for place, word in enumerate(words)) + len(codes)) % 2**64)
    chain = JOINT.parse("[SUM 1 [MAX 4 3]]")
    assert chain.symbols[0, :9].tolist() == codes
    assert question_hashes(chain, 7).tolist() == [by_hand]


def test_a_line_hashes_as_the_question_it_would_be() -> None:
    chain = JOINT.parse("[SUM 1 [MAX 4 3] [MED 2 2]]")
    written = ("[SUM 1 [MAX 4 3] [MED 2 2]]", "[SUM 1 4 [MED 2 2]]", "[SUM 1 4 2]")
    expected = [question_hashes(JOINT.parse(text), 3)[0] for text in written]
    padded = Chains.concatenate([JOINT.parse("[SUM 0 0]"), chain], end=0)
    assert line_hashes(JOINT, padded, 3)[2:5].tolist() == expected and len(line_hashes(JOINT, padded, 3)) == 6


def test_draws_are_a_function_of_the_seed(split: Split) -> None:
    for flags in ({"test": False}, {"test": True}, {"test": True, "held_out": True}):
        first, again, other = (split.draw(JOINT, 300, np.random.default_rng(seed), **flags) for seed in (4, 4, 5))
        assert JOINT.format(first) == JOINT.format(again) != JOINT.format(other)


def test_held_out_items_all_contain_a_held_out_step(split: Split) -> None:
    chains = split.draw(JOINT, 500, np.random.default_rng(0), test=True, held_out=True)
    held = held_multisets(split)
    assert all(held & set(applications(text)) for text in JOINT.format(chains))
    assert np.array_equal(chains.lengths, JOINT.sample(500, np.random.default_rng(0)).lengths)
    nothing = Split.of(JOINT, DataSpec(holdout_pairs=0, holdout_triples=0))
    with pytest.raises(DataError, match="holds out no orbit; set holdout_pairs or holdout_triples above 0"):
        nothing.draw(JOINT, 5, np.random.default_rng(0), test=True, held_out=True)


def test_the_atoms_divide_into_seen_and_held_out(split: Split) -> None:
    seen, held = split.split_atoms(JOINT)
    assert len(seen) + len(held) == 3_300
    # Two pairs in both orders, 54 ordered triples with each (less those with both); ten triples of up to six orders.
    assert 3 * (2 * 2 + 2 * 54 - 12) < len(held) <= 3 * (2 * 2 + 2 * 54 + 10 * 6)


def test_test_draws_drop_a_stratum_without_a_test_item() -> None:
    task = ListOps(("SUM",), depth=1)
    for seed in range(200):
        split = Split.of(task, DataSpec(test_fraction=0.02, split_seed=seed))
        pairs = task.atoms().take(slice(0, 100))
        if not (split.is_test(pairs) & ~split.held_out(task, pairs)).any():
            break
    drawn = split.draw(task, 200, np.random.default_rng(0), test=True)
    assert set(task.groups(drawn)["arity"]) == {3}
    assert split.is_test(drawn).all() and not split.held_out(task, drawn).any()


def test_a_stratum_without_a_training_item_is_refused_by_its_shape() -> None:
    task = ListOps(("SUM",), modulus=2, depth=1)
    split = Split.of(task, DataSpec(test_fraction=0.999999, holdout_pairs=0, holdout_triples=0))
    message = r"no training item found in 1024 tries .*\(open operation digit .*\); lower test_fraction"
    with pytest.raises(DataError, match=message):
        split.draw(task, 50, np.random.default_rng(0), test=False)
    tiny = Split.of(task, DataSpec(test_fraction=1e-9, holdout_pairs=0, holdout_triples=0))
    with pytest.raises(DataError, match=r"no test item found .* raise test_fraction"):
        tiny.draw(task, 50, np.random.default_rng(0), test=True)


@pytest.mark.parametrize(
    ("task", "spec", "message"),
    [
        (JOINT, DataSpec(holdout_pairs=45), "holding out 45 pairs leaves none to train on: modulus 10 has 45 pairs"),
        (JOINT, DataSpec(holdout_triples=220), "holding out 220 triples of MAX leaves none to train on"),
        (ListOps(modulus=2), DataSpec(), "modulus 2 has 1 pairs"),
        (ListOps(modulus=100, max_operands=9), DataSpec(), "too many to hold out one by one; set holdout_pairs to 0"),
    ],
)
def test_a_hold_out_that_leaves_nothing_is_refused(task: ListOps, spec: DataSpec, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split.of(task, spec)


def test_two_operands_have_no_triples_to_hold_out() -> None:
    task = ListOps(("SUM",), max_operands=2)
    assert len(Split.of(task, SPEC).orbits) == SPEC.holdout_pairs


def test_planted_leaks_are_found(split: Split, train: Chains, test_items: Chains) -> None:
    held = split.draw(JOINT, 7, np.random.default_rng(3), test=True, held_out=True)
    leaky = Chains.concatenate([train, test_items.take(slice(0, 5)), held], end=0)
    report = check_leaks(JOINT, split, leaky, test_items)
    assert not report.clean
    assert report.shared_questions == len(np.unique(question_hashes(test_items.take(slice(0, 5)), 0)))
    assert report.test_items_in_train == 5 + split.is_test(held).sum()
    assert report.held_out_lines == split.held_steps(JOINT, held).sum() >= 7
    assert len(report.faults) == 3 and "test items by their hash" in report.faults[0]


def test_a_test_question_inside_a_chain_is_reported_but_no_fault(split: Split) -> None:
    train = JOINT.parse("[SUM 1 [MAX 4 3]]")
    report = check_leaks(JOINT, None, train, JOINT.parse("[SUM 1 4]"))
    assert report == LeakReport(1, 1, 1, 1, None, 0, None, 1) and report.clean
    assert check_leaks(JOINT, None, train).test is None


def test_the_published_hold_out_of_ordered_triples_leaks(tmp_path: Path) -> None:
    """49 ordered triples removed, permutations left: disjoint as questions, yet every orbit is in the training set.

    The check finds it, here in data read back from a file.
    """
    task = ListOps(("SUM",), depth=1, median="numpy")
    atoms = task.atoms()
    triples = np.asarray([i for i, (a, b, c) in enumerate(itertools.product(range(10), repeat=3)) if a < b < c]) + 100
    held = np.random.default_rng(0).choice(triples, 49, replace=False)
    rest = np.setdiff1d(np.arange(len(atoms)), held)
    path = tsv.write(tmp_path / "train.tsv", tsv.from_chains(task, atoms.take(rest)), "nangia-bowman")
    train, _ = tsv.to_chains(task, tsv.read(path, check="numpy"))
    test = atoms.take(held)
    as_questions = check_leaks(task, None, train, test)
    assert as_questions.clean and as_questions.test_as_lines == 0
    report = check_leaks(task, Split.holding_out(task, test, SPEC), train, test)
    assert report.held_out_lines == 49 * 5 and not report.clean
    whole_orbits = train.take(~Split.holding_out(task, test, SPEC).held_out(task, train))
    assert check_leaks(task, Split.holding_out(task, test, SPEC), whole_orbits, test).held_out_lines == 0
