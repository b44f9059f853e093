"""`kc-interp list`: the probes and tasks that are installed, and whose they are. Imports none of them (but with -v)."""

from __future__ import annotations

from kc_interp.cli.console import Output, table
from kc_interp.cli.options import Json, Quiet, Verbose


def listing(as_json: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> None:
    """The probes and tasks that are installed, built in or third-party."""
    from kc_interp import plugins
    from kc_interp.errors import PluginError

    output = Output(as_json, quiet, verbose)
    found = [plugin for kind in ("probes", "tasks") for plugin in plugins.installed(kind)]
    twice = {p for p in found if sum(q.kind == p.kind and q.name == p.name for q in found) > 1}

    def note(plugin: plugins.Plugin) -> str:
        if plugin in twice:
            return "refused: another package offers this name too"
        if not verbose:
            return ""
        try:
            return plugin.says()
        except PluginError as error:
            return f"broken: {error}"

    columns = ["name", "kind", "from", *(["object", "says"] if verbose else [""])]
    rows = [(p.name, p.singular, p.distribution, *([p.value, note(p)] if verbose else [note(p)])) for p in found]
    output.result(
        {
            kind: [
                {"name": p.name, "distribution": p.distribution, "object": p.value, "conflict": p in twice}
                for p in found
                if p.kind == kind
            ]
            for kind in ("probes", "tasks")
        },
        table("Installed probes and tasks", columns, rows),
    )
