"""Where a computation runs: the device by name, what memory it has left, and the settings that a CPU wants."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

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


def free_bytes(device: torch.device) -> int | None:
    """The memory that a computation can still take there; None where this system does not say.

    On CUDA that includes what torch holds unused. On a CPU it is what Linux counts as available, or what the container
    (a cgroup, of either version) may still take, if that is less.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    return min([available, *_container_bytes(Path("/sys/fs/cgroup"))])


def _container_bytes(root: Path) -> list[int]:
    """What the container's limits leave; nothing where there are none. Files kept in memory give way and do not count.

    An unlimited group says "max", or a number beyond any machine's memory.
    """
    left = []
    for limit, usage, folder in (
        ("memory.max", "memory.current", root),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", root / "memory"),
    ):
        try:
            cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())["inactive_file"]
            taken = int((folder / usage).read_text()) - int(cached)
            left.append(max(0, int((folder / limit).read_text()) - taken))
        except (OSError, KeyError, ValueError):
            continue
    return left


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
