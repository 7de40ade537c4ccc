# SPDX-License-Identifier: Apache-2.0
"""Damaged safetensors files: a CheckpointError that names the file and the fact, never anything else."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from specbuild.checkpoint import Checkpoint
from specbuild.checkpoint.safetensors import read_header
from specbuild.errors import CheckpointError
from support import checkpoints
from support.checkpoints import Recipe


def safetensors_file(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def headed(document: object, size: int = 8) -> bytes:
    return safetensors_file(json.dumps(document).encode(), bytes(size))


BROKEN = {
    "empty": (b"", "0 bytes"),
    "seven bytes": (b"1234567", "7 bytes"),
    "length 2^63": (safetensors_file(b"{}", length=1 << 63), str(1 << 63)),
    "length 2^64-1": (safetensors_file(b"{}", length=(1 << 64) - 1), "100000000"),
    "length beyond the file": (safetensors_file(b"{}", length=3), "truncated"),
    "no header": (safetensors_file(b""), "safetensors header"),
    "header is a list": (safetensors_file(b"[]"), "safetensors header"),
    "bad JSON": (safetensors_file(b"{nope"), "not valid JSON"),
    "not UTF-8": (safetensors_file(b'{"\xff":1}'), "UTF-8"),
    "deep JSON": (safetensors_file(b'{"a":' + b"[" * 200_000), "not valid JSON"),
    "huge integer": (safetensors_file(b'{"a":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "repeated tensor": (safetensors_file(b'{"a":1,"a":2}'), "duplicate key 'a'"),
    "entry is a number": (headed({"a": 1}), "tensor 'a'"),
    "entry lacks shape": (headed({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "tensor 'a'"),
    "unknown dtype": (headed({"a": entry("F31")}), "F31"),
    "dtype is a list": (headed({"a": entry(["F32"])}), "unknown dtype"),
    "negative size": (headed({"a": entry(shape=[-2])}), "invalid shape"),
    "boolean size": (headed({"a": entry(shape=[True, 2])}), "invalid shape"),
    "huge product": (headed({"a": entry(shape=[1 << 61] * 60)}), "does not fill"),
    "offsets reversed": (headed({"a": entry(offsets=[8, 0])}), "invalid shape or data_offsets"),
    "offsets beyond the file": (headed({"a": entry(shape=[4], offsets=[0, 16])}), "truncated"),
    "overlap": (headed({"a": entry(), "b": entry(offsets=[4, 12])}, 12), "overlaps"),
    "hole": (headed({"a": entry(), "b": entry(offsets=[12, 20])}, 20), "hole"),
    "bytes after the end": (headed({"a": entry()}, 9), "1 bytes after"),
    "truncated data": (headed({"a": entry()}, 7), "truncated"),
    "odd bits": (headed({"a": entry("F4", [3], [0, 1])}, 1), "does not fill"),
    "metadata of numbers": (headed({"__metadata__": {"a": 1}}, 0), "__metadata__"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_shard_names_the_file_and_the_fact(tmp_path: Path, name: str) -> None:
    folder = checkpoints.write(tmp_path)
    data, fact = BROKEN[name]
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert caught.value.code == "shard-corrupt"
    assert "model.safetensors" in caught.value.message
    assert fact in caught.value.message


def ten_kilobytes(folder: Path) -> bytes:
    """A valid file of about 10 KB."""
    checkpoints.write(folder, Recipe(vocab=64, hidden=8, layers=2))
    data = (folder / "model.safetensors").read_bytes()
    assert 8_000 < len(data) < 16_000
    return data


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return ten_kilobytes(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "mutated.safetensors"


def accepts(path: Path, data: bytes) -> bool:
    """Whether the header is read; anything but CheckpointError fails the test."""
    path.write_bytes(data)
    try:
        read_header(path, file=path.name)
    except CheckpointError:
        return False
    return True


def reference_accepts(path: Path) -> bool:
    try:
        with safe_open(path, framework="np"):
            return True
    except SafetensorError:
        return False


FUZZ = settings(max_examples=300, deadline=None)


@FUZZ
@given(data=st.data())
def test_mutated_header_is_read_or_refused_and_never_laxer_than_the_reference(
    sample: bytes, scratch: Path, data: st.DataObject
) -> None:
    mutated = bytearray(sample)
    header_end = 8 + int.from_bytes(sample[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    if accepts(scratch, bytes(mutated)):
        assert reference_accepts(scratch)


@FUZZ
@given(data=st.data())
def test_other_length_is_always_refused(sample: bytes, scratch: Path, data: st.DataObject) -> None:
    """Cut anywhere, or anything added, removed or moved within the tensors."""
    cut = data.draw(st.integers(0, len(sample) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=64))
    assert not accepts(scratch, sample[:cut])
    assert not accepts(scratch, sample + extra)
    start = data.draw(st.integers(8 + int.from_bytes(sample[:8], "little"), len(sample) - 1))
    assert not accepts(scratch, sample[:start] + extra + sample[start:])


@FUZZ
@given(length=st.integers(0, (1 << 64) - 1))
def test_other_header_length_is_always_refused(sample: bytes, scratch: Path, length: int) -> None:
    genuine = int.from_bytes(sample[:8], "little")
    if length != genuine:
        assert not accepts(scratch, struct.pack("<Q", length) + sample[8:])


@FUZZ
@given(noise=st.binary(max_size=200))
def test_noise_is_refused(scratch: Path, noise: bytes) -> None:
    if accepts(scratch, noise):
        assert reference_accepts(scratch)
