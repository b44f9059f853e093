"""The explorer as a reader meets it: asked, cut, undone, reached by keyboard; what the page says against the library."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from kc_interp.errors import ExpressionError
from kc_interp.explorer import questions, words
from kc_interp.explorer.state import VIEWS, Cut, State
from kc_interp.explorer.thinking import Thinker, Thought
from kc_interp.explorer.views.neurons import direct_effects
from kc_interp.plots import OKABE_ITO
from tests.explorer_models import QUESTION, TWIN, model_of
from tests.explorer_pages import LAPTOP, ZOOMED, Running, Visit, all_show, chromium, saved, shows

pytestmark = pytest.mark.browser

NAMES = ("sum", "joint")
MODELS = {"sum": model_of("LN", 0, ("SUM",)), "joint": model_of("LN", 1, ("MAX", "MED", "SUM"))}
THINKERS = [Thinker(name, MODELS[name]) for name in NAMES]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def servers(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """One that shows two models, one that was started in a folder of runs without naming any."""
    named, unnamed = tmp_path_factory.mktemp("named"), tmp_path_factory.mktemp("unnamed")
    paths = saved(named / "runs", MODELS)
    saved(unnamed / "runs", MODELS)
    (unnamed / "runs" / "broken").mkdir()
    (unnamed / "runs" / "broken" / "model.safetensors").write_bytes(b"no checkpoint")
    started = (Running(named, *(item for path in paths for item in ("--model", str(path)))), Running(unnamed))
    yield started
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def window(browser: Any, servers: tuple[Running, Running]) -> Iterator[Visit]:
    it = Visit(browser, servers[0].origin)
    yield it
    it.context.close()


@pytest.fixture
def visit(window: Visit) -> Iterator[Visit]:
    """The one window, which must come out of every test without a complaint, a violation or a request elsewhere."""
    window.complaints.clear()
    window.requests.clear()
    window._violations.clear()
    yield window
    assert (window.complaints, window.violations, window.strangers) == ([], [], [])


def address(**more: Any) -> str:
    return State(**{"models": NAMES, "question": QUESTION, "twin": TWIN, "view": "lens", **more}).query()


def side(index: int) -> str:
    return f".side[data-side='{index}']"


def thoughts(*cuts: Cut, question: str = QUESTION, **how: Any) -> list[Thought]:
    """What both models think when each has the cuts that name it."""
    return [
        thinker.think(question, [cut for cut in cuts if cut.model == index], twin=TWIN, **how)
        for index, thinker in enumerate(THINKERS)
    ]


def both(how: Any, what: str, position: int | None = None) -> list[Cut]:
    return [Cut(model, how, what, position) for model in (0, 1)]


def assert_chain(visit: Visit, index: int, thought: Thought) -> None:
    """Every symbol stands there, and under each of the chain's its probability, to the printed digits."""
    assert visit.texts(f"{side(index)} [data-position] .token") == list(thought.symbols)
    places = range(thought.asked, len(thought.symbols))
    assert all_show(visit.texts(f"{side(index)} .symbol .p"), [thought.probability(place) for place in places])


def assert_next(visit: Visit, index: int, now: Thought, before: Thought | None = None, at: int | None = None) -> None:
    """The next symbols, the most probable first, each with its probability: untouched → cut where something is cut."""
    at = now.query if at is None else at
    rows = visit.page.locator(f"{side(index)} .next li").evaluate_all(
        "all => all.map(li => [li.querySelector('b').firstChild.textContent, li.querySelector('.n').textContent])"
    )
    assert len(rows) == 6
    listed = [now.probabilities[at, now.vocabulary.index(symbol)] for symbol, _ in rows]
    assert listed == sorted(listed, reverse=True) and listed[0] == now.probabilities[at].max()
    for symbol, said in rows:
        token = now.vocabulary.index(symbol)
        percents = said.removesuffix(" %").split(" → ")
        assert shows(percents[-1], now.probabilities[at, token])
        assert len(percents) == (1 if before is None else 2)
        if before is not None:
            assert shows(percents[0], before.probabilities[at, token])


def assert_cut(visit: Visit, *cuts: Cut, **how: Any) -> None:
    """Both models think under these cuts, and the page says so."""
    before, now = thoughts(**how), thoughts(*cuts, **how)
    for index in (0, 1):
        mine = [cut for cut in cuts if cut.model == index]
        assert_chain(visit, index, now[index])
        assert_next(visit, index, now[index], before[index] if mine else None)
        said = [
            f"{cut.what.replace('->', ' → ')}{'' if cut.position is None else f' at {cut.position}'} {cut.how}"
            for cut in mine
        ]
        assert visit.texts(f"{side(index)} .cuts li > span") == said
        assert f"answers {now[index].answer} " in visit.text(f"{side(index)} .answer")
        if mine:
            same = now[index].answer == before[index].answer
            assert ("as untouched" if same else f"untouched: {before[index].answer}") in visit.text(
                f"{side(index)} .answer"
            )


def pressed(visit: Visit, part: str) -> str | None:
    return visit.page.locator(f"[data-part='{part}']").first.get_attribute("aria-pressed")


# Asking


