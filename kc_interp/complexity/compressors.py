"""Compressed size without headers: four compressors at their strongest, less what each makes of nothing.

A container's fixed bytes say nothing of the content, so raw formats are used where there are any (deflate, LZMA,
magicless zstd), and the size of an empty input is subtracted from all. bz2 keeps tables of some twenty bytes that an
empty input does not have: it is the weakest of the four on short programs.
"""

from __future__ import annotations

import bz2
import functools
import lzma
import zlib
from collections.abc import Callable, Mapping

import zstandard

from kc_interp.errors import SpecError, did_you_mean


def _deflate(data: bytes) -> int:
    compressor = zlib.compressobj(level=9, method=zlib.DEFLATED, wbits=-15)
    return len(compressor.compress(data)) + len(compressor.flush())


def _bz2(data: bytes) -> int:
    return len(bz2.compress(data, compresslevel=9))


def _lzma(data: bytes) -> int:
    # A preset's own dictionary of 64 MiB would be allocated for every program of a few hundred bytes.
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))


def _zstd(data: bytes) -> int:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        22,
        source_size=max(1, len(data)),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return len(zstandard.ZstdCompressor(compression_params=parameters).compress(data))


_RAW: Mapping[str, Callable[[bytes], int]] = {"deflate": _deflate, "bz2": _bz2, "lzma": _lzma, "zstd": _zstd}

COMPRESSORS = tuple(_RAW)
"""Raw deflate (the paper's gzip without its header), bz2, raw LZMA, magicless zstd."""


@functools.cache
def _header(compressor: str) -> int:
    return _RAW[compressor](b"")


def compressed_bytes(data: bytes, compressor: str) -> int:
    """The bytes that `data` takes beyond what the compressor makes of an empty input. Raises SpecError.

    >>> compressed_bytes(b"", "lzma"), compressed_bytes(bytes(1000), "deflate") < 20
    (0, True)
    """
    if compressor not in _RAW:
        raise SpecError(f"no compressor {compressor!r}{did_you_mean(compressor, COMPRESSORS)}")
    return _RAW[compressor](data) - _header(compressor)
