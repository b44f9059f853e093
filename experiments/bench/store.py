"""What the store and the driver cost: 100,000 records queried and drawn, and their share of a small sweep's time.

    python experiments/bench/store.py [--records 100000] [--members 100] [--steps 300] [--out FOLDER] [--json]

The records are as large as those of a study of up to three operations, without curves (one file an ensemble, its cost
printed beside). They are written an ensemble at a time, each in its own transaction, as a sweep does; queried for the
status, all keys and one arm; then all are read as `kc-interp figures` does, analysed and drawn (success, thresholds and
synergy on one page). The sweep trains eight runs of two widths with one worker: the driver's share is what it does
itself while its worker could wait. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import add_output, delivered

from kc_interp import gallery
from kc_interp.cli.records import find
from kc_interp.records import Record, Store, run_key
from kc_interp.scaling.analysis import analyse
from kc_interp.scaling.executors import Local
from kc_interp.scaling.factors import Grid
from kc_interp.scaling.study import Arm, Criterion, Study
from kc_interp.scaling.sweep import sweep
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec, to_plain

TARGET_SECONDS, TARGET_SHARE = 5.0, 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    add_output(parser)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        stored = store_times(Path(scratch), chosen.records, chosen.members)
        swept = sweep_times(Path(scratch), chosen.steps)
    document = {
        "protocol": f"{stored['records']} records in ensembles of {chosen.members}; a sweep of 8 runs, "
        f"{chosen.steps} steps",
        "target_seconds": TARGET_SECONDS,
        "target_share": TARGET_SHARE,
        **stored,
        **swept,
    }
    if not delivered("store", document, chosen):
        print(document["protocol"])
        print(
            f"queried in {stored['query_seconds']:.2f} s, read in {stored['read_seconds']:.2f} s, analysed in "
            f"{stored['analyse_seconds']:.2f} s, drawn in {stored['draw_seconds']:.2f} s: together "
            f"{stored['seconds']:.2f} s (target {TARGET_SECONDS:g} s)"
        )
        print(
            f"written in {stored['write_seconds']:.2f} s ({1e6 * stored['write_seconds'] / stored['records']:.0f} µs a "
            f"record); {stored['size_bytes'] / 1e6:.0f} MB"
        )
        print(f"curves of an ensemble of {chosen.members}: {1e3 * stored['curves_seconds']:.1f} ms more")
        print(
            f"store and driver: {100 * swept['share']:.2f} % of a sweep of {swept['wall_seconds']:.1f} s "
            f"(target {100 * TARGET_SHARE:g} %)"
        )
    return int(stored["seconds"] > TARGET_SECONDS or swept["share"] > TARGET_SHARE)


def store_times(folder: Path, count: int, members: int) -> dict[str, float]:
    """Seconds to write records ensemble by ensemble, to query them, to read, analyse and draw all, and for curves."""
    curve = tuple({"step": 200 * n, "loss_nats": 1 / n, "mixture": 0.5, "MAX": 0.5, "SUM": 0.5} for n in range(1, 41))
    study = replace(STUDY, seeds=members * max(1, count // (members * CELLS)))
    with Store.open(folder / "records.sqlite", write=True) as store:
        store.begin(study.name, study.settings)
        write_seconds, written = 0.0, 0
        for ensemble in ensembles(study, members):  # made as they are stored, as in a sweep: no heap to collect
            began = time.perf_counter()
            store.add(ensemble)
            write_seconds += time.perf_counter() - began
            written += len(ensemble)
        times = [time.perf_counter()]
        status = store.status(study.name)
        keys = store.keys(study.name)
        arm = store.records(study.name, arm="MAX+SUM")
        times.append(time.perf_counter())
        found = find(study, folder / "study.toml", store.path, None).records
        times.append(time.perf_counter())
        analysis = analyse(study, found)
        times.append(time.perf_counter())
        page = gallery.render(analysis, gallery.figures(analysis, (), ("success", "thresholds", "synergy")))
        times.append(time.perf_counter())
        if not len(keys) == len(found) == written == sum(row["runs"] for row in status) or not arm or not page:
            raise SystemExit("the store does not hold what was written")
        del found, analysis, arm
        more = replace(study, seeds=tuple(range(10**6, 10**6 + members)))
        curve_seconds, curved = 0.0, 0
        for ensemble in ensembles(more, members, curve):
            began = time.perf_counter()
            store.add(ensemble)
            curve_seconds += time.perf_counter() - began
            curved += 1
        size = store.path.stat().st_size
    query, read, analysed, drawn = (after - before for before, after in itertools.pairwise(times))
    return {
        "records": written,
        "write_seconds": write_seconds,
        "query_seconds": query,
        "read_seconds": read,
        "analyse_seconds": analysed,
        "draw_seconds": drawn,
        "seconds": query + read + analysed + drawn,
        "curves_seconds": curve_seconds / curved - write_seconds * members / written,
        "size_bytes": size,
    }


STUDY = Study(
    "bench",
    tuple(
        Arm(name="+".join((*others, "SUM")), operations=(*others, "SUM"))
        for others in ((), ("MAX",), ("MED",), ("MIN",), ("MAX", "MED"))
    ),
    grid=Grid(d_model=(8, 12, 16, 24, 32, 48, 64), init=("narrow", "wide")),
    criterion=Criterion("SUM"),
)
CELLS = len(STUDY.arms) * len(STUDY.grid.d_model) * len(STUDY.grid.init)


def ensembles(study: Study, members: int, curve: tuple[dict[str, float], ...] | None = None) -> Iterator[list[Record]]:
    """Every run of a study as a record of the usual size; whether it learned is drawn by its width."""
    rng = np.random.default_rng(0)
    for arm, point in study.conditions():
        for width in study.grid.d_model:
            plain = to_plain(study.run(arm, {**point, "d_model": width}, 0).spec)
            for low in range(0, len(study.seed_list), members):
                name = f"{arm.name} {point['init']} {width} {low}"
                yield [
                    record(plain, arm, width, seed, name, index, rng.random() < 1 / (1 + (20 / width) ** 5), curve)
                    for index, seed in enumerate(study.seed_list[low : low + members])
                ]


def record(
    plain: dict[str, Any], arm: Arm, width: int, seed: int, ensemble: str, member: int, learned: bool,
    curve: tuple[dict[str, float], ...] | None,
) -> Record:  # fmt: skip
    """A record of the usual size."""
    spec = {**plain, "seed": seed}
    exact = {"value": 0.95 if learned else 0.31, "n": 1000, "low": 0.28908, "high": 0.96091}
    parts = [f"{kind}: {operation}" for kind in ("test", "held-out", "atoms") for operation in arm.operations or ()]
    measured = {
        name: {"n": 1000, "chance": 0.1, "exact": exact, "answer": exact, "answer_nats": exact}
        for name in ("test", *parts)
    }
    return Record(
        key=run_key(spec), study=STUDY.name, arm=arm.name, seed=seed, ensemble=ensemble, member=member, d_model=width,
        parameters=24 * width**2 + 150 * width, spec=spec, metrics={"sets": measured}, learned=learned, curve=curve,
        wall_seconds=60.0, made="2026-01-01T00:00:00+00:00", provenance={"torch": "2.13", "commit": 40 * "0"},
    )  # fmt: skip


def sweep_times(folder: Path, steps: int) -> dict[str, float]:
    """A sweep with one worker: its seconds, and the share that the driver and the store took of them."""
    study = Study(
        "bench",
        (Arm(name="sum", operations=("SUM",)), Arm(name="joint", operations=("MAX", "MED", "SUM"))),
        base=RunSpec(
            TaskSpec(),
            DataSpec(n_train=10_000),
            ModelSpec(d_model=16, n_heads=2),
            TrainSpec(steps=steps),
        ),
        grid=Grid(d_model=(16, 32)),
        seeds=2,
        criterion=Criterion("SUM"),
    )
    executor = Local(1)
    with Store.open(folder / "sweep.sqlite", write=True) as store:
        try:
            outcome = sweep(study, store, executor)
        finally:
            executor.close()
    if outcome.failures:
        raise SystemExit(outcome.failures[0])
    return {
        "wall_seconds": outcome.wall_seconds,
        "driver_seconds": outcome.driver_seconds,
        "share": outcome.driver_seconds / outcome.wall_seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