def test_the_first_page_asks_both_models_a_question_and_shows_what_they_answer(visit: Visit) -> None:
    visit.open()
    asked = questions.examples(THINKERS)[0]
    assert visit.page.locator("#question").input_value() == asked
    assert visit.page.locator("#example-0").get_attribute("aria-pressed") == "true"
    assert visit.texts(".side .name") == list(NAMES)
    for index, thinker in enumerate(THINKERS):
        thought = thinker.think(asked)
        assert_chain(visit, index, thought)
        assert_next(visit, index, thought)
        says = visit.text(f"{side(index)} .answer")
        assert says.startswith(f"answers {thought.answer} ")
        assert ("✓ correct" in says) == (thought.answer == thought.target)


def test_while_an_expression_is_typed_its_fault_is_told_and_marked_under_the_character(visit: Visit) -> None:
    visit.open(address())
    for text in ("[SUM 1 [SUM 4 x]]", "[SUM 1 2", "[SUM 1 2]]", "[ADD 1 2]", "SUM 1 2", "[SUM 12 3]"):
        with pytest.raises(ExpressionError) as fault:
            THINKERS[0].read(text)
        position = fault.value.position
        assert position is not None
        visit.page.locator("#question").fill(text)
        visit.page.locator("#question-fault mark").wait_for()
        assert visit.text("#question-fault .message") == re.sub(r"\s+", " ", str(fault.value))
        before, marked = visit.page.locator("#question-fault .where mark").evaluate(
            "mark => [mark.previousSibling?.textContent ?? '', mark.textContent]"
        )
        assert (before, marked) == (text[:position], text[position : position + 1] or " ")
        visit.page.locator("#question").fill("[SUM 1 2]")
        visit.wait("document.querySelector('#question-fault .message') === null")


def test_an_expression_with_a_fault_is_not_asked_and_the_page_stays_as_it_was(visit: Visit) -> None:
    visit.open(address())
    visit.page.locator("#question").fill("[SUM 1 2")
    visit.key("Enter")
    with pytest.raises(ExpressionError) as fault:
        THINKERS[0].read("[SUM 1 2")
    assert visit.text("#said") == re.sub(r"\s+", " ", str(fault.value))
    assert_chain(visit, 0, thoughts()[0])
    assert visit.page.locator("#question").input_value() == "[SUM 1 2"
    visit.page.locator("#question").fill("[SUM 1 2]")
    visit.key("Enter")
    assert visit.page.locator("#said > *").count() == 0
    assert_chain(visit, 0, THINKERS[0].think("[SUM 1 2]"))


def test_an_expression_is_asked_and_the_second_one_follows_it(visit: Visit) -> None:
    visit.open(address())
    question = "[SUM 5 [SUM 2 2 9] 1]"
    visit.page.locator("#question").fill(question)
    visit.key("Enter")
    for index, thinker in enumerate(THINKERS):
        assert_chain(visit, index, thinker.think(question))
    twin = visit.page.locator("#twin").input_value()
    assert twin == questions.twin_of(THINKERS, question) and twin != TWIN
    visit.press("#another")
    another = visit.page.locator("#twin").input_value()
    assert another not in ("", twin)
    assert [THINKERS[0].fitting(question, text).answer_symbols()[0] for text in (twin, another)] != [
        THINKERS[0].read(question).answer_symbols()[0]
    ] * 2
    visit.page.locator("#twin").fill(TWIN.replace("4", "0"))
    visit.press("#ask")
    assert visit.page.locator("#twin").input_value() == TWIN.replace("4", "0")


def test_a_question_that_one_model_cannot_read_is_answered_by_the_other(visit: Visit) -> None:
    visit.open(address())
    visit.page.locator("#question").fill("[MAX 1 2]")
    visit.page.locator("#question-fault .message").wait_for()
    assert "sum has no token for MAX" in visit.text("#question-fault")
    visit.key("Enter")
    assert "sum has no token for MAX" in visit.text(f"{side(0)} [role=alert]")
    assert_chain(visit, 1, THINKERS[1].think("[MAX 1 2]"))


def test_a_random_question_has_the_depth_that_was_chosen(visit: Visit) -> None:
    visit.open(address())
    for depth in ("1", "2"):
        visit.choose("#depth", depth)
        visit.press("#random")
        text = visit.page.locator("#question").input_value()
        assert max(text[: place + 1].count("[") - text[:place].count("]") for place in range(len(text))) == int(depth)
        assert_chain(visit, 0, THINKERS[0].think(text))
        assert visit.page.locator("#depth").input_value() == depth


def test_free_running_each_model_reads_what_it_wrote_itself_and_the_page_says_so(visit: Visit) -> None:
    visit.open(address())
    assert "Teacher-forced: it reads the correct chain." in visit.text(f"{side(0)} .chain")
    visit.press("#free")
    assert [visit.page.locator(f"#{id}").get_attribute("aria-pressed") for id in ("forced", "free")] == [
        "false",
        "true",
    ]
    for index, thought in enumerate(thoughts(free=True)):
        assert_chain(visit, index, thought)
        assert "Free-running: it reads what it wrote itself." in visit.text(f"{side(index)} .chain")
    assert "mode=free" in visit.page.url
    visit.press("#forced")
    assert_chain(visit, 0, thoughts()[0])


