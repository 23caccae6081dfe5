"""Codecs by name, and by the number or name in a payload's frame."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeAlias

from amgt_fed.codec.deadzone import Deadzone
from amgt_fed.codec.dense import Dense
from amgt_fed.codec.errors import UnknownCodec, UnsupportedPayload
from amgt_fed.codec.frame import NAMED_CODEC
from amgt_fed.codec.interface import Codec
from amgt_fed.codec.peers_rotation import Eden, PowerSgd
from amgt_fed.codec.peers_scalar import Float16, Int8, Sign
from amgt_fed.codec.peers_sparse import Qsgd, Stc, TopK
from amgt_fed.codec.pipeline import Amgt
from amgt_fed.codec.subspace import SubspaceCodec
from amgt_fed.codec.unbiased import Unbiased

CodecFactory: TypeAlias = Callable[..., Codec]
ENTRY_POINT_GROUP = "amgt_fed.codecs"


_BUILT_IN: dict[str, CodecFactory] = {
    factory.name: factory
    for factory in (
        *(Amgt, SubspaceCodec, Unbiased, Deadzone, Dense, Float16),
        *(Int8, Qsgd, TopK, Stc, Sign, Eden, PowerSgd),
    )
}


def codec_names() -> tuple[str, ...]:
    """Every name `get_codec` knows: built in, then registered by installed packages."""
    registered = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - _BUILT_IN.keys()
    return (*_BUILT_IN, *sorted(registered))


def get_codec(name: str, **parameters: Any) -> Codec:
    """Build a codec by name, e.g. `get_codec("topk", fraction=0.01)`.

    Args:
        name: one of `codec_names()`.
        parameters: the codec's constructor takes them.

    Raises:
        UnknownCodec: no such name; the text lists those there are.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name](**parameters)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            codec = point.load()(**parameters)
            if not isinstance(codec, Codec) or codec.name != name or codec.codec_id != NAMED_CODEC:
                raise UnknownCodec(
                    f"entry point {name!r} gives {codec!r}; it must give an amgt_fed.codec.Codec named {name!r} "
                    "that leaves codec_id alone"
                )
            return codec
    raise UnknownCodec(f"no codec is called {name!r}; there are: {', '.join(codec_names())}")


def codec_of(codec_id: int, codec_name: str) -> Codec:
    """The codec that reads payloads with this number, or this name when the number is `NAMED_CODEC`.

    Raises:
        UnsupportedPayload: it is not installed here.
    """
    if codec_id == NAMED_CODEC:
        try:
            return get_codec(codec_name)
        except UnknownCodec:
            raise UnsupportedPayload(
                f"payload is of codec {codec_name!r}; install the package that registers it under {ENTRY_POINT_GROUP}"
            ) from None
    for factory in _BUILT_IN.values():
        if getattr(factory, "codec_id", None) == codec_id:
            return factory()
    raise UnsupportedPayload(f"payload is of codec number {codec_id}, unknown to this version: upgrade amgt-fed")
