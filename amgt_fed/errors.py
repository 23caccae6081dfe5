"""Every error AMGT-Fed raises on purpose, one tree under `AMGTFedError`.

A message names the value and the fix. The command line prints it as one line and exits with code 2.
"""

from __future__ import annotations


class AMGTFedError(Exception):
    """Base of every error a user can meet; its text says what was wrong and what to do."""


class ConfigError(AMGTFedError, ValueError):
    """A configuration key or value that cannot be used."""


class TaskError(AMGTFedError, ValueError):
    """A task that cannot be found, or whose data or model is not usable."""


class CodecError(AMGTFedError, ValueError):
    """An update that cannot be encoded, or a payload that cannot be decoded."""


class WireError(AMGTFedError, ValueError):
    """A message from a peer that is malformed or beyond the limits."""


class RoundError(AMGTFedError, RuntimeError):
    """A federated round that cannot start or finish."""


class StateError(AMGTFedError, RuntimeError):
    """State on disk or in memory that is missing, damaged or of another run."""


class LinkError(AMGTFedError, RuntimeError):
    """The AMGT link (gRPC) cannot be opened, or a peer broke its protocol."""


class EngineError(AMGTFedError, RuntimeError):
    """An engine (local, grpc, ray, flower) cannot start, or stopped before the run was over."""
