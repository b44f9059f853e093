"""An address is the whole state, and nothing else than a state: round trips, and what no address or click may say."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kc_interp.checkpoint import FILE_NAME, load
from kc_interp.errors import CheckpointError, KCInterpError, SpecError
from kc_interp.explorer import questions
from kc_interp.explorer.models import DEPTH, Models, found_in
from kc_interp.explorer.server import LARGEST_BODY
from kc_interp.explorer.session import MOST_PAST, MOST_PAST_CHARACTERS, Explorer
from kc_interp.explorer.state import CUT_LIMIT, HOWS, VIEWS, Cut, State
from tests.explorer_models import QUESTION, TWIN, model_of

NAMES = ("sum", "joint", "a name & more=?")

parts = st.from_regex(r"[a-z0-9.<>\-]{1,40}", fullmatch=True)
positions = st.none() | st.integers(0, 9_999)
cuts = st.tuples(st.sampled_from([0, 1]), st.sampled_from(HOWS), parts, positions)
# Plain data, of which the tests make a State: its types are checked by drawing at random, which strategies must not.
states = st.fixed_dictionaries(
    {
        "models": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "question": st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        "twin": st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        "free": st.booleans(),
        "how": st.sampled_from(HOWS),
        "on": st.sampled_from(["both", "0", "1"]),
        "cuts": st.lists(cuts, max_size=8, unique=True),
        "view": st.sampled_from(VIEWS),
        "at": st.none() | st.integers(0, 9_999),
        "part": st.just("") | parts,
        "seed": st.integers(0, 9_999),
    }
)


@given(states)
def test_an_address_gives_back_the_state_that_wrote_it(fields: dict[str, Any]) -> None:
    made = {"models": tuple(fields["models"]), "cuts": tuple(Cut(*cut) for cut in fields["cuts"])}
    state = State(**{**fields, **made})
    assert State.parse(state.query(), NAMES) == state


@given(cuts)
def test_an_intervention_gives_back_itself(fields: tuple[Any, ...]) -> None:
    cut = Cut(*fields)
    assert Cut.parse(str(cut)) == cut


@given(st.text(max_size=200))
def test_an_address_is_read_or_refused_and_never_fails_otherwise(query: str) -> None:
    try:
        state = State.parse(query, NAMES)
    except SpecError:
        return
    assert State.parse(state.query(), NAMES) == state


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?model=/etc/passwd", "no model '/etc/passwd' is open here"),
        ("?model=../../secret", "no model"),
        ("?model=sum&model=sum", "one or two different models"),
        ("?model=sum&model=joint&model=sum", "one or two different models"),
        ("?models=sum", "unknown field 'models'; did you mean 'model'?"),
        ("?q=a&q=b", "has 'q' 2 times"),
        ("?q=" + "x" * 401, "the text has 401 characters"),
        ("?" + "x" * 9_000, "the address has 9001 characters"),
        ("?cut=zero", "is no intervention"),
        ("?cut=2:zero:m0", "is no intervention"),
        ("?cut=0:explode:m0", "is no intervention"),
        ("?cut=0:zero:<script>alert(1)</script>", "is no intervention"),
        ("?cut=0:zero:m0@-1", "is no intervention"),
        ("?at=-1", "at is '-1'"),
        ("?at=1e9", "at is '1e9'"),
        ("?at=٣", "at is '٣'"),
        ("?seed=99999", "seed is 99999"),
        ("?mode=fast", "mode is 'fast'"),
        ("?how=burn", "how is 'burn'"),
        ("?on=2", "on is '2'"),
        ("?view=../app", "view is '../app'"),
        ("?part=<img src=x>", "is no part of a model"),
        ("?" + "&".join(f"cut=0:zero:m{n}" for n in range(CUT_LIMIT + 1)), "interventions at once"),
        ("?" + "&".join(f"x{n}=" for n in range(400)), "does not read"),
    ],
)
def test_a_hostile_address_is_refused_with_what_is_wrong(query: str, says: str) -> None:
    with pytest.raises(SpecError) as error:
        State.parse(query, NAMES)
    assert says in str(error.value)
    assert len(str(error.value)) < 1_000


@pytest.mark.parametrize(
    "action",
    [
        {},
        {"do": None},
        {"do": ["cut"]},
        {"do": "eval", "what": "1+1"},
        {"do": "cut"},
        {"do": "cut", "what": ""},
        {"do": "cut", "what": 7},
        {"do": "cut", "what": "a0.h1", "position": "x"},
        {"do": "cut", "what": "a0.h1", "position": True},
        {"do": "cut", "what": "a0.h1", "position": -1},
        {"do": "restore"},
        {"do": "restore", "cut": 3},
        {"do": "set", "models": "sum"},
        {"do": "set", "models": ["sum", "sum"]},
        {"do": "set", "models": [["sum"]]},
        {"do": "set", "question": None},
        {"do": "set", "question": "[" * 500},
        {"do": "set", "free": "yes"},
        {"do": "set", "view": {"$gt": ""}},
        {"do": "set", "__class__": "x"},
        {"do": "set", "cuts": []},
        {"do": "set", "at": 1.5},
        {"do": "set", "seed": 10**30},
    ],
)
def test_a_forged_action_is_refused(action: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        State(models=("sum",), question=QUESTION).act(action, NAMES)


def test_a_second_press_takes_a_cut_back_and_a_press_for_both_completes_it() -> None:
    state = State(models=("sum", "joint"))
    press = {"do": "cut", "what": "a0.h1"}
    both = state.act(press, NAMES)
    assert [str(cut) for cut in both.cuts] == ["0:zero:a0.h1", "1:zero:a0.h1"]
    assert both.act(press, NAMES) == state
    one = both.act({"do": "restore", "cut": "0:zero:a0.h1"}, NAMES)
    assert {str(cut) for cut in one.act(press, NAMES).cuts} == {"0:zero:a0.h1", "1:zero:a0.h1"}
    alone = dataclasses.replace(state, on="1").act(press, NAMES)
    assert [cut.model for cut in alone.cuts] == [1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training leaves it: two models, one file cut short."""
    root = tmp_path_factory.mktemp("work")
    model_of("LN", 0).save(root / "runs" / "sum" / FILE_NAME)
    model_of("tied", 1, ("MAX", "SUM")).save(root / "runs" / "joint" / FILE_NAME)
    (root / "runs" / "broken").mkdir()
    (root / "runs" / "broken" / FILE_NAME).write_bytes(b"not a model")
    return root


