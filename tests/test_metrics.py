"""Every definition of accuracy against a second route: a plain greedy loop, products of probabilities, rows by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from kc_interp import metrics
from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import DataError
from kc_interp.metrics import Items, decode, final_answers, forced, papers_answers
from kc_interp.model import parameters
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains
from kc_interp.tokens import Tokens
from kc_interp.train import Ensemble

TIED = {"n_layers": 1, "repeat": 3, "norm": "none", "act": "relu"}


@pytest.fixture(scope="module", params=[{}, TIED], ids=["two layers", "one block tied three times"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """Trained until it does some questions and not others."""
    spec = RunSpec(
        TaskSpec("listops", {"operations": ["MAX", "MED"], "modulus": 5, "p_operation": 0.3}),
        DataSpec(n_train=5_000, holdout_pairs=0, holdout_triples=0),
        ModelSpec(d_model=32, n_heads=2, **request.param),
        TrainSpec(steps=200, batch_size=64),
    )
    ensemble = Ensemble([spec])
    for _ in range(200):
        ensemble.step()
    return ensemble.checkpoints()[0]


@pytest.fixture(scope="module")
def chains(checkpoint: Checkpoint) -> Chains:
    return checkpoint.task.sample(200, np.random.default_rng(0))


@pytest.fixture(scope="module")
def items(checkpoint: Checkpoint, chains: Chains) -> Items:
    return Items.of(chains, checkpoint.tokens)


def naive_decode(checkpoint: Checkpoint, items: Items) -> torch.Tensor:
    """Greedy decoding as anyone would write it: the whole prefix through HookedTransformer for every token."""
    model = checkpoint.hooked()
    rows = torch.full((len(items), checkpoint.n_ctx + 1), items.end)
    for length in items.prompts.unique().tolist():
        which = torch.nonzero(items.prompts == length)[:, 0]
        ids = items.ids[which, :length]
        with torch.no_grad():
            while ids.shape[1] <= checkpoint.n_ctx:
                ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
        place = torch.arange(ids.shape[1])
        ended = ((ids == items.end) & (place >= length)).cumsum(1) > 0
        rows[which] = torch.where(ended, items.end, ids)
    return rows


def test_decoding_with_kept_keys_and_values_is_the_plain_greedy_loop(checkpoint: Checkpoint, items: Items) -> None:
    torch.testing.assert_close(
        decode(checkpoint.stacked, checkpoint.spec.model, items), naive_decode(checkpoint, items), rtol=0, atol=0
    )


def test_one_teacher_forced_pass_gives_the_strict_accuracy_of_a_real_decode(
    checkpoint: Checkpoint, items: Items
) -> None:
    written = decode(checkpoint.stacked, checkpoint.spec.model, items)
    target = torch.nn.functional.pad(items.ids, (0, written.shape[1] - items.ids.shape[1]), value=items.end)
    exact = metrics.exact(checkpoint.stacked, checkpoint.spec.model, [items])[0]
    assert 0.05 < exact.float().mean() < 0.95
    assert torch.equal(exact, (written == target).all(1))
    # Whoever writes the whole chain rightly gives the right answer under every definition.
    equals = checkpoint.tokens.symbols.index("=")
    assert (final_answers(written, items) == items.targets)[exact].all()
    assert (papers_answers(written, items, equals, separated_by_equals=False) == items.targets)[exact].all()


def test_expected_accuracy_is_the_product_of_the_probabilities_of_what_must_be_written(
    checkpoint: Checkpoint, items: Items
) -> None:
    found = forced(checkpoint.stacked, checkpoint.spec.model, [items])
    with torch.no_grad():
        probabilities = checkpoint.hooked()(items.ids[:, :-1]).softmax(-1)
    for row in range(0, len(items), 10):
        product, answer_nats = 1.0, 0.0
        for place in range(int(items.prompts[row]), int(items.lengths[row])):
            chance = float(probabilities[row, place - 1, items.ids[row, place]])
            product *= chance
            if place == items.answers[row]:
                answer_nats = -np.log(chance)
        assert float(found.exact_expected[0, row]) == pytest.approx(product, rel=1e-3)
        assert float(found.answer_nats[0, row]) == pytest.approx(answer_nats, rel=1e-3, abs=1e-5)


def test_chunks_change_nothing(checkpoint: Checkpoint, items: Items, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forced(checkpoint.stacked, checkpoint.spec.model, [items])
    written = decode(checkpoint.stacked, checkpoint.spec.model, items)
    monkeypatch.setattr(metrics, "_ITEMS_A_CALL", 7)
    parts = forced(checkpoint.stacked, checkpoint.spec.model, [items])
    for field in dataclasses.fields(whole):
        torch.testing.assert_close(getattr(parts, field.name), getattr(whole, field.name), atol=1e-4, rtol=1e-4)
    assert torch.equal(decode(checkpoint.stacked, checkpoint.spec.model, items), written)


def test_a_vocabulary_without_the_symbol_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(DataError, match="are not in this vocabulary"):
        Items.of(ListOps().parse("[SUM 1 2]"), checkpoint.tokens)


# Rows written by hand


SYMBOLS = ["<end>", "[", "]", ">", "=", "SUM", "0", "1", "2", "3"]
QUESTION = "[ SUM 1 2 ]"


def ids_of(text: str, width: int) -> list[int]:
    row = [SYMBOLS.index(word) for word in text.split()]
    return row + [0] * (width - len(row))


def rows(*texts: str, width: int = 12) -> tuple[torch.Tensor, Items]:
    """What was written after the question, padded with the end token to the width (the context, plus one)."""
    decoded = torch.tensor([ids_of(f"{QUESTION} {text}", width) for text in texts])
    target = torch.tensor([ids_of(f"{QUESTION} = 3", 8)] * len(texts))
    count = (len(texts),)
    return decoded, Items(target, torch.full(count, 8), torch.full(count, 5), torch.full(count, 6), 0, len(SYMBOLS))


def spelled(answers: torch.Tensor) -> list[str | None]:
    return [SYMBOLS[token] if token >= 0 else None for token in answers.tolist()]


WRITTEN: dict[str, tuple[str, str | None, str | None, str | None]] = {
    # what was written: final answer, the paper's (first "="), the paper's where "=" separates all lines (last "=")
    "as it should be": ("= 3", "3", "3", "3"),
    "with a line between": ("> 1 2 = 3", "3", "3", "3"),
    "goes on after the answer": ("= 3 = 2", "2", "3", "2"),
    "ends on no digit": ("= 3 ]", "]", "3", "3"),
    "no equals sign": ("> 3", "3", None, None),
    "writes nothing": ("", None, None, None),
    "never ends": ("= 3 = 2 1 1 1", None, "3", "2"),
    "ends at the last place": ("= 3 = 2 1 1", "1", "3", "2"),
    "an equals sign at the very end": ("1 1 1 1 1 1 =", None, None, None),
    "ends after the equals sign": ("=", "=", "<end>", "<end>"),
}


@pytest.mark.parametrize(("text", "final", "first", "last"), WRITTEN.values(), ids=list(WRITTEN))
def test_lenient_answers_are_read_as_defined(text: str, final: str | None, first: str | None, last: str | None) -> None:
    decoded, items = rows(text)
    assert spelled(final_answers(decoded, items)) == [final]
    assert spelled(papers_answers(decoded, items, 4, separated_by_equals=False)) == [first]
    assert spelled(papers_answers(decoded, items, 4, separated_by_equals=True)) == [last]


def test_rows_are_read_one_by_one() -> None:
    decoded, items = rows(*(text for text, *_ in WRITTEN.values()))
    assert spelled(final_answers(decoded, items)) == [final for _, final, _, _ in WRITTEN.values()]
    assert spelled(papers_answers(decoded, items, 4, separated_by_equals=False)) == [p for *_, p, _ in WRITTEN.values()]
    assert items.targets.tolist() == [9] * len(items)


# Numbers worked by hand


def constant(logits: list[float]) -> tuple[dict[str, torch.Tensor], ModelSpec]:
    """A model that predicts the same distribution everywhere: all weights 0, the unembedding's bias is the logits."""
    spec = ModelSpec(d_model=4, n_layers=1, n_heads=1, norm="none")
    fresh = parameters.initialise(spec, torch.Generator(), d_vocab=len(logits), n_ctx=8)
    params = {name: torch.zeros_like(value) for name, value in fresh.items()}
    params["unembed.b_U"] = torch.tensor(logits)
    return parameters.stack([params]), spec


