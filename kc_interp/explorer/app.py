"""The application: its layout, and the callbacks that answer an address and an action.

    click -> #action -> turn: the next state's address, and the page in it -> view: the open view

What a click changes comes in one answer, the view after it. The answers hold HTML that the page's script puts in place
(`kc_interp.explorer.elements` says why). Every callback may be called with anything: a KCInterpError is a message on
the page, and whatever else goes wrong is logged here and answered with one sentence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import flask
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

import kc_interp
from kc_interp.errors import KCInterpError, ProbeError
from kc_interp.explorer import page, panels, words
from kc_interp.explorer.elements import alert, option
from kc_interp.explorer.export import render
from kc_interp.explorer.rows import columns_of
from kc_interp.explorer.session import Explorer
from kc_interp.explorer.state import State as Showing

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
        meta_tags=[
            {"name": "referrer", "content": "no-referrer"},
            {"name": "version", "content": kc_interp.__version__},
        ],
        add_log_handler=False,
    )
    app.layout = layout()
    callbacks = Callbacks(explorer)
    app.callback(
        Output("address", "search"),
        Output("past", "data"),
        Output("drawn", "data"),
        Output("screen", "data"),
        Input("action", "data"),
        Input("address", "search"),
        State("past", "data"),
        State("drawn", "data"),
    )(callbacks.turn)
    app.callback(Output("sight", "data"), Input("drawn", "data"), prevent_initial_call=True)(callbacks.view)
    for id in ("question", "twin"):
        app.callback(
            Output(f"{id}-fault", "children"),
            Input(id, "value"),
            State("drawn", "data"),
            prevent_initial_call=True,
        )(callbacks.check)
    in_the_browser: Callable[..., None] = app.clientside_callback
    in_the_browser(
        ClientsideFunction("explore", "place"),
        Output("question", "value"),
        Output("twin", "value"),
        Input("screen", "data"),
        prevent_initial_call=True,
    )
    in_the_browser(ClientsideFunction("explore", "show"), Input("sight", "data"), prevent_initial_call=True)
    app.server.add_url_rule("/export", "export", callbacks.export)
    return app


def layout() -> Component:
    """What stands on the page whatever the state is; the callbacks fill what is empty here."""
    stores = ("action", "past", "drawn", "screen", "sight")
    return _element(
        "Div",
        [
            dcc.Location(id="address", refresh=False),
            *(dcc.Store(id=id, storage_type="memory") for id in stores),
            _element(
                "Header",
                [
                    _element("A", "kc-interp explorer", href="/", className="brand", title="Start anew"),
                    _element("Div", id="pickers", className="row-of"),
                    _element("Div", id="kept", className="row-of"),
                ],
                className="top",
            ),
            _element(
                "Main",
                [
                    _element("Div", id="said", role="alert"),
                    _element("Div", id="start"),
                    _element(
                        "Div",
                        [_element("H1", "Models at work", className="sr"), _ask(), *_desk()],
                        id="desk",
                        hidden=True,
                    ),
                ],
            ),
        ],
    )


def _element(name: str, children: Any = None, **attributes: Any) -> Component:
    """One of Dash's own elements; `aria_label` becomes `aria-label`."""
    plain = {
        key.replace("_", "-") if key.startswith(("data_", "aria_")) else key: value for key, value in attributes.items()
    }
    return getattr(html, name)(children, **plain)


def _button(text: str, **attributes: Any) -> Component:
    return _element("Button", text, type="button", disable_n_clicks=True, **attributes)


def _input(id: str, **attributes: Any) -> Component:
    return dcc.Input(id=id, type="text", value="", spellCheck=False, autoComplete="off", **attributes)


def _ask() -> Component:
    another = "Another second expression: one symbol differs, and with it the answer"
    expressions = [
        _expression("question", "Expression"),
        _expression("twin", "Second expression"),
        _button("Ask", id="ask", className="main", data_form="ask"),
        _button("Another second", id="another", data_act='{"do": "twin"}', title=another),
    ]
    return _element(
        "Section",
        [_element("Div", expressions, className="expressions"), _element("Div", id="questions", className="row-of")],
        className="ask",
        aria_label="Expressions",
    )


def _expression(id: str, label: str) -> Component:
    return _element(
        "Div",
        [
            _element("Label", label, htmlFor=id),
            _input(id, debounce=0.2, maxLength=2000),
            _element("Div", id=f"{id}-fault", className="fault", role="status"),
        ],
        className="expression",
    )


def _desk() -> list[Component]:
    return [
        _element(
            "Section",
            [_element("Div", id="controls"), _element("Div", _any_part(), className="row-of any"), _about_parts()],
            className="controls",
            aria_label="Interventions",
        ),
        _element("Div", id="sides", className="sides"),
        _element("Nav", id="tabs", className="tabs", aria_label="Views"),
        _element("Div", id="shown", className="sr", role="status"),
        _element("Div", id="view"),
    ]


def _any_part() -> list[Component]:
    part = _input("what", list="part-names", maxLength=40, placeholder="m0.n17, a0.h1->m0")
    return [
        _element(
            "Label",
            [_element("Span", "Any part"), part],
            className="field",
            htmlFor="what",
        ),
        _element("Datalist", id="part-names"),
        _element(
            "Label",
            [_element("Span", "at"), _element("Select", id="where", disable_n_clicks=True)],
            className="field",
            htmlFor="where",
        ),
        _button("Cut", id="cut", data_form="cut"),
        _button("Look", id="look", data_form="look", title="Show this part: a head's attention, a neuron's examples"),
    ]