# Cutting


def test_pressing_a_head_cuts_it_in_both_models_and_pressing_it_again_restores_it(visit: Visit) -> None:
    visit.open(address())
    visit.press("[data-part='a0.h1']")
    assert pressed(visit, "a0.h1") == "true"
    struck = "part => getComputedStyle(part).textDecorationLine"
    assert visit.page.locator("[data-part='a0.h1']").evaluate(struck) == "line-through"  # not by colour alone
    assert visit.page.locator("[data-part='a0.h0']").evaluate(struck) == "none"
    assert_cut(visit, *both("zero", "a0.h1"))
    visit.press("[data-part='m1']")
    assert_cut(visit, *both("zero", "a0.h1"), *both("zero", "m1"))
    visit.press("[data-part='a0.h1']")
    assert pressed(visit, "a0.h1") == "false"
    assert_cut(visit, *both("zero", "m1"))


def test_a_head_is_cut_and_restored_by_keyboard_alone_and_keeps_the_focus(visit: Visit) -> None:
    visit.open(address())
    visit.page.locator("#how").focus()
    focus_by_tab(visit, "[data-part='a0.h1']")
    assert visit.page.locator(":focus").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    for key, cuts in (("Enter", both("zero", "a0.h1")), ("Space", [])):
        visit.key(key)
        assert_cut(visit, *cuts)
        assert visit.page.locator(":focus").get_attribute("data-part") == "a0.h1"
    focus_by_tab(visit, f"{side(0)} [data-position='9']")
    visit.key("Enter")
    assert "at=9" in visit.page.url
    assert visit.page.locator(":focus").get_attribute("data-position") == "9"


@pytest.mark.parametrize("button", ["#reset", "[data-restore='0:zero:a0.h1']"])
def test_a_button_that_goes_away_when_pressed_leaves_the_focus_at_undo(visit: Visit, button: str) -> None:
    visit.open(address(cuts=(Cut(0, "zero", "a0.h1"),)))
    visit.page.locator(button).focus()
    visit.key("Enter")
    assert_cut(visit)
    assert visit.page.locator(":focus").get_attribute("id") == "undo"


def test_a_head_can_be_cut_in_one_model_alone(visit: Visit) -> None:
    visit.open(address())
    visit.choose("#on", "1")
    visit.press("[data-part='a1.h3']")
    assert pressed(visit, "a1.h3") == "mixed"
    assert "cut in joint" in (visit.page.locator("[data-part='a1.h3']").get_attribute("title") or "")
    assert_cut(visit, Cut(1, "zero", "a1.h3"))
    visit.choose("#on", "both")
    visit.press("[data-part='a1.h3']")
    assert pressed(visit, "a1.h3") == "true"
    assert_cut(visit, Cut(1, "zero", "a1.h3"), Cut(0, "zero", "a1.h3"))


@pytest.mark.parametrize("how", ["mean", "resample", "patch"])
def test_a_cut_part_carries_what_was_chosen(visit: Visit, how: str) -> None:
    visit.open(address())
    visit.choose("#how", how)
    visit.press("[data-part='m0']")
    assert_cut(visit, *both(how, "m0"))
    assert visit.page.locator("#redraw").is_enabled() == (how == "resample")
    if how == "resample":
        visit.press("#redraw")
        assert "seed=1" in visit.page.url
        assert_cut(visit, *both(how, "m0"), seed=1)


def test_an_edge_and_a_neuron_are_cut_through_the_form_at_one_position_or_everywhere(visit: Visit) -> None:
    visit.open(address())
    visit.page.locator("#what").fill("a0.h1->m0")
    visit.press("#cut")
    assert_cut(visit, *both("zero", "a0.h1->m0"))
    visit.choose("#where", "9")
    visit.page.locator("#what").fill("m0.n17")
    visit.page.locator("#what").press("Enter")
    visit.settle()
    assert_cut(visit, *both("zero", "a0.h1->m0"), *both("zero", "m0.n17", 9))
    for wrong, says in (
        ("a7.h0", "has no part 'a7.h0'"),
        ("m0.n999", "sum has no neuron 'm0.n999'"),
        ("A0", "'A0' is no part of a model"),
    ):
        visit.page.locator("#what").fill(wrong)
        visit.press("#cut")
        assert says in visit.text("#said")
        assert_cut(visit, *both("zero", "a0.h1->m0"), *both("zero", "m0.n17", 9))


def test_undo_goes_one_step_back_the_browser_too_and_reset_restores_all(visit: Visit) -> None:
    visit.open(address())
    first, second = both("zero", "a0.h0"), both("zero", "m1")
    visit.press("[data-part='a0.h0']")
    visit.press("[data-part='m1']")
    visit.press("#undo")
    assert_cut(visit, *first)
    visit.page.go_back()
    visit.settle()
    assert_cut(visit, *first, *second)
    visit.page.go_forward()
    visit.settle()
    assert_cut(visit, *first)
    visit.press("#reset")
    assert_cut(visit)
    assert visit.page.locator("#reset").is_disabled()
    visit.page.locator("body").press("Control+z")
    visit.settle()
    assert_cut(visit, *first)
    visit.press(f"{side(0)} [data-restore]")
    assert_cut(visit, first[1])
    assert pressed(visit, "a0.h0") == "mixed"
    # Undo after the browser's own Back goes on from where that led.
    visit.page.go_back()
    visit.settle()
    assert_cut(visit, *first)
    visit.press("#undo")
    assert_cut(visit)


