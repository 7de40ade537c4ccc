# SPDX-License-Identifier: Apache-2.0
"""From the configuration's ``checkpoint`` to a folder: a local one, or a download from the hub."""

from __future__ import annotations

import os
from pathlib import Path

from specbuild.checkpoint import model_config, weights
from specbuild.checkpoint.folder import Folder
from specbuild.config import Model
from specbuild.errors import CheckpointError

# Only files directly in the repository: original/, onnx/ and gguf/ hold the same weights again.
_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_UNWANTED = ["*/*", "consolidated*.safetensors"]


def resolve(model: Model) -> Path:
    """The folder of ``model``; a hub id is looked up in the local cache first, then downloaded.

    Raises CheckpointError when there is neither folder nor hub id, or the download is not possible.
    """
    # os.path, because pathlib raises for ~unknown, for names that are too long and without permission.
    path = os.path.expanduser(model.checkpoint)  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112
        return Path(path)
    _check_id(model.checkpoint, path)
    cached = _snapshot(model, local=True)
    if cached is not None and _is_complete(cached):
        return cached
    downloaded = _snapshot(model, local=False)
    assert downloaded is not None
    return downloaded


def _check_id(text: str, path: str) -> None:
    """Raises CheckpointError unless ``text`` can be a hub id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

    try:
        if os.path.exists(path) or text.startswith((".", "/", "~")):  # noqa: PTH110
            raise HFValidationError("it is written as a path")
        validate_repo_id(text)
    except HFValidationError:
        raise CheckpointError(
            f"{text} is neither a folder nor a hub id",
            remedy="Name an existing folder (relative to the working directory), or an id such as "
            "meta-llama/Llama-3.1-8B-Instruct. `specbuild pair synthesize` makes a pair without a download.",
            code="checkpoint-missing",
        ) from None


def _snapshot(model: Model, *, local: bool) -> Path | None:
    """The cached or downloaded revision; None when ``local`` and nothing is cached."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                model.checkpoint,
                revision=model.revision,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                local_files_only=local,
            )
        )
    except Exception as error:
        # Besides its own errors the client lets those of its HTTP library through, which changed twice.
        if local and isinstance(error, errors.LocalEntryNotFoundError):
            return None
        raise _unavailable(model, error) from error


def _unavailable(model: Model, error: Exception) -> CheckpointError:
    from huggingface_hub import errors

    name = model.checkpoint + (f" at revision {model.revision}" if model.revision else "")
    if isinstance(error, errors.GatedRepoError):
        reason = "is gated: access must be granted to your account"
        remedy = f"Accept its terms at https://huggingface.co/{model.checkpoint}, then run `hf auth login`."
    elif isinstance(error, errors.RevisionNotFoundError):
        reason, remedy = "does not exist", "Correct `revision`: a branch, tag or commit of that repository."
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = "was not found on the hub"
        remedy = "Correct the id; for a private repository run `hf auth login`."
    else:
        reason = f"is not in the local cache and cannot be downloaded: {_cause(error)}"
        remedy = "Set HF_HOME to a cache that holds it, name a local folder, or connect to the hub."
    return CheckpointError(f"{name} {reason}", remedy=remedy, code="checkpoint-missing")


def _cause(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    cause = error.__cause__ or error  # the hub wraps the failed request in a generic message
    text = str(cause).strip() or type(cause).__name__
    return text.splitlines()[0][:200]


def _is_complete(path: Path) -> bool:
    """Whether a cached snapshot has its config and all weights; after a broken-off download it has not."""
    try:
        folder = Folder.open(path)
        index = folder.json(weights.INDEX, max_bytes=256 << 20)
        placed = (index or {}).get("weight_map", {})
        needed = {model_config.CONFIG, *(placed.values() if index else [weights.SINGLE])}
        return all(folder.find(name) is not None for name in needed)
    except (CheckpointError, AttributeError, TypeError):
        return False
