"""Linear probes: toys with known scores, lines read as they are, and models of which it is known what they hold where."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from kc_interp import plugins
from kc_interp.checkpoint import Checkpoint
from kc_interp.circuits.linear import (
    STRENGTHS,
    Discriminants,
    Reading,
    choose_strength,
    control_labels,
    part_of,
    read_values,
    shares,
)
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Finding, Number
from kc_interp.model import parameters
from kc_interp.model.forward import forward
from kc_interp.probe import Subject
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.reduction import Rules, apply
from kc_interp.testing import check_probe, known_answer
from kc_probes.linear_probes import LinearProbes, Stage, Streams, Target
from kc_probes.written_lines import Lines
from tests.adding import Adding
from tests.packages import install

ADDING = (Path(__file__).parent / "adding.py").read_text()
ONE_HOT = np.eye(5)
LABELS = np.random.default_rng(0).integers(0, 5, 200)
NOISE = np.random.default_rng(1).normal(size=(200, 8))
SMALL = LinearProbes(chains=120, resamples=50, controls=1, erasures=1)


# Reading


def test_a_probe_reads_one_hot_labels_at_other_scales_and_nothing_from_noise() -> None:
    features = np.concatenate([ONE_HOT[LABELS] * 1e-3 + 7, NOISE * 100], axis=1)
    reading = Reading.fit(features[:150], LABELS[:150], 1.0)
    assert (reading.read(features[150:]) == LABELS[150:]).all()
    blind = Reading.fit(NOISE[:150], LABELS[:150], 1.0)
    assert (blind.read(NOISE[150:]) == LABELS[150:]).mean() < 0.45


def test_two_labels_have_two_scores_that_sum_to_zero() -> None:
    labels = np.where(NOISE[:, 0] > 0, 4, 9)
    reading = Reading.fit(NOISE, labels, 100.0)
    assert reading.labels.tolist() == [4, 9]
    np.testing.assert_allclose(reading.weights.sum(axis=0), 0, atol=1e-12)
    assert (reading.read(NOISE) == labels).mean() > 0.97


def test_a_number_on_a_line_needs_the_weak_penalty_which_is_chosen_on_the_rows_fitted() -> None:
    many = np.random.default_rng(3).integers(0, 12, 200)
    line = many[:, None] + 0.0
    strength = choose_strength(line, many, np.arange(200), np.random.default_rng(0))
    assert strength == STRENGTHS[-1]
    right = [(Reading.fit(line, many, each).read(line) == many).mean() for each in (STRENGTHS[0], strength)]
    assert right[0] < 0.5
    assert right[1] > 0.9
    chance = choose_strength(np.zeros((200, 1)), LABELS, np.arange(200), np.random.default_rng(0))
    assert chance == STRENGTHS[0]


def test_values_on_a_line_are_read_and_those_of_noise_are_not() -> None:
    values = LABELS.astype(float)
    features = np.concatenate([NOISE, values[:, None] * 3 - 1], axis=1)
    np.testing.assert_allclose(read_values(features[:150], values[:150], features[150:]), values[150:], atol=1e-2)


def test_part_of_keeps_groups_whole_and_has_the_share_asked_for() -> None:
    groups = np.repeat(np.arange(20), 5)
    part = part_of(groups, 0.3, np.random.default_rng(0))
    assert len(np.unique(groups[part])) == 6
    assert not set(groups[part]) & set(groups[~part])


def test_the_control_task_gives_each_type_one_label_of_those_that_occur() -> None:
    types = np.random.default_rng(2).integers(0, 30, 200)
    control = control_labels(LABELS, types, np.random.default_rng(0))
    assert all(len(np.unique(control[types == one])) == 1 for one in np.unique(types))
    assert set(control) <= set(LABELS)
    assert (control == LABELS).mean() < 0.5


def test_shares_under_weightings_are_those_of_repeated_groups() -> None:
    part, groups = np.asarray([1.0, 0.0, 1.0]), np.asarray([0, 0, 1])
    weights = np.asarray([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(shares(part, np.ones(3), groups, weights), [2 / 3, 1 / 2, np.nan])


# Erasing


def test_after_all_directions_are_erased_no_probe_reads_the_label_and_the_rest_is_as_it_was() -> None:
    features = np.concatenate([ONE_HOT[LABELS], NOISE], axis=1)
    found = Discriminants.of(features, LABELS)
    np.testing.assert_allclose(found.correlations, 1, atol=1e-9)
    assert found.above(0.9) == 4
    erased = found.erase(torch.from_numpy(features), 4).numpy()
    assert Discriminants.of(erased, LABELS).correlations.max() < 1e-6
    again = Reading.fit(erased, LABELS, 1.0).read(erased) == LABELS
    assert again.mean() <= np.bincount(LABELS).max() / 200 + 1e-9
    # Noise is only moved by the little that it correlates with the label by chance.
    assert np.corrcoef(erased[:, 5], features[:, 5])[0, 1] > 0.95


def test_no_direction_changes_nothing_and_what_does_not_vary_has_none() -> None:
    features = torch.from_numpy(NOISE)
    torch.testing.assert_close(Discriminants.of(NOISE, LABELS).erase(features, 0), features)
    assert len(Discriminants.of(np.ones((200, 3)), LABELS).correlations) == 0


# Lines


def test_the_lines_of_a_chain_worked_by_hand() -> None:
    task = ListOps(("MAX", "SUM"))
    found = Lines.of(task, task.parse("[SUM 1 [MAX 4 3] 2]"))
    # [ SUM 1 [ MAX 4 3 ] 2 ] > [ SUM 1 4 2 ] = 7 <end>: the separator at 10, the 4 at 14, `=` at 17
    assert found.opens.tolist() == [10, 17]
    assert found.queries.tolist() == [13, 17]
    assert found.results is not None
    assert found.results.tolist() == [4, 7]
    assert found.operands is not None
    assert found.operands.tolist() == [[4, 3, -1], [1, 4, 2]]
    assert found.left.tolist() == [1, 0]
    assert found.answers.tolist() == [7, 7]


@pytest.mark.parametrize("shape", ["paper", "equals"])
def test_every_result_is_what_its_operands_come_to(shape: str) -> None:
    task = ListOps(("MED", "NADD"), modulus=7, depth=3, max_operands=4, shape=shape)  # type: ignore[arg-type]
    chains = task.sample(60, np.random.default_rng(0))
    found, steps = Lines.of(task, chains), task.steps(chains)
    assert found.results is not None
    np.testing.assert_array_equal(found.results, apply(steps.operations, steps.operands, Rules(7)))
    np.testing.assert_array_equal(found.index - 1, steps.index)


def test_a_task_that_does_not_say_its_steps_has_the_answer_and_what_is_left_at_separators() -> None:
    task = Adding(terms=4)
    chains = task.parse("3 + 4 + 1")
    found = Lines.of(task, chains)
    assert found.queries.tolist() == found.opens.tolist() == [5, 9]
    absent = {target.key: target.absent for target in Target.all_of(found) if not target.rows.any()}
    assert set(absent) == {"operand1", "operand2", "operand3", "result"}
    assert set(absent.values()) == {"this task does not say what its lines work out"}


def test_an_answer_that_is_no_digit_is_refused() -> None:
    task = ListOps(("MAX",))
    chains = task.parse("[MAX 4 3]")
    chains.symbols[0, chains.answers[0]] = 1
    with pytest.raises(ProbeError, match="an answer is no digit"):
        Lines.of(task, chains)


# The probe


@cache
def read(name: str) -> Finding:
    return LinearProbes().run(known_answer(name).subject())


def value(finding: Finding, key: str) -> float:
    found = finding[key].value
    assert found is not None, key
    return found


def test_operands_and_result_of_a_composed_table_are_read_where_they_are_and_used_once() -> None:
    found = read("composed_table_sum")
    assert found["lines.right"].value == 1
    arrives = {"operand1": "mid0", "operand2": "mid0", "operand3": "mid1", "result": "stage2"}
    stages = [stage.key for stage in Stage.all_of(2)]
    for target, arrival in arrives.items():
        for index, stage in enumerate(stages):
            if index < stages.index(arrival):
                assert value(found, f"{target}.accuracy.{stage}") < 0.5
            else:
                assert value(found, f"{target}.accuracy.{stage}") == 1
                assert value(found, f"{target}.selectivity.{stage}") > 0.5
        needed = found[f"{target}.loss.{arrival}"]
        assert needed.value is not None
        assert needed.control is not None
        assert needed.value > needed.control + 0.3
        # The operands stay where they can be read, and no later part reads them.
        for stage in stages[stages.index(arrival) + 1 :]:
            assert value(found, f"{target}.loss.{stage}") == 0
    assert value(found, "result.unseen.stage2") == 1
    assert found["result.separator.stage2"].note == "no line has its result further on"  # `=` predicts it
    assert value(found, "result.line-end.stage2") < 0.5


def test_an_adder_holds_the_result_as_a_number_and_no_single_operand() -> None:
    found = read("arithmetic_sum")
    assert value(found, "result.accuracy.stage1") == 1
    assert value(found, "result.r2.stage1") == pytest.approx(1, abs=1e-3)
    assert value(found, "result.r2.mid0") < 0.3  # the sum before the modulus is taken off
    for operand in ("operand1", "operand2", "operand3"):
        assert value(found, f"{operand}.accuracy.stage1") < 0.35
    assert "Operand 1 of the reduction: nowhere read beyond its controls." in found.sentence


def test_what_one_line_of_questions_cannot_have_says_why() -> None:
    found = read("arithmetic_sum")
    assert found["answer.accuracy.stage0"].note == "no line comes before the last reduction"
    assert found["left.r2.stage0"].note == "every line has equally many left"


def test_keys_depend_on_depth_alone() -> None:
    assert [n.key for n in read("arithmetic_sum").numbers] == [n.key for n in SMALL.run(untrained()).numbers]


def untrained(layers: int = 1, task: TaskSpec | None = None) -> Subject:
    spec = RunSpec(
        task or TaskSpec("listops", {"operations": ["MAX", "SUM"], "depth": 2}),
        DataSpec(test_fraction=0.5),
        ModelSpec(d_model=12, n_layers=layers, n_heads=2),
    )
    bare = Checkpoint(spec, {})
    shape = {"d_vocab": len(bare.tokens), "n_ctx": bare.task.max_length}
    params = parameters.initialise(spec.model, torch.Generator().manual_seed(0), **shape)
    return Subject("untrained", Checkpoint(spec, params), 0, learned=False)


def test_a_model_without_training_claims_nothing_and_is_read_no_better_than_fresh_weights() -> None:
    found = check_probe(SMALL, untrained(2))
    assert found.status == "unlearned"
    assert "claimed" in found.sentence
    assert "The line's result: nowhere read beyond its controls." in found.sentence


def test_editing_no_row_is_the_model_itself_at_every_stage_and_an_edit_acts_at_its_position() -> None:
    subject = untrained(2)
    spec, chains = subject.checkpoint.spec.model, subject.items(40, "any", "SUM")
    chains = chains.take(np.argsort(chains.lengths, kind="stable"))
    ids = subject.ids(chains)
    streams = Streams.of(subject.params, spec, ids, chains.lengths)
    rows, place = np.arange(40), chains.answers - 1
    expected = forward(subject.params, spec, ids[:, :, :-1])[0, rows, place].argmax(-1)
    for stage in range(len(Stage.all_of(2))):
        found = streams.predicted(stage, rows, place, lambda stream: stream)
        np.testing.assert_array_equal(found, expected.numpy())
    # Every row's stream made that of the first: after the last block they all predict the same.
    same = streams.predicted(4, rows, place, lambda stream: stream[:1].expand_as(stream))
    np.testing.assert_array_equal(same, expected.numpy()[0])


def test_a_task_of_another_package_is_read_with_the_targets_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        monkeypatch,
        tmp_path / "foo",
        "foo",
        modules={"foo_adding": ADDING},
        tasks={"adding": "foo_adding:Adding"},
    )
    assert plugins.find("tasks", "adding").distribution == "foo"
    found = check_probe(SMALL, untrained(1, TaskSpec("adding", {"terms": 3})))

    def measured(number: Number) -> bool:
        return number.value is not None

    assert all(measured(found[f"{target}.accuracy.stage1"]) for target in ("left", "answer"))
    assert not any(measured(number) for number in found.numbers if number.key.startswith(("operand", "result")))


def test_too_few_test_questions_are_refused_with_what_would_help() -> None:
    task = TaskSpec("listops", {"operations": ["MAX"], "depth": 1, "modulus": 4, "max_operands": 2})
    with pytest.raises(ProbeError, match=r"different test questions; linear probes need 20 .* Raise `chains`"):
        SMALL.run(untrained(1, task))


def test_settings_that_hold_nothing_out_or_have_no_control_are_refused() -> None:
    with pytest.raises(SpecError, match="held_out is 0"):
        LinearProbes(held_out=0)
    with pytest.raises(SpecError, match="at least 1 random labelling"):
        LinearProbes(controls=0)
