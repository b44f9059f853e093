"""Batched exact patches equal `transformer_lens.patching`, one hooked forward a patch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import pytest
import torch
import transformer_lens.patching as reference_patching

from kc_interp.model import parameters, patch
from kc_interp.model.lens import hooked
from kc_interp.spec import ModelSpec
from tests.test_forward import SHAPES, parameters_of, random_tokens

REFERENCE: dict[patch.Site, Callable[..., torch.Tensor]] = {
    "resid_pre": reference_patching.get_act_patch_resid_pre,
    "resid_mid": reference_patching.get_act_patch_resid_mid,
    "attn_out": reference_patching.get_act_patch_attn_out,
    "mlp_out": reference_patching.get_act_patch_mlp_out,
    "z": reference_patching.get_act_patch_attn_head_out_by_pos,
}


@pytest.mark.parametrize("tokens_a_call", [1, 60, 16_384])
@pytest.mark.parametrize("site", patch.SITES)
@pytest.mark.parametrize("name", ["two layers, four heads", "two blocks, applied twice", "no LayerNorm"])
def test_every_patch_equals_transformer_lens(
    site: patch.Site, name: str, tokens_a_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch, "_TOKENS_A_CALL", tokens_a_call)
    spec = SHAPES[name]
    params = parameters_of(spec, seed=6)
    base, source = random_tokens(3, 8, seed=1), random_tokens(3, 8, seed=2)
    model = hooked(params, spec)
    _, cache = model.run_with_cache(source)
    with contextlib.redirect_stderr(io.StringIO()):
        expected = REFERENCE[site](model, base, cache, lambda logits: logits[:, -1, 4].sum())
    stacked = parameters.stack([params])
    logits = patch.patch(patch.Run.of(stacked, spec, base), patch.Run.of(stacked, spec, source), site)
    mine = logits[..., 4].sum(-1)
    mine = mine.permute(0, 2, 1) if site == "z" else mine[:, 0]
    assert mine.shape == expected.shape
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


def test_patching_the_first_stream_at_the_one_differing_position_gives_the_other_run() -> None:
    spec = ModelSpec(d_model=16)
    stacked = parameters.stack([parameters_of(spec, seed=7)])
    base, source = random_tokens(5, 9, seed=3), random_tokens(5, 9, seed=3)
    source[:, 4] = (source[:, 4] + 1) % 13
    runs = patch.Run.of(stacked, spec, base), patch.Run.of(stacked, spec, source)
    logits = patch.patch(*runs, "resid_pre")
    torch.testing.assert_close(logits[0, 0, 4], runs[1].logits, atol=1e-5, rtol=1e-5)
    for elsewhere in (0, 3, 5, 8):
        torch.testing.assert_close(logits[0, 0, elsewhere], runs[0].logits, atol=1e-5, rtol=1e-5)
