"""Whatever a browser, or somebody who pretends to be one, sends: a message or a refusal, and the explorer goes on.

Every case is sent over the wire to a server of its own, which afterwards must still answer an honest question rightly
and must not have written a traceback to its terminal.
"""

from __future__ import annotations

import base64
import contextlib
import html
import http.client
import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kc_interp.checkpoint import FILE_NAME
from kc_interp.explorer.server import LARGEST_BODY
from kc_interp.explorer.state import VIEWS
from kc_interp.explorer.thinking import Thinker
from tests.explorer_models import QUESTION, TWIN, model_of
from tests.explorer_pages import Running, Visit, chromium, saved

MODELS = {"sum": model_of("LN", 0, ("SUM",)), "joint": model_of("LN", 1, ("MAX", "MED", "SUM"))}
ANSWER = Thinker("sum", MODELS["sum"]).think(QUESTION).answer
HONEST = f"?model=sum&q={quote(QUESTION)}&twin={quote(TWIN)}"
TURN = ("address.search", "past.data", "drawn.data", "screen.data")


class Wire:
    """Requests to the running explorer as bytes on a socket, so that nothing is tidied on the way."""

    def __init__(self, running: Running) -> None:
        self.running, self.port = running, running.port

    def raw(self, data: bytes) -> tuple[int, str]:
        """The status and the body that come back for these bytes; `PORT` in them is the server's."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as line:
            line.sendall(data.replace(b"PORT", str(self.port).encode()))
            line.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(line)
            response.begin()
            return response.status, response.read().decode()

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: str | bytes = b""
    ) -> tuple[int, str]:
        body = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        lines = {"Host": "127.0.0.1:PORT", "Connection": "close", **(headers or {})}
        if body:
            lines.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
        start = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogatepass")
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as line:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was read
                line.sendall(start.replace(b"PORT", str(self.port).encode()) + body)
            response = http.client.HTTPResponse(line)
            response.begin()
            return response.status, response.read().decode()

    def post(self, body: Any, **headers: str) -> tuple[int, str]:
        text = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return self.send("POST", "/_dash-update-component", {"Content-Type": "application/json", **headers}, text)

    def turn(
        self, *, action: Any = None, address: Any = HONEST, past: Any = None, drawn: Any = None
    ) -> tuple[int, Any]:
        """What the page asks after an action, or (without one) at a new address."""
        status, text = self.post(turn(action=action, address=address, past=past, drawn=drawn))
        assert_harmless(status, text)
        return status, json.loads(text)["response"] if status == 200 and text else {}

    def screen(self, **asked: Any) -> str:
        """All the HTML that the page puts in place for it, in one string."""
        status, answer = self.turn(**asked)
        assert status == 200
        return " ".join(answer["screen"]["data"]["html"].values())

    def view(self, address: Any) -> str:
        """The HTML of the open view."""
        status, text = self.post(callback("sight.data", [("drawn.data", {"n": 1, "address": address})]))
        assert_harmless(status, text)
        assert status == 200
        return str(json.loads(text)["response"]["sight"]["data"])

    def assert_goes_on(self) -> None:
        """An honest question is still answered rightly, and the terminal shows no traceback."""
        assert f"<strong>{ANSWER}</strong>" in self.screen(address=HONEST)
        assert "Traceback" not in self.running.said and self.running.process.poll() is None


def callback(output: str, inputs: list[tuple[str, Any]], state: list[tuple[str, Any]] = ()) -> dict[str, Any]:  # type: ignore[assignment]
    """A callback's request as the page sends it; `output` is one name, or several in Dash's notation."""

    def parts(name: str) -> dict[str, Any]:
        id, _, of = name.rpartition(".")
        return {"id": id, "property": of}

    several = output.startswith("..")
    outputs = [parts(name) for name in output.strip(".").split("...")]
    return {
        "output": output,
        "outputs": outputs if several else outputs[0],
        "inputs": [{**parts(name), "value": value} for name, value in inputs],
        "state": [{**parts(name), "value": value} for name, value in state],
        "changedPropIds": [inputs[0][0]] if inputs else [],
    }


def turn(*, action: Any = None, address: Any = HONEST, past: Any = None, drawn: Any = None) -> dict[str, Any]:
    return callback(
        f"..{'...'.join(TURN)}..",
        [("action.data", action), ("address.search", address)],
        [("past.data", past), ("drawn.data", drawn)],
    )


def assert_harmless(status: int, text: str) -> None:
    assert 200 <= status < 300 or 400 <= status < 500, (status, text[:300])
    for sign in ("Traceback", 'File "', "site-packages", "Error:"):
        assert sign not in text, text[:600]


class _Elements(HTMLParser):
    """Collects what would run."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "svg", "object", "embed", "style", "link", "base", "form", "meta"):
            self.running.append(tag)
        self.running += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]


