"""The verdict on one model: does it look single steps up in a table, put pairs together, or work with numbers?

The rule and what it is read from stand in `kc_interp.circuits.verdict`; how often it errs, and how often it finds what
is there, in `experiments/verdict`. What the verdict foretells is set beside what happens: steps whose operands were in
no training chain, in any order. A flat table knows neither the triples nor the pairs held out; a table of pairs knows
the triples; what works with numbers knows both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Int

from kc_interp.circuits.verdict import KINDS, Evidence, Ordered, Rule, Verdict, evidence, judge, sites
from kc_interp.errors import SpecError
from kc_interp.finding import Finding, Number, Table
from kc_interp.probe import Subject
from kc_interp.statistics import wilson
from kc_interp.steps import Steps, all_steps
from kc_interp.tasks.task import Chains, Task

_FORETOLD = {
    "flat table": {"triples": False, "pairs": False},
    "table of pairs composed": {"triples": True, "pairs": False},
    "structured by number": {"triples": True, "pairs": True},
}
_KEYS = dict(zip(KINDS, ("table", "pairs", "number", "neither"), strict=True))
_KNOWN = 0.5
"""Held-out steps count as known from this share of right answers on."""


@dataclass(frozen=True)
class VerdictProbe:
    """Judges every single step of `component` (of the whole task when it has none) with most operands.

    `knows` to `p` are those of `kc_interp.circuits.verdict.Rule`; other values than the defaults have error rates that
    nobody measured. `relabellings` random values of the digits are the control of what is ordered by number.
    """

    component: str | None = "SUM"
    knows: float = Rule.knows
    meet: float = Rule.meet
    alone: float = Rule.alone
    ordered: float = Rule.ordered
    unordered: float = Rule.unordered
    p: float = Rule.p
    relabellings: int = 199

    def __post_init__(self) -> None:
        if self.p * (self.relabellings + 1) < 1:
            raise SpecError(
                f"p is {self.p} with {self.relabellings} relabellings; the smallest p these can give is "
                f"{1 / (self.relabellings + 1):.4f}: raise relabellings"
            )

    @property
    def rule(self) -> Rule:
        return Rule(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Rule)})

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when the task has no single steps of two or more digits in every combination."""
        found = self.read(subject)
        verdict = judge(found.evidence, self.rule)
        example = subject.task.format(found.steps.chains.take(slice(0, 1)))[0]
        count = len(found.steps.operands)
        return Finding(
            probe="verdict",
            subject=subject.name,
            title="The verdict: flat table, table of pairs composed, structured by number, or neither",
            sentence=_sentence(subject, verdict, found.held, count, example),
            status="unlearned" if subject.learned is False else "ok",
            numbers=tuple(_numbers(found.evidence, verdict, found.held, count)),
            tables=(_table(found.evidence),),
            settings=dataclasses.asdict(self),
        )

    def read(self, subject: Subject) -> Reading:
        """What the verdict follows from, and what it is tested by. Raises ProbeError as `run` does."""
        steps = all_steps(subject, self.component)
        task = subject.task.components().get(self.component or "", subject.task)
        ids = subject.ids(steps.chains)[:, :, : steps.query + 1]
        answers, digits = (
            torch.from_numpy(subject.tokens.encode(codes)).to(subject.checkpoint.device)
            for codes in (steps.chains.answer_symbols(), steps.digits)
        )
        held = subject.split.held_out(subject.task, steps.chains)
        parts, logits, right = sites(subject.params, subject.checkpoint.spec.model, ids, answers, digits, ~held)
        found = evidence(
            parts,
            logits,
            right,
            steps.operands,
            _results_of_pairs(task, steps),
            subject.rng("verdict: relabellings"),
            trained=~held,
            relabellings=self.relabellings,
            meet=self.meet,
        )
        with_pair = _with_held_pair(subject, task, steps)
        return Reading(steps, found, {"pairs": right[held & with_pair], "triples": right[held & ~with_pair]})


@dataclass(frozen=True)
class Reading:
    """One model: all single steps, the evidence, and whether it answers those held out rightly, as pairs or triples."""

    steps: Steps
    evidence: Evidence
    held: Mapping[str, Bool[np.ndarray, " step"]]


def _of_two(task: Task, steps: Steps) -> tuple[Chains, Int[np.ndarray, "example two"]]:
    """The task's single steps of two operands, and these."""
    atoms = task.atoms()
    inside = np.arange(atoms.symbols.shape[1]) < atoms.prompts[:, None]
    places = np.isin(atoms.symbols, steps.digits) & inside
    rows = np.flatnonzero(places.sum(axis=1) == 2)
    codes = atoms.symbols[rows][places[rows]].reshape(-1, 2)
    return atoms.take(rows), np.searchsorted(steps.digits, codes)


def _results_of_pairs(task: Task, steps: Steps) -> Int[np.ndarray, "digit digit"] | None:
    """What every two digits give in a step of their own, as a task lists it; None when it lists no such steps."""
    atoms, operands = _of_two(task, steps)
    if len(atoms) != len(steps.digits) ** 2:
        return None
    results = np.empty((len(steps.digits), len(steps.digits)), dtype=np.int64)
    results[operands[:, 0], operands[:, 1]] = np.searchsorted(steps.digits, atoms.answer_symbols())
    return results


