"""Do two arms of models differ? The seed is the unit: one trained model is one observation, never one test item.

Probes measure single models under fixed keys; here the same key is compared between two arms (for instance SUM alone
against MAX+MED+SUM, within one initialisation). Everything is plain data and the wording follows the numbers: nothing
here knows which arm ought to come out ahead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kc_interp.errors import SpecError
from kc_interp.finding import Finding, Number, to_plain

LEVEL = 0.05
_MOST_ASSIGNMENTS = 200_000


@dataclass(frozen=True)
class ModelFacts:
    """One trained model as the roster shows it.

    `name` is the `subject` of its findings. `learned` is the caller's verdict by the roster's one stated criterion,
    None when it was not evaluated. `accuracy` (a fraction) with its 95 % Wilson interval over `n` test items is what
    the verdict rests on. `initialisation` is what the page sets side by side ("narrow", "wide", "0.05").
    """

    name: str
    arm: str
    initialisation: str
    task: str
    seed: int
    learned: bool | None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    steps: int | None = None
    d_model: int | None = None
    parameters: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Roster:
    """Every model of a report, whether it learned or not.

    `skill` is what the question is about ("SUM"); `criterion` says in words how accuracy is measured and `level` where
    learned begins; `chance` is the accuracy of always giving the most frequent answer.
    """

    models: tuple[ModelFacts, ...]
    skill: str
    criterion: str
    level: float
    chance: float | None = None

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"two models of the roster are called {twice[0]!r}; give each model its own name")

    def __getitem__(self, name: str) -> ModelFacts:
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms in order of first appearance."""
        return tuple(dict.fromkeys(model.arm for model in self.models))

    @property
    def initialisations(self) -> tuple[str, ...]:
        """The initialisations in order of first appearance."""
        return tuple(dict.fromkeys(model.initialisation for model in self.models))

    def cell(self, arm: str, initialisation: str) -> tuple[ModelFacts, ...]:
        """The models of one arm with one initialisation."""
        return tuple(m for m in self.models if m.arm == arm and m.initialisation == initialisation)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: each of its models (seeds) by name with its findings.

    `learned` overrides what the findings say (a finding whose status is "unlearned" marks its model as such).
    """

    name: str
    findings: Mapping[str, tuple[Finding, ...]]
    learned: Mapping[str, bool | None] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, findings: Sequence[Finding], learned: Mapping[str, bool | None] | None = None) -> Arm:
        """An arm of a flat list of findings, grouped by their subject."""
        subjects = dict.fromkeys(finding.subject for finding in findings)
        grouped = {s: tuple(finding for finding in findings if finding.subject == s) for s in subjects}
        return cls(name, grouped, learned or {})

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.findings)

    @property
    def unlearned(self) -> tuple[str, ...]:
        """The models known not to have learned their task."""
        return tuple(
            model
            for model, findings in self.findings.items()
            if self.learned.get(model) is False
            or (self.learned.get(model) is None and any(f.status == "unlearned" for f in findings))
        )

    def numbers(self) -> dict[tuple[str, str], dict[str, Number]]:
        """Every number by (probe, key), then by model; failed probes have none."""
        found: dict[tuple[str, str], dict[str, Number]] = {}
        for model, findings in self.findings.items():
            for finding in findings:
                for number in finding.numbers:
                    found.setdefault((finding.probe, number.key), {})[model] = number
        return found


@dataclass(frozen=True)
class Seed:
    """One model's value of one number; `counted` says whether it entered the mean, `note` why it is missing."""

    model: str
    value: float | None
    counted: bool
    learned: bool = True
    control: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Side:
    """One arm's seeds of one number: `mean` over the `n` that count, with its 95 % t-interval (None for one seed)."""

    arm: str
    seeds: tuple[Seed, ...]
    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    control: float | None = None