def assert_only_text(fragment: str) -> None:
    """No element and no attribute of this HTML runs anything or asks for anything."""
    parser = _Elements()
    parser.feed(fragment)
    assert parser.running == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def wire(folder: Path) -> Iterator[Wire]:
    paths = saved(folder / "runs", MODELS)
    running = Running(folder, *(item for path in paths for item in ("--model", str(path))))
    yield Wire(running)
    running.stop()


@pytest.fixture
def asked(wire: Wire) -> Iterator[Wire]:
    yield wire
    wire.assert_goes_on()


# What an address may say

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
BREAKOUT = "\"'></code></button><svg onload=alert(1)>"
DEEP = "[SUM 1 " * 55 + "1" + "]" * 55


def asking(question: str, field: str = "q") -> str:
    return f"?model=sum&{field}={quote(question, errors='surrogatepass')}"


ADDRESSES = [
    ("?model=../../etc/passwd", "no model '../../etc/passwd' is open here"),
    ("?model=/etc/passwd", "no model '/etc/passwd' is open here"),
    ("?model=runs/sum/model.safetensors", "no model 'runs/sum/model.safetensors' is open here"),
    (f"?model={quote(SCRIPT)}", f"no model '{SCRIPT}' is open here"),
    ("?model=sun", "no model 'sun' is open here; did you mean 'sum'?"),
    ("?model=sum&model=sum", "one or two different models can be looked at"),
    ("?model=sum&model=joint&model=sum", "one or two different models can be looked at"),
    ("?model=sum%00", "no model 'sum\\x00' is open here"),
    ("?model=", "no model '' is open here"),
    (asking("[SUM 1 2]" * 2000), "at most 8000 are read"),
    (asking("[SUM 1 2" + " 3" * 300 + "]"), "at most 400 are read"),
    (asking("[SUM 1 " * 10_000 + "1" + "]" * 10_000), "at most 8000 are read"),
    ("?model=sum&at=-1", "at is '-1'; it is a whole number from 0 to 10000"),
    ("?model=sum&at=99999999999999999999", "at is '99999999999999999999'"),
    ("?model=sum&at=%EF%BC%91", "it is a whole number from 0 to 10000"),
    ("?model=sum&at=%C2%B2", "it is a whole number from 0 to 10000"),
    ("?model=sum&at=1e3", "at is '1e3'"),
    ("?model=sum&at=NaN", "at is 'NaN'"),
    ("?model=sum&seed=-5", "seed is '-5'"),
    (f"?model=sum&cut=0:zero:{quote(SCRIPT)}", "is no intervention; one is written as in '0:zero:a0.h1'"),
    ("?model=sum&cut=2:zero:a0.h1", "'2:zero:a0.h1' is no intervention"),
    ("?model=sum&cut=0:exec:a0.h1", "'0:exec:a0.h1' is no intervention"),
    ("?model=sum&cut=0:zero:a0.h1@-1", "is no intervention"),
    ("?model=sum&cut=0:zero:a0.h1@999999", "is no intervention"),
    ("?model=sum" + "".join(f"&cut=0:zero:m0.n{n}" for n in range(65)), "65 interventions at once; at most 64"),
    ("?model=sum" + "&q=1" * 200, "the address does not read"),
    ("?model=sum&q=a&q=b", "the address has 'q' 2 times; once is enough"),
    ("?model=sum&view=../../../etc/passwd", "view is '../../../etc/passwd'; it is one of attention, circuit"),
    ("?model=sum&view=panel", "view is 'panel'"),
    ("?model=sum&view=__init__", "view is '__init__'"),
    (f"?model=sum&part={quote(IMAGE)}", "is no part of a model"),
    ("?model=sum&part=../../a0", "is no part of a model"),
    ("?model=sum&mode=free;rm", "mode is 'free;rm'"),
    ("?model=sum&how=drop", "how is 'drop'; it is one of zero, mean, resample, patch"),
    ("?model=sum&on=2", "on is '2'"),
    ("?model=sum&__proto__=1", "the address has an unknown field '__proto__'"),
    ("?model=sum&constructor[prototype][x]=1", "the address has an unknown field"),
    (f"?{quote(IMAGE)}=1", "the address has an unknown field"),
]  # fmt: skip


@pytest.mark.parametrize(("address", "says"), ADDRESSES, ids=lambda value: str(value)[:40])
def test_an_address_that_makes_no_sense_is_told_so_on_the_start_page(asked: Wire, address: str, says: str) -> None:
    page = asked.screen(address=address)
    assert_only_text(page)
    assert says in html.unescape(page)
    assert "Which model?" in page


