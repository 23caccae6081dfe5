"""Regenerate the Python code of every .proto under protos/, in place or into another folder.

Usage: python protos/generate.py [DESTINATION]

The .proto tree mirrors the package tree, so the generated imports need no patching. A test regenerates
into a temporary folder and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).parent
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def generate(destination: Path) -> None:
    """Write `*_pb2.py`, `*_pb2.pyi` and, for services, `*_pb2_grpc.py` below `destination`."""
    for source in sorted(PROTOS.rglob("*.proto")):
        arguments = [
            "protoc",
            f"-I{PROTOS}",
            f"-I{WELL_KNOWN}",
            f"--python_out={destination}",
            f"--pyi_out={destination}",
        ]
        if "\nservice " in source.read_text(encoding="utf-8"):
            arguments.append(f"--grpc_python_out={destination}")
        if protoc.main([*arguments, str(source)]) != 0:
            raise SystemExit(f"protoc failed on {source}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS.parent)
