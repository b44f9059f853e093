"""What a hand-made head attends to and depends on is found; looking is told from mattering; cuts are exact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from kc_interp.checkpoint import Checkpoint
from kc_interp.circuits.attention import MEASURES, Estimates, Measured, Queries, Rows, as_much_of_others, measure
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import dumps
from kc_interp.model import parameters
from kc_interp.probe import Subject
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec
from kc_interp.tasks.codes import FIRST_DIGIT
from kc_interp.tasks.expressions import OPERATIONS, apply
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains, Task
from kc_interp.tokens import Tokens
from kc_probes.attention_attribution import AttentionAttribution, agreement
from tests.cases import CASES, Case
from tests.toys import SampledSubject, fills_in

FEW = AttentionAttribution(chains=24, resamples=60, permutations=100)
ONE_STEP: dict[str, Any] = {"operations": ["MAX"], "depth": 1, "max_operands": 3}
TWO_STEPS: dict[str, Any] = {"operations": ["MAX", "MED", "SUM"], "depth": 2, "max_operands": 2}
ALL_TESTED = DataSpec(test_fraction=0.5, holdout_pairs=0, holdout_triples=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def subject_of(
    settings: Mapping[str, Any], model: ModelSpec, params: parameters.Parameters, *, learned: bool | None = True
) -> Subject:
    spec = RunSpec(TaskSpec("listops", settings), ALL_TESTED, model)
    return Subject("a model", Checkpoint(spec, params), learned=learned)


def random_subject(
    settings: Mapping[str, Any] = TWO_STEPS, *, seed: int = 1, learned: bool | None = True, **shape: Any
) -> Subject:
    """Random everywhere, biases too."""
    model, task = ModelSpec(**{"d_model": 16, "n_heads": 2, **shape}), ListOps(**settings)
    generator = torch.Generator().manual_seed(seed)
    fresh = parameters.initialise(model, generator, d_vocab=len(Tokens.of(task)), n_ctx=task.max_length)
    params = {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}
    return subject_of(settings, model, params, learned=learned)


def maximum_by_hand() -> Subject:
    """MAX of one step, solved by one head and no MLP: it attends to the largest digit and copies it into the logits.

    A second head looks at brackets alone and writes nothing.
    """
    tokens = Tokens.of(ListOps(**ONE_STEP))
    size = len(tokens)
    model = ModelSpec(d_model=size, n_layers=1, n_heads=2, d_head=size, d_mlp=1, norm="none", act="relu")
    shapes = parameters.shapes(model, d_vocab=size, n_ctx=ListOps(**ONE_STEP).max_length)
    params = {name: torch.zeros(shape) for name, shape in shapes.items()}
    params["embed.W_E"] = torch.eye(size)
    params["blocks.0.attn.b_Q"][:, 0] = size**0.5  # undoes the scale of the scores
    for token, (symbol, kind) in enumerate(zip(tokens.symbols, tokens.classes, strict=True)):
        is_digit, is_bracket = kind == "digit", kind in ("open", "close")
        params["blocks.0.attn.W_K"][0, token, 0] = 20.0 * (int(symbol) + 1) if is_digit else -20.0
        params["blocks.0.attn.W_K"][1, token, 0] = 0.0 if is_bracket else -40.0
        params["blocks.0.attn.W_V"][0, token, token] = float(is_digit)
        params["unembed.W_U"][token, token] = 12.0 if is_digit else 0.0
    params["blocks.0.attn.W_O"][0] = torch.eye(size)
    return subject_of(ONE_STEP, model, params)


@pytest.fixture(scope="module")
def of_random() -> Any:
    return FEW.run(random_subject())


@pytest.fixture(scope="module")
def of_maximum() -> Any:
    return AttentionAttribution(component="MAX", resamples=60).run(maximum_by_hand())


# Which position is what


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_operands_are_those_of_the_reduction_that_the_line_carries_out(case: Case) -> None:
    task = ListOps(operations=("MAX", "MIN", "MED", "SUM", "PROD", "NADD"), modulus=case.modulus, median=case.median)
    chains = task.parse(case.text)
    queries = Queries.of(task, chains)
    carries_out = queries.kinds["answer"] | queries.kinds["value"]
    assert carries_out.sum() == len(case.lines)
    steps = task.steps(chains)
    for step, query in enumerate(np.flatnonzero(carries_out)):
        shown = chains.symbols[0, queries.sources[query] == queries.names.index("operands")] - FIRST_DIGIT
        assert shown.tolist() == [value for value in steps.operands[step].tolist() if value >= 0]
        written = int(chains.symbols[0, queries.position[query] + 1]) - FIRST_DIGIT
        assert written == apply(OPERATIONS[steps.operations[step]], shown.tolist(), case.modulus, case.median)


def test_classes_of_a_chain_written_out_by_hand() -> None:
    task = ListOps()
    # [ SUM 1 [ MAX 4 3 ] ] > [ SUM 1 4 ] = 5
    queries = Queries.of(task, task.parse("[SUM 1 [MAX 4 3]]"))
    letters = dict(enumerate("DOobs"))  # operands, other digits, operations, brackets, separators
    seen = {
        int(position) + 1: "".join(letters[s] for s in row if s >= 0)
        for position, row in zip(queries.position, queries.sources, strict=True)
    }
    assert queries.names == ("operands", "other digits", "operations", "brackets", "separators")
    assert seen == {
        10: "boOboDDbbs",
        11: "boOboDDbbsb",
        12: "boOboDDbbsbo",
        13: "boOboDDbbsboO",
        14: "boOboDDbbsboOO",
        16: "boOboOObbsboDDbs",
    }
    targets = queries.position + 1
    assert targets[queries.kinds["line"]].tolist() == [10, 11, 12, 13, 14]
    assert targets[queries.kinds["value"]].tolist() == [13]
    assert targets[queries.kinds["answer"]].tolist() == [16]


# Models whose attention is known


def test_the_head_that_copies_the_largest_digit_attends_to_operands_and_nothing_else(of_maximum: Any) -> None:
    rows = {(row[1], row[2]): row for row in of_maximum.tables[1].rows}
    columns = of_maximum.tables[1].columns
    of_operands = dict(zip(columns, rows[0, "operands"], strict=True))
    assert of_operands["raw"] == pytest.approx(1, abs=1e-6)
    assert of_operands["weighted"] == pytest.approx(1, abs=1e-6)
    for source in ("operations", "brackets", "separators"):
        of_source = dict(zip(columns, rows[0, source], strict=True))
        assert [of_source[name] for name in MEASURES] == pytest.approx([0, 0, 0, 0], abs=1e-5)


def test_cutting_the_operands_destroys_the_answer_and_cutting_the_brackets_does_nothing(of_maximum: Any) -> None:
    size = len(Tokens.of(ListOps(**ONE_STEP)))
    full, guess = 12 - np.log(np.exp(12) + size - 1), -np.log(size)
    assert of_maximum["answer.cut.operands"].value == pytest.approx(full - guess, abs=1e-4)
    assert of_maximum["answer.cut.operands"].control == pytest.approx(0, abs=1e-5)
    assert of_maximum["answer.cut.brackets"].value == pytest.approx(0, abs=1e-5)
    assert of_maximum["answer.cut.brackets"].control == pytest.approx(0, abs=1e-5)
    assert of_maximum["answer.cut.operands-minus-brackets"].value == pytest.approx(full - guess, abs=1e-4)


def test_a_head_that_looks_at_brackets_and_writes_nothing_shows_in_raw_attention_alone(of_maximum: Any) -> None:
    assert of_maximum["answer.raw.brackets"].value == pytest.approx(1 / 2)  # one of two heads
    assert of_maximum["answer.raw.brackets"].value > of_maximum["answer.raw.brackets"].control
    for name in ("weighted", "gradient", "cut"):
        assert of_maximum[f"answer.{name}.brackets"].value == pytest.approx(0, abs=1e-5)
    assert of_maximum["answer.agreement.weighted"].value == pytest.approx(1)
    assert of_maximum["answer.agreement.raw"].value < 0.8


def test_a_task_of_one_step_has_no_lines_between_and_says_so_under_the_same_keys(
    of_maximum: Any, of_random: Any
) -> None:
    assert of_maximum["value.cut.operands"].value is None
    assert of_maximum["line.agreement.raw"].value is None
    assert of_maximum["line.raw.brackets"].note == "no chain of this sample has a line before its answer"
    assert [number.key for number in of_maximum.numbers] == [number.key for number in of_random.numbers]


def test_uniform_attention_has_the_shares_that_are_its_control() -> None:
    subject = random_subject()
    params = {
        name: torch.zeros_like(value) if name.endswith(("W_Q", "b_Q")) else value
        for name, value in subject.checkpoint.params.items()
    }
    found = FEW.run(subject_of(TWO_STEPS, subject.checkpoint.spec.model, params))
    shares = [n for n in found.numbers if n.key.split(".")[1] in ("raw", "weighted")]
    assert len(shares) == 3 * 2 * 6
    assert [n.value for n in shares] == pytest.approx([n.control for n in shares], abs=1e-6)


def test_value_weighting_multiplies_attention_by_the_norm_of_what_is_written() -> None:
    """One token class is written twice as large as another: by hand, a share of 2n / (2n + m)."""
    subject = maximum_by_hand()
    params = dict(subject.checkpoint.params)
    params["blocks.0.attn.b_Q"] = torch.zeros_like(params["blocks.0.attn.b_Q"])  # uniform attention
    values = torch.zeros_like(params["blocks.0.attn.W_V"])
    kinds = subject.tokens.classes
    for token, kind in enumerate(kinds):
        values[:, token, 0] = {"digit": 2.0, "open": 1.0, "close": 1.0}.get(kind, 0.0)
    params["blocks.0.attn.W_V"] = values
    params["blocks.0.attn.W_O"] = torch.eye(len(kinds)).repeat(2, 1, 1)
    chains = subject.task.parse("[MAX 4 3 9]")
    queries = Queries.of(subject.task, chains)
    model = subject.checkpoint.spec.model
    rows = Rows.of(parameters.stack([params]), model, subject.ids(chains))
    found = measure(rows, queries, subject.ids(chains), rng()).cells[1, 0, 0, 0]
    assert found == pytest.approx(np.tile([6 / 8, 0, 0, 2 / 8, 0], (2, 1)))


# Two routes to one effect

SHAPES: dict[str, dict[str, Any]] = {
    "two blocks": {},
    "one block tied twice, no LayerNorm": {"n_layers": 1, "repeat": 2, "norm": "none", "act": "relu"},
}


@dataclass(frozen=True)
class Looped:
    """The second route: one hooked forward of TransformerLens for every set of entries that is cut."""

    model: Any
    tokens: torch.Tensor
    target: int
    renormalise: bool

    def lost(self, cuts: list[tuple[int, ...]], inside: np.ndarray) -> float:
        """The target's loss in nats when the last row of these heads, (block, head), loses these entries."""

        def cut(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
            pattern = pattern.clone()
            for block, head in cuts:
                if hook.name == f"blocks.{block}.attn.hook_pattern":
                    row = pattern[0, head, -1]
                    row[torch.from_numpy(inside)] = 0
                    if self.renormalise:
                        row /= row.sum().clamp(min=1e-12)
            return pattern

        with torch.no_grad():
            whole = self.model(self.tokens)
            left = self.model.run_with_hooks(self.tokens, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), cut)])
        return float((whole - left.detach())[0, -1, self.target] - (whole.logsumexp(-1) - left.logsumexp(-1))[0, -1])


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batched_cut_equals_a_hook_on_hookedtransformer_one_entry_set_at_a_time(
    shape: str, renormalise: bool
) -> None:
    subject = random_subject(**SHAPES[shape])
    chains = subject.items(3, "test")
    ids, queries = subject.ids(chains), Queries.of(subject.task, chains)
    rows = Rows.of(subject.params, subject.checkpoint.spec.model, ids, renormalise=renormalise)
    found = measure(rows, queries, ids, rng())
    hooked = subject.checkpoint.hooked()
    for query in rng().choice(len(queries.chain), 3, replace=False).tolist():
        row, position = int(queries.chain[query]), int(queries.position[query])
        looped = Looped(hooked, ids[0, row : row + 1, : position + 1], int(ids[0, row, position + 1]), renormalise)
        for source in range(len(queries.names)):
            inside = queries.sources[query, : position + 1] == source
            for block, head in np.ndindex(2, 2):
                expected = looped.lost([(block, head)], inside)
                assert found.cells[3, 0, query, block, head, source] == pytest.approx(expected, abs=2e-5)
            everywhere = looped.lost(list(np.ndindex(2, 2)), inside)
            assert found.whole[3, 0, query, source] == pytest.approx(everywhere, abs=2e-5)


