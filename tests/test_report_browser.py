"""The report as a reader meets it: opened from a file in Chromium, scrolled, clicked, reached by keyboard, printed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kc_interp.finding import Finding
from kc_interp.plots import ranked, table_of
from kc_interp.report import write_report
from kc_interp.report.printed import shown_cell
from tests.sample_findings import HEADS, document
from tests.test_report import HOSTILE, hostile_document

pytestmark = pytest.mark.browser

LEFT, RIGHT = "SUM wide seed 0", "MAX+MED+SUM wide seed 0"
OTHER = "MAX+MED+SUM narrow seed 1"
CANDIDATES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, CANDIDATES)), None)
    if path is None:
        missing = f"no Chromium in PATH (looked for {', '.join(CANDIDATES)}); Debian has it as `apt install chromium`"
        if os.environ.get("KC_INTERP_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", document()).as_uri()


class Opened:
    """A page at a laptop's size, with whatever it complained of or asked the network for."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 720}, **context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        # Seen by the page itself, whatever the console's level for it.
        self.page.add_init_script(
            "window.violations = [];"
            "document.addEventListener('securitypolicyviolation', e => violations.push(`${e.violatedDirective} ${e.blockedURI}`))"
        )
        self.page.goto(url)

    def draw_all(self) -> None:
        """Scroll every visible figure into view and wait until it is drawn."""
        for chart in self.page.locator("figure.chart:visible").all():
            chart.scroll_into_view_if_needed()
        self.wait(
            "[...document.querySelectorAll('figure.chart')].every(f => !f.checkVisibility() || f.dataset.drawn === 'yes')"
        )

    @property
    def violations(self) -> list[str]:
        """What the policy refused, save one attempt of CircuitsVis to compile a module of WebAssembly (the `long`
        library's test for 64-bit products, which it catches and does without)."""
        return [refused for refused in self.page.evaluate("violations") if refused != "script-src wasm-eval"]

    def wait(self, expression: str) -> None:
        """Until the expression holds; Playwright's own waiting would need `unsafe-eval`, which the page forbids."""
        for _ in range(200):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"not within ten seconds: {expression}")


@pytest.fixture
def opened(browser: Any, report: str) -> Iterator[Opened]:
    it = Opened(browser, report)
    yield it
    it.context.close()


def finding(probe: str, model: str = LEFT) -> Finding:
    found = document().finding(probe, model)
    assert found is not None
    return found


def chart(page: Any, kind: str, model: str = LEFT) -> Any:
    """The first figure of this kind that belongs to the model."""
    return page.locator(f'.cell[data-model="{model}"] figure[data-kind={kind}]').first


def test_the_page_opens_from_a_file_without_network_complaint_or_violation(opened: Opened, report: str) -> None:
    opened.draw_all()
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [report]
    assert opened.complaints == [] and opened.violations == []


def test_charts_are_drawn_when_they_scroll_into_view_and_widgets_stand_side_by_side(opened: Opened) -> None:
    page = opened.page
    assert page.locator("figure[data-drawn]").count() == 0
    assert page.evaluate("[typeof Plotly, typeof CircuitsVis]") == ["undefined", "undefined"]
    opened.draw_all()
    plots = page.locator("figure[data-kind=plot]:visible").count()
    assert plots >= 6 and page.locator("figure[data-kind=plot]:visible .main-svg").count() >= plots
    for model in (LEFT, RIGHT):
        assert chart(page, "attention", model).locator("canvas").count() > len(HEADS)
        assert chart(page, "tokens", model).locator("span").count() >= 13
    assert page.locator("figure[data-drawn=failed]").count() == 0
    assert page.locator("figure[data-drawn]:not(:visible)").count() == 0


def test_the_names_in_a_charts_legend_stand_beside_their_colours(opened: Opened) -> None:
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    opened.draw_all()
    gaps = opened.page.evaluate(
        """() => [...document.querySelectorAll("g.legend g.traces")].map(one =>
            one.querySelector(".legendtext").getBoundingClientRect().left
            - one.querySelector(".layers").getBoundingClientRect().right)"""
    )
    assert len(gaps) > 1
    assert min(gaps) > 0