QUESTIONS = [
    (SCRIPT, "<"), (IMAGE, "<"), (BREAKOUT, '"'), ("{{7*7}}${7*7}", "{"), ("'; DROP TABLE models; --", "'"),
    ("[SUM 1 2", ""), ("[SUM 1 2]]", ""), ("]][[", ""), ("[", ""), ("[]", ""), ("[SUM]", ""), ("[[SUM 1 2]]", ""),
    ("[" * 399, ""), ("]" * 399, ""), ("[SUM " * 80, ""), (DEEP, ""),
    ("［SUM 1 2］", "［"), ("[SUМ 1 2]", "SUМ"), ("[SUM １ ２]", "１"), ("[SUM ١ ٢]", "١"), ("[SUM ² 3]", "²"),
    ("\u202e]2 1 MUS[", ""), ("[SUM 1\u200b 2]", ""), ("[SUM\u00a01 2]", None), ("\x00", ""), ("[SUM 1 2\x00]", ""),
    ("[SUM 1\n2]", None), ("\ud800", None), ("[SUM 1 \udfff]", None), ("👩‍👩‍👧", ""),
    ("[SUM 99999999999999999999999999 1]", ""), ("[SUM -1 2]", ""), ("[SUM 1.5 2]", ""), ("[SUM 1e9 2]", ""),
    ("[SUM 0x1 2]", ""), ("[SUM 1_0 2]", ""), ("[EVAL 1 2]", "EVAL"), ("[__import__ 1 2]", "__import__"), ("[sum 1 2]", "sum"),
    ("[SUM <end> 1]", ""), ("[SUM 1 > 2]", ""), ("[SUM 1 = 2]", ""),
]  # fmt: skip


@pytest.mark.parametrize(("question", "says"), QUESTIONS, ids=lambda value: ascii(value)[:40])
def test_a_question_that_is_none_is_answered_with_what_is_wrong(asked: Wire, question: str, says: str | None) -> None:
    """`says` stands in the message; None: it may be read, as white space or what the address decodes it to."""
    for field, address in (
        ("q", asking(question)),
        ("twin", f"{asking(QUESTION)}&cut=0:patch:m0&{asking(question, 'twin')[11:]}"),
    ):
        page = asked.screen(address=address)
        assert_only_text(page)
        if says is not None:
            assert 'role="alert"' in page
        if says and field == "q":
            assert says in html.unescape(re.search(r'role="alert"[^>]*>(.*?)</div>', page)[1])  # type: ignore[index]
        assert_only_text(asked.view(address))
        status, text = asked.post(
            callback(
                "question-fault.children", [("question.value", question)], [("drawn.data", {"n": 1, "address": HONEST})]
            )
        )
        assert_harmless(status, text)
        # Typed and sent, it is refused, or asked as the address is.
        assert_only_text(asked.screen(action={"do": "set", {"q": "question"}.get(field, field): question, "n": 1}))


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "rest",
    ["cut=0:zero:a99999999.h99999999", "cut=0:patch:m0.n999999", "cut=0:mean:resid99@9999", "cut=0:zero:a0.h1->a0.h1",
     "at=10000&seed=10000", "part=a9.h9", "part=m9.n99999", f"twin={quote('[SUM 1 2]')}&cut=0:patch:m0"],
    ids=lambda rest: rest[:30],
)  # fmt: skip
def test_what_only_a_model_can_refuse_leaves_every_view_standing(wire: Wire, rest: str, view: str) -> None:
    address = f"?model=sum&q={quote(QUESTION)}&{rest}&view={view}"
    page = wire.screen(address=address)
    assert f"<strong>{ANSWER}</strong>" in page  # untouched
    assert ("Shown untouched:" in page) == ("cut=" in rest)
    shown = wire.view(address)
    assert "Something went wrong" not in shown + page
    assert_only_text(shown)
    assert "Traceback" not in wire.running.said


# What a callback may carry

