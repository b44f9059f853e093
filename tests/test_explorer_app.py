"""The explorer at the level of its requests: who is answered, with what, and what a forged request gets."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import kc_interp
from kc_interp.checkpoint import FILE_NAME
from kc_interp.errors import ProbeError, SpecError
from kc_interp.explorer import panels, rows
from kc_interp.explorer.app import BROKEN, build
from kc_interp.explorer.elements import tag
from kc_interp.explorer.models import Models
from kc_interp.explorer.server import LARGEST_BODY, harden, listening
from kc_interp.explorer.session import Explorer
from kc_interp.explorer.state import VIEWS
from kc_interp.explorer.views.panel import Panel
from kc_interp.finding import Figure, Table
from tests.explorer_models import QUESTION, TWIN, model_of
from tests.test_cli import run
from tests.test_report import Page

PORT = 8765
HOST = f"127.0.0.1:{PORT}"
HOSTILE = "<img src=x onerror=alert(1)> \"&'"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    model_of("LN", 0).save(root / "sum" / FILE_NAME)
    model_of("none", 1, ("MAX", "SUM")).save(root / "joint" / FILE_NAME)
    return [root / "sum", root / "joint"]


@pytest.fixture(scope="module")
def explorer(paths: list[Path]) -> Explorer:
    models = Models(paths)
    return Explorer(models, models.names)


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> Any:
    app = build(explorer)
    harden(app, PORT)
    return app.server.test_client()


def get(client: Any, path: str, **headers: str) -> Any:
    return client.get(path, headers={"Host": HOST, **{k.replace("_", "-"): v for k, v in headers.items()}})


def post(client: Any, body: Any, **headers: str) -> Any:
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    given = {"Host": HOST, "Content-Type": "application/json", "Origin": f"http://{HOST}"}
    return client.post(
        "/_dash-update-component",
        data=text,
        headers={**given, **{k.replace("_", "-"): v for k, v in headers.items()}},
    )


TURN = ("address.search", "past.data", "drawn.data", "screen.data")


def turn(client: Any, action: Any = None, address: Any = "", past: Any = None, drawn: Any = None) -> Any:
    """What a browser sends after a click, and what comes back of it."""
    response = post(
        client,
        {
            "output": f"..{'...'.join(TURN)}..",
            "outputs": [dict(zip(("id", "property"), name.split("."), strict=True)) for name in TURN],
            "inputs": [
                {"id": "action", "property": "data", "value": action},
                {"id": "address", "property": "search", "value": address},
            ],
            "state": [
                {"id": "past", "property": "data", "value": past},
                {"id": "drawn", "property": "data", "value": drawn},
            ],
            "changedPropIds": ["action.data"],
        },
    )
    assert response.status_code == 200, response.text
    return response.json["response"]


def view(client: Any, address: Any) -> Any:
    response = post(
        client,
        {
            "output": "sight.data",
            "outputs": {"id": "sight", "property": "data"},
            "inputs": [{"id": "drawn", "property": "data", "value": {"address": address}}],
            "changedPropIds": ["drawn.data"],
        },
    )
    assert response.status_code == 200, response.text
    return response.json["response"]["sight"]["data"]


class Controls(HTMLParser):
    """Every control of a page with its name, and every script or handler that should not be there."""

    NATIVE = frozenset({"button", "select", "input", "a", "summary", "textarea"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self._labels: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        self.wrong += [key for key in given if key.startswith("on")]
        if name in ("script", "iframe", "img", "object", "embed", "form"):
            self.wrong.append(name)
        if ("data-act" in given or "data-form" in given) and name not in self.NATIVE:
            self.wrong.append(f"{name} that acts")
        self._open.append((name, given, []))

    def handle_data(self, data: str) -> None:
        for _, _, texts in self._open:
            texts.append(data)

    def handle_endtag(self, name: str) -> None:
        while self._open:
            opened, given, texts = self._open.pop()
            if opened in self.NATIVE:
                label = "".join(texts) if opened != "select" else ""
                inside = next(("".join(t) for n, _, t in reversed(self._open) if n == "label"), "")
                self.found.append((opened, (given.get("aria-label") or label or inside).strip()))
            if opened == name:
                return


def test_the_page_is_sent_with_headers_that_keep_it_to_itself(client: Any) -> None:
    response = get(client, "/")
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in re.search(r"script-src[^;]*", policy)[0]  # type: ignore[index]
    assert "frame-ancestors 'none'" in policy and "form-action 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in response.headers


def test_every_inline_script_is_named_in_the_policy_by_its_hash(client: Any) -> None:
    from kc_interp.report.bundles import sha256

    response = get(client, "/")
    scripts = re.findall(r"<script(?![^>]*\bsrc=)([^>]*)>(.*?)</script>", response.text, re.DOTALL)
    running = [text for attributes, text in scripts if "application/json" not in attributes]
    assert running
    for text in running:
        assert sha256(text) in response.headers["Content-Security-Policy"]


def test_no_answer_names_another_host(client: Any) -> None:
    index = get(client, "/").text
    ours = re.findall(r'(?:src|href)="(/[^"]+)"', index)
    assert any(path.startswith("/assets/explore.js") for path in ours)
    texts = [index, get(client, "/_dash-layout").text, get(client, "/_dash-dependencies").text]
    texts += [get(client, path).text for path in ours if path.startswith("/assets")]
    texts += [
        json.dumps(turn(client)),
        *(str(view(client, f"?view={name}&q={QUESTION}&twin={TWIN}")) for name in VIEWS),
    ]
    texts += [get(client, "/shared/page.css").text, get(client, "/shared/circuit.js").text]
    for text in texts:
        found = re.findall(
            r"(?:https?:)?//(?!127\.0\.0\.1|localhost)[a-z0-9-]+\.[a-z0-9.]+", text.replace("\\u002f", "/")
        )
        assert [host for host in found if "www.w3.org" not in host] == []
    assert all(path.startswith(("/assets/", "/shared/", "/_dash-component-suites/", "/")) for path in ours)


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.evil.example:{PORT}", ""]
)
def test_a_request_that_names_another_host_is_refused(client: Any, host: str) -> None:
    for path in ("/", "/_dash-layout", "/shared/page.css", "/export"):
        response = client.get(path, headers={"Host": host})
        assert response.status_code == 403
        assert "names another host" in response.text


@pytest.mark.parametrize("host", [HOST, f"localhost:{PORT}", f"[::1]:{PORT}"])
def test_this_computers_own_names_are_answered(client: Any, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://{HOST}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_a_callback_from_another_page_is_refused(client: Any, headers: dict[str, str]) -> None:
    assert post(client, {"output": "sight.data"}, **headers).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_page_may_link_to_the_page_and_ask_for_nothing(client: Any, site: str) -> None:
    link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert get(client, "/", **link).status_code == 200
    for path in ("/export", "/shared/circuit.js", "/_dash-layout", "/assets/explore.js"):
        assert get(client, path, **link).status_code == 403
    for other in ({"Sec_Fetch_Mode": "no-cors"}, {"Sec_Fetch_Dest": "iframe"}, {"Sec_Fetch_Dest": "image"}):
        assert get(client, "/", **{**link, **other}).status_code == 403
    typed = {**link, "Sec_Fetch_Site": "none"}
    assert get(client, f"/export?model=sum&q={QUESTION}&view=neurons", **typed).status_code == 200


def test_at_the_usual_port_the_host_comes_without_one(explorer: Explorer) -> None:
    app = build(explorer)
    harden(app, 80)
    client = app.server.test_client()
    for host in ("127.0.0.1", "localhost", "[::1]", "127.0.0.1:80"):
        assert client.get("/", headers={"Host": host}).status_code == 200
        assert post(client, {}, Host=host, Origin=f"http://{host}").status_code != 403
    for host in ("evil.example", "127.0.0.1:81", ""):
        assert client.get("/", headers={"Host": host}).status_code == 403


def test_scripts_that_may_be_kept_for_a_day_are_asked_for_by_version(client: Any) -> None:
    page = get(client, "/").text
    assert f'<meta name="version" content="{kc_interp.__version__}">' in page
    assert f"/shared/page.css?v={kc_interp.__version__}" in page
    script = get(client, "/assets/explore.js").text
    assert "/shared/${name}.js?v=${version}" in script and script.count("/shared/") == 1


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/etc/passwd",
        "/../etc/passwd",
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
        "/shared/../page.css",
        "/shared/none.js",
        "/_reload-hash",
        "/_dash-component-suites/kc_interp/explorer/app.py",
        "/_dash-component-suites/os/path.py",
        "/export/x",
    ],
)
def test_what_is_no_page_of_ours_gets_one_line(client: Any, path: str) -> None:
    response = get(client, path)
    assert response.status_code in (400, 404, 500)
    assert len(response.text.splitlines()) == 1 and "Traceback" not in response.text


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        {},
        {"output": "nothing.children", "outputs": {}, "inputs": [], "changedPropIds": []},
        {"output": "sight.data", "outputs": {"id": "x", "property": "y"}, "inputs": "x", "changedPropIds": []},
        {"output": "sight.data", "inputs": [{"id": "drawn"}], "changedPropIds": ["drawn.data"]},
        {"output": ["sight.data"], "outputs": [], "inputs": [], "changedPropIds": []},
        {"output": "..address.search...past.data..", "outputs": [], "inputs": []},
    ],
)
def test_a_forged_callback_gets_one_line_and_no_traceback(client: Any, body: Any) -> None:
    response = post(client, body)
    assert response.status_code in (400, 500)
    assert response.text.startswith("kc-interp explorer: ")
    assert len(response.text.splitlines()) == 1


def test_a_huge_body_and_one_that_is_no_json_are_refused(client: Any) -> None:
    assert post(client, b"x" * (LARGEST_BODY + 1)).status_code == 413
    assert post(client, "a=1", Content_Type="application/x-www-form-urlencoded").status_code == 415
    assert client.put("/", headers={"Host": HOST}).status_code in (403, 405, 415)


WRONG: list[Any] = [7, True, [], {}, ["x"], {"n": "x"}, {"n": 1e308}, "x", {"n": 1, "do": {}}, {"n": 1, "do": "cut"}]


@pytest.mark.parametrize("value", WRONG)
def test_values_of_the_wrong_kind_are_answered_with_a_message(client: Any, value: Any) -> None:
    for given in ({"action": value}, {"address": value}, {"past": value}, {"drawn": value}):
        answer = turn(client, **given)
        assert "Traceback" not in json.dumps(answer) and BROKEN not in json.dumps(answer)
    for asked in (value, {"address": value}):
        response = post(
            client,
            {
                "output": "sight.data",
                "outputs": {"id": "sight", "property": "data"},
                "inputs": [{"id": "drawn", "property": "data", "value": asked}],
                "changedPropIds": ["drawn.data"],
            },
        )
        assert response.status_code in (200, 204)
        assert BROKEN not in response.text
    for id in ("question", "twin"):
        response = post(
            client,
            {
                "output": f"{id}-fault.children",
                "outputs": {"id": f"{id}-fault", "property": "children"},
                "inputs": [{"id": id, "property": "value", "value": value}],
                "state": [{"id": "drawn", "property": "data", "value": value}],
                "changedPropIds": [f"{id}.value"],
            },
        )
        assert response.status_code == 200
        assert BROKEN not in response.text


def test_a_click_answers_with_the_next_address_and_the_page_in_it(client: Any) -> None:
    before = turn(client, address=f"?model=sum&model=joint&q={QUESTION}&twin={TWIN}")
    drawn = before["drawn"]["data"]
    assert 'aria-pressed="false" title="head a0.h1"' in before["screen"]["data"]["html"]["controls"]
    answer = turn(client, {"do": "cut", "what": "a0.h1", "n": 1}, drawn["address"], [], drawn)
    assert answer["address"]["search"].endswith("&cut=0:zero:a0.h1&cut=1:zero:a0.h1")
    assert answer["past"]["data"] == [drawn["address"]]
    shown = answer["screen"]["data"]["html"]
    assert "questions" not in shown  # what the click leaves as it was is not sent again
    assert shown["sides"].count("Restore a0.h1 (zero)") == 2
    assert 'aria-pressed="true" title="head a0.h1"' in shown["controls"]
    refused = turn(client, {"do": "cut", "what": "a9.h9", "n": 2}, answer["address"]["search"], [], {"n": 1})
    assert set(refused) == {"drawn", "screen"}
    assert "no part" in refused["screen"]["data"]["html"]["said"]


def test_the_browsers_back_takes_the_steps_back_along(client: Any) -> None:
    a, b, c = (f"?model=sum&q={QUESTION}&twin={TWIN}{cuts}" for cuts in ("", "&cut=0:zero:m0", "&cut=0:zero:m1"))
    answer = turn(client, address=b, past=[a, b], drawn={"n": 0, "address": c})
    assert answer["past"]["data"] == [a]
    assert "past" not in turn(client, address=b, past=[a], drawn={"n": 0, "address": f"{b}&view=lens"})


def test_a_text_is_marked_where_it_is_at_fault(client: Any) -> None:
    response = post(
        client,
        {
            "output": "question-fault.children",
            "outputs": {"id": "question-fault", "property": "children"},
            "inputs": [{"id": "question", "property": "value", "value": "[SUM 1 <b>]"}],
            "state": [{"id": "drawn", "property": "data", "value": {"address": "?model=sum"}}],
            "changedPropIds": ["question.value"],
        },
    )
    message, where = response.json["response"]["question-fault"]["children"]
    assert "at position 7: found '<b>'" in message["props"]["children"]
    before, mark, after = where["props"]["children"]
    assert (before, mark["props"]["children"], after) == ("[SUM 1 ", "<", "b>]")


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_is_there_with_native_controls_that_have_names(client: Any, name: str) -> None:
    address = f"?model=sum&model=joint&q={QUESTION}&twin={TWIN}&cut=0:zero:a0.h1&view={name}"
    text = view(client, address)
    assert f'id="view-{name}"' in text and 'class="cell panel"' in text
    page = turn(client, address=address)["screen"]["data"]["html"]
    for part in (text, *page.values()):
        controls = Controls(part)
        assert controls.wrong == []
        assert all(label for _, label in controls.found), controls.found


def test_figures_of_one_row_share_one_scale(client: Any) -> None:
    text = view(client, f"?model=sum&model=joint&q={QUESTION}&twin={TWIN}&view=patching")
    islands = [json.loads(html.unescape(found)) for found in re.findall(r"data-island='([^']*)'", text)]
    ranges = {(trace["zmin"], trace["zmax"]) for one in islands if "plot" in one for trace in one["plot"]["data"]}
    assert len(islands) >= 2 and len(ranges) == 1


def test_hostile_texts_of_a_panel_are_text(client: Any, explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure("heatmap", HOSTILE, HOSTILE, HOSTILE, {
        "x": [HOSTILE], "y": [HOSTILE], "z": [[1.0]], "x_title": HOSTILE, "y_title": HOSTILE, "z_title": HOSTILE,
    })  # fmt: skip
    table = Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE)
    made = [
        Panel(figure, note=HOSTILE, does="point", rows=(HOSTILE,), columns=(1,)),
        Panel(table=table, actions=((HOSTILE, {"do": "cut", "what": HOSTILE}),)),
    ]
    monkeypatch.setattr(rows, "panels_of", lambda view, look: made)
    state = explorer.state("?view=lens")
    controls = Controls(panels.shown(state, explorer.sides(state)))
    assert controls.wrong == []
    assert any(HOSTILE in label for _, label in controls.found)


def test_an_element_escapes_its_text_and_its_attributes() -> None:
    made = tag("p", ["<b>", tag("i", "&")], title="\"'><script>", data_json='{"a": "\'"}')
    assert made == ('<p title=\'"&#39;&gt;&lt;script&gt;\' data-json=\'{"a": "&#39;"}\'>&lt;b&gt;<i>&amp;</i></p>')


def test_the_start_page_lists_what_was_found(paths: list[Path]) -> None:
    broken = paths[0].parent / "broken" / FILE_NAME
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"{}")
    app = build(Explorer(Models([*paths, broken])))
    harden(app, PORT)
    client = app.server.test_client()
    answer = turn(client)
    start = answer["screen"]["data"]["html"]["start"]
    for words in ("2 trained models found", "MAX + SUM", "Open sum", "not a whole safetensors file", "Open both"):
        assert words in re.sub(r"<[^>]+>", "", start) or words in start
    assert "Open broken" not in start
    opened = turn(client, {"do": "set", "models": ["joint"], "n": 1}, "", [], answer["drawn"]["data"])
    assert opened["address"]["search"].startswith("?model=joint&q=")
    shown = turn(client, {"do": "set", "models": ["broken"], "n": 1}, "", [], answer["drawn"]["data"])
    assert "not a whole safetensors file" in shown["screen"]["data"]["html"]["sides"]


def test_a_folder_without_models_says_how_to_get_one() -> None:
    app = build(Explorer(Models([])))
    harden(app, PORT)
    start = turn(app.server.test_client())["screen"]["data"]["html"]["start"]
    assert "kc-interp train" in start


def test_the_open_view_is_sent_as_a_file(client: Any) -> None:
    response = get(client, f"/export?model=sum&q={QUESTION}&twin={TWIN}&view=lens")
    assert response.status_code == 200
    assert response.headers["Content-Disposition"] == 'attachment; filename="sum-lens.html"'
    for query, says in (("q=[SUM", "no model could read"), ("model=/etc/passwd", "no model"), ("x=1", "unknown field")):
        refused = get(client, f"/export?{query}")
        assert refused.status_code == 400
        assert says in refused.text


def test_a_file_of_a_cut_that_cannot_be_made_says_so_and_shows_the_untouched_model(client: Any) -> None:
    address = "?model=sum&q=[SUM 1 [SUM 4 3]]&twin=[SUM 1 2]&cut=0:patch:a0.h1&view=lens"
    response = get(client, f"/export{address}")
    assert response.status_code == 200
    words = Page(response.text).words
    assert "Shown untouched: the second expression must have the shape of the first" in words
    assert "Interventions that could not be made" in words
    assert "with the interventions" not in words and "The untouched model" not in words
    sides = turn(client, address=address)["screen"]["data"]["html"]["sides"]
    assert "Shown untouched" in sides and "Not made: 1" in sides and "as untouched" not in sides
    assert 'class="key cut"' not in sides
    assert "Under the cuts" not in view(client, address)
    assert "What the cuts change" not in view(client, address.replace("lens", "attention"))


def test_a_file_of_two_models_drops_neither(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that cannot read the expression, and of one whose view has nothing to show, it says why."""
    unread = Page(get(client, "/export?model=sum&model=joint&q=[MAX 1 2]&view=lens").text).words
    assert "sum has no token for MAX" in unread and "Logit lens of sum and joint" in unread
    assert "--model PATH/sum --model PATH/joint" in unread and "Logit lens: when the next symbol" in unread
    draw = rows.panels_of

    def refusing(name: Any, look: Any) -> list[Panel]:
        if look.side == 0:
            raise ProbeError("too large to draw")
        return draw(name, look)

    monkeypatch.setattr(rows, "panels_of", refusing)
    half = Page(get(client, f"/export?model=sum&model=joint&q={QUESTION}&view=lens").text).words
    assert "sum: too large to draw" in half and "Logit lens: when the next symbol" in half
    monkeypatch.setattr(rows, "panels_of", lambda name, look: refusing(name, dataclasses.replace(look, side=0)))
    none = Page(get(client, f"/export?model=sum&model=joint&q={QUESTION}&view=lens").text).words
    assert none.count("too large to draw") == 1 and "nothing to show" not in none


