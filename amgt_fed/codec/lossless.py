"""Float32 without loss: byte planes under zstandard, for budgets that no quantizer can meet."""

from __future__ import annotations

import numpy as np
import zstandard

from amgt_fed.codec.dense import ChunkPieces
from amgt_fed.codec.errors import CorruptPayload
from amgt_fed.codec.opened import Opened
from amgt_fed.layout import Float32Vector


def write(values: Float32Vector) -> bytes:
    """Four planes, lowest byte first; exponents lie together and compress, mantissas do not."""
    planes = values.astype("<f4").view(np.uint8).reshape(-1, 4).T
    return deflate(np.ascontiguousarray(planes).tobytes())


def read(data: memoryview, count: int) -> Opened:
    """Exactly `count` finite values, put together piece by piece; raises `CorruptPayload`."""
    planes = np.frombuffer(inflate(data, 4 * count), np.uint8).reshape(4, count)

    def values(start: int, stop: int) -> Float32Vector:
        return np.ascontiguousarray(planes[:, start:stop].T).view("<f4").reshape(-1).astype(np.float32, copy=False)

    opened = ChunkPieces(count, values)
    if not all(np.isfinite(piece.values).all() for piece in opened.pieces()):
        raise CorruptPayload("lossless body holds a value that is not finite")
    return opened


def deflate(data: bytes) -> bytes:
    """zstandard, level 1, without the stated size: the reader knows it."""
    return zstandard.ZstdCompressor(level=1, write_content_size=False).compress(data)


def inflate(data: memoryview, size: int) -> bytes:
    """Decompress to exactly `size` bytes, never taking more memory than that, whatever the data claims."""
    try:
        out = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data).read(size + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise CorruptPayload(f"zstandard planes are damaged: {error}") from None
    if len(out) != size:
        raise CorruptPayload(f"zstandard planes hold {len(out)} bytes; {size} were stated")
    return out