ACTIONS: list[tuple[Any, str]] = [
    ([], ""), ("set", ""), (5, ""), (True, ""), ({}, ""),
    ({"do": "exec", "code": "import os"}, "unknown action 'exec'"),
    ({"do": ["set"]}, "unknown action"), ({"do": {"$gt": ""}}, "unknown action"), ({"do": None}, "unknown action"),
    ({"do": "set", "models": ["../../etc/passwd"]}, "no model '../../etc/passwd' is open here"),
    ({"do": "set", "models": "sum"}, "one or two different models"),
    ({"do": "set", "models": [["sum"]]}, "no model ['sum'] is open here"),
    ({"do": "set", "models": [{}, None]}, "no model {} is open here"),
    ({"do": "set", "models": ["sum"] * 10_000}, "one or two different models"),
    ({"do": "set", "__proto__": {"x": 1}}, "unknown field '__proto__'"),
    ({"do": "set", "constructor": 1}, "unknown field 'constructor'"),
    ({"do": "set", "cuts": ["0:zero:a0.h1"]}, "unknown field 'cuts'"),
    ({"do": "set", "question": {"$ne": 1}}, "where text is wanted"),
    ({"do": "set", "question": ["[SUM 1 2]"]}, "where text is wanted"),
    ({"do": "set", "question": "[SUM 1 2]" * 10_000}, "the text has 90000 characters; at most 400 are read"),
    ({"do": "set", "question": "   "}, "the expression is empty"),
    ({"do": "set", "question": SCRIPT}, "<"),
    ({"do": "set", "twin": IMAGE}, "<"),
    ({"do": "set", "free": "yes"}, "free is 'yes'"), ({"do": "set", "free": 1}, "free is 1"),
    ({"do": "set", "view": "../server"}, "view is '../server'"), ({"do": "set", "view": ["lens"]}, "view is ['lens']"),
    ({"do": "set", "how": SCRIPT}, f"how is '{SCRIPT}'"),
    ({"do": "set", "at": -1}, "at is -1"), ({"do": "set", "at": 10**30}, "at is 1000000"), ({"do": "set", "at": 1.5}, "at is 1.5"),
    ({"do": "set", "at": True}, "at is True"), ({"do": "set", "at": float("nan")}, "at is nan"), ({"do": "set", "at": "9" * 5000}, "at is '999"),
    ({"do": "set", "seed": -1}, "seed is -1"), ({"do": "set", "seed": {}}, "seed is {}"),
    ({"do": "set", "part": IMAGE}, "is no part of a model"), ({"do": "set", "part": None}, "is no part of a model"),
    ({"do": "cut"}, "is no part of a model"), ({"do": "cut", "what": ["a0.h1"]}, "is no part of a model"),
    ({"do": "cut", "what": ""}, "a part is wanted"), ({"do": "cut", "what": "a0.h1" * 100}, "is no part of a model"),
    ({"do": "cut", "what": "a0.h99"}, "has no part 'a0.h99'"), ({"do": "cut", "what": "a" + "9" * 39}, "has no part"),
    ({"do": "cut", "what": "m0.n" + "9" * 30}, "has no neuron"), ({"do": "cut", "what": "logits->token"}, ""),
    ({"do": "cut", "what": "a0.h1", "position": -1}, "position is -1"),
    ({"do": "cut", "what": "a0.h1", "position": 9_999}, "there is no position 9999"),
    ({"do": "cut", "what": "a0.h1", "position": 10**30}, "position is 1000000"),
    ({"do": "cut", "what": "a0.h1", "how": "exec"}, "how is 'exec'"), ({"do": "cut", "what": "a0.h1", "how": ["zero"]}, "how is ['zero']"),
    ({"do": "restore"}, "where text is wanted"), ({"do": "restore", "cut": SCRIPT}, "is no intervention"),
    ({"do": "restore", "cut": {"model": 0}}, "where text is wanted"),
    ({"do": "random", "depth": 10**9}, "a depth is a whole number from 1 to 4"), ({"do": "random", "depth": "2"}, "a depth is"),
    ({"do": "random", "depth": 0}, "a depth is"), ({"do": "random", "depth": float("inf")}, "a depth is"),
    ({"do": "undo"}, "there is nothing to undo"),
]  # fmt: skip


@pytest.mark.parametrize(("action", "says"), ACTIONS, ids=lambda value: str(value)[:40])
def test_an_action_that_no_control_sends_gets_a_message(asked: Wire, action: Any, says: str) -> None:
    if isinstance(action, dict):
        action = {**action, "n": 1}
    page = asked.screen(action=action)
    assert_only_text(page)
    assert says in html.unescape(page)
    if isinstance(action, dict):
        assert 'role="alert"' in page


@pytest.mark.parametrize(
    "past",
    ["x", {"0": "?"}, [None, 5, {}], ["?model=../../etc/passwd"], [f"?q={quote(SCRIPT)}"], ["?" * 9_000], ["?model=sum"] * 8_000],
    ids=lambda past: str(past)[:30],
)  # fmt: skip
def test_a_forged_past_is_no_way_back(asked: Wire, past: Any) -> None:
    for action in ({"do": "undo", "n": 1}, {"do": "cut", "what": "a0.h1", "n": 1}):
        status, answer = asked.turn(action=action, past=past)
        assert status == 200
        assert_only_text(" ".join(answer["screen"]["data"]["html"].values()))
        assert len(answer.get("past", {}).get("data", [])) <= 60


@pytest.mark.parametrize("drawn", [[], "x", 7, {"n": {}}, {"n": "1", "about": 5}, {"address": ["?"]}, {"address": "?view=x"},
                                   {"about": [["sum"], QUESTION, False], "__proto__": {"n": 1}}], ids=str)  # fmt: skip
def test_a_forged_note_of_what_is_drawn_changes_nothing_but_the_drawing(asked: Wire, drawn: Any) -> None:
    status, answer = asked.turn(action={"do": "cut", "what": "a0.h1", "n": 4}, drawn=drawn)
    assert status == 200 and "cut=0:zero:a0.h1" in answer["address"]["search"]
    status, text = asked.post(callback("sight.data", [("drawn.data", drawn)]))
    assert_harmless(status, text)


HONEST_TURN = turn(action={"do": "reset", "n": 1})
PICKLE = base64.b64encode(b"cos\nsystem\n(S'touch owned'\ntR.").decode()