def test_what_a_heatmaps_cells_say_is_written_in_them_as_text(opened: Opened) -> None:
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    opened.draw_all()
    written = opened.page.locator(".heatmap-label").all_text_contents()
    assert {f"{a}<{b}" for a in "0123456789" for b in "0123456789"} <= set(written)


def test_the_answer_and_every_seed_stand_there_before_any_script_has_run(browser: Any, report: str) -> None:
    page = Opened(browser, report, java_script_enabled=False).page
    assert page.locator(".card svg.seeds:visible").count() == len(document().roster.models)
    assert page.locator(f'.finding[data-model="{OTHER}"]').first.is_visible()
    assert page.locator("noscript .alert").is_visible()
    page.context.close()


def test_switching_a_head_off_shows_the_answer_of_findings_json(opened: Opened) -> None:
    figure = next(f for f in finding("attention-attribution").figures if f.kind == "switches")
    place = chart(opened.page, "switches")
    place.scroll_into_view_if_needed()
    mask = 0
    for head in (2, 5):
        place.get_by_role("button", name=HEADS[head]).click()
        mask |= 1 << head
        expected = ranked(figure.data["examples"][0]["answers"][str(mask)])
        shown = place.locator(".after li")
        assert [item.locator("b").inner_text() for item in shown.all()] == [symbol for symbol, _ in expected]
        percents = [f"{100 * (p or 0):.1f} %" for _, p in expected]
        assert [float(text[:-2]) for text in shown.locator(".n").all_inner_texts()] == pytest.approx(
            [float(text[:-2]) for text in percents], abs=0.11
        )
        assert f"answers {expected[0][0]}" in place.get_by_role("status").inner_text()
    assert place.locator("[aria-pressed=true]").all_inner_texts() == [HEADS[2], HEADS[5]]


def test_the_chosen_models_and_switches_land_in_the_address_and_come_back_from_it(opened: Opened, browser: Any) -> None:
    page = opened.page
    page.locator("#left").select_option(OTHER)
    place = chart(page, "switches", OTHER)
    place.scroll_into_view_if_needed()
    place.get_by_role("button", name=HEADS[3]).click()
    row = page.locator("#probe-embedding-geometry .row:not([open])").first
    row_id = row.get_attribute("id")
    row.locator("summary").first.click()
    again = Opened(browser, page.url)
    for it in (page, again.page):
        assert it.locator(f'.finding[data-model="{OTHER}"]').first.is_visible()
        assert not it.locator(f'.finding[data-model="{LEFT}"]').first.is_visible()
        visible = it.locator("#probe-embedding-geometry .compare thead .model:visible")
        assert [text.split("\n")[0] for text in visible.all_inner_texts()][:2] == [OTHER, RIGHT]
        assert it.locator("#left").input_value() == OTHER
        assert it.locator(f"#{row_id}[open]").count() == 1
        chart(it, "switches", OTHER).scroll_into_view_if_needed()
        chart(it, "switches", OTHER).get_by_role("button", name=HEADS[3]).wait_for()
        assert chart(it, "switches", OTHER).locator("[aria-pressed=true]").all_inner_texts() == [HEADS[3]]
    again.context.close()


def test_without_a_model_on_the_right_the_left_one_takes_the_width(opened: Opened) -> None:
    page = opened.page
    opened.draw_all()
    page.locator("#right").select_option("")
    assert not page.locator(f'.finding[data-model="{RIGHT}"]').first.is_visible()
    chart(page, "plot").scroll_into_view_if_needed()
    opened.wait("(c => Math.abs(c._fullLayout.width - c.clientWidth) < 2 && c.clientWidth > 700)"
                "(document.querySelector('.cell:not([hidden]) [data-kind=plot] .canvas'))")  # fmt: skip


