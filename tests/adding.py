"""A whole task in one file, to copy from: running sums in Z_n, as another package would write it.

3 + 4 + 1 > 7 + 1 = 8 <end>
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kc_interp.errors import DataError, ExpressionError, SpecError
from kc_interp.tasks.task import Chains, SymbolClass

END, PLUS, SEPARATOR, EQUALS, FIRST_DIGIT = range(5)


@dataclass(frozen=True)
class Adding:
    """Add two to `terms` numbers of Z_modulus from the left, one sum a line."""

    modulus: int = 10
    terms: int = 3

    def __post_init__(self) -> None:
        if self.modulus < 2 or self.terms < 2:
            raise SpecError(f"modulus is {self.modulus}, terms is {self.terms}; each must be at least 2")

    @property
    def symbols(self) -> tuple[str, ...]:
        return ("<end>", "+", ">", "=", *map(str, range(self.modulus)))

    @property
    def classes(self) -> tuple[SymbolClass, ...]:
        digit: SymbolClass = "digit"
        return ("end", "operation", "separator", "equals", *(digit for _ in range(self.modulus)))

    @property
    def used(self) -> np.ndarray:
        return np.asarray([code != SEPARATOR or self.terms > 2 for code in range(len(self.symbols))])

    @property
    def max_length(self) -> int:
        return len(self._chain([0] * self.terms))

    def _chain(self, numbers: list[int]) -> list[int]:
        """The codes of one chain: each line adds the first two numbers of the line before."""
        lines = [numbers]
        while len(lines[-1]) > 1:
            first, second, *rest = lines[-1]
            lines.append([(first + second) % self.modulus, *rest])
        marks = [SEPARATOR] * (len(lines) - 2) + [EQUALS, END]
        codes: list[int] = []
        for line, mark in zip(lines, marks, strict=True):
            for number in line:
                codes += [number + FIRST_DIGIT, PLUS]
            codes[-1] = mark
        return codes

    def _chains(self, questions: list[list[int]]) -> Chains:
        rows = [self._chain(numbers) for numbers in questions]
        lengths = np.asarray([len(row) for row in rows], dtype=np.int64)
        symbols = np.full((len(rows), int(lengths.max(initial=1))), END)
        for row, codes in zip(symbols, rows, strict=True):
            row[: len(codes)] = codes
        return Chains(symbols, lengths, np.asarray([2 * len(q) - 1 for q in questions], dtype=np.int64), lengths - 2)

    def _questions(self, chains: Chains) -> list[list[int]]:
        rows = zip(chains.symbols, chains.prompts, strict=True)
        return [(row[:prompt:2] - FIRST_DIGIT).tolist() for row, prompt in rows]

    def sample(self, count: int, rng: np.random.Generator) -> Chains:
        counts = rng.integers(2, self.terms + 1, count)
        return self._chains([rng.integers(0, self.modulus, terms).tolist() for terms in counts])

    def redraw(self, chains: Chains, rng: np.random.Generator) -> Chains:
        return self._chains([rng.integers(0, self.modulus, len(q)).tolist() for q in self._questions(chains)])

    def components(self) -> Mapping[str, Adding]:
        return {}

    def groups(self, chains: Chains) -> Mapping[str, np.ndarray]:
        return {"steps": (chains.prompts - 1) // 2}

    def atoms(self) -> Chains:
        return self._chains([[a, b] for a in range(self.modulus) for b in range(self.modulus)])

    def orbits(self, chains: Chains) -> np.ndarray:
        """A step's two numbers in any order, as one number."""
        orbits = np.full((len(chains), self.terms - 1), -1)
        for row, numbers in enumerate(self._questions(chains)):
            total = numbers[0]
            for step, number in enumerate(numbers[1:]):
                orbits[row, step] = min(total, number) * self.modulus + max(total, number)
                total = (total + number) % self.modulus
        return orbits

    def choose_orbits(self, pairs: int, triples: int, seed: int) -> np.ndarray:
        """Pairs of different numbers: no larger step exists, so that `triples` asks for none."""
        different = [a * self.modulus + b for a in range(self.modulus) for b in range(a + 1, self.modulus)]
        if pairs and pairs >= len(different):
            raise DataError(f"holding out {pairs} of {len(different)} pairs leaves none; lower holdout_pairs")
        return np.random.default_rng([5, seed]).permutation(different)[:pairs]

    @property
    def counterfactuals(self) -> tuple[str, ...]:
        return ("operand",)

    def counterfactual(self, chains: Chains, kind: str, rng: np.random.Generator) -> Chains:
        if kind not in self.counterfactuals:
            raise DataError(f"no counterfactual of kind {kind!r}; this task offers: operand")
        questions = self._questions(chains)
        for numbers in questions:
            place = rng.integers(len(numbers))
            numbers[place] = int(numbers[place] + rng.integers(1, self.modulus)) % self.modulus
        return self._chains(questions)

    def parse(self, text: str) -> Chains:
        words = text.split()
        numbers = [int(word) for word in words[::2] if word.isdecimal() and int(word) < self.modulus]
        if len(numbers) < 2 or words != " + ".join(map(str, numbers)).split():
            message = f"expected a sum such as 3 + 4 of numbers below {self.modulus}, found {text!r}"
            raise ExpressionError(message, 0)
        return self._chains([numbers])

    def format(self, chains: Chains) -> list[str]:
        rows = zip(chains.symbols, chains.lengths, strict=True)
        return [" ".join(self.symbols[code] for code in row[: length - 1]) for row, length in rows]
