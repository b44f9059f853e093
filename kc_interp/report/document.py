"""Everything a report says, as plain data that survives a trip through JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kc_interp.comparison import Arm, Comparison, ModelFacts, Roster
from kc_interp.errors import SpecError, did_you_mean
from kc_interp.finding import SCHEMA, Finding, dumps, from_plain, to_plain


@dataclass(frozen=True)
class TaskNote:
    """The task for a reader who has never met it: `says` in a few sentences, `example` one worked chain as text."""

    says: str
    example: str = ""


@dataclass(frozen=True)
class Document:
    """One report.

    `findings` are by the name of their model, which the roster must list; a `Comparison` is two arms of such findings.
    `provenance` is what it takes to do it again: versions, commit, command line, seeds (nested mappings are fine).
    `notes` are sentences for the end of the page. Raises SpecError when a model is named that the roster lacks.
    """

    title: str
    roster: Roster
    findings: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    task: TaskNote | None = None

    def __post_init__(self) -> None:
        known = [model.name for model in self.roster.models]
        named = [*self.findings, *(f.subject for findings in self.findings.values() for f in findings)]
        named += [model for c in self.comparisons for arm in (c.a, c.b) for model in arm.models]
        for name in named:
            if name not in known:
                raise SpecError(f"the roster lists no model {name!r}{did_you_mean(name, known)}")
        for name, findings in self.findings.items():
            probes = [finding.probe for finding in findings]
            for finding in findings:
                if finding.subject != name:
                    raise SpecError(f"a finding about {finding.subject!r} stands under the name of {name!r}")
                if probes.count(finding.probe) > 1:
                    raise SpecError(f"{name!r} has two findings of the probe {finding.probe!r}; a report shows one")

    @property
    def probes(self) -> dict[str, str]:
        """The probes that ran, in order of first appearance, with the title of their findings (a failed one's last)."""
        titles: dict[str, str] = {}
        failed: set[str] = set()
        for findings in self.findings.values():
            for finding in findings:
                if finding.probe not in titles or (finding.probe in failed and finding.status != "failed"):
                    titles[finding.probe] = finding.title
                    failed = failed | {finding.probe} if finding.status == "failed" else failed - {finding.probe}
        return titles

    def finding(self, probe: str, model: str) -> Finding | None:
        """What one probe says of one model, None when it was not run on it."""
        return next((finding for finding in self.findings.get(model, ()) if finding.probe == probe), None)

    def dumps(self) -> str:
        """The JSON of `findings.json`."""
        return dumps(
            {
                "title": self.title,
                "roster": to_plain(self.roster),
                "findings": {name: to_plain(findings) for name, findings in self.findings.items()},
                "comparisons": [comparison.plain() for comparison in self.comparisons],
                "order": list(self.findings),
                "provenance": dict(self.provenance),
                "notes": list(self.notes),
                "task": to_plain(self.task),
            }
        )

    @classmethod
    def loads(cls, text: str) -> Document:
        """A document from its JSON. Raises SpecError when it is no such JSON, or of another schema."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(f"findings: no JSON ({error}); give a findings.json of `kc-interp probe`") from None
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise SpecError(f"findings: schema {schema!r}; this version reads schema {SCHEMA}")
        findings = {name: tuple(from_plain(f) for f in data["findings"][name]) for name in data["order"]}
        roster = data["roster"]
        facts = tuple(ModelFacts(**model) for model in roster["models"])
        return cls(
            data["title"],
            Roster(facts, roster["skill"], roster["criterion"], roster["level"], roster["chance"]),
            findings,
            tuple(_comparison(plain, findings) for plain in data["comparisons"]),
            data["provenance"],
            tuple(data["notes"]),
            TaskNote(**data["task"]) if data["task"] else None,
        )


def _comparison(plain: Mapping[str, Any], findings: Mapping[str, tuple[Finding, ...]]) -> Comparison:
    a, b = (
        Arm(
            arm["name"],
            {model: findings.get(model, ()) for model in arm["models"]},
            {model: model not in arm["unlearned"] for model in arm["models"]},
        )
        for arm in plain["arms"]
    )
    return Comparison(plain["name"], a, b, plain["learned_only"])
