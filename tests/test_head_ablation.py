"""Heads whose work is known are found, stand-ins show only together, and every switch is an exact forward pass."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import SpecError
from kc_interp.finding import Finding, dumps
from kc_interp.model import parameters
from kc_interp.model.forward import forward
from kc_interp.plots import ranked as shown_ranking
from kc_interp.plots import switched_off, table_of
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec, RunSpec, TaskSpec
from kc_interp.tasks.task import Chains
from kc_interp.tokens import lines
from kc_probes.ablation import Intact, Sample, Scores
from kc_probes.head_ablation import Costs, HeadAblation, Heads, Measured, Mode, effective_number, masks, ranked, subsets

LISTOPS = TaskSpec("listops", {"operations": ["MAX", "SUM"], "depth": 2, "max_operands": 3})
SMALL = HeadAblation(chains=40, resamples=50, examples=2)
SHAPES = {
    "two layers of two heads": ModelSpec(d_model=12, n_layers=2, n_heads=2, d_mlp=16),
    "one block tied three times": ModelSpec(d_model=12, n_layers=1, repeat=3, n_heads=1, act="relu", norm="none"),
}


def random_params(model: ModelSpec, bare: Checkpoint, seed: int) -> parameters.Parameters:
    """Fresh weights with noise everywhere, so that biases and gains take part."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"d_vocab": len(bare.tokens), "n_ctx": bare.task.max_length}
    fresh = parameters.initialise(model, generator, **shape)
    return {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}


def subject(model: ModelSpec, *, seed: int = 0, learned: bool | None = True, **changes: torch.Tensor) -> Subject:
    spec = RunSpec(task=LISTOPS, model=model, seed=seed)
    params = random_params(model, Checkpoint(spec, {}), seed)
    return Subject(f"model {seed}", Checkpoint(spec, {**params, **changes}), 0, learned)


def heads_of(one: Subject, count: int = 12) -> Heads:
    sample = Sample.of(one, one.items(count, "any", "SUM"))
    return Heads.of(Intact.of(one.params, one.checkpoint.spec.model, sample, ("hook_attn_out", "attn.hook_z")))


def prefix(one: Subject) -> torch.Tensor:
    chains = one.items(1, "one chain", "SUM")
    return one.ids(chains)[0, 0, : int(chains.answers[0])]


# Switches