@dataclass(frozen=True)
class Difference:
    """One number compared: `value` is b's mean minus a's, `low` and `high` its 95 % Welch interval.

    `p` is the exact two-sided permutation p-value over seeds, None where it could not fall below .05 whatever the
    values. `note` and `p_note` say why something is None.
    """

    probe: str
    key: str
    title: str
    higher_means: str
    control_says: str
    a: Side
    b: Side
    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    note: str = ""
    p_note: str = ""

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """Two arms under a name such as "wide initialisation: SUM alone vs MAX+MED+SUM".

    With `learned_only`, models that have not learned are shown and left out of every mean.
    """

    name: str
    a: Arm
    b: Arm
    learned_only: bool = True

    @property
    def differences(self) -> tuple[Difference, ...]:
        return compare(self.a, self.b, learned_only=self.learned_only)

    @property
    def one_sided(self) -> int:
        """How many numbers only one of the two arms has; they are not compared."""
        return len(self.a.numbers().keys() ^ self.b.numbers().keys())

    def plain(self) -> dict[str, Any]:
        """What `findings.json` holds: arms by the names of their models, differences in full."""
        return {
            "name": self.name,
            "learned_only": self.learned_only,
            "arms": [
                {"name": arm.name, "models": list(arm.models), "unlearned": list(arm.unlearned)}
                for arm in (self.a, self.b)
            ],
            "differences": to_plain(self.differences),
            "one_sided": self.one_sided,
            "summary": summary(self),
        }


def compare(a: Arm, b: Arm, *, learned_only: bool = True) -> tuple[Difference, ...]:
    """Every number that both arms have, in the order of arm a's probes. Raises SpecError when an arm shares a model."""
    shared = sorted(set(a.models) & set(b.models))
    if shared:
        raise SpecError(f"{shared[0]!r} stands on both sides of the comparison; a model belongs to one arm")
    left, right = a.numbers(), b.numbers()
    return tuple(
        _difference(
            probe,
            key,
            _side(a, left[probe, key], learned_only),
            _side(b, right[probe, key], learned_only),
            next(iter(left[probe, key].values())),
        )
        for probe, key in left
        if (probe, key) in right
    )


def _side(arm: Arm, numbers: Mapping[str, Number], learned_only: bool) -> Side:
    seeds = []
    for model in arm.models:
        number, learned = numbers.get(model), model not in arm.unlearned
        value = None if number is None or not _finite(number.value) else number.value
        note = "" if value is not None else ("the probe gave no such number" if number is None else number.note)
        counted = value is not None and (learned or not learned_only)
        seeds.append(Seed(model, value, counted, learned, number.control if number else None, note))
    values = [seed.value for seed in seeds if seed.counted and seed.value is not None]
    controls = [seed.control for seed in seeds if seed.counted and seed.control is not None]
    low, high = t_interval(values) or (None, None)
    return Side(
        arm.name,
        tuple(seeds),
        len(values),
        math.fsum(values) / len(values) if values else None,
        low,
        high,
        math.fsum(controls) / len(controls) if controls else None,
    )


def _difference(probe: str, key: str, a: Side, b: Side, number: Number) -> Difference:
    values = [[seed.value for seed in side.seeds if seed.counted and seed.value is not None] for side in (a, b)]
    value = None if a.mean is None or b.mean is None else b.mean - a.mean
    interval, note, p, p_note = None, "", None, ""
    if value is None:
        empty = " and ".join(side.arm for side in (a, b) if side.mean is None)
        note = p_note = f"nothing to average in {empty}"
    else:
        interval = welch_interval(*values)
        if min(a.n, b.n) < 2:
            note = "these two checkpoints only" if a.n == b.n == 1 else f"these {a.n + b.n} checkpoints only"
        elif interval is None:
            note = "no interval: the seeds of each arm do not differ at all"
        p, p_note = permutation_p(*values)
    low, high = interval or (None, None)
    return Difference(
        probe, key, number.title, number.higher_means, number.control_says, a, b, value, low, high, p, note, p_note
    )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and squared standard error."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % Student interval of the mean over seeds; None with fewer than two, or when they do not differ at all."""
    if len(values) < 2:
        return None
    mean, error = _mean_and_error(values)
    if error == 0:
        return None
    from scipy.stats import t

    half = float(t.ppf(1 - LEVEL / 2, len(values) - 1)) * math.sqrt(error)
    return mean - half, mean + half


