"""Figures are functions of records: what they hold is what the records and their analysis say, and the same each time."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kc_interp import gallery
from kc_interp.errors import SpecError
from kc_interp.gallery.drawing import Drawing
from kc_interp.records import Record, lean
from kc_interp.scaling.analysis import Analysis, analyse
from kc_interp.scaling.law_report import LawReport, laws
from kc_interp.scaling.simulation import CHANCE, Times, World
from kc_interp.scaling.study import Study
from kc_interp.spec import from_plain, to_plain

WIDTHS = (8, 12, 16, 24, 32, 48, 64)
BUDGET = 8_000
POINTS = 20
ARMS: dict[str, tuple[str, ...]] = {
    "sum": ("SUM",),
    "max": ("MAX", "SUM"),
    "med": ("MED", "SUM"),
    "three": ("MAX", "MED", "SUM"),
    "four": ("MAX", "MED", "MIN", "SUM"),
    "nadd": ("NADD", "SUM"),
}
THRESHOLDS = {"sum": 4.35, "max": 4.05, "med": 3.95, "three": 3.9, "four": 4.0, "nadd": 4.75}
SHIFT = {"narrow": 0.25, "wide": 0.0}


def study_of(names: Sequence[str] = tuple(ARMS), **changes: Any) -> Study:
    plain = {
        "name": "synthetic",
        "title": "Does joint training help SUM?",
        "base": {"train": {"steps": BUDGET}},
        "seeds": 4,
        "grid": {"d_model": list(WIDTHS), "init": ["narrow", "wide"]},
        "arms": [{"name": name, "operations": list(ARMS[name])} for name in names],
        "criterion": {"component": "SUM"},
        **changes,
    }
    return from_plain(Study, plain, where="study")


def size_of(width: int) -> int:
    return 12 * width * width + 180 * width + 20


def records_of(study: Study, *, probes: bool = False, widths: Sequence[int] = WIDTHS) -> list[Record]:
    """What a study would have found in worlds whose truth is known; nothing is trained."""
    rng = np.random.default_rng(0)
    made = []
    for arm, point in study.conditions():
        world = World(THRESHOLDS.get(arm.name, 4.2) + SHIFT.get(str(point.get("init")), 0.0), 0.09, 0.05)
        for width in widths:
            scores = world.accuracies(np.full(len(study.seed_list), float(size_of(width))), rng)
            steps, _ = Times(3.9 - 0.35 * math.log10(width), 0.15, 0.0).draw(len(scores), BUDGET, rng)
            for seed, score, step in zip(study.seed_list, scores.tolist(), steps.tolist(), strict=True):
                made.append(_record(study, arm, {**point, "d_model": width}, seed, score, step, rng, probes))
    return made


def _record(
    study: Study, arm: Any, point: dict[str, Any], seed: int, score: float, step: float, rng: Any, probes: bool
) -> Record:
    run = study.run(arm, point, seed)
    learned = score >= study.criterion.level
    alone = len(arm.operations) == 1
    curve = []
    for at in np.linspace(0, BUDGET, POINTS + 1)[1:].astype(int).tolist():
        rise = 1 / (1 + math.exp(-(at - min(step, 0.9 * BUDGET)) / 250)) if learned else 0.0
        value = round(float(np.clip(CHANCE + (score - CHANCE) * rise + 0.01 * rng.standard_normal(), 0, 1)), 6)
        value = score if at == BUDGET else min(value, score)
        curve.append({"step": at, "loss_nats": 1.0, "mixture": value, **({} if alone else {"SUM": value})})
    measured = {
        "exact": {"value": score, "low": max(score - 0.03, 0), "high": min(score + 0.03, 1)},
        "answer": {"value": score, "low": score, "high": score},
        "answer_nats": {"value": 1 - score},
        "chance": CHANCE,
        "n": 500,
    }
    found = {
        "probe": "embedding-geometry", "subject": run.key[:8], "title": "Embedding geometry", "sentence": "…",
        "status": "ok" if learned else "unlearned", "tables": [], "figures": [], "settings": {}, "seconds": 0.1,
        "numbers": [
            {"key": "order", "title": "Number order in the embedding", "value": 0.6 + 0.3 * learned + 0.05 * rng.random(),
             "low": None, "high": None, "n": None, "unit": "exact", "control": 0.63, "control_says": "random embeddings",
             "higher_means": "a component follows the digits' order more closely", "note": ""},
            {"key": "wrap", "title": "Wrap test", "value": None if seed == 0 else 1.2, "low": 1.0, "high": 1.4, "n": 9,
             "unit": "head", "control": None, "control_says": "", "higher_means": "", "note": ""},
        ],
    }  # fmt: skip
    return Record(
        key=run.key, study=study.name, arm=arm.name, seed=seed, ensemble=f"{arm.name}{point['d_model']}", member=seed,
        d_model=point["d_model"], parameters=size_of(point["d_model"]), spec=to_plain(run.spec),
        metrics={"items": 500, "sets": {"test: SUM": measured, "atoms: SUM": measured}}, learned=learned,
        curve=tuple(curve), findings=(lean(found),) if probes else (), wall_seconds=1.0, made="2026-11-24T00:00:00+00:00",
        provenance={"commit": "0" * 40, "torch": "2.13.0", "device": "x86_64", "members": 4},
    )  # fmt: skip


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    study = study_of(["sum", "max", "med", "three", "four", "nadd"], probes=["embedding-geometry"])
    return analyse(study, records_of(study, probes=True))


@pytest.fixture(scope="module")
def reports(analysis: Analysis) -> tuple[LawReport, ...]:
    return laws(analysis, ["code.numeric.deflate.joint", "algebra.entropy.3"])


@pytest.fixture(scope="module")
def drawings(analysis: Analysis, reports: tuple[LawReport, ...]) -> dict[str, Drawing]:
    return {drawing.name: drawing for drawing in gallery.figures(analysis, reports)}


def traces(drawing: Drawing, panel: int = 0) -> list[dict[str, Any]]:
    plot = drawing.panels[panel].plot
    assert plot is not None
    return list(plot.to_plotly_json()["data"])


def layout_of(drawing: Drawing, panel: int = 0) -> dict[str, Any]:
    plot = drawing.panels[panel].plot
    assert plot is not None
    return dict(plot.to_plotly_json()["layout"])


def axis_of(number: int) -> str:
    return "x" if number == 0 else f"x{number + 1}"


def columns(drawing: Drawing, *names: str, panel: int = 0) -> list[tuple[Any, ...]]:
    table = drawing.panels[panel].table
    return [tuple(row[table.columns.index(name)] for name in names) for row in table.rows]


def test_the_page_has_every_figure_in_its_order(drawings: dict[str, Drawing]) -> None:
    assert tuple(drawings) == gallery.NAMES
    assert all(one.plots and one.title and one.shows and one.refuted_by for one in drawings.values())
    assert all("336 runs; seeds 0–3" in one.basis for one in drawings.values() if one.name not in ("laws", "findings"))


def test_learning_curves_are_those_of_the_records(analysis: Analysis, drawings: dict[str, Drawing]) -> None:
    drawing = drawings["learning-curves"]
    for panel, condition in enumerate(analysis.conditions):
        shown: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for trace in traces(drawing):
            if trace["xaxis"] == axis_of(panel):
                for step, value, seed in zip(trace["x"], trace["y"], trace["customdata"], strict=True):
                    if step is not None:
                        shown.setdefault((int(trace["name"]), seed), []).append((step, value))
        component = "mixture" if condition.operations == ("SUM",) else "SUM"
        asked = {(r.d_model, r.seed): [(p["step"], p[component]) for p in r.curve or ()] for r in condition.records}
        assert shown == asked
    assert len(drawing.panels[0].table.rows) == len(WIDTHS) * 4 * 12


def test_one_width_has_one_colour_in_all_panels_and_is_named_once(drawings: dict[str, Drawing]) -> None:
    lines = traces(drawings["learning-curves"])
    colours = {(trace["name"], trace["line"]["color"]) for trace in lines}
    assert len(colours) == len({colour for _, colour in colours}) == len(WIDTHS)
    assert sorted(int(t["name"]) for t in lines if t["showlegend"]) == list(WIDTHS)


def test_success_shows_the_shares_and_the_posterior_of_the_analysis(
    analysis: Analysis, drawings: dict[str, Drawing]
) -> None:
    for panel, condition in enumerate(analysis.conditions):
        mine = [trace for trace in traces(drawings["success"]) if trace["xaxis"] == axis_of(panel)]
        points = next(trace for trace in mine if trace["mode"] == "markers")
        for x, share, (width, learned, runs) in zip(points["x"], points["y"], points["customdata"], strict=True):
            here = [
                verdict
                for record, verdict in zip(condition.records, condition.skill.learned, strict=True)
                if record.d_model == width
            ]
            assert (x, runs, learned, share) == (size_of(width), len(here), sum(map(bool, here)), sum(here) / len(here))
        curve = next(trace for trace in mine if "customdata" in trace and trace["mode"] == "lines")
        assert condition.posterior is not None
        expected = condition.posterior.curve(np.asarray(curve["x"]))
        np.testing.assert_allclose(curve["y"], expected[:, 0])
        np.testing.assert_allclose(curve["customdata"], expected[:, 1:])


def test_the_band_of_a_threshold_ends_where_its_interval_does(analysis: Analysis, drawings: dict[str, Drawing]) -> None:
    shapes = {shape["xref"]: shape for shape in layout_of(drawings["success"])["shapes"] if shape["type"] == "rect"}
    for panel, condition in enumerate(analysis.conditions):
        assert condition.threshold is not None
        t = condition.threshold.t
        if t.low is not None:
            assert shapes[axis_of(panel)]["x0"] == pytest.approx(10**t.low)
        if t.high is not None:
            assert shapes[axis_of(panel)]["x1"] == pytest.approx(10**t.high)
        elif t.censored == "above":
            assert shapes[axis_of(panel)]["x1"] > 10**condition.threshold.largest


def test_times_are_medians_and_an_open_interval_ends_in_an_arrow(
    analysis: Analysis, drawings: dict[str, Drawing]
) -> None:
    for panel, condition in enumerate(analysis.conditions):
        assert condition.times is not None
        medians = {cell.d_model: cell.survival.median for cell in condition.times.by_width.values()}
        line, _, arrows, dots = (t for t in traces(drawings["time-to-learn"]) if t["xaxis"] == axis_of(panel))
        known = [10**one.value for one in medians.values() if one.value is not None]
        np.testing.assert_allclose(dots["y"], known)
        assert line["x"] == [size_of(width) for width in medians]
        assert arrows["x"] == [size_of(width) for width, one in medians.items() if one.high is None]
        assert all(y > BUDGET for y in arrows["y"])
    kaplan_meier = columns(
        drawings["time-to-learn"], "arm", "setting", "d_model", "step", "share that has learned", panel=1
    )
    cell = analysis.conditions[1].times.by_width[64]  # type: ignore[union-attr]
    asked = list(zip(cell.kaplan_meier.steps.tolist(), cell.kaplan_meier.learned.tolist(), strict=True))
    assert [row[3:] for row in kaplan_meier if row[:3] == ("SUM", "wide", 64)] == asked


def test_thresholds_stand_with_their_arm_and_setting(analysis: Analysis, drawings: dict[str, Drawing]) -> None:
    found = {row[:2]: row[2:] for row in columns(drawings["thresholds"], "arm", "setting", "threshold", "low", "high")}
    for condition in analysis.conditions:
        assert condition.threshold is not None
        t = condition.threshold.t
        arm = condition.label.removesuffix(f", {condition.setting}")
        assert found[arm, condition.setting] == tuple(None if v is None else 10**v for v in (t.value, t.low, t.high))
    dots = [t for t in traces(drawings["thresholds"]) if "text" in t]
    shown = sorted(x for trace in dots for x in trace["x"])
    assert shown == sorted(row[0] for row in found.values() if row[0] is not None)
    assert len({trace["marker"]["color"] for trace in dots}) == 2
    bound = next(t for t in traces(drawings["thresholds"]) if t["name"].startswith("capacity bound"))
    assert bound["x"][0] == analysis.bounds[0].capacity.size == min(
        r.parameters for c in analysis.conditions for r, ok in zip(c.records, c.skill.learned, strict=True) if ok
    )  # fmt: skip


def test_a_setting_keeps_its_colour_and_an_arm_its_symbol(drawings: dict[str, Drawing]) -> None:
    success = [t for t in traces(drawings["success"]) if t["mode"] == "markers"]
    rows = [t for t in traces(drawings["thresholds"]) if "text" in t]
    assert [t["marker"]["color"] for t in success[:2]] == [t["marker"]["color"] for t in rows]
    symbols = [t["marker"]["symbol"] for t in success[::2]]
    assert len(set(symbols)) == len(symbols) and set(rows[1]["marker"]["symbol"]) <= set(symbols)


def test_laws_draw_every_candidate_with_its_weight_through_the_points_of_the_report(
    reports: tuple[LawReport, ...], drawings: dict[str, Drawing]
) -> None:
    fitted = [(report, law) for report in reports for law in report.laws if law.tasks is not None]
    drawing = drawings["laws"]
    assert fitted and len(drawing.panels) == len(fitted)
    for report, law in fitted:
        panel = next(i for i, p in enumerate(drawing.panels) if p.file == f"{law.key}.{report.setting}")
        *lines, points = traces(drawing, panel)
        assert {t["name"].split()[0]: t["name"].split(maxsplit=1)[1] for t in lines} == {
            fit.form: f"{100 * fit.weight:.0f} %" if fit.weight >= 0.01 else "under 1 %" for fit in law.forms
        }
        assert law.tasks is not None
        assert points["x"] == law.tasks.complexity.tolist()
        np.testing.assert_allclose(points["y"], 10**law.tasks.y)
        for name, low, high in points["customdata"]:
            assert (math.log10(low), math.log10(high)) == pytest.approx(
                (report.thresholds[name].low, report.thresholds[name].high)
            )


@pytest.mark.parametrize("form", ["constant", "linear", "power", "exponential"])
def test_a_law_is_drawn_as_it_was_fitted(form: Any) -> None:
    """Against residuals of the fit itself: `error` is the root mean square of log10 n less the law."""
    from kc_interp.gallery.laws import predicted
    from kc_interp.scaling.laws import compare_forms
    from kc_interp.scaling.simulation import Law

    tasks = Law().draw(np.random.default_rng(1))
    fit = next(one for one in compare_forms(tasks) if one.form == form)
    ends = float(tasks.complexity.min()), float(tasks.complexity.max())
    gap = tasks.y - np.log10(predicted(fit, tasks.complexity, ends))
    assert math.sqrt(float((gap**2).mean())) == pytest.approx(fit.error, rel=1e-9)


def test_synergy_cells_are_the_contrasts_and_pale_where_the_sign_is_unknown(
    analysis: Analysis, drawings: dict[str, Drawing]
) -> None:
    drawing = drawings["synergy"]
    contrasts = [c for c in analysis.contrasts if c.kind == "synergy" and c.axis == "parameters"]
    rows = columns(drawing, "arm", "setting", "synergy (dex)", "low", "high", "excludes 0")
    assert rows == [
        (c.of.removesuffix(f", {c.setting}"), c.setting, c.synergy.value, c.synergy.low, c.synergy.high,
         "yes" if c.excludes_zero else "no")
        for c in contrasts
    ]  # fmt: skip
    decided, muted = traces(drawing)
    count = [sum(z is not None for row in trace["z"] for z in row) for trace in (decided, muted)]
    assert count == [sum(c.excludes_zero for c in contrasts), sum(not c.excludes_zero for c in contrasts)]
    assert decided["zmin"] == -decided["zmax"] and (muted["zmin"], muted["zmax"]) == (decided["zmin"], decided["zmax"])
    written = [text for trace in (decided, muted) for row in trace["text"] for text in row if text]
    for one in (c.synergy for c in contrasts if c.synergy.value is not None and c.synergy.censored is None):
        assert any(f"{one.value:+.2f}".replace("-", "−") in text for text in written)


def test_findings_are_the_probes_numbers_told_apart_by_verdict(
    analysis: Analysis, drawings: dict[str, Drawing]
) -> None:
    drawing = drawings["findings"]
    assert [panel.choice for panel in drawing.panels] == [
        "embedding-geometry: Number order in the embedding", "embedding-geometry: Wrap test",
    ]  # fmt: skip
    asked = sorted(
        (bool(verdict), record.findings[0]["numbers"][0]["value"])
        for condition in analysis.conditions
        for record, verdict in zip(condition.records, condition.skill.learned, strict=True)
    )
    marks = [trace for trace in traces(drawing) if trace.get("legendgroup")]
    shown = sorted((trace["name"] == "learned", value) for trace in marks for value in trace["y"])
    assert shown == asked
    assert len(drawing.panels[1].table.rows) == 336 * 3 // 4  # seed 0 has no value, which is not a value of 0


def test_the_same_records_give_the_same_bytes(reports: tuple[LawReport, ...]) -> None:
    def made() -> tuple[list[str], str]:
        study = study_of(["sum", "three"])
        analysis = analyse(study, records_of(study))
        drawn = gallery.figures(analysis, laws(analysis))
        return [one.dumps() for one in drawn], gallery.render(analysis, drawn)

    first, second = made(), made()
    assert first == second
    assert all("NaN" not in text and json.loads(text) for text in first[0])


def test_a_study_without_runs_says_so_in_every_figure() -> None:
    study = study_of()
    analysis = analyse(study, [])
    drawn = gallery.figures(analysis, laws(analysis))
    assert all(not one.plots and "no runs yet" in one.panels[0].reason for one in drawn)
    page = gallery.render(analysis, drawn)
    assert "Partial: 0 of 336 runs." in page and 'id="plotly"' not in page


def test_one_run_is_drawn_and_labelled_partial() -> None:
    study = study_of()
    analysis = analyse(study, records_of(study)[:1])
    drawn = {one.name: one for one in gallery.figures(analysis, laws(analysis))}
    assert "partial: 1 of 336 runs; seed 0" in drawn["learning-curves"].basis
    assert [bool(drawn[name].plots) for name in gallery.NAMES] == [True, True, True, True, False, False, False]
    assert "0 tasks with a threshold; a law needs at least 4" in drawn["laws"].panels[0].reason
    assert "no other arm has runs" in drawn["synergy"].panels[0].reason
    assert "it asks for no probes" in drawn["findings"].panels[0].reason


@pytest.mark.parametrize(("changes", "reason"), [
    ({"criterion": {"component": None}}, "names no component"),
    ({"arms": [{"name": "three", "operations": ["MAX", "MED", "SUM"]}]}, "no arm trains on SUM alone"),
])  # fmt: skip
def test_a_study_without_contrasts_says_why(changes: dict[str, Any], reason: str) -> None:
    study = study_of(**changes)
    analysis = analyse(study, records_of(study_of(["three"]))[:8])
    (drawing,) = gallery.figures(analysis, (), ["synergy"])
    assert reason in drawing.panels[0].reason


def test_an_arm_that_lacks_the_component_is_named_where_it_is_not_drawn() -> None:
    study = study_of(["sum", "max"], arms=[
        {"name": "sum", "operations": ["SUM"]}, {"name": "other", "operations": ["MAX", "MED"]},
    ])  # fmt: skip
    made = [dataclasses.replace(r, curve=None) if r.arm == "other" else r for r in records_of(study)]
    made = [dataclasses.replace(r, metrics={"sets": {}}) if r.arm == "other" else r for r in made]
    drawn = {one.name: one for one in gallery.figures(analyse(study, made))}
    assert "MAX+MED, narrow (it does not train on SUM)" in drawn["learning-curves"].notes[0]
    assert "none of its runs was measured on 'test: SUM'" in drawn["thresholds"].notes[0]


def test_text_is_legible_and_panels_fit_in_print(drawings: dict[str, Drawing]) -> None:
    from kc_interp.gallery.stills import for_print, named_plots

    def sizes(value: Any) -> list[float]:
        if isinstance(value, dict):
            own = (
                [value["size"]]
                if "family" in value or ("size" in value and set(value) <= {"size", "color", "shadow"})
                else []
            )
            return own + [size for item in value.values() for size in sizes(item)]
        return [size for item in value for size in sizes(item)] if isinstance(value, (list, tuple)) else []

    for name, plot in named_plots(list(drawings.values()), "partial: 3 of 4 runs"):
        fonts = [12, *sizes(plot["layout"])]
        assert min(fonts) >= 12, name  # 12 px at 96 px an inch are 9 pt
        assert plot["layout"]["width"] in (336, 680)
        assert any(n["text"] == "partial: 3 of 4 runs" for n in plot["layout"]["annotations"])
    assert for_print(drawings["synergy"].plots[0].to_plotly_json(), 89)["layout"]["width"] == 336
    names = [name for name, _ in named_plots(list(drawings.values()))]
    assert len(set(names)) == len(names) and set(gallery.NAMES) <= set(names)


def test_an_unknown_figure_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SpecError, match="no figure is named 'threshold'; did you mean 'thresholds'"):
        gallery.chosen(["threshold"])


def test_labels_go_where_they_hide_nothing() -> None:
    from kc_interp.gallery.labels import placed

    assert placed([(50, 50)], ["a"], (400, 300)) == ["top right"]
    assert placed([(395, 50)], ["long name"], (400, 300)) == ["top left"]
    points = [(100.0, 100.0), (110.0, 112.0), (105.0, 90.0)]
    assert len(set(placed(points, ["MAX+SUM"] * 3, (400, 300)))) == 3


HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "%{x} & ' \"\u2028")


def hostile_analysis(bad: str) -> Analysis:
    """Arms, titles, findings and provenance that would run if anything took them for HTML."""
    arms = [
        {"name": f"a {bad}", "operations": ["SUM"], "weights": [1.0]},
        {"name": f"b {bad}", "operations": ["MAX", "SUM"], "weights": [1.0, 2.0]},
    ]
    study = study_of(title=bad, arms=arms, probes=["embedding-geometry"])
    made = records_of(study, probes=True)
    numbers = [{**n, "title": f"{n['title']} {bad}", "higher_means": bad} for n in made[0].findings[0]["numbers"]]
    finding = {**made[0].findings[0], "probe": f"probe {bad}", "numbers": numbers}
    return analyse(study, [dataclasses.replace(r, findings=(finding,), provenance={bad: bad}) for r in made])


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_names_are_text(bad: str) -> None:
    analysis = hostile_analysis(bad)
    drawn = gallery.figures(analysis, laws(analysis))
    page = gallery.render(analysis, drawn)
    assert "<img" not in page.replace(gallery.page.bundles.plotly(), "") and "<script>alert" not in page
    for plot in (plot for drawing in drawn for plot in drawing.plots):  # plotly reads HTML in labels
        assert "<img" not in str(plot.to_plotly_json()) and "<script" not in str(plot.to_plotly_json())
