"""What the explorer computes, against the library's other routes to the same numbers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import DataError, ExpressionError, ProbeError
from kc_interp.explorer.state import Cut
from kc_interp.explorer.thinking import REFERENCES, Thinker, edges_of
from kc_interp.metrics import Items, decode
from kc_interp.model.forward import Sites, forward
from kc_interp.model.patch import Run, patch
from kc_interp.tokens import position_classes
from tests.explorer_models import QUESTION, TWIN, model_of


@pytest.fixture(scope="module", params=["LN", "none", "tied"])
def thinker(request: pytest.FixtureRequest) -> Thinker:
    return Thinker("model", model_of(request.param))


def logits_of(thinker: Thinker, ids: torch.Tensor, **edits: object) -> torch.Tensor:
    checkpoint = thinker.checkpoint
    return forward(checkpoint.stacked, checkpoint.spec.model, ids[None], sites=Sites(edits=dict(edits)))[0, 0]


def ids_of(thinker: Thinker, text: str) -> torch.Tensor:
    chains = thinker.read(text)
    return torch.from_numpy(thinker.checkpoint.tokens.encode(chains.symbols[:, : int(chains.lengths[0]) - 1])).long()


def close(found: np.ndarray, logits: torch.Tensor, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(found, logits.softmax(-1).numpy(), atol=atol)


def test_untouched_it_is_the_models_own_forward_pass(thinker: Thinker) -> None:
    thought = thinker.think(QUESTION)
    ids = ids_of(thinker, QUESTION)
    close(thought.probabilities, logits_of(thinker, ids))
    sites = Sites(record=None)
    forward(thinker.checkpoint.stacked, thinker.checkpoint.spec.model, ids[None], sites=sites)
    for block in range(thinker.graph.depth):
        np.testing.assert_allclose(
            thought.patterns[block], sites.cache[f"blocks.{block}.attn.hook_pattern"][0, 0], atol=1e-5
        )
        np.testing.assert_allclose(
            thought.neurons[block], sites.cache[f"blocks.{block}.mlp.hook_post"][0, 0], atol=1e-5
        )
    np.testing.assert_allclose(thinker.lens(thought)[-1], thought.probabilities, atol=1e-5)


def test_a_head_cut_by_zero_is_a_head_that_writes_nothing(thinker: Thinker) -> None:
    def off(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[..., 1, :] = 0
        return z

    close(
        thinker.think(QUESTION, [Cut(0, "zero", "a0.h1")]).probabilities,
        logits_of(thinker, ids_of(thinker, QUESTION), **{"blocks.0.attn.hook_z": off}),
    )


def test_a_neuron_cut_at_one_position_is_an_edit_of_its_activation_there(thinker: Thinker) -> None:
    def off(post: torch.Tensor) -> torch.Tensor:
        post = post.clone()
        post[..., 3, 5] = 0
        return post

    found = thinker.think(QUESTION, [Cut(0, "zero", "m1.n5", 3)])
    close(found.probabilities, logits_of(thinker, ids_of(thinker, QUESTION), **{"blocks.1.mlp.hook_post": off}))
    assert found.neurons[1, 3, 5] == 0


def test_an_mlp_cut_by_the_mean_writes_the_mean_over_its_references(thinker: Thinker) -> None:
    references = thinker.references(QUESTION)
    ids = torch.from_numpy(thinker.checkpoint.tokens.encode(references.symbols[:, : int(references.lengths[0]) - 1]))
    sites = Sites(record=["blocks.0.hook_mlp_out"])
    forward(thinker.checkpoint.stacked, thinker.checkpoint.spec.model, ids[None].long(), sites=sites)
    # The output bias of the MLP is part of what it writes, in both.
    mean = sites.cache["blocks.0.hook_mlp_out"].mean(1, keepdim=True)
    close(
        thinker.think(QUESTION, [Cut(0, "mean", "m0")]).probabilities,
        logits_of(thinker, ids_of(thinker, QUESTION), **{"blocks.0.hook_mlp_out": lambda _: mean}),
    )
    answers = references.answer_symbols()
    assert len(references) == REFERENCES and len(np.unique(answers)) == 10, "whatever their answers are"


def test_a_resampled_question_has_the_shape_and_another_answer_and_the_seed_chooses_it(thinker: Thinker) -> None:
    drawn = [thinker.resampled(QUESTION, seed) for seed in range(6)]
    chains, task = thinker.read(QUESTION), thinker.checkpoint.task
    for one in drawn:
        assert one.answer_symbols()[0] != chains.answer_symbols()[0]
        assert (position_classes(task, one) == position_classes(task, chains)).all()
    assert len({tuple(one.symbols[0].tolist()) for one in drawn}) > 1


@pytest.mark.parametrize("block", [0, 1])
def test_the_stream_cut_by_zero_is_a_stream_that_enters_empty_and_gets_the_later_biases(
    thinker: Thinker, block: int
) -> None:
    name = f"blocks.{block}.hook_resid_pre"
    for position in (None, 4):

        def empty(resid: torch.Tensor, position: int | None = position) -> torch.Tensor:
            resid = resid.clone()
            resid[:, :, slice(None) if position is None else position] = 0
            return resid

        thought = thinker.think(QUESTION, [Cut(0, "zero", f"resid{block}", position)])
        # What is left of an emptied stream is rounding, which LayerNorm magnifies.
        close(thought.probabilities, logits_of(thinker, ids_of(thinker, QUESTION), **{name: empty}), atol=2e-4)
        np.testing.assert_allclose(thinker.lens(thought)[-1], thought.probabilities, atol=1e-5)


def test_patching_the_stream_at_a_position_is_activation_patching(thinker: Thinker) -> None:
    checkpoint, query = thinker.checkpoint, thinker.think(QUESTION).query
    base, source = (
        Run.of(checkpoint.stacked, checkpoint.spec.model, ids_of(thinker, text)[:, : query + 1])
        for text in (QUESTION, TWIN)
    )
    stream, heads = patch(base, source, "resid_pre"), patch(base, source, "z")
    for position in (2, query):
        for block in range(thinker.graph.depth):
            found = thinker.think(QUESTION, [Cut(0, "patch", f"resid{block}", position)], twin=TWIN)
            close(found.probabilities[query], stream[block, 0, position, 0])
            found = thinker.think(QUESTION, [Cut(0, "patch", f"a{block}.h2", position)], twin=TWIN)
            close(found.probabilities[query], heads[block, 2, position, 0])


def test_patching_everything_is_the_other_run(thinker: Thinker) -> None:
    found = thinker.think(QUESTION, [Cut(0, "patch", "resid0")], twin=TWIN)
    np.testing.assert_allclose(found.probabilities, thinker.think(TWIN).probabilities, atol=2e-5)


def test_a_later_cut_of_the_same_part_wins(thinker: Thinker) -> None:
    both = [Cut(0, "mean", "m0"), Cut(0, "zero", "m0")]
    np.testing.assert_array_equal(
        thinker.think(QUESTION, both).probabilities, thinker.think(QUESTION, both[1:]).probabilities
    )


@pytest.mark.parametrize("question", [QUESTION, TWIN, "[SUM [SUM 1 2] [SUM 3 4]]"])
def test_a_free_run_is_a_greedy_decode(thinker: Thinker, question: str) -> None:
    chains, checkpoint = thinker.read(question), thinker.checkpoint
    written = decode(checkpoint.stacked, checkpoint.spec.model, Items.of(chains, checkpoint.tokens))[0]
    thought = thinker.think(question, free=True)
    found = [checkpoint.tokens.symbols.index(symbol) for symbol in thought.symbols]
    assert found == written[: len(found)].tolist()
    assert thought.end or len(found) == checkpoint.n_ctx + 1
    assert thought.choices[thought.asked - 1 :] == thought.symbols[thought.asked :], "greedy by definition"


@pytest.mark.parametrize("part", ["m0", "m1", "a1.h0", "m0.n3"])
def test_a_free_run_under_a_cut_is_a_greedy_decode_of_the_cut_model_however_long_it_grows(
    thinker: Thinker, part: str
) -> None:
    block = part[1]

    def off(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        if part.startswith("m"):
            value[..., int(part[4:]) if "." in part else slice(None)] = 0
        else:
            value[..., int(part[4:]), :] = 0
        return value

    site = f"blocks.{block}." + (
        "hook_mlp_out" if part in ("m0", "m1") else "mlp.hook_post" if "n" in part else "attn.hook_z"
    )
    chains, end = thinker.read(QUESTION), thinker.checkpoint.tokens.end
    ids = ids_of(thinker, QUESTION)[:, : int(chains.prompts[0])]
    while ids.shape[1] <= thinker.checkpoint.n_ctx and ids[0, -1] != end:
        ids = torch.cat([ids, logits_of(thinker, ids, **{site: off})[-1:, None].argmax(-1)], dim=1)
    thought = thinker.think(QUESTION, [Cut(0, "zero", part)], free=True)
    assert [thinker.checkpoint.tokens.symbols[token] for token in ids[0].tolist()] == list(thought.symbols)
    assert thought.restored_from is None


def test_a_free_run_that_outgrows_the_correct_chain_says_from_where_on_nothing_is_known_to_put_in() -> None:
    longer = 0
    for seed in range(3):
        thinker = Thinker("model", model_of("LN", seed))
        thought = thinker.think(QUESTION, [Cut(0, "mean", "m0")], free=True)
        known = len(thought.correct) - 1
        assert thought.restored_from == (known if len(thought.symbols) - 1 > known else None)
        assert thought.choices[thought.asked - 1 :] == thought.symbols[thought.asked :]
        longer += thought.restored_from is not None
        assert thinker.think(QUESTION, [Cut(0, "mean", "m0", 3)], free=True).restored_from is None
    assert longer


def test_a_model_that_diverged_is_refused() -> None:
    checkpoint = model_of("LN")
    params = {**checkpoint.params, "unembed.b_U": torch.full_like(checkpoint.params["unembed.b_U"], float("nan"))}
    with pytest.raises(ProbeError, match="not finite; did its training diverge"):
        Thinker("broken", Checkpoint(checkpoint.spec, params)).think(QUESTION)


def test_what_is_asked_twice_at_once_is_worked_out_once_and_an_error_is_not_kept() -> None:
    thinker, started, made = Thinker("model", model_of("LN")), threading.Event(), []

    def slowly() -> str:
        started.set()
        time.sleep(0.2)
        made.append(1)
        return "made"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(thinker.kept, "key", slowly) for _ in range(4)]
        assert {one.result() for one in asked} == {"made"} and len(made) == 1

    def failing() -> str:
        raise ProbeError("no")

    for _ in range(2):
        with pytest.raises(ProbeError, match="no"):
            thinker.kept("other", failing)


def test_answers_are_forgotten_by_their_size_the_oldest_first() -> None:
    thinker = Thinker("model", model_of("LN"))
    for index in range(5):
        thinker.kept(index, lambda: np.zeros(8_000_000))
    assert thinker.kept(4, lambda: None) is not None, "the newest is kept"
    assert thinker.kept(0, lambda: None) is None, "the oldest is gone"


def test_what_cannot_be_cut_or_read_is_refused_by_name(thinker: Thinker) -> None:
    with pytest.raises(ProbeError, match=r"has no part 'a9.h0'"):
        thinker.think(QUESTION, [Cut(0, "zero", "a9.h0")])
    with pytest.raises(ProbeError, match=r"no edge 'm1->a0\.h0<q>'"):
        thinker.think(QUESTION, [Cut(0, "zero", "m1->a0.h0<q>")])
    with pytest.raises(ProbeError, match=r"has no neuron 'm0.n99999'"):
        thinker.think(QUESTION, [Cut(0, "zero", "m0.n99999")])
    with pytest.raises(ProbeError, match="no position 999"):
        thinker.think(QUESTION, [Cut(0, "zero", "m0", 999)])
    with pytest.raises(ProbeError, match="type one"):
        thinker.think(QUESTION, [Cut(0, "patch", "m0")])
    with pytest.raises(ProbeError, match="shape of the first"):
        thinker.think(QUESTION, [Cut(0, "patch", "m0")], twin="[SUM 1 2]")
    with pytest.raises(ProbeError, match="same answer"):
        thinker.pair(QUESTION, QUESTION)
    with pytest.raises(DataError, match="has no token for MAX"):
        thinker.read("[MAX 1 2]")
    with pytest.raises(DataError, match="ask with fewer operations"):
        thinker.read("[SUM [SUM [SUM 1 2 3] [SUM 1 2 3] [SUM 1 2 3]] [SUM 1 2 3] [SUM 1 2 3]]")
    with pytest.raises(ExpressionError, match="at position 0"):
        thinker.read("hello")


def test_every_part_named_has_its_edges() -> None:
    graph = Thinker("model", model_of("LN")).graph
    assert set(edges_of(graph, "a1")) == {edge for head in range(4) for edge in edges_of(graph, f"a1.h{head}")}
    assert set(edges_of(graph, "resid0")) == {edge for edge in graph.edges if edge[0] < 3}
    assert edges_of(graph, "a0.h1->m0") == [graph.edge("a0.h1->m0")]
