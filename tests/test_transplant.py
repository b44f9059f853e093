"""Transplants: exact where nothing changes, recovered where coordinates were only renamed, refused by the untrained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kc_interp.circuits.transplant import (
    Kept,
    Part,
    Stitch,
    direct,
    parts,
    said,
    stitched,
    transplanted,
    untrained,
)
from kc_interp.errors import ProbeError
from kc_interp.known_answers import KnownAnswer
from kc_interp.model import parameters
from kc_interp.model.interventions import Streams
from kc_interp.spec import ModelSpec
from kc_interp.testing import known_answer


def fresh(spec: ModelSpec, seed: int) -> Streams:
    """A model of random weights, biases too, on a few random inputs (the same for every seed)."""
    generator = torch.Generator().manual_seed(seed)
    params = parameters.initialise(spec, generator, d_vocab=7, n_ctx=6)
    noisy = {
        name: (value + 0.3 * torch.randn(value.shape, generator=generator))[None] for name, value in params.items()
    }
    return Streams.of(noisy, spec, torch.from_numpy(np.random.default_rng(0).integers(0, 7, (9, 5))))


def two_runs(known: KnownAnswer, params: dict[str, Tensor] | None = None) -> tuple[Streams, Streams]:
    """Half of all questions to fit on, half to judge on."""
    stacked = known.checkpoint().stacked if params is None else params
    ids = known.ids(known.items)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(ids)))
    fitted, judged = order[: len(ids) // 2], order[len(ids) // 2 :]
    return Streams.of(stacked, known.spec, ids[fitted]), Streams.of(stacked, known.spec, ids[judged])


def answers_of(known: KnownAnswer) -> Tensor:
    order = np.random.default_rng(0).permutation(len(known.items))
    return torch.from_numpy(known.tokens.encode(known.items.answer_symbols()[order[len(order) // 2 :]]))


@pytest.mark.parametrize("norm", ["LN", "none"])
def test_a_model_that_receives_its_own_part_is_unchanged(norm: str) -> None:
    streams = fresh(ModelSpec(8, 2, 2, norm=norm), 0)
    for part in parts(streams.graph):
        own = said(streams, part)
        logits = transplanted(streams, part, [own, own.flip(0)])
        torch.testing.assert_close(logits[0], streams.logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits[1], streams.logits, atol=1e-3), part.name  # another input's part


def test_the_whole_stream_of_another_model_gives_that_models_answer() -> None:
    """Two models that share the unembedding: after the last block's stream nothing is the receiver's but that."""
    spec = ModelSpec(8, 2, 2)
    donor, receiver = fresh(spec, 1), fresh(spec, 2)
    same = {**receiver.params, **{n: v for n, v in donor.params.items() if n.startswith(("ln_final", "unembed"))}}
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 7, (9, 5)))
    receiver = Streams.of(same, spec, ids)
    last = parts(receiver.graph)[-1]
    assert last.name == "stream after block 1"
    torch.testing.assert_close(transplanted(receiver, last, [said(donor, last)])[0], donor.logits, rtol=1e-4, atol=1e-4)


def test_a_part_can_be_replaced_at_some_positions_alone() -> None:
    streams = fresh(ModelSpec(8, 1, 2, norm="none"), 0)
    embedding = parts(streams.graph)[0]
    own = said(streams, embedding)
    where = np.zeros(own.shape[:2], dtype=bool)
    torch.testing.assert_close(
        transplanted(streams, embedding, [own + 1.0], where)[0], streams.logits, rtol=1e-4, atol=1e-4
    )
    where[:, -1] = True
    assert not torch.allclose(transplanted(streams, embedding, [own + 1.0], where)[0], streams.logits, atol=1e-3)


def test_parts_of_another_width_or_other_inputs_are_refused() -> None:
    narrow, wide = fresh(ModelSpec(8, 1, 2), 0), fresh(ModelSpec(12, 1, 2), 0)
    answers = torch.zeros(9, dtype=torch.int64)
    with pytest.raises(ProbeError, match="use a stitch between widths"):
        direct(wide, narrow, parts(narrow.graph), answers)
    fewer = narrow.take(torch.arange(4))
    some = [(part, part) for part in parts(narrow.graph)]
    with pytest.raises(ProbeError, match="a stitch needs both models' runs of the same inputs"):
        stitched((fewer, narrow), (narrow, narrow), [], some, answers)


def test_a_stitch_finds_an_affine_map_and_refuses_nothing_it_was_not_shown() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, shift = (torch.randn(shape, generator=generator) for shape in ((40, 3, 4), (4, 6), (6,)))
    stitch = Stitch.fit(x, x @ weight + shift, ridge=0.0)
    new = torch.randn((5, 3, 4), generator=generator)
    torch.testing.assert_close(stitch(new), new @ weight + shift, rtol=1e-4, atol=1e-4)
    heavy = Stitch.fit(x, x @ weight + shift, ridge=1e9)
    torch.testing.assert_close(heavy(new), (x @ weight + shift).mean((0, 1)).expand(5, 3, 6), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def known() -> KnownAnswer:
    return known_answer("lookup_sum")


def rotated(known: KnownAnswer) -> dict[str, Tensor]:
    """The same function in a residual stream that was turned: exact, since the model has no LayerNorm."""
    size = known.spec.d_model
    turn = torch.linalg.qr(torch.randn((size, size), generator=torch.Generator().manual_seed(1)))[0]
    found = dict(known.checkpoint().stacked)
    for name, value in found.items():
        last = name.rpartition(".")[2]
        if last in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            found[name] = value @ turn
        elif last in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
            found[name] = turn.mT @ value
    return found


def test_a_stitch_recovers_every_part_of_a_turned_copy_and_an_untrained_donor_none(known: KnownAnswer) -> None:
    turned = rotated(known)
    receiver, donor, answers = two_runs(known), two_runs(known, turned), answers_of(known)
    torch.testing.assert_close(donor[1].logits, receiver[1].logits, rtol=1e-3, atol=1e-3)
    random = two_runs(known, untrained(turned, known.spec, torch.Generator().manual_seed(5)))
    computed = ("heads of block 0", "MLP of block 0", "stream after block 0")
    some = [(part, part) for part in parts(known.graph) if part.name in computed]
    found = {one.part.name: one for one in stitched(donor, receiver, [random], some, answers, ridge=1e-9)}
    assert list(found) == list(computed)
    for one in found.values():
        assert one.whole.share == 1
        assert one.donor.share == 1
        assert one.own is not None
        assert one.own.share == 1
        assert one.explained == pytest.approx(1, abs=1e-3)
    # What an untrained MLP writes is no table of sums; its heads still see all symbols, of which a stitch takes what
    # is linear, and so may an untrained donor's stream.
    assert found["MLP of block 0"].untrained[0].share < 0.5
    assert found["MLP of block 0"].mean.share < 0.3
    not_turned_back = direct(donor[1], receiver[1], [parts(known.graph)[-1]], answers)[0]
    assert not_turned_back.donor.share < 0.5


def test_parts_name_every_writer_that_varies_once_before_the_next_stream() -> None:
    graph = known_answer("composed_table_sum").graph
    found = {part.name: part for part in parts(graph)}
    assert found["heads of block 1"] == Part(
        "heads of block 1", (graph.head(1, 0), graph.head(1, 1)), graph.reader(1, 3)
    )
    assert found["stream after block 1"].writers == tuple(sorted({0, *(w for p in found.values() for w in p.writers)}))
    assert found["stream after block 0"].after == graph.reader(1)
    assert [name for name in found if "." in name] == ["a0.h0", "a0.h1", "a1.h0", "a1.h1"]


def test_accuracy_has_its_interval() -> None:
    kept = Kept.of(torch.eye(4), torch.tensor([0, 1, 2, 0]))
    assert kept.share == 0.75
    assert 0.3 < kept.low < 0.75 < kept.high < 0.96
