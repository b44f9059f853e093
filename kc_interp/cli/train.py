"""`kc-interp train`: one model, from a preset, a TOML file and options, in that order."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli.compute import claim, prepare
from kc_interp.cli.console import Output, share, table
from kc_interp.cli.options import (
    Depth,
    Device,
    Force,
    Json,
    MaxOperands,
    MedianOf,
    Modulus,
    Ops,
    POperation,
    Quiet,
    Set,
    Shape,
    Threads,
    Verbose,
    Weights,
)
from kc_interp.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from kc_interp.spec import RunSpec

SPEC_NAME = "run.json"
_Model = "Model"
_Training = "Training"


def train(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run's folder.")],
    preset: Annotated[
        str, typer.Option("--preset", metavar="quick|paper", help="Where settings start from.")
    ] = "quick",
    config: Annotated[
        Path | None, typer.Option("--config", metavar="TOML", help="Settings: [task], [data], [model], [train], seed.")
    ] = None,
    ops: Ops = None,
    weights: Weights = None,
    modulus: Modulus = None,
    depth: Depth = None,
    max_operands: MaxOperands = None,
    p_operation: POperation = None,
    median: MedianOf = None,
    shape: Shape = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Another installed task (settings by --set task.X=…).")
    ] = None,
    vocabulary: Annotated[str | None, typer.Option("--vocabulary", metavar="used|all", help="Tokens.")] = None,
    d_model: Annotated[int | None, typer.Option("--d-model", rich_help_panel=_Model)] = None,
    n_layers: Annotated[int | None, typer.Option("--n-layers", rich_help_panel=_Model)] = None,
    repeat: Annotated[
        int | None, typer.Option("--repeat", rich_help_panel=_Model, help="Apply the stack this often, tied.")
    ] = None,
    n_heads: Annotated[int | None, typer.Option("--n-heads", rich_help_panel=_Model)] = None,
    d_mlp: Annotated[int | None, typer.Option("--d-mlp", rich_help_panel=_Model)] = None,
    act: Annotated[str | None, typer.Option("--act", metavar="relu|gelu", rich_help_panel=_Model)] = None,
    norm: Annotated[str | None, typer.Option("--norm", metavar="LN|none", rich_help_panel=_Model)] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init", metavar="narrow|wide|hooked|STD", rich_help_panel=_Model, help="0.02, 1/√d, 0.8/√d, or a number."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", rich_help_panel=_Training)] = None,
    steps: Annotated[int | None, typer.Option("--steps", rich_help_panel=_Training)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", rich_help_panel=_Training)] = None,
    lr: Annotated[float | None, typer.Option("--lr", rich_help_panel=_Training)] = None,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", metavar="onecycle|exponential|constant|trunk", rich_help_panel=_Training),
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", metavar="all|completion", rich_help_panel=_Training)] = None,
    batches: Annotated[
        str | None, typer.Option("--batches", metavar="bucketed|stream", rich_help_panel=_Training)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="float32|bfloat16|float64", rich_help_panel=_Training)
    ] = None,
    n_train: Annotated[
        int | None, typer.Option("--n-train", rich_help_panel=_Training, help="Size of the training sample.")
    ] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; its settings stand.")] = False,
    force: Force = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Train one model and measure it.

    Ctrl-C or a kill loses at most the steps since the last checkpoint; --resume ends with the same weights.
    """
    chosen: dict[str, dict[str, Any]] = {
        "task.settings": {
            "operations": ops.upper().split(",") if ops else None,
            "weights": numbers("--weights", weights),
            "modulus": modulus,
            "depth": depth,
            "max_operands": max_operands,
            "p_operation": p_operation,
            "median": median,
            "shape": shape,
        },
        "task": {"name": task},
        "data": {"vocabulary": vocabulary, "n_train": n_train},
        "model": {
            "d_model": d_model, "n_layers": n_layers, "repeat": repeat, "n_heads": n_heads, "d_mlp": d_mlp, "act": act,
            "norm": norm, "init": _name_or_number(init),
        },
        "train": {
            "steps": steps, "batch_size": batch_size, "lr": lr, "schedule": schedule, "loss": loss, "batches": batches,
            "dtype": dtype,
        },
        "": {"seed": seed},
    }  # fmt: skip
    output = Output(as_json, quiet, verbose)
    from kc_interp import evaluation
    from kc_interp import train as training
    from kc_interp.checkpoint import FILE_NAME
    from kc_interp.files import write_atomically
    from kc_interp.spec import to_plain

    spec = build(preset, config, chosen, settings or [], resume_from=out / SPEC_NAME if resume else None)
    owned = [SPEC_NAME, FILE_NAME, training.STATE_NAME, "checkpoints/step_*.safetensors"]
    claim(out, owned, resume=resume, force=force)
    where = prepare(device, threads)
    with output.progress("training", spec.train.steps) as bar:

        def show(progress: training.Progress) -> None:
            if not (out / SPEC_NAME).exists():  # only now have the settings passed every check
                write_atomically(out / SPEC_NAME, json.dumps(to_plain(spec), indent=1) + "\n")
            accuracy = "" if progress.accuracy is None else f" exact {progress.accuracy[0]:.0%}"
            bar(
                progress.step,
                f"loss {progress.loss_nats[0]:.3f}{accuracy} {progress.examples_per_second:,.0f} chains/s",
            )

        try:
            [found] = training.train(
                [spec],
                folders=[out],
                state_path=out / training.STATE_NAME,
                device=where,
                resume=resume,
                on_progress=show,
            )
        except KeyboardInterrupt:
            output.note(f"interrupted; continue with: kc-interp train --resume --out {out}")
            raise
    with output.progress("measuring", None) as bar:
        found = found.with_metrics(evaluation.evaluate(found, on_progress=lambda name: bar(0, name)))
    path = found.save(out / FILE_NAME)
    rows = [
        (
            name.removeprefix("test: "),
            share(found.metrics["sets"][name]["metrics"]["exact"]),
            f"{100 * found.metrics['sets'][name]['chance']:.1f} %",
            {True: "learned", False: "not learned", None: ""}[
                found.metrics["learned"].get(name.removeprefix("test: "))
            ],
        )
        for name in found.metrics["sets"]
        if name.startswith("test")
    ]
    output.result(
        {
            "checkpoint": str(path),
            "spec": to_plain(found.spec),
            "parameters": found.parameter_count,
            "training": dict(found.training),
            "metrics": dict(found.metrics),
            "provenance": dict(found.provenance),
        },
        table(
            f"{path} ({found.parameter_count:,} parameters, {spec.train.steps:,} steps)",
            ("unseen questions of", "exact chain [95 %]", "chance", ""),
            rows,
            caption=f"learned: at least {100 * evaluation.LEVEL:g} %, free-running, strict",
        ),
        f"next: kc-interp probe --model {out}",
    )


