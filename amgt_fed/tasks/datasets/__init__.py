"""Files of the data directory: found, checked, read."""

from amgt_fed.tasks.datasets.files import SHA256, DataError, data_file, read_idx, read_npz

__all__ = ["SHA256", "DataError", "data_file", "read_idx", "read_npz"]
