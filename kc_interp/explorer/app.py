"""The application: its layout, and the callbacks that answer an address and an action.

    click -> #action -> act -> the address -> render (what the models think) -> #drawn -> view (the open view)

What a click changes comes first, the view after it. Every callback may be called with anything: a KCInterpError is a
message on the page, and whatever else goes wrong is logged here and answered with one sentence.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import flask
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, no_update
from dash.development.base_component import Component

import kc_interp
from kc_interp.errors import KCInterpError, ProbeError
from kc_interp.explorer import page, panels
from kc_interp.explorer.elements import alert, button, option, tag
from kc_interp.explorer.session import Explorer

_LOG = logging.getLogger(__name__)

BROKEN = "Something went wrong inside; the terminal where the explorer runs says what. The page goes on."

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
</head>
<body>
<noscript><p class="alert">The explorer asks a model and needs scripts, which are off.</p></noscript>
{%app_entry%}
<footer hidden>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


class _App(Dash):
    """Dash, but for the address that it would ask for its newest version."""

    def _generate_config_html(self) -> str:
        return re.sub(r'"dash_version_url":"[^"]*"', '"dash_version_url":""', super()._generate_config_html())


def build(explorer: Explorer) -> Dash:
    """The application, not yet served."""
    app = _App(
        "kc_interp.explorer",
        assets_folder=str(resources.files("kc_interp.explorer") / "assets"),
        external_stylesheets=[f"/shared/page.css?v={kc_interp.__version__}"],
        title="kc-interp explorer",
        update_title="",
        serve_locally=True,
        index_string=_INDEX,
        meta_tags=[{"name": "referrer", "content": "no-referrer"}],
        add_log_handler=False,
    )
    app.layout = layout()
    callbacks = Callbacks(explorer)
    app.callback(
        Output("address", "search"),
        Output("past", "data"),
        Output("answered", "data"),
        Output("said", "children"),
        Input("action", "data"),
        State("address", "search"),
        State("past", "data"),
        prevent_initial_call=True,
    )(callbacks.act)
    app.callback(*(Output(id, name) for id, name in RENDERED), Input("address", "search"), State("drawn", "data"))(
        callbacks.render
    )
    app.callback(Output("view", "children"), Input("drawn", "data"), prevent_initial_call=True)(callbacks.view)
    for id in ("question", "twin"):
        app.callback(
            Output(f"{id}-fault", "children"),
            Input(id, "value"),
            State("address", "search"),
            prevent_initial_call=True,
        )(callbacks.check)
    in_the_browser: Callable[..., None] = app.clientside_callback
    in_the_browser(
        ClientsideFunction("explore", "fill"),
        Output("question", "value"),
        Output("twin", "value"),
        Input("drawn", "data"),
        prevent_initial_call=True,
    )
    in_the_browser(
        ClientsideFunction("explore", "answered"),
        Output("acknowledged", "data"),
        Input("answered", "data"),
        prevent_initial_call=True,
    )
    app.server.add_url_rule("/export", "export", callbacks.export)
    return app


def layout() -> Component:
    """What stands on the page whatever the state is; the callbacks fill the rest."""
    stores = ("action", "past", "answered", "acknowledged", "drawn")
    return tag(
        "Div",
        [
            dcc.Location(id="address", refresh=False),
            *(dcc.Store(id=id, storage_type="memory") for id in stores),
            tag(
                "Header",
                [
                    tag("A", "kc-interp explorer", href="/", className="brand", title="Start anew"),
                    tag("Div", id="pickers", className="row-of"),
                    tag("Span", id="kept", className="row-of"),
                ],
                className="top",
            ),
            tag(
                "Main",
                [
                    tag("Div", id="said", role="alert"),
                    tag("Div", id="start"),
                    tag("Div", [_ask(), _desk()], id="desk", hidden=True),
                ],
            ),
        ],
    )


def _ask() -> Component:
    return tag(
        "Section",
        [
            tag(
                "Div",
                [
                    _expression("question", "Expression"),
                    _expression("twin", "Second expression"),
                    button("Ask", id="ask", className="main", data_form="ask"),
                    button(
                        "Another second",
                        {"do": "twin"},
                        id="another",
                        title="Another second expression: one symbol differs, and the answer",
                    ),
                ],
                className="expressions",
            ),
            tag("Div", id="questions", className="row-of"),
        ],
        className="ask",
        aria_label="Expressions",
    )


def _expression(id: str, label: str) -> Component:
    field = dcc.Input(id=id, type="text", debounce=0.2, maxLength=2000, spellCheck=False, autoComplete="off", value="")
    return tag(
        "Div",
        [
            tag("Label", label, htmlFor=id),
            field,
            tag("Div", id=f"{id}-fault", className="fault", role="status"),
        ],
        className="expression",
    )


def _desk() -> Component:
    anything = tag(
        "Div",
        [
            tag(
                "Label",
                [
                    tag("Span", "Any part"),
                    dcc.Input(
                        id="what",
                        type="text",
                        list="part-names",
                        maxLength=40,
                        placeholder="m0.n17, a0.h1->m0",
                        spellCheck=False,
                        autoComplete="off",
                        value="",
                    ),
                ],
                className="field",
                htmlFor="what",
            ),
            tag("Datalist", id="part-names"),
            tag("Label", [tag("Span", "at"), tag("Select", id="where", disable_n_clicks=True)], className="field"),
            button("Cut", id="cut", data_form="cut"),
        ],
        className="row-of any",
    )
    return tag(
        "Div",
        [
            tag("Section", [tag("Div", id="controls"), anything], className="controls", aria_label="Interventions"),
            tag("Div", id="sides", className="sides"),
            tag("Nav", id="tabs", className="tabs", aria_label="Views"),
            tag("Div", id="view"),
        ],
    )


RENDERED = (
    ("start", "children"),
    ("desk", "hidden"),
    ("pickers", "children"),
    ("kept", "children"),
    ("questions", "children"),
    ("controls", "children"),
    ("sides", "children"),
    ("part-names", "children"),
    ("where", "children"),
    ("tabs", "children"),
    ("drawn", "data"),
)
"""What an address decides, in the order in which `Callbacks.render` returns it."""


class Callbacks:
    """What the page asks. Every argument comes from a browser, or from whoever pretends to be one."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer

    def act(self, action: object, address: object, past: object) -> tuple[Any, Any, Any, Any]:
        """The address after an action; the number that the action came with says that it is answered."""
        number = action.get("n") if isinstance(action, dict) else None
        number = number if isinstance(number, int) else 0
        made = _safely(lambda: self.explorer.act(address, action, past))
        if isinstance(made, str):
            return no_update, no_update, {"n": number, "refused": True}, made
        state, steps = made
        return state.query(), steps, {"n": number, "address": state.query()}, ""

    def render(self, address: object, before: object) -> tuple[Any, ...]:
        """All of the page but its view."""
        made = _safely(lambda: self._rendered(address, before))
        if isinstance(made, str):
            start = page.start(self.explorer.models, made)
            return (start, True, [], [], *[no_update] * (len(RENDERED) - 5), None)
        return made

    def _rendered(self, address: object, before: object) -> tuple[Any, ...]:
        state = self.explorer.state(address)
        if not state.models:
            return (page.start(self.explorer.models), True, [], [], *[no_update] * (len(RENDERED) - 5), None)
        sides = self.explorer.sides(state)
        looks = [its.look for its in sides if its.look is not None]
        # What only models and question decide is sent once: less for the browser to draw after a click.
        about = [list(state.models), state.question, state.free]
        known = isinstance(before, dict) and before.get("about") == about
        heads = (
            (no_update, no_update)
            if known
            else (
                page.pickers(self.explorer.models, state),
                page.questions(*self.explorer.examples(state), state),
            )
        )
        lists = (
            (no_update, no_update)
            if known
            else (
                [option(part) for part in page.parts_of(looks)],
                [option(text, value) for value, text in page.positions(looks).items()],
            )
        )
        drawn = {"address": state.query(), "question": state.question, "twin": state.twin, "about": about}
        return (
            [],
            False,
            heads[0],
            page.kept(state),
            heads[1],
            page.controls(state, sides),
            [page.side(state, its, index) for index, its in enumerate(sides)],
            *lists,
            page.tabs(state),
            drawn,
        )

    def view(self, drawn: object) -> Any:
        """The open view."""
        if not isinstance(drawn, dict):
            return []
        made = _safely(lambda: self._viewed(drawn.get("address")))
        return alert(made) if isinstance(made, str) else made

    def _viewed(self, address: object) -> Any:
        state = self.explorer.state(address)
        return panels.shown(state, self.explorer.sides(state))

    def export(self) -> flask.Response:
        """The open view as a file. Raises KCInterpError, which the server answers with its message."""
        if importlib.util.find_spec("kc_interp.explorer.export") is None:
            raise ProbeError("this version cannot export a view")
        state = self.explorer.state(flask.request.query_string.decode("ascii", "replace"))
        looks = [its.look for its in self.explorer.sides(state) if its.look is not None]
        if not looks:
            raise ProbeError("there is nothing to export: no model could read the expression")
        sides = [(look, panels.panels_of(state.view, look)) for look in looks]
        text = importlib.import_module("kc_interp.explorer.export").render(state, sides)
        named = re.sub(r"[^a-z0-9]+", "-", " ".join([*state.models, state.view]).lower()).strip("-")
        response = flask.Response(text, mimetype="text/html")
        response.headers["Content-Disposition"] = f'attachment; filename="{named}.html"'
        return response

    def check(self, text: object, address: object) -> Any:
        """What is wrong with a text being typed."""
        if not isinstance(text, str) or not text.strip():
            return []
        made = _safely(lambda: self.explorer.faults(self.explorer.state(address), text))
        return page.fault(text, [(made, None)] if isinstance(made, str) else made)


def _safely(ask: Callable[[], Any]) -> Any:
    """The answer, or a sentence on why there is none."""
    try:
        return ask()
    except KCInterpError as error:
        return str(error)
    except Exception:
        _LOG.exception("a callback failed")
        return BROKEN
