"""Code against data: two series mod 10 whose programs are equally long, one of which no compressor can shorten.

The example of the paper's rebuttal: program size sees no difference, data entropy sees nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kc_interp.complexity.code import sizes
from kc_interp.complexity.compressors import compressed_bytes
from kc_interp.complexity.library import ENTRY, Program, shipped
from kc_interp.errors import SpecError

SERIES = ("arithmetic", "pseudorandom")


@dataclass(frozen=True)
class SeriesComplexity:
    """One series under both predictors: the program's size, and the data's bits per term."""

    name: str
    source_bytes: int
    code_bytes: int
    ast_nodes: int
    bytecode_bytes: int
    data_bits_per_term: float


def series_complexity(terms: int = 4_000, compressor: str = "deflate") -> tuple[SeriesComplexity, ...]:
    """Both series of `programs/series.py`, side by side. Raises SpecError on fewer than 100 terms."""
    if terms < 100:
        raise SpecError(f"terms is {terms}; a series to compress needs at least 100")
    return tuple(_one(name, terms, compressor) for name in SERIES)


def _one(name: str, terms: int, compressor: str) -> SeriesComplexity:
    library = shipped("series")
    made = Program("series", (name,), (name,), library.text(name) + f"{ENTRY} = {name}\n")
    namespace: dict[str, Callable[[int], list[int]]] = {}
    exec(made.minified, namespace)
    size = sizes(made.minified)
    data = compressed_bytes(bytes(namespace[ENTRY](terms)), compressor)
    return SeriesComplexity(name, size["source"], size[compressor], size["ast"], size["bytecode"], 8 * data / terms)