FREE = "?model=sum&q=[SUM 1 [SUM 4 3]]&mode=free&cut=0:zero:m0&view=attention"


def test_free_running_the_untouched_model_is_not_set_beside_another_text(client: Any, explorer: Explorer) -> None:
    [side] = explorer.sides(explorer.state(FREE))
    assert side.look is not None
    thought, before, asked = side.look.thought, side.look.untouched, side.look.thought.asked
    assert thought.symbols[asked] != before.symbols[asked], "the cut model writes another first symbol"
    for at, compared in ((asked - 1, True), (asked, False), (len(before.symbols) + 3, False)):
        address = f"{FREE}&at={at}"
        shown = turn(client, address=address)["screen"]["data"]["html"]["sides"]
        file = get(client, f"/export{address}").text
        exported = Page(file).words
        for text in (shown, exported):
            assert ("Not set beside the untouched model's" in html.unescape(text)) == (not compared)
            assert bool(re.search(r"\d → [\d<>]", text)) == compared
        assert ("What the cuts change in it" in view(client, address)) == compared
        # What would be correct after the model's own text is not known; and only the first other symbol is set beside.
        assert 'class="target"' not in file
        assert re.findall(r'class="was">was ([^<]+)<', file) == [html.escape(before.symbols[asked])]


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_a_free_run_that_outgrows_the_correct_chain_says_where_cut_parts_are_whole_again(
    client: Any, explorer: Explorer, how: str
) -> None:
    address = FREE.replace("zero", how)
    [side] = explorer.sides(explorer.state(address))
    assert side.look is not None and f":{how}:" in address
    from_where = side.look.thought.restored_from
    assert (from_where is not None) == (how == "mean")
    for text in (
        turn(client, address=address)["screen"]["data"]["html"]["sides"],
        get(client, f"/export{address}").text,
    ):
        assert ("cut parts are whole again" in text) == (how == "mean")
        assert how == "zero" or f"From position {from_where} on" in text


def test_a_taken_port_is_refused_before_anything_is_loaded(paths: list[Path], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SpecError, match=f"--port {port}: another program listens there"):
            listening(port)
        done = run("explore", "--model", str(paths[0]), "--port", str(port), "--no-open", cwd=tmp_path, check=1)
    assert f"--port {port}: another program listens there" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_it_listens_on_this_computer_alone() -> None:
    with listening(0) as held:
        assert held.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (["--model", "nothing"], "nothing: no such file", 1),
        (["--port", "70000"], "Usage", 2),
        (["--device", "cuda:9"], "torch sees no CUDA device", 1),
    ],
)
def test_mistakes_get_one_message(arguments: list[str], says: str, status: int, tmp_path: Path) -> None:
    done = run("explore", *arguments, "--no-open", cwd=tmp_path, check=status)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_dash_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kc_interp.cli.explore.importlib.util.find_spec", lambda name: None)
    done = run("explore", "--no-open", cwd=tmp_path, check=1)
    assert "pip install 'dash>=4.4'" in done.stderr