FORGED: list[tuple[str, Any]] = [
    ("an output that is not there", {**HONEST_TURN, "output": "passwords.children"}),
    ("an output of another callback", {**HONEST_TURN, "output": "sight.data"}),
    ("an output that is a number", {**HONEST_TURN, "output": 5}),
    ("an output that is null", {**HONEST_TURN, "output": None}),
    ("an output that is a list", {**HONEST_TURN, "output": [TURN]}),
    ("an output by a pattern", {**HONEST_TURN, "output": '{"index":["ALL"],"type":"x"}.children'}),
    ("a prototype as output", {**HONEST_TURN, "output": "__proto__.children"}),
    ("no output", {k: v for k, v in HONEST_TURN.items() if k != "output"}),
    ("no outputs", {k: v for k, v in HONEST_TURN.items() if k != "outputs"}),
    ("no inputs", {k: v for k, v in HONEST_TURN.items() if k != "inputs"}),
    ("no state", {k: v for k, v in HONEST_TURN.items() if k != "state"}),
    ("inputs that are a mapping", {**HONEST_TURN, "inputs": {"action": 1}}),
    ("inputs that are text", {**HONEST_TURN, "inputs": "action"}),
    ("inputs of numbers", {**HONEST_TURN, "inputs": [1, 2]}),
    ("inputs without ids", {**HONEST_TURN, "inputs": [{}, {}]}),
    ("ten thousand inputs", {**HONEST_TURN, "inputs": [{"id": "a", "property": "b"}] * 3_000}),
    ("the state of another component", {**HONEST_TURN, "state": [{"id": "said", "property": "children", "value": IMAGE}]}),
    ("outputs of other components", {**HONEST_TURN, "outputs": [{"id": "said", "property": "children"}] * 4}),
    ("outputs that are text", {**HONEST_TURN, "outputs": "x"}),
    ("fewer outputs", {**HONEST_TURN, "outputs": HONEST_TURN["outputs"][:1]}),
    ("changed properties that are no list", {**HONEST_TURN, "changedPropIds": 5}),
    ("changed properties of everything", {**HONEST_TURN, "changedPropIds": ["a.b"] * 10_000}),
    ("a changed property without a dot", {**HONEST_TURN, "changedPropIds": ["action"]}),
    ("a background job", {**HONEST_TURN, "cancelJob": ["1"], "longCallbackId": "x"}),
    ("a list", []), ("null", None), ("a text", "null"), ("a number", 7), ("an empty object", {}),
    ("a pickle", turn(action={"do": "set", "question": PICKLE, "n": 1})),
    ("a pickle as address", turn(address=PICKLE)),
    ("a Python object", turn(action={"py/object": "os.system", "n": 1})),
    ("a component", turn(action={"props": {"dangerouslySetInnerHTML": IMAGE}, "type": "Div", "namespace": "dash_html_components", "n": 1})),
    ("an address that is an object", turn(address={"toString": "x"})),
    ("an address that is a number", turn(address=5)),
    ("a deep object", turn(action=json.loads('{"a":' * 400 + "1" + "}" * 400))),
    ("a text of surrogates", turn(action={"do": "set", "question": "\ud800\udc00\ud800", "n": 1})),
    ("no JSON", "{"), ("JSON of NaN", '{"output": NaN}'), ("very deep JSON", "[" * 90_000), ("bytes", b"\xff\xfe\x00"),
    ("an empty body", ""),
]  # fmt: skip


@pytest.mark.parametrize("body", [body for _, body in FORGED], ids=[name for name, _ in FORGED])
def test_a_forged_callback_is_refused_or_answered_and_never_fails(asked: Wire, folder: Path, body: Any) -> None:
    status, text = asked.post(body)
    assert_harmless(status, text)
    if status == 200:
        for part in json.loads(text)["response"].get("screen", {}).get("data", {}).get("html", {}).values():
            assert_only_text(part)
    assert not (folder / "owned").exists()


# Who may ask, and for what

JSON = {"Content-Type": "application/json"}
BODY = json.dumps(HONEST_TURN)
FOREIGN = "the request names another host"
ELSEWHERE = "the request comes from another page"
NOWHERE = "there is no such page"
UPDATE = "/_dash-update-component"