def three_symbols(*rows: list[int], d_vocab: int = 3) -> Items:
    """Rows of question, answer and end; `end` is token 0."""
    count = (len(rows),)
    return Items(torch.tensor(rows), torch.full(count, 3), torch.full(count, 1), torch.full(count, 1), 0, d_vocab)


def test_brier_and_nll_by_hand() -> None:
    """Probabilities 1/4 (end), 1/2, 1/4 everywhere; the answers are tokens 1 and 2."""
    params, spec = constant([0.0, float(np.log(2)), 0.0])
    found = forced(params, spec, [three_symbols([1, 1, 0], [1, 2, 0])])
    assert found.answer_nats[0].tolist() == pytest.approx([np.log(2), np.log(4)])
    assert found.chain_nats[0].tolist() == pytest.approx([np.log(2) + np.log(4), 2 * np.log(4)])
    assert found.exact_expected[0].tolist() == pytest.approx([1 / 8, 1 / 16])
    # (1/2 - 1)² + 1/16 + 1/16, and (1/4 - 1)² + 1/4 + 1/16
    assert found.answer_brier[0].tolist() == pytest.approx([3 / 8, 7 / 8])
    assert found.answer[0].tolist() == [True, False] and found.exact[0].tolist() == [False, False]


def test_padding_of_a_smaller_vocabulary_is_never_predicted() -> None:
    """Where the member's parameters were padded, a logit of 0 would beat its own negative ones."""
    params, spec = constant([-1.0, -1.0 + float(np.log(2)), 0.0])
    small = forced(params, spec, [three_symbols([1, 1, 0], d_vocab=2)])
    assert small.answer.item() is True
    assert small.answer_nats.item() == pytest.approx(np.log(3 / 2))
    assert small.answer_brier.item() == pytest.approx(2 * (1 / 3) ** 2)
    assert forced(params, spec, [three_symbols([1, 1, 0])]).answer.item() is False


