"""The store of results: every trained run as one record in SQLite, its curves and weights beside it, named by content.

One process writes (a second one is refused, with the number of the first), any number read. What one ensemble found is
stored in a single transaction, and the files that its records name are written before it: a kill or a full disk leaves
whole ensembles and at worst a file that nothing names. What is committed to a repository is `export`'s JSON lines.

    study.sqlite           WAL mode, so on a local disk; study.sqlite.lock names the writer
    study.files/           curves/<hash>.safetensors (one an ensemble), weights/<hash>.safetensors (one a run)
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import gc
import hashlib
import io
import json
import math
import os
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from kc_interp import lines
from kc_interp.errors import KCInterpError
from kc_interp.files import write_atomically

MIGRATIONS = (
    """
    CREATE TABLE studies (name TEXT PRIMARY KEY, settings TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE records (
        study TEXT NOT NULL REFERENCES studies, key TEXT NOT NULL, arm TEXT NOT NULL, seed INTEGER NOT NULL,
        ensemble TEXT NOT NULL, member INTEGER NOT NULL, d_model INTEGER NOT NULL, parameters INTEGER NOT NULL,
        learned INTEGER, curves TEXT, weights TEXT, facts TEXT NOT NULL,
        PRIMARY KEY (study, key)
    );
    CREATE INDEX records_by_arm ON records (study, arm, d_model, seed);
    CREATE INDEX records_by_ensemble ON records (study, ensemble);
    """,
)
"""What makes schema n + 1 of schema n: a new store goes through all of them, an older one through the rest."""

_FACTS = ("spec", "stages", "start", "metrics", "findings", "wall_seconds", "made", "provenance")

_SHARED = ("settings", "words")
"""The kinds of JSON lines that records refer to."""

_QUOTABLE = re.compile(r"[\w .:+-]*", re.ASCII)
"""Names that a path of SQLite's can hold in quotes: it has no escapes, and its versions differ beyond these."""

_AT_A_TIME = 100
"""Texts that are decoded as one document: the decoder makes a name that they share once, which takes half the time."""


class StoreError(KCInterpError):
    """A store of results is missing, locked, of a newer version, damaged, or its disk is full."""


@dataclass(frozen=True)
class Record:
    """One trained run: what it was, what it can do, how it got there, and what produced it.

    `spec` is the run's settings as plain data, `stages` the settings of the stages before it, and `start` the key of
    the run from whose weights it began; `key` is the hash of these three. `learned` is the study's verdict, None where
    the task lacks the skill in question. `curve` None: not asked for, or none was kept. `findings` are `lean` ones, as
    plain data. `weights` names a checkpoint file by its content.
    """

    key: str
    study: str
    arm: str
    seed: int
    ensemble: str
    member: int
    d_model: int
    parameters: int
    spec: Mapping[str, Any]
    metrics: Mapping[str, Any]
    learned: bool | None = None
    stages: Sequence[Mapping[str, Any]] = ()
    start: str | None = None
    curve: Sequence[Mapping[str, Any]] | None = None
    findings: Sequence[Mapping[str, Any]] = ()
    weights: str | None = None
    wall_seconds: float | None = None
    made: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Record) if f.default is not dataclasses.MISSING}


def run_key(spec: Mapping[str, Any], stages: Sequence[Mapping[str, Any]] = (), start: str | None = None) -> str:
    """The name of a run: a hash of everything that decides it."""
    return digest(canonical([spec, list(stages), start]).encode())