REQUESTS: list[tuple[str, str, dict[str, Any], str, set[int], str]] = [
    *(("GET", "/", {"Host": host}, "", {403}, FOREIGN) for host in (
        "evil.com", "evil.com:PORT", "127.0.0.1.evil.com:PORT", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:PORT", "2130706433:PORT",
        "[::ffff:127.0.0.1]:PORT", "localhost.:PORT", "evil.com@127.0.0.1:PORT", "127.0.0.1:PORT, evil.com", "127.0.0.2:PORT")),
    ("GET", "/", {"Host": ""}, "", {400, 403}, ""),
    ("GET", "/", {"Host": "127.0.0.1:PORT/../evil"}, "", {400, 403}, ""),
    ("POST", UPDATE, {**JSON, "Host": "evil.com:PORT", "Origin": "http://evil.com:PORT"}, BODY, {403}, FOREIGN),
    ("GET", "http://evil.com/", {"Host": "evil.com"}, "", {403}, FOREIGN),
    ("GET", "/", {"X-Forwarded-Host": "evil.com", "Forwarded": "host=evil.com"}, "", {200}, "kc-interp explorer"),
    ("POST", UPDATE, {**JSON, "Origin": "http://evil.com"}, BODY, {403}, ELSEWHERE),
    ("POST", UPDATE, {**JSON, "Origin": "null"}, BODY, {403}, ELSEWHERE),
    ("POST", UPDATE, {**JSON, "Origin": "https://127.0.0.1:PORT"}, BODY, {403}, ELSEWHERE),
    ("POST", UPDATE, {**JSON, "Origin": "http://127.0.0.1:1"}, BODY, {403}, ELSEWHERE),
    ("POST", UPDATE, {**JSON, "Sec-Fetch-Site": "cross-site"}, BODY, {403}, ELSEWHERE),
    ("POST", UPDATE, {**JSON, "Sec-Fetch-Site": "same-site"}, BODY, {403}, ELSEWHERE),
    ("POST", UPDATE, {**JSON, "Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"}, BODY, {200}, "screen"),
    *(("GET", path, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": kind}, "", {403}, ELSEWHERE) for path, mode, kind in (
        (f"/export{HONEST}", "navigate", "document"), (f"/export{HONEST}", "no-cors", "image"), ("/", "navigate", "iframe"), ("/", "cors", "empty"),
        ("/shared/circuit.js", "no-cors", "script"), ("/_dash-layout", "cors", "empty"))),
    ("GET", f"/{HONEST}", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, "", {200}, "kc-interp explorer"),
    *(("POST", UPDATE, {"Content-Type": kind}, BODY, {415}, "a callback is JSON") for kind in (
        "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/html", "application/octet-stream")),
    ("POST", UPDATE, {}, BODY, {415}, "a callback is JSON"),
    ("POST", UPDATE, JSON, "[" + "1," * LARGEST_BODY + "1]", {413}, ""),
    ("POST", UPDATE, JSON, json.dumps(turn(action={"do": "set", "question": "1" * 10**6, "n": 1})), {413}, ""),
    ("POST", UPDATE, {**JSON, "Content-Length": "-1"}, BODY, {400, 411, 413}, ""),
    ("POST", UPDATE, {**JSON, "Content-Encoding": "gzip"}, BODY, {200, 400, 415}, ""),
    ("GET", UPDATE, {}, "", {200, 404, 405}, ""),  # the page itself, if anything
    *((method, UPDATE, {}, "", {403, 404, 405, 415, 501}, "") for method in ("PUT", "DELETE", "PATCH", "TRACE", "BREW")),
    *((method, UPDATE, JSON, BODY, {404, 405, 501}, "") for method in ("PUT", "DELETE", "PATCH")),
    *(("POST", path, JSON, BODY, {404, 405}, "") for path in ("/", "/export", "/shared/page.css", "/_dash-layout")),
    *(("GET", path, {}, "", {404}, NOWHERE) for path in (
        "/etc/passwd", "/admin", "/.git/config", "/server.py", "/assets/", "/assets/../server.py", "/assets/../../../etc/passwd",
        "/assets/%2e%2e/server.py", "/assets/..%2f..%2fserver.py", "/assets/%252e%252e/server.py", "/assets/....//server.py", "/assets/%2fetc%2fpasswd",
        "/assets/explore.js%00.css", "/shared/../server.py", "/shared/%2e%2e/%2e%2e/server.py", "/_reload-hash", "/_dash-undo",
        "/_alive_1", "/export/x", "/runs/sum/model.safetensors", "/%3Cscript%3Ealert(1)%3C/script%3E", "//evil.com/", "/\\evil.com",
        "/" + "a" * 20_000)),
    *(("GET", path, {}, "", {404}, "") for path in (
        "/assets/..", "/assets/nothing.js", "/shared/nothing.js", "/shared/server.py", "/_dash-component-suites/dash/../../../../etc/passwd",
        "/_dash-component-suites/os/path.js", "/_dash-component-suites/kc_interp/explorer/server.py", "/_dash-component-suites/dash/dash.py",
        "/_dash-component-suites/dash/%2e%2e/%2e%2e/flask/app.py", "/_dash-component-suites/dash/dcc/../dash.py",
        "/_dash-component-suites/numpy/__init__.py")),
    *(("GET", f"/export{query}", {}, "", {400}, says) for query, says in (
        ("?model=../../etc/passwd", "no model '../../etc/passwd' is open here"), ("?view=../../x", "view is '../../x'"),
        (f"?model=sum&q={quote(SCRIPT)}", "there is nothing to export"), ("?" + "a" * 9_000, "at most 8000 are read"),
        ("?model=sum&cut=0:zero:nonsense%0d%0aSet-Cookie:x", "is no intervention"), ("?%ff%fe=1", "unknown field"))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "statuses", "says"),
    REQUESTS,
    ids=[f"{method} {path[:50]} {str(list(headers.values())[:2])[:40]}" for method, path, headers, *_ in REQUESTS],
)
def test_a_request_that_is_not_the_pages_own_is_refused_in_one_line(
    asked: Wire, method: str, path: str, headers: dict[str, str], body: str, statuses: set[int], says: str
) -> None:
    status, text = asked.send(method, path, headers, body)
    assert_harmless(200 if status == 501 else status, text)
    assert status in statuses, (status, text[:200])
    assert says in text
    assert "root:" not in text and "import " not in text[:200] and SCRIPT not in text.replace(f"'{SCRIPT}'", "")


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nHost: evil.com\r\nConnection: close\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: evil.com\r\nHost: 127.0.0.1:PORT\r\nConnection: close\r\n\r\n",
     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 300 + b"\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"],
    ids=["1.0 without a host", "no host", "two hosts", "two hosts, ours last", "TLS", "nonsense", "HTTP 9", "headers", "long"],
)  # fmt: skip
def test_bytes_that_are_no_honest_request_are_refused(asked: Wire, data: bytes) -> None:
    try:
        status, text = asked.raw(data)
    except (http.client.BadStatusLine, ConnectionResetError):
        return  # an answer without a head, as to HTTP/0.9, or none
    assert 400 <= status < 600 and "Traceback" not in text