@pytest.fixture
def explorer(folder: Path) -> Explorer:
    models = Models(found_in(folder))
    return Explorer(models, ("sum", "joint"))


def test_a_search_stays_in_its_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(folder / "runs", target_is_directory=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE_NAME).symlink_to(folder / "runs" / "sum" / FILE_NAME)
    (tmp_path / ".hidden" / "run").mkdir(parents=True)
    model_of().save(tmp_path / ".hidden" / "run" / FILE_NAME)
    deep = tmp_path / "/".join("abcd")
    model_of().save(deep / FILE_NAME)
    assert len(deep.relative_to(tmp_path).parts) > DEPTH
    assert found_in(tmp_path) == []
    assert [path.parent.name for path in found_in(folder)] == ["broken", "joint", "sum"]


def test_models_are_named_by_the_ends_of_their_paths_and_say_what_they_are(folder: Path) -> None:
    models = Models(found_in(folder))
    assert models.names == ("broken", "joint", "sum")
    assert models.offers["joint"].facts["trained on"] == "MAX + SUM"
    assert models.offers["joint"].facts["blocks"] == "1, applied 2 times"
    assert models.offers["sum"].facts["learned"] == "not evaluated"
    assert "not a whole safetensors file" in models.offers["broken"].facts["fault"]
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        models.thinker("broken")
    with pytest.raises(SpecError, match=r"no model '\.\./sum' is here"):
        models.thinker("../sum")
    with pytest.raises(SpecError, match="named twice"):
        Models([folder / "runs" / "sum", folder / "runs" / "sum" / FILE_NAME])


