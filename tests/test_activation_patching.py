"""Where a hand-made model reads its answer is found by patching and by breaking the chain; twins differ as declared."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import dumps
from kc_interp.model import parameters
from kc_interp.model.patch import Run
from kc_interp.probe import Subject
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec
from kc_interp.tasks.listops import ListOps
from kc_interp.tokens import Tokens
from kc_probes.activation_patching import DIRECTIONS, SITES, ActivationPatching, _effects

FEW = ActivationPatching(component="MAX", pairs=8, resamples=50)
WHOLE_TREES: dict[str, Any] = {"operations": ["MAX"], "depth": 2, "max_operands": 2, "p_operation": 1.0}
"""Every chain reads [MAX [MAX a b] [MAX c d]] > [MAX e [MAX c d]] > [MAX e f] = g: 13, 10 and 6 symbols, then `= g`."""

QUESTION, LAST_LINE = slice(0, 13), slice(23, 29)
JOINT: dict[str, Any] = {"operations": ["MAX", "SUM"], "depth": 2, "max_operands": 2}
DATA = DataSpec(test_fraction=0.3, holdout_pairs=0, holdout_triples=0)


def subject_of(
    settings: Mapping[str, Any], model: ModelSpec, params: parameters.Parameters, *, learned: bool | None = True
) -> Subject:
    return Subject("a model", Checkpoint(RunSpec(TaskSpec("listops", settings), DATA, model), params), learned=learned)


def random_subject(settings: Mapping[str, Any] = JOINT, *, seed: int = 1, learned: bool | None = True) -> Subject:
    """Random everywhere, biases too."""
    model, task = ModelSpec(d_model=16, n_heads=2), ListOps(**settings)
    generator = torch.Generator().manual_seed(seed)
    fresh = parameters.initialise(model, generator, d_vocab=len(Tokens.of(task)), n_ctx=task.max_length)
    params = {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}
    return subject_of(settings, model, params, learned=learned)


def reader_of(part: slice) -> Subject:
    """A model without MLP that answers with the largest digit of one part of the chain; its second head does nothing."""
    task = ListOps(**WHOLE_TREES)
    tokens = Tokens.of(task)
    size = len(tokens)
    model = ModelSpec(d_model=size + 1, n_layers=2, n_heads=2, d_head=size, d_mlp=1, norm="none", act="relu")
    shapes = parameters.shapes(model, d_vocab=size, n_ctx=task.max_length)
    params = {name: torch.zeros(shape) for name, shape in shapes.items()}
    params["embed.W_E"][:, :size] = torch.eye(size)
    params["pos_embed.W_pos"][part, size] = 1.0
    params["blocks.1.attn.b_Q"][0, 0] = size**0.5  # undoes the scale of the scores
    params["blocks.1.attn.W_K"][0, size, 0] = 400.0
    for token, (symbol, kind) in enumerate(zip(tokens.symbols, tokens.classes, strict=True)):
        if kind == "digit":
            params["blocks.1.attn.W_K"][0, token, 0] = 400.0 + 20.0 * int(symbol)
            params["blocks.1.attn.W_V"][0, token, token] = 1.0
            params["unembed.W_U"][token, token] = 12.0
    params["blocks.1.attn.W_O"][0, :, :size] = torch.eye(size)
    return subject_of(WHOLE_TREES, model, params)


BY_HAND = ActivationPatching(component="MAX", pairs=12, steps=3, resamples=50)


@pytest.fixture(scope="module")
def of_last_line() -> Any:
    return BY_HAND.run(reader_of(LAST_LINE))


@pytest.fixture(scope="module")
def of_question() -> Any:
    return BY_HAND.run(reader_of(QUESTION))


@pytest.fixture(scope="module")
def of_random() -> Any:
    return FEW.run(random_subject())


# Models that read one part of the chain


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("experiment", ["operand-1", "operand-2"])
def test_a_reader_of_the_last_line_is_carried_by_that_line_and_not_by_the_question(
    of_last_line: Any, direction: str, experiment: str
) -> None:
    def effect(key: str) -> float | None:
        return of_last_line[f"{experiment}.{direction}.{key}"].value

    for block in (0, 1):
        assert effect(f"resid_pre.block{block}.last-line") == pytest.approx(1, abs=1e-5)
        assert effect(f"resid_pre.block{block}.question") == pytest.approx(0, abs=1e-5)
        assert effect(f"resid_pre.block{block}.query") == pytest.approx(0, abs=1e-5)
    assert effect("attn_out.block1.query") == pytest.approx(1, abs=1e-5)
    assert effect("attn_out.block0.query") == pytest.approx(0, abs=1e-5)
    assert effect("mlp_out.block1.query") == pytest.approx(0, abs=1e-5)
    assert of_last_line[f"{experiment}.difference"].value == pytest.approx(24, abs=1e-3)


def test_a_reader_of_the_question_is_carried_by_the_question(of_question: Any) -> None:
    assert of_question["operand-1.denoising.resid_pre.block0.question"].value == pytest.approx(1, abs=1e-5)
    assert of_question["operand-1.denoising.resid_pre.block0.last-line"].value == pytest.approx(0, abs=1e-5)


def test_the_answer_follows_the_part_of_the_chain_that_the_model_reads(of_last_line: Any, of_question: Any) -> None:
    for part in ("last-line", "earlier-lines"):
        for finding, read in ((of_last_line, "last-line"), (of_question, "earlier-lines")):
            for followed in ("last-line", "earlier-lines"):
                number = finding[f"chain.{part}-changed.follows-{followed}"]
                assert number.value == (1.0 if followed == read else 0.0)
                assert number.n == 24 and number.control == pytest.approx(1 / 10)


def test_the_head_that_copies_is_named_and_the_idle_one_has_no_effect(of_last_line: Any) -> None:
    heads = next(f for f in of_last_line.figures if f.title == "Noising, operand-1: each head")
    values = dict(zip(heads.data["y"], heads.data["z"], strict=True))
    assert values["block 1 head 0"][-1] == pytest.approx(1, abs=1e-5)
    assert np.abs(values["block 1 head 0"][:-1]).max() == 0
    for idle in ("block 0 head 0", "block 0 head 1", "block 1 head 1"):
        assert np.abs(values[idle]).max() < 1e-5
    assert of_last_line.tables[2].rows[0][:3] == (1, 0, "29 =")


def test_another_pairs_run_brings_the_wrong_answer(of_last_line: Any) -> None:
    number = of_last_line["operand-1.denoising.attn_out.block1.query"]
    assert number.control is not None and number.value is not None
    assert number.control < 0.75 < number.value
    assert number.control_says == "the same patch from another pair's run"


# Twins


@pytest.mark.parametrize("kind", ["operand", "operation"])
def test_twins_share_every_class_and_differ_in_one_symbol_of_the_question_and_in_the_answer(kind: str) -> None:
    subject = random_subject()
    sets = FEW._pairs(subject, kind)
    assert len(sets) == 2 and len({pairs.differs[1:] for pairs in sets}) == 2
    classes = np.asarray(subject.task.classes, dtype=object)
    for pairs in sets:
        clean, twin = pairs.clean.symbols, pairs.twin.symbols
        assert (classes[clean] == classes[twin]).all() and (classes[clean] == classes[clean[0]]).all()
        assert all(tuple(np.flatnonzero(row)) == pairs.differs for row in clean != twin)
        assert (pairs.clean.answer_symbols() != pairs.twin.answer_symbols()).all()
        changed = [place for place in pairs.differs if pairs.line[place] == 0]
        assert len(changed) == 1 and classes[clean[0, changed[0]]] == {"operand": "digit"}.get(kind, kind)
        assert pairs.query + 1 in pairs.differs


def test_the_table_says_which_line_differs_where(of_last_line: Any) -> None:
    declared = of_last_line.tables[0]
    assert declared.columns[4:] == ("positions that differ (line)", "last line")
    for label, pairs, clean, twin, where, last in declared.rows:
        assert pairs == 12 and last == 2 and str(label).startswith("operand-")
        assert str(clean).count(">") == str(twin).count(">") == 2
        assert "(line 0)" in str(where) and "(line 2)" in str(where) and str(where).endswith("30 (line 3)")


def test_arms_are_patched_on_the_same_pairs_under_the_same_keys(of_random: Any) -> None:
    alone = FEW.run(random_subject({**JOINT, "operations": ["MAX"]}, seed=2))
    keys = [number.key for number in of_random.numbers if not number.key.startswith("operation")]
    assert [number.key for number in alone.numbers] == keys
    rows = [row for row in of_random.tables[0].rows if str(row[0]).startswith("operand")]
    assert list(alone.tables[0].rows) == rows


# Two routes


def test_effects_equal_transformer_lens_patching_one_hooked_forward_a_patch() -> None:
    import transformer_lens.patching as reference

    by_site: dict[str, Callable[..., torch.Tensor]] = {
        "resid_pre": reference.get_act_patch_resid_pre,
        "attn_out": reference.get_act_patch_attn_out,
        "mlp_out": reference.get_act_patch_mlp_out,
        "z": reference.get_act_patch_attn_head_out_by_pos,
    }
    subject = random_subject()
    pairs = FEW._pairs(subject, "operand")[0]
    model, tokens = subject.checkpoint.hooked(), subject.tokens
    ids = [subject.ids(part)[0, :, : pairs.query + 1] for part in (pairs.clean, pairs.twin)]
    answers = torch.from_numpy(np.stack([tokens.encode(c.answer_symbols()) for c in (pairs.clean, pairs.twin)]))
    runs = [Run.of(subject.params, subject.checkpoint.spec.model, part) for part in ids]
    rows = torch.arange(len(answers[0]))

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, answers[0]] - logits[rows, -1, answers[1]]).mean()

    with torch.no_grad():
        clean, corrupted = (difference(model(part)) for part in ids)
    for base, source in ((0, 1), (1, 0)):
        _, cache = model.run_with_cache(ids[source])
        start, end = (clean, corrupted) if base == 0 else (corrupted, clean)
        for site in SITES:
            with contextlib.redirect_stderr(io.StringIO()):
                moved = by_site[site](model, ids[base], cache, difference).detach() - start
            mine = _effects(runs[base], runs[source], answers, site, np.full((2, len(rows)), 1 / len(rows)))
            value = torch.from_numpy(mine.value).float()
            value = value.permute(0, 2, 1) if site == "z" else value[:, 0]
            torch.testing.assert_close(value, moved / (end - start), atol=1e-5, rtol=1e-4)
            np.testing.assert_allclose(mine.low, mine.value, atol=1e-12)


# The finding


def test_every_effect_has_an_interval_and_a_control(of_last_line: Any) -> None:
    assert len(of_last_line.numbers) == 4 + 2 * (1 + 2 * 3 * 2 * 3)
    for number in of_last_line.numbers:
        assert number.value is not None and number.low is not None and number.high is not None
        assert number.low <= number.value + 1e-9 and number.value <= number.high + 1e-9
        assert number.control is not None and number.control_says and number.higher_means and number.n


def test_figures_show_streams_and_heads_both_ways_and_say_what_would_refute_them(of_last_line: Any) -> None:
    assert [figure.kind for figure in of_last_line.figures] == ["heatmap"] * 2 * 2 * 2
    for figure in of_last_line.figures:
        assert figure.shows and figure.refuted_by
        assert np.asarray(figure.data["z"]).shape == (len(figure.data["y"]), len(figure.data["x"]))
        assert sum("/" in label for label in figure.data["x"]) >= 2
    assert of_last_line.settings["pairs"] == 12
    json.loads(dumps({"findings": [of_last_line]}))


def test_where_the_answers_are_not_told_apart_effects_are_refused_under_the_same_keys(of_random: Any) -> None:
    subject = random_subject()
    params = {**subject.checkpoint.params, "unembed.W_U": torch.zeros_like(subject.checkpoint.params["unembed.W_U"])}
    found = FEW.run(subject_of(JOINT, subject.checkpoint.spec.model, params))
    assert [number.key for number in found.numbers] == [number.key for number in of_random.numbers]
    refused = found["operand-1.noising.mlp_out.block1.query"]
    assert refused.value is None and "logit difference that effects are shares of does not exceed 0" in refused.note
    assert found["operand-1.difference"].value == 0
    assert "Effects are refused for operand-1, operand-2, operation-1, operation-2" in found.sentence
    assert found.figures == ()


def test_a_set_that_is_not_found_and_a_line_that_is_not_there_are_missing_with_a_reason() -> None:
    probe = ActivationPatching(component="MAX", pairs=8, steps=1, experiments=3, resamples=20)
    found = probe.run(random_subject({**JOINT, "operations": ["MAX"]}))
    assert [row[1] for row in found.tables[0].rows] == [8, 8, None]  # [MAX a b] has two operands to change
    for key in ("operand-3.difference", "operand-3.noising.resid_pre.block0.query"):
        assert found[key].value is None
        assert found[key].note == "no further 8 pairs of one template differ at one set of places"
    assert found["operand-1.denoising.resid_pre.block0.last-line"].value is None
    assert found["chain.last-line-changed.follows-last-line"].value is None
    assert "no set of operand pairs has a line" in found["chain.last-line-changed.follows-last-line"].note


def test_the_same_subject_gives_the_same_finding(of_random: Any) -> None:
    assert dumps({"f": [FEW.run(random_subject())]}) == dumps({"f": [of_random]})


def test_a_model_that_has_not_learned_is_named_as_such() -> None:
    found = FEW.run(random_subject(learned=False))
    assert found.status == "unlearned"
    assert found.sentence.startswith("This model has not learned its task, so nothing is claimed")


def test_more_pairs_than_share_their_positions_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kc_interp.pairs._DRAWN_A_PAIR", 2)
    with pytest.raises(
        ProbeError, match=r"no 8 pairs of one template .* among 16 test items of 2 steps; lower `pairs`"
    ):
        FEW.run(random_subject())


class WithoutTwins(ListOps):
    """ListOps as a task that offers no counterfactual."""

    @property
    def counterfactuals(self) -> tuple[str, ...]:
        return ()


class OddSubject(Subject):
    @property
    def task(self) -> WithoutTwins:
        return WithoutTwins()


def test_a_task_without_counterfactuals_is_refused() -> None:
    with pytest.raises(ProbeError, match="a model: this task offers no counterfactual"):
        FEW.run(OddSubject("a model", random_subject().checkpoint))


def test_a_model_of_nans_is_refused() -> None:
    subject = random_subject()
    params = {name: value * float("nan") for name, value in subject.checkpoint.params.items()}
    with pytest.raises(ProbeError, match="not finite; did its training diverge"):
        FEW.run(subject_of(JOINT, subject.checkpoint.spec.model, params))


@pytest.mark.parametrize(
    ("settings", "message"), [({"pairs": 1}, "another pair"), ({"experiments": 0}, "at least 1 set")]
)
def test_settings_that_leave_nothing_to_compare_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ActivationPatching(**settings)
