"""Does a model compute with residues? Frequencies of the sum, losses of parts of the logits, clock against pizza.

Every step of one template is run, each combination of m operands in Z_n once. What depends on the sum of the operands
mod n alone has only the frequencies (k, …, k) of the Fourier transform over Z_n^m: its *spectrum* is the share of the
whole variance at each k = 1 … n//2. A frequency below n/2 has two characters, cosine and sine, n/2 only one (parity).

*Restricted* and *excluded loss* (Nanda et al. 2023, https://arxiv.org/abs/2301.05217): the loss when the logits keep
only these components, and when they lose them. *Distance irrelevance* and *gradient symmetricity* (Zhong et al. 2023,
https://arxiv.org/abs/2306.17844) tell two ways of adding on a circle apart: a clock multiplies the operands' rotations,
a pizza reads the mean of their points, which is short where they lie apart.

Their moduli are odd. For an even one the sum and the difference of two operands have the same parity, so that half of
the cells (sum, difference) are empty and each other one is filled twice: inputs are grouped by difference instead, and
a group is compared with inputs of its own parity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError
from kc_interp.model.forward import blocks, embed, unembed
from kc_interp.spec import ModelSpec

FEWEST_DIGITS = 4
"""With fewer, every relabelling of the digits keeps the arithmetic."""

_CONSTANT = 1e-10
"""A variance below this share of the mean square is rounding, in float32."""


def power(columns: Float[np.ndarray, "*batch digit column"]) -> Float[np.ndarray, "*batch frequency column"]:
    """Each column's variance (summed over digits) at each frequency 1 … n//2; over frequencies it sums to the whole."""
    digits = columns.shape[-2]
    found = np.abs(np.fft.rfft(columns, axis=-2)[..., 1:, :]) ** 2 / digits
    both_characters = np.full(digits // 2, 2.0)
    if digits % 2 == 0:
        both_characters[-1] = 1.0
    return np.asarray(found * both_characters[:, None])


def relabellings(digits: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, "relabelling digit"]:
    """Random values of the digits that do not keep their arithmetic: permutations other than x -> u x + v.

    Raises ProbeError for fewer than four digits, which have no others.
    """
    if digits < FEWEST_DIGITS:
        raise ProbeError(
            f"{digits} digits have no relabelling that changes their arithmetic, so that nothing can be compared with "
            f"chance; at least {FEWEST_DIGITS} are needed"
        )
    found = np.empty((0, digits), dtype=np.int64)
    while len(found) < count:
        drawn = rng.permuted(np.tile(np.arange(digits), (count, 1)), axis=1)
        line = drawn[:, :1] + np.arange(digits) * (drawn[:, 1:2] - drawn[:, :1])
        found = np.concatenate([found, drawn[(drawn != line % digits).any(axis=1)]])
    return found[:count]


def sum_spectrum(
    values: Float[np.ndarray, "example feature"], sums: Int[np.ndarray, "labelling example"], modulus: int
) -> Float[np.ndarray, "labelling frequency"] | None:
    """The share of the values' variance at each frequency of the sum, for one or more labellings of the operands.

    Over frequencies it adds up to the share of what depends on the sum mod n alone; values that are random for every
    step have 2 / (n^m - 1) at each frequency, and half of it at n/2. None when nothing varies. Raises ProbeError unless
    every residue of the sum occurs equally often.
    """
    if (np.stack([np.bincount(own % modulus, minlength=modulus) for own in sums]) * modulus != len(values)).any():
        raise ProbeError("some sums occur more often than others; a spectrum needs every combination of operands once")
    centred = values - values.mean(axis=0)
    whole = float((centred**2).sum())
    if whole <= _CONSTANT * float((values**2).sum()):
        return None
    # Inputs with the same sums by every labelling, such as one multiset in another order, go together.
    kinds, kind = np.unique(sums.T.astype(np.int32), axis=0, return_inverse=True)
    order = np.argsort(kind.reshape(-1), kind="stable")
    pooled = np.add.reduceat(centred[order], np.searchsorted(kind.reshape(-1)[order], np.arange(len(kinds))))
    residues = np.arange(modulus)[:, None]
    means = np.stack([(residues == own % modulus).astype(np.float64) @ pooled for own in kinds.T])
    means = means * modulus / len(values)
    shares = power(means).sum(axis=-1) * (len(values) / modulus) / whole
    return np.where(shares > 1e-12, shares, 0.0)


def key_frequencies(shares: Float[np.ndarray, " frequency"], hold: float) -> tuple[int, ...]:
    """The fewest frequencies that hold the share `hold` of what the sum explains, strongest first."""
    order = np.argsort(-shares, kind="stable")
    enough = np.cumsum(shares[order]) >= hold * shares.sum() - 1e-12
    return tuple((order[: int(enough.argmax()) + 1] + 1).tolist())


@dataclass(frozen=True)
class Parts:
    """Logits with the components of the sum at some frequencies alone (plus the mean), and without these."""

    restricted: Float[np.ndarray, "example d_vocab"]
    excluded: Float[np.ndarray, "example d_vocab"]


def parts(
    logits: Float[np.ndarray, "example d_vocab"],
    sums: Int[np.ndarray, " example"],
    modulus: int,
    frequencies: Sequence[int],
) -> Parts | None:
    """The two parts, by least squares over these examples: over all steps that is the Fourier projection.

    Held-out steps are thus split by themselves; what seen ones of the same sum have lends them nothing. None when there
    are fewer than twice as many examples as components.
    """
    angles = 2 * np.pi * np.outer(np.arange(modulus), frequencies) / modulus
    characters = np.concatenate([np.cos(angles), np.sin(angles)[:, [2 * k != modulus for k in frequencies]]], axis=1)
    if len(logits) < 2 * (1 + characters.shape[1]):
        return None
    waves, mean = characters[sums % modulus], logits.mean(axis=0)
    waves = waves - waves.mean(axis=0)
    inverse = np.linalg.pinv(waves.T @ waves, rcond=1e-10, hermitian=True)
    removed = waves @ (inverse @ (waves.T @ (logits - mean)))
    return Parts(mean + removed, logits - removed)


def loss_nats(logits: Float[np.ndarray, "example d_vocab"], answers: Int[np.ndarray, " example"]) -> float:
    """Mean cross-entropy over the whole vocabulary."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = shifted[np.arange(len(answers)), answers]
    return float((np.log(np.exp(shifted).sum(axis=1)) - right).mean())


def pairs_of(operands: int) -> tuple[tuple[int, int], ...]:
    """The pairs of operands by place."""
    return tuple(combinations(range(operands), 2))


def distance_irrelevance(
    correct: Float[np.ndarray, " example"], operands: Int[np.ndarray, "example operand"], modulus: int
) -> dict[tuple[int, int], float | None]:
    """For each pair of operands: how little their difference decides the logit of the right answer (Zhong et al. 2023).

    The standard deviation among inputs of one difference over that among inputs of any difference of its parity (of
    any at all for an odd modulus), all other operands fixed; the mean over differences and over the others. 1: the
    difference says nothing (a clock); 0: it says everything (a pizza). None where the right logit is always the same.
    Noise has almost 1, too.
    """
    found: dict[tuple[int, int], float | None] = {}
    tolerance = 1e-5 * float(np.abs(correct).max(initial=0.0))
    for i, j in pairs_of(operands.shape[1]):
        others = [operands[:, place] for place in range(operands.shape[1]) if place not in (i, j)]
        rest = np.zeros(len(operands), dtype=np.int64)
        for other in others:
            rest = rest * modulus + other
        difference = (operands[:, i] - operands[:, j]) % modulus
        parity = difference % 2 if modulus % 2 == 0 else np.zeros_like(difference)
        group = rest * modulus + difference
        within, whole = _spread(correct, group), _spread(correct, rest * 2 + parity)
        first = np.unique(group, return_index=True)[1]
        reference = whole[(rest * 2 + parity)[first]]
        varies = reference > tolerance
        ratios = within[group[first]][varies] / reference[varies]
        found[i, j] = float(ratios.mean()) if varies.any() else None
    return found


def _spread(values: Float[np.ndarray, " example"], group: Int[np.ndarray, " example"]) -> Float[np.ndarray, " group"]:
    """The standard deviation in each group, by its number; 0 for a number that is none."""
    count = np.maximum(np.bincount(group), 1)
    centred = values - (np.bincount(group, values) / count)[group]
    return np.asarray(np.sqrt(np.bincount(group, centred**2) / count))


def mean_of(by_pair: Mapping[tuple[int, int], float | None]) -> float | None:
    """The mean over the pairs that have a value; None when none has."""
    values = [value for value in by_pair.values() if value is not None]
    return float(np.mean(values)) if values else None


def operand_gradients(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    ids: Int[Tensor, "example pos"],
    places: Sequence[int],
    targets: Sequence[int],
) -> Float[Tensor, "example target operand d_model"]:
    """The gradient of each target's logit at the last position in what is embedded at the operands' places."""
    found = []
    with torch.enable_grad():
        resid = embed(params, ids[None]).detach().requires_grad_()
        logits = unembed(params, spec, blocks(params, spec, resid, answer_only=True))[0, :, -1]
        for index, target in enumerate(targets):
            keep = index + 1 < len(targets)
            (gradient,) = torch.autograd.grad(logits[:, target].sum(), resid, retain_graph=keep)
            found.append(gradient[0][:, list(places)])
    return torch.stack(found, dim=1)


def symmetricity(
    gradients: Float[Tensor, "example target operand d_model"], digits: Float[Tensor, "digit d_model"]
) -> dict[tuple[int, int], Float[np.ndarray, "example target"]]:
    """Cosines between the gradients in two operands, by pair; their mean is gradient symmetricity (Zhong et al. 2023).

    1: the operands act through one function of them both, such as their mean (a pizza). A clock has a mean of 0: its
    cosine turns with the operands' difference. NaN where a gradient is zero and has no direction. Only directions in
    which embedded `digits` differ count: with fewer digits than coordinates the others, a position's among them, are
    open to no operand (with more, as in that paper, all count).
    """
    differences = digits.detach().double() - digits.detach().double().mean(dim=0)
    _, sizes, directions = torch.linalg.svd(differences, full_matrices=False)
    inside = gradients.detach().double() @ directions[sizes > 1e-6 * sizes[0].clamp(min=1e-30)].mT
    norms = inside.norm(dim=-1)
    # Where attention is all but certain, and at a ReLU's hinge, rounding leaves gradients that mean nothing.
    there = norms > 1e-6 * norms.max().clamp(min=1e-30)
    unit = inside / torch.where(there, norms, torch.nan)[..., None]
    return {(i, j): (unit[:, :, i] * unit[:, :, j]).sum(-1).cpu().numpy() for i, j in pairs_of(gradients.shape[2])}


def mean_cosine(cosines: Float[np.ndarray, "*some"]) -> float | None:
    """The mean of those that exist."""
    there = np.isfinite(cosines)
    return float(cosines[there].mean()) if there.any() else None