@pytest.mark.parametrize("tokens_a_call", [1, 8_192])
@pytest.mark.parametrize("name", list(SHAPES))
def test_every_subset_equals_hookedtransformer_with_those_heads_hooked_to_zero(
    name: str, tokens_a_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kc_probes.head_ablation._TOKENS_A_CALL", tokens_a_call)
    model = SHAPES[name]
    one = subject(model)
    heads = list(itertools.product(range(model.depth), range(model.n_heads)))
    off = masks(len(heads))
    assert off == list(range(2 ** len(heads)))
    batched = subsets(one.params, model, prefix(one), heads, off)
    hooked = one.checkpoint.hooked()

    def silence(z: torch.Tensor, hook: Any, head: int) -> torch.Tensor:
        z[:, :, head] = 0
        return z

    for mask, mine in zip(off, batched, strict=True):
        hooks = [
            (f"blocks.{index}.attn.hook_z", lambda z, hook, head=head: silence(z, hook, head))
            for bit, (index, head) in enumerate(heads)
            if mask >> bit & 1
        ]
        expected = hooked.run_with_hooks(prefix(one)[None], fwd_hooks=hooks)[0, -1].softmax(-1)
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
    assert (batched[0] - batched[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", list(SHAPES))
def test_all_heads_off_is_the_model_whose_heads_write_nothing(name: str) -> None:
    model = SHAPES[name]
    one = subject(model)
    names = [f"blocks.{layer}.attn.W_O" for layer in range(model.n_layers)]
    silent = subject(model, **{key: torch.zeros_like(one.checkpoint.params[key]) for key in names})
    heads = heads_of(one)
    every = heads.names
    batched = subsets(one.params, model, prefix(one), every, [0, 2 ** len(every) - 1])
    for mine, other in zip(batched, (one, silent), strict=True):
        logits = forward(other.params, model, prefix(one)[None, None])
        torch.testing.assert_close(mine, logits[0, 0, -1].softmax(-1), atol=1e-5, rtol=1e-4)
    off, known = heads.off(every, "zero"), heads_of(silent).run.scores
    np.testing.assert_allclose(off.chain_nats, known.chain_nats, rtol=1e-4)
    np.testing.assert_allclose(off.answer_nats, known.answer_nats, rtol=1e-4)


def test_beyond_ten_heads_there_are_none_singles_and_pairs() -> None:
    off = masks(11)
    assert len(off) == len(set(off)) == 1 + 11 + 55
    assert {mask.bit_count() for mask in off} == {0, 1, 2}
    assert len(masks(10)) == 1_024


def test_above_sixteen_heads_the_costliest_are_shown_and_named() -> None:
    found = HeadAblation(chains=8, resamples=4, examples=1).run(subject(ModelSpec(d_model=18, n_layers=2, n_heads=9)))
    exact, nats, switches = found.figures
    assert len(exact.data["x"]) == len(nats.data["x"]) == len(switches.data["heads"]) == 16
    assert exact.data["x"] == switches.data["heads"]
    assert "The 16 costliest of 18 heads" in switches.shows and "single heads and pairs" in switches.shows
    assert len(switches.data["examples"][0]["answers"]) == 1 + 16 + 120
    costs = {f"L{i}H{h}": max(abs(found[f"block{i}.head{h}.{m}.answer-nats"].value) for m in ("zero", "mean"))
             for i in range(2) for h in range(9)}  # fmt: skip
    left_out = costs.keys() - set(switches.data["heads"])
    assert max(costs[name] for name in left_out) <= min(costs[name] for name in switches.data["heads"])
    assert sum(number.key.startswith("block") for number in found.numbers) == 18 * 4


def test_the_page_and_the_table_can_read_the_switches() -> None:
    one = subject(SHAPES["two layers of two heads"])
    figure = HeadAblation(chains=40, resamples=4, examples=4).run(one).figures[-1]
    assert figure.kind == "switches" and figure.data["heads"] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    counts = []
    for example in figure.data["examples"]:
        assert list(example["answers"]) == [str(mask) for mask in range(16)]
        assert example["target"] in "0123456789" and example["tokens"][-1] == "="
        counts.append(example["tokens"].count(">") + example["tokens"].count("="))
        for answer in example["answers"].values():
            assert 1 <= len(answer) <= 5
            assert shown_ranking(answer) == [tuple(pair) for pair in answer]
            assert all(p == round(p, 4) for _, p in answer) and sum(p for _, p in answer) <= 1.001
    chains = one.items(40, "head-ablation: chains", "SUM")
    held = lines(one.task, chains).max(axis=1)
    assert counts == sorted(counts) and counts[0] == held.min() and counts[-1] == held.max()
    assert switched_off("10", figure.data["heads"]) == "L0H1, L1H1"
    assert len(table_of(figure).rows) == 4 * 16


def test_what_rounds_to_nothing_is_left_out_of_the_ranking() -> None:
    sure = np.asarray([1e-6, 0.99990, 9e-5, 1e-9])
    assert ranked(sure, list("abcd")) == [["b", 0.9999], ["c", 0.0001]]
    assert ranked(np.full(8, 1e-6), list("abcdefgh"))[0] == ["a", 0.0]


# Ablations, by a second route


@pytest.mark.parametrize("mode", ["zero", "mean"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_each_ablation_equals_a_loop_of_hooks(name: str, mode: Mode) -> None:
    model = SHAPES[name]
    one = subject(model)
    heads = heads_of(one)
    sample, hooked = heads.run.sample, one.checkpoint.hooked()
    rows = [sample.chains.take(slice(row, row + 1)) for row in range(len(sample))]
    inputs = [torch.from_numpy(one.tokens.encode(c.symbols))[:, : int(c.lengths[0])] for c in rows]
    kinds = []
    for chain, ids in zip(rows, inputs, strict=True):
        labels = [one.task.classes[code] for code in chain.symbols[0, : ids.shape[1] - 1]]
        labels[int(chain.answers[0]) - 1] = "the query"
        labels[int(chain.answers[0])] = "the answer"
        kinds.append(labels)
    caches = [hooked.run_with_cache(ids[:, :-1])[1] for ids in inputs]

    for index, head in heads.names:
        site = f"blocks.{index}.attn.hook_z"
        held: dict[str, list[torch.Tensor]] = {}
        for cache, labels in zip(caches, kinds, strict=True):
            for place, kind in enumerate(labels):
                held.setdefault(kind, []).append(cache[site][0, place, head])
        means = {kind: torch.stack(values).mean(0) * (mode == "mean") for kind, values in held.items()}
        expected = []
        for chain, ids, labels in zip(rows, inputs, kinds, strict=True):
            instead = torch.stack([means[kind] for kind in labels])

            def replace(z: torch.Tensor, hook: Any, instead: torch.Tensor = instead, head: int = head) -> torch.Tensor:
                z[0, :, head] = instead
                return z

            answer = int(chain.answers[0])
            logits = hooked.run_with_hooks(ids[:, :-1], fwd_hooks=[(site, replace)])[0, answer - 1].detach()
            expected.append(-float(logits.log_softmax(-1)[ids[0, answer]]))
        np.testing.assert_allclose(heads.off([(index, head)], mode).answer_nats, expected, rtol=1e-4, atol=1e-5)


def test_the_control_with_the_identity_for_a_rotation_is_the_ablation_itself() -> None:
    one = subject(SHAPES["two layers of two heads"])
    heads = heads_of(one)
    for mode in ("zero", "mean"):
        for off in ([(0, 1)], [(1, 0)]):
            same = {index: torch.eye(12) for index in range(2)}
            ablated, turned = heads.off(off, mode), heads.turned(off, mode, same)
            np.testing.assert_allclose(turned.chain_nats, ablated.chain_nats, rtol=1e-4)


# Heads whose work is known


@dataclass(frozen=True)
class Agreeing(Subject):
    """A subject shown only chains whose answer is the last operand (those whose other operands sum to 0)."""

    def items(self, count: int, purpose: str, component: str | None = None) -> Chains:
        drawn = super().items(30 * count, purpose, component)
        last = drawn.symbols[np.arange(len(drawn)), drawn.answers - 3]
        return drawn.take(np.flatnonzero(last == drawn.answer_symbols())[:count])


def looking_back(copiers: int, kind: type[Subject] = Subject) -> Subject:
    """A model that answers ListOps with the symbol two before `=`, the last operand, read by `copiers` equal heads.

    Four heads in all. They see positions alone: each position's query is the key of the one two before.
    """
    model = ModelSpec(d_model=96, n_layers=1, n_heads=4, d_head=60, d_mlp=1, norm="none")
    spec = RunSpec(task=LISTOPS, model=model)
    bare = Checkpoint(spec, {})
    tokens, n_ctx = len(bare.tokens), bare.task.max_length
    assert tokens <= 18 and n_ctx <= 60
    shapes = parameters.shapes(model, d_vocab=tokens, n_ctx=n_ctx)
    params = {name: torch.zeros(shape) for name, shape in shapes.items()}
    params["embed.W_E"][:, :tokens] = torch.eye(tokens)
    params["pos_embed.W_pos"][:, 36 : 36 + n_ctx] = torch.eye(n_ctx)
    for head in range(copiers):
        params["blocks.0.attn.W_K"][head, 36 : 36 + n_ctx, :n_ctx] = torch.eye(n_ctx)
        params["blocks.0.attn.W_Q"][head, 38 : 36 + n_ctx, : n_ctx - 2] = 400 * torch.eye(n_ctx - 2)
        params["blocks.0.attn.W_V"][head, :tokens, :tokens] = torch.eye(tokens)
        params["blocks.0.attn.W_O"][head, :tokens, 18 : 18 + tokens] = 20 * torch.eye(tokens)
    params["unembed.W_U"][18 : 18 + tokens] = torch.eye(tokens)
    return kind("looking back", Checkpoint(spec, params))


def right_heads(found: Finding, mode: str, head: int) -> float:
    return found[f"block0.head{head}.{mode}.answer-nats"].value


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_the_one_head_that_works_is_the_only_one_that_costs(mode: Mode) -> None:
    one = looking_back(1)
    heads = heads_of(one, count=60)
    scores = heads.run.scores
    copied = heads.run.sample.chains
    last = copied.symbols[np.arange(len(copied)), copied.answers - 3]
    np.testing.assert_array_equal(scores.answer, last == copied.answer_symbols())
    for head in range(1, 4):
        assert (heads.off([(0, head)], mode).answer_nats == scores.answer_nats).all()
    lost = heads.off([(0, 0)], mode)
    assert not np.allclose(lost.answer_nats, scores.answer_nats)
    # Without it every symbol is as probable; at its mean the operands are as probable as they are frequent.
    assert lost.answer_nats[scores.answer].min() > 1 > scores.answer_nats[scores.answer].max()


def test_a_working_head_loses_answers_and_a_disturbance_of_its_size_does_not() -> None:
    found = SMALL.run(looking_back(1, Agreeing))
    for mode in ("zero", "mean"):
        number = found[f"whole.{mode}.heads-that-cost"]
        assert (number.value, number.low, number.high, number.control) == (1, 1, 1, 0)
        assert found[f"whole.{mode}.heads-beyond-size"].value == 1
    assert "of 4 heads, each held at its class mean in turn, 1 cost answers" in found.sentence


def test_effective_heads_is_one_where_one_bears_all_and_the_number_of_heads_where_all_bear_alike() -> None:
    assert effective_number(np.asarray([0.7, 0.0, 0.0, -0.2])) == pytest.approx(1)
    assert effective_number(np.full((2, 8), 0.3)) == pytest.approx([8, 8])
    assert np.isnan(effective_number(np.asarray([-1.0, 0.0])))


def test_two_heads_that_stand_in_for_each_other_show_only_when_both_are_off() -> None:
    one = looking_back(2)
    heads = heads_of(one, count=60)
    intact = heads.run.scores.answer
    assert 0 < intact.sum() < len(intact)
    for head in range(4):
        np.testing.assert_array_equal(heads.off([(0, head)], "zero").answer, intact)
    assert not heads.off([(0, 0), (0, 1)], "zero").answer[intact].any()
    chain = np.flatnonzero(intact)[:1]
    chains = heads.run.sample.chains.take(chain)
    ids = one.ids(chains)[0, 0, : int(chains.answers[0])]
    target = int(one.tokens.encode(chains.answer_symbols())[0])
    probability = subsets(one.params, one.checkpoint.spec.model, ids, heads.names, masks(4))[:, target]
    alone = [probability[mask].item() for mask in (0b0000, 0b0001, 0b0010, 0b1100)]
    assert min(alone) > 0.99 and max(probability[mask].item() for mask in (0b0011, 0b1111)) < 0.1


def test_where_no_head_costs_anything_the_finding_says_so_without_a_number_made_up() -> None:
    found = SMALL.run(looking_back(0))
    assert found["whole.zero.effective-heads"].value is None
    assert found["whole.zero.effective-heads"].note == "no head's removal makes the answer less probable"
    single = found["block0.head2.mean.exact-lost"]
    assert single.value == 0
    assert single.note == "no chain changed at all"
    assert single.high == pytest.approx(-float(single.low or 0)) == pytest.approx(1 - 0.025 ** (1 / 40))
    assert found["whole.mean.heads-that-cost"].value == 0
    assert "No head alone loses exact chains" in found.sentence
    dumps({"findings": [found]})


# The finding


def test_aggregates_are_those_of_the_heads_whatever_their_order() -> None:
    model = SHAPES["two layers of two heads"]
    one = subject(model)
    swapped = {
        name: value.flip(0)
        for name, value in one.checkpoint.params.items()
        if ".attn." in name and not name.endswith("b_O")
    }
    found, other = SMALL.run(one), SMALL.run(subject(model, **swapped))
    for mode in ("zero", "mean"):
        for head in range(2):
            assert right_heads(other, mode, 1 - head) == pytest.approx(right_heads(found, mode, head), abs=1e-5)
        costs = [found[f"block{i}.head{h}.{mode}.answer-nats"].value for i in range(2) for h in range(2)]
        assert found[f"whole.{mode}.largest-answer-nats"].value == pytest.approx(max(costs))
        assert found[f"whole.{mode}.effective-heads"].value == pytest.approx(effective_number(np.asarray(costs)))
        for key in ("largest-answer-nats", "effective-heads", "all-off.answer-nats"):
            assert other[f"whole.{mode}.{key}"].value == pytest.approx(found[f"whole.{mode}.{key}"].value, abs=1e-4)


def test_two_models_of_one_shape_have_the_same_keys_with_a_control() -> None:
    one, other = (SMALL.run(subject(SHAPES["one block tied three times"], seed=seed)) for seed in (0, 1))
    assert [number.key for number in one.numbers] == [number.key for number in other.numbers]
    assert len({number.key for number in one.numbers}) == len(one.numbers)
    assert one.numbers[0].key == "whole.zero.largest-exact-lost"
    assert [n.key for n in one.numbers][-4:] == [
        f"block2.head0.{mode}.{key}" for mode in ("zero", "mean") for key in ("exact-lost", "answer-nats")
    ]
    for number in one.numbers:
        assert number.control_says and number.higher_means
        assert number.note or (number.low <= number.value <= number.high and number.control is not None)


def test_the_interval_is_paired_so_that_a_small_cost_alike_in_all_chains_is_seen() -> None:
    rng = np.random.default_rng(0)
    hard = rng.exponential(2.0, 60)

    def scores(nats: np.ndarray) -> Scores:
        return Scores(nats, nats, nats < 1, nats < 1)

    costs = Costs.of(scores(hard), [scores(hard + 0.01 + 0.005 * rng.random(60)), scores(hard)])
    weights = np.concatenate([np.ones((1, 60)), rng.multinomial(60, np.full(60, 1 / 60), size=200)])
    found = Measured.of(costs, costs, weights)
    low, high = found.bounds("nats", 0)
    assert low is not None and high is not None and 0.01 < low < high < 0.015 < hard.std() / 60**0.5
    assert found.bounds("nats", 1) == (None, None)


def test_the_same_subject_gives_the_same_finding() -> None:
    first, second = (SMALL.run(subject(SHAPES["two layers of two heads"])) for _ in range(2))
    assert dumps({"findings": [first]}) == dumps({"findings": [second]})


def test_figures_have_a_bar_for_every_head_and_say_what_would_refute_them() -> None:
    found = SMALL.run(subject(SHAPES["two layers of two heads"]))
    assert [figure.kind for figure in found.figures] == ["bars", "bars", "switches"]
    assert all(figure.shows and figure.refuted_by for figure in found.figures)
    for figure in found.figures[:2]:
        assert figure.data["x"] == ["L0H0", "L0H1", "L1H0", "L1H1"]
        assert [len(series["y"]) for series in figure.data["series"]] == [4] * 4
    rows = found.tables[0].rows
    assert [row[0] for row in rows[::2]] == ["L0H0", "L0H1", "L1H0", "L1H1", "all heads"]
    assert all(len(row) == len(found.tables[0].columns) for row in rows)


def test_a_model_that_has_not_learned_is_named_as_such() -> None:
    found = SMALL.run(subject(SHAPES["two layers of two heads"], learned=False))
    assert found.status == "unlearned"
    assert found.sentence.startswith("This model has not learned its task, so nothing is claimed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"chains": 1}, "each must be at least 2"), ({"examples": 0}, "examples is 0"), ({"chains": 3}, "examples is 4")],
)
def test_settings_that_cannot_be_met_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        HeadAblation(**settings)
