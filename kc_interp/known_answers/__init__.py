"""Known-answer models: transformers whose circuit is known, to try on every method that claims to find circuits.

    from kc_interp.testing import known_answer
    known = known_answer("lookup_sum")
    pairs = known.pairs(64, np.random.default_rng(0))   # inputs and their twins, of one template
    base, source = known.streams(pairs)                 # what a method compares
    known.truth                                         # the edges that it is to find

Constructed ones are written by hand, exact by design and the same every time; trained ones (`masked_…`, some seconds,
by seed) have edges that cannot exist. Each also is a subject for any probe: `known.subject()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from kc_interp.errors import ProbeError, did_you_mean
from kc_interp.known_answers.answer import KnownAnswer
from kc_interp.known_answers.constructed import (
    arithmetic_sum,
    composed_table_sum,
    copy_line,
    decoy,
    flat_table_sum,
    lookup_sum,
    max_by_attention,
)
from kc_interp.known_answers.masked import masked_detour, masked_max, masked_sum

__all__ = ["CONSTRUCTED", "TRAINED", "KnownAnswer", "known_answer"]

CONSTRUCTED: Mapping[str, Callable[..., KnownAnswer]] = MappingProxyType(
    {
        made.__name__: made
        for made in (
            max_by_attention,
            lookup_sum,
            flat_table_sum,
            composed_table_sum,
            arithmetic_sum,
            copy_line,
            decoy,
        )
    }
)
"""By name; each takes its modulus."""

TRAINED: Mapping[str, Callable[..., KnownAnswer]] = MappingProxyType(
    {made.__name__: made for made in (masked_max, masked_sum, masked_detour)}
)
"""By name; each takes its seed."""


def known_answer(name: str) -> KnownAnswer:
    """The known-answer model of this name, as it is by default. Raises ProbeError when there is none."""
    made = {**CONSTRUCTED, **TRAINED}
    if name not in made:
        raise ProbeError(f"no known-answer model {name!r}{did_you_mean(name, made)}")
    return made[name]()
