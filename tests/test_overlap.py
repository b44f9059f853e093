"""Models compared with the seed as the unit, the operations of one model, and one run over training."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kc_interp.checkpoint import Checkpoint
from kc_interp.circuits.effects import Comparison, Metric
from kc_interp.circuits.matching import Profile
from kc_interp.circuits.shared import Operation, shared
from kc_interp.errors import ProbeError, SpecError
from kc_interp.known_answers import KnownAnswer
from kc_interp.overlap.history import checkpoints, history, jump
from kc_interp.overlap.measured import Asked, Runs, between, measure, share_an_ancestor, through_stitches
from kc_interp.overlap.pairs_finding import overlap_finding
from kc_interp.overlap.sides import contrast
from kc_interp.overlap.training_finding import history_finding
from kc_interp.overlap.transplant_finding import transplant_finding
from kc_interp.probe import Subject
from kc_interp.testing import known_answer, small_subject
from tests.test_cli import run

ASKED = Asked(pairs=16, shuffles=9, resamples=50)


def block(within: float, across: float, first: int, second: int, noise: float = 0.0) -> np.ndarray:
    """Overlaps of two sides that are more alike within than across."""
    rng = np.random.default_rng(0)
    side = np.arange(first + second) >= first
    values = np.where(side[:, None] == side[None], within, across) + noise * rng.standard_normal((len(side), len(side)))
    return (values + values.T) / 2


def test_means_are_of_pairs_within_and_across() -> None:
    values = block(0.8, 0.5, 2, 3)
    values[0, 1] = values[1, 0] = 0.6
    found = contrast(values, 2)
    assert [found.within[0].value, found.within[1].value, found.across.value] == pytest.approx([0.6, 0.8, 0.5])
    assert found.difference.value == pytest.approx(0.7 - 0.5)
    assert [found.within[0].pairs, found.within[1].pairs, found.across.pairs] == [1, 3, 6]
    assert found.within[0].low is None
    assert "fewer than 3 models" in found.within[0].note


def test_p_is_that_of_all_exchanges_of_sides() -> None:
    """Against a loop over every assignment, for sides of unequal size."""
    values = block(0.6, 0.5, 3, 4, noise=0.1)
    found = contrast(values, 3)
    assert found.difference.value is not None
    reached = []
    for chosen in itertools.combinations(range(7), 3):
        order = [*chosen, *(index for index in range(7) if index not in chosen)]
        other = contrast(values[np.ix_(order, order)], 3).difference.value
        assert other is not None
        reached.append(other >= found.difference.value - 1e-9)
    assert found.p == pytest.approx(np.mean(reached))


def test_sides_that_differ_are_told_apart_and_sides_that_do_not_are_not() -> None:
    apart, alike = (contrast(block(0.8, across, 5, 5, noise=0.02), 5) for across in (0.5, 0.8))
    assert apart.p == pytest.approx(2 / 252)
    assert apart.difference.low is not None
    assert apart.difference.low > 0.25
    assert alike.p is not None
    assert alike.p > 0.05
    assert alike.difference.low is not None
    assert alike.difference.high is not None
    assert alike.difference.low < 0 < alike.difference.high


def test_one_model_a_side_speaks_of_these_two_alone() -> None:
    found = contrast(np.asarray([[np.nan, 0.4], [0.4, np.nan]]), 1)
    assert found.across.value == pytest.approx(0.4)
    assert found.across.low is None
    assert found.across.note == "these two checkpoints only"
    assert found.difference.value is None
    assert "no side has two models" in found.difference.note
    assert found.p is None
    few = contrast(block(0.8, 0.5, 2, 2), 2)
    assert few.p is None
    assert few.p_note == "with 2 and 2 models no p-value can fall below 0.33"
    one_side = contrast(block(0.8, 0.5, 4, 0, noise=0.01), 4)
    assert one_side.across.value is None
    assert one_side.within[0].low is not None


@pytest.fixture(scope="module")
def flat() -> KnownAnswer:
    return known_answer("lookup_sum")


def exchanged(known: KnownAnswer) -> Checkpoint:
    """The model with its two heads in the other order."""
    own = known.checkpoint()
    params = {
        name: value[[1, 0]] if name.startswith("blocks.0.attn.") and not name.endswith("b_O") else value
        for name, value in own.params.items()
    }
    return dataclasses.replace(own, params=params)


def test_two_models_are_compared_and_the_finding_speaks_of_these_two(flat: KnownAnswer) -> None:
    subjects = [Subject("one", flat.checkpoint(), learned=True), Subject("other", exchanged(flat), learned=True)]
    models = [measure(subject, ASKED) for subject in subjects]
    assert models[0].right.share == 1
    found = between(models[0], models[1], ASKED)
    assert found.matching == ((1, 0),)
    assert found.inverse == ((1, 0),)
    assert found.overlap.weighted > 0.8  # the halves are of few inputs
    finding = overlap_finding(models, 1, {(0, 1): found}, ASKED)
    assert finding["weighted.across"].value == pytest.approx(found.overlap.weighted)
    assert finding["weighted.across"].unit == "exact"
    assert "these two checkpoints only" in finding["weighted.across"].note
    assert finding["weighted.within-first"].value is None
    assert "These two checkpoints only" in finding.sentence
    runs = [Runs.of(subject, ASKED, donors=1) for subject in subjects]
    stitched = through_stitches(runs[0], runs[1], found.matching)
    assert {one.donor.share for one in stitched} == {1.0}
    said = transplant_finding(["one", "other"], {(0, 1): stitched}, stitched=True, asked=ASKED)
    assert said["transplant.a0.h1"].value == 1
    assert said["transplant.MLP-of-block-0"].control is not None
    assert said["transplant.MLP-of-block-0"].control < 0.6
    assert share_an_ancestor(*subjects)


def test_other_questions_and_settings_that_leave_nothing_are_refused(flat: KnownAnswer) -> None:
    with pytest.raises(SpecError, match="at least 4, 1 and 20 are needed"):
        Asked(pairs=2)
    with pytest.raises(SpecError, match="a share of the logit difference lies between 0 and 1"):
        Asked(keep=1.5)
    with pytest.raises(ProbeError, match="silent has no circuit to compare"):
        measure(Subject("silent", silenced(flat, 0.0)), ASKED)
    one, other = measure(flat.subject(), ASKED), measure(flat.subject(seed=1), ASKED)
    with pytest.raises(ProbeError, match="were not asked the same questions"):
        between(one, other, ASKED)


def test_operations_with_one_circuit_need_each_others_edges(flat: KnownAnswer) -> None:
    """Two halves of one operation's inputs are two operations that share everything; another circuit costs less."""

    def compared_on(seed: int) -> Comparison:
        pairs = flat.pairs(16, np.random.default_rng(seed))
        base, source = flat.streams(pairs)
        answers = flat.answers(pairs)
        return Comparison.of(base, source, Metric(answers[0], answers[1]), np.random.default_rng(0), 50)

    noising = [compared_on(seed) for seed in range(3)]
    profiles = [Profile.of(one, 0.99) for one in noising]
    same = {name: Operation((profiles[index], profiles[2]), noising[2]) for index, name in enumerate(("A", "B"))}
    graph = flat.graph
    apart = np.zeros_like(profiles[0].kept)
    apart[graph.edge("token->m0")] = apart[graph.edge("m0->logits")] = True
    other = dataclasses.replace(profiles[0], kept=apart)
    found = shared({**same, "C": Operation((other, other), noising[2])}, np.random.default_rng(0), draws=20)
    both, null = found.overlaps["A", "B"]
    assert both.jaccard == 1
    assert null.p is not None
    assert null.p < 0.2
    assert found.cuts["A", "B"].all.value == pytest.approx(1, abs=0.01)
    assert found.cuts["A", "B"].only is None
    assert found.cuts["A", "C"].only_edges == 1
    only = found.cuts["A", "C"].only
    assert only is not None
    assert only.value == pytest.approx(0, abs=1e-4)  # an edge that a table of pairs does not use
    assert found.cuts["A", "C"].all.value == pytest.approx(1, abs=0.01)  # m0->logits is needed by all


