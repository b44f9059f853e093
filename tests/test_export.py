"""A checkpoint in another tool's file gives the same logits there, opened by the very lines that the command prints."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import kc_interp
from kc_interp.checkpoint import FILE_NAME, Checkpoint, peek
from kc_interp.errors import CheckpointError
from kc_interp.export import FORMATS, Export, hooked, native
from kc_interp.model import lens, parameters
from kc_interp.model.forward import forward
from kc_interp.spec import ModelSpec
from tests.test_checkpoint import SPEC, TIED, untrained
from tests.test_cli import run
from tests.test_forward import SHAPES, parameters_of

ROOT = Path(__file__).parents[1]
RELEASE = "4.3.0"
DEPRECATED = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")


def noisy(model: ModelSpec, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """A checkpoint of this shape with nothing at its initial value but what is frozen."""
    fresh = untrained(dataclasses.replace(SPEC, model=model))
    generator = torch.Generator().manual_seed(1)
    params = {
        name: (
            value if parameters.is_frozen(name, model) else value + 0.2 * torch.randn(value.shape, generator=generator)
        )
        for name, value in fresh.params.items()
    }
    return dataclasses.replace(fresh, params={name: value.to(dtype) for name, value in params.items()})


def asked(checkpoint: Checkpoint) -> torch.Tensor:
    """Random tokens that fill the context."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, len(checkpoint.tokens), (5, checkpoint.n_ctx), generator=generator)


def answered(checkpoint: Checkpoint, tokens: torch.Tensor) -> torch.Tensor:
    return forward(checkpoint.stacked, checkpoint.spec.model, tokens[None])[0]


def exported(checkpoint: Checkpoint, to: str, folder: Path) -> str:
    """The Python that the command prints for a run with this checkpoint, in `folder`/run."""
    checkpoint.save(folder / "run" / FILE_NAME)
    return run("export", "--model", "run", "--to", to, cwd=folder).stdout


