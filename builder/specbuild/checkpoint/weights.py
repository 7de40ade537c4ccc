# SPDX-License-Identifier: Apache-2.0
"""The weights of a checkpoint: which tensor lies in which file. Only safetensors; pickle runs code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specbuild.checkpoint.folder import Folder
from specbuild.checkpoint.safetensors import Tensor, read_header
from specbuild.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Weights:
    """Every tensor of the checkpoint, by name."""

    files: tuple[str, ...]
    """Names of the safetensors files, relative to the checkpoint."""
    tensors: Mapping[str, Tensor]

    @property
    def parameters(self) -> int:
        """Elements of all tensors; packed quantised tensors count by element as stored."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The format's name of the type that most bytes have, such as BF16."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.dtype] += tensor.nbytes
        return counts.most_common(1)[0][0] if counts else "F32"


def read(folder: Folder) -> tuple[Weights | None, list[CheckpointError]]:
    """The weights, or None and every reason why they cannot be used."""
    try:
        # transformers' order: the single file wins over an index.
        if folder.find(SINGLE) is not None:
            shards: dict[str, str | None] = {SINGLE: None}
            placed: dict[str, str] = {}
        else:
            placed = _index(folder)
            shards = dict.fromkeys(sorted(set(placed.values())))
    except CheckpointError as error:
        return None, [error]
    tensors, errors = _read_shards(folder, list(shards))
    errors += [] if errors else _misplaced(folder, placed, tensors)
    return (None if errors else Weights(tuple(shards), tensors)), errors


def _index(folder: Folder) -> dict[str, str]:
    """Tensor name -> file name, as the index says."""
    document = folder.json(INDEX, max_bytes=256 << 20)
    if document is None:
        raise _no_weights(folder)
    placed: Any = document.get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(v, str) for v in placed.values()):
        raise CheckpointError(
            f"{folder.path / INDEX} has no weight_map of tensor names to file names",
            remedy="Download the index again.",
            code="file-invalid",
        )
    return placed


def _no_weights(folder: Folder) -> CheckpointError:
    pickles = folder.names(_PICKLES)
    if pickles:
        return CheckpointError(
            f"{folder.path} holds only pickled weights ({', '.join(pickles[:_SHOWN])}), which can run code",
            remedy='Convert them where you trust their source: python -c "from transformers import '
            "AutoModelForCausalLM as M; M.from_pretrained('IN').save_pretrained('OUT')\"",
            code="weights-pickled",
        )
    others = folder.names([".safetensors"])
    found = f"; it has {', '.join(others[:_SHOWN])}" if others else ""
    return CheckpointError(
        f"{folder.path} has neither {SINGLE} nor {INDEX}{found}",
        remedy="Complete the download, or save the model in Hugging Face format with save_pretrained.",
        code="weights-missing",
    )


def _read_shards(folder: Folder, names: list[str]) -> tuple[dict[str, Tensor], list[CheckpointError]]:
    tensors: dict[str, Tensor] = {}
    errors: list[CheckpointError] = []
    for name in names:
        try:
            shard = _read_shard(folder, name)
            if repeated := sorted(tensors.keys() & shard.keys()):
                raise _mismatch(folder, f"{name} repeats tensors of other files: {_some(repeated)}")
            tensors |= shard
        except CheckpointError as error:
            errors.append(error)
    return tensors, errors


def _read_shard(folder: Folder, name: str) -> dict[str, Tensor]:
    if not name.endswith(".safetensors"):
        raise CheckpointError(
            f"{folder.path / INDEX} names {name!r:.120}, which is not a safetensors file",
            remedy="Use a checkpoint saved as safetensors.",
            code="weights-pickled",
        )
    path = folder.find(name)
    if path is None:
        raise CheckpointError(
            f"{folder.path / name} is missing, although the index names it",
            remedy="Complete the download of the checkpoint.",
            code="shard-missing",
        )
    return read_header(path, file=name)


def _misplaced(folder: Folder, placed: dict[str, str], tensors: dict[str, Tensor]) -> list[CheckpointError]:
    wrong = sorted(name for name, file in placed.items() if name not in tensors or tensors[name].file != file)
    if not wrong:
        return []
    return [
        _mismatch(folder, f"{len(wrong)} tensors are not in the file that the index names: {_some(wrong)}")
    ]


def _mismatch(folder: Folder, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder.path}: {reason}",
        remedy="Download index and shards again from one revision.",
        code="index-mismatch",
    )


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