def test_the_jump_is_the_largest_rise_and_the_plateau_comes_before_it() -> None:
    found = jump([0.1, 0.12, 0.11, 0.5, 0.95, 0.96])
    assert found is not None
    assert (found.before, found.after, found.plateau) == (3, 4, 2)
    assert found.rise == pytest.approx(0.45)
    assert jump([0.5, 0.4, 0.3]) is None
    late = jump([0.0, 0.0, 1.0])
    assert late is not None
    assert (late.before, late.plateau) == (1, 1)


def silenced(known: KnownAnswer, share: float) -> Checkpoint:
    """The model with its MLP's output scaled down: at 0 it knows nothing."""
    own = known.checkpoint()
    name = "blocks.0.mlp.W_out"
    return dataclasses.replace(own, params={**own.params, name: own.params[name] * share})


def test_a_circuit_over_training_is_refused_before_it_is_known_and_the_same_after(flat: KnownAnswer) -> None:
    along = [(0, silenced(flat, 0.0)), (10, silenced(flat, 0.0)), (20, silenced(flat, 0.9)), (30, flat.checkpoint())]
    found = history("run", along, ASKED)
    assert [point.profile is None for point in found.points] == [True, True, False, False]
    assert "includes 0" in found.points[0].refusal
    assert found.jump_right is not None
    assert (found.jump_right.before, found.jump_right.plateau) == (1, 1)
    first = found.points[2].final
    assert first is not None
    assert first[0].jaccard == 1
    into = {one.part.name: one.donor.share for one in found.points[0].into}
    assert into["heads of block 0"] == 1  # they are as they will be, from the start
    assert into["MLP of block 0"] < 0.3
    finding = history_finding(found, "run", ASKED, True)
    assert finding["jump-right.step"].value == 10
    assert finding["circuit.first-step"].value == 20
    assert finding.tables[0].rows[0][5] is None


