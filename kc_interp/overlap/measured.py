"""What is measured of each model before models are compared: its circuit on two halves of the same inputs.

All models answer the same questions, single reductions of one component by default, so that effects, positions and
attention mean the same in each. Heads are matched on the first half, and overlap is measured on the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kc_interp.circuits.effects import Comparison, Metric
from kc_interp.circuits.matching import Compared, Matching, Overlap, Profile, compared, overlap
from kc_interp.circuits.shared import Operation
from kc_interp.circuits.transplant import Kept, Transplant, direct, parts, stitched, untrained
from kc_interp.errors import ProbeError, SpecError
from kc_interp.model.interventions import Streams
from kc_interp.pairs import Pairs, resample
from kc_interp.probe import Subject

_STITCHED = 300
"""At most so many inputs to fit a stitch on, and as many to judge it on."""

_DONORS = 3
"""Untrained donors, each with a stitch of its own."""


@dataclass(frozen=True)
class Asked:
    """What every model is asked, and how closely it is looked at.

    `pairs` a half, of `steps` reductions of `component`; `keep` is the share of the logit difference that a circuit
    must keep; `shuffles` is how many shuffled circuits are matched for the null. Raises SpecError on a setting that
    leaves nothing to measure.
    """

    component: str | None = "SUM"
    pairs: int = 32
    steps: int = 1
    keep: float = 0.9
    shuffles: int = 199
    resamples: int = 200

    def __post_init__(self) -> None:
        if self.pairs < 4 or self.shuffles < 1 or self.resamples < 20:
            raise SpecError(
                f"pairs is {self.pairs}, shuffles {self.shuffles}, resamples {self.resamples}; at least 4, 1 and 20 "
                "are needed"
            )
        if not 0 < self.keep < 1:
            raise SpecError(f"keep is {self.keep}; a share of the logit difference lies between 0 and 1")

    def halves(self, subject: Subject, component: str | None = None) -> tuple[Pairs, Pairs]:
        """Two sets of pairs that share no chain: the same for every model whose task has the same component.

        Raises ProbeError where no template has enough chains: a head's role speaks of positions.
        """
        first, second = resample(
            subject, self.pairs, purpose="overlap", component=component or self.component, steps=self.steps, sets=2
        )
        return first, second


@dataclass(frozen=True)
class Measured:
    """One model: its inputs, their runs, its circuit on each half, and how many of the answers it gives."""

    subject: Subject
    pairs: tuple[Pairs, Pairs]
    noising: tuple[Comparison, Comparison]
    profiles: tuple[Profile, Profile]
    right: Kept

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def itself(self) -> Overlap:
        """The circuit of one half with that of the other, heads as they are: what another model cannot exceed."""
        return overlap(*self.profiles)


def measure(subject: Subject, asked: Asked, component: str | None = None) -> Measured:
    """Raises ProbeError when there are too few chains, or the model does not tell their answers apart."""
    pairs = asked.halves(subject, component)
    try:
        first, second = (noised(subject, some, asked.resamples) for some in pairs)
    except ProbeError as refusal:
        raise ProbeError(f"{subject.name} has no circuit to compare: {refusal}") from None
    right = accuracy(subject, pairs)
    return Measured(
        subject, pairs, (first, second), (Profile.of(first, asked.keep), Profile.of(second, asked.keep)), right
    )


def noised(subject: Subject, pairs: Pairs, resamples: int) -> Comparison:
    """Clean chains as the base, their twins as the source. Raises ProbeError as `Comparison.of` does."""
    answers = pairs.answers(subject)
    base, source = (Streams.of(subject.params, subject.checkpoint.spec.model, ids) for ids in pairs.ids(subject))
    return Comparison.of(base, source, Metric(answers[0], answers[1]), subject.rng("overlap: resamples"), resamples)


@torch.no_grad()
def accuracy(subject: Subject, pairs: Sequence[Pairs]) -> Kept:
    """How many of the clean chains' answers the model gives, teacher-forced."""
    runs = [Streams.of(subject.params, subject.checkpoint.spec.model, some.ids(subject)[0]).logits for some in pairs]
    return Kept.of(torch.cat(runs), torch.cat([some.answers(subject)[0] for some in pairs]))


