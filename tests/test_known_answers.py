"""Known-answer models are right on every question, and exact interventions find the edges that they claim, no others."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from kc_interp import checkpoint as checkpoints
from kc_interp import metrics, plugins
from kc_interp.circuits.effects import edge_logits
from kc_interp.errors import ProbeError, SpecError
from kc_interp.known_answers.answer import Edge, KnownAnswer
from kc_interp.known_answers.constructed import arithmetic_sum, flat_table_sum, one_reduction
from kc_interp.known_answers.masked import Wiring, carried, train
from kc_interp.metrics import Items
from kc_interp.model.forward import Sites, forward
from kc_interp.model.interventions import Streams, replaced
from kc_interp.pairs import Pairs
from kc_interp.tasks.listops import ListOps
from kc_interp.testing import CONSTRUCTED, TRAINED, check_probe, known_answer
from tests.cases import CASES

NAMES = [*CONSTRUCTED, *TRAINED]
SOLVERS = [name for name in NAMES if name != "copy_line"]

model = cache(known_answer)


def pairs_of(known: KnownAnswer, count: int = 48, changed: int | None = None) -> Pairs:
    return known.pairs(count, np.random.default_rng(0), changed=changed)


def effects(base: Streams, source: Streams) -> dict[Edge, float]:
    """By how much each edge alone, constants included, moves any logit of any pair: as a share of the largest logit."""
    edges = base.graph.edges
    moved = (edge_logits(base, source, edges) - base.logits).abs().amax((1, 2)) / base.logits.abs().max()
    return dict(zip(edges, moved.tolist(), strict=True))


def replacing(base: Streams, source: Streams, edges: Iterable[Edge]) -> Tensor:
    return replaced(base, source, torch.from_numpy(base.graph.mask(edges))[None].float())[0]


def zeroed(base: Streams) -> Streams:
    return base.writing(torch.zeros_like(base.written), torch.zeros_like(base.bias))


def tolerance(logits: Tensor) -> float:
    """Rounding: trained models have logits in the hundreds."""
    return 1e-6 * max(10.0, float(logits.abs().max()))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_single_reduction_is_written_exactly(name: str) -> None:
    known = model(name)
    items = Items.of(known.task.atoms(), known.tokens)
    found = metrics.forced(known.checkpoint().stacked, known.spec, [items])
    assert found.exact.all()
    assert found.exact_expected.min() > 0.85


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_to_every_item_has_a_clear_margin(name: str) -> None:
    known = model(name)
    streams = Streams.of(known.checkpoint().stacked, known.spec, known.ids(known.items))
    answers = torch.from_numpy(known.tokens.encode(known.items.answer_symbols()))[:, None]
    others = streams.logits.scatter(1, answers, -torch.inf).amax(1)
    assert (streams.logits.gather(1, answers)[:, 0] - others).min() > (2 if known.bound else 5)


@pytest.mark.parametrize("name", SOLVERS)
def test_cases_worked_by_hand_are_answered(name: str) -> None:
    known = model(name)
    mine = [
        case
        for case in CASES
        if (case.depth, case.modulus) == (1, known.task.modulus)
        and case.text[1:4] in known.task.operations
        and len(case.text.split()) - 1 <= known.task.max_operands
    ]
    assert mine or known.task.modulus == 5
    for case in mine:
        chain = known.task.parse(case.text)
        ids = torch.from_numpy(known.tokens.encode(chain.symbols[:, : chain.answers[0]]))[None]
        answer = forward(known.checkpoint().stacked, known.spec, ids)[0, 0, -1].argmax()
        assert known.tokens.symbols[answer] == str(case.value)


def test_a_line_is_copied_where_it_stays() -> None:
    known = model("copy_line")
    ids = torch.from_numpy(known.tokens.encode(known.items.symbols))[None]
    written = forward(known.checkpoint().stacked, known.spec, ids)[0].argmax(-1)
    assert known.task.format(known.items.take(slice(123, 124))) == ["[MAX 1 [MAX 2 3]] > [MAX 1 3] = 3"]
    for place in (9, 10, 11, 13):
        assert torch.equal(written[:, place], ids[0, :, place + 1])


@pytest.mark.parametrize("name", NAMES)
def test_each_edge_of_the_truth_has_an_effect_alone_and_no_other_has(name: str) -> None:
    known = model(name)
    base, source = known.streams(pairs_of(known))
    found = effects(base, source)
    assert min(found[edge] for edge in known.truth) > 0.05
    assert max(share for edge, share in found.items() if edge not in known.truth) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_alone_decides_the_answer(name: str) -> None:
    """All other edges from the twins: nothing changes. The truth from the twins: their logits, so their answers."""
    known = model(name)
    pairs = pairs_of(known)
    base, source = known.streams(pairs)
    others = replacing(base, source, set(known.graph.edges) - set(known.truth))
    torch.testing.assert_close(others, base.logits, atol=tolerance(base.logits), rtol=0)
    flipped = replacing(base, source, known.truth)
    torch.testing.assert_close(flipped, source.logits, atol=tolerance(base.logits), rtol=0)
    clean, twin = known.answers(pairs)
    assert torch.equal(base.logits.argmax(-1), clean)
    assert torch.equal(flipped.argmax(-1), twin)
    assert (clean != twin).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_circuit_without_one_of_its_edges_loses_answers(name: str) -> None:
    """Everything but the circuit is from the twins anyway; then one of its edges is, too."""
    known = model(name)
    pairs = pairs_of(known)
    base, source = known.streams(pairs)
    for edge in known.truth:
        left = replacing(base, source, set(known.graph.edges) - set(known.truth) | {edge})
        assert (left.argmax(-1) == known.answers(pairs)[0]).float().mean() < 0.8, known.graph.name(edge)


@pytest.mark.parametrize("name", NAMES)
def test_when_one_operand_differs_only_the_edges_that_carry_it_have_an_effect(name: str) -> None:
    known = model(name)
    for place in sorted(set().union(*known.carries.values())):
        pairs = pairs_of(known, changed=place)
        assert [p for p in pairs.differs if p <= known.query] == [place]
        found = effects(*known.streams(pairs))
        assert {edge for edge, share in found.items() if share > 1e-6} == set(known.truth_for([place]))


@pytest.mark.parametrize("name", NAMES)
def test_each_edge_of_the_truth_lies_on_a_path_from_the_symbols_it_carries(name: str) -> None:
    known = model(name)
    for place in sorted(set().union(*known.carries.values())):
        assert set(known.truth_for([place])) <= set(carried(known.graph, known.truth, [place], known.query))
    assert known.graph.connected(known.truth).all()


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_of_one_template_and_of_its_seed(name: str) -> None:
    known = model(name)
    pairs, again = pairs_of(known, 600), pairs_of(known, 600)
    assert len(pairs) == 600
    assert np.array_equal(pairs.twin.symbols, again.twin.symbols)
    classes = np.asarray(known.task.classes, dtype=object)
    assert (classes[pairs.clean.symbols] == classes[known.items.symbols[0]]).all()
    assert (classes[pairs.twin.symbols] == classes[known.items.symbols[0]]).all()
    assert len(np.unique(pairs.clean.symbols, axis=0)) == min(600, len(known.items))
    subject = known.subject()
    assert all(
        torch.equal(a, b) for a, b in zip(pairs.ids(subject), map(known.ids, (pairs.clean, pairs.twin)), strict=True)
    )
    assert torch.equal(pairs.answers(subject), known.answers(pairs))


def test_the_decoys_are_busy() -> None:
    """They write what differs between the twins, or look elsewhere in them, or reach the logits; and decide nothing."""
    known = model("decoy")
    base, source = known.streams(pairs_of(known))
    moved = (base.written - source.written).abs().amax((1, 2, 3))
    busy = {name for name, far in zip(known.graph.writers, moved.tolist(), strict=True) if far > 0.5}
    assert busy == {"token", "a0.h0", "a0.h1", "a0.h2", "m0", "a1.h1", "m1"}
    ablated = effects(base, zeroed(base))
    constant = {known.graph.edge(f"{head}->logits") for head in ("a0.h3", "a1.h0", "a1.h2")}
    assert min(ablated[edge] for edge in constant) > 0.02
    pairs = pairs_of(known)
    clean, twin = (attention(known, known.ids(chains), "blocks.1")[:, 0] for chains in (pairs.clean, pairs.twin))
    assert ((clean - twin).abs().amax(-1) > 0.4).float().mean() > 0.3


def attention(known: KnownAnswer, ids: Tensor, block: str) -> Float[Tensor, "batch head pos"]:
    """What every head of a block attends to where the answer is predicted."""
    sites = Sites(record=[f"{block}.attn.hook_pattern"])
    forward(known.checkpoint().stacked, known.spec, ids[None], sites=sites)
    return next(iter(sites.cache.values()))[0, :, :, -1]


@pytest.mark.parametrize("name", CONSTRUCTED)
@pytest.mark.parametrize("modulus", [2, 3, 7])
def test_constructions_hold_for_other_moduli(name: str, modulus: int) -> None:
    known = CONSTRUCTED[name](modulus)
    base, source = known.streams(pairs_of(known, 24))
    found = effects(base, source)
    assert {edge for edge, share in found.items() if share > 1e-6} == set(known.truth)
    if known.solves:
        items = Items.of(known.task.atoms(), known.tokens)
        assert metrics.exact(known.checkpoint().stacked, known.spec, [items]).all()


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_hold_for_other_seeds_and_repeat(name: str) -> None:
    known, again = TRAINED[name](1), TRAINED[name](1)
    assert all(torch.equal(value, again.params[key]) for key, value in known.params.items())
    assert not torch.equal(known.params["embed.W_E"], model(name).params["embed.W_E"])
    base, source = known.streams(pairs_of(known))
    found = effects(base, source)
    assert max(share for edge, share in found.items() if edge not in known.truth) < 1e-6
    assert known.bound and not model("decoy").bound


@pytest.mark.parametrize("name", TRAINED)
def test_edges_that_cannot_exist_carry_nothing_whatever_is_put_there(name: str) -> None:
    """Not only between twins: their writers set to zero, or to what they write on other inputs at other positions."""
    known = model(name)
    base, _ = known.streams(pairs_of(known, 8))
    noise = base.writing(base.written.flip(1, 2))
    constant = [edge for edge in known.graph.edges if known.graph.writers[edge[0]] == "position"]
    grammar = known.graph.edge("token->logits")
    absent = set(known.graph.edges) - set(known.truth) - {*constant, grammar}
    for source in (zeroed(base), noise):
        torch.testing.assert_close(replacing(base, source, absent), base.logits, atol=tolerance(base.logits), rtol=0)


def test_what_edges_can_carry_goes_position_by_position() -> None:
    """A query that sees the symbols matters only where they stand; `=` says nothing to the logits."""
    wiring = Wiring(("token->a0.h0<q>", "token->a0.h0<v>", "token->m0", "a0.h0->logits", "m0->logits"))
    graph = wiring.graph
    names = {graph.name(edge) for edge in carried(graph, wiring.allowed, [2, 3], query=5)}
    assert names == {"token->a0.h0<v>", "a0.h0->logits"}
    assert {graph.name(edge) for edge in carried(graph, wiring.allowed, [5], query=5)} == {
        *wiring.edges,
        "token->logits",
    }


@pytest.mark.parametrize("name", ["max_by_attention", "copy_line"])
@pytest.mark.parametrize("probe", [plugin.name for plugin in plugins.installed("probes")])
def test_probes_keep_their_promises_on_known_answers(name: str, probe: str) -> None:
    check_probe(plugins.make_probe(probe), model(name).subject())


@pytest.mark.parametrize("name", ["arithmetic_sum", "copy_line", "masked_detour"])
def test_a_known_answer_is_a_checkpoint_like_any_other(name: str, tmp_path) -> None:
    known = model(name)
    loaded = checkpoints.load(known.checkpoint().save(tmp_path / "known.safetensors"))
    assert loaded.task == known.task
    assert loaded.tokens == known.tokens
    assert loaded.spec.model == known.spec
    assert all(torch.equal(value, loaded.params[key]) for key, value in known.params.items())


# What is refused


def test_a_name_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(ProbeError, match=r"no known-answer model 'lokup_sum'; did you mean 'lookup_sum'\?"):
        known_answer("lokup_sum")


def test_a_position_that_decides_nothing_has_no_twins() -> None:
    with pytest.raises(ProbeError, match=r"copy_line: changing position 5 alone never changes .* from positions 2$"):
        pairs_of(model("copy_line"), changed=5)
    with pytest.raises(ProbeError, match=r"changing position 0 alone never .* from positions 2, 3$"):
        pairs_of(model("decoy"), changed=0)


def test_a_table_that_is_too_large_is_refused() -> None:
    with pytest.raises(SpecError, match=r"3 operands of modulus 17 takes 4913 neurons, at most 4096 .*; lower modulus"):
        flat_table_sum(17)
    assert arithmetic_sum(17).spec.mlp_size == 5


def test_wirings_that_cannot_work_are_refused() -> None:
    task, generator = one_reduction("SUM", 5, operands=2), torch.Generator().manual_seed(0)
    with pytest.raises(
        ProbeError, match=r"no edge 'token->a1.h0<v>': 'a1.h0<v>' is no reader; did you mean 'a0.h0<v>'\?"
    ):
        train("mine", task, Wiring(("token->a1.h0<v>",)), generator)
    with pytest.raises(SpecError, match=r"mine: no path of token->m0, m0->logits leads from an operand"):
        train("mine", task, Wiring(("token->m0", "m0->logits")), generator)
    with pytest.raises(SpecError, match=r"mine: after 3 steps \d+ of 25 chains are learned; raise steps"):
        train("mine", task, Wiring(("token->a0.h0<v>", "a0.h0->logits")), generator, steps=3)
    with pytest.raises(SpecError, match=r"mine: only single reductions .* 3 operations and depth 2; give one"):
        train("mine", ListOps(), Wiring(("token->a0.h0<v>", "a0.h0->logits")), generator)
