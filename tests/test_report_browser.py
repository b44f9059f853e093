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
    assert opened.page.locator("figure:visible:not([data-drawn=yes])").count() == 0
    assert opened.page.locator("nav").is_hidden()