def test_members_of_unequal_vocabularies_score_as_they_do_alone() -> None:
    """Together in one padded ensemble, and each by itself."""

    def spec(*operations: str, modulus: int) -> RunSpec:
        settings: dict[str, Any] = {"operations": list(operations), "modulus": modulus, "depth": 1}
        return RunSpec(
            TaskSpec("listops", settings),
            DataSpec(n_train=500, test_fraction=0.3, holdout_pairs=0, holdout_triples=0),
            ModelSpec(d_model=16, n_heads=2, n_ctx=12),
            TrainSpec(steps=60, batch_size=16),
        )

    ensemble = Ensemble([spec("MAX", "MIN", modulus=7), spec("SUM", modulus=4)])
    for _ in range(60):
        ensemble.step()
    found = ensemble.checkpoints()
    widest = len(found[0].tokens)
    assert len(found[1].tokens) < widest

    def padded(params: Any, name: str) -> torch.Tensor:
        value = params[name]
        grow = {"embed.W_E": (0, 0, 0, widest - value.shape[0]), "unembed.W_U": (0, widest - value.shape[-1])}
        grow["unembed.b_U"] = grow["unembed.W_U"]
        return torch.nn.functional.pad(value, grow.get(name, (0, 0)))

    both = parameters.stack([{name: padded(one.params, name) for name in one.params} for one in found])
    items = [Items.of(one.task.sample(100, np.random.default_rng(1)), one.tokens) for one in found]
    together = forced(both, found[0].spec.model, items)
    for run, one in enumerate(found):
        alone = forced(one.stacked, one.spec.model, [items[run]])
        for field in dataclasses.fields(alone):
            mine, reference = getattr(together, field.name)[run], getattr(alone, field.name)[0]
            torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)


def test_a_chain_longer_than_its_batch_needs_is_cut() -> None:
    tokens = Tokens.of(ListOps())
    chains = Chains.concatenate([ListOps().parse("[SUM 1 [MAX 4 3]]"), ListOps().parse("[SUM 1 4]")], end=0)
    items = Items.of(chains, tokens)
    assert items.take(slice(1, 2)).ids.shape == (1, 8) and len(items) == 2