def welch_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of mean(b) - mean(a) with unequal variances (Welch 1947).

    None when a side has fewer than two values, or when neither side varies.
    """
    if min(len(a), len(b)) < 2:
        return None
    (mean_a, error_a), (mean_b, error_b) = _mean_and_error(a), _mean_and_error(b)
    error = error_a + error_b
    if error == 0:
        return None
    from scipy.stats import t

    freedom = error**2 / (error_a**2 / (len(a) - 1) + error_b**2 / (len(b) - 1))
    half = float(t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(error)
    return mean_b - mean_a - half, mean_b - mean_a + half


def permutation_p(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, str]:
    """The exact two-sided p-value of |mean(b) - mean(a)| over all assignments of seeds to arms, or None and the reason.

    >>> permutation_p([1, 2], [3, 4])
    (None, 'with 2 and 2 seeds no p-value can fall below 0.33')
    """
    total = math.comb(len(a) + len(b), len(a))
    least = (2 if len(a) == len(b) else 1) / total
    if least >= LEVEL:
        return None, f"with {len(a)} and {len(b)} seeds no p-value can fall below {least:.2g}"
    if total > _MOST_ASSIGNMENTS:
        return None, f"{total:,} assignments of seeds to arms are too many to enumerate; see the interval"
    pooled = [*a, *b]
    whole = math.fsum(pooled)

    def gap(part: Sequence[float]) -> float:
        inside = math.fsum(part)
        return abs((whole - inside) / len(b) - inside / len(a))

    observed = gap(a)
    tolerance = 1e-9 * max(1.0, max(map(abs, pooled)))
    extreme = sum(gap(part) >= observed - tolerance for part in itertools.combinations(pooled, len(a)))
    return extreme / total, ""


def describe(difference: Difference, digits: int = 3) -> str:
    """One sentence of one difference, with its numbers; it says higher or lower only when the interval excludes 0.

    With a single checkpoint on a side it speaks of these checkpoints only.
    """
    a, b, value = difference.a, difference.b, difference.value
    if value is None or a.mean is None or b.mean is None:
        return f"{difference.title}: not compared, {difference.note}."

    def said(number: float, sign: str = "") -> str:
        return f"{number:{sign}.{digits}g}".replace("-", "\u2212")

    means = f"{b.arm} {said(b.mean)}, {a.arm} {said(a.mean)}"
    gap = f"difference {said(value, '+')}"
    if difference.low is None or difference.high is None:
        return f"{difference.title}: {means}; {gap} ({difference.note})."
    interval = f"95 % interval {said(difference.low, '+')} to {said(difference.high, '+')}"
    if not difference.decided:
        return f"{difference.title}: {means}; {gap}, {interval}, which includes 0: no difference is shown."
    word = "higher" if value > 0 else "lower"
    return f"{difference.title}: {word} in {b.arm} than in {a.arm} ({means}; {gap}, {interval})."


def summary(comparison: Comparison) -> str:
    """What the comparison as a whole says, generated from its values.

    It states how many models count, how many differences have an interval that excludes 0, and how many of so many
    would do so by chance alone.
    """
    differences = comparison.differences
    says = []
    for side in (comparison.a, comparison.b):
        k, n = len(side.unlearned), len(side.models)
        if not n:
            says.append(f"{side.name}: no model was probed.")
        elif k:
            left_out = "shown below but not averaged" if comparison.learned_only else "averaged with the others"
            says.append(f"{side.name}: {k} of {n} {_models(n)} did not learn the task and {_is(k)} {left_out}.")
        else:
            says.append(f"{side.name}: {n} {_models(n)}, none known to have failed to learn the task.")
    measured = [d for d in differences if d.value is not None]
    judged = [d for d in measured if d.low is not None]
    if not differences:
        says.append("The two arms have no number in common, so nothing is compared.")
    elif not measured:
        says.append(f"No mean can be compared: {differences[0].note}.")
    elif not judged:
        reasons = " or ".join(dict.fromkeys(d.note for d in measured))
        says.append(
            f"{len(measured)} numbers are set side by side without an interval ({reasons}), so nothing is claimed "
            "about how models of these kinds differ in general."
        )
    else:
        higher = sum(d.decided and d.value is not None and d.value > 0 for d in judged)
        lower = sum(d.decided and d.value is not None and d.value < 0 for d in judged)
        says.append(
            f"Of {len(judged)} numbers with a 95 % interval over seeds, {higher} {_is(higher)} higher and {lower} "
            f"{_is(lower)} lower in {comparison.b.name} than in {comparison.a.name}; "
            f"for {len(judged) - higher - lower} the interval includes 0. If nothing differed, about "
            f"{LEVEL * len(judged):.1f} of {len(judged)} intervals would exclude 0 by chance."
        )
    return " ".join(says)


def _models(count: int) -> str:
    return "model" if count == 1 else "models"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
