"""The explorer's views of embedding, parts and neurons: their numbers against other routes to them."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np
import pytest
import torch

from kc_interp import plots
from kc_interp.errors import ProbeError
from kc_interp.explorer import words
from kc_interp.explorer.state import Cut, How, State
from kc_interp.explorer.thinking import Thinker
from kc_interp.explorer.views import embedding, neurons, parts
from kc_interp.explorer.views.panel import Look, Panel
from kc_interp.explorer.views.sample import BEST, digit_tokens, sample
from kc_interp.finding import Figure, Table, dumps
from kc_interp.model.forward import Sites, forward
from tests.explorer_models import QUESTION, TWIN, model_of

VIEWS = (embedding, parts, neurons)


@pytest.fixture(scope="module", params=["LN", "none", "tied"])
def thinker(request: pytest.FixtureRequest) -> Thinker:
    return Thinker("model", model_of(request.param))


def look_of(thinker: Thinker, state: State, side: int = 0) -> Look:
    thought = thinker.think(state.question, state.cuts_of(side), twin=state.twin, free=state.free, seed=state.seed)
    return Look(state, side, thinker, thought, thinker.think(state.question, free=state.free))


def figures_of(panels: list[Panel]) -> list[Figure]:
    return [panel.figure for panel in panels if panel.figure is not None]


def tables_of(panels: list[Panel]) -> list[Table]:
    return [panel.table for panel in panels if panel.table is not None]


def ids_of(thinker: Thinker, text: str) -> torch.Tensor:
    chains = thinker.read(text)
    return torch.from_numpy(thinker.checkpoint.tokens.encode(chains.symbols[:, : int(chains.lengths[0]) - 1]))


STATES = {
    "untouched": State(question=QUESTION),
    "cut, one neuron": State(question=QUESTION, cuts=(Cut(0, "zero", "a0.h1"), Cut(0, "mean", "m0.n3")), part="m1.n5"),
    "free": State(question=QUESTION, cuts=(Cut(0, "zero", "m0"),), free=True, part="m0.n2", at=2, how="mean"),
    "patch": State(question=QUESTION, twin=TWIN, how="patch", at=4, part="a0.h1"),
    "resample": State(question=QUESTION, how="resample", seed=3, cuts=(Cut(0, "resample", "resid1", 5),)),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__.rsplit(".", 1)[1])
def test_every_panel_can_be_drawn_and_every_action_taken(thinker: Thinker, view: ModuleType, name: str) -> None:
    state = dataclasses.replace(STATES[name], models=("model",))
    panels = list(view.panels(look_of(thinker, state)))
    assert panels
    for panel in panels:
        if panel.figure is not None:
            assert panel.figure.shows and panel.figure.refuted_by
            assert plots.table_of(panel.figure).rows
            if panel.figure.kind in plots.DRAWN:
                plots.draw(panel.figure, arm=1, limits=plots.limits_of([panel.figure]))
        if panel.table is not None:
            assert {len(row) for row in panel.table.rows} == {len(panel.table.columns)}
            assert len(panel.actions) in (0, len(panel.table.rows))
        for says, action in filter(None, panel.actions):
            assert says and state.act(action, ["model"]) != state
        dumps({"figure": panel.figure, "table": panel.table})


BESIDE = (Cut(0, "zero", "a0.h1"), Cut(0, "mean", "m0.n3"), Cut(0, "zero", "m1.n4", 3), Cut(0, "patch", "resid1", 2))


@pytest.mark.parametrize(
    ("cuts", "how"),
    [((), "zero"), ((), "resample"), (BESIDE, "zero"), (BESIDE, "mean"), (BESIDE, "patch")],
    ids=["zero", "resample", "zero beside others", "mean beside others", "patch beside others"],
)
def test_parts_cut_in_one_batch_are_parts_cut_one_by_one(thinker: Thinker, cuts: tuple[Cut, ...], how: How) -> None:
    query = thinker.think(QUESTION).query
    names = [*parts.parts_of(thinker.graph), "token", "resid1", "a0.h2->m1", "m1->logits"]
    names += ["m0.n0", "m0.n3", "m1.n7", "m1.n4", f"m1.n{thinker.d_mlp - 1}"]
    others = [Cut(0, how, name) for name in names] + [
        Cut(0, how, name, place) for name in names[-7:] for place in (3, query)
    ]
    found = thinker.without(QUESTION, cuts, others, twin=TWIN, seed=1)
    for row, other in zip(found, others, strict=True):
        alone = thinker.think(QUESTION, [*cuts, other], twin=TWIN, seed=1)
        np.testing.assert_allclose(row, alone.probabilities[query], atol=2e-5, err_msg=str(other))


def test_nothing_cut_in_one_batch_is_nothing_and_a_part_it_lacks_is_refused(thinker: Thinker) -> None:
    assert thinker.without(QUESTION, [], []).shape == (0, len(thinker.checkpoint.tokens))
    with pytest.raises(ProbeError, match=r"has no neuron 'm9\.n0'"):
        thinker.without(QUESTION, [], [Cut(0, "zero", "m9.n0")])
    with pytest.raises(ProbeError, match="no position 999"):
        thinker.without(QUESTION, [], [Cut(0, "zero", "m0", 999)])


@pytest.mark.parametrize("cuts", [(), (Cut(0, "mean", "a0.h1"),)], ids=["untouched", "cut"])
def test_a_neurons_exact_effect_is_the_answer_thought_without_it(thinker: Thinker, cuts: tuple[Cut, ...]) -> None:
    state = State(question=QUESTION, cuts=cuts)
    table = tables_of(list(neurons.panels(look_of(thinker, state))))[1]
    assert "cutting changes" in table.title and len(table.rows) == neurons.TOP
    before = thinker.think(QUESTION, cuts)
    target = before.vocabulary.index(before.target)
    for name, activation, rise, fall, answer in table.rows:
        after = thinker.think(QUESTION, [*cuts, Cut(0, "zero", str(name))])
        block, neuron = (int(number) for number in str(name)[1:].split(".n"))
        own, others = before.probabilities[before.query, target], after.probabilities[before.query, target]
        assert activation == pytest.approx(float(before.neurons[block, before.query, neuron]))
        assert rise == pytest.approx(np.log(own / others), abs=1e-4)
        assert fall == pytest.approx(own - others, abs=1e-5)
        assert answer == after.answer
    sizes = [abs(row[2]) for row in table.rows]  # type: ignore[arg-type]
    assert sizes == sorted(sizes, reverse=True)


def test_direct_effects_with_the_rest_of_the_stream_are_the_logit(thinker: Thinker) -> None:
    """All neurons, and all else that is written, add up to the logit less the mean, but for the constants."""
    thought = thinker.think(QUESTION, [Cut(0, "zero", "a1.h0")])
    params, spec, at = thinker.checkpoint.params, thinker.checkpoint.spec.model, thought.query
    symbol = thought.choices[at]
    found = neurons.direct_effects(thinker, thought, at, symbol)
    token, unembed = thought.vocabulary.index(symbol), params["unembed.W_U"].double()
    stream = (thought.read[:, at].sum(0) + thought.bias[-1, at]).double()

    def logit(x: torch.Tensor) -> float:
        """By the model's own read-out, the scale as in the whole stream."""
        if spec.norm == "LN":
            x = (x - x.mean()) / (stream.var(unbiased=False) + 1e-5).sqrt() * params["ln_final.w"].double()
        logits = x @ unembed
        return float(logits[token] - logits.mean())

    for block in range(spec.depth):
        mlp = f"blocks.{block % spec.n_layers}.mlp."
        post = torch.from_numpy(thought.neurons[block, at]).double()
        assert found[block, 7] == pytest.approx(logit(post[7] * params[mlp + "W_out"][7].double()), abs=1e-6)
        whole = found[block].sum() + logit(params[mlp + "b_out"].double())
        written = thought.written[thinker.graph.head(block, spec.n_heads), at].double()
        assert whole == pytest.approx(logit(written), abs=1e-5)
    logits = thought.probabilities[at]
    constant = params["unembed.b_U"].double() + (
        params["ln_final.b"].double() @ unembed if spec.norm == "LN" else torch.zeros(len(logits)).double()
    )
    own = np.log(logits[token]) - np.log(logits).mean()
    assert logit(stream) + float(constant[token] - constant.mean()) == pytest.approx(own, abs=1e-4)