@DEPRECATED
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_printed_lines_open_the_same_model(
    shape: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In TransformerLens 3.9, which has both HookedTransformer and its successor."""
    checkpoint = noisy(SHAPES[shape])
    python = exported(checkpoint, to, tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(python, found)
    assert type(found["model"]).__name__ == ("TransformerBridge" if to.endswith("4") else "HookedTransformer")
    tokens = asked(checkpoint)
    torch.testing.assert_close(found["model"](tokens), answered(checkpoint, tokens), atol=1e-5, rtol=1e-5)
    last = answered(checkpoint, found["tokens"])[:, -1]
    torch.testing.assert_close(found["logits"][:, -1], last, atol=1e-5, rtol=1e-5)
    assert f"blocks.{checkpoint.spec.model.depth - 1}.attn.hook_pattern" in found["cache"]
    assert found["model"].cfg.n_ctx == checkpoint.n_ctx


@DEPRECATED
@pytest.mark.parametrize("to", FORMATS)
def test_a_float64_model_stays_one(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = noisy(SHAPES["two layers, four heads"], torch.float64)
    python = exported(checkpoint, to, tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(python, found)
    tokens = asked(checkpoint)
    torch.testing.assert_close(found["model"](tokens), answered(checkpoint, tokens), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_state_dicts_have_the_names_that_the_models_have(shape: str) -> None:
    """And the unembedding's bias is among them: it is not left at zero there."""
    from transformer_lens.model_bridge import TransformerBridge

    spec = SHAPES[shape]
    params = parameters_of(spec, seed=1)
    bridge = TransformerBridge.boot_native(lens.config(params, spec))
    assert native(params, spec).keys() == bridge.state_dict().keys()
    bridge.load_state_dict(native(params, spec))
    assert torch.equal(bridge.unembed.b_U, params["unembed.b_U"])
    assert hooked(params, spec).keys() == lens.hooked(params, spec).state_dict().keys()


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    checkpoint = noisy(TIED.model)
    exported(checkpoint, "transformer-lens-4", tmp_path)
    about, shapes = peek(tmp_path / "run" / "transformer-lens-4.safetensors", kind="transformer-lens-4")
    assert about["config"]["n_layers"] == 4 and about["config"]["n_ctx"] == checkpoint.n_ctx
    assert about["symbols"] == list(checkpoint.tokens.symbols) and about["end"] == checkpoint.tokens.end
    assert shapes["blocks.3.attn.q.weight"] == (8, 8) and shapes["unembed.bias"] == (len(about["symbols"]),)
    assert about["spec"]["model"]["repeat"] == 4
    assert checkpoint.encode(about["question"]).numel() == len(about["question"].split())  # a question of its task


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = noisy(TIED.model)
    first, other = (Export.of(checkpoint, "transformer-lens-4").save(tmp_path / name) for name in "ab")
    assert first.read_bytes() == other.read_bytes()


def test_what_is_not_as_it_was_is_said(tmp_path: Path) -> None:
    noisy(SHAPES["the paper's: one block tied five times"]).save(tmp_path / "tied.safetensors")
    done = run("export", "--model", "tied.safetensors", cwd=tmp_path)
    assert "note: one block is applied 5 times here; the file holds 5 blocks" in done.stderr
    assert "note: the q, k and v biases, frozen at zero here, are trained there" in done.stderr
    assert "note: the unembedding's bias is kept in a buffer there" in done.stderr
    assert (tmp_path / "transformer-lens-4.tied.safetensors").is_file()
    plain = run("export", "--model", "tied.safetensors", "--to", "transformer-lens-3", "-q", cwd=tmp_path)
    assert plain.stderr == ""


def test_json_is_one_object_with_everything(tmp_path: Path) -> None:
    noisy(SPEC.model).save(tmp_path / "run" / FILE_NAME)
    said = json.loads(run("export", "--model", "run", "--out", "deep/m.safetensors", "--json", cwd=tmp_path).stdout)
    assert said["file"] == "deep/m.safetensors" and (tmp_path / "deep" / "m.safetensors").is_file()
    assert said["tensors"]["pos_embed.weight"] == [said["config"]["n_ctx"], 8]
    assert 'pip install "transformer-lens>=4,<5"' in said["python"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "nothing"], "nothing: no such file"),
        (["--to", "transformerlens-4"], "--to transformerlens-4: nothing is exported to that; did you mean 'transformer-lens-4'?"),
        (["--to", "onnx"], "--to onnx: nothing is exported to that; known: transformer-lens-3, transformer-lens-4"),
        (["--out", "mine.safetensors"], "mine.safetensors: already there; choose another --out, or replace it with --force"),
        (["--out", "run"], "run: that is a folder; --out names the file to write"),
        (["--out", "mine.safetensors/x"], "mine.safetensors is a file; choose another folder"),
        (["--out", "run/../run/model.safetensors", "--force"], "that is the model itself; choose another --out"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_message_and_changes_nothing(arguments: list[str], says: str, tmp_path: Path) -> None:
    before = untrained().save(tmp_path / "run" / FILE_NAME).read_bytes()
    (tmp_path / "mine.safetensors").write_text("mine")
    given = arguments if "--model" in arguments else ["--model", "run", *arguments]
    done = run("export", *given, cwd=tmp_path, check=1)
    assert says in done.stderr and done.stdout == "" and "Traceback" not in done.stderr
    assert (tmp_path / "mine.safetensors").read_text() == "mine"
    assert (tmp_path / "run" / FILE_NAME).read_bytes() == before
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_a_file_is_replaced_when_told_and_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = untrained()
    exported(checkpoint, "transformer-lens-4", tmp_path)
    run("export", "--model", "run", cwd=tmp_path, check=1)
    run("export", "--model", "run", "--force", cwd=tmp_path)
    with pytest.raises(CheckpointError, match="a 'transformer-lens-4' file, expected a 'checkpoint'"):
        kc_interp.load(tmp_path / "run" / "transformer-lens-4.safetensors")


def test_exporting_imports_no_transformer_lens(tmp_path: Path) -> None:
    untrained().save(tmp_path / FILE_NAME)
    code = (
        "import sys\nfrom kc_interp.cli import app\n"
        f"try: app(['export', '-q', '--model', {str(tmp_path)!r}])\nexcept SystemExit: pass\n"
        "print([m for m in ('transformer_lens', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("[]")
    assert (tmp_path / "transformer-lens-4.safetensors").is_file()


@pytest.fixture
def newest(tmp_path: Path) -> Iterator[Path]:
    """The Python of an environment with TransformerLens 4, gone afterwards (some 2 GB); skips where pip reaches no index."""
    folder = tmp_path / "environment"
    tested = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(line for line in tested if not line.startswith("transformer-lens==")))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wanted = f"transformer-lens=={RELEASE}"
    seen = subprocess.run([*pip, "download", "-q", "--no-deps", "-d", tmp_path, wanted], capture_output=True, text=True)
    if seen.returncode:
        pytest.skip(f"pip cannot get {wanted} here: {seen.stderr.strip().splitlines()[-1]}")
    try:
        venv.create(folder, symlinks=os.name != "nt")
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        subprocess.run([*pip, "--python", python, "install", "-q", "-c", constraints, wanted], check=True)
        yield python
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_newest_transformer_lens_opens_every_shape_with_the_same_logits(newest: Path, tmp_path: Path) -> None:
    """With the printed lines, in an environment of its own; and what its own converter makes of our parameters is the file."""
    for index, spec in enumerate(SHAPES.values()):
        folder = tmp_path / str(index)
        checkpoint = noisy(spec)
        python = exported(checkpoint, "transformer-lens-4", folder)
        tokens = asked(checkpoint)
        given = {"tokens": tokens, "logits": answered(checkpoint, tokens).contiguous()}
        safetensors.torch.save_file(given, folder / "given.safetensors")
        run("export", "--model", "run", "--to", "transformer-lens-3", cwd=folder)
        (folder / "open_it.py").write_text(python + CHECKS)
        done = subprocess.run([newest, "open_it.py"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed = done.stdout.strip().splitlines()
        assert printed[0] in checkpoint.tokens.symbols
        assert printed[1:] == [RELEASE, "equal"]


CHECKS = """

from importlib.metadata import version
from safetensors.torch import load_file
from transformer_lens.conversion_utils import convert_tl_checkpoint

given = load_file("given.safetensors")
torch.testing.assert_close(model(given["tokens"]), given["logits"], atol=1e-5, rtol=1e-5)
assert model.state_dict().keys() == state.keys()
theirs = convert_tl_checkpoint(load_file("run/transformer-lens-3.safetensors"), model.cfg)
assert theirs.keys() == state.keys() and all(torch.equal(theirs[name], state[name]) for name in state)
print(version("transformer-lens"))
print("equal")
"""
