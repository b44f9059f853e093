"""Running probes on models: every probe on every model, and a probe that fails is a finding that says so."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from kc_interp.errors import KCInterpError
from kc_interp.finding import Finding, to_plain
from kc_interp.probe import Probe, Subject

_log = logging.getLogger(__name__)


def run_probes(
    probes: Mapping[str, Probe],
    subjects: Sequence[Subject],
    *,
    on_progress: Callable[[str, str], None] = lambda probe, subject: None,
) -> tuple[Finding, ...]:
    """One finding per probe and subject, in that order.

    A probe that raises gives a finding with status "failed" whose sentence is the message; the others still run.
    """
    findings = []
    for name, probe in probes.items():
        for subject in subjects:
            on_progress(name, subject.name)
            began = time.perf_counter()
            try:
                found = _checked(probe.run(subject))
            except KCInterpError as error:
                found = Finding(name, subject.name, name, str(error), status="failed")
            except Exception as error:
                _log.exception("probe %s failed on %s", name, subject.name)
                found = Finding(name, subject.name, name, f"{type(error).__name__}: {error}", status="failed")
            findings.append(dataclasses.replace(found, probe=name, seconds=time.perf_counter() - began))
    return tuple(findings)


def _checked(found: object) -> Finding:
    """What a probe returned, if it is a finding that a file can hold: raises TypeError or ValueError otherwise."""
    if not isinstance(found, Finding):
        raise TypeError(f"the probe returned {type(found).__name__}, expected a kc_interp.finding.Finding")
    json.dumps(to_plain(found), allow_nan=False)
    return found