@pytest.mark.parametrize(("kind", "probe"), [
    ("plot", "embedding-geometry"), ("attention", "attention-attribution"), ("switches", "attention-attribution"),
    ("circuit", "circuit"),
])  # fmt: skip
def test_number_tables_fill_when_opened_and_agree_with_the_document(opened: Opened, kind: str, probe: str) -> None:
    kinds = ("heatmap",) if kind == "plot" else (kind,)
    table = table_of(next(figure for figure in finding(probe).figures if figure.kind in kinds))
    opened.draw_all()  # a widget that grows while it is drawn would move the line under the pointer
    details = chart(opened.page, kind).locator("details.numbers")
    assert details.locator("table").count() == 0
    details.locator("summary").click()
    details.locator("table").wait_for()
    shown = details.evaluate("d => [...d.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert [len(row) for row in shown] == [len(row) for row in table.rows]
    for cells, row in zip(shown, table.rows, strict=True):
        for cell, value in zip(cells, row, strict=True):
            if isinstance(value, float):
                assert float(cell) == pytest.approx(value, rel=0.006)
            else:
                assert cell == shown_cell(value)


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_tokens_run_nothing(browser: Any, tmp_path: Path, bad: str) -> None:
    report = write_report(tmp_path / "hostile.html", hostile_document(bad))
    opened = Opened(browser, report.as_uri())
    opened.draw_all()
    chart(opened.page, "circuit", f"model {bad}".replace("\\", "\\\\").replace('"', '\\"')).locator(
        "select"
    ).select_option("a0.h0")
    for summary in opened.page.locator("details.numbers > summary:visible").all():
        summary.click()
    assert opened.page.locator("img").count() == 0
    assert opened.complaints == [] and opened.violations == []
    assert re.sub(r"\s+", " ", bad).strip() in re.sub(r"\s+", " ", opened.page.inner_text("main"))
    opened.context.close()


def test_heads_are_reached_and_switched_by_keyboard(opened: Opened) -> None:
    place = chart(opened.page, "switches")
    place.scroll_into_view_if_needed()
    place.locator("select").focus()
    opened.page.keyboard.press("Tab")
    focused = opened.page.locator(":focus")
    assert focused.inner_text() == HEADS[0] and focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    opened.page.keyboard.press("Space")
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Enter")
    assert place.locator("[aria-pressed=true]").all_inner_texts() == HEADS[:2]


def circuit_data(model: str = LEFT) -> dict[str, Any]:
    return dict(finding("circuit", model).figures[0].data)


def named(edge: dict[str, Any]) -> str:
    return f"{edge['source']}->{edge['target']}"


def drawn_circuit(opened: Opened, model: str = LEFT) -> Any:
    place = chart(opened.page, "circuit", model)
    place.scroll_into_view_if_needed()
    place.locator("svg .node").first.wait_for()
    return place


def drawn_difference(opened: Opened) -> Any:
    drawn_circuit(opened)
    place = opened.page.locator("figure[data-kind=difference]")
    place.scroll_into_view_if_needed()
    place.locator("svg .node").first.wait_for()
    return place


def edges_drawn(place: Any) -> set[str]:
    return set(
        place.evaluate("f => [...f.querySelectorAll('.edge[data-name]:not([hidden])')].map(e => e.dataset.name)")
    )


def set_least(place: Any, step: int) -> float:
    """Move the slider to a step and return the threshold that it then says."""
    slider = place.get_by_role("slider")
    slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", step)
    said = place.locator("output").inner_text()
    return 0.0 if said == "all" else float(said)


def test_a_circuit_shows_its_kept_edges_and_the_slider_draws_fewer(opened: Opened) -> None:
    edges = circuit_data()["edges"]
    place, other = drawn_circuit(opened), drawn_circuit(opened, RIGHT)
    assert edges_drawn(place) == {named(edge) for edge in edges if edge["kept"]}
    place.get_by_label("Only the kept circuit").uncheck()
    assert edges_drawn(place) == {named(edge) for edge in edges}
    counts, last = [], int(place.get_by_role("slider").get_attribute("max"))
    for step in (0, last // 2, last):
        least = set_least(place, step)
        for it, model in ((place, LEFT), (other, RIGHT)):
            above = {named(edge) for edge in circuit_data(model)["edges"] if abs(edge["effect"]) >= least}
            assert edges_drawn(it) == above
            assert f"{len(above)} of 110 edges drawn" in it.locator(".drawn").inner_text()
        counts.append(len(edges_drawn(place)))
    assert counts[0] > counts[1] > counts[2] > 0
    assert place.get_by_role("slider").get_attribute("aria-valuetext").endswith(f"{counts[2]} of 110 edges drawn")
    place.get_by_label("Only the kept circuit").check()
    assert edges_drawn(place) <= {named(edge) for edge in edges if edge["kept"]}


def middle(place: Any, name: str) -> dict[str, float]:
    """A point on an edge, in the window."""
    return place.evaluate(  # type: ignore[no-any-return]
        """(figure, name) => {
            const line = [...figure.querySelectorAll('.edge')].find(e => e.dataset.name === name).querySelector('.hit');
            line.closest('svg').scrollIntoView({ block: 'center' });
            const at = line.getPointAtLength(line.getTotalLength() / 2).matrixTransform(line.getScreenCTM());
            return { x: at.x, y: at.y };
        }""",
        name,
    )


def exact(place: Any) -> list[float]:
    """The unrounded numbers of the details."""
    return [float(value) for value in place.locator(".item data").evaluate_all("all => all.map(d => d.value)")]


def test_a_click_on_an_edge_shows_its_numbers_and_the_examples_it_moves_most(opened: Opened) -> None:
    data, place, name = circuit_data(), drawn_circuit(opened), "token->a0.h1<v>"
    index, edge = next((i, e) for i, e in enumerate(data["edges"]) if named(e) == name)
    at = middle(place, name)
    opened.page.mouse.move(at["x"], at["y"])
    assert place.locator(".drawn .n").inner_text() == f"token → a0.h1<v>: {shown_cell(edge['effect'])}"
    opened.page.mouse.click(at["x"], at["y"])
    details = place.locator(".about")
    assert details.locator("p").first.inner_text().startswith("token → a0.h1<v>")
    effect, *scores = exact(place)
    assert effect == edge["effect"] and scores == pytest.approx(
        [edge["scores"][s] for s in ("EAP", "EAP-IG")], rel=0.006
    )
    text = details.inner_text()
    assert (
        f"[{shown_cell(edge['low'])}, {shown_cell(edge['high'])}]" in text
        and "the value input of head 1 of block 0" in text
    )
    assert place.locator(".item div", has_text="kept").locator("dd").inner_text() == "yes"
    most = sorted(data["examples"], key=lambda example: -abs(example["moved"][index]))[:3]
    shown = details.locator(".moved li")
    assert [li.locator("code").first.inner_text() for li in shown.all()] == [example["clean"] for example in most]
    assert shown.locator("data").evaluate_all("all => all.map(d => Number(d.value))") == pytest.approx(
        [example["moved"][index] for example in most], rel=0.006
    )
    # The same edge is chosen in the other model, so that the two are read side by side.
    other = next(e for e in circuit_data(RIGHT)["edges"] if named(e) == name)
    assert exact(chart(opened.page, "circuit", RIGHT))[0] == other["effect"]


def test_a_circuits_nodes_and_edges_are_reached_by_keyboard(opened: Opened) -> None:
    data, place, page = circuit_data(), drawn_circuit(opened), opened.page
    place.get_by_label("Only the kept circuit").focus()
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("aria-label") == "Node or edge"
    page.keyboard.press("ArrowDown")
    strongest = max(data["edges"], key=lambda edge: abs(edge["effect"]))
    assert place.locator("select").input_value() == named(strongest) and exact(place)[0] == strongest["effect"]
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("data-name") == "token"
    for key, name in (("ArrowUp", "a0.h2"), ("ArrowLeft", "a0.h1"), ("ArrowUp", "a1.h1"), ("ArrowUp", "logits"),
                      ("ArrowDown", "a1.h2"), ("ArrowLeft", "a1.h1")):  # fmt: skip
        page.keyboard.press(key)
        focused = page.locator(":focus")
        assert focused.get_attribute("data-name") == name and focused.get_attribute("aria-pressed") == "true"
    assert focused.locator("rect").first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    node = next(node for node in data["nodes"] if node["name"] == "a1.h1")
    assert exact(place)[0] == node["effect"] and focused.get_attribute("aria-label").startswith("a1.h1, ")
    link = place.locator(".links button").first
    link.focus()
    page.keyboard.press("Enter")
    assert (
        page.locator(":focus")
        .inner_text()
        .startswith(link_name := place.locator("select").input_value().replace("->", " → "))
    )
    assert "a1.h1" in link_name
    place.locator(".node[data-name=token]").focus()
    page.keyboard.press("Escape")
    assert place.locator("select").input_value() == ""


def test_the_difference_of_two_circuits_is_the_first_minus_the_second(opened: Opened) -> None:
    place = drawn_difference(opened)
    a, b = ({named(edge): edge for edge in circuit_data(model)["edges"]} for model in (LEFT, RIGHT))
    kept = {name: (a[name]["kept"], b[name]["kept"]) for name in a}
    assert edges_drawn(place) == {name for name in a if any(kept[name])}
    place.get_by_label("Only what either keeps").uncheck()
    least = set_least(place, 12)
    assert edges_drawn(place) == {name for name in a if abs(a[name]["effect"] - b[name]["effect"]) >= least}
    words = {
        (True, True): "by both",
        (True, False): "by 1 only",
        (False, True): "by 2 only",
        (False, False): "by neither",
    }
    for state in words:
        name = next(name for name in a if kept[name] == state)
        place.locator("select").select_option(name)
        assert exact(place) == [a[name]["effect"] - b[name]["effect"], a[name]["effect"], b[name]["effect"]]
        assert place.locator(".item dd").last.inner_text() == words[state]
    assert "have no common identity" in opened.page.locator(".apart").inner_text()
    place.locator("select").select_option("")
    set_least(place, 0)
    digits = place.locator("svg .digit").all_text_contents()
    assert [digits.count(text) for text in "12"] == [
        list(kept.values()).count(state) + 1 for state in ((True, False), (False, True))
    ]


def test_the_differences_stand_in_a_table_and_follow_the_chosen_models(opened: Opened) -> None:
    page, place = opened.page, drawn_difference(opened)
    place.locator("details.numbers > summary").click()
    for left in (LEFT, "SUM wide seed 1"):
        page.locator("#left").select_option(left)
        a, b = ({named(edge): edge for edge in circuit_data(model)["edges"]} for model in (left, RIGHT))
        rows = place.evaluate("f => [...f.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
        shown = {row[0]: [float(cell.replace("−", "-")) for cell in row[1:4]] for row in rows if "->" in row[0]}
        assert shown.keys() == a.keys()
        for name, numbers in shown.items():
            values = (a[name]["effect"], b[name]["effect"], a[name]["effect"] - b[name]["effect"])
            assert numbers == pytest.approx(values, rel=0.006)
        assert f"1: {left}" in place.locator("thead").inner_text()
        assert f"1: {left}" in page.locator(".apart h4").inner_text()
    page.locator("#left").select_option(OTHER)
    assert place.is_hidden() and page.get_by_text("grids of different shapes").is_visible()
    page.locator("#left").select_option(LEFT)
    page.locator("#right").select_option("")
    assert place.is_hidden() and not page.get_by_text("grids of different shapes").is_visible()


def test_what_is_chosen_in_a_circuit_lands_in_the_address_and_comes_back_from_it(opened: Opened, browser: Any) -> None:
    place = drawn_circuit(opened)
    place.get_by_label("Only the kept circuit").uncheck()
    least = set_least(place, 9)
    place.locator("select").select_option("a0.h1->a1.h2<k>")
    again = Opened(browser, opened.page.url)
    back = drawn_circuit(again)
    assert (
        back.locator("select").input_value() == "a0.h1->a1.h2<k>"
        and float(back.locator("output").inner_text()) == least
    )
    assert not back.get_by_label("Only the kept circuit").is_checked()
    assert edges_drawn(back) == edges_drawn(place) and again.complaints == []
    again.context.close()


def test_a_circuit_that_keeps_nothing_shows_all_its_edges(opened: Opened) -> None:
    opened.page.locator("#left").select_option("SUM narrow seed 0")
    place = drawn_circuit(opened, "SUM narrow seed 0")
    assert len(edges_drawn(place)) == 110 and place.get_by_label("Only the kept circuit").is_disabled()


@pytest.mark.parametrize("width", [420, 1100, 1280, 1900])
def test_a_circuit_fits_its_column_and_keeps_its_text_legible(browser: Any, report: str, width: int) -> None:
    opened = Opened(browser, report)
    opened.page.set_viewport_size({"width": width, "height": 720})
    place = drawn_circuit(opened)
    assert place.evaluate("f => f.querySelector('svg').getBoundingClientRect().width <= f.clientWidth + 1")
    assert (
        place.evaluate(
            "f => Math.min(...[...f.querySelectorAll('svg text')].map(t => parseFloat(getComputedStyle(t).fontSize)))"
        )
        >= 12
    )
    boxes = place.locator(".node > rect").evaluate_all(
        "all => all.map(r => r.getBoundingClientRect()).map(b => [b.left, b.right, b.top, b.bottom])"
    )
    assert all(
        a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2] for i, a in enumerate(boxes) for b in boxes[:i]
    )
    opened.context.close()


def test_a_link_moves_the_readers_focus_and_opens_what_is_folded(opened: Opened) -> None:
    opened.page.get_by_role("link", name="Provenance").click()
    assert opened.page.evaluate("document.activeElement.id") == "provenance-title"
    row = opened.page.locator(".row:not([open])").first.get_attribute("id")
    opened.page.evaluate("id => { location.hash = id }", row)
    opened.page.locator(f"#{row}[open]").wait_for()


def test_axe_finds_no_serious_violation_outside_circuitsvis(browser: Any, report: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(browser, report, bypass_csp=True)
    for kind in ("roster", "more", "numbers"):
        opened.page.locator(f"details.{kind}:visible > summary").first.click()
    opened.draw_all()
    chart(opened.page, "circuit").locator("select").select_option("a0.h1")
    opened.page.locator("[data-kind=difference] details.numbers > summary").click()
    theirs = {"exclude": [[".chart[data-kind=attention] .canvas"], [".chart[data-kind=tokens] .canvas"]]}
    found = Axe().run(opened.page, context=theirs).response["violations"]
    grave = [
        (v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert grave == []
    opened.context.close()


@pytest.mark.parametrize("media", ["screen", "print"])
def test_nothing_is_wider_than_the_screen_or_smaller_than_it_can_be_read(opened: Opened, media: str) -> None:
    opened.page.emulate_media(media=media)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1280
    smallest = opened.page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('main *')]
            .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
            .filter(e => !e.closest('[data-kind=attention] .canvas'))
            .map(e => parseFloat(getComputedStyle(e).fontSize)))"""
    )
    assert smallest >= 12


def test_the_first_screen_holds_every_model_of_the_roster(opened: Opened) -> None:
    boxes = [mark.bounding_box() for mark in opened.page.locator(".card .seeds").all()]
    assert len(boxes) == len(document().roster.models)
    assert all(box and box["y"] + box["height"] < 720 for box in boxes)


def test_printing_draws_what_was_never_scrolled_to(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    place = chart(opened.page, "circuit")
    assert place.locator("svg .edge:not([hidden])").count() > 20 and place.get_by_role("slider").count() == 0
    assert opened.page.locator("figure:visible:not([data-drawn=yes])").count() == 0
    assert opened.page.locator("nav").is_hidden()
