"""How fast training items are drawn: the vectorised sampler against a recursive Python generator of the same job.

Both draw a question, work out its chain line by line, encode it, and redraw the contents until it is no test item and
no line reduces a held-out orbit. The two are interleaved; rates are medians over rounds.

    python experiments/bench/sampling.py [--json] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import random
import statistics
import sys
import time
from typing import Any

import numpy as np
from common import add_output, delivered

from kc_interp.data import Split
from kc_interp.spec import DataSpec
from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.listops import ListOps

TARGET = 10.0

Tree = list[Any] | int
"""An operation's name followed by its operands, or a number."""


class Recursive:
    """The plain generator: one question at a time, with Python's own lists, sets and random numbers."""

    def __init__(self, task: ListOps, split: Split, seed: int) -> None:
        self.task, self.random = task, random.Random(seed)
        self.test_fraction = split.spec.test_fraction
        self.code = {symbol: code for code, symbol in enumerate(task.symbols)}
        _, held = split.split_atoms(task)
        steps = task.steps(held)
        self.held = {
            (OPERATIONS[operation], *sorted(number for number in numbers if number >= 0))
            for operation, numbers in zip(steps.operations.tolist(), steps.operands.tolist(), strict=True)
        }

    def draw(self, count: int) -> list[list[int]]:
        return [self.item() for _ in range(count)]

    def item(self) -> list[int]:
        tree = self.tree(1)
        while True:
            question = self.words(tree)
            # A 64-bit hash that is the same in every process, as the split's is (Python's own is not).
            digest = hashlib.blake2b(" ".join(question).encode(), digest_size=8).digest()
            if int.from_bytes(digest) >= self.test_fraction * 2**64:
                chain = self.chain(tree, question)
                if chain is not None:
                    return [self.code[word] for word in chain]
            tree = self.refilled(tree)

    def tree(self, nesting: int) -> Tree:
        node: list[Any] = [self.random.choice(self.task.operations)]
        for _ in range(self.random.randint(2, self.task.max_operands)):
            if nesting < self.task.depth and self.random.random() < self.task.p_operation:
                node.append(self.tree(nesting + 1))
            else:
                node.append(self.random.randrange(self.task.modulus))
        return node

    def refilled(self, tree: Tree) -> Tree:
        if isinstance(tree, int):
            return self.random.randrange(self.task.modulus)
        return [self.random.choice(self.task.operations), *map(self.refilled, tree[1:])]

    def words(self, tree: Tree) -> list[str]:
        if isinstance(tree, int):
            return [str(tree)]
        found = ["[", tree[0]]
        for operand in tree[1:]:
            found += self.words(operand)
        found.append("]")
        return found

    def chain(self, tree: Tree, question: list[str]) -> list[str] | None:
        """The whole chain, or None as soon as a step is held out."""
        chain = list(question)
        while not isinstance(tree, int):
            reduced = self.reduce(tree)
            if reduced is None:
                return None
            tree = reduced
            chain.append("=" if isinstance(tree, int) else ">")
            chain += self.words(tree)
        return [*chain, "<end>"]

    def reduce(self, tree: list[Any]) -> Tree | None:
        for index, operand in enumerate(tree[1:], start=1):
            if isinstance(operand, list):
                reduced = self.reduce(operand)
                return None if reduced is None else [*tree[:index], reduced, *tree[index + 1 :]]
        name, *values = tree
        if (name, *sorted(values)) in self.held:
            return None
        if name == "MAX":
            return int(max(values))
        if name == "MED":
            return int(sorted(values)[len(values) // 2])
        return int(sum(values) % self.task.modulus)


def measure(count: int, plain_count: int, rounds: int) -> dict[str, Any]:
    """Items per second of both, and their ratio. The two must draw the same mean length, or they do different jobs."""
    task = ListOps(("MAX", "MED", "SUM"))
    split = Split.of(task, DataSpec())
    plain = Recursive(task, split, 0)
    rates: dict[str, list[float]] = {"vectorised": [], "recursive": []}
    lengths: dict[str, list[float]] = {"vectorised": [], "recursive": []}
    for number in range(rounds + 1):
        began = time.perf_counter()
        chains = split.draw(task, count, np.random.default_rng(number), test=False)
        between = time.perf_counter()
        rows = plain.draw(plain_count)
        ended = time.perf_counter()
        if number:  # the first round warms up
            rates["vectorised"].append(count / (between - began))
            rates["recursive"].append(plain_count / (ended - between))
            lengths["vectorised"].append(float(chains.lengths.mean()))
            lengths["recursive"].append(statistics.mean(map(len, rows)))
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "items_per_second": {name: round(rate) for name, rate in median.items()},
        "mean_length": {name: round(statistics.mean(values), 2) for name, values in lengths.items()},
        "ratio": median["vectorised"] / median["recursive"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=60_000, help="items a round of the vectorised sampler")
    parser.add_argument("--plain-count", type=int, default=6_000, help="items a round of the recursive generator")
    parser.add_argument("--rounds", type=int, default=7)
    add_output(parser)
    chosen = parser.parse_args()
    result = measure(chosen.count, chosen.plain_count, chosen.rounds)
    document = {
        "protocol": "MAX+MED+SUM, nesting 2, 2-3 operands, default hold-outs, question and chain as symbol codes; "
        f"{chosen.count} and {chosen.plain_count} items a round, medians of {chosen.rounds} rounds, one thread",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "target": TARGET,
        "result": result,
    }
    if not delivered("sampling", document, chosen):
        print(document["protocol"])
        print(f"items per second: {result['items_per_second']}; mean length: {result['mean_length']}")
        print(f"ratio {result['ratio']:.1f} (target {TARGET:g})")
    return int(result["ratio"] < TARGET)


if __name__ == "__main__":
    sys.exit(main())