def test_presses_in_quick_succession_are_all_done_in_their_order(visit: Visit) -> None:
    visit.open(address())
    names = ["a0.h0", "a0.h1", "a0.h2", "a1.h0"]
    visit.page.evaluate(
        "names => { for (const name of names) document.querySelector(`[data-part='${name}']`).click() }", names
    )
    visit.settle()
    assert_cut(visit, *(cut for name in names for cut in both("zero", name)))


@pytest.mark.parametrize("status", [413, 500])
def test_a_press_that_the_server_refuses_is_told_and_the_next_one_is_done(visit: Visit, status: int) -> None:
    visit.open(address())
    callbacks = "**/_dash-update-component*"

    def refuse(route: Any) -> None:
        is_turn = "screen.data" in route.request.post_data
        route.fulfill(status=status, body="no") if is_turn else route.continue_()

    visit.page.route(callbacks, refuse)
    visit.page.locator("[data-part='a0.h0']").click()
    visit.wait(f"document.querySelector('#said').textContent.includes('refused the request ({status})')")
    visit.page.unroute(callbacks)
    visit.press("[data-part='m1']")
    assert visit.text("#said") == ""
    assert_cut(visit, *both("zero", "m1"))
    visit.complaints.clear()  # the console's word on the refusal


def test_a_view_that_has_been_fetched_is_announced(visit: Visit) -> None:
    visit.open(address())
    assert visit.page.locator("#shown[role=status]").inner_text() == "Logit lens is shown."
    visit.press("#tab-neurons")
    assert visit.page.locator("#shown").inner_text() == "Neurons is shown."


def test_the_page_says_what_parts_are_called_and_what_a_cut_part_carries(visit: Visit) -> None:
    visit.open(address())
    visit.page.locator("#names summary").click()
    told = visit.text("#names")
    for says in ("a0.h1 head 1 of block 0", "resid1 the residual stream", "mean a cut part carries its mean over"):
        assert says in told
    visit.press("[data-part='a0.h0']")
    assert visit.page.locator("#names[open]").count() == 1


# Looking


def logit_difference(thinker: Thinker, thought: Thought) -> float:
    """The logit of the question's answer minus that of the second expression's, at the answer."""
    answers = [thinker.think(text).target for text in (QUESTION, TWIN)]
    right, wrong = (float(thought.probabilities[thought.query, thought.vocabulary.index(a)]) for a in answers)
    return math.log(right) - math.log(wrong)


def moved(index: int, what: str, position: int | None = None) -> float:
    """What patching a part moves of the answer, by cutting it: a share of the way to the second expression's logit
    difference, or logits where the two lie near."""
    thinker = THINKERS[index]
    own, cut = (thinker.think(QUESTION, cuts, twin=TWIN) for cuts in ((), [Cut(index, "patch", what, position)]))
    own_logits, other = logit_difference(thinker, own), thinker.think(TWIN)
    others = math.log(other.probabilities[other.query, other.vocabulary.index(own.target)]) - math.log(
        other.probabilities[other.query, other.vocabulary.index(other.target)]
    )
    change = logit_difference(thinker, cut) - own_logits
    return change / (others - own_logits) if abs(others - own_logits) >= 0.5 else -change


def canvas_of(panel: int, model: int = 0) -> str:
    return f".panel[data-panel='{panel}'][data-side='{model}'] .canvas"


def field_of(which: str, panel: int, model: int = 0) -> str:
    """The row or the column of a heatmap's form."""
    return f".panel[data-panel='{panel}'][data-side='{model}'] .cells select[id$='-{which}']"


def data_of(visit: Visit, name: str, panel: int, model: int = 0) -> Any:
    return json.loads(visit.page.locator(canvas_of(panel, model)).get_attribute(f"data-{name}") or "null")


def drawn_in(visit: Visit, panel: int, model: int = 0) -> list[list[float]]:
    """The values that a heatmap draws."""
    return visit.page.locator(canvas_of(panel, model)).evaluate(  # type: ignore[no-any-return]
        "canvas => canvas.data[0].z.map(row => [...row].map(value => value ?? 0))"
    )


def cell(visit: Visit, canvas: str, row: int, column: int) -> tuple[float, float]:
    """Where a heatmap's cell lies in the window."""
    visit.page.locator(canvas).scroll_into_view_if_needed()
    visit.settle()
    x, y = visit.page.locator(canvas).evaluate(
        """(canvas, [row, column]) => {
            const { xaxis, yaxis } = canvas._fullLayout, box = canvas.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.c2p(column), box.top + yaxis._offset + yaxis.c2p(row)];
        }""",
        [row, column],
    )
    return x, y


