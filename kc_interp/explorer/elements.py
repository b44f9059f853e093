"""Native elements of the page, as HTML in which every text is escaped.

The page's script puts it in place element by element. As components of Dash, the same elements cost the browser ten
times as long after every click (measured: 100 ms against 10 ms for two models).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape


def tag(name: str, children: Any = None, /, **attributes: Any) -> Markup:
    """An element with a text, elements, or a list of either inside.

    `data_part` and `aria_label` become `data-part` and `aria-label`, `class_` and `for_` lose their underscore. True is
    an attribute without a value; None, False and "" are none, but for `value` and data.

    >>> tag("b", "1 < 2", aria_label="a claim", class_="right")
    Markup('<b aria-label="a claim" class="right">1 &lt; 2</b>')
    """
    given = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {key}")
        elif value not in (None, False) and (value != "" or key == "value" or key.startswith("data-")):
            given.append(f" {key}={_quoted(value)}")
    return Markup(f"<{name}{''.join(given)}>{_inside(children)}</{name}>")


def _quoted(value: object) -> str:
    """In the quotation mark that JSON does not use, if it has the other: islands are long."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if '"' in text:
        return "'" + text.replace("'", "&#39;") + "'"
    return f'"{text}"'


def _inside(children: Any) -> str:
    if children is None:
        return ""
    if isinstance(children, (list, tuple)):
        return "".join(map(_inside, children))
    return str(escape(children))


def button(text: Any, act: Mapping[str, Any] | None = None, **attributes: Any) -> Markup:
    """A button; `act` is the action that a press sends."""
    if act is not None:
        attributes["data_act"] = json.dumps(act)
    return tag("button", text, type="button", **attributes)


def option(text: str, value: str | None = None) -> Markup:
    """One choice of a select or a list."""
    return tag("option", text, value=text if value is None else value)


def select(id: str, label: str, options: Mapping[str, str], value: str, **attributes: Any) -> Markup:
    """A select with its label; the page's script sets it to `value`."""
    choices = [option(text, key) for key, text in options.items()]
    return tag(
        "label",
        [tag("span", label), tag("select", choices, id=id, data_value=value, **attributes)],
        class_="field",
    )


def alert(text: str) -> Markup:
    """A message that a screen reader says at once."""
    return tag("div", text, class_="alert", role="alert")
