"""Do thresholds, times and laws say what they claim? Fits and placement in simulated worlds whose truth is known.

    python experiments/bench/calibration.py [--worlds 1000] [--seed 0] [--out FOLDER] [--json]

Exit status 1 when a target is missed: RMSE of the placed threshold, coverage of its interval and of the exponent's
within the binomial error of 95 %, and no more runs than a fixed grid needs for the same error.

Coverage is a property of fit and worlds together: it is exact where worlds come from the prior, and the rows beside
those show what it is where slopes are steeper or lapses rarer than the prior has it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from common import add_output, delivered

from kc_interp.scaling import laws, simulation, survival, thresholds
from kc_interp.scaling.placement import Placement
from kc_interp.scaling.thresholds import Estimate, Posterior

RUNS = 48
RMSE_DEX = 0.035
GRIDS = (48, 96, 192, 384)
STEEP, EVERY = (0.05, 0.1), (0.05, 0.3)
Draw = Callable[[np.random.Generator], simulation.World]
WITH_GRIDS: dict[str, Draw] = {
    "slopes .05-.1, lapses to .15": lambda rng: simulation.draw_world(rng, STEEP),
    "slopes .05-.3, lapses as the prior": lambda rng: simulation.draw_world(rng, EVERY, most_lapse=None),
}
OTHERS: dict[str, Draw] = {
    "everything from the prior": simulation.draw_prior,
    "slopes .05-.3, lapses to .15": lambda rng: simulation.draw_world(rng, EVERY),
    "slopes .05-.1, lapses as the prior": lambda rng: simulation.draw_world(rng, STEEP, most_lapse=None),
    "slopes .05-.3, lapses to .15, a normal curve": lambda rng: simulation.draw_world(rng, EVERY, link="normal"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--worlds", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser)
    chosen = parser.parse_args()
    began = time.perf_counter()
    document: dict[str, Any] = {
        "protocol": f"{chosen.worlds} worlds a row, seed {chosen.seed}; t uniform over the sizes but the outermost, "
        f"runs bimodal; {len(simulation.SIZES)} sizes from {simulation.SIZES[0]:,} to "
        f"{simulation.SIZES[-1]:,} parameters; coverage of 95 % intervals ± its binomial error (1.96 sd)",
        "thresholds": {name: placed(chosen.worlds, chosen.seed, draw) for name, draw in WITH_GRIDS.items()},
        "others": others(chosen.worlds, chosen.seed),
    }
    document["laws"] = exponents(chosen.worlds, chosen.seed)
    document["measures"] = measures(chosen.worlds, chosen.seed)
    document["times"] = times(chosen.worlds, chosen.seed)
    document["seconds"] = time.perf_counter() - began
    document["targets"] = targets(document)
    if not delivered("calibration", document, chosen):
        show(document)
    return int(not all(target["met"] for target in document["targets"]))


def coverage(hits: list[bool]) -> dict[str, Any]:
    """The share covered, the binomial error of 95 % for so many, and whether the first lies within the second."""
    if not hits:
        return {"coverage": None, "n": 0}
    share, error = float(np.mean(hits)), 1.96 * math.sqrt(0.95 * 0.05 / len(hits))
    return {"coverage": share, "error": error, "within": abs(share - 0.95) <= error, "n": len(hits)}


def holds(estimate: Estimate | laws.Exponent, truth: float) -> bool:
    """Whether an interval or bound holds the truth; one that says nothing holds everything."""
    return (estimate.low is None or estimate.low <= truth) and (estimate.high is None or truth <= estimate.high)


def rmse(pairs: list[tuple[float, float]]) -> float:
    return math.sqrt(float(np.mean([(a - b) ** 2 for a, b in pairs])))


def half_learn(world: simulation.World) -> float:
    """Where half of all runs succeed, by bisection."""
    low, high = 0.0, 12.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if world.chance(np.asarray([10**middle]))[0] > 0.5 else (middle, high)
    return low


def judge(posteriors: list[Posterior], worlds: list[simulation.World]) -> dict[str, Any]:
    pairs = list(zip(posteriors, worlds, strict=True))
    return {
        "rmse_dex": rmse([(p.t_mean, w.t) for p, w in pairs]),
        "t": coverage([holds(p.t, w.t) for p, w in pairs]),
        "half_learn": coverage([holds(p.at(0.5), half_learn(w)) for p, w in pairs]),
        "censored": sum(p.t.censored is not None for p in posteriors),
    }


def placed(count: int, seed: int, draw: Draw) -> dict[str, Any]:
    """Adaptive placement beside fixed grids, in the same worlds."""
    rng = np.random.default_rng([seed, 1])
    worlds = [draw(rng) for _ in range(count)]
    adaptive = judge([by_placement(world, i, rng) for i, world in enumerate(worlds)], worlds)
    grids = {runs: judge([by_grid(world, runs, rng) for world in worlds], worlds) for runs in GRIDS}
    found = {"adaptive": {"runs": RUNS, **adaptive}, "grid": grids}
    return {**found, "grid_runs_for_the_same_error": runs_needed(adaptive["rmse_dex"], grids)}


def by_placement(world: simulation.World, seed: int, rng: np.random.Generator, **settings: int) -> Posterior:
    placement = Placement(simulation.WIDTHS, simulation.SIZES, budget_runs=RUNS, seed=seed, **settings)
    return placement.posterior(simulation.adaptive(world, placement, rng))


def by_grid(world: simulation.World, runs: int, rng: np.random.Generator) -> Posterior:
    sizes = simulation.fixed_sizes(runs)
    learned = world.accuracies(sizes, rng) >= simulation.LEVEL
    return thresholds.fit(sizes, learned, span=(simulation.SIZES[0], simulation.SIZES[-1]))


def runs_needed(target: float, grids: dict[int, dict[str, Any]]) -> float:
    """Runs at which a fixed grid has this error, on a straight line through log error against log runs."""
    runs, errors = np.log(list(grids)), np.log([grid["rmse_dex"] for grid in grids.values()])
    slope, constant = np.polyfit(runs, errors, 1)
    return float(np.exp((math.log(target) - constant) / slope))


def others(count: int, seed: int) -> dict[str, Any]:
    """Adaptive placement in other worlds, and in larger batches."""
    found = {}
    for name, draw in OTHERS.items():
        rng = np.random.default_rng([seed, 2])
        worlds = [draw(rng) for _ in range(count)]
        found[name] = judge([by_placement(world, i, rng) for i, world in enumerate(worlds)], worlds)
    rng = np.random.default_rng([seed, 1])
    worlds = [simulation.draw_world(rng, STEEP) for _ in range(count)]
    eights = [by_placement(world, i, rng, batch_runs=8) for i, world in enumerate(worlds)]
    return {**found, "slopes .05-.1, lapses to .15, batches of 8": judge(eights, worlds)}


def exponents(count: int, seed: int) -> dict[str, Any]:
    """Exponents by every method, and predictions of a left-out task, with and without errors of the complexity."""
    methods: dict[str, Callable[[laws.Tasks], laws.Exponent]] = {
        "direct": laws.direct,
        "inverted": laws.inverted,
        "errors in variables": laws.errors_in_variables,
    }
    rows: dict[str, Any] = {}
    for name, law in {
        "K exact": simulation.Law(),
        "K exact, operations alike": simulation.Law(part_sd=0.0),
        "K known to .05 dex": simulation.Law(x_sd=0.05),
    }.items():
        rng = np.random.default_rng([seed, 3])
        found: dict[str, list[laws.Exponent]] = {method: [] for method in (*methods, "crossed effects")}
        predicted, errors = [], []
        for _ in range(count):
            tasks = law.draw(rng)
            for method, fit in methods.items():
                found[method].append(fit(tasks))
            found["crossed effects"].append(laws.Crossed(tasks).exponent)
            out = np.arange(len(tasks.names)) == rng.integers(len(tasks.names))
            middle, low, high = laws.Crossed(tasks.take(~out)).predict(
                float(tasks.complexity[out][0]), tasks.parts[out][0], law.x_sd, law.y_sd
            )
            truth = float(tasks.y[out][0])
            predicted.append(low <= truth <= high)
            errors.append((middle, truth))
        rows[name] = {
            "true_exponent": law.exponent,
            "methods": {
                method: {
                    "median": float(np.median([e.value for e in each])),
                    **coverage([holds(e, law.exponent) for e in each]),
                }
                for method, each in found.items()
            },
            "left_out_task": {"rmse_dex": rmse(errors), **coverage(predicted)},
        }
    return rows


def measures(count: int, seed: int) -> dict[str, Any]:
    """The interval on how much worse a noisy copy of the true measure predicts: does it hold the mean difference?"""
    rng = np.random.default_rng([seed, 4])
    law = simulation.Law()
    hits, decided = [], 0
    for _ in range(count):
        a = law.draw(rng)
        noisy = a.complexity * 10 ** rng.normal(0, 0.08, len(a.names))
        b = laws.Tasks.of(a.names, noisy, a.y)
        better = laws.better_predictor(a, b, rng, resamples=400)
        shares = a.parts / a.parts.sum(axis=1, keepdims=True)
        again = law.exponent * a.x + rng.normal(0, law.part_sd, (400, 4)) @ shares.T
        again = again + rng.normal(0, math.hypot(law.scatter_sd, law.y_sd), again.shape)
        truth = np.mean(laws.left_out_rms(b.x, again) - laws.left_out_rms(a.x, again))
        hits.append(bool(better.low <= truth <= better.high))
        decided += better.low > 0
    return {"decided_for_the_true_one": decided / count, **coverage(hits)}


def times(count: int, seed: int) -> dict[str, Any]:
    """The median time to learn, 24 runs stopped at a common budget, a share of which never learns."""
    rng = np.random.default_rng([seed, 5])
    bounds: list[bool] = []
    whole: list[bool] = []
    censored = 0
    for _ in range(count):
        truth = simulation.Times(
            rng.uniform(3.5, 4.5), math.exp(rng.uniform(*np.log([0.05, 0.4]))), rng.uniform(0, 0.4)
        )
        steps, learned = truth.draw(24, 10 ** rng.uniform(4.0, 5.0), rng)
        median = survival.fit_times(steps, learned).median
        at = truth.location + truth.scale * NormalDist().inv_cdf(0.5 / (1 - truth.never))
        (whole if median.censored is None else bounds).append(holds(median, at))
        censored += median.censored is not None
    return {
        "censored": censored,
        "two_sided": coverage(whole),
        "bounds": coverage(bounds),
        "all": coverage(whole + bounds),
    }


def targets(document: dict[str, Any]) -> list[dict[str, Any]]:
    steep = next(iter(document["thresholds"].values()))["adaptive"]["rmse_dex"]
    rows: list[tuple[str, float, bool]] = [
        (f"RMSE of t with {RUNS} runs at most {RMSE_DEX} dex, {next(iter(WITH_GRIDS))}", steep, steep <= RMSE_DEX)
    ]
    covered = {
        "slopes .05-.3, lapses as the prior": document["thresholds"]["slopes .05-.3, lapses as the prior"]["adaptive"],
        "everything from the prior": document["others"]["everything from the prior"],
    }
    for name, found in covered.items():
        says = f"interval of t covers 95 % within the binomial error, {name}"
        rows.append((says, found["t"]["coverage"], found["t"]["within"]))
    for name, found in document["thresholds"].items():
        needed = found["grid_runs_for_the_same_error"]
        rows.append((f"a fixed grid needs at least {RUNS} runs for the same error, {name}", needed, needed >= RUNS))
    for name, found in document["laws"].items():
        crossed = found["methods"]["crossed effects"]
        says = f"interval of the exponent covers 95 % within the binomial error, {name}"
        rows.append((says, crossed["coverage"], crossed["within"]))
    return [{"target": says, "found": value, "met": bool(met)} for says, value, met in rows]


def show(document: dict[str, Any]) -> None:
    print(document["protocol"])
    said = "{coverage:.3f} (.950 ± {error:.3f})".format_map
    judged = {f"adaptive, {RUNS} runs, {name}": row for name, row in document["others"].items()}
    for name, found in document["thresholds"].items():
        judged |= {f"adaptive, {RUNS} runs, {name}": found["adaptive"]}
        judged |= {f"fixed grid, {runs} runs, {name}": grid for runs, grid in found["grid"].items()}
    for name, row in sorted(judged.items()):
        print(
            f"{name}: RMSE of t {row['rmse_dex']:.4f} dex, t covered {said(row['t'])}, "
            f"size where half learn {said(row['half_learn'])}, one-sided or open in {row['censored']}"
        )
    for name, row in document["laws"].items():
        for method, found in row["methods"].items():
            print(f"{name}: {method} exponent {found['median']:.2f} of {row['true_exponent']}, covered {said(found)}")
        print(f"{name}: a left-out task to {row['left_out_task']['rmse_dex']:.3f} dex, {said(row['left_out_task'])}")
    measured = document["measures"]
    decided = measured["decided_for_the_true_one"]
    print(f"difference of two measures {said(measured)}; decided for the true one in {decided:.0%}")
    print(f"median time to learn {said(document['times']['all'])}, {document['times']['censored']} of them bounds")
    print(f"{document['seconds']:.0f} s")
    for target in document["targets"]:
        print(f"{'met   ' if target['met'] else 'MISSED'} {target['found']:.4g}  {target['target']}")


if __name__ == "__main__":
    sys.exit(main())
