"""Where a command computes, and the folder that it may write to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kc_interp.errors import SpecError

if TYPE_CHECKING:
    import torch


def prepare(device: str, threads: int | None) -> torch.device:
    """The device by name, with the number of CPU threads set. Raises SpecError when it is not there."""
    import torch

    from kc_interp.model.device import torch_device, tune_for_training

    if threads is not None:
        torch.set_num_threads(threads)
    tune_for_training()
    return torch_device(device)


def claim(folder: Path, owned: list[str], *, resume: bool = False, force: bool = False) -> None:
    """See that a folder can be written to and holds none of the files `owned` (patterns), which --force removes first.

    Nothing else in the folder is touched. Raises SpecError.
    """
    found = sorted({path for pattern in owned for path in folder.glob(pattern)})
    if found and not (resume or force):
        raise SpecError(
            f"{folder}: already holds a run ({found[0].name}); choose another --out, continue it with --resume, "
            "or replace it with --force"
        )
    if force and not resume:
        for path in found:
            path.unlink()
    writable = folder
    while not writable.exists():
        writable = writable.parent
    if not writable.is_dir():
        raise SpecError(f"{folder}: {writable} is a file; choose another folder")
    if not os.access(writable, os.W_OK):
        raise SpecError(f"{folder}: no permission to write in {writable}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)


def claim_file(path: Path, *, force: bool = False) -> None:
    """See that a file can be written and is not there yet, unless --force is to replace it. Raises SpecError."""
    if path.is_dir():
        raise SpecError(f"{path}: that is a folder; --out names the file to write")
    if path.exists() and not force:
        raise SpecError(f"{path}: already there; choose another --out, or replace it with --force")
    claim(path.parent, [])