def test_a_neuron_whose_mlp_the_unembedding_does_not_read_has_no_direct_effect(thinker: Thinker) -> None:
    thought = thinker.think(QUESTION, [Cut(0, "zero", "m0->logits")])
    found = neurons.direct_effects(thinker, thought, thought.query, thought.choices[thought.query])
    assert (found[0] == 0).all() and (found[1] != 0).any()


def test_norms_and_ratios_are_those_of_the_forward_pass(thinker: Thinker) -> None:
    sites = Sites(record=None)
    spec = thinker.checkpoint.spec.model
    with torch.no_grad():
        forward(thinker.checkpoint.stacked, spec, ids_of(thinker, QUESTION)[None], sites=sites)
    look = look_of(thinker, State(question=QUESTION, at=4))
    at_position, over_chain, centred = list(parts.panels(look))[:3]
    assert at_position.figure and over_chain.figure and centred.table
    first = look.thought.asked - 1

    def site(block: int, name: str) -> np.ndarray:
        return sites.cache[f"blocks.{block}.{name}"][0, 0].double().numpy()

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt((x**2).sum(-1).mean()))

    totals = np.zeros(2)
    for block in range(spec.depth):
        attention, mlp, pre, mid = (
            site(block, name) for name in ("hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_mid")
        )
        for figure, chosen in ((at_position.figure, slice(4, 5)), (over_chain.figure, slice(first, None))):
            shares = [series["y"][block] for series in figure.data["series"]]
            expected = [rms(attention[chosen]) / rms(pre[chosen]), rms(mlp[chosen]) / rms(mid[chosen])]
            assert shares == pytest.approx(expected, rel=1e-4)
        spread = [rms(x[first:] - x[first:].mean(0)) for x in (attention, mlp)]
        assert centred.table.rows[block][1:] == pytest.approx((*spread, spread[0] / spread[1]), rel=1e-4)
        totals += np.square(spread)
    assert centred.table.rows[-1][1:] == pytest.approx((*np.sqrt(totals), np.sqrt(totals[0] / totals[1])), rel=1e-4)


