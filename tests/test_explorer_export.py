"""An exported view is one file that loads nothing, runs only its own scripts, and says what the models thought."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kc_interp.explorer import words
from kc_interp.explorer.export import render
from kc_interp.explorer.rows import Column
from kc_interp.explorer.session import Side
from kc_interp.explorer.state import Cut, State
from kc_interp.explorer.thinking import Thinker, Thought
from kc_interp.explorer.views.panel import Look, Panel
from kc_interp.finding import Figure, Table
from kc_interp.report import bundles
from tests.explorer_models import QUESTION, TWIN, model_of
from tests.test_report import HOSTILE, Page
from tests.test_report_browser import CANDIDATES, Opened

NAMES = ("first", "second")
CUTS = (Cut(0, "zero", "a0.h1"), Cut(1, "mean", "m1.n3", 4))


@pytest.fixture(scope="module")
def thinkers() -> list[Thinker]:
    return [Thinker(name, model_of("LN", seed)) for seed, name in enumerate(NAMES)]


def state_of(**changes: Any) -> State:
    return dataclasses.replace(State(NAMES, QUESTION, TWIN, cuts=CUTS, view="parts"), **changes)


def looks_of(state: State, thinkers: Sequence[Thinker]) -> list[Look]:
    return [
        Look(
            state,
            side,
            thinker,
            thinker.think(state.question, state.cuts_of(side), twin=state.twin, free=state.free, seed=state.seed),
            thinker.think(state.question, free=state.free),
        )
        for side, thinker in enumerate(thinkers)
    ]


def rendered(state: State, shown: Sequence[tuple[Look, Sequence[Panel]]]) -> str:
    sides = [Side(look.thinker.name, look) for look, _ in shown]
    return render(state, sides, [Column(look.thinker.name, tuple(panels)) for look, panels in shown])


def exported(state: State, thinkers: Sequence[Thinker]) -> str:
    view = importlib.import_module(f"kc_interp.explorer.views.{state.view}")
    return rendered(state, [(look, list(view.panels(look))) for look in looks_of(state, thinkers)])


@pytest.fixture(scope="module")
def text(thinkers: list[Thinker]) -> str:
    return exported(state_of(), thinkers)


def policy_of(page: Page) -> str:
    (policy,) = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    return policy


@pytest.mark.parametrize(
    ("view", "part", "libraries"),
    [
        ("parts", "", ["plotly"]),
        ("embedding", "", ["plotly"]),
        ("neurons", "", []),
        ("neurons", "m0.n3", ["circuitsvis"]),
        ("attention", "", ["plotly", "circuitsvis"]),
        ("circuit", "", ["circuit"]),
        ("lens", "", ["plotly"]),
        ("patching", "", ["plotly"]),
    ],
)
def test_every_view_travels_with_the_libraries_it_needs_once_and_loads_nothing(
    thinkers: list[Thinker], view: Any, part: str, libraries: list[str]
) -> None:
    text = exported(state_of(view=view, part=part), thinkers)
    page = Page(text)
    assert [a.get("id") for a, _ in page.scripts if a.get("type") == "text/plain"] == libraries
    for name, bundle in (("plotly", bundles.plotly()), ("circuitsvis", bundles.circuitsvis())):
        assert text.count(bundle) == (name in libraries)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if value := attributes.get(name):
                assert value.startswith(("#", "data:")), f"<{tag} {name}={value!r}>"
        assert not any(name.startswith("on") for name in attributes)
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy_of(page)))
    present = {
        "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for attributes, script in page.scripts
        if attributes.get("type") != "application/json"
    }
    assert allowed == present and len(present) == len(libraries) + 1
    assert policy_of(page).startswith("default-src 'none'; ")


def test_two_exports_of_one_view_are_the_same_bytes(thinkers: list[Thinker], text: str) -> None:
    assert exported(state_of(), thinkers) == text


@pytest.mark.parametrize("free", [False, True], ids=["teacher-forced", "free-running"])
def test_the_chain_stands_there_symbol_by_symbol_with_the_probability_of_each(
    thinkers: list[Thinker], free: bool
) -> None:
    state = state_of(free=free)
    text = exported(state, thinkers)
    assert ("free-running:" in text, "teacher-forced:" in text) == (free, not free)
    articles = re.findall(r"<article.*?</article>", text, flags=re.DOTALL)
    for look, article in zip(looks_of(state, thinkers), articles, strict=True):
        thought = look.thought
        assert re.findall(r'class="token">([^<]+)<', article) == [
            s.replace("<", "&lt;").replace(">", "&gt;") for s in thought.symbols
        ]
        percents = [s.replace("&lt;", "<") for s in re.findall(r'class="p">([^<]+)<', article)]
        written = range(thought.asked, len(thought.symbols))
        assert percents == [words.percent(thought.probability(position)) for position in written]
        assert article.count('class="line"') == max(thought.line) + 1
        wrong = len(re.findall(r'class="symbol wrong', article))
        expected = (
            sum(
                a != b
                for a, b in zip(
                    thought.symbols[thought.asked :], (*thought.correct[thought.asked :], *[None] * 60), strict=False
                )
            )
            if free
            else sum(thought.choices[position - 1] != thought.symbols[position] for position in written)
        )
        assert wrong == expected


def test_the_answer_stands_against_the_correct_one_and_the_untouched_models(thinkers: list[Thinker], text: str) -> None:
    articles = [Page(article).words for article in re.findall(r"<article.*?</article>", text, flags=re.DOTALL)]
    for look, article in zip(looks_of(state_of(), thinkers), articles, strict=True):
        thought, before = look.thought, look.untouched
        assert f"Answers {thought.answer} " in article
        assert ("✓ correct" in article) == (thought.answer == thought.target)
        same = thought.answer == before.answer
        assert ("The untouched model answers the same." in article) == same
        assert (f"The untouched model's answer: {before.answer}." in article) == (not same)
        for symbol in {its.choices[look.at] for its in (thought, before)}:
            was, now = (its.probabilities[look.at, its.vocabulary.index(symbol)] for its in (before, thought))
            assert f" {symbol} {words.percent(was)} → {words.percent(now)} %" in article


def test_interventions_are_said_in_words_model_by_model(text: str) -> None:
    articles = [Page(article).words for article in re.findall(r"<article.*?</article>", text, flags=re.DOTALL)]
    assert "Head 1 of block 0 carries nothing." in articles[0] and "Neuron 3" not in articles[0]
    says = "Neuron 3 of block 1 carries its mean over questions of the same shape, at position 4 (SUM)."
    assert says in articles[1] and "Head 1" not in articles[1]


def test_a_view_without_interventions_says_so(thinkers: list[Thinker]) -> None:
    words = Page(exported(state_of(cuts=()), thinkers)).words
    assert words.count("No intervention") == 2 and "with the interventions" not in words


def test_panels_stand_side_by_side_on_one_scale(thinkers: list[Thinker], text: str) -> None:
    plots = [island["plot"] for island in Page(text).islands if "plot" in island]
    assert len(plots) == 6
    for left, right in zip(plots[::2], plots[1::2], strict=True):
        assert left["layout"]["yaxis"]["range"] == right["layout"]["yaxis"]["range"]
    hatched = [trace["marker"]["pattern"]["shape"] for plot in plots[-2:] for trace in plot["data"]]
    assert hatched == ["", "/"]


def test_tables_reach_the_page_with_their_rows(thinkers: list[Thinker]) -> None:
    state = state_of(view="neurons", part="m0.n3")
    page = Page(exported(state, thinkers))
    view = importlib.import_module("kc_interp.explorer.views.neurons")
    numbers = {value for value, _ in page.data}
    for look in looks_of(state, thinkers):
        for panel in view.panels(look):
            for row in panel.table.rows if panel.table else ():
                for cell in row:
                    assert repr(cell) in numbers if isinstance(cell, float) else str(cell) in page.words


def test_what_it_takes_to_open_it_again_stands_there_and_no_path(thinkers: list[Thinker]) -> None:
    moved = [
        Thinker(
            thinker.name, dataclasses.replace(thinker.checkpoint, path=Path("/home/someone/runs/model.safetensors"))
        )
        for thinker in thinkers
    ]
    state = state_of(at=5)
    text = exported(state, moved)
    page = Page(text)
    assert "/home" not in text and str(Path.cwd()) not in text
    assert "kc-interp explore --model PATH/first --model PATH/second" in page.words
    (query,) = re.findall(r"\?model=\S+", page.words)
    assert State.parse(query, NAMES) == state
    facts = f"{thinkers[0].checkpoint.parameter_count:,}"
    assert facts in page.words and "initialisation" in page.words and "wide" in page.words and "torch" in page.words


def test_what_only_a_live_page_answers_is_left_out(thinkers: list[Thinker]) -> None:
    figure = Figure("bars", "T", "", "", {"x": ["a"], "series": [{"name": "n", "y": [1.0]}], "y_title": "y"})
    panels = [Panel(figure=figure, note="It is so.", hint="A click on a cell cuts it.")]
    page = Page(rendered(state_of(), [(looks_of(state_of(), thinkers)[0], panels)]))
    assert "It is so." in page.words and "A click" not in page.words


def test_models_whose_panels_differ_each_keep_their_titles_and_readings(thinkers: list[Thinker]) -> None:
    looks = looks_of(state_of(), thinkers)
    bars = Figure("bars", "One", "shows one", "", {"x": ["a"], "series": [{"name": "n", "y": [1.0]}], "y_title": "y"})
    table = Table("Two", ("a", "b"), (("x", None),), "noted")
    page = Page(
        rendered(
            state_of(), [(looks[0], [Panel(figure=bars)]), (looks[1], [Panel(table=table), Panel(note="only here")])]
        )
    )
    for says in ("One", "shows one", "Two", "noted", "only here", "–"):
        assert says in page.words
    empty = Page(rendered(state_of(), [(looks[0], []), (looks[1], [Panel(), Panel()])]))
    assert "nothing to show" in empty.words


def hostile(thinker: Thinker, bad: str, side: int) -> tuple[Look, list[Panel]]:
    """A look in which every name and symbol is hostile, and panels to match."""
    its = Thinker(f"{bad} {side}", thinker.checkpoint)
    state = State((f"{bad} 0", f"{bad} 1"), bad, bad, cuts=CUTS)

    def spoilt(thought: Thought) -> Thought:
        def put(symbols: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(bad if symbol == "SUM" else symbol for symbol in symbols)

        names = {
            "symbols": put(thought.symbols),
            "correct": put(thought.correct),
            "vocabulary": put(thought.vocabulary),
        }
        return dataclasses.replace(thought, **names)  # type: ignore[arg-type]

    thoughts = [spoilt(thinker.think(QUESTION, cuts)) for cuts in (CUTS[side : side + 1], ())]
    panels = [
        Panel(Figure("tokens", bad, bad, bad, {"tokens": [bad], "values": [0.5]}), note=bad),
        Panel(Figure("attention", bad, bad, bad, {"tokens": [bad, "b"], "heads": [bad], "patterns": [[[1, 0], [0.5, 0.5]]]})),
        Panel(Figure("bars", bad, bad, bad, {"x": [bad], "series": [{"name": bad, "y": [1.0]}], "y_title": bad})),
        Panel(table=Table(bad, (bad,), ((bad,),), bad)),
    ]  # fmt: skip
    return Look(state, side, its, thoughts[0], thoughts[1]), panels


@pytest.mark.parametrize("bad", [*HOSTILE, "</script><img src=x onerror=alert(3)>"])
def test_hostile_names_and_symbols_stay_text(thinkers: list[Thinker], bad: str) -> None:
    sides = [hostile(thinker, bad, side) for side, thinker in enumerate(thinkers)]
    page = Page(rendered(sides[0][0].state, sides))
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [script for _, script in page.scripts if script.strip().startswith("alert")]
    assert re.sub(r"\s+", " ", bad) in page.words
    assert len(page.scripts) == 2 + 1 + 1 + 6  # libraries, its own, the state, three islands a model


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
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


@pytest.mark.browser
@pytest.mark.parametrize(
    ("view", "part"),
    [("parts", ""), ("embedding", ""), ("neurons", "m1.n3"), ("attention", ""), ("circuit", ""), ("lens", "")],
)
def test_every_view_opens_from_a_file_and_draws_without_a_complaint(
    chromium: Any, thinkers: list[Thinker], tmp_path: Path, view: Any, part: str
) -> None:
    file = tmp_path / "view.html"
    file.write_text(exported(state_of(view=view, part=part), thinkers), encoding="utf-8")
    opened = Opened(chromium, file.as_uri())
    opened.draw_all()
    page = opened.page
    for summary in page.locator("details.numbers > summary:visible").all():
        summary.click()
    assert page.locator("figure[data-drawn=failed]").count() == 0
    assert page.locator(".cell:visible").count() == page.locator(".cell").count() > 2
    assert page.locator(".cell table").count() >= page.locator("figure.chart").count()
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert opened.complaints == [] and opened.violations == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    opened.context.close()


@pytest.mark.browser
def test_hostile_symbols_run_nothing(chromium: Any, thinkers: list[Thinker], tmp_path: Path) -> None:
    bad = [*HOSTILE, "</script><img src=x onerror=alert(3)>"]
    for index in range(0, len(bad), 2):  # one in each model
        sides = [hostile(thinker, (bad * 2)[index + side], side) for side, thinker in enumerate(thinkers)]
        file = tmp_path / f"{index}.html"
        file.write_text(rendered(sides[0][0].state, sides), encoding="utf-8")
        opened = Opened(chromium, file.as_uri())
        opened.draw_all()
        assert opened.page.locator("img").count() == 0 and opened.page.locator("figure.chart:visible").count() == 6
        assert opened.complaints == [] and opened.violations == []
        opened.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 420])
def test_axe_finds_no_serious_violation(chromium: Any, text: str, tmp_path: Path, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "view.html"
    file.write_text(text, encoding="utf-8")
    opened = Opened(chromium, file.as_uri(), bypass_csp=True)
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.draw_all()
    found = Axe().run(opened.page).response["violations"]
    grave = [
        (v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert grave == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.context.close()
