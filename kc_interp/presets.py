"""Named starting points for a run. Every setting can be overridden on the command line or in a study."""

from __future__ import annotations

from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec

OPERATIONS = ["MAX", "MED", "SUM"]

QUICK = RunSpec(
    task=TaskSpec("listops", {"operations": OPERATIONS, "depth": 2, "max_operands": 3}),
    model=ModelSpec(d_model=48, n_layers=2, n_heads=4, act="gelu", init="wide"),
    train=TrainSpec(steps=8_000, batch_size=32, lr=4e-3, schedule="onecycle", loss="completion"),
)
"""A minute or two on a CPU, from the wide initialisation, so that what a newcomer trains is usually learned."""

PAPER = RunSpec(
    task=TaskSpec(
        "listops", {"operations": OPERATIONS, "depth": 2, "max_operands": 3, "p_operation": 0.25, "shape": "equals"}
    ),
    data=DataSpec(n_train=50_000, vocabulary="all"),
    model=ModelSpec(
        d_model=48,
        n_layers=1,
        repeat=5,
        n_heads=1,
        act="relu",
        qkv_bias=False,
        init="narrow",
        scale_residual=False,
        n_ctx=128,
    ),
    train=TrainSpec(
        steps=100_000,
        lr=5e-4,
        final_lr=0.04,
        schedule="exponential",
        warmup=0.0,
        betas=(0.9, 0.999),
        batches="stream",
        crop=128,
        checkpoint_every=10_000,
    ),
)
"""The public code of the paper's group: one block tied five times, random crops of one stream, 100,000 steps."""

PRESETS = {"quick": QUICK, "paper": PAPER}
