"""Splits: what is never trained on, decided once for all arms of a comparison, and the check that nothing leaked.

Two hold-outs that answer different questions. *Test items* are a fraction of all questions, chosen by a hash of the
question itself: disjoint from training whatever is drawn, in any order, by any arm. *Held-out orbits* are single steps
(in ListOps: an operation with its operands in every order) that no line of any training chain contains.

Rejected items are drawn again within their own stratum, so that hold-outs do not shorten the chains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt64

from kc_interp.errors import DataError
from kc_interp.spec import DataSpec
from kc_interp.tasks.task import Accept, Chains, Task

TRIES = 1_024
"""How often an item is drawn again in its stratum before the stratum counts as unfillable."""

_MOST_COPIES, _SMALL_ROUND = 64, 2_048


@dataclass(frozen=True, eq=False)
class Split:
    """The hold-outs of a data specification. `orbits` are the held-out ones, ascending.

    The same for every task that shares `split_seed`: an arm's hold-out is the joint one, restricted to its operations.
    """

    spec: DataSpec
    orbits: Int[np.ndarray, " orbit"]

    @classmethod
    def of(cls, task: Task, spec: DataSpec) -> Split:
        """The split of a task. Raises DataError when the hold-out leaves nothing to train on."""
        chosen = task.choose_orbits(spec.holdout_pairs, spec.holdout_triples, spec.split_seed)
        return cls(spec, np.unique(chosen))

    @classmethod
    def holding_out(cls, task: Task, chains: Chains, spec: DataSpec) -> Split:
        """A split that holds out the orbits of all steps of these chains: for hold-outs that others chose."""
        found = np.unique(task.orbits(chains))
        return cls(spec, found[found >= 0])

    def held_steps(self, task: Task, chains: Chains) -> Bool[np.ndarray, "example step"]:
        """Which steps lie in a held-out orbit."""
        orbits = task.orbits(chains)
        return np.isin(orbits, self.orbits)

    def held_out(self, task: Task, chains: Chains) -> Bool[np.ndarray, " example"]:
        """Which chains have a step in a held-out orbit."""
        return np.asarray(self.held_steps(task, chains).any(axis=1))

    def is_test(self, chains: Chains) -> Bool[np.ndarray, " example"]:
        """Which questions are test items: those whose hash falls below the test fraction."""
        return question_hashes(chains, self.spec.split_seed) < np.uint64(self.spec.test_fraction * 2.0**64)

    def draw(self, task: Task, count: int, rng: np.random.Generator, *, test: bool, held_out: bool = False) -> Chains:
        """`count` items of the task: to train on, to test on (`test`), or with a held-out step (`held_out`).

        Training items are no test items and touch no held-out orbit; test items touch none either, so that they measure
        generalisation to unseen questions of seen steps. Held-out items contain one whatever their hash: they are never
        trained on. Every item is redrawn in its stratum until it fits. A stratum without a training item raises
        DataError. Test and held-out draws drop a stratum that has no item (a hundred questions may hold no test item)
        and take another item's stratum in its place, so that their length distribution may differ there.
        """
        if held_out and not len(self.orbits):
            raise DataError("this split holds out no orbit; set holdout_pairs or holdout_triples above 0")

        def accept(chains: Chains) -> Bool[np.ndarray, " example"]:
            if held_out:
                return self.held_out(task, chains)
            fits = self.is_test(chains) == test
            rows = np.flatnonzero(fits)
            fits[rows] = ~self.held_out(task, chains.take(rows))
            return fits

        chains = task.sample(count, rng)
        if not count:
            return chains
        chains, pending = _redraw_until(task, accept, chains, np.flatnonzero(~accept(chains)), rng)
        if not len(pending):
            return chains
        kind = "held-out" if held_out else "test" if test else "training"
        if len(pending) == count or kind == "training":
            raise DataError(self._unfillable(task, chains, int(pending[0]), len(pending), kind))
        # The strata of accepted items take the place of the empty ones; at worst such an item stands there twice.
        source = np.arange(count)
        source[pending] = rng.choice(np.setdiff1d(source, pending), len(pending))
        return _redraw_until(task, accept, chains.take(source), pending, rng)[0]

    def _unfillable(self, task: Task, chains: Chains, row: int, missing: int, kind: str) -> str:
        stratum = " ".join(task.classes[code] for code in chains.symbols[row, : chains.prompts[row]])
        remedy = {
            "training": "lower test_fraction, holdout_pairs or holdout_triples, or raise the task's modulus",
            "test": "raise test_fraction, or allow more nesting or operands: this sample space is small",
            "held-out": "raise holdout_pairs or holdout_triples",
        }[kind]
        return (
            f"no {kind} item found in {TRIES} tries for {missing} of {len(chains)} questions, the first of the shape "
            f"({stratum}); {remedy}"
        )

    def split_atoms(self, task: Task) -> tuple[Chains, Chains]:
        """The exhaustive table of single steps in two: those in no held-out orbit, and those in one."""
        atoms = task.atoms()
        held = self.held_out(task, atoms)
        return atoms.take(~held), atoms.take(held)


def _redraw_until(
    task: Task, accept: Accept, chains: Chains, pending: Int[np.ndarray, " row"], rng: np.random.Generator
) -> tuple[Chains, Int[np.ndarray, " left"]]:
    """The chains with the rows in `pending` redrawn until accepted; and the rows for which `TRIES` were not enough."""
    symbols = chains.symbols.copy()
    tries, copies = 0, 1
    while len(pending) and tries < TRIES:
        # A small round costs as much as a middling one: then try as many candidates a row as it takes on average.
        copies = max(1, min(copies, _SMALL_ROUND // len(pending)))
        rows = np.repeat(pending, copies)
        candidates = task.redraw(chains.take(rows), rng)
        fits = np.flatnonzero(accept(candidates))
        found, first = np.unique(rows[fits], return_index=True)
        symbols[found, : candidates.symbols.shape[1]] = candidates.symbols[fits[first]]
        pending = np.setdiff1d(pending, found, assume_unique=True)
        tries += copies
        copies = min(_MOST_COPIES, round(len(rows) / len(fits)) if len(fits) else _MOST_COPIES)
    return Chains(symbols, chains.lengths, chains.prompts, chains.answers), pending


def question_hashes(chains: Chains, salt: int) -> UInt64[np.ndarray, " example"]:
    """A 64-bit hash of each question's symbol codes.

    The same on every machine and in every batch: padding, batch width and vocabulary do not enter.
    """
    width = int(chains.prompts.max(initial=1))
    return _hashes(chains.symbols[:, :width], chains.prompts, salt)


def line_hashes(task: Task, chains: Chains, salt: int) -> UInt64[np.ndarray, " line"]:
    """The hash that each line of the chains would have as a question; the questions and answers are lines too."""
    width = chains.symbols.shape[1]
    ends = np.isin(np.asarray(task.classes, dtype=object), ["separator", "equals", "end"])[chains.symbols]
    ends &= np.arange(width) < chains.lengths[:, None]
    stops = np.flatnonzero(ends)
    starts = np.append(0, stops[:-1] + 1)
    # The first line of a chain begins its row, wherever the chain before it ended.
    new_row = np.append(True, stops[1:] // width != stops[:-1] // width)[: len(stops)]
    starts = np.where(new_row, stops // width * width, starts[: len(stops)])
    lengths = stops - starts
    place = np.arange(int(lengths.max(initial=1)))
    rows = chains.symbols.ravel().take(starts[:, None] + place, mode="clip")
    return _hashes(rows, lengths, salt)


def _hashes(
    symbols: Int[np.ndarray, "row pos"], lengths: Int[np.ndarray, " row"], salt: int
) -> UInt64[np.ndarray, " row"]:
    """Four symbols make a word; words are mixed with their place, summed, and mixed with the length and the salt."""
    width = symbols.shape[1]
    packed = np.zeros((len(symbols), -(-width // 4) * 4), dtype="<u2")
    inside = np.arange(width, dtype=np.int32) < lengths.astype(np.int32)[:, None]
    np.copyto(packed[:, :width], symbols + 1, where=inside, casting="unsafe")
    words = packed.view("<u8").astype(np.uint64)
    place = _mix(np.arange(words.shape[1], dtype=np.uint64) + np.uint64(salt % 2**64))
    mixed = np.where(words > 0, _mix(words ^ place), np.uint64(0))
    return _mix(mixed.sum(axis=1, dtype=np.uint64) + lengths.astype(np.uint64))


def _mix(value: UInt64[np.ndarray, " *shape"]) -> UInt64[np.ndarray, " *shape"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class LeakReport:
    """What a check found. The first four counts describe; the faults are the three that `faults` names.

    `test_as_lines` is no fault: a short test question may well be a later line of a longer training chain, and then it
    was worked out in training. Read accuracy on such items apart.
    """

    train: int
    train_distinct: int
    test: int | None
    test_distinct: int | None
    test_items_in_train: int | None
    shared_questions: int | None
    held_out_lines: int | None
    test_as_lines: int | None

    @property
    def faults(self) -> tuple[str, ...]:
        """One sentence per kind of leak; empty when there is none."""
        found = []
        if self.test_items_in_train:
            found.append(f"{self.test_items_in_train} training questions are test items by their hash")
        if self.shared_questions:
            found.append(f"{self.shared_questions} distinct questions are in both the training and the test set")
        if self.held_out_lines:
            found.append(f"{self.held_out_lines} lines of training chains reduce a held-out orbit")
        return tuple(found)

    @property
    def clean(self) -> bool:
        """Whether no leak was found."""
        return not self.faults


def check_leaks(task: Task, split: Split | None, train: Chains, test: Chains | None = None) -> LeakReport:
    """Compare a training set with a split, a test set, or both; what cannot be checked is None.

    Works on any chains of the task, also those read from a file. Data that others split know nothing of this split's
    hash: give them their own test set and `split` None, or, to check their hold-out, `Split.holding_out` (and ignore
    `test_items_in_train`). Questions are compared by a 64-bit hash: a million of them collide by chance once in
    thirty million checks.
    """
    salt = 0 if split is None else split.spec.split_seed
    questions = np.unique(question_hashes(train, salt))
    asked = None if test is None else np.unique(question_hashes(test, salt))
    return LeakReport(
        train=len(train),
        train_distinct=len(questions),
        test=None if test is None else len(test),
        test_distinct=None if asked is None else len(asked),
        test_items_in_train=None if split is None else int(split.is_test(train).sum()),
        shared_questions=None if asked is None else int(np.isin(asked, questions).sum()),
        held_out_lines=None if split is None else int(split.held_steps(task, train).sum()),
        test_as_lines=None if asked is None else int(np.isin(asked, line_hashes(task, train, salt)).sum()),
    )
