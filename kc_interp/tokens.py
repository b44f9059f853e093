"""The closed vocabulary: a bijection between the symbols a model knows and its token ids. No string tokenizer anywhere.

With `used` only the symbols that the task's chains can contain get a token (the paper's reviewers asked whether unused
symbols move the threshold); with `all` the whole alphabet does. Padding is the end symbol: a causal model with a masked
loss cannot see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from kc_interp.errors import DataError
from kc_interp.tasks.task import Chains, SymbolClass, Task


@dataclass(frozen=True)
class Tokens:
    """`symbols[t]` is what token t stands for, `classes[t]` its class, `codes[t]` its code in the task's alphabet."""

    symbols: tuple[str, ...]
    classes: tuple[SymbolClass, ...]
    codes: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, which: Literal["used", "all"] = "used") -> Tokens:
        """The vocabulary of a task."""
        codes = [code for code in range(len(task.symbols)) if which == "all" or task.used[code]]
        return cls(
            tuple(task.symbols[code] for code in codes),
            tuple(task.classes[code] for code in codes),
            tuple(codes),
        )

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def end(self) -> int:
        """The token of the end symbol, which is also the padding."""
        return self.classes.index("end")

    def encode(self, symbols: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """Symbol codes to token ids (int64). Raises DataError on a symbol outside the vocabulary."""
        table = np.full(max(self.codes) + 1, -1, dtype=np.int64)
        table[list(self.codes)] = np.arange(len(self.codes))
        if symbols.size and (symbols.max() >= len(table) or (table[symbols] < 0).any()):
            outside = sorted({int(c) for c in np.unique(symbols) if c >= len(table) or table[c] < 0})
            raise DataError(
                f"symbol codes {outside} are not in this vocabulary of {len(self)} ({' '.join(self.symbols)}); "
                "a model trained with vocabulary = 'used' cannot read symbols its task never writes"
            )
        return table[symbols]

    def decode(self, ids: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """Token ids to symbol codes."""
        return np.asarray(self.codes, dtype=np.int64)[ids]

    def knows(self, chains: Chains) -> Bool[np.ndarray, " example"]:
        """Which chains consist of symbols of this vocabulary only."""
        return np.asarray(np.isin(chains.symbols, np.asarray(self.codes)).all(axis=1))


def lines(task: Task, chains: Chains) -> Int[np.ndarray, "example pos"]:
    """The line of the chain that each position is in: 0 for the question, one more after every separator or equals.

    A separator belongs to the line that it opens, as does everything up to the next one; padding is -1.
    """
    opens = np.isin(np.asarray(task.classes, dtype=object), ["separator", "equals"])
    line = np.cumsum(opens[chains.symbols], axis=1)
    return np.where(np.arange(line.shape[1]) < chains.lengths[:, None], line, -1)


def position_classes(task: Task, chains: Chains) -> np.ndarray:
    """The class of each position (array of str, example × pos): that of its symbol, or "answer", or "padding"."""
    labels = np.asarray(task.classes, dtype=object)[chains.symbols]
    labels[np.arange(len(chains)), chains.answers] = "answer"
    labels[np.arange(labels.shape[1]) >= chains.lengths[:, None]] = "padding"
    return labels
