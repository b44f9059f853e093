"""The question's twin: the second expression, or one chosen for it, and how far apart the model holds their answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from kc_interp.circuits.effects import Metric
from kc_interp.errors import ProbeError
from kc_interp.explorer.thinking import Thinker
from kc_interp.explorer.views.panel import Look, Panel
from kc_interp.finding import Table
from kc_interp.model.interventions import Streams
from kc_interp.tasks.task import Chains

LEAST_LOGITS = 0.5
"""Where the two logit differences are nearer than this, shares of what lies between them say little."""

_SEED = 20


def twin_of(look: Look) -> str:
    """The second expression as typed, else a twin of the question: one symbol changed, so that the answer changes.

    The same question has the same twin in every model of one task. Raises ProbeError where there is none.
    """
    question = look.state.question
    return look.state.twin.strip() or look.thinker.kept(("twin", question), lambda: _chosen(look.thinker, question))


def _chosen(thinker: Thinker, question: str) -> str:
    chains, task = thinker.read(question), thinker.checkpoint.task
    for kind in task.counterfactuals:
        twin = task.counterfactual(chains, kind, np.random.default_rng(_SEED))
        if twin.answer_symbols()[0] != chains.answer_symbols()[0] and thinker.checkpoint.tokens.knows(twin)[0]:
            return _question_of(thinker, twin)
    raise ProbeError(
        f"no single change of {question} changes its answer; type a second expression of the same shape with another "
        "answer"
    )


def _question_of(thinker: Thinker, chains: Chains) -> str:
    """The question of a chain as a person types it."""
    task, asked = thinker.checkpoint.task, chains.prompts[:1]
    symbols = chains.symbols[:1, : int(asked[0]) + 1].copy()
    symbols[0, -1] = task.classes.index("end")
    return task.format(Chains(symbols, asked + 1, asked, asked - 1))[0]


@dataclass(frozen=True)
class Contrast:
    """The untouched model's runs of question and twin up to the answer, teacher-forced.

    `metric` is the logit difference: the logit of the question's answer minus that of the twin's. `given`: whether the
    twin was typed.
    """

    question: str
    twin: str
    given: bool
    base: Streams
    source: Streams
    metric: Metric
    symbols: tuple[str, ...]

    @classmethod
    def of(cls, look: Look) -> Contrast:
        """Raises ProbeError when there is no twin, or it does not fit, or the model's logits are not finite."""
        question, twin = look.state.question, twin_of(look)
        base, source, metric = look.thinker.pair(question, twin)
        given, symbols = bool(look.state.twin.strip()), look.thinker.checkpoint.tokens.symbols
        made = cls(question, twin, given, base, source, metric, symbols)
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
        """The two expressions, with a button to keep a twin that was chosen."""
        runs = zip((self.question, self.twin), self.answers, (self.base, self.source), (self.own, self.others),
                   strict=True)  # fmt: skip
        rows = [
            (text, answer, self.symbols[int(run.logits[0].argmax())], round(difference, 3))
            for text, answer, run, difference in runs
        ]
        keep = ("Keep as second expression", {"do": "set", "twin": self.twin})
        first, second = self.answers
        yield Panel(
            table=Table(
                "The two expressions, in the untouched model",
                ("expression", "correct answer", "the model says", f"logit of {first} minus that of {second}"),
                tuple(rows),
            ),
            note=""
            if self.given
            else "No second expression is typed, so one was chosen: one symbol changed, and the answer with it. "
            "Keep it, or type another, to cut by patching.",
            actions=() if self.given else (None, keep),
        )


def untouched_only(look: Look) -> str:
    """What a figure of the untouched model, teacher-forced, says where the page shows something else."""
    free = "This is of the correct chain, not of what the model writes by itself." if look.state.free else ""
    touched = "This is the untouched model: the cuts do not show here." if look.touched else ""
    return f"{touched} {free}".strip()
