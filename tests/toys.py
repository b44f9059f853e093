"""Toy tasks and the subjects that carry them: enough of a task for a probe to look at, nothing installed, no split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from kc_interp.probe import Subject
from kc_interp.tasks.task import Chains, Task
from kc_interp.tokens import Tokens

Toy = TypeVar("Toy", bound=type)


def fills_in(toy: Toy) -> Toy:
    """A class decorator: whatever else a task must have, and these tests do not use, answers None."""
    own = {*vars(toy), *getattr(toy, "__annotations__", {})}
    for name in vars(Task):
        if not name.startswith("_") and name not in own:
            setattr(toy, name, lambda *_: None)
    return toy


@dataclass(frozen=True)
class SampledSubject(Subject):
    """A subject whose items its toy task draws."""

    given: Any = field(default=None)

    @property
    def task(self) -> Any:
        return self.given

    @property
    def tokens(self) -> Tokens:
        return Tokens.of(self.given)

    def items(self, count: int, purpose: str, component: str | None = None) -> Chains:
        return self.given.sample(count, self.rng(purpose))