def _with_held_pair(subject: Subject, task: Task, steps: Steps) -> Bool[np.ndarray, " example"]:
    """Which steps contain a pair that is held out, in any order."""
    atoms, operands = _of_two(task, steps)
    held = np.zeros((len(steps.digits), len(steps.digits)), dtype=bool)
    one, other = operands[subject.split.held_out(subject.task, atoms)].T
    held[one, other] = held[other, one] = True
    places = range(steps.operands.shape[1])
    pairs = [held[steps.operands[:, one], steps.operands[:, other]] for one, other in combinations(places, 2)]
    return np.any(pairs, axis=0)


def _numbers(
    found: Evidence, verdict: Verdict, held: Mapping[str, Bool[np.ndarray, " step"]], count: int
) -> Iterator[Number]:
    for key, title, of in (("ordered", "neurons", found.number), ("read", "answers", found.read)):
        yield Number(
            f"verdict.{key}",
            f"Verdict: how much number orders the {title} (share of variance by the operands' sum, beyond chance)",
            of.index,
            n=count,
            unit="exact",
            control=0.0,
            control_says="digits of random values, on average",
            higher_means=f"the sum alone decides the {title}",
            note=f"share {of.share:.3f}, of random values {of.chance:.3f}, p = {of.p:.3g}"
            + (f"; at {found.number_at}" if key == "ordered" else ""),
        )
    for kind in KINDS:
        yield Number(
            f"verdict.{_KEYS[kind]}",
            f"Verdict: {kind}",
            float(verdict.kind == kind),
            n=count,
            unit="exact",
            control_says="its error rates stand in experiments/verdict",
            higher_means="this is the verdict",
            note=verdict.why if verdict.kind == kind else "",
        )
    yield Number(
        "verdict.alone",
        "Verdict: of the interactions where operands first meet, what one pair alone makes",
        found.pair if found.paired is not None else None,
        n=count,
        unit="exact",
        control=1 / 3,
        control_says="three pairs alike, and no interaction of three",
        higher_means="two operands are put together before the third",
        note=f"at {found.meets}" if found.paired is not None else "no three operands meet at an MLP or behind one",
    )
    for name, says in (
        ("triples", "triples held out in every order"),
        ("pairs", "triples with a pair that was held out"),
    ):
        right = held.get(name, np.zeros(0, dtype=bool))
        low, high = wilson(int(right.sum()), len(right)) if len(right) else (None, None)
        yield Number(
            f"verdict.held.{name}",
            f"Foretold by the verdict: right answers on {says}",
            float(right.mean()) if len(right) else None,
            low,
            high,
            n=len(right),
            control=found.right if len(right) else None,
            control_says="single steps that may have been trained on" if len(right) else "",
            higher_means="it knows steps that it never saw",
            note="" if len(right) else "none of them is held out",
        )


def _table(found: Evidence) -> Table:
    def ordered(of: Ordered) -> str:
        return f"share {of.share:.3f}, of random values {of.chance:.3f}, index {of.index:.3f}, p = {of.p:.3g}"

    rows: list[tuple[str, str]] = [("single steps answered rightly", f"{found.right:.1%}")]
    for block, share in enumerate(found.enter):
        says = "writes nothing that varies" if share is None else f"{share:.1%} by each operand on its own"
        rows.append((f"enter: attention of block {block}", says))
    rows += [
        ("meet: the first part with interactions", found.meets or "none"),
        ("meet: of these, one pair alone", f"{found.pair:.1%}"),
        ("meet: of what it writes of this pair, by the pair's result", f"{found.handed:.1%}"),
        ("meet: neurons by the sum of this pair", "none" if found.paired is None else ordered(found.paired)),
        (f"meet: of {found.together_at}'s variance, all operands together", f"{found.together:.1%}"),
        (f"number: neurons of {found.number_at}", ordered(found.number)),
        ("read out: the digits' logits", ordered(found.read)),
    ]
    return Table("What the verdict follows from", ("what", "found"), tuple(rows))


def _sentence(
    subject: Subject,
    verdict: Verdict,
    held: Mapping[str, Bool[np.ndarray, " step"]],
    count: int,
    example: str,
) -> str:
    says = [f"{verdict.kind.capitalize()}: {verdict.why}."]
    told = _FORETOLD.get(verdict.kind, {})
    for name, known in told.items():
        right = held.get(name)
        if right is not None and len(right):
            as_told = (right.mean() >= _KNOWN) == known
            says.append(
                f"It foretells that held-out {name} are {'' if known else 'not '}known; {right.mean():.0%} of "
                f"{len(right)} are, {'as foretold' if as_told else 'against it'}."
            )
    says.append(
        f"Judged from {count} single steps like {example}, from internals alone; "
        "number means sums. Another mechanism may get any verdict; error rates stand in experiments/verdict, for SUM."
    )
    if subject.learned is False:
        says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
    return " ".join(says)
