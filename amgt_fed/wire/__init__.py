"""Messages as protobuf bytes, with every length and index checked."""

from amgt_fed.wire.convert import (
    Evaluation,
    Hello,
    decode_evaluation,
    decode_hello,
    decode_plan,
    decode_question,
    decode_update,
    encode_evaluation,
    encode_hello,
    encode_needs_model,
    encode_plan,
    encode_question,
    encode_update,
)

__all__ = [
    "Evaluation",
    "Hello",
    "decode_evaluation",
    "decode_hello",
    "decode_plan",
    "decode_question",
    "decode_update",
    "encode_evaluation",
    "encode_hello",
    "encode_needs_model",
    "encode_plan",
    "encode_question",
    "encode_update",
]
