"""The tables of this study's README, made from its records.

    python experiments/capacity/outcome.py [--check]

Rewrites what stands between the two marks in README.md from records.jsonl; --check changes nothing and exits with 1
where the two differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from kc_interp.cli.fit import dex, size
from kc_interp.records import read_lines
from kc_interp.report import markdown
from kc_interp.scaling.analysis import Analysis, analyse
from kc_interp.scaling.study import load

HERE = Path(__file__).parent
CONTROLS = {("MAX+MED+SUM, then SUM", "SUM"), ("scrambled MAX+SUM", "MAX+SUM"), ("shuffled SUM", "SUM")}
"""What is compared with what for predictions 3, 5 and 6."""


def tables(analysis: Analysis) -> Iterator[str]:
    """What `kc-interp fit` says, as far as the predictions ask for it."""
    state = "Complete" if analysis.complete else "**Partial**"
    yield (
        f"{state}: {analysis.runs} of at most {analysis.asked} runs, and {analysis.tuning} that chose the learning "
        f"rates. In brackets 95 % intervals over seeds; > and < are one-sided 95 % bounds where an end lies beyond the "
        f"sizes tried so far.\n\n"
    )
    yield markdown.table(
        ("arm and initialisation", "runs", "learned", "threshold, parameters", "single steps, parameters"),
        [
            (
                one.label,
                str(one.skill.runs),
                str(one.skill.successes),
                *(
                    size(skill.thresholds["parameters"].t if skill.thresholds else None, "no runs yet")
                    for skill in (one.skill, one.atoms)
                ),
            )
            for one in analysis.conditions
        ],
    )
    kinds = {
        "synergy": "help of company",
        "interaction": "more help from wide than from narrow",
        "factor": "help of the wide initialisation",
    }
    asked = {*kinds, "control"}
    yield markdown.table(
        ("what", "of", "against", "dex"),
        [
            (kinds.get(one.kind, "control"), one.of, one.against, dex(one.synergy))
            for one in analysis.contrasts
            if one.kind in asked and one.axis == "parameters" and (one.kind != "control" or _asked(one.of, one.against))
        ],
    )
    for bound in analysis.bounds:
        found = bound.capacity
        smallest = "none yet" if found.size is None else f"{found.size:,.0f} parameters, a run of {found.arm}"
        yield f"Smallest model that learned ({bound.conditions[0]} and others of its task): {smallest}.\n\n"


def _asked(of: str, against: str) -> bool:
    """Whether a prediction is about these two: their arms, without the initialisation."""
    return (of.rpartition(", ")[0], against.rpartition(", ")[0]) in CONTROLS


def outcome() -> str:
    """The README as its records would have it."""
    study = load(HERE / "study.toml")
    _, records = read_lines((HERE / "records.jsonl").read_text(encoding="utf-8"), where="records.jsonl")
    return markdown.between(HERE / "README.md", "records.jsonl", "".join(tables(analyse(study, records))))


def main() -> int:
    return markdown.update(HERE / "README.md", outcome(), check="--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
