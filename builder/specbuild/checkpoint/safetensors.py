# SPDX-License-Identifier: Apache-2.0
"""The header of a safetensors file, read and proven consistent without touching the tensors.

The format: eight bytes with the header's length (little endian), the header (JSON: tensor name -> dtype,
shape, offsets), then the tensors' bytes without holes. The rules are those of the reference
implementation (safetensors/src/tensor.rs, ``read_metadata`` and ``validate``); doing them here names the
file and the fact, for every kind of damage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from specbuild.checkpoint.folder import parse_object
from specbuild.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
MAX_TENSOR_BYTES = 1 << 62
_LENGTH_BYTES = 8

BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, by the format's names of types."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies and what it is; never its values."""

    name: str
    dtype: str
    """The format's name, such as BF16."""
    shape: tuple[int, ...]
    file: str
    """Name of the file, relative to the checkpoint."""
    offset: int
    """First byte, counted from the start of the file."""
    nbytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


def read_header(path: Path, *, file: str) -> dict[str, Tensor]:
    """Every tensor of the file ``path``, known to the checkpoint as ``file``.

    Raises CheckpointError when the file is truncated, too long, or its header breaks the format's rules.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            _check_length(path, length, size)
            header = stream.read(length)
    except OSError as error:
        raise _corrupt(path, f"cannot be read: {error.strerror or error}") from None
    if not header.startswith(b"{"):
        raise _corrupt(path, "does not start with a safetensors header")
    document = _parse(path, header)
    start = _LENGTH_BYTES + length
    tensors = [_tensor(path, name, entry, file, start) for name, entry in document.items()]
    _check_layout(path, tensors, start, size)
    return {tensor.name: tensor for tensor in tensors}


def _check_length(path: Path, length: int, size: int) -> None:
    if size < _LENGTH_BYTES:
        raise _corrupt(path, f"has {size} bytes, too few for a safetensors header")
    if length > MAX_HEADER_BYTES:
        raise _corrupt(path, f"announces a header of {length} bytes, above the format's {MAX_HEADER_BYTES}")
    if length > size - _LENGTH_BYTES:
        raise _corrupt(path, f"is truncated: header of {length} bytes in a file of {size}")


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    try:
        document = parse_object(header, source=path)
    except CheckpointError as error:
        raise _corrupt(path, "header" + error.message.removeprefix(str(path))) from None
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt(path, "header has a __metadata__ that is not a map of strings")
    return document


def _tensor(path: Path, name: str, entry: Any, file: str, start: int) -> Tensor:
    """One entry of the header. Raises CheckpointError when its facts contradict each other."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"tensor {name!r} lacks dtype, shape or data_offsets, or has more")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _corrupt(path, f"tensor {name!r} has the unknown dtype {dtype!r:.80}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _corrupt(path, f"tensor {name!r} has an invalid shape or data_offsets")
    begin, end = offsets
    if prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _corrupt(path, f"tensor {name!r}: {dtype}{shape} does not fill its {end - begin} bytes")
    return Tensor(name, dtype, tuple(shape), file, start + begin, end - begin)


def _are_sizes(value: Any) -> bool:
    """Whether ``value`` is a short list of integers that can count bytes."""
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(item) is int and 0 <= item <= MAX_TENSOR_BYTES for item in value)
    )


def _check_layout(path: Path, tensors: list[Tensor], start: int, size: int) -> None:
    """The tensors follow each other from the header to the end of the file: no overlap, no hole."""
    position = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != position:
            kind = "overlaps another tensor" if tensor.offset < position else "leaves a hole before it"
            raise _corrupt(path, f"tensor {tensor.name!r} {kind}")
        position += tensor.nbytes
    if position > size:
        raise _corrupt(path, f"is truncated: {position - size} of {position} bytes are missing")
    if position < size:
        raise _corrupt(path, f"has {size - position} bytes after the last tensor")


def _corrupt(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {reason}",
        remedy="Download or copy this file again, and compare its size with the source's.",
        code="shard-corrupt",
    )
