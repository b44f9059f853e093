"""Tuning: the learning rate of every setting is found first, from stored runs alone, and is one for all arms."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kc_interp import train as training
from kc_interp.errors import DataError, KCInterpError, SpecError
from kc_interp.records import Record, Store, canonical, digest, read_lines, to_csv
from kc_interp.scaling.study import Run, Study, TunedRate, check
from kc_interp.scaling.sweep import Update, rounds, sweep, total_runs
from kc_interp.spec import from_plain, to_plain
from kc_interp.train import train
from tests.test_study import tiny
from tests.test_sweep import FILE, Here, run, swept, values


@pytest.fixture(scope="module", autouse=True)
def _few_points_a_curve() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "EVALUATIONS", 3)
        yield


TUNED = tiny(
    grid={"d_model": [8, 12, 32], "init": ["narrow", "wide"], "modulus": [4, 5], "steps": [12, 24]},
    tuning={"lrs": [1e-3, 1e-2], "d_model": [8, 32], "seeds": 2},
)


def said(study: Study, nats: Any) -> list[Record]:
    """Records as the tuning runs of a study would leave them, with this answer NLL."""
    return [fake(one, nats(one)) for one in study.tuning_runs()]


def fake(run: Run, nats: float | None, name: str = "test: SUM") -> Record:
    sets = {"test": {"answer_nats": {"value": 9.0}}, name: {"answer_nats": {"value": nats}}}
    width = run.spec.model.d_model
    return Record(run.key, "tiny", run.arm, run.seed, "", 0, width, 1, to_plain(run.spec), {"sets": sets})


def test_every_rate_is_tried_at_every_setting_width_arm_and_seed() -> None:
    runs = TUNED.tuning_runs()
    assert len(runs) == len({one.key for one in runs}) == 2 * 2 * 2 * 2 * 2
    assert Counter(one.arm for one in runs) == {"tuning: sum": 16, "tuning: joint": 16}
    tried = {(s.model.init, s.model.d_model, s.train.lr, s.seed) for s in (one.spec for one in runs)}
    assert tried == {
        (i, d, lr, s) for i in ("narrow", "wide") for d in (8, 32) for lr in (1e-3, 1e-2) for s in (1000, 1001)
    }
    assert {(s.task.settings["modulus"], s.train.steps) for s in (one.spec for one in runs)} == {(4, 12)}
    assert {one.spec.train.steps for one in tiny(tuning={"lrs": [1e-3], "steps": 7}).tuning_runs()} == {7}
    strata = tiny(grid={"lengths": [[5, 5], [6, 6]]}, tuning={"lrs": [1e-3]}).tuning_runs()
    assert {tuple(one.spec.task.settings["lengths"]) for one in strata} == {(5, 5)}
    ensembles = TUNED.grouped(runs)
    assert len(ensembles) == 2 and all(len({m.spec.train.lr for m in one.runs}) == 2 for one in ensembles)


def test_a_tuning_run_is_an_ordinary_run_of_its_arm_at_this_rate() -> None:
    """Two routes to its key: the tuning, and the study with that rate and seed."""
    for one in tiny(tuning={"lrs": [1e-3, 1e-2]}).tuning_runs():
        plain = tiny(seeds=[1000], base__train__lr=one.spec.train.lr).runs()
        assert one.key in {other.key for other in plain if f"tuning: {other.arm}" == one.arm}


def test_the_chosen_rate_has_the_lowest_mean_over_arms_and_seeds() -> None:
    """Narrow wants the low rate at 8 and the high one at 32; wide the high one everywhere: by a mean, not by one run."""

    def nats(one: Run) -> float:
        model, high = one.spec.model, one.spec.train.lr == 1e-2
        if one.arm == "tuning: joint" and one.seed == 1000:
            return 1.0 if high else 1.1  # says otherwise than the rest
        return 0.5 if high != (model.init == "narrow" and model.d_model == 8) else 0.7

    study = TUNED.tuned(said(TUNED, nats))
    assert study.tuning is None and len(study.runs()) == 2 * 24 * 2
    rates = {(one.spec.model.init, one.spec.model.d_model): one.spec.train.lr for one in study.runs()}
    # 12 is nearer to 8 than to 32 in log (and in number); 16, in the middle, takes the smaller one's.
    assert rates == {
        ("narrow", 8): 1e-3, ("narrow", 12): 1e-3, ("narrow", 32): 1e-2,
        ("wide", 8): 1e-2, ("wide", 12): 1e-2, ("wide", 32): 1e-2,
    }  # fmt: skip
    assert {one.arm for one in study.runs()} == {"sum", "joint"}
    middle = dataclasses.replace(TUNED, grid=dataclasses.replace(TUNED.grid, d_model=(16,)))
    rates = {one.spec.model.init: one.spec.train.lr for one in middle.tuned(said(middle, nats)).runs()}
    assert rates == {"narrow": 1e-3, "wide": 1e-2}


def test_a_study_of_one_width_takes_the_rate_of_the_nearest_that_was_tried() -> None:
    one = tiny(grid={}, tuning={"lrs": [1e-3, 1e-2], "d_model": [4, 64]})
    best = {4: 1e-2, 64: 1e-3}
    found = one.tuned(said(one, lambda run: float(run.spec.train.lr != best[run.spec.model.d_model])))
    assert {(run.spec.model.d_model, run.spec.train.lr) for run in found.runs()} == {(8, 1e-2)}


def test_shape_and_heads_have_rates_of_their_own() -> None:
    study = tiny(grid={"d_model": [8], "shape": [[1, 1], [2, 1]], "n_heads": [1, 2]}, tuning={"lrs": [1e-3, 1e-2]})
    found = study.tuned(
        said(
            study,
            lambda one: one.spec.train.lr * (1 if (one.spec.model.n_layers, one.spec.model.n_heads) == (2, 1) else -1),
        )
    )
    rates = {(one.spec.model.n_layers, one.spec.model.n_heads): one.spec.train.lr for one in found.runs()}
    assert rates == {(1, 1): 1e-2, (1, 2): 1e-2, (2, 1): 1e-3, (2, 2): 1e-2}


SMALL = tiny(grid={}, seeds=1, tuning={"lrs": [1e-2, 1e-3, 1e-1]})


@pytest.mark.parametrize(
    ("nats", "lr"),
    [
        ({1e-1: 0.5, 1e-2: 0.5, 1e-3: 0.5}, 1e-3),
        ({1e-1: 0.4, 1e-2: 0.3, 1e-3: 0.3}, 1e-3),
        ({1e-1: None, 1e-2: 0.3, 1e-3: 0.4}, 1e-2),
        ({1e-1: None, 1e-2: None, 1e-3: None}, 1e-3),
    ],
)
def test_ties_go_to_the_smaller_rate_and_one_that_diverged_is_worst(
    nats: Mapping[float, float | None], lr: float
) -> None:
    records = said(SMALL, lambda one: nats[one.spec.train.lr] if one.arm == "tuning: sum" else 0.1)
    assert {one.spec.train.lr for one in SMALL.tuned(records).runs()} == {lr}


def test_an_arm_without_the_component_counts_by_its_mixture() -> None:
    records = [fake(one, 3.0, "test: MAX") for one in SMALL.tuning_runs()]
    assert {nats for rate in SMALL.rates(records) for nats in rate.nats.values()} == {9.0}


def test_what_is_missing_is_said() -> None:
    records = said(SMALL, lambda one: 1.0)
    [rate] = SMALL.rates(records[1:])
    assert rate == TunedRate({}, 8, {1e-2: 1.0, 1e-3: 1.0, 1e-1: 1.0}, None, 1)
    assert str(rate) == "d_model 8: 1 runs missing (answer NLL in nats by rate: 0.01: 1, 0.001: 1, 0.1: 1)"
    with pytest.raises(
        DataError, match="1 of the 6 runs that find the learning rates of 'tiny' are missing; kc-interp sw"
    ):
        SMALL.tuned(records[1:])
    with pytest.raises(SpecError, match=r"are found by \[tuning\]; its runs are those of study.tuned\(records\)"):
        SMALL.runs()
    assert tiny().tuned([]) == tiny()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"tuning": {"lrs": [1], "seed": 3}}, "study.tuning: unknown key 'seed'; did you mean 'seeds'?"),
    "no rate": ({"tuning": {"lrs": []}}, "tuning.lrs is []; give different learning rates above 0"),
    "a rate of nothing": ({"tuning": {"lrs": [0.0, 1.0]}}, "tuning.lrs is [0.0, 1.0]; give different learning rates"),
    "a rate twice": ({"tuning": {"lrs": [1, 1]}}, "give different learning rates above 0"),
    "a width twice": ({"tuning": {"lrs": [1], "d_model": [8, 8]}}, "tuning.d_model is [8, 8]; name each once"),
    "an arm unknown": (
        {"tuning": {"lrs": [1], "arms": ["sun"]}}, "tuning.arms: no arm is named 'sun'; did you mean 'sum'?",
    ),
    "no seed": ({"tuning": {"lrs": [1], "seeds": 0}}, "tuning.seeds is 0; give how many, or a list"),
    "the study's seed": (
        {"tuning": {"lrs": [1], "seeds": [7, 1]}}, "tuning.seeds has 1, a seed of the study's own runs; tune with other",
    ),
    "an adaptive seed": (
        {"tuning": {"lrs": [1], "seeds": [40]}, "placement": {"kind": "adaptive"}}, "tuning.seeds has 40, a seed of the study's",
    ),
    "rates given": (
        {"tuning": {"lrs": [1]}, "learning_rates": [{"lr": 1.0}]},
        "a study has either [[learning_rates]] or [tuning], which finds them; leave one out",
    ),
    "an arm named so": ({"arms": [{"name": "tuning: sum"}]}, "names with 'tuning: ' are those of tuning runs"),
    "a source left out": (
        {"arms": [{"name": "a"}, {"name": "b", "start_from": "a"}], "tuning": {"lrs": [1], "arms": ["b"]}},
        "tuning.arms: 'b' needs 'a', from which it starts, beside it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=list(REFUSED))
def test_settings_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        tiny(**changes)
    assert message in str(refused.value)


def test_a_width_to_tune_at_is_checked_before_anything_starts() -> None:
    with pytest.raises(KCInterpError, match="at d_model 9: d_model 9 is not divisible by n_heads 2"):
        check(tiny(base__model__n_heads=2, tuning={"lrs": [1], "d_model": [9]}))


def test_the_keys_of_studies_without_tuning_are_what_they_were() -> None:
    """Stores made before there was tuning: their records and settings are found again."""
    study = tiny()
    assert study.runs()[0].key == "07703bb9accdc9f906d409cf3bdcb140"
    assert digest(canonical(study.settings).encode()) == "ef7b1d81fe58c12f34ece5e095da4f7b"
    assert from_plain(Study, json.loads(canonical(TUNED.settings))) == TUNED


SWEPT = tiny(
    arms=[
        {"name": "sum", "operations": ["SUM"]},
        {"name": "later", "operations": ["SUM"], "start_from": "max"},
        {"name": "max", "operations": ["MAX"]},
    ],
    seeds=1,
    base__train__steps=12,
    runs_per_ensemble=3,
    tuning={"lrs": [1e-3, 1e-2, 1e30], "d_model": [8]},
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "records.sqlite"
    told: list[Update] = []
    swept(SWEPT, path, on_update=told.append)
    shares = [update.share for update in told]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1) and told[-1].done == told[-1].total == 15
    return path


def test_a_sweep_tunes_first_and_its_own_runs_have_the_rate_found(whole: Path) -> None:
    with Store.open(whole) as store:
        found = store.records(SWEPT.name)
        assert {row["arm"] for row in store.status(SWEPT.name)} == {r.arm for r in found}
    assert len(found) == total_runs(SWEPT) == 15
    tuning = {record.key: record for record in found if record.arm.startswith("tuning: ")}
    assert tuning.keys() == {one.key for one in SWEPT.tuning_runs()}
    [rate] = SWEPT.rates(found)
    assert rate.nats[1e30] is None and rate.lr in (1e-3, 1e-2)
    own = SWEPT.tuned(found).runs()
    assert {record.key for record in found} - tuning.keys() == {one.key for one in own}
    assert {one.spec.train.lr for one in own} == {rate.lr}
    assert max(record.made for record in tuning.values()) <= min(r.made for r in found if r.key not in tuning)
    assert "tuning: sum" in to_csv(found)


def test_the_rate_found_is_that_of_a_search_by_hand(whole: Path) -> None:
    """Another route: each run trained alone and its answers' NLL averaged."""
    from kc_interp.scaling.schedule import measure

    with Store.open(whole) as store:
        [rate] = SWEPT.rates(store.records(SWEPT.name))
    alone = tiny(seeds=[1000], grid={}, base__train__steps=12, arms=[{"name": "sum", "operations": ["SUM"]}])
    only = dataclasses.replace(SWEPT, arms=SWEPT.arms[:1])
    with Store.open(whole) as store:
        [by_sum] = only.rates(store.records(SWEPT.name))
    for lr in (1e-3, 1e-2):
        [spec] = [one.spec for one in dataclasses.replace(alone, base=dataclasses.replace(
            alone.base, train=dataclasses.replace(alone.base.train, lr=lr))).runs()]  # fmt: skip
        [trained] = train([spec])
        nats = measure(trained, SWEPT.items)["sets"]["test: SUM"]["answer_nats"]["value"]
        assert by_sum.nats[lr] == pytest.approx(nats, abs=1e-4)
    assert rate.nats.keys() == {1e-3, 1e-2, 1e30}