def test_a_checkpoint_that_training_writes_anew_is_opened_anew(tmp_path: Path) -> None:
    file = tmp_path / "run" / FILE_NAME
    model_of("LN", 0).save(file)
    models = Models([file])
    first = models.thinker("run")
    assert models.thinker("run") is first and models.offers["run"].facts["trained on"] == "SUM"
    model_of("tied", 1, ("MAX", "SUM")).save(file)
    assert models.offers["run"].facts["trained on"] == "MAX + SUM"
    second = models.thinker("run")
    assert second is not first and second.checkpoint.spec.model.repeat == 2
    file.unlink()
    assert models.thinker("run") is second, "what is open stays open"


def test_one_model_is_opened_while_another_is_still_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(found_in(folder))
    slow, go = threading.Event(), threading.Event()

    def loading(path: Path, **more: Any) -> Any:
        if path.parent.name == "sum":
            slow.set()
            assert go.wait(20)
        return load(path, **more)

    monkeypatch.setattr("kc_interp.explorer.models.load", loading)
    with ThreadPoolExecutor(2) as pool:
        first, again = (pool.submit(models.thinker, "sum") for _ in range(2))
        try:
            assert slow.wait(20)
            assert models.thinker("joint").name == "joint"
            assert not first.done()
        finally:
            go.set()
        assert first.result() is again.result(), "loaded once"


def test_an_empty_address_is_completed_the_same_way_every_time(explorer: Explorer) -> None:
    state = explorer.state("")
    assert state == explorer.state(state.query()) == explorer.state(None)
    assert state.models == ("sum", "joint")
    first, second = (explorer.models.thinker("sum").read(text) for text in (state.question, state.twin))
    assert first.answer_symbols()[0] != second.answer_symbols()[0]
    assert all(side.look is not None and not side.fault for side in explorer.sides(state))


def test_undo_goes_back_in_what_is_thought_and_stays_where_one_looks(explorer: Explorer) -> None:
    start = explorer.state(State(models=("sum", "joint"), question=QUESTION, twin=TWIN).query())
    cut, past = explorer.act(start.query(), {"do": "cut", "what": "m0", "n": 1}, [])
    looked, past = explorer.act(cut.query(), {"do": "set", "view": "lens"}, past)
    assert past == [start.query()]
    back, past = explorer.act(looked.query(), {"do": "undo"}, past)
    assert (back.cuts, back.view, past) == ((), "lens", [])
    with pytest.raises(SpecError, match="nothing to undo"):
        explorer.act(back.query(), {"do": "undo"}, past)


def moved(explorer: Explorer, past: list[str], before: State, *, back_to: State) -> list[str]:
    """The steps back after the browser's own Back (or Forward)."""
    left = explorer.behind(back_to.query(), past, before.query())
    return past if left is None else left


def test_undo_after_the_browsers_back_goes_on_from_there(explorer: Explorer) -> None:
    a = explorer.state(State(models=("sum",), question=QUESTION, twin=TWIN).query())
    b, past = explorer.act(a.query(), {"do": "cut", "what": "m0"}, [])
    c, past = explorer.act(b.query(), {"do": "cut", "what": "m1"}, past)
    assert past == [a.query(), b.query()]
    past = moved(explorer, past, c, back_to=b)
    assert explorer.act(b.query(), {"do": "undo"}, past)[0] == a
    # Where one looks is no step: nothing changes.
    looked, past = explorer.act(b.query(), {"do": "set", "view": "lens"}, past)
    assert moved(explorer, past, looked, back_to=b) == past == [a.query()]
    assert moved(explorer, past, b, back_to=a) == []
    # The same thought twice: of A, B, A, C it is the nearer A that one is back at.
    again = [a.query(), b.query(), a.query()]
    assert moved(explorer, again, c, back_to=a) == again[:2]
    assert moved(explorer, ["?model=gone", a.query()], c, back_to=a) == ["?model=gone"]


