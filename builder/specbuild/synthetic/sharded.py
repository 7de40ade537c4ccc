# SPDX-License-Identifier: Apache-2.0
"""Large models written as safetensors shards, one tensor in memory at a time. Needs torch.

The format: eight bytes with the length of a JSON header, the header with each tensor's place, the tensors'
bytes (https://github.com/huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from specbuild.checkpoint.weights import INDEX
from specbuild.synthetic import weights
from specbuild.synthetic.shapes import ModelShape
from specbuild.synthetic.weights import DTYPE, EMBEDDING, FINAL_NORM, HEAD, Ends

_LAYERS_PER_SHARD = 8
_HEADER_BYTES = 1 << 14  # the tensors are written before their places are known; spaces may fill it up
_BANK = 4_194_301  # random numbers; prime, so that rows of any width begin at different places

Tensors = Iterable[tuple[str, torch.Tensor]]


def write(
    folder: Path,
    make_ends: Callable[[], Ends],
    shape: ModelShape,
    vocab_size: int,
    *,
    positions: int,
    seed: int,
) -> None:
    """``config.json``, ``generation_config.json``, shards and their index in ``folder``.

    The inner weights repeat one bank of random numbers, each matrix from a place of its own: a billion
    fresh ones would take a minute, and all that matters is that they are no special values.
    """
    bank = torch.randn(_BANK, generator=torch.Generator().manual_seed(seed))

    def random(index: int) -> Callable[[int, int], torch.Tensor]:
        generator = torch.Generator().manual_seed(seed + 1 + index)

        def matrix(rows: int, columns: int) -> torch.Tensor:
            start = int(torch.randint(_BANK, (), generator=generator))
            scaled = (bank.roll(-start) / math.sqrt(columns)).to(DTYPE)
            return scaled.repeat(-(-rows * columns // _BANK))[: rows * columns].view(rows, columns)

        return matrix

    def layers(first: int) -> Iterator[tuple[str, torch.Tensor]]:
        for index in range(first, min(first + _LAYERS_PER_SHARD, shape.layers)):
            yield from weights.layer(shape, index, random(index))

    def both_ends() -> Iterator[tuple[str, torch.Tensor]]:
        made = make_ends()
        yield from ((EMBEDDING, made.embedding), (HEAD, made.head))
        yield FINAL_NORM, torch.ones(shape.hidden, dtype=DTYPE)

    starts = range(0, shape.layers, _LAYERS_PER_SHARD)
    shards: list[Callable[[], Tensors]] = [both_ends, *(functools.partial(layers, first) for first in starts)]
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]

    def write_one(name: str, shard: Callable[[], Tensors]) -> dict[str, int]:
        return _write_shard(folder / name, shard)

    with ThreadPoolExecutor(min(len(shards), os.cpu_count() or 1)) as pool:
        written = list(pool.map(write_one, names, shards))
    index = {
        "metadata": {"total_size": sum(sum(sizes.values()) for sizes in written)},
        "weight_map": {tensor: name for name, sizes in zip(names, written, strict=True) for tensor in sizes},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    weights.write_configuration(folder, shape, vocab_size, max_positions=positions)


def _write_shard(path: Path, shard: Callable[[], Tensors]) -> dict[str, int]:
    """Write ``path``; the bytes of each tensor in it."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    sizes: dict[str, int] = {}
    with path.open("wb") as file:
        file.seek(8 + _HEADER_BYTES)
        for name, tensor in shard():
            start = sum(sizes.values())
            sizes[name] = file.write(tensor.contiguous().view(torch.uint8).numpy().data)
            header[name] = {
                "dtype": "BF16",
                "shape": list(tensor.shape),
                "data_offsets": [start, start + sizes[name]],
            }
        text = json.dumps(header).encode()
        assert len(text) <= _HEADER_BYTES, "more tensors than a header has room for"
        file.seek(0)
        file.write(_HEADER_BYTES.to_bytes(8, "little") + text.ljust(_HEADER_BYTES))
    return sizes
