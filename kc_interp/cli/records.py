"""Where a command that trains nothing finds a study's records: a store, JSON lines, or what lies beside the study."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kc_interp.cli.sweep import STORE_NAME
from kc_interp.errors import SpecError

if TYPE_CHECKING:
    from kc_interp.records import Record
    from kc_interp.scaling.study import Study


@dataclass(frozen=True)
class Found:
    """A study's records, the file that they come from, and what a reader should know.

    `changed` names the differences between the study now and when they were made; "" when there are none.
    """

    source: Path
    records: tuple[Record, ...]
    notes: tuple[str, ...]
    changed: str


def find(
    study: Study,
    toml: Path,
    store: Path | None,
    records: Path | None,
    *,
    curves: bool = True,
    findings: bool = True,
) -> Found:
    """The records of a study: the JSON lines named, else the store, else the lines beside the store.

    From a store are read the metrics that an analysis asks for, and where wanted learning curves and findings. Raises
    StoreError where there is none of these, or they hold no finished run of this study.
    """
    from kc_interp.records import Store, StoreError, differences, read_lines, read_text
    from kc_interp.scaling.analysis import skills

    if store is not None and records is not None:
        raise SpecError("--store and --records both say where the records are; give one of them")
    place = store if store is not None else toml.parent / STORE_NAME
    lines = records if records is not None else place.with_suffix(".jsonl")
    notes = []
    if records is None and place.exists():
        source = place
        sets = {skill.set_name for skill in skills(study.criterion)}
        with Store.open(place) as opened:
            settings = opened.studies()
            try:
                found = opened.records(study.name, curves=curves, findings=findings, sets=sets)
            except StoreError as error:
                found = opened.records(study.name, findings=findings, sets=sets)
                notes.append(f"{error}; learning curves and times to learn are left out")
    elif records is not None or lines.is_file():
        source = lines
        settings, found = read_lines(read_text(lines), where=str(lines))
    else:
        raise StoreError(
            f"no records of {toml}: neither {place} nor {lines} is there; kc-interp sweep makes them, and --store or "
            "--records names others"
        )
    gc.freeze()  # the records stay until the command ends: nothing is gained by searching them for garbage
    ours = tuple(record for record in found if record.study == study.name)
    if not ours:
        holds = f"it holds: {', '.join(settings)}" if settings else "it is empty"
        if study.name in settings:
            holds = "the study is there, but none of its runs is finished"
        raise StoreError(
            f"{source}: no records of the study {study.name!r} ({holds}); kc-interp sweep {toml} makes them"
        )
    changed = differences(settings[study.name], study.settings) if study.name in settings else ""
    if changed:
        notes.append(f"the study has changed since its records were made ({changed}); they are read as it is now")
    return Found(source, ours, tuple(notes), changed)