def test_a_parts_worth_is_the_answer_thought_without_it(thinker: Thinker) -> None:
    state = State(question=QUESTION, twin=TWIN, how="patch", free=True)
    panels = list(parts.panels(look_of(thinker, state)))
    (bars,) = [figure for figure in figures_of(panels) if figure.title.startswith("Rise")]
    table = tables_of(panels)[-1]
    before = thinker.think(QUESTION)
    target = before.vocabulary.index(before.target)
    assert [row[0] for row in table.rows] == parts.parts_of(thinker.graph)
    assert [str(name).removesuffix(" (all)") for name in bars.data["x"]] == [row[0] for row in table.rows]
    for index, (name, _, rise, fall, answer) in enumerate(table.rows):
        after = thinker.think(QUESTION, [Cut(0, "patch", str(name))], twin=TWIN)
        own, others = before.probabilities[before.query, target], after.probabilities[before.query, target]
        assert rise == pytest.approx(np.log(own / others), abs=1e-4)
        assert bars.data["series"][0]["y"][index] == pytest.approx(rise, abs=1e-4)
        assert fall == pytest.approx(own - others, abs=1e-5) and answer == after.answer


def test_where_a_cut_cannot_be_made_the_page_is_told_why_and_the_rest_stands(thinker: Thinker) -> None:
    state = State(question=QUESTION, how="patch")
    found = list(parts.panels(look_of(thinker, state)))
    assert len(figures_of(found)) == 2 and "type one" in found[-1].note
    found = list(neurons.panels(look_of(thinker, state)))
    assert len(tables_of(found)) == 1 and "type one" in found[-1].note


def test_a_chosen_neuron_comes_first_with_its_activations_and_its_best_examples(thinker: Thinker) -> None:
    look = look_of(thinker, State(question=QUESTION, part="m1.n5"))
    own, chain, best, *lists = neurons.panels(look)
    assert own.table and chain.figure and best.table and len(lists) == 2
    assert own.actions == (("Cut", {"do": "cut", "what": "m1.n5", "position": None}),)
    np.testing.assert_allclose(chain.figure.data["values"], look.thought.neurons[1, :, 5], atol=1e-4)
    assert list(chain.figure.data["tokens"]) == list(look.thought.symbols[:-1])
    drawn, task = sample(thinker), thinker.checkpoint.task
    assert len(best.table.rows) == BEST
    formatted = {text: row for row, text in enumerate(task.format(drawn.chains))}
    for text, position, activation in best.table.rows:
        plain = str(text).replace("‹", "").replace("›", "")
        assert plain in formatted and str(text).count("‹") == 1
        ids = ids_of(thinker, plain.split(" > ")[0].split(" = ")[0])
        sites = Sites(record=["blocks.1.mlp.hook_post"])
        with torch.no_grad():
            forward(thinker.checkpoint.stacked, thinker.checkpoint.spec.model, ids[None], sites=sites)
        values = sites.cache["blocks.1.mlp.hook_post"][0, 0, :, 5]
        assert int(values.argmax()) == position and float(values.max()) == pytest.approx(activation, abs=1e-4)


def test_a_position_is_marked_where_it_stands() -> None:
    task = model_of("LN", operations=("SUM", "MAX")).task
    chains = task.parse("[SUM 1 [MAX 4 3]]")
    texts = [neurons.marked(task, chains, 0, position) for position in (0, 4, 6, 7, 13)]
    assert texts == [
        "‹[›SUM 1 [MAX 4 3]] > [SUM 1 4] = 5",
        "[SUM 1 [‹MAX› 4 3]] > [SUM 1 4] = 5",
        "[SUM 1 [MAX 4 ‹3›]] > [SUM 1 4] = 5",
        "[SUM 1 [MAX 4 3‹]›] > [SUM 1 4] = 5",
        "[SUM 1 [MAX 4 3]] > [SUM 1 ‹4›] = 5",
    ]


