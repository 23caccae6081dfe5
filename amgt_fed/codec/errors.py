"""What can go wrong in the codec: a budget, an update, a payload."""

from __future__ import annotations

from amgt_fed.errors import CodecError


class InvalidBudget(CodecError):
    """A budget that no update could be encoded under, because its number makes no sense."""


class ImpossibleBudget(CodecError):
    """A budget this update, layout and codec cannot meet; the text says the smallest that can be met."""


class InvalidUpdate(CodecError):
    """A vector that is not finite flat float32 of the layout's size."""


class CorruptPayload(CodecError):
    """Bytes that are not a payload, were damaged, or say what the layout makes impossible."""


class UnsupportedPayload(CodecError):
    """A payload of a newer format version, or of a codec that is not installed here."""


class WrongLayout(CodecError):
    """A payload made for a model with other tensor names or shapes."""


class UnknownCodec(CodecError):
    """A codec name that is neither built in nor registered by an installed package."""
