"""ListOps over Z_n: nested MAX, MIN, MED, SUM, PROD and NADD, solved by a chain of thought of one reduction a line.

    [SUM 1 [MAX 4 3]] > [SUM 1 4] = 5 <end>        shape "paper"
    [SUM 1 [MAX 4 3]] = [SUM 1 4] = 5 <end>        shape "equals"

The task of Nangia & Bowman (2018, https://arxiv.org/abs/1804.06028), with the modular operations and chains of
"The Role of Task Complexity in Emergent Abilities of Small Language Models". Symbol codes do not depend on the
operations in use, and neither do the brackets drawn from a seed: arms of a comparison differ in their operations alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from kc_interp.errors import DataError, ExpressionError, SpecError, did_you_mean
from kc_interp.tasks import codes, expressions, sampling
from kc_interp.tasks.codes import CLOSE, END, EQUALS, FIRST_DIGIT, FIRST_OPERATION, OPEN, SEPARATOR
from kc_interp.tasks.expressions import OPERATIONS, Median
from kc_interp.tasks.reduction import Rules, Steps, chains_of, every_step, has_table, is_before, look_up, steps_of
from kc_interp.tasks.task import Chains, SymbolClass

ATOM_LIMIT = 200_000
"""The atomic table holds whole arities, the small ones first, up to this many reductions per operation."""

ORBIT_LIMIT = 2_000_000
"""Held-out orbits are listed one by one; a hold-out of more is refused."""

SYMBOL_LIMIT = 400_000_000
"""The most symbols that a batch of parsed questions may need when worked out: chains grow with the square of length."""

SHORTEST_QUESTION = 5
"""Two brackets, a name and two numbers."""

_TRIES = 24


@dataclass(frozen=True)
class ListOps:
    """The task with its settings.

    `weights` parallel to `operations` (None: uniform). `depth` is the largest nesting; each operand is an operation
    with probability `p_operation` while the nesting allows it; their number is uniform from 2 to `max_operands`.
    `median` of an even count: the upper one, or `int(numpy.median)`. An operation in `shuffled` answers by a table in
    which its own answers changed places, as `shuffle_seed` says; the order of its operands does not matter.
    `lengths` is a stratum: only questions of so many symbols are drawn, from the shortest to the longest (brackets,
    names and numbers count one each: `[SUM 1 [MAX 4 3]]` has 9), in the shares that they have among all. Symbols and
    `max_length` stay as without it, so that models of two strata have the same size; single steps are those of the
    task, in its questions or not. Raises SpecError on settings that do not fit.
    """

    operations: tuple[str, ...] = ("MAX", "MED", "SUM")
    weights: tuple[float, ...] | None = None
    modulus: int = 10
    median: Median = "upper"
    depth: int = 2
    max_operands: int = 3
    p_operation: float = 0.5
    shape: Literal["paper", "equals"] = "paper"
    shuffled: tuple[str, ...] = ()
    shuffle_seed: int = 0
    lengths: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("operations", "weights", "shuffled", "lengths"):  # TOML has lists, a frozen task needs tuples
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        given: object = self.operations
        if isinstance(given, str) or not given:
            raise SpecError(f"operations is {self.operations!r}; give a list of one or more of {', '.join(OPERATIONS)}")
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise SpecError(f"unknown operation {operation!r}{did_you_mean(str(operation).upper(), OPERATIONS)}")
        if len(set(self.operations)) < len(self.operations):
            raise SpecError(f"operations {', '.join(self.operations)} name one twice; weights draw one more often")
        if self.weights is not None and len(self.weights) != len(self.operations):
            raise SpecError(f"{len(self.weights)} weights for {len(self.operations)} operations; give one for each")
        if self.weights is not None and not all(0 < weight < math.inf for weight in self.weights):
            raise SpecError(f"weights are {self.weights}; each must be above 0: leave out what is never to be drawn")
        if self.median not in ("upper", "numpy"):
            raise SpecError(f"median is {self.median!r}{did_you_mean(str(self.median), ('upper', 'numpy'))}")
        if self.shape not in ("paper", "equals"):
            raise SpecError(f"shape is {self.shape!r}{did_you_mean(str(self.shape), ('paper', 'equals'))}")
        if not 2 <= self.modulus <= 100:
            raise SpecError(f"modulus is {self.modulus}; it must lie between 2 and 100")
        if not 1 <= self.depth <= 20:
            raise SpecError(f"depth is {self.depth}; the nesting must lie between 1 and 20")
        if not 0 <= self.p_operation <= 1:
            raise SpecError(f"p_operation is {self.p_operation}; a probability lies between 0 and 1")
        for name in self.shuffled:
            if name not in self.operations:
                raise SpecError(f"shuffled names {name!r}, not in use{did_you_mean(str(name), self.operations)}")
            if name == "NADD":
                raise SpecError("NADD depends on the order of its operands; a shuffled table does not")
        if self.shuffled and not has_table(self.modulus, self.max_operands):
            raise SpecError(
                f"a shuffled table for up to {self.max_operands} operands of modulus {self.modulus} is too large; "
                "lower max_operands or modulus"
            )
        if self.shuffle_seed < 0:
            raise SpecError(f"shuffle_seed is {self.shuffle_seed}; a seed is 0 or more")
        if self.max_operands < 2:
            raise SpecError(f"max_operands is {self.max_operands}; an operation has at least 2")
        if self.lengths is not None:
            self._require_lengths(self.lengths)
        if self.max_operands > (most := _most_operands(self.modulus)):
            raise SpecError(f"max_operands is {self.max_operands}; modulus {self.modulus} allows up to {most}")

    def _require_lengths(self, lengths: object) -> None:
        match lengths:
            case (int(low), int(high)) if low <= high:
                pass
            case _:
                raise SpecError(f"lengths is {lengths!r}; give the shortest and the longest question, e.g. [9, 14]")
        if high < SHORTEST_QUESTION or low > self._longest_question:
            raise SpecError(
                f"lengths is {lengths!r}; with depth {self.depth} and max_operands {self.max_operands} questions have "
                f"{SHORTEST_QUESTION} to {self._longest_question} symbols"
            )

    @property
    def says(self) -> str:
        """The task for a reader who has never met it."""
        means = {
            "MAX": "MAX takes the largest operand",
            "MIN": "MIN takes the smallest",
            "MED": "MED takes the middle one" + (" (of an even number the upper)" if self.median == "upper" else ""),
            "SUM": f"SUM adds modulo {self.modulus}",
            "PROD": f"PROD multiplies modulo {self.modulus}",
            "NADD": f"NADD adds and subtracts in turn, modulo {self.modulus}",
        }
        return (
            f"Each question nests operations over the numbers 0 to {self.modulus - 1}. The model writes how it works "
            "out: one reduction a line, the innermost first, and after the last '=' the answer. "
            + "; ".join(means[name] for name in self.operations)
            + "."
            + "".join(
                f" The answers of {name} are shuffled: what it says above does not hold." for name in self.shuffled
            )
        )

    @property
    def symbols(self) -> tuple[str, ...]:
        """End, brackets, separators, all six operations, then the numbers: the same for every subset of operations."""
        return codes.alphabet(self.modulus)

    @property
    def classes(self) -> tuple[SymbolClass, ...]:
        """The class of each symbol."""
        return codes.classes(self.modulus)

    @property
    def used(self) -> Bool[np.ndarray, " symbol"]:
        """Which symbols this task's chains can contain. Without nesting no line stands between question and answer."""
        used = np.zeros(len(self.symbols), dtype=bool)
        used[[END, OPEN, CLOSE, EQUALS]] = True
        used[SEPARATOR] = self.shape == "paper" and self._nesting > 1
        used[self._codes] = True
        used[FIRST_DIGIT:] = True
        return used

    @property
    def max_length(self) -> int:
        """The length of the chain of the full tree, the end symbol included (depth 2 of up to 3 operands: 60)."""
        reductions = self._most_reductions
        question = self._longest_question
        shrinks = self.max_operands + 2
        lines = (reductions + 1) * question - shrinks * reductions * (reductions + 1) // 2
        return lines + reductions + 1

    @property
    def _most_reductions(self) -> int:
        return sum(self.max_operands**level for level in range(self._nesting))

    @property
    def _longest_question(self) -> int:
        return 3 * self._most_reductions + self.max_operands**self._nesting

    @property
    def _nesting(self) -> int:
        return self.depth if self.p_operation > 0 else 1

    @property
    def _codes(self) -> Int[np.ndarray, " operation"]:
        return np.asarray([FIRST_OPERATION + OPERATIONS.index(name) for name in self.operations], dtype=np.int16)

    def _fill(self, question: Int[np.ndarray, "example pos"], rng: np.random.Generator) -> None:
        cumulative = None if self.weights is None else np.cumsum(self.weights, dtype=np.float64)
        sampling.fill(question, rng, operations=self._codes, cumulative=cumulative, modulus=self.modulus)

    def chains(self, question: Int[np.ndarray, "example pos"], lengths: Int[np.ndarray, " example"]) -> Chains:
        """The worked examples of questions given as symbol codes, padded on the right with the end symbol."""
        separator = SEPARATOR if self.shape == "paper" else EQUALS
        rules = Rules(self.modulus, self.median, self.shuffled, self.shuffle_seed)
        return chains_of(question, lengths, rules=rules, separator=separator)

    def sample(self, count: int, rng: np.random.Generator) -> Chains:
        """`count` chains, with repetitions as they fall."""
        draw: Callable[..., tuple[np.ndarray, np.ndarray]] = sampling.skeletons
        if self.lengths is not None:
            draw = functools.partial(sampling.skeletons_between, bounds=self.lengths)
        question, lengths = draw(
            count, rng, depth=self.depth, max_operands=self.max_operands, p_operation=self.p_operation
        )
        self._fill(question, rng)
        return self.chains(question, lengths)

    def redraw(self, chains: Chains, rng: np.random.Generator) -> Chains:
        """The same brackets with fresh operations and numbers."""
        question = question_codes(chains)
        self._fill(question, rng)
        return self.chains(question, chains.prompts)

    def components(self) -> Mapping[str, ListOps]:
        """Each operation alone, all else equal."""
        return {
            name: dataclasses.replace(
                self, operations=(name,), weights=None, shuffled=tuple({name} & set(self.shuffled))
            )
            for name in self.operations
        }

    def groups(self, chains: Chains) -> Mapping[str, np.ndarray]:
        """`operation` and `arity` of the outermost application, `depth` of nesting, `steps` to the answer."""
        question = question_codes(chains)
        opened = question == OPEN
        level = np.cumsum(opened, axis=1) - np.cumsum(question == CLOSE, axis=1)
        children = ((question >= FIRST_DIGIT) & (level == 1)) | (opened & (level == 2))
        names = np.asarray(OPERATIONS)[question[:, 1] - FIRST_OPERATION]
        return {
            "operation": names,
            "depth": level.max(axis=1, initial=0),
            "steps": opened.sum(axis=1),
            "arity": children.sum(axis=1),
        }

    def steps(self, chains: Chains) -> Steps:
        """Every reduction of every chain, read from its lines."""
        return steps_of(chains)

    def atoms(self) -> Chains:
        """Every single reduction, operation by operation (two or three numbers of ten: 1,100 each).

        All arities up to `max_operands`, as far as they stay within ATOM_LIMIT per operation; pairs are always there.
        """
        sizes = itertools.accumulate(self.modulus**arity for arity in range(2, self.max_operands + 1))
        arities = [arity for arity, size in enumerate(sizes, start=2) if arity == 2 or size <= ATOM_LIMIT]
        parts = []
        for operation in self._codes:
            for arity in arities:
                numbers = np.indices((self.modulus,) * arity).reshape(arity, -1).T
                question = np.empty((len(numbers), arity + 3), dtype=np.int16)
                question[:, 0], question[:, 1], question[:, -1] = OPEN, operation, CLOSE
                question[:, 2:-1] = numbers + FIRST_DIGIT
                parts.append(self.chains(question, np.full(len(numbers), arity + 3)))
        return Chains.concatenate(parts, end=END)

    def orbits(self, chains: Chains) -> Int[np.ndarray, "example step"]:
        """Each step's operation with its operands as a multiset, as one number; -1 where a chain has no further step.

        The number is the same in every task of this modulus, whatever its operations, nesting and arities.
        """
        steps = steps_of(chains)
        if steps.operands.shape[1] > _most_operands(self.modulus):
            raise DataError(
                f"a step has {steps.operands.shape[1]} operands; with modulus {self.modulus} orbits are numbered up to "
                f"{_most_operands(self.modulus)}"
            )
        orbits = np.full((len(chains), int(steps.index.max(initial=0)) + 1), -1, dtype=np.int64)
        orbits[steps.chain, steps.index] = _orbit_numbers(steps.operations, steps.operands, self.modulus)
        return orbits

    def choose_orbits(self, pairs: int, triples: int, seed: int) -> Int[np.ndarray, " orbit"]:
        """Per operation: pairs of different numbers with every larger multiset that contains one, and other triples.

        Drawn by the seed and the operation's name alone, so that what is held out of SUM is the same in every mixture.
        Without triples (operations of two operands only) none is held out. Raises DataError when nothing would be left.
        """
        if self.max_operands < 3:
            triples = 0
        all_pairs = list(itertools.combinations(range(self.modulus), 2))
        if pairs and pairs >= len(all_pairs):
            raise DataError(
                f"holding out {pairs} pairs leaves none to train on: modulus {self.modulus} has {len(all_pairs)} "
                "pairs of different numbers; lower holdout_pairs, or raise the modulus"
            )
        larger = sum(math.comb(self.modulus + arity - 3, arity - 2) for arity in range(2, self.max_operands + 1))
        if pairs * larger > ORBIT_LIMIT:
            raise DataError(
                f"{pairs} pairs lie in up to {pairs * larger} multisets of {self.max_operands} operands, too many to "
                "hold out one by one; set holdout_pairs to 0, or lower max_operands or modulus"
            )
        chosen = [self._choose(name, all_pairs, pairs, triples, seed) for name in self.operations]
        return np.unique(np.concatenate(chosen)) if pairs + triples else np.zeros(0, dtype=np.int64)

    def _choose(
        self, name: str, all_pairs: list[tuple[int, int]], pairs: int, triples: int, seed: int
    ) -> Int[np.ndarray, " orbit"]:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        held = [all_pairs[index] for index in rng.permutation(len(all_pairs))[:pairs]]
        multisets: list[tuple[int, ...]] = []
        for arity in range(2, self.max_operands + 1) if held else ():
            rest = list(itertools.combinations_with_replacement(range(self.modulus), arity - 2))
            multisets += {tuple(sorted((*pair, *others))) for pair in held for others in rest}
        if triples:
            taken = set(multisets)
            free = [t for t in itertools.combinations_with_replacement(range(self.modulus), 3) if t not in taken]
            if triples >= len(free):
                raise DataError(
                    f"holding out {triples} triples of {name} leaves none to train on: {len(free)} contain no held-out "
                    "pair; lower holdout_triples or holdout_pairs, or raise the modulus"
                )
            multisets += [free[index] for index in rng.permutation(len(free))[:triples]]
        operands = np.full((len(multisets), self.max_operands), -1, dtype=np.int64)
        for row, multiset in enumerate(multisets):
            operands[row, : len(multiset)] = multiset
        return _orbit_numbers(np.full(len(multisets), OPERATIONS.index(name)), operands, self.modulus)

    @property
    def counterfactuals(self) -> tuple[str, ...]:
        """A number of the question changed ("operand"); an operation changed into another in use ("operation")."""
        return ("operand", "operation") if len(self.operations) > 1 else ("operand",)

    def counterfactual(self, chains: Chains, kind: str, rng: np.random.Generator) -> Chains:
        """A twin of each chain: one number or one operation of its question differs, and its answer does.

        The lines are recomputed; brackets, lengths and symbol classes stay. Where no such change alters the answer (no
        operation of MAX, MED, SUM tells 0 from 0 in `[MAX 0 0]`) the twin is the chain itself, for the caller to drop.
        """
        if kind not in self.counterfactuals:
            raise DataError(f"no counterfactual of kind {kind!r}; this task offers: {', '.join(self.counterfactuals)}")
        question = question_codes(chains)
        symbols = chains.symbols.copy()
        pending = np.arange(len(chains))
        for _ in range(_TRIES):
            changed = self._change_one(question[pending], kind, rng)
            twins = self.chains(changed, chains.prompts[pending])
            pending = self._keep_differing(chains, symbols, pending, twins)
            if not len(pending):
                break
        for row in pending:
            candidates = self._every_change(question[row, : chains.prompts[row]], kind)
            twins = self.chains(candidates, np.full(len(candidates), chains.prompts[row]))
            work = np.flatnonzero(twins.answer_symbols() != chains.symbols[row, chains.answers[row]])
            if len(work):
                symbols[row, : chains.lengths[row]] = twins.symbols[rng.choice(work), : chains.lengths[row]]
        return Chains(symbols, chains.lengths, chains.prompts, chains.answers)

    @staticmethod
    def _keep_differing(
        chains: Chains, symbols: Int[np.ndarray, "example pos"], pending: Int[np.ndarray, " row"], twins: Chains
    ) -> Int[np.ndarray, " left"]:
        """Write the twins whose answer differs; the rows that still need one."""
        differs = twins.answer_symbols() != chains.symbols[pending, chains.answers[pending]]
        symbols[pending[differs], : twins.symbols.shape[1]] = twins.symbols[differs]
        return pending[~differs]

    def _change_one(
        self, question: Int[np.ndarray, "example pos"], kind: str, rng: np.random.Generator
    ) -> Int[np.ndarray, "example pos"]:
        """A copy with one number or one operation of each question, chosen uniformly, changed into another."""
        question = question.copy()
        choices, movable = self._choices(question, kind)
        place = np.where(movable, rng.random(question.shape), -1).argmax(axis=1)
        rows = np.arange(len(question))
        now = (question[rows, place, None] == choices).argmax(axis=1)
        shift = rng.integers(1, len(choices), len(question))
        question[rows, place] = choices[(now + shift) % len(choices)]
        return question

    def _choices(self, question: np.ndarray, kind: str) -> tuple[Int[np.ndarray, " choice"], Bool[np.ndarray, " *pos"]]:
        if kind == "operand":
            return np.arange(FIRST_DIGIT, FIRST_DIGIT + self.modulus, dtype=np.int16), question >= FIRST_DIGIT
        return self._codes, (question >= FIRST_OPERATION) & (question < FIRST_DIGIT)

    def _every_change(self, question: Int[np.ndarray, " pos"], kind: str) -> Int[np.ndarray, "change pos"]:
        choices, movable = self._choices(question, kind)
        changes = [(p, c) for p in np.flatnonzero(movable) for c in choices if c != question[p]]
        changed = np.repeat(question[None], len(changes), axis=0)
        changed[np.arange(len(changes)), [p for p, _ in changes]] = [c for _, c in changes]
        return changed

    def corrupt_line(
        self, chains: Chains, line: int, rng: np.random.Generator
    ) -> tuple[Chains, Bool[np.ndarray, " example"]]:
        """Each chain with one number of one line changed so that the line's value changes; every other line is kept.

        Lines count from the question, 0; the answer's line has no operand to change. Also returns which chains had such
        a line (the others come back as they are). Beyond the Task protocol: it measures reliance on a written line.
        """
        place = np.arange(chains.symbols.shape[1])
        number = np.cumsum(np.isin(chains.symbols, (SEPARATOR, EQUALS)), axis=1)
        inside = (number == line) & (place < chains.answers[:, None] - 1)
        symbols = chains.symbols.copy()
        rows = np.flatnonzero(inside.any(axis=1))
        if not len(rows):
            return Chains(symbols, chains.lengths, chains.prompts, chains.answers), np.zeros(len(chains), dtype=bool)
        start = inside[rows].argmax(axis=1) + (line > 0)  # past the separator that opens the line
        lengths = inside[rows].sum(axis=1) - (line > 0)
        columns = np.arange(lengths.max())
        real = columns < lengths[:, None]
        at = np.minimum(start[:, None] + columns, chains.symbols.shape[1] - 1)
        question = np.where(real, symbols[rows[:, None], at], END).astype(np.int16)
        twins = self.counterfactual(self.chains(question, lengths), "operand", rng)
        symbols[np.broadcast_to(rows[:, None], at.shape)[real], at[real]] = twins.symbols[:, : at.shape[1]][real]
        return Chains(symbols, chains.lengths, chains.prompts, chains.answers), (symbols != chains.symbols).any(axis=1)

    def parse(self, text: str) -> Chains:
        """One question such as `[MAX 2 9 [MIN 4 7] 0]`, worked out. Raises ExpressionError.

        Operations that the task does not use, deeper nesting and more operands are read all the same: what a model of
        this task can be shown is decided by its vocabulary and its context.
        """
        expression = expressions.parse(text, self.modulus)
        if isinstance(expression, int):
            position = len(text) - len(text.lstrip())
            message = f"at position {position}: found a bare number; expected '[' and an operation"
            raise ExpressionError(message, position)
        return self.of_expressions([expression])

    def of_expressions(self, questions: list[expressions.Application]) -> Chains:
        """Parsed questions, worked out. Raises DataError when the chains would not fit into memory."""
        code = {symbol: index for index, symbol in enumerate(self.symbols)}
        rows = [[code[word] for word in expressions.words(question)] for question in questions]
        lengths = np.asarray([len(row) for row in rows], dtype=np.int64)
        longest = max((len(row) * (row.count(OPEN) + 1) // 2 for row in rows), default=0)
        if longest * len(rows) > SYMBOL_LIMIT:
            raise DataError(
                f"{len(rows)} chains of up to {longest} symbols are too many at once; read fewer or shorter expressions"
            )
        question = np.full((len(rows), int(lengths.max(initial=1))), END, dtype=np.int16)
        question[np.arange(question.shape[1]) < lengths[:, None]] = [code for row in rows for code in row]
        return self.chains(question, lengths)

    def format(self, chains: Chains) -> list[str]:
        """Each chain as a person reads it, the end symbol left out: `[SUM 1 [MAX 4 3]] > [SUM 1 4] = 5`."""
        symbols = self.symbols
        return [
            expressions.spaced([symbols[code] for code in row[: length - 1]])
            for row, length in zip(chains.symbols.tolist(), chains.lengths.tolist(), strict=True)
        ]


def question_codes(chains: Chains) -> Int[np.ndarray, "example pos"]:
    """The questions alone, padded with the end symbol (a copy)."""
    width = int(chains.prompts.max(initial=1))
    question = np.full((len(chains), width), END, dtype=np.int16)
    np.copyto(question, chains.symbols[:, :width], where=is_before(width, chains.prompts), casting="same_kind")
    return question


def _most_operands(modulus: int) -> int:
    """The largest arity whose orbits still have a number of 63 bits."""
    return int((63 * math.log(2) - math.log(len(OPERATIONS))) / math.log(modulus + 1))


def _orbit_numbers(
    operations: Int[np.ndarray, " step"], operands: Int[np.ndarray, "step operand"], modulus: int
) -> Int[np.ndarray, " step"]:
    """The number of each step's orbit, looked up where the table of all steps is small."""
    width = operands.shape[1]
    if has_table(modulus, width):
        return look_up(_orbit_table(modulus, width), operations, operands, modulus)
    return _rank_and_number(operations, operands, modulus)


@functools.lru_cache(maxsize=16)
def _orbit_table(modulus: int, width: int) -> Int[np.ndarray, " any_step"]:
    return _rank_and_number(*every_step(modulus, width), modulus)


def _rank_and_number(
    operations: Int[np.ndarray, " step"], operands: Int[np.ndarray, "step operand"], modulus: int
) -> Int[np.ndarray, " step"]:
    """Operation + 6 · (operands from large to small as digits 1 … n in base n + 1, none as 0)."""
    ranked = np.sort(operands, axis=1)[:, ::-1] + np.int64(1)
    number = np.zeros(len(operations), dtype=np.int64)
    for column in ranked.T[::-1]:
        number = number * (modulus + 1) + column
    return number * len(OPERATIONS) + operations
