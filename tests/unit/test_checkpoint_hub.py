# SPDX-License-Identifier: Apache-2.0
"""From the configuration's ``checkpoint`` to a folder, with the hub's answers played by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from specbuild.checkpoint import resolve
from specbuild.config import Model
from specbuild.errors import CheckpointError
from support import checkpoints
from support.checkpoints import Recipe

# What the error classes take from a response, whichever HTTP library the hub client uses.
RESPONSE: Any = SimpleNamespace(headers={}, request=None)


class Hub:
    """Stands for ``snapshot_download``: answers with a folder or an error, separately for the cache."""

    def __init__(self) -> None:
        self.cached: Path | Exception = errors.LocalEntryNotFoundError("nothing cached")
        self.online: Path | Exception = errors.LocalEntryNotFoundError("no connection")
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repo_id: str, **options: Any) -> str:
        self.calls.append({"repo_id": repo_id} | options)
        answer = self.cached if options["local_files_only"] else self.online
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    return hub


def test_folder_is_taken_as_it_is(tmp_path: Path, hub: Hub) -> None:
    assert resolve(Model(checkpoint=str(tmp_path))) == tmp_path
    assert hub.calls == []


def test_cached_snapshot_needs_no_network(tmp_path: Path, hub: Hub) -> None:
    hub.cached = checkpoints.write(tmp_path, Recipe(shards=2))
    assert resolve(Model(checkpoint="org/model", revision="v1")) == tmp_path
    assert [(call["revision"], call["local_files_only"]) for call in hub.calls] == [("v1", True)]


def _without_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize("damage", [_without_shard, _without_config])
def test_broken_off_download_is_completed(tmp_path: Path, hub: Hub, damage: Callable[[Path], None]) -> None:
    hub.cached = checkpoints.write(tmp_path / "partial", Recipe(shards=2))
    damage(hub.cached)
    hub.online = tmp_path / "complete"
    assert resolve(Model(checkpoint="org/model")) == tmp_path / "complete"


def test_only_files_of_the_checkpoint_itself_are_downloaded(tmp_path: Path, hub: Hub) -> None:
    from huggingface_hub.utils import filter_repo_objects

    hub.online = tmp_path
    resolve(Model(checkpoint="org/model"))
    options = {name: hub.calls[-1][name] for name in ("allow_patterns", "ignore_patterns")}
    listing = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "chat_template.jinja",
        "pytorch_model.bin",
        "consolidated.00.pth",
        "consolidated.safetensors",
        "original/params.json",
        "onnx/model.safetensors",
        "modeling_own.py",
    ]
    assert list(filter_repo_objects(listing, **options)) == listing[:4]


@pytest.mark.parametrize(
    ("error", "fact", "remedy"),
    [
        (errors.GatedRepoError("403", response=RESPONSE), "gated", "hf auth login"),
        (errors.RepositoryNotFoundError("404", response=RESPONSE), "not found on the hub", "Correct the id"),
        (errors.RevisionNotFoundError("404", response=RESPONSE), "revision v9", "revision"),
        (errors.LocalEntryNotFoundError("no connection"), "no connection", "HF_HOME"),
        (errors.HfHubHTTPError("503 busy", response=RESPONSE), "503 busy", "local folder"),
        (OSError(28, "No space left on device"), "No space left", "local folder"),
        (Exception("read timed out"), "read timed out", "local folder"),
    ],
)
def test_each_refusal_of_the_hub_has_its_remedy(hub: Hub, error: Exception, fact: str, remedy: str) -> None:
    hub.online = error
    with pytest.raises(CheckpointError) as caught:
        resolve(Model(checkpoint="org/model", revision="v9"))
    assert caught.value.code == "checkpoint-missing"
    assert fact in caught.value.message
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "./absent",
        "/absent/folder",
        "~/absent",
        "../x",
        "a/b/c",
        "a b",
        "org/..",
        "-x",
        "~nobody-here/x",
        "x" * 4000,
    ],
)
def test_what_is_no_hub_id_never_reaches_the_hub(hub: Hub, text: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        resolve(Model(checkpoint=text))
    assert hub.calls == []


def test_file_instead_of_a_folder_is_refused(tmp_path: Path, hub: Hub) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError):
        resolve(Model(checkpoint=str(path)))
    assert hub.calls == []