def test_the_steps_back_are_never_more_than_one_request_carries(explorer: Explorer) -> None:
    cuts = tuple(Cut(model, "resample", f"m1.n{n}->{'x' * 20}", 9_999) for model in (0, 1) for n in range(32))
    state = State(models=("sum", "joint"), question="[SUM 1 2]" + " " * 300, twin="[SUM 1 3]", cuts=cuts)
    long = state.query()
    assert len(long) * MOST_PAST > LARGEST_BODY
    _, past = explorer.act("?model=sum&q=[SUM 1 2]", {"do": "cut", "what": "m0"}, [long] * 500)
    assert 1 < len(past) < MOST_PAST and past[-1].startswith("?model=sum&q=[SUM%201%202]")
    sent = [State.parse(long, ("sum", "joint")).query(), *past, long, long]
    assert len(json.dumps(sent)) < LARGEST_BODY - 20_000
    _, looked = explorer.act("?model=sum&q=[SUM 1 2]", {"do": "set", "view": "lens"}, [long] * 500)
    assert sum(map(len, looked)) <= MOST_PAST_CHARACTERS


def test_a_new_question_gets_a_second_expression_that_fits_and_one_that_was_typed_is_kept(explorer: Explorer) -> None:
    start = explorer.state("")
    asked, _ = explorer.act(start.query(), {"do": "set", "question": QUESTION}, [])
    thinker = explorer.models.thinker("sum")
    thinker.fitting(asked.question, asked.twin)
    other, _ = explorer.act(asked.query(), {"do": "twin"}, [])
    assert other.twin != asked.twin
    thinker.fitting(other.question, other.twin)
    typed, _ = explorer.act(start.query(), {"do": "set", "question": QUESTION, "twin": TWIN}, [])
    assert typed.twin == TWIN


def test_a_second_expression_is_checked_beside_a_new_question_too(explorer: Explorer) -> None:
    start = explorer.state("")
    for twin, says in (("[SUM 1", "the text ends inside"), ("<b>", "at position 0")):
        with pytest.raises(KCInterpError, match=says):
            explorer.act(start.query(), {"do": "set", "question": QUESTION, "twin": twin}, [])


@pytest.mark.parametrize("names", [("sum", "joint"), ("joint", "sum")])
def test_a_second_expression_that_is_found_is_read_by_every_model_that_reads_the_question(
    explorer: Explorer, names: tuple[str, str]
) -> None:
    thinkers = [explorer.models.thinker(name) for name in names]
    for question in ("[SUM 1 2]", QUESTION, "[SUM [SUM 1 2] [SUM 3 4]]"):
        for turn in range(8):
            twin = questions.twin_of(thinkers, question, turn)
            for thinker in thinkers:
                first, second = thinker.read(question), thinker.fitting(question, twin)
                assert first.answer_symbols()[0] != second.answer_symbols()[0]
                prompts = int(first.prompts[0])
                assert (first.symbols[0, :prompts] != second.symbols[0, :prompts]).sum() == 1
    joint = explorer.models.thinker("joint")
    joint.fitting("[MAX 1 2]", questions.twin_of(thinkers, "[MAX 1 2]"))
    assert questions.twin_of(thinkers, "[MAX 1 2") == ""


@pytest.mark.parametrize("depth", [1, 2])
def test_a_random_question_has_its_depth_and_is_read_by_both_models(explorer: Explorer, depth: int) -> None:
    state, _ = explorer.act("", {"do": "random", "depth": depth}, [])
    for name in state.models:
        thinker = explorer.models.thinker(name)
        chains = thinker.read(state.question)
        assert thinker.checkpoint.task.groups(chains)["depth"].tolist() == [depth]