def test_a_run_without_checkpoints_along_the_way_is_refused(flat: KnownAnswer, tmp_path: Path) -> None:
    flat.checkpoint().save(tmp_path / "model.safetensors")
    with pytest.raises(ProbeError, match=r"holds 0 checkpoints along the way.*checkpoint_every"):
        checkpoints(tmp_path)
    for step in (5, 40):
        silenced(flat, step / 50).save(tmp_path / "checkpoints" / f"step_{step:07d}.safetensors")
    along = checkpoints(tmp_path)
    assert [step for step, _ in along] == [5, 40, 41]
    assert torch.equal(along[-1][1].params["embed.W_E"], flat.params["embed.W_E"])


def test_the_command_compares_models_and_follows_a_run(flat: KnownAnswer, tmp_path: Path) -> None:
    saved = flat.checkpoint().save(tmp_path / "one.safetensors")
    exchanged(flat).save(tmp_path / "other.safetensors")
    silenced(flat, 1.0).save(tmp_path / "run" / "model.safetensors")
    for step, share in ((5, 0.0), (40, 0.9)):
        silenced(flat, share).save(tmp_path / "run" / "checkpoints" / f"step_{step:07d}.safetensors")
    small = ("--pairs", "8", "--shuffles", "3", "--threads", "1", "--no-open", "-q")
    done = run(
        "compare-circuits", "--model", "one.safetensors", "--compare", "other.safetensors", "--over-training", "run",
        *small, "--out", "page", "--json", cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(done.stdout)
    probes = {name: [finding["probe"] for finding in findings] for name, findings in found["findings"].items()}
    assert probes["one"] == ["circuit-overlap", "circuit-transplant", "circuit-transplant-direct"]
    assert probes["run"] == ["circuit-over-training"]
    numbers = {number["key"]: number for number in found["findings"]["one"][0]["numbers"]}
    assert numbers["weighted.across"]["n"] == 2
    page = (tmp_path / found["report"]).read_text(encoding="utf-8")
    assert "The circuit over training" in page
    shown = run("compare-circuits", "--model", str(saved), "--compare", "other.safetensors", *small,
                "--no-transplants", "--out", "page", cwd=tmp_path).stdout  # fmt: skip
    assert "These two checkpoints only" in shown
    assert "Overlap of effects (weighted Jaccard): across the sides" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give --model CKPT once or more, or --over-training RUN"),
        (("--compare", "one.safetensors"), "give the first with --model"),
        (("--model", "one.safetensors"), "nothing to compare: one model of one operation"),
        (("--model", "two.safetensors", "--steps", "2"), "compared in single steps, not in 2; leave --steps out"),
        (("--over-training", "one.safetensors"), "holds 0 checkpoints along the way"),
    ],
)
def test_what_is_missing_is_said_before_the_work(
    flat: KnownAnswer, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    flat.checkpoint().save(tmp_path / "one.safetensors")
    small_subject(steps=1).checkpoint.save(tmp_path / "two.safetensors")
    done = run("compare-circuits", *arguments, "--pairs", "4", "--no-open", cwd=tmp_path, check=1)
    assert says in done.stderr
    assert "finding circuits" not in done.stderr
    assert not (tmp_path / "compared").exists()
