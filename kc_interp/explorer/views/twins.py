"""The question's twin, the second expression, and how far apart the model holds their answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from kc_interp.circuits.effects import Metric
from kc_interp.errors import ProbeError
from kc_interp.explorer.views.panel import Look, Panel
from kc_interp.finding import Table
from kc_interp.model.interventions import Streams

LEAST_LOGITS = 0.5
"""Where the two logit differences are nearer than this, shares of what lies between them say little."""


@dataclass(frozen=True)
class Contrast:
    """The untouched model's runs of question and twin up to the answer, teacher-forced.

    `metric` is the logit difference: the logit of the question's answer minus that of the twin's.
    """

    question: str
    twin: str
    base: Streams
    source: Streams
    metric: Metric
    symbols: tuple[str, ...]

    @classmethod
    def of(cls, look: Look) -> Contrast:
        """Raises ProbeError when there is no twin, or it does not fit, or the model's logits are not finite."""
        question, twin = look.state.question, look.state.twin.strip()
        if not twin:
            raise ProbeError(
                f"no single change of {question} that changes its answer was found; type a second expression of the "
                "same shape with another answer"
            )
        base, source, metric = look.thinker.pair(question, twin)
        made = cls(question, twin, base, source, metric, look.thinker.checkpoint.tokens.symbols)
        if not np.isfinite([made.own, made.others]).all():
            raise ProbeError(f"the logits of {look.thinker.name} are not finite; did its training diverge?")
        return made

    @cached_property
    def own(self) -> float:
        """The logit difference of the question."""
        return float(self.metric(self.base.logits))

    @cached_property
    def others(self) -> float:
        """The logit difference of the twin."""
        return float(self.metric(self.source.logits))

    @property
    def in_shares(self) -> bool:
        """Whether effects are shares of what lies between the two logit differences; else they are in logits."""
        return abs(self.others - self.own) >= LEAST_LOGITS

    @property
    def unit(self) -> str:
        """Of every effect."""
        return "share of the logit difference" if self.in_shares else "logits towards the second answer"

    @property
    def answers(self) -> tuple[str, str]:
        """The two correct answers."""
        return self.symbols[int(self.metric.clean)], self.symbols[int(self.metric.corrupted)]

    def effects(self, differences: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """How far each logit difference lies from the question's, in `unit`: 0 as untouched, a share of 1 as the twin.

        In logits, more is nearer to the twin's answer.
        """
        moved = differences - self.own
        return moved / (self.others - self.own) if self.in_shares else -moved

    @property
    def says(self) -> str:
        """The unit in words, for a reader."""
        first, second = self.answers
        if self.in_shares:
            return (
                f"In shares of the way from the question's logit difference ({self.own:.2f}, {first} against {second}) "
                f"to the second expression's ({self.others:.2f})."
            )
        return (
            f"In logits, towards {second} and away from {first}: the model's logit differences of the two expressions, "
            f"{self.own:.2f} and {self.others:.2f}, are too near for shares."
        )

    def panels(self) -> Iterator[Panel]:
        """The two expressions."""
        runs = zip((self.question, self.twin), self.answers, (self.base, self.source), (self.own, self.others),
                   strict=True)  # fmt: skip
        rows = [
            (text, answer, self.symbols[int(run.logits[0].argmax())], round(difference, 3))
            for text, answer, run, difference in runs
        ]
        first, second = self.answers
        yield Panel(
            table=Table(
                "The two expressions, in the untouched model",
                ("expression", "correct answer", "the model says", f"logit of {first} minus that of {second}"),
                tuple(rows),
            )
        )


def untouched_only(look: Look) -> str:
    """What a figure of the untouched model, teacher-forced, says where the page shows something else."""
    free = "This is of the correct chain, not of what the model writes by itself." if look.state.free else ""
    touched = "This is the untouched model: the cuts do not show here." if look.touched else ""
    return f"{touched} {free}".strip()
