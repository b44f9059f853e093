"""Finding probes and tasks, ours and others', through the entry-point groups `kc_interp.probes` and `kc_interp.tasks`.

Listing imports no plug-in. A broken one affects only its own name; two packages that offer one name are both refused,
since which of them ran would depend on the order of installation. In a source tree that is not installed our own
entry points are read from its pyproject.toml, so that there is one list.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kc_interp.errors import KCInterpError, PluginError, did_you_mean
from kc_interp.spec import TaskSpec, from_plain
from kc_interp.tasks.task import Task

if TYPE_CHECKING:
    from kc_interp.probe import Probe

Kind = Literal["probes", "tasks"]
DISTRIBUTION = "kc-interp"
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Plugin:
    """A name with what it stands for (`module:object`) and the distribution that announces it."""

    kind: Kind
    name: str
    value: str
    distribution: str

    @property
    def singular(self) -> str:
        """ "probe" or "task"."""
        return self.kind.removesuffix("s")

    def load(self) -> Any:
        """The object itself. Raises PluginError with the reason when it cannot be imported."""
        module, _, attribute = self.value.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise PluginError(
                f"the {self.singular} {self.name!r} of {self.distribution} ({self.value}) cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error

    def says(self) -> str:
        """The first line of its docstring (imports it). Raises PluginError as `load` does."""
        return next(iter((self.load().__doc__ or "").strip().splitlines()), "")


def installed(kind: Kind) -> list[Plugin]:
    """Every plug-in of a kind, ours first, then by distribution and name."""
    group = f"kc_interp.{kind}"
    found = {
        Plugin(kind, entry.name, entry.value, entry.dist.name if entry.dist else "an unnamed distribution")
        for entry in metadata.entry_points(group=group)
    }
    if not any(plugin.distribution == DISTRIBUTION for plugin in found):
        found |= _of_source_tree(kind)
    return sorted(found, key=lambda p: (p.distribution != DISTRIBUTION, p.distribution, p.name))


def _of_source_tree(kind: Kind) -> set[Plugin]:
    project = _ROOT / "pyproject.toml"
    if not project.is_file():
        return set()
    if str(_ROOT / "probes") not in sys.path:
        sys.path.append(str(_ROOT / "probes"))
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"][f"kc_interp.{kind}"]
    return {Plugin(kind, name, value, DISTRIBUTION) for name, value in table.items()}


def find(kind: Kind, name: str) -> Plugin:
    """The one plug-in of this name. Raises PluginError when there is none, or more than one."""
    known = installed(kind)
    same = [plugin for plugin in known if plugin.name == name]
    if len(same) == 1:
        return same[0]
    singular = kind.removesuffix("s")
    if not same:
        names = {plugin.name for plugin in known}
        raise PluginError(f"no {singular} {name!r} is installed{did_you_mean(name, names)}")
    owners = " and ".join(f"{plugin.distribution} ({plugin.value})" for plugin in same)
    raise PluginError(f"two packages offer a {singular} {name!r}: {owners}; uninstall one of them")


def make_task(spec: TaskSpec) -> Task:
    """The task that a specification names, with its settings. Raises PluginError and SpecError."""
    found = _make(find("tasks", spec.name), spec.settings)
    if not isinstance(found, Task):
        missing = [name for name in vars(Task) if not name.startswith("_") and not hasattr(found, name)]
        raise PluginError(f"{spec.name!r} is announced as a task, but lacks {', '.join(missing)}")
    return found


def make_probe(name: str, settings: Mapping[str, Any] | None = None) -> Probe:
    """A probe with its settings. Raises PluginError and SpecError."""
    found = _make(find("probes", name), settings or {})
    if not callable(getattr(found, "run", None)):
        raise PluginError(f"{name!r} is announced as a probe, but has no method `run`")
    return found


def _make(plugin: Plugin, settings: Mapping[str, Any]) -> Any:
    cls = plugin.load()
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise PluginError(f"the {plugin.singular} {plugin.name!r} ({plugin.value}) is not a dataclass of settings")
    try:
        return from_plain(cls, settings, where=f"{plugin.singular} {plugin.name}")
    except KCInterpError:
        raise
    except Exception as error:
        raise PluginError(
            f"the {plugin.singular} {plugin.name!r} of {plugin.distribution} refuses its settings: "
            f"{type(error).__name__}: {error}"
        ) from error
