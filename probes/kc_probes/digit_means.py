"""The mean representation of each digit: what the residual stream holds on average where a question shows that digit.

A plain mean would carry along the places at which a digit happened to stand, so each vector is read as the sum of a
part for its position and a part for its digit, fitted by least squares; the digit's part, which sums to zero over
digits, is its mean representation. With every digit equally often at every position that is the plain mean. What
surrounds the digit is not removed: the questions are random, so it averages out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int

from kc_interp.errors import ProbeError
from kc_interp.model.forward import Sites, blocks, embed
from kc_interp.spec import ModelSpec

_EXAMPLES_A_CALL = 128


@dataclass(frozen=True)
class DigitFit:
    """The least-squares fit for several weightings of the examples at once, prepared from the digits alone.

    `weights[r, e]` is how often example e counts in weighting r: ones for the estimate, multinomial counts for a
    bootstrap over examples. `digits[e, p]` is the digit (0 … n-1) shown at a position, or -1.
    """

    digits: Int[np.ndarray, "example pos"]
    weights: Float[np.ndarray, "weighting example"]
    count: int
    _solve: Float[np.ndarray, "weighting digit digit"]
    _share: Float[np.ndarray, "weighting pos digit"]

    @classmethod
    def of(
        cls,
        digits: Int[np.ndarray, "example pos"],
        weights: Float[np.ndarray, "weighting example"],
        symbols: Sequence[str],
    ) -> DigitFit:
        """Raises ProbeError when a digit is never shown, or cannot be told from the positions at which it stands."""
        n = len(symbols)
        shown = np.stack([digits == digit for digit in range(n)], axis=-1).astype(np.float32)
        missing = [symbol for digit, symbol in enumerate(symbols) if not shown[..., digit].any()]
        if missing:
            raise ProbeError(f"{len(digits)} questions show no {' '.join(missing)}; raise `chains`")
        counts = einsum(weights, shown, "weighting example, example pos digit -> weighting pos digit")
        at_position = counts.sum(axis=-1, keepdims=True)
        share = np.divide(counts, at_position, out=np.zeros_like(counts), where=at_position > 0)
        normal = counts.sum(axis=1)[:, :, None] * np.eye(n) - einsum(
            counts, share, "weighting pos one, weighting pos other -> weighting one other"
        )
        variances = np.linalg.eigvalsh(normal[0])
        if variances[1] <= 1e-6 * variances[-1]:
            raise ProbeError(
                f"in {len(digits)} questions some digits never stand where others do, so that a digit's part cannot be "
                "told from its position's; raise `chains`, or leave this probe out if the task fixes its digits' places"
            )
        return cls(digits, weights, n, np.linalg.pinv(normal, rcond=1e-8, hermitian=True), share)

    def means(self, resid: Float[np.ndarray, "example pos d_model"]) -> Float[np.ndarray, "weighting digit d_model"]:
        """The digits' mean representations under each weighting."""
        held = np.where(self.digits[..., None] >= 0, resid, 0)
        by_digit = np.zeros((len(held), self.count, held.shape[-1]), dtype=held.dtype)
        example, pos = np.nonzero(self.digits >= 0)
        np.add.at(by_digit, (example, self.digits[example, pos]), held[example, pos])
        digit_sums = _weighted(self.weights, by_digit)
        expected = einsum(
            self._share, _weighted(self.weights, held), "weighting pos digit, weighting pos d -> weighting digit d"
        )
        return np.asarray(self._solve @ (digit_sums - expected))


def _weighted(
    weights: Float[np.ndarray, "weighting example"], values: Float[np.ndarray, "example key d_model"]
) -> Float[np.ndarray, "weighting key d_model"]:
    flat = rearrange(values, "example key d_model -> example (key d_model)")
    return rearrange(weights.astype(flat.dtype) @ flat, "w (key d_model) -> w key d_model", d_model=values.shape[-1])


def residuals(
    params: Mapping[str, torch.Tensor], spec: ModelSpec, ids: Int[torch.Tensor, "1 batch pos"]
) -> list[Float[np.ndarray, "batch pos d_model"]]:
    """The residual stream after every block (`hook_resid_post`), float32 on the CPU."""
    names = [f"blocks.{index}.hook_resid_post" for index in range(spec.depth)]
    parts: list[list[np.ndarray]] = [[] for _ in names]
    with torch.no_grad():
        for chunk in torch.split(ids, _EXAMPLES_A_CALL, dim=1):
            sites = Sites(record=names)
            blocks(params, spec, embed(params, chunk), sites=sites)
            for part, name in zip(parts, names, strict=True):
                part.append(sites.cache[name][0].float().cpu().numpy())
    return [np.concatenate(part) for part in parts]