def test_a_sweep_killed_while_it_tunes_or_later_ends_as_one_that_was_left_alone(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    for most in (1, 2, 2):
        with pytest.raises(KeyboardInterrupt):
            swept(SWEPT, path, Here(most))
    with Store.open(whole) as store:
        assert values(swept(SWEPT, path)) == values(store.records(SWEPT.name, curves=True))


def test_what_fails_in_tuning_is_reported_and_nothing_is_built_on_it(tmp_path: Path) -> None:
    with Store.open(tmp_path / "records.sqlite", write=True) as store:
        outcome = sweep(SWEPT, store, Here(fail="tuning: sum"))
        assert outcome.failures and "tuning: sum" in outcome.failures[0]
        assert all(record.arm.startswith("tuning: ") for record in store.records(SWEPT.name))


def test_an_adaptive_study_tunes_before_it_places() -> None:
    study = tiny(
        grid={"d_model": [4, 8, 12]},
        placement={"kind": "adaptive", "runs": 3, "batch": 2},
        tuning={"lrs": [1e-3, 1e-2]},
    )
    verdicts: dict[str, bool | None] = {}
    records: list[Record] = []
    asked: list[Run] = []
    for ensembles in rounds(study, verdicts, lambda: records):
        for one in (one for ensemble in ensembles for one in ensemble.runs):
            verdicts[one.key] = False
            records.append(fake(one, one.spec.train.lr))
            asked.append(one)
    assert len(asked) == total_runs(study) == 12 + 6
    assert all(one.arm.startswith("tuning: ") for one in asked[:12])
    assert {(one.arm, one.spec.train.lr) for one in asked[12:]} == {("sum", 1e-3), ("joint", 1e-3)}


def test_the_command_says_what_was_found(tmp_path: Path) -> None:
    text = FILE.format(steps=10, size=8).replace("seeds = 2", "seeds = 1")
    (tmp_path / "study.toml").write_text(text + "[tuning]\nlrs = [1e-3, 1e-2]\n")
    status, out, _ = run("study.toml", "--status", "--json", cwd=tmp_path)
    assert status == 0 and json.loads(out)["asked"] == 6
    [unknown] = json.loads(out)["tuning"]
    assert (unknown["lr"], unknown["missing"], unknown["d_model"]) == (None, 4, 8)
    status, out, err = run("study.toml", "--json", cwd=tmp_path)
    [found] = json.loads(out)["tuning"]
    assert status == 0 and found["lr"] in (1e-3, 1e-2) and found["missing"] == 0
    assert f"tuned: d_model 8: lr {found['lr']:g} (answer NLL in nats by rate: 0.001: " in err
    assert [one["lr"] for one in found["tried"]] == [1e-3, 1e-2]
    status, out, _ = run("study.toml", "--status", cwd=tmp_path)
    assert f"tuned: d_model 8: lr {found['lr']:g}" in out and "tuning: joint" in out and "6 of 6 runs" in out
    _, records = read_lines((tmp_path / "records.jsonl").read_text())
    assert Counter(record.arm for record in records) == {"sum": 1, "joint": 1, "tuning: sum": 2, "tuning: joint": 2}
