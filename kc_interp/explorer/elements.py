"""Native elements of the page, as Dash components."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dash import html
from dash.development.base_component import Component


def tag(name: str, children: Any = None, **attributes: Any) -> Component:
    """An element; `data_part` and `aria_label` become `data-part` and `aria-label`.

    >>> tag("Div", "text", aria_label="name")
    Div(children='text', aria-label='name')
    """
    plain = {
        key.replace("_", "-") if key.startswith(("data_", "aria_")) else key: value for key, value in attributes.items()
    }
    return getattr(html, name)(children, **plain)


def button(text: Any, act: Mapping[str, Any] | None = None, **attributes: Any) -> Component:
    """A button; `act` is the action that a press sends."""
    if act is not None:
        attributes["data_act"] = json.dumps(act)
    return tag("Button", text, type="button", disable_n_clicks=True, **attributes)


def option(text: str, value: str | None = None) -> Component:
    """One choice of a select or a list."""
    return tag("Option", text, value=text if value is None else value)


def select(id: str, label: str, options: Mapping[str, str], value: str, **attributes: Any) -> Component:
    """A select with its label; the page's script sets it to `value`."""
    choices = [option(text, key) for key, text in options.items()]
    inside = tag("Select", choices, id=id, disable_n_clicks=True, data_value=value, **attributes)
    return tag("Label", [tag("Span", label), inside], className="field")


def alert(text: str) -> Component:
    """A message that a screen reader says at once."""
    return tag("Div", text, className="alert", role="alert")