def click_cell(visit: Visit, canvas: str, row: int, column: int) -> None:
    x, y = cell(visit, canvas, row, column)
    visit.page.mouse.move(x, y)
    visit.page.mouse.click(x, y)
    visit.settle()


def focus_by_tab(visit: Visit, selector: str) -> None:
    """Reach an element by Tab alone, from the control before it."""
    for _ in range(400):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_a_cell_of_the_patching_map_is_cut_by_a_click_or_by_keyboard_and_holds_what_that_moves(visit: Visit) -> None:
    visit.open(address(view="patching", how="patch"))
    rows = data_of(visit, "rows", 0)
    place = rows.index("m0"), 14
    click_cell(visit, canvas_of(0), *place)
    assert_cut(visit, *both("patch", "m0", 14))
    for index in (0, 1):
        values = drawn_in(visit, 0, index)
        for part, position in (("m0", 14), ("a0.h2", 10), ("resid1", 9), ("a1.h0", 17)):
            assert values[rows.index(part)][position] == pytest.approx(moved(index, part, position), abs=1e-3)
    # The same by keyboard: the row, the column, the button.
    visit.choose(field_of("row", 0), str(rows.index("a0.h2")))
    visit.page.locator(field_of("row", 0)).focus()
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.id").endswith("-column")
    visit.key(*["ArrowDown"] * 10, "Tab")
    assert visit.page.locator(":focus").get_attribute("data-form") == "cell"
    visit.key("Enter")
    assert_cut(visit, *both("patch", "m0", 14), *both("patch", "a0.h2", 10))
    assert visit.page.locator(field_of("row", 0)).input_value() == str(rows.index("a0.h2"))
    assert visit.page.locator(field_of("column", 0)).input_value() == "10"
    click_cell(visit, canvas_of(0), *place)
    assert_cut(visit, *both("patch", "a0.h2", 10))
    assert "@" in visit.text("[data-part='a0.h2']")


def test_choosing_a_symbol_points_every_view_to_its_position(visit: Visit) -> None:
    visit.open(address())
    at = 11
    symbol = thoughts()[0].symbols[at]
    visit.press(f"{side(0)} [data-position='{at}']")
    for index, thought in enumerate(thoughts()):
        assert visit.text(f"{side(index)} .next h3").startswith("Next symbol after")
        assert {str(at), symbol} <= set(re.findall(r"[^\s:]+", visit.text(f"{side(index)} .next h3")))
        assert_next(visit, index, thought, at=at)
        chosen = visit.page.locator(f"{side(index)} [data-position][aria-pressed=true]")
        assert [chosen.count(), chosen.first.get_attribute("data-position")] == [1, str(at)]
        lens = THINKERS[index].lens(thought)
        columns, drawn = data_of(visit, "columns", 0, index), drawn_in(visit, 0, index)
        for row, stage in zip(drawn, lens, strict=True):
            expected = [stage[p, thought.vocabulary.index(thought.symbols[p + 1])] for p in columns]
            assert row == pytest.approx(expected, abs=1e-3)
    assert f"Logit lens at position {at} ({symbol})" in visit.text("#view")
    visit.press("#tab-attention")
    assert f"Where every head looks from position {at} ({symbol})" in visit.text("#view")
    visit.page.locator(canvas_of(1)).scroll_into_view_if_needed()
    visit.settle()
    drawn = drawn_in(visit, 1)
    patterns = thoughts()[0].patterns.reshape(-1, *thoughts()[0].patterns.shape[2:])[:, at]
    for row, expected in zip(drawn, patterns, strict=True):
        assert row == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_heatmap_points_all_views_by_a_click_and_by_keyboard(visit: Visit) -> None:
    visit.open(address())
    columns = data_of(visit, "columns", 0)
    click_cell(visit, canvas_of(0), 1, 2)
    assert f"at={columns[2]}" in visit.page.url
    assert f"at position {columns[2]} " in visit.text("#view .panel-row:nth-child(2)")
    visit.choose(field_of("column", 0, 1), "4")
    visit.page.locator(field_of("column", 0, 1)).focus()
    visit.page.keyboard.press("Tab")
    visit.key("Space")
    assert f"at={columns[4]}" in visit.page.url
    visit.press("#tab-attention")
    rows = data_of(visit, "rows", 1)
    click_cell(visit, canvas_of(1), 6, 3)
    assert f"at=3&part={rows[6]}" in visit.page.url
    assert f"Attention of {rows[6]}, all positions" in visit.text("#view")


