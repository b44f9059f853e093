"""The demo's design: which models are trained, all of one size and one number of steps.

{SUM alone, MAX+MED+SUM} × {the paper's narrow initialisation, a wide one}, two seeds each: eight runs, one ensemble.
The seeds are 0 and 1, chosen before anything was run.
"""

from __future__ import annotations

import dataclasses

from kc_interp.presets import QUICK
from kc_interp.spec import DataSpec, Initialisation, RunSpec, TaskSpec

ARMS = {"sum": ("SUM",), "joint": ("MAX", "MED", "SUM")}
INITIALISATIONS: tuple[Initialisation, ...] = ("narrow", "wide")
SEEDS = (0, 1)
SHOWN = ("sum-wide-0", "joint-wide-0")
"""A run of each arm, to be looked at side by side."""
D_MODEL, STEPS, LR, P_OPERATION = 32, 9_000, 6e-3, 0.25
"""Sized on other seeds (100, 101): eight runs in some four minutes on two cores. Nesting is as rare as in the set that
the paper's group ships, so that chains are short."""


def specs(d_model: int = D_MODEL, steps: int = STEPS) -> dict[str, RunSpec]:
    """The runs by the name of their folder ("sum-narrow-0")."""
    made = {}
    for initialisation in INITIALISATIONS:
        for arm, operations in ARMS.items():
            for seed in SEEDS:
                made[f"{arm}-{initialisation}-{seed}"] = RunSpec(
                    TaskSpec(
                        "listops", {**QUICK.task.settings, "operations": list(operations), "p_operation": P_OPERATION}
                    ),
                    DataSpec(),
                    dataclasses.replace(QUICK.model, d_model=d_model, init=initialisation),
                    dataclasses.replace(QUICK.train, steps=steps, lr=LR),
                    seed,
                )
    return made