def test_a_cut_that_says_how_leaves_the_choice_as_it_was(explorer: Explorer) -> None:
    state, _ = explorer.act("", {"do": "cut", "what": "a0.h1", "position": 3, "how": "patch"}, [])
    assert [str(cut) for cut in state.cuts] == ["0:patch:a0.h1@3", "1:patch:a0.h1@3"]
    assert state.how == "zero"


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({"do": "cut", "what": "a7.h0"}, "no part 'a7.h0'"),
        ({"do": "cut", "what": "m0.n99999"}, "no neuron"),
        ({"do": "cut", "what": "m1->m0"}, "no edge"),
        ({"do": "cut", "what": "m0", "position": 5000}, "no position 5000"),
        ({"do": "cut", "what": "m0", "how": "burn"}, "how is 'burn'"),
        ({"do": "set", "question": "[SUM 1"}, "the text ends inside"),
        ({"do": "set", "question": "  "}, "the expression is empty"),
        ({"do": "set", "question": "<script>alert(1)</script>"}, "at position 0"),
        ({"do": "set", "question": "[SUM " + "1 " * 120 + "]"}, "the chain of this question has"),
        ({"do": "random", "depth": 99}, "a depth is a whole number"),
        ({"do": "random", "depth": "2"}, "a depth is a whole number"),
        ({"do": "set", "models": ["/etc/passwd"]}, "no model '/etc/passwd'"),
        ("cut", "where an action is wanted"),
        (None, "where an action is wanted"),
    ],
)
def test_an_action_that_cannot_be_done_says_why(explorer: Explorer, action: Any, says: str) -> None:
    with pytest.raises(KCInterpError) as error:
        explorer.act("", action, "no list")
    assert says in str(error.value)


def test_one_model_that_cannot_read_or_has_no_such_part_leaves_the_other_going(explorer: Explorer) -> None:
    state, _ = explorer.act("", {"do": "set", "question": "[MAX 1 [SUM 2 3]]"}, [])
    first, second = explorer.sides(state)
    assert first.look is None and "no token for MAX" in first.fault
    assert second.look is not None
    cut, _ = explorer.act(state.query(), {"do": "cut", "what": "m0"}, [])
    assert [cut.model for cut in cut.cuts] == [1]


def test_a_cut_that_can_no_longer_be_made_is_released_by_its_own_button(explorer: Explorer) -> None:
    address = "?model=sum&q=[SUM 1 [SUM 4 3]]&twin=[SUM 1 2]&how=patch&cut=0:patch:a0.h1"
    released, _ = explorer.act(address, {"do": "cut", "what": "a0.h1"}, [])
    assert released.cuts == ()
    with pytest.raises(KCInterpError, match="the shape of the first"):
        explorer.act(address, {"do": "cut", "what": "a0.h2"}, [])
    # Of two models, in the one that has it: the other could not be cut.
    one, _ = explorer.act("?model=sum&model=joint&q=[SUM 1 2]", {"do": "cut", "what": "m0.n3"}, [])
    assert [cut.model for cut in one.cuts] == [0, 1]
    half = "?model=sum&model=joint&q=[SUM 1 [SUM 4 3]]&twin=[SUM 1 2]&how=patch&cut=1:zero:a0.h1"
    assert explorer.act(half, {"do": "cut", "what": "a0.h1"}, [])[0].cuts == ()


def test_a_cut_that_an_address_asks_for_in_vain_shows_the_untouched_model(explorer: Explorer) -> None:
    state = explorer.state("?model=sum&q=[SUM 1 2]&cut=0:zero:a9.h9")
    [side] = explorer.sides(state)
    assert "no part 'a9.h9'" in side.fault
    assert side.look is not None and side.look.thought is side.look.untouched
    assert side.look.cuts == () and not side.look.touched and side.look.fault == side.fault
    possible = explorer.state("?model=sum&q=[SUM 1 2]&cut=0:zero:m0")
    [side] = explorer.sides(possible)
    assert side.look is not None and side.look.cuts == possible.cuts and side.look.touched