# What lies in the folder


def test_a_folder_of_hostile_models_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    name = "<script>alert(1)<"  # a folder cannot hold the slash
    saved(runs, {"good": MODELS["sum"], name: MODELS["joint"], "gone": MODELS["sum"], "-–\n\u202e": MODELS["sum"]})
    for broken, data in {
        "empty": b"", "short": b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "noise": os.urandom(4_000), "huge": b"\xff" * 8 + b"{}",
        "pickle": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
    }.items():  # fmt: skip
        (runs / broken).mkdir()
        (runs / broken / FILE_NAME).write_bytes(data)
    cut = (runs / "good" / FILE_NAME).read_bytes()
    (runs / "cut").mkdir()
    (runs / "cut" / FILE_NAME).write_bytes(cut[: len(cut) // 2])
    (runs / "folder" / FILE_NAME).mkdir(parents=True)
    (runs / "loop").symlink_to(runs, target_is_directory=True)
    (runs / "self").mkdir()
    (runs / "self" / FILE_NAME).symlink_to(FILE_NAME)
    (runs / "out").mkdir()
    (runs / "out" / FILE_NAME).symlink_to("/etc/passwd")
    running = Running(tmp_path)
    try:
        wire = Wire(running)
        page = wire.screen(address="")
        assert_only_text(page)
        said = html.unescape(page)
        assert name in said and "good" in running.answer["models"]
        assert not {"loop", "self", "out"} & set(running.answer["models"])
        assert "root:" not in said
        for broken in ("empty", "short", "noise", "huge", "pickle", "cut"):
            found = wire.screen(address=f"?model=good&model={broken}&q={quote(QUESTION)}")
            assert FILE_NAME in found and f"<strong>{ANSWER}</strong>" in found
        assert not (tmp_path / "owned").exists()
        # A name is text wherever it stands.
        address = f"?model={quote(name)}&q={quote(QUESTION)}"
        for view in VIEWS:
            assert_only_text(wire.view(f"{address}&view={view}"))
        assert_only_text(wire.screen(address=address))
        status, text = wire.send("GET", f"/export{address}&view=lens")
        assert status == 200 and "<script>alert" not in text
        # Deleted after the start, it is told so; what is open stays open.
        shutil.rmtree(runs / "gone")
        assert FILE_NAME in wire.screen(address="?model=gone")
        shutil.rmtree(runs / "good")
        assert f"<strong>{ANSWER}</strong>" in wire.screen(address=f"?model=good&q={quote(QUESTION)}")
        assert_only_text(wire.screen(address=""))
        assert "Traceback" not in running.said
    finally:
        running.stop()


def test_a_port_that_is_taken_ends_with_one_message(wire: Wire, tmp_path: Path) -> None:
    second = Running(tmp_path, "--port", str(wire.port))
    try:
        assert second.process.wait(60) == 1
        said = second.said.strip()
        assert f"--port {wire.port}: another program listens there" in re.sub(r"\s+", " ", said)
        assert "Traceback" not in said
    finally:
        second.stop()
    wire.assert_goes_on()


# In the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.mark.browser
def test_whatever_is_typed_or_opened_the_page_goes_on(wire: Wire, browser: Any) -> None:
    visit = Visit(browser, wire.running.origin)
    visit.open(HONEST + "&view=lens")
    for text in (
        SCRIPT,
        IMAGE,
        BREAKOUT,
        "[SUM 1 2",
        "［SUM 1 2］",
        "\u202e]2 1 MUS[",
        "[SUM 99999999999999999999 1]",
        "[" * 1_900,
    ):
        visit.page.locator("#question").fill(text)
        visit.page.locator("#question-fault .message").wait_for()
        visit.key("Enter")
        assert visit.text("#said") != "" and visit.page.locator("img").count() == 0
        assert f"answers {ANSWER} " in visit.text(".side .answer")
    visit.page.locator("#question").fill(QUESTION)
    for text in (IMAGE, "a0.h99", "__proto__", "m0.n99999999", "a0.h1@-1"):
        visit.page.locator("#what").fill(text)
        visit.press("#cut")
        assert visit.text("#said") != ""
    visit.press("[data-part='a0.h1']")
    assert visit.page.locator("[data-part='a0.h1']").get_attribute("aria-pressed") == "true"
    assert visit.text("#said") == ""
    # Controls that somebody else put on the page, and data that is none.
    for action in ('{"do": "exec"}', "[1, 2]", "5", '{"do": "set", "models": ["../../etc/passwd"]}'):
        visit.page.evaluate(
            "act => { const b = document.querySelector('#undo'); b.dataset.act = act; b.click() }", action
        )
        visit.settle()
        assert visit.text("#said") != ""
    visit.press("[data-part='a0.h2']")
    assert visit.page.locator("[data-part='a0.h2']").get_attribute("aria-pressed") == "true"
    for address, says in (("?model=../../etc/passwd", "no model"), (f"?{quote(IMAGE)}=1", "unknown field"), ("?view=x", "view is 'x'"),
                          ("?view=lens#<img src=x onerror=alert(1)>", ""), ("?view=circuit#graph=1e999,kept", "")):  # fmt: skip
        visit.open(address)
        assert says in visit.text("main") and visit.page.locator("img").count() == 0
    visit.open(HONEST + "&view=lens")
    assert f"answers {ANSWER} " in visit.text(".side .answer")
    assert (visit.complaints, visit.violations, visit.strangers) == ([], [], [])
    visit.context.close()
    wire.assert_goes_on()


@pytest.mark.browser
def test_an_address_that_does_not_decode_leaves_the_figures_drawn(wire: Wire, browser: Any) -> None:
    """CircuitsVis decodes the page's address when it is loaded, and fails on one that is no UTF-8."""
    visit = Visit(browser, wire.running.origin)
    visit.open("?model=sum&q=%00%ff%ed%a0%80")
    assert visit.text(".side [role=alert]").startswith("at position 0: found '\\x00")
    # What the views need is fetched before it is asked for.
    visit.wait("window.CircuitsVis !== undefined")
    visit.press("#example-0")
    visit.draw_all()
    assert "could not be drawn" not in visit.text("#view")
    assert visit.complaints == []
    visit.context.close()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that may be halted and ended."""
    folder = tmp_path_factory.mktemp("mortal")
    running = Running(folder, "--model", str(saved(folder, {"sum": MODELS["sum"]})[0]))
    yield running
    running.stop()


@pytest.mark.browser
def test_a_press_is_done_however_long_the_one_before_it_takes(mortal: Running, browser: Any) -> None:
    visit = Visit(browser, mortal.origin)
    visit.hurry()
    visit.open(HONEST + "&view=lens")
    mortal.process.send_signal(signal.SIGSTOP)
    try:
        for part in ("a0.h0", "m1"):
            visit.page.locator(f"[data-part='{part}']").click()
        visit.wait("document.querySelector('#said').textContent.includes('Does it still run in its terminal?')")
    finally:
        mortal.process.send_signal(signal.SIGCONT)
    visit.wait("document.querySelector('[data-part=m1]').ariaPressed === 'true'")
    visit.settle()
    assert [text.split(" ")[0] for text in visit.texts(".cuts li")] == ["a0.h0", "m1"]
    visit.context.close()


@pytest.mark.browser
def test_while_an_answer_takes_long_the_page_says_that_it_is_being_computed(mortal: Running, browser: Any) -> None:
    visit = Visit(browser, mortal.origin)
    visit.hurry()
    visit.open(HONEST + "&view=lens")
    callbacks = "**/_dash-update-component*"
    visit.page.route(callbacks, lambda route: None)
    for part in ("a0.h0", "m1"):
        visit.page.locator(f"[data-part='{part}']").click()
    visit.wait("document.querySelector('#said').textContent === 'Still computing.'")
    visit.page.unroute(callbacks)  # which lets go of what was held
    visit.wait("document.querySelector('[data-part=m1]').ariaPressed === 'true'")
    assert visit.text("#said") == ""
    visit.context.close()


@pytest.mark.browser
def test_a_page_whose_server_has_gone_says_so_when_something_is_pressed(mortal: Running, browser: Any) -> None:
    visit = Visit(browser, mortal.origin)
    visit.open(HONEST + "&view=lens")
    mortal.process.terminate()
    mortal.process.wait(20)
    visit.page.locator("[data-part='a0.h0']").click()
    visit.wait("document.querySelector('#said').textContent.includes('Does it still run in its terminal?')")
    visit.context.close()
