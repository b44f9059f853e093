"""Every error that a user can cause: one small hierarchy, which the command line answers with one clear message.

An error's text is an instruction: what was asked, what was found, what would work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KCInterpError(Exception):
    """The base of every error that is answered with a message instead of a traceback."""


class SpecError(KCInterpError):
    """A setting is unknown, of the wrong kind, or does not fit the others."""


class ExpressionError(KCInterpError):
    """An expression does not parse: `position` is the index of the character at fault."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class DataError(KCInterpError):
    """A data set is empty, malformed, or cannot be drawn under its constraints."""


class CheckpointError(KCInterpError):
    """A checkpoint is missing, cut short, of another kind or schema, or holds tensors of the wrong shape."""


class ProbeError(KCInterpError):
    """A probe cannot answer for this subject; the message says why."""


class PluginError(KCInterpError):
    """A probe or task is not installed, is broken, or shares its name with another."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'n_heads'?"` when a known word is near, else the known words.

    >>> did_you_mean("n_head", ["n_heads", "seed"])
    "; did you mean 'n_heads'?"
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; none is known"