def test_an_edge_of_the_circuit_is_chosen_told_and_cut(visit: Visit) -> None:
    visit.open(address(view="circuit"))
    edge = "token->a0.h1<v>"
    assert moved(0, edge) != 0
    visit.page.locator(f"{canvas_of(0, 0)} .pick select").select_option(edge)
    visit.settle()
    for index in (0, 1):
        it = canvas_of(0, index)
        told = float(visit.page.locator(f"{it} .item data").first.get_attribute("value"))
        assert told == pytest.approx(moved(index, edge), abs=2e-4)
        assert visit.page.locator(f"{it} .pick select").input_value() == edge
    assert unquote(visit.page.url).endswith(f"&part={edge}")
    visit.page.locator(f"{canvas_of(0, 0)} .cut-chosen").scroll_into_view_if_needed()
    assert visit.text(f"{canvas_of(0, 0)} .cut-chosen") == "Cut token → a0.h1<v>"
    visit.press(f"{canvas_of(0, 0)} .cut-chosen")
    assert_cut(visit, *both("zero", edge))
    # An edge is chosen by a click on its line, too, and a box by the arrow keys.
    at = visit.page.locator(canvas_of(0, 0)).evaluate(
        """(canvas) => {
            const line = [...canvas.querySelectorAll('.edge')].find(e => e.dataset.name === 'm0->logits').querySelector('.hit');
            line.closest('svg').scrollIntoView({ block: 'center' });
            const at = line.getPointAtLength(line.getTotalLength() / 2).matrixTransform(line.getScreenCTM());
            return { x: at.x, y: at.y };
        }"""
    )
    visit.page.mouse.click(at["x"], at["y"])
    visit.settle()
    assert visit.page.locator(f"{canvas_of(0, 1)} .pick select").input_value() == "m0->logits"
    visit.page.locator(f"{canvas_of(0, 0)} .node[data-name=token]").focus()
    visit.key("ArrowUp")
    chosen = visit.page.locator(":focus").get_attribute("data-name")
    assert chosen in {"a0.h1", "a0.h2"}
    assert visit.page.locator(f"{canvas_of(0, 0)} .pick select").input_value() == chosen
    assert f"part={chosen}" in visit.page.url


def drawn_edges(visit: Visit, index: int) -> int:
    return int(visit.page.locator(f"{canvas_of(0, index)} .edge[data-name]:not([hidden])").count())


