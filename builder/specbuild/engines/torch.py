# SPDX-License-Identifier: Apache-2.0
"""Engines of the torch runtime: each model as one validated, cast and hashed Hugging Face folder.

What is written holds everything that serving needs (weights, configuration, tokenizer), so a deployment
does not depend on the checkpoint, which may be a shared cache that somebody cleans.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from specbuild import artifacts, pairing
from specbuild.checkpoint import Checkpoint
from specbuild.checkpoint.model_config import CONFIG
from specbuild.checkpoint.weights import INDEX
from specbuild.config import Config
from specbuild.errors import BuildError, MissingDependencyError
from specbuild.progress import Report

_FORMAT = 1
"""Raised when the written layout changes, so that older engines are built again."""


def build(settings: Config, report: Report) -> None:
    """``settings.engines_dir`` holds ``target/`` and ``draft/``; what is current stays untouched.

    Raises CheckpointError, PairError when the pair cannot work, and BuildError.
    """
    target, draft = pairing.require(settings)
    models = {"target": (settings.target, target), "draft": (settings.draft, draft)}
    outcomes = []
    for role, (model, checkpoint) in models.items():
        report(f"{role}: {model.checkpoint}")
        dtype = checkpoint.dtype if model.dtype == "auto" else model.dtype
        written = _build_one(checkpoint, dtype, settings.engines_dir / role)
        outcomes.append(f"{role} {'built' if written else 'unchanged'}")
    report(", ".join(outcomes))


def _build_one(checkpoint: Checkpoint, dtype: str, final: Path) -> bool:
    """Write the engine unless it is current; whether it was written."""
    source = checkpoint.content_digest()
    key = artifacts.content_key({"format": _FORMAT, "checkpoint": source, "dtype": dtype})
    with artifacts.lock(final):
        if artifacts.is_current(final, key):
            return False
        facts = {
            "checkpoint": str(checkpoint.folder),
            "checkpoint_digest": source,
            "architecture": checkpoint.config.architecture,
            "dtype": dtype,
            "parameters": checkpoint.weights.parameters,
        }
        with artifacts.publish(final, key=key, facts=facts) as staging:
            _write(checkpoint, dtype, staging)
    return True


def _write(checkpoint: Checkpoint, dtype: str, folder: Path) -> None:
    total = sum(_cast(checkpoint.folder / name, folder / name, dtype) for name in checkpoint.weights.files)
    for name in set(checkpoint.files) - set(checkpoint.weights.files):
        shutil.copyfile(checkpoint.folder / name, folder / name)
    if (folder / INDEX).exists():
        _set_total_size(folder / INDEX, total)
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    # transformers 5 writes dtype, 4.x read only torch_dtype.
    settings.pop("dtype", None)
    settings["torch_dtype"] = dtype
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _cast(source: Path, destination: Path, dtype: str) -> int:
    """Copy one shard with its floating-point tensors as ``dtype``; the bytes of its tensors then.

    Raises BuildError naming the first tensor that holds NaN or infinity, also when only the cast makes it so.
    """
    try:
        import torch
        from safetensors.torch import load_file, save_file
    except ImportError as error:
        raise MissingDependencyError(
            f"the torch runtime needs PyTorch: {error}", remedy="pip install 'specbuild[torch]'"
        ) from error
    tensors = load_file(source)
    kind = getattr(torch, dtype)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        tensors[name] = cast = tensor.to(kind)
        if not torch.isfinite(cast).all():
            where = "holds" if not torch.isfinite(tensor).all() else f"cast to {dtype} holds"
            raise BuildError(
                f"{source.name}: tensor {name} {where} NaN or infinity",
                remedy="Download the checkpoint again, or choose bfloat16 or float32 as its dtype.",
            )
    save_file(tensors, destination, metadata={"format": "pt"})
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _set_total_size(index: Path, total: int) -> None:
    """A cast changes the bytes that the index counts."""
    document = json.loads(index.read_text(encoding="utf-8"))
    document["metadata"] = {**document.get("metadata", {}), "total_size": total}
    index.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
