"""The functional forward is HookedTransformer 3.9: logits, every cached activation, gradients, training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kc_interp.model import parameters
from kc_interp.model.forward import Sites, blocks, embed, forward, unembed
from kc_interp.model.lens import hooked
from kc_interp.spec import ModelSpec

D_VOCAB, N_CTX = 13, 17

SHAPES = {
    "two layers, four heads": ModelSpec(d_model=16),
    "the paper's: one block tied five times": ModelSpec(
        d_model=12, n_layers=1, repeat=5, n_heads=1, act="relu", qkv_bias=False, init="narrow", scale_residual=False
    ),
    "two blocks, applied twice": ModelSpec(d_model=12, n_layers=2, repeat=2, n_heads=3),
    "no LayerNorm": ModelSpec(d_model=16, norm="none", act="relu", init="hooked"),
    "its own head and MLP size": ModelSpec(d_model=10, n_layers=1, n_heads=3, d_head=4, d_mlp=7, init=0.3),
}


@pytest.fixture(params=SHAPES, ids=list(SHAPES))
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return SHAPES[request.param]


def parameters_of(spec: ModelSpec, seed: int, dtype: torch.dtype = torch.float32) -> parameters.Parameters:
    """Random everywhere (fresh biases are 0 and gains 1, which would hide a mistake), but zero where frozen."""
    generator = torch.Generator().manual_seed(seed)
    fresh = parameters.initialise(spec, generator, d_vocab=D_VOCAB, n_ctx=N_CTX)
    return {
        name: value.to(dtype)
        if parameters.is_frozen(name, spec)
        else (value + 0.2 * torch.randn(value.shape, generator=generator)).to(dtype)
        for name, value in fresh.items()
    }


def random_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, D_VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def test_logits_and_every_cached_activation_equal_hookedtransformer(spec: ModelSpec) -> None:
    params = parameters_of(spec, seed=1)
    tokens = random_tokens(3, 11)
    reference, cache = hooked(params, spec).run_with_cache(tokens)
    sites = Sites(record=None)
    logits = forward(parameters.stack([params]), spec, tokens[None], sites=sites)
    torch.testing.assert_close(logits[0], reference, atol=1e-5, rtol=1e-5)
    assert set(sites.cache) == set(cache)
    for name, value in cache.items():
        mine = sites.cache[name]
        torch.testing.assert_close(mine[0], value, atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_recording_changes_nothing(spec: ModelSpec) -> None:
    params, tokens = parameters.stack([parameters_of(spec, seed=1)]), random_tokens(1, 3, 11)
    torch.testing.assert_close(
        forward(params, spec, tokens), forward(params, spec, tokens, sites=Sites(record=None)), atol=1e-5, rtol=1e-5
    )


def test_gradients_equal_hookedtransformer(spec: ModelSpec) -> None:
    params = parameters_of(spec, seed=2, dtype=torch.float64)
    tokens = random_tokens(4, 12)
    model = hooked(params, spec)
    loss = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    reference = {name: value.grad for name, value in model.named_parameters()}

    mine = {name: value.clone().requires_grad_() for name, value in parameters.stack([params]).items()}
    logits = forward(mine, spec, tokens[None])
    F.cross_entropy(logits[0, :, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    assert mine.keys() <= reference.keys()
    for name, value in mine.items():
        assert value.grad is not None
        torch.testing.assert_close(value.grad[0], reference[name], atol=1e-12, rtol=1e-9)


def test_an_ensemble_computes_what_its_members_compute_alone(spec: ModelSpec) -> None:
    members = [parameters_of(spec, seed=seed) for seed in range(3)]
    tokens = random_tokens(3, 4, 11)
    together = forward(parameters.stack(members), spec, tokens)
    for run, member in enumerate(members):
        alone = forward(parameters.stack([member]), spec, tokens[run : run + 1])
        torch.testing.assert_close(together[run : run + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_suffix_with_the_past_of_its_prefix_is_the_whole(spec: ModelSpec) -> None:
    params, tokens = parameters.stack([parameters_of(spec, seed=3)]), random_tokens(1, 3, 11)
    sites = Sites(record=None)
    whole = forward(params, spec, tokens, sites=sites)
    cut = 6
    past = {
        index: tuple(sites.cache[f"blocks.{index}.attn.hook_{part}"][:, :, :cut] for part in "kv")
        for index in range(spec.depth)
    }
    resid = embed(params, tokens[:, :, cut:], offset=cut)
    suffix = unembed(params, spec, blocks(params, spec, resid, past=past))  # type: ignore[arg-type]
    torch.testing.assert_close(suffix, whole[:, :, cut:], atol=1e-5, rtol=1e-5)
    answer = unembed(params, spec, blocks(params, spec, resid, past=past, answer_only=True))  # type: ignore[arg-type]
    torch.testing.assert_close(answer, whole[:, :, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_mid", "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"])
def test_an_edit_does_what_a_hook_does_in_hookedtransformer(site: str) -> None:
    spec = SHAPES["two layers, four heads"]
    params, tokens = parameters_of(spec, seed=4), random_tokens(2, 9)

    def halve(value: torch.Tensor, hook: object = None) -> torch.Tensor:
        return value * 0.5

    reference = hooked(params, spec).run_with_hooks(tokens, fwd_hooks=[(site, halve)])
    mine = forward(parameters.stack([params]), spec, tokens[None], sites=Sites(edits={site: halve}))
    torch.testing.assert_close(mine[0], reference, atol=1e-5, rtol=1e-5)
    assert (mine[0] - hooked(params, spec)(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("d_model", [8, 32, 256])
def test_the_papers_shape_has_the_papers_number_of_parameters(d_model: int) -> None:
    spec = ModelSpec(d_model=d_model, n_layers=1, repeat=5, n_heads=1, act="relu", qkv_bias=False, n_ctx=128)
    assert parameters.count(spec, d_vocab=20, n_ctx=128) == 12 * d_model**2 + 180 * d_model + 20
    without_tables = parameters.count(spec, d_vocab=20, n_ctx=128, embedding=False)
    assert without_tables == 12 * d_model**2 + 12 * d_model


def test_a_tied_model_opens_with_shared_parameters_and_a_full_cache() -> None:
    spec = SHAPES["the paper's: one block tied five times"]
    model = hooked(parameters_of(spec, seed=5), spec)
    assert model.blocks[0].attn.W_Q is model.blocks[4].attn.W_Q
    _, cache = model.run_with_cache(random_tokens(1, 5))
    assert "blocks.4.attn.hook_pattern" in cache


def test_initialisation_has_the_stated_spread() -> None:
    for init, expected in {"narrow": 0.02, "wide": 1 / 8, "hooked": 0.1, 0.5: 0.5}.items():
        spec = ModelSpec(d_model=64, init=init)
        params = parameters.initialise(spec, torch.Generator().manual_seed(0), d_vocab=20, n_ctx=60)
        assert params["blocks.0.mlp.W_in"].std().item() == pytest.approx(expected, rel=0.03)
        assert params["blocks.0.mlp.W_out"].std().item() == pytest.approx(expected / 2, rel=0.03)
        assert not params["blocks.0.attn.b_Q"].any()
