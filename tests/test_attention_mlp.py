"""The ratio of attention to feed-forward on models whose answer is known, and by a second route through hooks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import SpecError
from kc_interp.finding import Finding, dumps
from kc_interp.metrics import Items, forced
from kc_interp.model import parameters
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec, RunSpec, TaskSpec
from kc_interp.tasks.task import Chains
from kc_probes.ablation import Intact, Sample, rotation
from kc_probes.attention_mlp import PARTS, AttentionMlp, Moments
from tests.toys import SampledSubject, fills_in

LISTOPS = TaskSpec("listops", {"operations": ["MAX", "SUM"], "depth": 2, "max_operands": 3})
SMALL = AttentionMlp(chains=48, resamples=50)


def listops(model: ModelSpec, *, seed: int = 0, learned: bool | None = True, noise: float = 0.1) -> Subject:
    """A random model of MAX+SUM whose biases and gains are random too."""
    spec = RunSpec(task=LISTOPS, model=model, seed=seed)
    bare = Checkpoint(spec, {})
    generator = torch.Generator().manual_seed(seed)
    shape = {"d_vocab": len(bare.tokens), "n_ctx": bare.task.max_length}
    params = parameters.initialise(model, generator, **shape)
    params = {name: value + noise * torch.randn(value.shape, generator=generator) for name, value in params.items()}
    return Subject(f"model {seed}", Checkpoint(spec, params), 0, learned)


# A task of one question digit whose chain is one more digit and the end


@fills_in
@dataclass(frozen=True)
class Digits:
    """`length` random digits, then the answer: a function of the digits; then end. No separator, no lines."""

    answer: Callable[[np.ndarray], np.ndarray]
    length: int = 1
    modulus: int = 4

    @property
    def symbols(self) -> tuple[str, ...]:
        return ("<end>", *map(str, range(self.modulus)))

    @property
    def classes(self) -> tuple[Any, ...]:
        return ("end", *["digit"] * self.modulus)

    @property
    def used(self) -> np.ndarray:
        return np.ones(len(self.symbols), dtype=bool)

    def components(self) -> dict[str, Any]:
        return {}

    def sample(self, count: int, rng: np.random.Generator) -> Chains:
        shown = rng.integers(0, self.modulus, (count, self.length))
        answers = self.answer(shown)[:, None]
        symbols = np.concatenate([1 + shown, 1 + answers, np.zeros_like(answers)], axis=1)
        return Chains(symbols, *(np.full(count, self.length + more) for more in (2, 0, 0)))


def silent(model: ModelSpec, d_vocab: int, n_ctx: int) -> parameters.Parameters:
    """A model whose every parameter is 0: it writes nothing, anywhere."""
    return {name: torch.zeros(shape) for name, shape in parameters.shapes(model, d_vocab=d_vocab, n_ctx=n_ctx).items()}


def toy(params: parameters.Parameters, model: ModelSpec, task: Digits) -> SampledSubject:
    return SampledSubject("toy", Checkpoint(RunSpec(model=model), params), given=task)


def of_norms(n_layers: int, c: float, k: float) -> Finding:
    """Every token is the same vector e; attention adds c times what it reads and the MLP k times what it reads."""
    model = ModelSpec(d_model=4, n_layers=n_layers, n_heads=1, d_mlp=4, norm="none", act="relu")
    params = silent(model, 5, 4)
    params["embed.W_E"] += torch.tensor([0.5, 1.0, 2.0, 0.25])
    for index in range(n_layers):
        params[f"blocks.{index}.attn.W_V"][0] = torch.eye(4)
        params[f"blocks.{index}.attn.W_O"][0] = c * torch.eye(4)
        params[f"blocks.{index}.mlp.W_in"] += torch.eye(4)
        params[f"blocks.{index}.mlp.W_out"] += k * torch.eye(4)
    return SMALL.run(toy(params, model, Digits(lambda shown: shown[:, 0], length=2)))


@pytest.mark.parametrize(("c", "k"), [(0.5, 2.0), (3.0, 0.25), (1.0, -0.25)])
def test_norms_and_shares_have_their_values_in_closed_form(c: float, k: float) -> None:
    found = of_norms(2, c, k)
    for block in ("block0", "block1"):
        assert found[f"{block}.norm.attention"].value == pytest.approx(c)
        assert found[f"{block}.norm.mlp"].value == pytest.approx(abs(k))
        assert found[f"{block}.share.attention"].value == pytest.approx(c / (c + k * (1 + c)))
    grown = (1 + c) * (1 + k)  # of the stream over a block
    assert found["whole.share.attention"].value == pytest.approx((c + c * grown) / (grown**2 - 1), rel=1e-5)


def test_where_the_mlp_undoes_what_attention_writes_the_share_is_missing() -> None:
    found = of_norms(1, 1.0, -0.5)
    assert found["block0.share.attention"].value is None
    assert found["block0.share.attention"].note == "the stream is not changed here"


def test_what_is_written_alike_everywhere_does_not_count_in_the_centred_ratio() -> None:
    found = of_norms(1, 0.5, 2.0)
    assert found["block0.norm-ratio"].value is None
    assert "nothing to divide by" in found["block0.norm-ratio"].note
    assert found["whole.norm-ratio"].value is None and found["whole.norm-ratio"].low is None
    assert found["whole.causal.attention"].value == pytest.approx(0, abs=1e-6)
    assert found["whole.causal.balance"].value is None
    assert found["whole.causal.balance"].note == "neither ablation raises the loss"
    dumps({"findings": [found]})


# All by attention, all by the MLP


def copying() -> SampledSubject:
    """Attention alone answers: the last of three digits looks at the first, by position, and copies it."""
    model = ModelSpec(d_model=12, n_layers=1, n_heads=1, d_head=12, d_mlp=4, norm="none", act="relu")
    params = silent(model, 5, 5)
    for digit in range(4):
        params["embed.W_E"][1 + digit, digit] = 1  # a digit's own place
        params["blocks.0.attn.W_V"][0, digit, digit] = 1
        params["blocks.0.attn.W_O"][0, digit, 4 + digit] = 1  # where the answer is read
        params["unembed.W_U"][4 + digit, 1 + digit] = 6
    params["pos_embed.W_pos"][0, 8] = params["pos_embed.W_pos"][2, 9] = params["pos_embed.W_pos"][3, 10] = 1
    params["blocks.0.attn.W_Q"][0, 9, 0] = 100  # position 2 asks …
    params["blocks.0.attn.W_K"][0, 8, 0] = 1  # … for position 0
    params["unembed.W_U"][10, 0] = 20  # position 3 ends
    return toy(params, model, Digits(lambda shown: shown[:, 0], length=3))


def succeeding(logit: float = 6.0) -> SampledSubject:
    """The MLP alone answers: one neuron a digit writes its successor."""
    model = ModelSpec(d_model=12, n_layers=1, n_heads=2, d_mlp=4, norm="none", act="relu")
    params = silent(model, 5, 3)
    for digit in range(4):
        params["embed.W_E"][1 + digit, digit] = 1
        params["blocks.0.mlp.W_in"][digit, digit] = 1
        params["blocks.0.mlp.W_out"][digit, 4 + (digit + 1) % 4] = 1
        params["unembed.W_U"][4 + digit, 1 + digit] = logit
    params["unembed.b_U"][0] = -100
    params["pos_embed.W_pos"][1, 10] = 1
    params["unembed.W_U"][10, 0] = 200
    return toy(params, model, Digits(lambda shown: (shown[:, 0] + 1) % 4))


def test_where_attention_does_everything_the_mlp_has_no_share_and_no_cost() -> None:
    found = SMALL.run(copying())
    for place in ("whole", "block0"):
        for suffix in ("", ".answer"):
            assert found[f"{place}.share.attention{suffix}"].value == pytest.approx(1)
            assert found[f"{place}.causal.mlp{suffix}"].value == pytest.approx(0, abs=1e-9)
            assert found[f"{place}.causal.attention{suffix}"].low > 0.5
            assert found[f"{place}.causal.balance{suffix}"].value == 1
            assert found[f"{place}.norm-ratio{suffix}"].value is None
    assert found["block0.norm.mlp"].value == 0


def test_where_the_mlp_does_everything_attention_has_no_share_and_no_cost() -> None:
    found = SMALL.run(succeeding())
    for place in ("whole", "block0"):
        for suffix in ("", ".answer"):
            assert found[f"{place}.share.attention{suffix}"].value == 0
            assert found[f"{place}.norm-ratio{suffix}"].value == 0
            assert found[f"{place}.causal.attention{suffix}"].value == pytest.approx(0, abs=1e-9)
            assert found[f"{place}.causal.mlp{suffix}"].low > 0.5
            assert found[f"{place}.causal.balance{suffix}"].value == 0
    assert found["block0.causal.difference"].value == pytest.approx(-found["block0.causal.mlp"].value)


def test_the_rise_without_the_mlp_is_that_of_the_mean_of_its_answers() -> None:
    subject, logit = succeeding(3.0), 3.0
    found = SMALL.run(subject)
    answers = subject.items(48, "attention-mlp: chains").answer_symbols() - 1
    share = np.bincount(answers, minlength=4) / len(answers)
    after = math.log(np.exp(logit * share).sum()) - logit * (share * share).sum()
    before = math.log(math.exp(logit) + 3) - logit
    assert found["whole.causal.mlp.answer"].value == pytest.approx(after - before, abs=1e-4)


def test_a_bias_of_attention_changes_neither_its_centred_ratio_nor_its_cost() -> None:
    plain, biased = succeeding(), succeeding()
    biased.checkpoint.params["blocks.0.attn.b_O"][11] = 50.0  # type: ignore[index]
    one, other = SMALL.run(plain), SMALL.run(biased)
    assert other["block0.norm.attention"].value > 40 and one["block0.norm.attention"].value == 0
    assert other["block0.share.attention"].value > 0.99
    assert other["block0.norm-ratio"].value == 0
    assert other["block0.causal.attention"].value == pytest.approx(0, abs=1e-6)
    assert other["block0.causal.mlp"].value == pytest.approx(one["block0.causal.mlp"].value, abs=1e-5)


# A second route, through HookedTransformer and loops

SHAPES = {
    "two layers": ModelSpec(d_model=12, n_layers=2, n_heads=2, d_mlp=16),
    "one block tied three times": ModelSpec(d_model=12, n_layers=1, repeat=3, n_heads=1, act="relu", norm="none"),
}


def chain_by_chain(subject: Subject, sample: Sample) -> tuple[list[dict[str, np.ndarray]], list[list[str]], list[Any]]:
    """Every chain on its own: activations, the class of each input position, and its row of the sample."""
    model = subject.checkpoint.hooked()
    task, caches, labels, rows = subject.task, [], [], []
    for row in range(len(sample)):
        chain = sample.chains.take(slice(row, row + 1))
        ids = torch.from_numpy(subject.tokens.encode(chain.symbols))[:, : int(chain.lengths[0]) - 1]
        cache = model.run_with_cache(ids)[1]
        caches.append({name: value[0].numpy() for name, value in cache.items()})
        kinds = [task.classes[code] for code in chain.symbols[0, : ids.shape[1]]]
        query = int(chain.answers[0]) - 1
        kinds[query] = "the query"
        if query + 1 < len(kinds):
            kinds[query + 1] = "the answer"
        labels.append(kinds)
        rows.append(chain)
    return caches, labels, rows


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_statistic_equals_its_definition_worked_out_with_transformer_lens(name: str) -> None:
    model = SHAPES[name]
    subject = listops(model)
    found = AttentionMlp(chains=12, resamples=2).run(subject)
    sample = Sample.of(subject, subject.items(12, "attention-mlp: chains", "SUM"))
    caches, _, rows = chain_by_chain(subject, sample)

    def measured(site: str, answer: bool) -> np.ndarray:
        parts = []
        for cache, chain in zip(caches, rows, strict=True):
            places = [int(chain.answers[0]) - 1] if answer else range(int(chain.prompts[0]) - 1, len(cache[site]))
            parts.append(cache[site][list(places)])
        return np.concatenate(parts).astype(float)

    last = model.depth - 1
    for answer, suffix in ((False, ""), (True, ".answer")):
        spreads = []
        for index in range(model.depth):
            pre, attention, mlp = (
                measured(f"blocks.{index}.{site}", answer) for site in ("hook_resid_pre", *PARTS.values())
            )
            expected = {
                "norm.attention": np.linalg.norm(attention) / np.linalg.norm(pre),
                "norm.mlp": np.linalg.norm(mlp) / np.linalg.norm(pre + attention),
                "share.attention": (attention * (attention + mlp)).sum() / ((attention + mlp) ** 2).sum(),
            }
            spread = [np.linalg.norm(part - part.mean(axis=0)) for part in (attention, mlp)]
            spreads.append(spread)
            expected["norm-ratio"] = spread[0] / spread[1]
            for key, value in expected.items():
                assert found[f"block{index}.{key}{suffix}"].value == pytest.approx(value, rel=1e-4), key
        pooled = np.linalg.norm(spreads, axis=0)
        assert found[f"whole.norm-ratio{suffix}"].value == pytest.approx(pooled[0] / pooled[1], rel=1e-4)
        change = measured(f"blocks.{last}.hook_resid_post", answer) - measured("blocks.0.hook_resid_pre", answer)
        attention = sum(measured(f"blocks.{index}.hook_attn_out", answer) for index in range(model.depth))
        share = (attention * change).sum() / (change**2).sum()
        assert found[f"whole.share.attention{suffix}"].value == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_ablation_equals_a_loop_of_hooks(name: str) -> None:
    model = SHAPES[name]
    subject = listops(model)
    found = AttentionMlp(chains=12, resamples=2).run(subject)
    sample = Sample.of(subject, subject.items(12, "attention-mlp: chains", "SUM"))
    caches, labels, rows = chain_by_chain(subject, sample)
    hooked = subject.checkpoint.hooked()

    def mean_of(site: str, kind: str) -> torch.Tensor:
        held = [
            cache[site][p]
            for cache, kinds in zip(caches, labels, strict=True)
            for p, k in enumerate(kinds)
            if k == kind
        ]
        return torch.from_numpy(np.mean(held, axis=0))

    def losses(sites: list[str]) -> tuple[float, float, int]:
        total, answers, count = 0.0, 0.0, 0
        for chain, kinds in zip(rows, labels, strict=True):
            ids = torch.from_numpy(subject.tokens.encode(chain.symbols))[:, : int(chain.lengths[0])]
            means = {site: torch.stack([mean_of(site, kind) for kind in kinds])[None] for site in sites}
            hooks = [(site, lambda value, hook, mean=mean: mean) for site, mean in means.items()]
            nats = -hooked.run_with_hooks(ids[:, :-1], fwd_hooks=hooks)[0].detach().log_softmax(-1)
            at = [(p, int(ids[0, p + 1])) for p in range(int(chain.prompts[0]) - 1, ids.shape[1] - 1)]
            total += sum(float(nats[p, token]) for p, token in at)
            answers += float(nats[int(chain.answers[0]) - 1, int(ids[0, int(chain.answers[0])])])
            count += len(at)
        return total, answers, count

    before = losses([])
    for part, site in PARTS.items():
        every = [f"blocks.{index}.{site}" for index in range(model.depth)]
        for place, sites in {"whole": every, f"block{model.depth - 1}": every[-1:], "block0": every[:1]}.items():
            after = losses(sites)
            rise = found[f"{place}.causal.{part}"], found[f"{place}.causal.{part}.answer"]
            assert rise[0].value == pytest.approx((after[0] - before[0]) / after[2], abs=1e-4)
            assert rise[1].value == pytest.approx((after[1] - before[1]) / len(rows), abs=1e-4)


def test_the_scores_without_an_ablation_are_those_that_evaluation_reports() -> None:
    subject = listops(SHAPES["two layers"])
    sample = Sample.of(subject, subject.items(150, "any", "SUM"))
    scores = Intact.of(subject.params, subject.checkpoint.spec.model, sample, ()).scores
    known = forced(subject.params, subject.checkpoint.spec.model, [Items.of(sample.chains, subject.tokens)])
    np.testing.assert_allclose(scores.chain_nats, known.chain_nats[0], rtol=1e-4)
    np.testing.assert_allclose(scores.answer_nats, known.answer_nats[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scores.exact, known.exact[0])
    np.testing.assert_array_equal(scores.answer, known.answer[0])
    assert len(sample.chunks) == 3 and (sample.written > 0).all()


# Shares, intervals, controls


@pytest.mark.parametrize("answer", [False, True])
def test_shares_of_the_update_sum_to_one_in_every_resample(answer: bool) -> None:
    subject = listops(SHAPES["one block tied three times"])
    sample = Sample.of(subject, subject.items(32, "any", "SUM"))
    run = Intact.of(subject.params, subject.checkpoint.spec.model, sample, PARTS.values())
    found = Moments.of(run, answer=answer).statistics(sample.bootstrap(20, np.random.default_rng(0)))
    for place in ("whole", "block0", "block1", "block2"):
        np.testing.assert_allclose(found[f"{place}.share.attention"] + found[f"{place}.share.mlp"], 1)


def test_a_weighting_counts_chains_as_if_they_were_repeated() -> None:
    subject = listops(SHAPES["two layers"])
    chains = subject.items(40, "any", "SUM")
    chains = chains.take(np.argsort(chains.lengths, kind="stable"))

    def statistics(chains: Chains, weights: np.ndarray) -> dict[str, np.ndarray]:
        run = Intact.of(subject.params, subject.checkpoint.spec.model, Sample.of(subject, chains), PARTS.values())
        return Moments.of(run, answer=False).statistics(weights)

    repeats = np.arange(40) % 3
    weighted = statistics(chains, repeats[None].astype(float))
    repeated = statistics(chains.take(np.repeat(np.arange(40), repeats)), np.ones((1, repeats.sum())))
    for key, value in weighted.items():
        np.testing.assert_allclose(value, repeated[key], rtol=1e-6, err_msg=key)


def test_before_training_the_norms_are_their_own_control() -> None:
    subject = listops(ModelSpec(d_model=12, n_heads=2), noise=0)
    found = SMALL.run(subject)
    for number in found.numbers:
        if "norm" in number.key or "share" in number.key:
            assert number.control == pytest.approx(number.value), number.key
            assert number.control_says == "the same model before training"
        else:
            assert number.control_says == "a disturbance of the same size in random directions"


def test_a_model_that_answers_by_attention_loses_more_than_by_a_disturbance_of_the_same_size() -> None:
    found = AttentionMlp(chains=48, resamples=50, directions=8).run(copying())
    number = found["whole.causal.attention.answer"]
    assert number.low > number.control


def test_the_rotation_of_the_control_keeps_every_length() -> None:
    turn = rotation(9, np.random.default_rng(0), torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(turn @ turn.mT, torch.eye(9, dtype=torch.float64))


def test_the_interval_narrows_with_more_chains() -> None:
    subject = listops(ModelSpec(d_model=8, n_layers=1, n_heads=1))

    def width(chains: int) -> float:
        number = AttentionMlp(chains=chains, resamples=200, directions=1).run(subject)["whole.causal.mlp"]
        return number.high - number.low

    assert width(640) < 0.5 * width(40)


# The finding


def test_two_models_of_one_shape_have_the_same_keys_with_an_interval_and_a_control() -> None:
    shape = ModelSpec(d_model=12, n_heads=2)
    one, other = (SMALL.run(listops(shape, seed=seed)) for seed in (0, 1))
    assert [n.key for n in one.numbers] == [n.key for n in other.numbers]
    assert len({n.key for n in one.numbers}) == len(one.numbers)
    assert one.numbers[0].key == "whole.norm-ratio"
    for key in ("whole.causal.attention", "whole.causal.mlp", "whole.causal.balance", "block1.norm.mlp.answer"):
        assert one[key].title
    for number in one.numbers:
        if number.value is None:
            assert number.note
        else:
            assert number.n == 48 and number.unit == "input" and number.higher_means
            if ".balance" not in number.key:
                assert number.low <= number.high and number.control is not None


def test_arms_are_measured_on_the_same_items() -> None:
    joint = listops(SHAPES["two layers"])
    alone = Subject(
        "alone", Checkpoint(RunSpec(task=TaskSpec("listops", {**LISTOPS.settings, "operations": ["SUM"]})), {})
    )
    ours, theirs = (s.items(20, "attention-mlp: chains", "SUM") for s in (joint, alone))
    np.testing.assert_array_equal(ours.symbols, theirs.symbols)


def test_a_task_without_the_component_is_measured_on_its_mixture_and_says_so() -> None:
    found = SMALL.run(copying())
    assert found.settings["items"] == "the whole mixture"
    assert "48 test items of the whole mixture" in found.sentence


def test_the_same_subject_gives_the_same_finding() -> None:
    first, second = (SMALL.run(listops(SHAPES["two layers"])) for _ in range(2))
    assert dumps({"findings": [first]}) == dumps({"findings": [second]})


def test_figures_and_table_cover_every_block_and_say_what_would_refute_them() -> None:
    found = SMALL.run(listops(SHAPES["one block tied three times"]))
    assert [figure.kind for figure in found.figures] == ["bars"] * 4
    assert all(figure.shows and figure.refuted_by for figure in found.figures)
    blocks = ["block 0", "block 1", "block 2"]
    assert [figure.data["x"] for figure in found.figures] == [blocks, *[["whole model", *blocks]] * 3]
    for figure in found.figures:
        assert len({len(series["y"]) for series in figure.data["series"]} | {len(figure.data["x"])}) == 1
    assert len(found.tables[0].rows) == 4 * 2 * 2
    assert all(len(row) == len(found.tables[0].columns) for row in found.tables[0].rows)


def test_a_model_that_has_not_learned_is_named_as_such() -> None:
    found = SMALL.run(listops(SHAPES["two layers"], learned=False))
    assert found.status == "unlearned"
    assert found.sentence.startswith("This model has not learned its task, so nothing is claimed")


def test_settings_too_small_for_an_interval_or_a_control_are_refused() -> None:
    with pytest.raises(SpecError, match="each must be at least 2"):
        AttentionMlp(chains=1)
    with pytest.raises(SpecError, match="at least 1 random rotation"):
        AttentionMlp(directions=0)
