"""The server: on 127.0.0.1 alone, for pages of its own alone.

A page elsewhere could have its own name resolve to 127.0.0.1 and so read what answers there; hence only requests that
name this host are answered. No request changes anything here; but each costs computing, so a browser's are answered
only when our own page asks, or a reader who follows a link to it. There is no password: whoever uses this computer can
ask. Scripts run from here alone: the policy allows no other source, no inline script but the renderer's one line, and
no `eval`.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
from collections.abc import Callable
from functools import cache
from typing import Any

import flask
from dash import Dash
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from kc_interp.errors import KCInterpError, SpecError
from kc_interp.report import bundles

HOST = "127.0.0.1"
LARGEST_BODY = 200_000
"""Bytes of a request; the longest honest one holds two addresses and the steps back, `session.MOST_PAST_CHARACTERS`."""

_ROUTES = re.compile(
    r"/|/_dash-(layout|dependencies|update-component)|/_dash-component-suites/[\w.@/-]+|/_favicon\.ico|"
    r"/assets/[\w.-]+|/shared/[\w.-]+|/export"
)
_LOG = logging.getLogger(__name__)


def listening(port: int) -> socket.socket:
    """A socket on this port (0: one that is free). Raises SpecError when it is taken or not allowed."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise SpecError(
                f"--port {port}: another program listens there; choose another, or leave --port out for a free one"
            ) from None
        raise SpecError(f"--port {port}: {error.strerror}; leave --port out for a free one") from None
    except OverflowError:
        made.close()
        raise SpecError(f"--port {port}: ports go from 1 to 65535") from None
    made.listen(128)
    return made


def server_of(app: Dash, held: socket.socket) -> BaseWSGIServer:
    """A server for the application on this socket, still to be run (`serve_forever`)."""
    harden(app, held.getsockname()[1])
    server = make_server(
        HOST, held.getsockname()[1], app.server, threaded=True, request_handler=_Handler, fd=held.fileno()
    )
    server.daemon_threads = True  # type: ignore[attr-defined]
    return server


class _Handler(WSGIRequestHandler):
    """Logs to our own logger, and says little of itself."""

    timeout = 60

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: ARG002
        _LOG.debug(f"%s {message}", self.address_string(), *args)

    def version_string(self) -> str:
        return "kc-interp"


def harden(app: Dash, port: int) -> None:
    """Refuse what is not for us, and send the headers that keep the page to itself."""
    flask_app: flask.Flask = app.server
    flask_app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    flask_app.config["PROPAGATE_EXCEPTIONS"] = False
    names = {HOST, "localhost", "[::1]"}
    hosts = {f"{name}:{port}" for name in names} | (names if port == 80 else set())  # browsers leave the usual one out
    origins = {f"http://{host}" for host in hosts}
    headers = {
        "Content-Security-Policy": policy(app),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    def admit() -> Any:
        request = flask.request
        if request.headers.get("Host") not in hosts:
            return _says(403, f"this is an explorer on {HOST}; the request names another host")
        changes = request.method not in ("GET", "HEAD", "OPTIONS")
        if (changes and request.headers.get("Origin", "") not in {"", *origins}) or _comes_from_elsewhere(request):
            return _says(403, "the request comes from another page")
        if changes and not request.is_json:
            return _says(415, "a callback is JSON")
        if not _ROUTES.fullmatch(request.path):
            return _says(404, "there is no such page; the explorer is at /")
        return None

    def close(response: flask.Response) -> flask.Response:
        response.headers.update(headers)
        if not response.headers.get("Cache-Control"):
            response.headers["Cache-Control"] = "no-store"
        return response

    flask_app.before_request_funcs.setdefault(None, []).insert(0, admit)
    flask_app.after_request(close)
    flask_app.register_error_handler(Exception, _failed)
    flask_app.add_url_rule("/shared/<name>", "shared", _shared)


def _comes_from_elsewhere(request: flask.Request) -> bool:
    """Whether another site's page asks, by what the browser says of it; a reader may follow a link to the page."""
    said = request.headers.get
    if said("Sec-Fetch-Site", "same-origin") in ("same-origin", "none"):
        return False
    follows = request.method == "GET" and said("Sec-Fetch-Mode") == "navigate" and said("Sec-Fetch-Dest") == "document"
    return not (follows and request.path == "/")


def policy(app: Dash) -> str:
    """The Content-Security-Policy. Plotly, React and CircuitsVis set styles, hence `unsafe-inline` for those.

    CircuitsVis tries to compile one module of WebAssembly; that is refused, and it does without.
    """
    scripts = " ".join(["'self'", *app.csp_hashes()])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _failed(error: Exception) -> flask.Response:
    if isinstance(error, HTTPException):
        return _says(error.code or 500, error.name)
    if isinstance(error, KCInterpError):
        return _says(400, str(error))
    if flask.request.path.startswith("/_dash-component-suites/"):
        return _says(404, "there is no such file")
    _LOG.debug("a request failed", exc_info=error)
    return _says(400 if flask.request.method == "POST" else 500, "the request makes no sense here")


def _says(status: int, text: str) -> flask.Response:
    return flask.Response(f"kc-interp explorer: {text}\n", status, mimetype="text/plain")


_SHARED: dict[str, tuple[str, Callable[[], str]]] = {
    "page.css": ("text/css", lambda: bundles.asset("page.css")),
    "circuit.js": ("text/javascript", lambda: bundles.asset("circuit.js")),
    "plotly.js": ("text/javascript", bundles.plotly),
    "circuitsvis.js": ("text/javascript", bundles.circuitsvis),
}
"""What the page has in common with the report."""


@cache
def _bytes(name: str) -> bytes:
    return _SHARED[name][1]().encode()


def _shared(name: str) -> flask.Response:
    if name not in _SHARED:
        return _says(404, "there is no such file")
    response = flask.Response(_bytes(name), mimetype=_SHARED[name][0])
    response.headers["Cache-Control"] = "private, max-age=86400"
    return response
