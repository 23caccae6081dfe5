"""The run directory: configuration, rounds, summary, checkpoint, report."""

from amgt_fed.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from amgt_fed.runs.directory import RunDirectory
from amgt_fed.runs.records import RoundRecord, RunSummary, bytes_to_reach

__all__ = [
    "Checkpoint",
    "RoundRecord",
    "RunDirectory",
    "RunSummary",
    "bytes_to_reach",
    "load_checkpoint",
    "save_checkpoint",
]
