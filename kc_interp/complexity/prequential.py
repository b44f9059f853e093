"""Prequential description length from losses already measured (Blier & Ollivier 2018, https://arxiv.org/abs/1802.07044).

The answers are sent block by block: the first by a uniform code, each later one by a model trained on all blocks before
it. A task whose answers are learned from few examples has a short code, whatever the size of the model. Training is
not done here; the losses are plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kc_interp.errors import SpecError


def prequential_bits(block_nats: Sequence[float], *, first_block: int, choices: int) -> float:
    """The code length in bits of all answers.

    `block_nats`: for the second block and each later one the *sum* of -ln p(answer) under the model trained on all
    blocks before it. `first_block`: answers in the first block, each sent uniformly among `choices`.
    Raises SpecError when a loss is negative or not finite.

    >>> prequential_bits([0.0, 0.0], first_block=3, choices=8)
    9.0
    """
    if first_block < 1 or choices < 1:
        raise SpecError(f"first_block is {first_block}, choices is {choices}; both must be at least 1")
    for index, nats in enumerate(block_nats, start=2):
        if not 0 <= nats < math.inf:
            raise SpecError(f"block {index} has a loss of {nats} nats; give the finite sum of -ln p over its answers")
    return first_block * math.log2(choices) + math.fsum(block_nats) / math.log(2)
