"""Questions to ask: examples, random ones of a depth, and a second expression that fits the first.

Two models are asked about the operations that both know, where there are any.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from kc_interp.errors import KCInterpError, ProbeError
from kc_interp.explorer.thinking import Thinker
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains, Task

DEEPEST = 4
"""Depths that are offered, if the models' contexts have the room."""

_DRAWN = 256


def shared_task(tasks: Sequence[Task]) -> Task:
    """The first model's task, of ListOps with only the operations that all know, if they share any."""
    first = tasks[0]
    lists = [task for task in tasks if isinstance(task, ListOps)]
    if not isinstance(first, ListOps) or len(lists) < len(tasks):
        return first
    names = tuple(name for name in first.operations if all(name in task.operations for task in lists))
    if not names or names == first.operations:
        return first
    shuffled = tuple(name for name in first.shuffled if name in names)
    return dataclasses.replace(first, operations=names, weights=None, shuffled=shuffled)


def depths(thinkers: Sequence[Thinker]) -> list[int]:
    """The depths of nesting that random questions can have; none where the task does not say what depth is."""
    task = shared_task([thinker.checkpoint.task for thinker in thinkers])
    return list(range(1, min(task.depth, DEEPEST) + 1)) if isinstance(task, ListOps) else []


def draw(thinkers: Sequence[Thinker], depth: int | None, rng: np.random.Generator, *, short: bool = False) -> str:
    """A random question that every model reads; the shortest one drawn if it is to be `short`.

    Raises ProbeError when none was found.
    """
    task = shared_task([thinker.checkpoint.task for thinker in thinkers])
    if depth is not None and isinstance(task, ListOps):
        often = max(task.p_operation, 0.4) if depth > 1 else task.p_operation
        task = dataclasses.replace(task, depth=depth, lengths=None, p_operation=often)
    chains = task.sample(_DRAWN, rng)
    nesting = task.groups(chains).get("depth") if depth is not None else None
    rows = np.arange(len(chains)) if nesting is None else np.flatnonzero(nesting == depth)
    if short:
        rows = rows[np.argsort(chains.lengths[rows], kind="stable")]
    for row in rows.tolist():
        text = _question(task, chains, row)
        if _read(thinkers, text):
            return text
    of = "" if depth is None else f" of depth {depth}"
    raise ProbeError(f"no question{of} that these models read was found; type one")


def examples(thinkers: Sequence[Thinker]) -> list[str]:
    """A few questions, the same every time: the first one short and nested."""
    rng = np.random.default_rng(7)
    deep = sorted(depths(thinkers), reverse=True)
    wanted = [(2, True) if 2 in deep else (None, True), *((depth, False) for depth in deep[:2]), (None, False)]
    found: list[str] = []
    for depth, short in wanted:
        try:
            found.append(draw(thinkers, depth, rng, short=short))
        except KCInterpError:
            continue
    return list(dict.fromkeys(found))


def twin_of(thinkers: Iterable[Thinker], question: str, turn: int = 0) -> str:
    """A second expression that differs from the question in one symbol and in its answer; "" where none was found.

    Every model that reads the question reads it. Another one for each `turn`.
    """
    asked = [thinker for thinker in thinkers if _read([thinker], question)]
    for thinker in asked:
        task, chains = thinker.checkpoint.task, thinker.read(question)
        for attempt, kind in enumerate(task.counterfactuals):
            rng = np.random.default_rng([zlib.crc32(question.encode()), turn, attempt])
            try:
                twin = task.counterfactual(chains, kind, rng)
            except KCInterpError:
                continue
            text = _question(task, twin, 0)
            if twin.answer_symbols()[0] != chains.answer_symbols()[0] and _read(asked, text):
                return text
    return ""


def _question(task: Task, chains: Chains, row: int) -> str:
    """The question of a chain as a person types it."""
    asked = chains.prompts[row : row + 1]
    symbols = chains.symbols[row : row + 1, : int(asked[0]) + 1].copy()
    symbols[0, -1] = task.classes.index("end")
    return task.format(Chains(symbols, asked + 1, asked, asked - 1))[0]


def _read(thinkers: Iterable[Thinker], text: str) -> bool:
    try:
        for thinker in thinkers:
            thinker.read(text)
    except KCInterpError:
        return False
    return True