def test_the_threshold_draws_fewer_edges_of_both_circuits_and_stays_in_the_address(visit: Visit, browser: Any) -> None:
    visit.open(address(view="circuit"))
    effects = [data_of(visit, "island", 0, index)["widget"]["edges"]["effect"] for index in (0, 1)]
    assert [drawn_edges(visit, index) for index in (0, 1)] == [len(of) for of in effects]
    slider = visit.page.locator(canvas_of(0, 0)).get_by_role("slider")
    slider.focus()
    slider.evaluate(
        "s => { s.value = Math.round(s.max * 0.6); s.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    visit.page.keyboard.press("ArrowRight")
    said = visit.page.locator(f"{canvas_of(0, 1)} output").inner_text()
    visit.wait(f"location.hash.startsWith('#graph={said},')")
    least = float(said)
    kept = [sum(abs(value) >= least for value in of) for of in effects]
    assert [drawn_edges(visit, index) for index in (0, 1)] == kept
    assert 0 < kept[0] < len(effects[0]) and f"#graph={least}" in visit.page.url
    again = Visit(browser, visit.origin)
    again.page.goto(visit.page.url)
    again.wait("document.querySelectorAll('.canvas[data-drawn] .edge').length > 0")
    again.settle()
    assert [drawn_edges(again, index) for index in (0, 1)] == kept
    again.context.close()


def test_neurons_are_ranked_looked_at_and_cut(visit: Visit) -> None:
    visit.open(address(view="neurons"))
    thought = thoughts()[0]
    effects = direct_effects(THINKERS[0], thought, thought.query, thought.choices[thought.query])
    rows = visit.page.locator(".panel[data-panel='0'][data-side='0'] tbody tr").evaluate_all(
        "all => all.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert len(rows) == 12
    shown = {row[0]: (float(row[1]), float(row[3])) for row in rows}
    ranked = sorted(
        (f"m{b}.n{n}" for b in range(effects.shape[0]) for n in range(effects.shape[1])),
        key=lambda name: -abs(effects[tuple(map(int, name[1:].split(".n")))]),
    )
    assert list(shown) == ranked[:12]
    for name, (activation, effect) in shown.items():
        block, neuron = map(int, name[1:].split(".n"))
        assert activation == pytest.approx(thought.neurons[block, thought.query, neuron], rel=6e-3, abs=1e-4)
        assert effect == pytest.approx(effects[block, neuron], rel=6e-3, abs=1e-4)
    name = next(iter(shown))
    visit.press(".panel[data-panel='0'][data-side='0'] tbody button")
    assert f"part={name}" in visit.page.url
    assert name in visit.text("#view .title")
    visit.page.locator("#what").fill(name)
    visit.press("#cut")
    assert_cut(visit, *both("zero", name))


@pytest.mark.parametrize(("part", "view"), [("m1.n7", "neurons"), ("a1.h2", "attention")])
def test_a_part_is_found_by_its_name_and_shown_in_its_view(visit: Visit, part: str, view: str) -> None:
    visit.open(address())
    visit.page.locator("#what").fill(part)
    visit.press("#look")
    assert f"part={part}" in visit.page.url
    assert visit.page.locator(f"#view-{view}").count() == 1
    assert any(part in title for title in visit.texts("#view .title"))


def test_what_each_part_is_worth_is_what_cutting_it_costs(visit: Visit) -> None:
    visit.open(address(view="parts"))
    table = visit.page.locator(".panel[data-side='0'] table", has_text="fall of the answer's probability")
    rows = table.locator("tbody tr").evaluate_all("all => all.map(row => [...row.cells].map(c => c.textContent))")
    before = thoughts()[0]
    target = before.vocabulary.index(before.target)
    found = {row[0]: [float(value.replace("−", "-")) for value in row[2:4]] for row in rows}
    assert {"a0", "a0.h0", "m0", "a1", "m1"} <= set(found)
    for part in ("a0", "a0.h2", "m1"):
        after = thoughts(Cut(0, "zero", part))[0]
        p, q = (float(its.probabilities[its.query, target]) for its in (before, after))
        assert found[part] == pytest.approx([math.log(p) - math.log(q), p - q], rel=6e-3, abs=1e-3)


# Taking along


def everything(visit: Visit) -> dict[str, Any]:
    """What is on the screen, in words, and the numbers behind its figures."""
    return {
        "words": [visit.texts(selector) for selector in (".side", "#controls", "#view .title", "#tabs [aria-current]")],
        "islands": visit.page.evaluate("[...document.querySelectorAll('.canvas')].map(c => [c.id, c.dataset.island])"),
        "fields": visit.page.evaluate(
            "[...document.querySelectorAll('#question, #twin, #how, #on, #first, #second')].map(f => f.value)"
        ),
    }


def test_an_address_shows_the_same_to_a_colleague(visit: Visit, browser: Any) -> None:
    cuts = (Cut(0, "patch", "a0.h1", 12), Cut(1, "mean", "m0"), Cut(1, "resample", "a1.h0"))
    visit.open(address(cuts=cuts, free=True, how="mean", on="1", view="parts", at=9, part="a0.h1", seed=3))
    visit.press("[data-part='a0.h2']")
    again = Visit(browser, visit.origin)
    again.open(visit.page.url.removeprefix(f"{visit.origin}/"))
    assert everything(again) == everything(visit)
    assert again.page.url == visit.page.url
    again.context.close()


def test_the_exported_view_opens_from_a_file_and_holds_the_same_answer(
    visit: Visit, browser: Any, tmp_path: Path
) -> None:
    cuts = both("zero", "a0.h1")
    visit.open(address(cuts=tuple(cuts), view="patching", free=False))
    with visit.page.expect_download() as download:
        visit.page.locator("#export").click()
    file = tmp_path / download.value.suggested_filename
    assert file.name == "sum-joint-patching.html"
    download.value.save_as(file)
    taken = Visit(browser, "file://")
    taken.page.goto(file.as_uri())
    for figure in taken.page.locator("figure.chart:visible").all():
        figure.scroll_into_view_if_needed()
    taken.wait(
        "[...document.querySelectorAll('figure.chart')].every(f => !f.checkVisibility() || f.dataset.drawn === 'yes')"
    )
    assert [url for url in taken.requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert taken.complaints == [] and taken.violations == []
    said = re.sub(r"\s+", " ", taken.page.inner_text("body"))
    assert QUESTION in said and TWIN in said and all(name in said for name in NAMES)
    for thought, before in zip(thoughts(*cuts), thoughts(), strict=True):
        for symbol in {its.choices[its.query] for its in (thought, before)}:
            was, now = (
                words.percent(its.probabilities[its.query, its.vocabulary.index(symbol)]) for its in (before, thought)
            )
            assert re.search(rf"(?<!\S){re.escape(symbol)}( ✓)? {re.escape(was)} → {re.escape(now)} ?%", said)
        assert f"Answers {thought.answer} " in said
    assert taken.page.evaluate("document.documentElement.scrollWidth") <= LAPTOP[0]
    taken.context.close()


# Models


def test_without_a_named_model_the_page_lists_those_it_found_and_opens_two(
    browser: Any, servers: tuple[Running, Running]
) -> None:
    it = Visit(browser, servers[1].origin)
    it.open()
    assert it.text("h1") == "Which model?" and it.page.locator("#desk").is_hidden()
    assert it.texts("table.found tbody th") == ["broken", "joint", "sum"]
    assert "model.safetensors" in it.text("table.found tr:nth-child(1) td")
    assert "MAX + MED + SUM" in it.text("table.found tr:nth-child(2)")
    assert tab_misses(it) == []
    assert grave(it) == []
    assert it.page.evaluate(SMALLEST) >= 12
    for size in (ZOOMED, LAPTOP):
        it.resize(size)
        assert it.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    it.choose("#left", "sum")
    it.choose("#right", "joint")
    it.press("#open")
    assert it.texts(".side .name") == ["sum", "joint"]
    asked = it.page.locator("#question").input_value()
    assert asked == questions.examples(THINKERS)[0]
    assert_chain(it, 0, THINKERS[0].think(asked))
    it.choose("#second", "")
    assert it.texts(".side .name") == ["sum"] and it.page.locator("#on").count() == 0
    it.page.go_back()
    it.settle()
    assert it.texts(".side .name") == ["sum", "joint"]
    it.choose("#second", "broken")
    assert "model.safetensors" in it.text(f"{side(1)} [role=alert]")
    assert_chain(it, 0, THINKERS[0].think(asked))
    it.press(".brand")
    it.wait("document.querySelector('#start h1') !== null")
    assert (it.complaints, it.violations, it.strangers) == ([], [], [])
    it.context.close()


def test_the_models_change_places_and_cuts_do_not_wander(visit: Visit) -> None:
    visit.open(address(cuts=(Cut(0, "zero", "m0"),)))
    visit.choose("#second", "")
    assert visit.texts(".side .name") == ["sum"]
    visit.choose("#first", "joint")
    assert visit.texts(".side .name") == ["joint"]
    assert_chain(visit, 0, THINKERS[1].think(QUESTION))
    assert visit.texts(".cuts li") == []


# Every view


SMALLEST = """Math.min(...[...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => !e.closest('[data-kind=attention] .canvas, .canvas[data-kind=attention], script, style, noscript'))
    .map(e => parseFloat(getComputedStyle(e).fontSize)))"""
"""The smallest text on the page, but for CircuitsVis' own."""

_INTERACTIVE = "a[href], button, select, input, summary, [tabindex='0']"


def tab_misses(visit: Visit) -> list[str]:
    """Visible controls that Tab does not reach. The boxes of a circuit are one stop, with arrow keys between them."""
    page = visit.page
    count = page.evaluate(
        f"""() => {{
            window.wanted = [...document.querySelectorAll("{_INTERACTIVE}")].filter(e =>
                e.checkVisibility({{ visibilityProperty: true }}) && !e.disabled && e.getAttribute('tabindex') !== '-1'
                && !e.closest('.canvas[data-kind=attention]'));
            window.met = new Set();
            window.meet = event => met.add(event.target);
            document.addEventListener('focusin', meet, true);
            document.activeElement.blur();
            window.getSelection().removeAllRanges();
            scrollTo(0, 0);
            return wanted.length;
        }}"""
    )
    for _ in range(count + 80):
        page.keyboard.press("Tab")
        if page.evaluate("wanted.every(e => met.has(e))"):
            break
    return page.evaluate(  # type: ignore[no-any-return]
        "(document.removeEventListener('focusin', meet, true), wanted.filter(e => !met.has(e)).map(e => e.outerHTML.slice(0, 160)))"
    )


def grave(visit: Visit) -> list[Any]:
    """Serious and critical violations that axe finds outside CircuitsVis' own markup."""
    from axe_playwright_python.sync_playwright import Axe

    theirs = {"exclude": [[".canvas[data-kind=attention]"], [".canvas[data-kind=tokens]"]]}
    found = Axe().run(visit.page, context=theirs, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found if v["impact"] in ("serious", "critical")
    ]


def unsafe_colours(visit: Visit) -> list[Any]:
    """What is drawn in a colour that readers may confuse: lines and bars outside Okabe and Ito's colours, heatmaps in
    other scales than cividis and RdBu, and a diverging one that is not centred."""
    found = []
    for island in visit.page.evaluate(
        "[...document.querySelectorAll('.canvas[data-kind=plot]')].map(c => c.dataset.island)"
    ):
        for trace in json.loads(island)["plot"]["data"]:
            if trace["type"] == "heatmap":
                ends = trace["colorscale"][0][1], trace["colorscale"][-1][1]
                centred = ends == ("#00224e", "#fee838") or trace["zmin"] == -trace["zmax"]
                if ends not in (("#00224e", "#fee838"), ("rgb(103,0,31)", "rgb(5,48,97)")) or not centred:
                    found.append(trace["colorscale"])
            elif trace["marker"]["color"] not in OKABE_ITO:
                found.append(trace["marker"]["color"])
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_drawn_fits_the_window_reads_well_and_is_reached_by_keyboard(visit: Visit, view: str) -> None:
    visit.open(
        address(
            view=view,
            cuts=(Cut(0, "zero", "a0.h1"), Cut(1, "patch", "m0", 12)),
            part="a0.h1" if view != "neurons" else "m0.n5",
        )
    )
    assert visit.page.locator(f"#tab-{view}").get_attribute("aria-current") == "true"
    visit.draw_all()
    assert visit.page.locator(f"#view-{view} .panel").count() >= 2
    assert "could not be drawn" not in visit.text("#view")
    canvases = visit.page.locator("#view .canvas")
    assert all(box and box["height"] > 15 for box in (canvas.bounding_box() for canvas in canvases.all()))
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= LAPTOP[0]
    assert visit.page.evaluate(SMALLEST) >= 12
    clickable = visit.page.locator(".canvas[data-does]:not([data-does='']):not([data-kind=circuit])")
    assert visit.page.locator(".cells button").count() == clickable.count()
    assert (
        visit.page.locator(".canvas[data-kind=circuit] select").count()
        == visit.page.locator(".canvas[data-kind=circuit]").count()
    )
    assert unsafe_colours(visit) == []
    for summary in visit.page.locator("#view details.numbers > summary").all()[-2:]:
        summary.click()
    visit.wait("[...document.querySelectorAll('details.numbers[open]')].every(one => one.querySelector('td'))")
    assert tab_misses(visit) == []
    assert grave(visit) == []
    visit.resize(ZOOMED)
    try:
        visit.draw_all()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= ZOOMED[0]
        assert visit.page.evaluate(SMALLEST) >= 12
    finally:
        visit.resize(LAPTOP)
