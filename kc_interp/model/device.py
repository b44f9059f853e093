"""Where a computation runs: the device by name, and the memory allocator's settings that training on a CPU wants."""

from __future__ import annotations

import ctypes
import sys

import torch

from kc_interp.errors import SpecError


def torch_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; raises SpecError on a device that is unknown or absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError("--device cuda: torch sees no CUDA device here; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SpecError(f"--device {name}: torch knows no such device; use cpu, cuda, cuda:1, … or auto") from error
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise SpecError(f"--device {name}: torch sees {count} CUDA devices here, numbered from 0")
    return device


def tune_for_training() -> None:
    """Process-wide settings without which a training step on a CPU takes up to three times as long.

    Denormal numbers are flushed to zero (attention patterns and their gradients are full of them, and each costs a
    hundred cycles); and glibc keeps freed memory instead of returning it to the system, since every step allocates and
    frees the same tens of megabytes and would pay for the page faults anew. See experiments/bench/training.py.
    """
    torch.set_flush_denormal(True)
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library: slower, not wrong
    trim_threshold, mmap_threshold, most = -1, -3, 2**30
    mallopt(trim_threshold, most)
    mallopt(mmap_threshold, most)
