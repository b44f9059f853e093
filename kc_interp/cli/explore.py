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
    from collections.abc import Sequence

    import torch

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

    Without --model it lists the models found here. It answers this computer alone, and any user of it, until Ctrl-C.
    """
    output = Output(as_json, quiet, verbose)
    if importlib.util.find_spec("dash") is None:
        raise KCInterpError("the explorer needs Dash, which is not installed; run `pip install 'dash>=4.4'`")
    from kc_interp.explorer import server

    with server.listening(port) as held:
        where = prepare(device, threads)
        from kc_interp.explorer.app import build

        explorer = opened(model or [], where)
        running = server.server_of(build(explorer), held)
        query = warm(explorer) if explorer.first else ""
        url = f"http://{server.HOST}:{held.getsockname()[1]}/{query}"
        output.result({"url": url, "models": list(explorer.models.names)}, url)
        output.note("Any user of this computer can open the page, nobody elsewhere. Stop it with Ctrl-C.")
        output.visit(url, no_open=no_open)
        running.serve_forever()
        raise KeyboardInterrupt  # werkzeug ends quietly at Ctrl-C, and for no other reason


def opened(named: Sequence[Path], device: torch.device) -> Explorer:
    """An explorer of the models named, or of those found in this folder.

    Raises CheckpointError when the header of one that was named does not read.
    """
    from kc_interp.explorer.models import Models, found_in
    from kc_interp.explorer.session import Explorer

    models = Models(named or found_in(Path.cwd()), device)
    for offer in models.offers.values() if named else ():
        if fault := offer.facts.get("fault"):
            raise CheckpointError(fault)
    return Explorer(models, models.names if named else ())


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
