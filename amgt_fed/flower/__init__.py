"""Everything that touches Flower's types; its private modules only in compat.py.

For Flower apps of your own: `CompressedStrategy` and `compression_mod`, imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amgt_fed.flower.compression import CompressedStrategy
    from amgt_fed.flower.compression_client import compression_mod

_HOMES = {
    "CompressedStrategy": "amgt_fed.flower.compression",
    "compression_mod": "amgt_fed.flower.compression_client",
}

__all__ = ["CompressedStrategy", "compression_mod"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'amgt_fed.flower' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
