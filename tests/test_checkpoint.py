"""A checkpoint describes itself, opens in TransformerLens, and is refused with a reason before anything is allocated."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

import kc_interp
from kc_interp import checkpoint
from kc_interp.checkpoint import FILE_NAME, KEY, Checkpoint, context_length, load, pack
from kc_interp.errors import CheckpointError, SpecError
from kc_interp.model.forward import forward
from kc_interp.spec import ModelSpec, RunSpec, TaskSpec, TrainSpec, to_plain
from kc_interp.tasks.listops import ListOps
from kc_interp.train import initial_parameters

SPEC = RunSpec(TaskSpec("listops", {"operations": ["SUM"], "depth": 1}), model=ModelSpec(d_model=8, n_heads=2))
TIED = dataclasses.replace(SPEC, model=ModelSpec(d_model=8, n_heads=2, n_layers=1, repeat=4, init="narrow"))


def untrained(spec: RunSpec = SPEC, **described: Any) -> Checkpoint:
    task = Checkpoint(spec, {}).task
    tokens = Checkpoint(spec, {}).tokens
    params = initial_parameters(spec, d_vocab=len(tokens), n_ctx=context_length(spec, task))
    return Checkpoint(spec, params, **described)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return untrained().save(tmp_path / FILE_NAME)


@pytest.fixture
def no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a tensor is an error."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("tensors were read before the checks had passed")

    monkeypatch.setattr(safetensors.torch, "load_file", fail)


def test_a_file_says_everything_needed_to_use_it(tmp_path: Path) -> None:
    saved = untrained(training={"steps": 3}, metrics={"a": 0.5}, provenance={"device": "x"})
    path = saved.save(tmp_path / "deep" / FILE_NAME)
    for found in (load(path), load(str(path.parent)), kc_interp.load(path)):
        assert found.spec == saved.spec and found.task == ListOps(("SUM",), depth=1)
        assert (found.training, found.metrics, found.provenance) == ({"steps": 3}, {"a": 0.5}, {"device": "x"})
        assert found.path == path and found.n_ctx == found.task.max_length
        assert found.params.keys() == saved.params.keys()
        for name, value in saved.params.items():
            assert torch.equal(found.params[name], value)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    described = {"training": {"b": 1, "a": [1.5, None]}}
    first = untrained(**described).save(tmp_path / "1").read_bytes()
    other_order = {"training": {"a": [1.5, None], "b": 1}}
    assert untrained(**other_order).save(tmp_path / "2").read_bytes() == first
    assert load(tmp_path / "1").save(tmp_path / "3").read_bytes() == first
    header = json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])
    assert list(header["__metadata__"]) == [KEY]


def test_a_number_that_is_not_finite_is_stored_as_missing(tmp_path: Path) -> None:
    saved = untrained(metrics={"loss": float("nan"), "all": [float("inf"), 1.0]}).save(tmp_path / FILE_NAME)
    assert load(saved).metrics == {"loss": None, "all": [None, 1.0]}


@pytest.mark.parametrize("spec", [SPEC, TIED], ids=["two layers", "one block tied four times"])
def test_it_opens_as_a_hookedtransformer_with_equal_logits(spec: RunSpec, tmp_path: Path) -> None:
    found = load(untrained(spec).save(tmp_path / FILE_NAME))
    ids = torch.randint(0, len(found.tokens), (3, 7), generator=torch.Generator().manual_seed(0))
    mine = forward(found.stacked, spec.model, ids[None])[0]
    torch.testing.assert_close(found.hooked()(ids), mine, atol=1e-5, rtol=1e-5)


def test_a_tied_block_is_stored_and_counted_once(tmp_path: Path) -> None:
    found = load(untrained(TIED).save(tmp_path / FILE_NAME))
    assert {name.split(".")[1] for name in found.params if name.startswith("blocks.")} == {"0"}
    assert found.parameter_count == sum(value.numel() for value in found.params.values())
    model = found.hooked()
    assert len(model.blocks) == 4 and len({id(block.attn.W_Q) for block in model.blocks}) == 1


def test_metrics_are_added_to_a_copy(path: Path) -> None:
    found = load(path)
    assert found.with_metrics({"a": 1}).metrics == {"a": 1} and found.metrics == {}


def described(**changes: Any) -> dict[str, Any]:
    plain = to_plain(SPEC)
    symbols = list(untrained().tokens.symbols)
    return {"schema": 1, "kind": "checkpoint", "spec": plain, "symbols": symbols, **changes}


def rewritten(tensors: Callable[[dict[str, torch.Tensor]], Any] = dict, **changes: Any) -> Callable[[Path], None]:
    """A file of ours with other tensors or another description; a description of None is left out."""

    def write(path: Path) -> None:
        says = {key: value for key, value in described(**changes).items() if value is not None}
        path.write_bytes(pack(tensors(dict(untrained().params)), says))

    return write


def foreign(metadata: dict[str, str] | None) -> Callable[[Path], None]:
    return lambda path: safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata)


def without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda params: {key: value for key, value in params.items() if key != name}


def spec_with(**changes: Any) -> dict[str, Any]:
    plain = to_plain(SPEC)
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            plain[part][name] = value
        else:
            plain[part] = value
    return plain


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "no such file; expected a .safetensors checkpoint or a run directory"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
    "text": (lambda path: path.write_text("hello, this is no checkpoint at all"), "not a whole safetensors file"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps({"a": [1] * 100})), "not a whole safetensors file"),
    "torch.save": (lambda path: torch.save({"a": torch.zeros(2)}, path), "not a whole safetensors file"),
    "not ours": (foreign(None), "a safetensors file, but not one that kc-interp wrote (no 'kc_interp' metadata)"),
    "not ours, with metadata": (foreign({"format": "pt"}), "not one that kc-interp wrote"),
    "no JSON": (foreign({KEY: "{"}), "its 'kc_interp' metadata does not read as a description"),
    "JSON, no description": (foreign({KEY: "[1]"}), "does not read as a description"),
    "no schema": (rewritten(schema=None), "does not read as a description ('schema')"),
    "a newer schema": (rewritten(schema=2), "written with schema 2, this version reads schema 1; open it with"),
    "another kind": (rewritten(kind="train-state"), "a 'train-state' file, expected a 'checkpoint'"),
    "no settings": (rewritten(spec=None), "its description lacks 'spec'"),
    "settings that are none": (rewritten(spec=[1]), "spec: expected a table of settings, found [1]"),
    "an unknown setting": (rewritten(spec=spec_with(model__n_head=4)), "unknown key 'n_head'; did you mean 'n_heads'?"),
    "a task not installed": (rewritten(spec=spec_with(task__name="listop")), "no task 'listop' is installed; did you"),
    "task settings that do not fit": (
        rewritten(spec=spec_with(task__settings={"operations": ["SUN"]})),
        "unknown operation 'SUN'; did you mean 'SUM'?",
    ),
    "other symbols": (rewritten(symbols=["a", "b"]), "its symbols ['a', 'b'] are not those of its task here"),
    "a context too short": (rewritten(spec=spec_with(model__n_ctx=3)), "n_ctx is 3, but the longest sequence of this"),
    "a tensor missing": (
        rewritten(without("unembed.b_U")),
        "tensor 'unembed.b_U' has shape none: it is missing, its settings call for (15,)",
    ),
    "a tensor too many": (
        rewritten(lambda params: {**params, "extra": torch.zeros(3)}),
        "tensor 'extra' has shape (3,), its settings call for no such tensor",
    ),
    "another shape": (
        rewritten(spec=spec_with(model__d_model=16)),
        "tensor 'blocks.0.attn.W_K' has shape (2, 8, 4), its settings call for (2, 16, 8)",
    ),
    "settings of a giant": (rewritten(spec=spec_with(model__d_model=10**12)), "its settings call for (2, 10000000000"),
}


@pytest.mark.usefixtures("no_tensor")
@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=list(BAD))
def test_a_bad_file_is_refused_with_path_and_reason_before_a_tensor_is_read(
    spoil: Callable[[Path], Any], message: str, path: Path
) -> None:
    spoil(path)
    with pytest.raises(CheckpointError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)


@pytest.mark.usefixtures("no_tensor")
def test_a_file_cut_short_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (*range(0, 20), *range(20, header, 97), header - 1, header, header + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            load(path)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the folder holds no model.safetensors; is the run finished\? "):
        load(tmp_path)


def test_nothing_is_ever_unpickled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was run",))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError):
        load(path)


def test_a_context_too_short_is_refused_by_what_it_must_read() -> None:
    task = ListOps()
    short = dataclasses.replace(SPEC, model=ModelSpec(n_ctx=59))
    with pytest.raises(
        SpecError, match="n_ctx is 59, but the longest sequence of this task has 60 tokens; raise n_ctx"
    ):
        context_length(short, task)
    crops = RunSpec(model=ModelSpec(n_ctx=100), train=TrainSpec(batches="stream", crop=128))
    with pytest.raises(SpecError, match="n_ctx is 100, but the longest sequence of this task has 128"):
        context_length(crops, task)
    assert context_length(RunSpec(model=ModelSpec(n_ctx=80)), task) == 80
    assert context_length(RunSpec(train=TrainSpec(batches="stream")), task) == 128


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        untrained(metrics={"a": 1}).save(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_the_module_of_tensors_is_the_one_that_is_watched() -> None:
    """`no_tensor` proves something only while `load` reads through this very function."""
    assert checkpoint.safetensors.torch is safetensors.torch
