"""What the store and the driver cost: 100,000 records written and queried, and their share of a small sweep's time.

    python experiments/bench/store.py [--records 100000] [--members 100] [--steps 300] [--out FOLDER] [--json]

The records are as large as those of a three-operation study, without curves (one file an ensemble, its cost printed
beside). They are written an ensemble at a time, each in its own transaction, as a sweep does. The sweep trains eight
runs of two widths with one worker: the driver's share is what it does itself while its worker could wait. Exit status 1
when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kc_interp.records import Record, Store, run_key
from kc_interp.scaling.executors import Local
from kc_interp.scaling.study import Arm, Criterion, Grid, Study
from kc_interp.scaling.sweep import sweep
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec, to_plain

TARGET_SECONDS, TARGET_SHARE = 5.0, 0.02
CURVED = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        stored = store_times(Path(scratch), chosen.records, chosen.members)
        swept = sweep_times(Path(scratch), chosen.steps)
    document = {
        "protocol": f"{chosen.records} records, ensembles of {chosen.members}; a sweep of 8 runs, {chosen.steps} steps",
        "target_seconds": TARGET_SECONDS,
        "target_share": TARGET_SHARE,
        **stored,
        **swept,
    }
    text = json.dumps(document, indent=1)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "store.json").write_text(text)
    if chosen.json:
        print(text)
    else:
        print(document["protocol"])
        print(
            f"written in {stored['write_seconds']:.2f} s, queried in {stored['query_seconds']:.2f} s, together "
            f"{stored['seconds']:.2f} s (target {TARGET_SECONDS:g} s); {stored['size_bytes'] / 1e6:.0f} MB"
        )
        print(f"curves of an ensemble of {chosen.members}: {1e3 * stored['curves_seconds']:.1f} ms more")
        print(
            f"store and driver: {100 * swept['share']:.2f} % of a sweep of {swept['wall_seconds']:.1f} s "
            f"(target {100 * TARGET_SHARE:g} %)"
        )
    return int(stored["seconds"] > TARGET_SECONDS or swept["share"] > TARGET_SHARE)


def store_times(folder: Path, count: int, members: int) -> dict[str, float]:
    """Seconds to write records ensemble by ensemble, to ask for the status, all keys and one arm, and for curves."""
    curve = tuple({"step": 200 * n, "loss_nats": 1 / n, "mixture": 0.5, "MAX": 0.5, "SUM": 0.5} for n in range(1, 41))
    with Store.open(folder / "records.sqlite", write=True) as store:
        store.begin("bench", {})
        write_seconds = 0.0
        for low in range(0, count, members):  # made as they are stored, as in a sweep: no heap of records to collect
            ensemble = [record(index) for index in range(low, low + members)]
            began = time.perf_counter()
            store.add(ensemble)
            write_seconds += time.perf_counter() - began
        written = time.perf_counter()
        status = store.status("bench")
        keys = store.keys("bench")
        arm = store.records("bench", arm="arm 3")
        queried = time.perf_counter()
        curve_seconds = 0.0
        for low in range(count, count + CURVED * members, members):
            ensemble = [record(index, curve) for index in range(low, low + members)]
            began = time.perf_counter()
            store.add(ensemble)
            curve_seconds += time.perf_counter() - began
        if not count <= len(keys) < count + members or sum(row["runs"] for row in status) != len(keys) or not arm:
            raise SystemExit("the store does not hold what was written")
        size = store.path.stat().st_size
    return {
        "write_seconds": write_seconds,
        "query_seconds": queried - written,
        "seconds": write_seconds + queried - written,
        "curves_seconds": curve_seconds / CURVED - write_seconds * members / count,
        "size_bytes": size,
    }


def record(index: int, curve: tuple[dict[str, float], ...] | None = None) -> Record:
    """A record of the usual size."""
    seed, arm = divmod(index, 20)
    spec: dict[str, Any] = {**SPEC, "seed": seed, "task": {"name": "listops", "settings": {"arm": arm}}}
    exact = {"value": 0.5, "n": 1000, "low": 0.46908, "high": 0.53091}
    sets = ("test", *(f"{kind}: {op}" for kind in ("test", "held-out", "atoms") for op in ("MAX", "MED", "SUM")))
    measured = {
        name: {"n": 1000, "chance": 0.1, "exact": exact, "answer": exact, "answer_nats": exact} for name in sets
    }
    return Record(
        key=run_key(spec), study="bench", arm=f"arm {arm}", seed=seed, ensemble=str(index // 100), member=index % 100,
        d_model=8 * (1 + index % 7), parameters=10_000, spec=spec, metrics={"sets": measured}, learned=index % 3 == 0,
        curve=curve, wall_seconds=60.0, made="2026-01-01T00:00:00+00:00",
        provenance={"torch": "2.13", "commit": 40 * "0"},
    )  # fmt: skip


SPEC = to_plain(RunSpec())


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