def canonical(value: Any) -> str:
    """Plain data as its one JSON string. Raises ValueError on a number that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(content: bytes) -> str:
    """The name of a content: 128 bits of BLAKE2b in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def lean(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding (plain data) as a record keeps it: numbers to six digits, no tables or figures.

    Of those nothing is drawn against size, and a probe of the kept weights gives all of it again.
    """
    return {name: [] if name in ("tables", "figures") else _six_digits(value) for name, value in finding.items()}


def _six_digits(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _six_digits(item) for key, item in value.items()}
    return [_six_digits(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def _without_collection() -> Iterator[None]:
    """Many small objects that all stay make the collector search in vain: reading them takes twice as long with it."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What SQLite or the file system refuses, as a message that says what is still there and what would work."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        text = str(error)
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or "disk is full" in text or "disk I/O" in text:
            reason = f"cannot be written ({text}); free some space: all ensembles stored before are kept"
        elif isinstance(error, OSError) or "unable to open" in text or "readonly" in text:
            reason = f"cannot be opened or written ({text}); choose another --store"
        elif "locked" in text:
            reason = "is being written by another process at this moment; try again"
        elif "not a database" in text or "malformed" in text:
            reason = f"not a store of results ({text}); move it away, or import its JSON lines into a new store"
        else:
            reason = f"SQLite refuses: {text}"
        raise StoreError(f"{path}: {reason}") from error


class Store:
    """A store of results. Open it with `Store.open`, as a context manager; only a writer may call what changes it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: sqlite3.Connection | None) -> None:
        self.path, self._connection, self._lock = path, connection, lock

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Store:
        """Open a store; a writer creates it where there is none, takes the lock and migrates an older schema.

        Raises StoreError when there is none to read, another process writes to it, it is of a newer version, or the
        file is no store.
        """
        if not write and not path.is_file():
            raise StoreError(f"{path}: no such store; kc-interp sweep makes it, and --store names another")
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path) if write else None
            connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        store = cls(path, connection, lock)
        try:
            with _explained(path):
                store._prepare()
        except StoreError:
            store.close()
            raise
        return store

    def _prepare(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path}: written with schema {version}, this version reads up to schema {len(MIGRATIONS)}; "
                "open it with the kc-interp that wrote it, or a newer one"
            )
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and tables:
            raise StoreError(
                f"{self.path}: an SQLite database, but not one that kc-interp made; choose another --store"
            )
        if self._lock is None:
            if version < len(MIGRATIONS):
                raise StoreError(
                    f"{self.path}: written with the older schema {version}; run the sweep once, which migrates it"
                )
            self._connection.execute("PRAGMA query_only = 1")
            return
        self._connection.execute("PRAGMA foreign_keys = 1")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")  # what was reported as stored survives a power cut
        for number in range(version, len(MIGRATIONS)):
            with self._transaction():
                for statement in filter(str.strip, MIGRATIONS[number].split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {number + 1}")

    def close(self) -> None:
        """Close the files and give the lock back."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def files(self) -> Path:
        """The folder of curves and weights."""
        return self.path.with_suffix(".files")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        assert self._lock is not None, "a store opened for reading is not written to"
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def studies(self) -> dict[str, dict[str, Any]]:
        """The settings of every study, by name."""
        with _explained(self.path):
            rows = self._connection.execute("SELECT name, settings FROM studies ORDER BY name")
            return {name: json.loads(settings) for name, settings in rows}

    def begin(self, study: str, settings: Mapping[str, Any]) -> None:
        """Note a study's settings; those noted before must be the same. Raises StoreError that names the difference."""
        before = self.studies().get(study)
        if before is not None and before != json.loads(canonical(settings)):
            raise StoreError(
                f"{self.path}: the study {study!r} has changed since its records were made "
                f"({differences(before, settings)}); change it back, give it another name, or start anew with --new "
                "(the old records are kept under another name)"
            )
        with _explained(self.path), self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO studies VALUES (?, ?)", (study, canonical(settings)))

    def set_aside(self, study: str) -> str | None:
        """Keep what a study has found under the next free name ("name.1") and begin it anew; None if there is none."""
        known = self.studies()
        if study not in known:
            return None
        aside = next(name for number in range(1, len(known) + 2) if (name := f"{study}.{number}") not in known)
        with _explained(self.path), self._transaction():
            self._connection.execute(
                "INSERT INTO studies SELECT ?, settings FROM studies WHERE name = ?", (aside, study)
            )
            self._connection.execute("UPDATE records SET study = ? WHERE study = ?", (aside, study))
            self._connection.execute("DELETE FROM studies WHERE name = ?", (study,))
        return aside

    def add(self, records: Sequence[Record], weights: Mapping[str, bytes] | None = None) -> None:
        """Store what one ensemble found, all of it or nothing. `weights`: checkpoint files by the key of their run.

        A record that is already there is refused (StoreError): it was to be made once.
        """
        with _explained(self.path):
            named = {key: self._keep("weights", content) for key, content in (weights or {}).items()}
            kept = [dataclasses.replace(record, weights=named.get(record.key, record.weights)) for record in records]
            rows = list(self._rows(kept))
            try:
                with self._transaction():
                    self._connection.executemany(f"INSERT INTO records VALUES ({','.join('?' * 12)})", rows)
            except sqlite3.IntegrityError as error:
                raise StoreError(
                    f"{self.path}: holds one of these {len(rows)} records already, or lacks their study ({error}); "
                    "nothing was added"
                ) from error

    def _rows(self, records: Sequence[Record]) -> Iterator[tuple[Any, ...]]:
        """The rows of a table; the curves of an ensemble go into one file."""
        by_ensemble: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            by_ensemble.setdefault((record.study, record.ensemble), []).append(record)
        for members in by_ensemble.values():
            curves = {str(r.member): r.curve for r in members if r.curve is not None}
            name = self._keep("curves", pack_curves(curves)) if curves else None
            for record in members:
                facts = {key: getattr(record, key) for key in _FACTS}
                yield (
                    record.study, record.key, record.arm, record.seed, record.ensemble, record.member, record.d_model,
                    record.parameters, None if record.learned is None else int(record.learned),
                    None if record.curve is None else name, record.weights, canonical(facts),
                )  # fmt: skip

    def _keep(self, kind: str, content: bytes) -> str:
        name = digest(content)
        if not (path := self._file(kind, name)).exists():
            write_atomically(path, content)
        return name

    def _file(self, kind: str, name: str) -> Path:
        return self.files / kind / f"{name}.safetensors"

    def weights_path(self, record: Record) -> Path | None:
        """The checkpoint file of a record, for `kc_interp.load`; None when its weights were not kept."""
        return None if record.weights is None else self._file("weights", record.weights)

    def is_empty(self) -> bool:
        """Whether there is no record of any study."""
        with _explained(self.path):
            return not self._connection.execute("SELECT EXISTS (SELECT 1 FROM records)").fetchone()[0]

    def keys(self, study: str) -> set[str]:
        """The keys of all records of a study."""
        with _explained(self.path):
            return {key for (key,) in self._connection.execute("SELECT key FROM records WHERE study = ?", (study,))}

    def records(
        self,
        study: str | None = None,
        *,
        arm: str | None = None,
        keys: Iterable[str] | None = None,
        curves: bool = False,
        findings: bool = True,
        sets: Collection[str] | None = None,
    ) -> list[Record]:
        """Records by study, arm, width and seed; of one study, one arm or these keys only.

        `curves` reads their learning curves too. Many records are read faster, and take less memory, without their
        `findings` and with only those `sets` of their metrics that are asked for. Records with equal settings share
        them. Raises StoreError when a file of curves is missing or damaged.
        """
        asked = [(column, value) for column, value in (("study", study), ("arm", arm)) if value is not None]
        where = " AND ".join(f"{column} = ?" for column, _ in asked) or "TRUE"
        wanted = None if keys is None else set(keys)
        if sets is not None and not all(_QUOTABLE.fullmatch(name) for name in sets):
            sets = None  # all of them, which is only slower
        part = _Part(curves, findings, None if sets is None else tuple(sets))
        with _explained(self.path), _without_collection():
            # What was not asked for is left out by SQLite, which skips it many times faster than Python decodes it.
            rows = self._connection.execute(
                f"""
                SELECT key, study, arm, seed, ensemble, member, d_model, parameters, learned, curves, weights,
                    json_remove(json_extract(facts, '$.spec', '$.stages', '$.provenance'), '$[0].seed'),
                    json_extract(facts, {",".join("?" * len(part.paths))})
                FROM records WHERE {where} ORDER BY study, arm, d_model, seed, key
                """,
                [*part.paths, *(value for _, value in asked)],
            ).fetchall()
        if wanted is not None:
            rows = [row for row in rows if row[0] in wanted]
        with _without_collection():
            own = _decoded([row[-1] for row in rows])
            return [self._record(row, facts, part) for row, facts in zip(rows, own, strict=True)]

    def _record(self, row: Sequence[Any], facts: list[Any], part: _Part) -> Record:
        """A record from what `records` selects, and its own facts, which are the last of that, decoded."""
        key, study, arm, seed, ensemble, member, d_model, parameters, learned, curves, weights, shared, _ = row
        spec, stages, provenance = part.shared[shared]
        own_seed, start, wall_seconds, made, metrics, findings = part.split(facts)
        curve = None
        if part.curves and curves is not None:
            if curves not in part.files:
                part.files[curves] = unpack_curves(self._file("curves", curves))
            curve = tuple(part.files[curves][str(member)])
        return Record(
            key=key, study=study, arm=arm, seed=seed, ensemble=ensemble, member=member, d_model=d_model,
            parameters=parameters, metrics=metrics, learned=None if learned is None else bool(learned),
            spec=spec if own_seed is None else {**spec, "seed": own_seed}, stages=tuple(stages), start=start,
            curve=curve, findings=tuple(findings), weights=weights, wall_seconds=wall_seconds, made=made,
            provenance=provenance,
        )  # fmt: skip

    def status(self, study: str) -> list[dict[str, Any]]:
        """By arm and width: how many runs there are, how many learned, and of how many that could be said."""
        with _explained(self.path):
            rows = self._connection.execute(
                "SELECT arm, d_model, count(*), coalesce(sum(learned), 0), count(learned) FROM records WHERE study = ? "
                "GROUP BY arm, d_model ORDER BY arm, d_model",
                (study,),
            ).fetchall()
        return [dict(zip(("arm", "d_model", "runs", "learned", "judged"), row, strict=True)) for row in rows]

    def export(self, study: str) -> str:
        """A study as JSON lines: its settings, then its records with their curves, always in the same order.

        The names of weight files are left out: the files stay where they are. Findings are `lean`, also those of
        records that an earlier version made. The form of the lines is that of `kc_interp.lines`.
        """
        settings = self.studies()
        if study not in settings:
            raise StoreError(f"{self.path}: holds no study {study!r}; it holds: {', '.join(settings) or 'none'}")
        return to_lines(study, settings[study], self.records(study, curves=True))

    def import_lines(self, text: str, *, where: str = "import") -> int:
        """Add the records of what `export` wrote, all of them or none, and say how many were new.

        Records that are already here stay as they are. Raises StoreError with the line that does not read, whose
        settings do not give its key, or whose study has other settings here.
        """
        studies, records = read_lines(text, where=where)
        for name, settings in studies.items():
            self.begin(name, settings)
        present = {name: self.keys(name) for name in {record.study for record in records}}
        fresh = [record for record in records if record.key not in present[record.study]]
        self.add(fresh)
        return len(fresh)


def _take_lock(path: Path) -> sqlite3.Connection:
    """Hold SQLite's own lock on a second file, which the system gives back however this process ends."""
    lock = sqlite3.connect(f"{path}.lock", isolation_level=None, timeout=0.5)
    try:
        lock.execute("BEGIN IMMEDIATE")
        lock.execute("CREATE TABLE IF NOT EXISTS writer (pid INTEGER)")
        lock.execute("DELETE FROM writer")
        lock.execute("INSERT INTO writer VALUES (?)", (os.getpid(),))
        lock.execute("COMMIT")
        lock.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        found = None
        if "locked" in str(error):
            found = lock.execute("SELECT pid FROM writer").fetchone()
        lock.close()
        if found is None:
            raise
        raise StoreError(
            f"{path}: process {found[0]} is writing to this store; wait for it, or end it (nothing stored is lost)"
        ) from error
    return lock


def to_lines(study: str, settings: Mapping[str, Any], records: Iterable[Record]) -> str:
    """A study and its records as JSON lines, in this order: what `read_lines` reads."""
    found = [_line("study", name=study, settings=settings)]
    stated: set[str] = set()
    for record in records:
        plain = dataclasses.asdict(
            dataclasses.replace(record, weights=None, findings=tuple(map(lean, record.findings)))
        )
        shared = {}
        *parts, own = lines.fold(plain)
        for kind, part in zip(_SHARED, parts, strict=True):
            if part is None:
                continue
            shared[kind] = name = digest(canonical(part).encode())[:12]
            if name not in stated:
                stated.add(name)
                found.append(_line(kind, name=name, **part))
        usual = {**_DEFAULTS, "spec": {}, "stages": []}
        found.append(_line("record", **shared, **{k: v for k, v in own.items() if k not in usual or v != usual[k]}))
    return "\n".join(found) + "\n"


def read_text(path: Path) -> str:
    """The text of a file of JSON lines. Raises StoreError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read as JSON lines ({error})") from error


def read_lines(text: str, *, where: str = "import") -> tuple[dict[str, dict[str, Any]], list[Record]]:
    """The studies (settings by name) and the records of JSON lines that this or an earlier version wrote.

    Raises StoreError.
    """
    studies: dict[str, dict[str, Any]] = {}
    shared: dict[str, dict[str, Any]] = {kind: {} for kind in _SHARED}
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            schema, kind = data.pop("schema"), data.pop("kind")
            if schema > lines.SCHEMA:
                raise StoreError(
                    f"{where}: line {number} has schema {schema}, this version reads up to schema {lines.SCHEMA}; "
                    "read it with the kc-interp that wrote it, or a newer one"
                )
            if kind == "study":
                studies[data["name"]] = data["settings"]
                continue
            if kind in shared:
                shared[kind][data.pop("name")] = data
                continue
            if kind != "record":
                raise ValueError(f"its kind is {kind!r}")
            if schema > 1:
                settings = _referred("settings", data.pop("settings"), shared)
                words = _referred("words", data.pop("words"), shared) if "words" in data else None
                data = lines.unfold(settings, words, data)
            record = Record(**_as_tuples(data))
            key = run_key(record.spec, record.stages, record.start)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise StoreError(
                f"{where}: line {number} is no record of ours ({type(error).__name__}: {error})"
            ) from error
        if key != record.key:
            raise StoreError(f"{where}: line {number} has the key {record.key}, but its settings give {key}")
        records.append(record)
    return studies, records


def _line(kind: str, **facts: Any) -> str:
    return canonical({"schema": lines.SCHEMA, "kind": kind, **facts})


def _referred(kind: str, name: str, stated: Mapping[str, Mapping[str, Any]]) -> Any:
    """What a record refers to. Raises ValueError when no line before has stated it."""
    if name not in stated[kind]:
        raise ValueError(f"it refers to the {kind} {name}, which no line before it states")
    return stated[kind][name]


def _decoded(bodies: Sequence[str]) -> Iterator[Any]:
    """What these JSON texts hold, one after another."""
    for start in range(0, len(bodies), _AT_A_TIME):
        yield from json.loads(f"[{','.join(bodies[start : start + _AT_A_TIME])}]")


class _Texts(dict[str, Any]):
    """JSON texts and what they hold. Equal texts are decoded once and share it."""

    def __missing__(self, text: str) -> Any:
        self[text] = found = json.loads(text)
        return found


@dataclass(frozen=True)
class _Part:
    """What is read of each record, and what records share: settings and provenance by their text, curves by file."""

    curves: bool
    findings: bool
    sets: tuple[str, ...] | None
    shared: _Texts = field(default_factory=_Texts)
    files: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """Where in its body a record's own facts stand."""
        sets = ["$.metrics"] if self.sets is None else [f'$.metrics.sets."{name}"' for name in self.sets]
        return ["$.spec.seed", "$.start", "$.wall_seconds", "$.made", *sets, *["$.findings"] * self.findings]

    def split(self, facts: list[Any]) -> list[Any]:
        """What stands at `paths`, with the metrics in one piece, and no findings where none are read."""
        findings = facts.pop() if self.findings else []
        if self.sets is None:
            return [*facts, findings]
        sets = {name: found for name, found in zip(self.sets, facts[4:], strict=True) if found is not None}
        return [*facts[:4], {"sets": sets}, findings]


def _as_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON holds as lists and a record as tuples."""
    lists = {name: tuple(data[name]) for name in ("stages", "findings", "curve") if data.get(name) is not None}
    return {**data, **lists}


def differences(before: Mapping[str, Any], after: Mapping[str, Any], most: int = 4) -> str:
    """What changed between two settings, in words: `grid.d_model was [8, 16], is [8, 32]`."""
    old, new = (dict(_leaves(json.loads(canonical(settings)))) for settings in (before, after))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name, ...) != new.get(name, ...)]
    said = [f"{name} was {_shown(old, name)}, is {_shown(new, name)}" for name in changed[:most]]
    return "; ".join(said) + (f"; and {len(changed) - most} more" if len(changed) > most else "")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name; a list of tables by the index of each."""
    nested = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    if isinstance(value, dict) or nested:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not there"


def pack_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Learning curves by member as one safetensors file: a row a member and a column a point for every quantity.

    What was not measured (the loss of a run that diverged, an operation that a member's task lacks) is NaN in the
    file and missing or None when read again; which of the two is in the metadata.
    """
    names = sorted({name for curve in curves.values() for point in curve for name in point})
    width = max((len(curve) for curve in curves.values()), default=0)
    table = {name: np.full((len(curves), width), np.nan) for name in names}
    absent: dict[str, list[list[int]]] = {}
    for row, curve in enumerate(curves.values()):
        for column, point in enumerate(curve):
            for name in names:
                value = point.get(name)
                if value is not None:
                    table[name][row, column] = value
                elif name in point:
                    absent.setdefault(name, []).append([row, column])
    described = {
        "members": list(curves),
        "lengths": [len(curve) for curve in curves.values()],
        "none": absent,
        "whole": [name for name in names if all(isinstance(p.get(name, 0), int) for c in curves.values() for p in c)],
    }
    return safetensors.numpy.save(table, {"kc_interp": canonical(described)})


def unpack_curves(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The curves of a file that `pack_curves` made, by member. Raises StoreError when it is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            described = json.loads(file.metadata()["kc_interp"])
            table = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: the curves that a record names cannot be read ({error})") from error
    nothing = {(name, row, column) for name, cells in described["none"].items() for row, column in cells}
    whole = set(described["whole"])
    curves = {}
    for row, (member, length) in enumerate(zip(described["members"], described["lengths"], strict=True)):
        curves[member] = [
            {
                name: None if (name, row, column) in nothing else int(value) if name in whole else value
                for name, values in table.items()
                if not math.isnan(value := values[row][column]) or (name, row, column) in nothing
            }
            for column in range(length)
        ]
    return curves


def to_csv(records: Sequence[Record]) -> str:
    """Records as a table for a spreadsheet: what was varied and every metric with its interval, one run a row."""
    rows = [_flat(record) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def _flat(record: Record) -> dict[str, Any]:
    row = {
        name: getattr(record, name)
        for name in ("study", "key", "arm", "seed", "d_model", "parameters", "learned", "wall_seconds", "made")
    }
    settings = {
        name: value if not isinstance(value, list) else " ".join(map(str, value))
        for name, value in _leaves(json.loads(canonical(dict(record.spec))))
    }
    measured = dict(_leaves(json.loads(canonical(dict(record.metrics)))))
    return {**row, **settings, **measured}