def check_same_inputs(models: Sequence[Measured]) -> None:
    """Raises ProbeError when two models were not asked the same questions.

    Their answers may differ, as those of a shuffled table do; a clean chain's twin is then another one.
    """
    for other in models[1:]:
        for one, two in zip(models[0].pairs, other.pairs, strict=True):
            asked, other_asked = (some.clean.symbols[:, : some.query + 1] for some in (one, two))
            if not np.array_equal(asked, other_asked):
                raise ProbeError(
                    f"{models[0].name} and {other.name} were not asked the same questions: their tasks draw others for "
                    "this component; compare models of one modulus, depth and number of operands"
                )


def between(a: Measured, b: Measured, asked: Asked) -> Compared:
    """Two models' circuits, heads matched by role. Raises ProbeError when their shapes differ."""
    check_same_inputs([a, b])
    return compared(a.profiles, b.profiles, a.subject.rng(f"overlap: {b.name}"), shuffles=asked.shuffles)


def operation(found: Measured) -> Operation:
    """One component of one model, for `kc_interp.circuits.shared`."""
    return Operation(found.profiles, found.noising[1])


@dataclass(frozen=True)
class Runs:
    """One model's runs of the inputs that stitches are fitted on and judged on, with untrained models of its spec."""

    subject: Subject
    runs: tuple[Streams, Streams]
    random: tuple[tuple[Streams, Streams], ...]
    answers: Int[Tensor, " batch"]

    @classmethod
    def of(cls, subject: Subject, asked: Asked, *, donors: int = _DONORS) -> Runs:
        """With so many untrained models. Raises ProbeError when there are too few chains of one template."""
        sets = resample(subject, _STITCHED, purpose="stitch", component=asked.component, steps=asked.steps, sets=2)
        spec, ids = subject.checkpoint.spec.model, [some.ids(subject)[0] for some in sets]
        generator = torch.Generator().manual_seed(int(subject.rng("stitch: untrained").integers(2**31)))
        fresh = [untrained(subject.params, spec, generator) for _ in range(donors)]
        runs, *random = (
            (Streams.of(params, spec, ids[0]), Streams.of(params, spec, ids[1])) for params in (subject.params, *fresh)
        )
        return cls(subject, runs, tuple(random), sets[1].answers(subject)[0])


def through_stitches(donor: Runs, receiver: Runs, matching: Matching | None = None) -> tuple[Transplant, ...]:
    """Every part of the receiver from the donor, through a stitch; heads from those that are matched to them.

    `matching` gives the receiver's head for each of the donor's; without it, heads are left out.
    """
    graphs = [runs.runs[0].graph for runs in (donor, receiver)]
    theirs, ours = ({part.name: part for part in parts(graph, heads=matching is not None)} for graph in graphs)
    stands_for = {name: name for name in ours}
    for block, heads in enumerate(matching or ()):
        for own, other in enumerate(heads):
            stands_for[graphs[1].writers[graphs[1].head(block, other)]] = graphs[0].writers[graphs[0].head(block, own)]
    some = [(theirs[stands_for[name]], part) for name, part in ours.items()]
    return stitched(donor.runs, receiver.runs, donor.random, some, receiver.answers)


def directly(donor: Runs, receiver: Runs) -> tuple[Transplant, ...]:
    """Every part of the receiver as the donor writes it, for models that share an ancestor."""
    return direct(donor.runs[1], receiver.runs[1], parts(receiver.runs[1].graph), receiver.answers)


def share_an_ancestor(a: Subject, b: Subject) -> bool:
    """Whether two models began from the same weights: one specification of the model, and one seed.

    False does not say that they did not: a run that goes on from another's weights does not name it.
    """
    one, other = a.checkpoint.spec, b.checkpoint.spec
    same = one.model == other.model and one.seed == other.seed and a.checkpoint.n_ctx == b.checkpoint.n_ctx
    return same and a.checkpoint.tokens.symbols == b.checkpoint.tokens.symbols