def _about_parts() -> Component:
    """What parts are called, and what a cut one carries."""
    told = [*words.PART_NAMES.items(), *((how, f"a cut part carries {says}") for how, says in words.INSTEAD.items())]
    listed = [_element("Div", [_element("Dt", _element("Code", name)), _element("Dd", says)]) for name, says in told]
    return _element(
        "Details",
        [_element("Summary", "What parts are called, and what a cut part carries"), _element("Dl", listed)],
        id="names",
        className="names",
    )


class Message(str):
    """Why there is no answer, for the reader."""


class Callbacks:
    """What the page asks. Every argument comes from a browser, or from whoever pretends to be one."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer

    def turn(self, action: object, address: object, past: object, drawn: object) -> tuple[Any, Any, Any, Any]:
        """The next address, the steps back, what is drawn now, and the page.

        An action is new when its number is not that of what is drawn; otherwise the address has changed by itself.
        """
        before = drawn if isinstance(drawn, dict) else {}
        number = action.get("n") if isinstance(action, dict) else None
        number = number if isinstance(number, int) else 0
        if number == before.get("n", 0):
            moved = _safely(lambda: self._moved(address, past, before.get("address"), number))
            if isinstance(moved, Message):
                return no_update, no_update, {"n": number}, self._start(moved, number)
            return no_update, *moved
        acted = _safely(lambda: self.explorer.act(address, action, past))
        if not isinstance(acted, Message):
            state, steps = acted
            acted = _safely(lambda: (state.query(), steps, *self._page(state, before, number)))
        if isinstance(acted, Message):
            return no_update, no_update, {**before, "n": number}, {"n": number, "html": {"said": alert(acted)}}
        return acted

    def _moved(self, address: object, past: object, before: object, number: int) -> tuple[Any, Any, Any]:
        """The steps back, what is drawn now and the page, at an address that no action of ours led to."""
        steps = self.explorer.behind(address, past, before)
        return (no_update if steps is None else steps), *self._page(self.explorer.state(address), {}, number)

    def _page(self, state: Showing, before: dict[str, Any], number: int) -> tuple[Any, Any]:
        """What is drawn now, in short, and the page itself, but for what is as it was before."""
        if not state.models:
            return {"n": number}, self._start("", number)
        sides = self.explorer.sides(state)
        looks = [its.look for its in sides if its.look is not None]
        about = [list(state.models), state.question, state.free]
        shown = {
            "said": "",
            "start": "",
            "kept": page.kept(state),
            "controls": page.controls(state, sides),
            "sides": [page.side(state, its, index) for index, its in enumerate(sides)],
            "tabs": page.tabs(state),
        }
        if before.get("about") != about:
            shown["pickers"] = page.pickers(self.explorer.models, state)
            shown["questions"] = page.questions(*self.explorer.examples(state), state)
            shown["part-names"] = list(map(option, page.parts_of(looks)))
            shown["where"] = [option(text, value) for value, text in page.positions(looks).items()]
        screen = {
            "n": number,
            "question": state.question,
            "twin": state.twin,
            "html": {id: "".join(part) if isinstance(part, list) else part for id, part in shown.items()},
        }
        return {"n": number, "address": state.query(), "about": about}, screen

    def _start(self, message: str, number: int) -> dict[str, Any]:
        start = "".join(page.start(self.explorer.models, message))
        return {"n": number, "html": {"said": "", "start": start, "pickers": "", "kept": ""}}

    def view(self, drawn: object) -> Any:
        """The open view."""
        if not isinstance(drawn, dict) or "address" not in drawn:
            return no_update
        made = _safely(lambda: self._viewed(drawn["address"]))
        return alert(made) if isinstance(made, Message) else made

    def _viewed(self, address: object) -> Any:
        state = self.explorer.state(address)
        return panels.shown(state, self.explorer.sides(state))

    def export(self) -> flask.Response:
        """The open view as a file. Raises KCInterpError, which the server answers with its message."""
        state = self.explorer.state(flask.request.query_string.decode("ascii", "replace"))
        sides = self.explorer.sides(state)
        if not any(its.look for its in sides):
            raise ProbeError("there is nothing to export: no model could read the expression")
        text = render(state, sides, columns_of(state.view, sides))
        named = re.sub(r"[^a-z0-9]+", "-", " ".join([*state.models, state.view]).lower()).strip("-")
        response = flask.Response(text, mimetype="text/html")
        response.headers["Content-Disposition"] = f'attachment; filename="{named}.html"'
        return response

    def check(self, text: object, drawn: object) -> Any:
        """What is wrong with a text being typed, and where."""
        if not isinstance(text, str) or not text.strip() or not isinstance(drawn, dict):
            return []
        made = _safely(lambda: self.explorer.faults(self.explorer.state(drawn.get("address")), text))
        found = []
        for message, position in [(made, None)] if isinstance(made, Message) else made:
            found.append(_element("Span", message, className="message"))
            if position is not None:
                before, at, after = page.marked(text, position)
                found.append(_element("Code", [before, _element("Mark", at, title="here"), after], className="where"))
        return found


def _safely(ask: Callable[[], Any]) -> Any:
    """The answer, or a message on why there is none."""
    try:
        return ask()
    except KCInterpError as error:
        return Message(error)
    except Exception:
        _LOG.exception("a callback failed")
        return Message(BROKEN)
