"""The explorer's attention, circuit, patching and lens views: their numbers by other routes, and what they refuse."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest
import torch

from kc_interp import circuit_figure, plots
from kc_interp.checkpoint import Checkpoint, context_length
from kc_interp.circuits.effects import Metric
from kc_interp.circuits.reading import direct_attribution
from kc_interp.errors import ProbeError
from kc_interp.explorer import questions
from kc_interp.explorer.state import Cut, State
from kc_interp.explorer.thinking import Thinker
from kc_interp.explorer.views import attention, circuit, lens, patching
from kc_interp.explorer.views.panel import Look, Panel
from kc_interp.explorer.views.twins import Contrast
from kc_interp.finding import Figure, to_plain
from kc_interp.model import parameters
from kc_interp.model.forward import Sites, forward, unembed
from kc_interp.model.interventions import Streams
from kc_interp.plugins import make_task
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec
from kc_interp.tokens import Tokens
from tests.explorer_models import QUESTION, TWIN, model_of

VIEWS: dict[str, Callable[[Look], Iterator[Panel]]] = {
    "attention": attention.panels, "circuit": circuit.panels, "lens": lens.panels, "patching": patching.panels,
}  # fmt: skip

CUTS = ("a0.h1", "a1", "m0", "m1@4", "resid1", "resid1@3", "m1->logits", "bias", "token->a1.h0<v>", "m0.n3")


@functools.cache
def thinker_of(kind: str) -> Thinker:
    if kind == "many heads":
        return Thinker(kind, many_heads())
    if kind == "two operations":
        return Thinker(kind, model_of("LN", operations=("SUM", "MAX")))
    return Thinker(kind, model_of(kind))


def many_heads() -> Checkpoint:
    """Two blocks of twenty heads."""
    spec = RunSpec(
        TaskSpec("listops", {"operations": ("SUM",), "depth": 2, "max_operands": 3}),
        DataSpec(),
        ModelSpec(d_model=16, n_heads=20, d_head=2, init="wide", n_layers=2),
    )
    task = make_task(spec.task)
    shape = {"d_vocab": len(Tokens.of(task, spec.data.vocabulary)), "n_ctx": context_length(spec, task)}
    return Checkpoint(spec, parameters.initialise(spec.model, torch.Generator().manual_seed(0), **shape))


def louder(by: float = 30.0) -> Thinker:
    """A model whose logits are so many times as large."""
    checkpoint = model_of("LN")
    return Thinker(
        "model",
        dataclasses.replace(
            checkpoint,
            params={name: value * by if name == "unembed.W_U" else value for name, value in checkpoint.params.items()},
        ),
    )


@pytest.fixture(scope="module", params=["LN", "none", "tied"])
def thinker(request: pytest.FixtureRequest) -> Thinker:
    return thinker_of(request.param)


def look_of(thinker: Thinker, state: State, side: int = 0) -> Look:
    more = {"twin": state.twin, "free": state.free, "seed": state.seed}
    cuts = state.cuts_of(side)
    thoughts = [thinker.think(state.question, some, **more) for some in (cuts, ())]  # type: ignore[arg-type]
    return Look(state, side, thinker, *thoughts)


def looking(thinker: Thinker, *cuts: str, how: str = "zero", **state: object) -> Look:
    """A look at the question with these parts cut ("m0", "m0@4")."""
    made = tuple(Cut.parse(f"0:{how}:{cut}") for cut in cuts)
    given = {"models": ("one",), "question": QUESTION, "twin": TWIN, "cuts": made, **state}
    return look_of(thinker, State(**given))  # type: ignore[arg-type]


def figures(view: str, look: Look) -> list[Figure]:
    return [panel.figure for panel in VIEWS[view](look) if panel.figure is not None]


def effect_of(contrast: Contrast, probabilities: np.ndarray) -> float:
    """The effect of what leads to this distribution: its log-probabilities are its logits but for a constant."""
    ids = int(contrast.metric.clean), int(contrast.metric.corrupted)
    return float(contrast.effects(np.log(probabilities[[ids[0]]]) - np.log(probabilities[[ids[1]]]))[0])


# Attention


@pytest.mark.parametrize("cuts", [(), ("m0",)])
def test_attention_is_that_of_the_models_own_forward_pass(thinker: Thinker, cuts: tuple[str, ...]) -> None:
    look = looking(thinker, *cuts, at=7, part="a1.h2")
    checkpoint = thinker.checkpoint
    chains = thinker.read(QUESTION)
    ids = torch.from_numpy(checkpoint.tokens.encode(chains.symbols[:, : int(chains.lengths[0]) - 1])).long()
    edits = {"blocks.0.hook_mlp_out": torch.zeros_like} if cuts else {}
    sites = Sites(record=None, edits=edits)
    forward(checkpoint.stacked, checkpoint.spec.model, ids[None], sites=sites)
    patterns = torch.cat([sites.cache[f"blocks.{block}.attn.hook_pattern"][0, 0] for block in (0, 1)]).numpy()
    every, here, one = figures("attention", look)[:3]
    np.testing.assert_allclose(every.data["patterns"], patterns, atol=1e-4)
    np.testing.assert_allclose(here.data["z"], patterns[:, 7], atol=1e-4)
    seen = np.tri(len(patterns[0]), dtype=bool)
    np.testing.assert_allclose(np.asarray(one.data["z"], dtype=float)[seen], patterns[6][seen], atol=1e-4)
    assert (np.asarray(one.data["z"])[~seen] == None).all()  # noqa: E711
    assert here.data["y"][6] == "a1.h2" and one.title.startswith("Attention of a1.h2")


def test_the_change_of_attention_is_the_difference_of_both_thoughts(thinker: Thinker) -> None:
    look, untouched = looking(thinker, "a0.h1", at=9), looking(thinker, at=9)
    before, after = (np.asarray(figures("attention", one)[1].data["z"]) for one in (untouched, look))
    found = figures("attention", look)[3]
    np.testing.assert_allclose(found.data["z"], after - before, atol=2e-4)
    assert found.data["zmid"] == 0 and np.abs(found.data["z"][:4]).max() == 0, "the first block sees no cut"
    assert len(list(attention.panels(untouched))) == 3


def test_attention_to_other_symbols_is_not_subtracted() -> None:
    thinker = thinker_of("LN")
    look = looking(thinker, "m0", free=True)
    assert look.thought.symbols != look.untouched.symbols, "an untrained model writes something else under the cut"
    last = list(attention.panels(look))[-1]
    assert last.figure is None and "wrote other symbols" in last.note
    asked = look.thought.asked - 1
    early = list(attention.panels(looking(thinker, "m0", free=True, at=asked)))[-1]
    assert early.figure is not None and len(early.figure.data["z"][0]) == len(look.thought.symbols) - 1


def test_cuts_do_not_change_which_head_is_shown(thinker: Thinker) -> None:
    untouched, touched = (figures("attention", looking(thinker, *cuts))[2] for cuts in ((), ("a0", "m0")))
    assert untouched.title == touched.title


def test_sixteen_heads_at_once_around_the_chosen_one() -> None:
    thinker = thinker_of("many heads")
    for part, start in (("a0.h3", 0), ("a0.h17", 16), ("a1.h19", 32)):
        panels = list(attention.panels(looking(thinker, part=part)))
        heads = panels[0].figure.data["heads"]  # type: ignore[union-attr]
        assert len(heads) <= attention.MOST_HEADS and heads == list(panels[1].rows)[start : start + 16]
        assert part in heads and "of 40 heads" in panels[0].note


# The circuit


def test_an_edge_of_the_circuit_is_that_edge_patched(thinker: Thinker) -> None:
    look = looking(thinker)
    contrast, query = Contrast.of(look), look.untouched.query
    data = figures("circuit", look)[0].data
    effects = {circuit_figure.name_of(edge): edge["effect"] for edge in data["edges"]}
    assert set(effects) == {thinker.graph.name(edge) for edge in thinker.graph.varying}
    nodes = {node["name"]: node["effect"] for node in data["nodes"]}
    some = [*list(effects)[::11], "m1->logits"]
    for what, effect in [*((name, effects[name]) for name in some), ("a0.h2", nodes["a0.h2"]), ("m0", nodes["m0"])]:
        thought = thinker.think(QUESTION, [Cut(0, "patch", what)], twin=TWIN)
        expected = effect_of(contrast, thought.probabilities[query])
        np.testing.assert_allclose(effect, expected, atol=2e-4 + 1e-3 * abs(expected))
    assert nodes["logits"] is None and "position" not in nodes


def test_the_circuit_is_of_the_untouched_model_and_says_so(thinker: Thinker) -> None:
    plain, cut = (list(circuit.panels(looking(thinker, *cuts))) for cuts in ((), ("a0", "m0")))
    assert plain[0].figure == cut[0].figure
    assert "cuts do not show" in cut[0].note and "cuts do not show" not in plain[0].note


def test_the_buttons_of_the_strongest_edges_cut_and_restore_them(thinker: Thinker) -> None:
    look = looking(thinker)
    strongest = list(circuit.panels(look))[1]
    assert strongest.table is not None
    sizes = [abs(float(row[1])) for row in strongest.table.rows]  # type: ignore[arg-type]
    assert sizes == sorted(sizes, reverse=True)
    text, action = strongest.actions[0]  # type: ignore[misc]
    state = look.state.act(action, ("one",))
    assert text == "Cut" and [cut.what for cut in state.cuts] == [strongest.table.rows[0][0]]
    text, action = list(circuit.panels(look_of(thinker, state)))[1].actions[0]  # type: ignore[misc]
    assert text == "Restore" and state.act(action, ("one",)).cuts == ()


def test_a_graph_too_large_to_draw_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "MOST_EDGES", 100)
    with pytest.raises(ProbeError, match="LN has 110 edges; the circuit is drawn of up to 100"):
        list(circuit.panels(looking(thinker_of("LN"))))


# Patching


def test_a_patched_cell_is_that_cut(thinker: Thinker) -> None:
    look = looking(thinker)
    contrast, query = Contrast.of(look), look.untouched.query
    panel = next(patching.panels(look))
    assert panel.figure is not None and panel.does == "cut"
    z = panel.figure.data["z"]
    assert (len(z), len(z[0])) == (len(panel.rows), len(panel.columns)) == (12, query + 1)
    for row, place in product(range(len(panel.rows)), (2, 6, query)):
        thought = thinker.think(QUESTION, [Cut(0, "patch", panel.rows[row], panel.columns[place])], twin=TWIN)
        expected = effect_of(contrast, thought.probabilities[query])
        np.testing.assert_allclose(z[row][place], expected, atol=2e-4 + 1e-3 * abs(expected))
    assert panel.figure.data["x"][6] == "3/5" and panel.figure.data["x"][2] == "1"


def test_a_click_on_any_cell_is_a_cut_that_the_model_can_make(thinker: Thinker) -> None:
    look = looking(thinker)
    panel = next(patching.panels(look))
    for what, position in zip(panel.rows, panel.columns, strict=False):
        state = look.state.act({"do": "cut", "what": what, "position": position}, ("one",))
        thinker.think(QUESTION, state.cuts)
    assert panel.hint.endswith("A click patches the cell, as the figure does.")


def test_many_heads_share_rows_but_for_one_block() -> None:
    thinker = thinker_of("many heads")
    first, second = (next(patching.panels(looking(thinker, part=part))) for part in ("", "a1.h0"))
    assert [name for name in first.rows if "." not in name] == ["resid0", "m0", "resid1", "a1", "m1"]
    assert [name for name in second.rows if "." not in name] == ["resid0", "a0", "m0", "resid1", "m1"]
    assert "of block 0" in first.note and "of block 1" in second.note
    contrast = Contrast.of(looking(thinker))
    place = len(second.columns) - 1
    thought = thinker.think(QUESTION, [Cut(0, "patch", "a0", place)], twin=TWIN)
    expected = effect_of(contrast, thought.probabilities[place])
    np.testing.assert_allclose(second.figure.data["z"][1][place], expected, atol=2e-3)  # type: ignore[union-attr]


# The lens


@pytest.mark.parametrize("how", ["zero", "mean", "resample", "patch"])
@pytest.mark.parametrize("cut", CUTS)
def test_the_last_stage_is_what_the_model_says(thinker: Thinker, cut: str, how: str) -> None:
    look = looking(thinker, cut, how=how)
    thought = look.thought
    np.testing.assert_allclose(thinker.lens(thought)[-1], thought.probabilities, atol=2e-5)
    data = figures("lens", look)[0].data
    places = range(thought.asked - 1, len(thought.symbols) - 1)
    np.testing.assert_allclose(data["z"][-1], [thought.probability(place + 1) for place in places], atol=1e-4)
    assert data["text"][-1] == [
        "" if thought.choices[place] == thought.symbols[place + 1] else thought.choices[place] for place in places
    ]


def test_the_first_stage_is_the_embedding_unembedded(thinker: Thinker) -> None:
    look, checkpoint = looking(thinker), thinker.checkpoint
    chains = thinker.read(QUESTION)
    ids = torch.from_numpy(checkpoint.tokens.encode(chains.symbols[0, : int(chains.lengths[0])])).long()
    params = checkpoint.stacked
    first = params["embed.W_E"][0][ids[:-1]] + params["pos_embed.W_pos"][0, : len(ids) - 1]
    read = unembed(params, checkpoint.spec.model, first[None, None])[0, 0].softmax(-1)
    asked = look.thought.asked
    expected = read[torch.arange(len(ids) - 1), ids[1:]][asked - 1 :]
    np.testing.assert_allclose(figures("lens", look)[0].data["z"][0], expected, atol=1e-4)


def test_the_top_symbols_are_those_of_the_lens(thinker: Thinker) -> None:
    look = looking(thinker, at=10)
    data, read = figures("lens", look)[1].data, thinker.lens(look.thought)
    assert data["x"][0] == look.thought.symbols[11] and look.thought.choices[10] in data["x"]
    ids = [look.thought.vocabulary.index(symbol) for symbol in data["x"]]
    for stage, series in enumerate(data["series"]):
        np.testing.assert_allclose(series["y"], read[stage, 10, ids], atol=1e-4)


def test_what_the_parts_add_is_direct_logit_attribution(thinker: Thinker) -> None:
    look = looking(thinker)
    thought, vocabulary = look.thought, look.thought.vocabulary
    chains = thinker.read(QUESTION)
    ids = torch.from_numpy(thinker.checkpoint.tokens.encode(chains.symbols[:, : thought.query + 2])).long()
    streams = Streams.of(thinker.params, thinker.checkpoint.spec.model, ids[:, :-1])
    against = [
        direct_attribution(streams, Metric(ids[:, -1], torch.tensor([other]))) for other in range(len(vocabulary))
    ]
    found = lens.added(thinker, thought, thought.query)
    np.testing.assert_allclose(found[:-1], torch.stack(against).mean(0)[:, 0], atol=1e-4)


@pytest.mark.parametrize("cut", [*CUTS, None])
def test_what_the_parts_add_sums_to_the_logit_above_the_mean(thinker: Thinker, cut: str | None) -> None:
    look = looking(thinker, *([cut] if cut else []), at=11)
    logits = np.log(look.thought.probabilities[11])
    token = look.thought.vocabulary.index(look.thought.symbols[12])
    np.testing.assert_allclose(lens.added(thinker, look.thought, 11).sum(), logits[token] - logits.mean(), atol=1e-3)


def test_of_many_writers_those_that_add_most_are_shown() -> None:
    thinker = thinker_of("many heads")
    look = looking(thinker)
    data = figures("lens", look)[2].data
    values = lens.added(thinker, look.thought, look.at)
    assert len(data["x"]) == lens.MOST_WRITERS < len(values)
    least = np.sort(np.abs(values))[-lens.MOST_WRITERS]
    assert np.abs(data["series"][0]["y"]).min() == pytest.approx(least, abs=1e-4)


# Twins


def test_the_two_expressions_stand_below_what_is_read_off_them() -> None:
    for view in ("circuit", "patching"):
        table = list(VIEWS[view](looking(thinker_of("LN"))))[-1].table
        assert table is not None and [row[0] for row in table.rows] == [QUESTION, TWIN]


def test_without_a_second_expression_one_is_asked_for() -> None:
    """The page finds one itself where a single change of the question changes its answer."""
    thinker = Thinker("model", model_of("LN", operations=("MAX",)))
    assert questions.twin_of([thinker], "[MAX 9 9]") == ""
    for view in ("circuit", "patching"):
        with pytest.raises(ProbeError, match=r"no single change of \[MAX 9 9\] that changes .* type a second"):
            list(VIEWS[view](look_of(thinker, State(("one",), "[MAX 9 9]"))))


@pytest.mark.parametrize("view", ["circuit", "patching"])
def test_what_is_no_pair_is_refused(view: str) -> None:
    thinker = thinker_of("LN")
    with pytest.raises(ProbeError, match="same answer"):
        list(VIEWS[view](looking(thinker, twin="[SUM 1 [SUM 3 4] 2]")))
    with pytest.raises(ProbeError, match="shape of the first"):
        list(VIEWS[view](looking(thinker, twin="[SUM 1 2]")))


def test_logit_differences_too_near_for_shares_are_told_in_logits() -> None:
    look = looking(louder(1e-3))
    contrast = Contrast.of(look)
    assert not contrast.in_shares
    assert contrast.effects(np.asarray([contrast.own, contrast.own - 0.25])).tolist() == pytest.approx([0, 0.25])
    for view in ("circuit", "patching"):
        panel = next(VIEWS[view](look))
        assert "too near for shares" in panel.note and panel.figure is not None
        assert "logits towards the second answer" in (panel.figure.data.get("unit"), panel.figure.data.get("z_title"))


def test_a_share_of_one_is_the_second_expressions_own() -> None:
    thinker = louder()
    look = looking(thinker)
    contrast, query = Contrast.of(look), look.untouched.query
    assert contrast.in_shares
    assert contrast.effects(np.asarray([contrast.own, contrast.others])).tolist() == pytest.approx([0, 1])
    panel = next(patching.panels(look))
    assert panel.figure is not None and panel.figure.data["z_title"] == "share of the logit difference"
    thought = thinker.think(QUESTION, [Cut(0, "patch", "resid1", query)], twin=TWIN)
    assert panel.figure.data["z"][6][query] == pytest.approx(
        effect_of(contrast, thought.probabilities[query]), abs=1e-3
    )


def test_a_model_that_diverged_is_refused_before_any_view() -> None:
    with pytest.raises(ProbeError, match="logits of model are not finite"):
        looking(louder(float("nan")))


# All of them


STATES = {
    "untouched": {},
    "no nesting": {"question": "[SUM 1 2]", "twin": "[SUM 1 5]"},
    "free": {"free": True},
    "free and cut": {"free": True, "cuts": (Cut(0, "zero", "a0"), Cut(0, "mean", "m1.n2"))},
    "cut at a place": {"cuts": (Cut(0, "patch", "resid1", 5), Cut(0, "resample", "m0"))},
    "at the first position": {"at": 0},
    "at a position beyond": {"at": 900},
    "of a part that is no head": {"part": "m0.n3"},
    "of a head that it does not have": {"part": "a7.h9"},
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["LN", "none", "tied", "many heads", "two operations"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_figure_draws_and_says_what_would_refute_it(view: str, kind: str, state: str) -> None:
    for panel in VIEWS[view](looking(thinker_of(kind), **STATES[state])):
        if panel.table is not None:
            assert all(len(row) == len(panel.table.columns) for row in panel.table.rows)
            assert len(panel.actions) in (0, len(panel.table.rows))
        if panel.figure is None:
            continue
        figure = panel.figure
        assert figure.shows and figure.refuted_by
        json.dumps(figure.data, allow_nan=False)
        if figure.kind == "circuit":
            circuit_figure.checked(figure)
            assert to_plain(figure.data) == figure.data
        elif figure.kind in plots.DRAWN:
            plots.draw(figure)
        assert plots.table_of(figure).rows
        if panel.does:
            z = figure.data["z"]
            assert len(panel.rows) in (0, len(z)) and len(panel.columns) == len(z[0])


def test_the_second_model_is_seen_under_its_own_cuts() -> None:
    state = State(("one", "two"), QUESTION, TWIN, cuts=(Cut(1, "zero", "a0"),))
    looks = [look_of(thinker_of("LN"), state, side) for side in (0, 1)]
    assert [len(list(attention.panels(look))) for look in looks] == [3, 4]
    assert figures("lens", looks[0])[0].data["z"] != figures("lens", looks[1])[0].data["z"]
