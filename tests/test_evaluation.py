"""Evaluation: the same items for every arm, distinct questions, honest intervals, one stated criterion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kc_interp import evaluation, metrics
from kc_interp.checkpoint import Checkpoint
from kc_interp.data import question_hashes
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.train import initial_parameters, train


def spec(operations: list[str], **changes: object) -> RunSpec:
    return RunSpec(
        TaskSpec("listops", {"operations": operations, "modulus": 5, **changes}),
        DataSpec(n_train=600, holdout_pairs=1, holdout_triples=2, test_fraction=0.2),
        ModelSpec(d_model=16, n_heads=2),
        TrainSpec(steps=400, batch_size=32),
    )


def untrained(operations: list[str], **changes: object) -> Checkpoint:
    from kc_interp import checkpoint, plugins
    from kc_interp.tokens import Tokens

    run = spec(operations, **changes)
    task = plugins.make_task(run.task)
    n_ctx = checkpoint.context_length(run, task)
    return Checkpoint(run, initial_parameters(run, d_vocab=len(Tokens.of(task)), n_ctx=n_ctx))


def sets_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {asked.name: question_hashes(asked.chains, 0) for asked in evaluation.item_sets(checkpoint, 200, 0)}


def test_arms_are_judged_on_the_same_questions_of_a_component() -> None:
    alone, jointly = sets_of(untrained(["SUM"])), sets_of(untrained(["MAX", "MED", "SUM"]))
    for name in ("test: SUM", "held-out: SUM", "atoms: SUM", "atoms held out: SUM"):
        assert np.array_equal(alone[name], jointly[name]), name
    assert set(jointly) - set(alone) == {
        f"{kind}: {operation}"
        for kind in ("test", "held-out", "atoms", "atoms held out")
        for operation in ("MAX", "MED")
    }


def test_no_question_stands_twice() -> None:
    for name, hashes in sets_of(untrained(["SUM"])).items():
        assert len(np.unique(hashes)) == len(hashes), name


def test_a_mean_of_real_numbers_has_its_normal_interval() -> None:
    found = evaluation.summary(np.asarray([0.0, 1.0, 2.0, 3.0]))
    standard_error = np.std([0, 1, 2, 3], ddof=1) / 2
    assert (found["low"], found["high"]) == pytest.approx((1.5 - 1.96 * standard_error, 1.5 + 1.96 * standard_error))


def test_the_atoms_are_exhaustive() -> None:
    sets = sets_of(untrained(["SUM"]))
    assert len(sets["atoms: SUM"]) + len(sets["atoms held out: SUM"]) == 5**2 + 5**3


def test_an_untrained_model_is_at_or_below_chance_and_has_not_learned() -> None:
    found = evaluation.evaluate(untrained(["MAX", "SUM"]), items=200)
    assert found["learned"] == {"MAX": False, "SUM": False}
    assert evaluation.learned(found, "SUM") is False
    assert evaluation.learned(found, None) is False
    assert evaluation.learned({}, "SUM") is None
    for name, part in found["sets"].items():
        exact = part["metrics"]["exact"]
        assert exact["low"] <= exact["value"] <= exact["high"], name
        assert 1 / 5 <= part["chance"] <= 1
    test = found["sets"]["test"]
    assert sum(cell["n"] for cell in test["by"]["operation"].values()) == test["n"]
    assert set(test["by"]) == {"operation", "depth", "steps", "arity", "length"}


def test_a_model_that_knows_the_table_learned_it() -> None:
    """Pairs over Z_3 without a hold-out are learned in seconds; then every definition agrees."""
    run = RunSpec(
        TaskSpec("listops", {"operations": ["MAX"], "modulus": 4, "depth": 1, "max_operands": 2}),
        DataSpec(n_train=400, holdout_pairs=0, holdout_triples=0, test_fraction=0.15, split_seed=1),
        ModelSpec(d_model=32, n_heads=2),
        TrainSpec(steps=300, batch_size=32, weight_decay=0.0),
    )
    [checkpoint] = train([run])
    atoms = evaluation.evaluate(checkpoint, items=50)["sets"]["atoms: MAX"]
    assert atoms["n"] == 16
    assert atoms["metrics"]["exact"]["value"] >= 12 / 16  # the questions of the training set, at least
    values = {name: metric["value"] for name, metric in atoms["metrics"].items()}
    assert values["final"] >= values["exact"]
    assert values["answer"] >= values["exact"]


def test_metrics_survive_the_checkpoint(tmp_path: object) -> None:
    checkpoint = untrained(["SUM"])
    found = evaluation.evaluate(checkpoint, items=50)
    from pathlib import Path

    from kc_interp.checkpoint import load

    path = checkpoint.with_metrics(found).save(Path(str(tmp_path)) / "m.safetensors")
    assert load(path).metrics == found


def test_evaluation_is_a_function_of_its_seed() -> None:
    checkpoint = untrained(["SUM"])
    torch.manual_seed(1)
    first = evaluation.evaluate(checkpoint, items=60, seed=3)
    torch.manual_seed(2)
    assert evaluation.evaluate(checkpoint, items=60, seed=3) == first
    assert evaluation.evaluate(checkpoint, items=60, seed=4)["sets"]["test"] != first["sets"]["test"]


def test_the_equals_shape_counts_the_answer_after_the_last_equals_sign() -> None:
    found = evaluation.evaluate(untrained(["SUM"], shape="equals"), items=60)
    assert "paper" in found["sets"]["test"]["metrics"]


def test_decoding_the_failures_alone_gives_what_decoding_everything_gives() -> None:
    """A half-trained model, some of whose chains are exact and some not."""
    run = RunSpec(
        TaskSpec("listops", {"operations": ["MAX"], "modulus": 4, "max_operands": 2}),
        DataSpec(n_train=600, holdout_pairs=0, holdout_triples=0, test_fraction=0.2),
        ModelSpec(d_model=32, n_heads=2),
        TrainSpec(steps=250, batch_size=32),
    )
    [checkpoint] = train([run])
    asked = next(iter(evaluation.item_sets(checkpoint, 120, 0)))
    items = metrics.Items.of(asked.chains, checkpoint.tokens)
    params, model = checkpoint.stacked, run.model
    exact = metrics.exact(params, model, [items])[0]
    assert 0 < exact.sum() < len(items)
    decoded = metrics.decode(params, model, items)
    equals = checkpoint.tokens.classes.index("equals")
    found = evaluation._lenient(checkpoint, asked.task, items, exact)
    assert torch.equal(found["final"], metrics.final_answers(decoded, items) == items.targets)
    said = metrics.papers_answers(decoded, items, equals, separated_by_equals=False)
    assert torch.equal(found["paper"], said == items.targets)
