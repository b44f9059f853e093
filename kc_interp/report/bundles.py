"""The scripts that travel inside the page, read from the installed packages and made safe to stand inline."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from kc_interp.errors import KCInterpError

MOST_HEADS = 16
"""CircuitsVis takes more than two seconds for more heads than this at once."""


@cache
def plotly() -> str:
    """Plotly's own bundle."""
    from plotly.offline import get_plotlyjs

    return inline(get_plotlyjs())


@cache
def circuitsvis() -> str:
    """CircuitsVis's bundle, found without importing the package (which would import torch).

    Its `_repr_html_` asks the network at every display, and repeats the bundle for each widget: neither is used.
    Raises KCInterpError when it is not installed.
    """
    found = importlib.util.find_spec("circuitsvis")
    places = list(found.submodule_search_locations or ()) if found else []
    paths = [path for place in places if (path := Path(place, "dist", "cdn", "iife.js")).exists()]
    if not paths:
        raise KCInterpError("the report shows attention patterns through CircuitsVis, which is not installed; "
                            "run `pip install circuitsvis==1.43.3`")  # fmt: skip
    return inline(paths[0].read_text(encoding="utf-8"))


def asset(name: str) -> str:
    """One of the page's own files."""
    return resources.files("kc_interp.report").joinpath("assets", name).read_text(encoding="utf-8")


def inline(script: str) -> str:
    """A script that cannot end its own element, survives HTML's newline rules, and asks for no source map."""
    script = re.sub(r"(?m)^//# sourceMappingURL=.*$", "", script.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", script, flags=re.IGNORECASE)


def sha256(script: str) -> str:
    """The source expression by which a Content-Security-Policy admits exactly this inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def policy(scripts: list[str]) -> str:
    """Nothing is loaded, nothing connects, no script runs but these. Plotly and React set styles, hence `style-src`.

    CircuitsVis tries to compile one module of WebAssembly; that is refused, and it does without.
    """
    return (
        f"default-src 'none'; script-src {' '.join(map(sha256, scripts))}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def island(value: Any) -> str:
    """JSON that is safe inside a script element. Raises ValueError on a number that is not finite."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