@pytest.mark.parametrize("entries_a_call", [40, 300])
def test_how_cuts_are_packed_into_calls_changes_nothing(entries_a_call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = random_subject()
    chains = subject.items(2, "test")
    ids, queries = subject.ids(chains), Queries.of(subject.task, chains)
    rows = Rows.of(subject.params, subject.checkpoint.spec.model, ids)
    at_once = measure(rows, queries, ids, rng())
    monkeypatch.setattr("kc_interp.circuits.attention._ENTRIES_A_CALL", entries_a_call)
    np.testing.assert_allclose(measure(rows, queries, ids, rng()).cells, at_once.cells, atol=1e-5)


def test_gradient_times_attention_is_the_slope_of_cutting_a_little() -> None:
    subject = random_subject()
    params = {name: value.double() for name, value in subject.params.items()}
    chains = subject.items(6, "test")
    ids, queries = subject.ids(chains), Queries.of(subject.task, chains)
    rows = Rows.of(params, subject.checkpoint.spec.model, ids)
    found = measure(rows, queries, ids, rng())
    query, little = 7, 1e-6
    chain, position = torch.from_numpy(queries.chain[query : query + 1]), int(queries.position[query])
    target = ids[0, chain, position + 1]
    for source in range(len(queries.names)):
        inside = torch.from_numpy(queries.sources[query, : position + 1] == source)
        for block, head in np.ndindex(2, 2):
            keep = torch.ones(2, 1, 2, position + 1, dtype=torch.float64)
            keep[0, 0, head, inside] -= little
            keep[1, 0, head, inside] += little
            below, above = rows.scaled(chain, position, target, {block: keep})[:, 0].tolist()
            slope = (above - below) / (2 * little)
            assert found.cells[2, 0, query, block, head, source] == pytest.approx(slope, abs=1e-7)


def test_the_control_takes_as_much_attention_and_none_of_it_from_the_class() -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(2, 5, 3, 9, generator=generator).softmax(-1)
    member = torch.nn.functional.one_hot(torch.randint(0, 4, (5, 9), generator=generator)).movedim(-1, 0).float()
    taken = as_much_of_others(pattern, member, torch.rand(2, 5, 3, 9, generator=generator))
    assert (taken * member[:, None, :, None]).abs().max() == 0
    assert taken.min() >= 0 and taken.max() <= 1
    mass = (pattern * member[:, None, :, None]).sum(-1)
    torch.testing.assert_close((taken * pattern).sum(-1), torch.minimum(mass, 1 - mass), atol=1e-6, rtol=0)
    partly = ((taken > 0) & (taken < 1)).sum(-1)
    assert partly.max() <= 1


# Statistics


def test_a_resample_counts_the_queries_of_a_chain_as_if_they_were_repeated() -> None:
    values = rng().standard_normal((4, 2, 6, 1, 2, 3))
    chain, counted = np.asarray([0, 0, 1, 2, 2, 2]), np.asarray([1, 1, 1, 0, 1, 1], dtype=bool)
    found = Estimates.of(Measured(values, values[:, :, :, 0, 0]), chain, counted, np.asarray([[1.0, 1, 1], [0, 2, 1]]))
    np.testing.assert_allclose(found.cells[0], values[:, :, [0, 1, 2, 4, 5]].mean(axis=2))
    np.testing.assert_allclose(found.cells[1], values[:, :, [2, 2, 4, 5]].mean(axis=2))
    np.testing.assert_allclose(found.whole[1], values[:, :, [2, 2, 4, 5], 0, 0].mean(axis=2))
    assert (found.chains, found.queries) == (3, 5)


def test_agreement_is_spearmans_of_absolute_values_and_its_null_is_called_agreement_in_one_of_twenty() -> None:
    a, b = rng(1).standard_normal((2, 3, 30))
    found = agreement(a, b, rng(), 200)
    assert found.value == pytest.approx(scipy.stats.spearmanr(np.abs(a[0]), np.abs(b[0])).statistic)
    same = agreement(a, -(a**3), rng(), 200)
    assert same.value == pytest.approx(1) and same.low == pytest.approx(1)
    assert same.p == pytest.approx(1 / 201)
    generator = rng(2)
    alarms = 0
    for _ in range(400):
        a, b = generator.standard_normal((2, 2, 30))
        p = agreement(a, b, generator, 100).p
        alarms += p is not None and p < 0.05
    low, high = scipy.stats.binom.interval(0.999, 400, 0.05)
    assert low <= alarms <= high


def test_agreement_with_an_effect_that_is_nowhere_is_missing() -> None:
    assert agreement(rng().random((5, 8)), np.zeros((5, 8)), rng(), 100).value is None


# The finding


def test_arms_are_asked_about_the_same_items_under_the_same_keys(of_random: Any) -> None:
    alone = FEW.run(random_subject({**TWO_STEPS, "operations": ["SUM"]}, seed=2))
    assert [number.key for number in alone.numbers] == [number.key for number in of_random.numbers]
    raw = [number for number in alone.numbers if ".raw." in number.key]
    assert [number.control for number in raw] == [of_random[number.key].control for number in raw]
    assert alone.figures[-1].data["tokens"] == of_random.figures[-1].data["tokens"]


def test_every_number_of_a_deeper_task_has_an_interval_and_a_control(of_random: Any) -> None:
    found = of_random
    assert len(found.numbers) == 3 * (4 * 6 + 3)
    for number in found.numbers:
        assert number.value is not None and number.low is not None and number.high is not None, number.key
        assert number.low <= number.high
        assert number.control is not None and number.control_says and number.higher_means and number.n
    for kind in ("answer", "value", "line"):
        for name in ("raw", "weighted"):
            shares = [found[f"{kind}.{name}.{key}"].value for key in SOURCE_KEYS]
            assert sum(shares) == pytest.approx(1)


SOURCE_KEYS = ("operands", "other-digits", "operations", "brackets", "separators")


def test_the_claim_is_one_table_and_every_figure_says_what_would_refute_it(of_random: Any) -> None:
    found = of_random
    claim = found.tables[0]
    assert claim.columns == ("query", "measure", "operands", "other digits", "operations", "brackets", "separators")
    assert len(claim.rows) == 3 * 4 * 2
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    kinds = [figure.kind for figure in found.figures]
    assert kinds == ["bars", "heatmap", "heatmap"] * 3 + ["attention", "tokens"]
    assert all(figure.shows and figure.refuted_by for figure in found.figures)
    attention, tokens = found.figures[-2:]
    patterns = np.asarray(attention.data["patterns"])
    size = len(attention.data["tokens"])
    assert patterns.shape == (4, size, size) and len(attention.data["heads"]) == 4
    np.testing.assert_allclose(patterns.sum(-1), 1, atol=1e-3 * size)
    assert len(tokens.data["values"]) == size and attention.data["tokens"][-1] == "="
    json.loads(dumps({"findings": [found]}))


def test_more_heads_than_the_widget_draws_are_cut_with_a_word() -> None:
    few = AttentionAttribution(chains=3, resamples=10, permutations=100)
    figure = few.run(random_subject(n_layers=3, n_heads=8)).figures[-2]
    assert len(figure.data["heads"]) == len(figure.data["patterns"]) == 16
    assert "The first 16 of 24 heads" in figure.shows


def test_the_same_subject_gives_the_same_finding(of_random: Any) -> None:
    assert dumps({"f": [FEW.run(random_subject())]}) == dumps({"f": [of_random]})


def test_a_model_that_has_not_learned_is_named_as_such() -> None:
    found = FEW.run(random_subject(learned=False))
    assert found.status == "unlearned"
    assert found.sentence.startswith("This model has not learned its task, so nothing is claimed")


@fills_in
@dataclass(frozen=True)
class Marking:
    """A task without lines or reductions: three symbols, a separator, the first of them again, end."""

    kind: str = "digit"

    @property
    def symbols(self) -> tuple[str, ...]:
        return ("<end>", ">", "a", "b", "c")

    @property
    def classes(self) -> tuple[Any, ...]:
        mark = "separator" if self.kind == "digit" else "other"
        return ("end", mark, self.kind, self.kind, self.kind)

    @property
    def used(self) -> np.ndarray:
        return np.ones(5, dtype=bool)

    def components(self) -> Mapping[str, Task]:
        return {}

    def format(self, chains: Chains) -> list[str]:
        return [" ".join(self.symbols[code] for code in row) for row in chains.symbols]

    def sample(self, count: int, rng: np.random.Generator) -> Chains:
        shown = rng.integers(2, 5, (count, 3))
        symbols = np.concatenate([shown, np.ones((count, 1), int), shown[:, :1], np.zeros((count, 1), int)], axis=1)
        return Chains(symbols, np.full(count, 6), np.full(count, 3), np.full(count, 4))


def sampled_subject(task: Any) -> SampledSubject:
    model = ModelSpec(d_model=8, n_heads=2)
    params = parameters.initialise(model, torch.Generator().manual_seed(0), d_vocab=5, n_ctx=6)
    return SampledSubject("odd", Checkpoint(RunSpec(model=model), params), given=task)


def test_a_task_without_steps_has_plain_digits_and_the_whole_mixture() -> None:
    found = FEW.run(sampled_subject(Marking()))
    keys = [number.key for number in found.numbers]
    assert [key for key in keys if key.startswith("answer.raw.")] == ["answer.raw.digits", "answer.raw.separators"]
    assert found["answer.raw.digits"].control == pytest.approx(3 / 4)
    assert "24 test items of the mixture" in found.sentence


def test_a_task_of_one_class_of_symbols_is_refused_with_the_reason() -> None:
    with pytest.raises(ProbeError, match=r"odd: all symbols of this task count as others; .* needs two"):
        FEW.run(sampled_subject(Marking("other")))


def test_a_model_of_nans_is_refused() -> None:
    subject = random_subject()
    params = {name: value * float("nan") for name, value in subject.checkpoint.params.items()}
    with pytest.raises(ProbeError, match="not finite; did its training diverge"):
        FEW.run(subject_of(TWO_STEPS, subject.checkpoint.spec.model, params))


@pytest.mark.parametrize(
    ("settings", "message"), [({"chains": 1}, "at least 2"), ({"permutations": 10}, "at least 100")]
)
def test_settings_too_few_for_an_interval_or_a_null_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        AttentionAttribution(**settings)
