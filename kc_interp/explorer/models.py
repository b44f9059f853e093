"""Which checkpoints the page may open, under which names, and those that are open.

The browser only ever says a name from this list; a path comes from the command line or from a search, never from there.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from kc_interp import evaluation
from kc_interp.assembly import names_of
from kc_interp.checkpoint import FILE_NAME, load, peek
from kc_interp.errors import KCInterpError, SpecError, did_you_mean
from kc_interp.explorer.thinking import Thinker
from kc_interp.spec import ModelSpec, from_plain

DEPTH = 3
"""Folders below the current one that are searched: runs/sum is two deep."""
MOST_FOUND = 200
MOST_FOLDERS = 20_000
MOST_OPEN = 6


Stamp = tuple[int, int]
"""A file's time of change and its size: training writes a checkpoint anew."""


@dataclass(frozen=True)
class Offer:
    """A checkpoint that can be opened, and what its header says of it."""

    name: str
    path: Path

    @property
    def stamp(self) -> Stamp | None:
        """None when the file is not there (any more)."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    @property
    def facts(self) -> dict[str, str]:
        """What is worth knowing before opening it; only "fault" when it cannot be."""
        return _read(self.path, self.stamp)


@lru_cache(maxsize=2 * MOST_FOUND)
def _read(path: Path, stamp: Stamp | None) -> dict[str, str]:
    try:
        described, shapes = peek(path, kind="checkpoint")
        return _facts(described, shapes)
    except KCInterpError as error:
        return {"fault": str(error)}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return {"fault": f"{path}: its description does not read ({error!r})"}


def _facts(described: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    spec, task = from_plain(ModelSpec, described["spec"]["model"], where="model"), described["spec"]["task"]
    operations = task.get("settings", {}).get("operations")
    verdict = evaluation.learned(described.get("metrics", {}), None)
    blocks = f"{spec.n_layers}" if spec.repeat == 1 else f"{spec.n_layers}, applied {spec.repeat} times"
    return {
        "trained on": " + ".join(map(str, operations)) if isinstance(operations, list) else str(task["name"]),
        "d_model": str(spec.d_model),
        "blocks": blocks,
        "heads": str(spec.n_heads),
        "initialisation": str(spec.init),
        "seed": str(described["spec"]["seed"]),
        "positions": str(shapes["pos_embed.W_pos"][0]),
        "learned": {True: "learned", False: "not learned", None: "not evaluated"}[verdict],
    }


class Models:
    """Checkpoints by name, each opened when first asked for, and anew when its file has changed.

    The most recent ones stay open, also when their files are gone.
    """

    def __init__(self, paths: Sequence[Path], device: torch.device | str = "cpu") -> None:
        """Raises SpecError when a checkpoint is named twice."""
        files = [path / FILE_NAME if path.is_dir() else path for path in paths]
        self.offers = {name: Offer(name, path) for name, path in zip(names_of(files), files, strict=True)}
        self.device = device
        self._open: OrderedDict[str, tuple[Stamp | None, Thinker]] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = {name: threading.Lock() for name in self.offers}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.offers)

    def thinker(self, name: str) -> Thinker:
        """The model of this name, opened. Raises SpecError on an unknown name, CheckpointError on a broken file."""
        if name not in self.offers:
            raise SpecError(f"no model {name!r} is here{did_you_mean(name, self.offers)}")
        with self._loading[name]:  # the others need not wait for this one
            stamp = self.offers[name].stamp
            with self._lock:
                if name in self._open and stamp in (None, self._open[name][0]):
                    self._open.move_to_end(name)
                    return self._open[name][1]
            thinker = Thinker(name, load(self.offers[name].path, device=self.device))
            with self._lock:
                self._open[name] = stamp, thinker
                self._open.move_to_end(name)
                while len(self._open) > MOST_OPEN:
                    self._open.popitem(last=False)
            return thinker


def found_in(folder: Path) -> list[Path]:
    """Finished runs in a folder and up to `DEPTH` folders below it, in the order of their names.

    Hidden folders and links to folders are left aside, and so is a file that is a link out of the folder.
    """
    root = folder.resolve()
    return [path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path for path in _search(root)]


def _search(root: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for visited, (place, below, files) in enumerate(os.walk(root)):
        deep = len(Path(place).relative_to(root).parts)
        below[:] = sorted(name for name in below if not name.startswith((".", "__"))) if deep < DEPTH else []
        path = Path(place, FILE_NAME)
        if FILE_NAME in files and path.is_file() and (real := path.resolve()).is_relative_to(root) and real not in seen:
            seen.add(real)
            yield path
        if len(seen) == MOST_FOUND or visited == MOST_FOLDERS:
            return