def test_the_sample_is_the_same_each_time_and_fits_the_model(thinker: Thinker) -> None:
    again = Thinker("other", thinker.checkpoint)
    first, second = sample(thinker), sample(again)
    np.testing.assert_array_equal(first.activation, second.activation)
    assert (first.chains.lengths - 1 <= thinker.checkpoint.n_ctx).all()
    assert (np.diff(first.activation, axis=0) <= 0).all()
    assert ((first.active >= 0) & (first.active <= 1)).all()


def test_digits_in_the_stream_are_means_over_the_questions_of_the_sample(thinker: Thinker) -> None:
    drawn, tokens = sample(thinker), digit_tokens(thinker)
    ids = torch.from_numpy(thinker.checkpoint.tokens.encode(drawn.chains.symbols))[:, :-1]
    asked = np.arange(ids.shape[1]) < drawn.chains.prompts[:, None]
    sites = Sites(record=["blocks.1.hook_resid_post"])
    with torch.no_grad():
        forward(thinker.checkpoint.stacked, thinker.checkpoint.spec.model, ids[None], sites=sites)
    stream = sites.cache["blocks.1.hook_resid_post"][0].double().numpy()
    for digit in (0, 7):
        expected = stream[(ids.numpy() == tokens[digit]) & asked].mean(0)
        np.testing.assert_allclose(drawn.digits[1, digit], expected, atol=1e-4)


def test_two_components_and_cosines_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA
    from sklearn.metrics.pairwise import cosine_similarity

    points = np.random.default_rng(0).normal(size=(10, 6))
    found, shares = embedding.principal(points)
    pca = PCA(2).fit(points)
    np.testing.assert_allclose(np.abs(found), np.abs(pca.transform(points)), atol=1e-9)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, atol=1e-9)
    np.testing.assert_allclose(embedding.cosines(points), cosine_similarity(points - points.mean(0)), atol=1e-9)
    assert np.arange(10) @ found[:, 0] > 0, "turned so that it rises with the digits"
    flat, share = embedding.principal(np.ones((4, 1)))
    assert (flat == 0).all() and (share == 0).all() and (embedding.cosines(np.ones((4, 1))) == 0).all()


def test_the_digits_of_embedding_and_unembedding_are_shown_whatever_is_asked_and_cut(thinker: Thinker) -> None:
    panels = list(embedding.panels(look_of(thinker, State(question=QUESTION))))
    cut = State(question="[SUM 2 3]", cuts=(Cut(0, "zero", "m0"),), free=True)
    assert list(embedding.panels(look_of(thinker, cut))) == panels
    assert len(panels) == 2 * (2 + thinker.graph.depth)
    cosine = panels[1].figure
    assert cosine and cosine.data["x"] == [str(digit) for digit in range(10)]
    rows = thinker.checkpoint.params["embed.W_E"][digit_tokens(thinker)].double()
    rows = rows - rows.mean(0)
    expected = float(torch.nn.functional.cosine_similarity(rows[2], rows[7], dim=0))
    assert cosine.data["z"][2][7] == pytest.approx(expected, abs=1e-4)
    assert all("intervention" in panel.note for panel in panels)


def test_a_neuron_that_one_model_lacks_leaves_its_rows_empty(thinker: Thinker) -> None:
    two = State(("model", "other"), QUESTION, part="m1.n4000")
    missing = list(neurons.panels(look_of(thinker, two)))
    there = list(neurons.panels(look_of(thinker, dataclasses.replace(two, part="m1.n4"))))
    alone = list(neurons.panels(look_of(thinker, dataclasses.replace(two, models=("model",)))))
    assert len(missing) == len(there) and "has no neuron m1.n4000" in missing[0].note
    assert len(alone) == len(there) - 2


def test_very_many_neurons_are_not_cut_one_by_one(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons, "EXACT_MOST", 10)
    panels = list(neurons.panels(look_of(thinker, State(question=QUESTION, part="m0.n1"))))
    assert "too many to cut one by one" in panels[-1].note and len(tables_of(panels)) == 3


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (Cut(0, "zero", "a1"), "Every head of block 1 carries nothing."),
        (Cut(0, "mean", "resid1", 4), "The residual stream into block 1 carries its mean over questions of the same shape, at position 4 (SUM)."),
        (Cut(1, "resample", "a0.h1->m0"), "The edge a0.h1->m0 carries what it carries in another question of the same shape with another answer."),
        (Cut(0, "patch", "token"), "The token embedding carries what it carries in the second expression."),
    ],
)  # fmt: skip
def test_interventions_are_said_in_words(cut: Cut, says: str) -> None:
    assert words.cut(cut, "SUM") == says
