"""Packages of other people, installed for one test: a folder on `sys.path` with modules and the metadata pip would write."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    name: str,
    *,
    modules: Mapping[str, str],
    probes: Mapping[str, str] | None = None,
    tasks: Mapping[str, str] | None = None,
) -> None:
    """Install a distribution whose entry points are `probes` and `tasks` (name: "module:object")."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = {"kc_interp.probes": probes or {}, "kc_interp.tasks": tasks or {}}
    (info / "entry_points.txt").write_text(
        "\n".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items())
    )
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
