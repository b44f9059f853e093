"""`kc-interp explore`: the live page, on this computer alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kc_interp.cli.compute import prepare
from kc_interp.cli.console import Output
from kc_interp.cli.options import Device, Json, NoOpen, Quiet, Verbose
from kc_interp.errors import CheckpointError, KCInterpError

if TYPE_CHECKING:
    from kc_interp.explorer.session import Explorer


def explore(
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            metavar="CKPT",
            help="A run folder or a .safetensors file; may be given several times, two are shown at once.",
            show_default="those found in this folder",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where it listens, at 127.0.0.1.", show_default="a free one")
    ] = 0,
    no_open: NoOpen = False,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads; small models want one.")] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Open a page where one or two models think about an expression, and where every part of them can be cut.

    kc-interp explore --model runs/sum --model runs/joint

    Without --model it lists the models found here. It answers this computer alone, until Ctrl-C.
    """
    output = Output(as_json, quiet, verbose)
    if importlib.util.find_spec("dash") is None:
        raise KCInterpError("the explorer needs Dash, which is not installed; run `pip install 'dash>=4.4'`")
    from kc_interp.explorer import server

    with server.listening(port) as held:
        where = prepare(device, threads)
        from kc_interp.explorer.app import build
        from kc_interp.explorer.models import Models, found_in
        from kc_interp.explorer.session import Explorer

        models = Models(model or found_in(Path.cwd()), where)
        named = models.names if model else ()
        for name in named:
            if "fault" in (facts := models.offers[name].facts):
                raise CheckpointError(facts["fault"])
        explorer = Explorer(models, named)
        running = server.server_of(build(explorer), held)
        query = warm(explorer) if named else ""
        url = f"http://{server.HOST}:{held.getsockname()[1]}/{query}"
        output.result({"url": url, "models": list(models.names)}, url)
        output.note("The page is for this computer alone. Stop it with Ctrl-C.")
        output.visit(url, no_open=no_open)
        running.serve_forever()
        raise KeyboardInterrupt  # werkzeug ends quietly at Ctrl-C, and for no other reason


def warm(explorer: Explorer) -> str:
    """Ask once what the page will ask first, so that it answers at once; the query of that address.

    Raises CheckpointError on a model that does not open.
    """
    from kc_interp.explorer import panels

    for name in explorer.first:
        explorer.models.thinker(name)
    state = explorer.state("")
    panels.shown(state, explorer.sides(state))
    return state.query()