def build(
    preset: str,
    config: Path | None,
    chosen: Mapping[str, Mapping[str, Any]],
    settings: Sequence[str],
    *,
    resume_from: Path | None = None,
) -> RunSpec:
    """The run's settings: the preset (or the interrupted run's), overridden by the file, then by options, then --set.

    Raises SpecError on an unknown key or a value that does not fit.
    """
    from kc_interp.presets import PRESETS
    from kc_interp.spec import RunSpec, from_plain, to_plain

    if preset not in PRESETS:
        raise SpecError(f"--preset {preset}: no such preset{did_you_mean(preset, PRESETS)}")
    data = to_plain(PRESETS[preset])
    if resume_from is not None and resume_from.is_file():
        try:
            data = to_plain(from_plain(RunSpec, json.loads(resume_from.read_text()), where=str(resume_from)))
        except ValueError as error:
            raise SpecError(f"{resume_from}: not readable as settings ({error})") from error
    asked = {} if config is None else _read(config)
    for place, values in chosen.items():
        for key, value in values.items():
            if value is not None:
                _put(asked, f"{place}.{key}".lstrip("."), value)
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"--set {text}: expected KEY=VALUE, e.g. train.clip=0.5")
        _put(asked, key.strip(), toml_value(value.strip()))
    _lift_task_settings(asked)
    if asked.get("task", {}).get("name", data["task"]["name"]) != data["task"]["name"]:
        data["task"] = {"name": asked["task"]["name"], "settings": {}}  # a preset's settings are those of its own task
    _merge(data, asked)
    return from_plain(RunSpec, data, where="settings")


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{config}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{config}: not TOML: {error}") from error


def _lift_task_settings(asked: dict[str, Any]) -> None:
    """`[task] depth = 3` is short for `[task.settings] depth = 3`."""
    task = asked.get("task")
    if isinstance(task, dict):
        short = {key: task.pop(key) for key in list(task) if key not in ("name", "settings")}
        if short:
            task["settings"] = {**short, **task.get("settings", {})}


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise SpecError(f"{key}: {part} is a setting, not a table of settings")
    data[leaf] = value


def _merge(data: dict[str, Any], asked: Mapping[str, Any]) -> None:
    for key, value in asked.items():
        if isinstance(value, Mapping) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value


def toml_value(text: str) -> Any:
    """A value as TOML spells it; what is no TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def numbers(option: str, text: str | None) -> list[float] | None:
    """`1,2,0.5` as numbers. Raises SpecError."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"{option} {text}: expected numbers with commas between, e.g. 1,1,2") from None


def _name_or_number(text: str | None) -> str | float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
