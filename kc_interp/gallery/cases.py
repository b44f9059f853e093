"""What every figure asks of an analysis: its arms and settings in order, its words, and what a figure rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kc_interp.finding import Cell
from kc_interp.gallery.drawing import Look

if TYPE_CHECKING:
    from kc_interp.records import Record
    from kc_interp.scaling.analysis import Analysis, Condition
    from kc_interp.scaling.thresholds import Estimate

BASE = "base settings"
"""What a setting is called in a study that varies the width alone."""

INTERVAL = "95 % posterior interval"


def arm_of(condition: Condition) -> str:
    """What the arm of a condition is called in figures: its label without the setting."""
    return condition.label.removesuffix(f", {condition.setting}") if condition.setting else condition.label


def setting_of(condition: Condition) -> str:
    """The setting of a condition in words, also where there is but one."""
    return condition.setting or BASE


def look_of(analysis: Analysis) -> Look:
    """Colours by setting and symbols by arm, in the order of the study, so that they mean the same in all figures."""
    arms = dict.fromkeys(arm_of(one) for one in analysis.conditions)
    return Look(tuple(arms), tuple(dict.fromkeys(setting_of(one) for one in analysis.conditions)))


def by_arm(conditions: Iterable[Condition]) -> list[Condition]:
    """Conditions arm by arm, each arm's settings beside one another."""
    conditions = list(conditions)
    arms = list(dict.fromkeys(arm_of(one) for one in conditions))
    return sorted(conditions, key=lambda one: arms.index(arm_of(one)))


def title_of(condition: Condition) -> tuple[str, str]:
    """The head of a small multiple: its arm, and its setting where there are several."""
    return arm_of(condition), condition.setting


def skill_words(analysis: Analysis) -> str:
    """What is learned: "SUM", or "its mixture" where the criterion names no component."""
    return analysis.study.criterion.component or "its mixture"


def criterion_words(analysis: Analysis) -> str:
    """When a run counts as learned, in words."""
    asked = analysis.study.criterion
    metric = {"exact": "the exact chain", "answer": "the answer"}[asked.metric]
    return f"{metric} is right on at least {asked.level:.0%} of “{asked.set_name}”".replace("%", "\u00a0%")


def runs_words(analysis: Analysis) -> str:
    """How much of a study there is: "96 runs", or "partial: 37 of 96 runs"."""
    if analysis.complete:
        return f"{analysis.runs:,} run{'' if analysis.runs == 1 else 's'}"
    most = "at most " if analysis.study.placement.kind == "adaptive" else ""
    return f"partial: {analysis.runs:,} of {most}{analysis.asked:,} runs"


def basis(analysis: Analysis, records: Iterable[Record], *interval: str) -> str:
    """What a figure rests on: runs, seeds, and what its intervals are."""
    seeds = sorted({record.seed for record in records})
    said = [runs_words(analysis), f"seed{'s' * (len(seeds) > 1)} {_ranges(seeds)}"] if seeds else [runs_words(analysis)]
    return "; ".join([*said, *interval]) + "."


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in order as ranges: "0–3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in spans)


def records_of(conditions: Iterable[Condition]) -> list[Record]:
    """The runs of conditions."""
    return [record for one in conditions for record in one.records]


def unlogged(estimate: Estimate) -> tuple[Cell, Cell, Cell]:
    """An estimate of a log10 as numbers: value, low, high; None where it has none."""
    value, low, high = (None if x is None else 10**x for x in (estimate.value, estimate.low, estimate.high))
    return value, low, high


def bound_words(estimate: Estimate) -> str:
    """What an estimate's missing ends mean, in a table's cell."""
    return {
        None: "interval",
        "above": "one-sided: larger than low",
        "below": "one-sided: smaller than high",
        "both": "not located",
    }[estimate.censored]
