# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile checkpoints: each gets a CheckpointError that names the file, never anything else."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from specbuild.checkpoint import Checkpoint
from specbuild.errors import CheckpointError
from support import checkpoints
from support.checkpoints import Recipe

Damage = Callable[[Path], None]


def refusal(folder: Path, *, trust: bool = False) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, trust_remote_code=trust)
    assert caught.value.remedy
    return caught.value


# --- index, links and paths ----------------------------------------------------------------------


def _index(folder: Path, **placed: object) -> None:
    checkpoints.edit_json(folder / "model.safetensors.index.json", weight_map=placed)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "a/../../x.safetensors",
        "",
        "a\\b.safetensors",
        "x\n.safetensors",
        "\x00.safetensors",
        "é" * 200 + ".safetensors",
        "\ud800.safetensors",
    ],
)
def test_index_entry_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    folder = checkpoints.write(tmp_path / "c", Recipe(shards=2))
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    _index(folder, **{"model.norm.weight": name})
    assert refusal(folder).code in {"file-outside", "weights-pickled"}


def _shard_is_pickle(folder: Path) -> None:
    _index(folder, **{"model.norm.weight": "pytorch_model-00001-of-00002.bin"})


def _shard_is_gone(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def _shard_is_a_folder(folder: Path) -> None:
    _shard_is_gone(folder)
    (folder / "model-00002-of-00002.safetensors").mkdir()


def _shard_is_a_pipe(folder: Path) -> None:
    _shard_is_gone(folder)
    os.mkfifo(folder / "model-00002-of-00002.safetensors")


def _shard_is_another(folder: Path) -> None:
    one = (folder / "model-00001-of-00002.safetensors").read_bytes()
    (folder / "model-00002-of-00002.safetensors").write_bytes(one)


def _shard_repeats_a_tensor(folder: Path) -> None:
    """The first shard holds a tensor of the second again, beside its own."""
    one, other = (load_file(folder / f"model-0000{i}-of-00002.safetensors") for i in (1, 2))
    name, tensor = next(iter(other.items()))
    save_file(one | {name: tensor}, folder / "model-00001-of-00002.safetensors")


def _shards_are_swapped(folder: Path) -> None:
    one, other = (folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    one.rename(folder / "x")
    other.rename(one)
    (folder / "x").rename(other)


def _index_is_empty(folder: Path) -> None:
    _index(folder)


def _index_is_a_list(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def _index_names_a_number(folder: Path) -> None:
    _index(folder, **{"model.norm.weight": 7})


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_shard_is_pickle, "weights-pickled"),
        (_shard_is_gone, "shard-missing"),
        (_shard_is_a_folder, "file-missing"),
        (_shard_is_a_pipe, "file-missing"),
        (_shard_is_another, "index-mismatch"),
        (_shard_repeats_a_tensor, "index-mismatch"),
        (_shards_are_swapped, "index-mismatch"),
        (_index_is_empty, "file-invalid"),
        (_index_is_a_list, "file-invalid"),
        (_index_names_a_number, "file-invalid"),
    ],
)
def test_index_and_shards_must_agree(tmp_path: Path, damage: Damage, code: str) -> None:
    folder = checkpoints.write(tmp_path, Recipe(shards=2))
    damage(folder)
    assert refusal(folder).code == code


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_link_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    folder = checkpoints.write(tmp_path / "c")
    original = folder / name
    outside = tmp_path / "elsewhere"
    outside.write_bytes(original.read_bytes() if original.exists() else b"template")
    original.unlink(missing_ok=True)
    original.symlink_to(outside)
    error = refusal(folder)
    assert error.code == "file-outside"
    assert str(outside) in error.message


def test_hub_cache_of_links_into_its_blobs_is_accepted(tmp_path: Path) -> None:
    snapshot = checkpoints.as_hub_cache(tmp_path, checkpoints.write(tmp_path / "c", Recipe(shards=2)))
    checkpoint = Checkpoint.open(snapshot)
    assert checkpoint.weights.parameters > 0
    assert len(checkpoint.content_digest()) == 64


def test_hub_cache_link_into_another_repositorys_blobs_is_refused(tmp_path: Path) -> None:
    snapshot = checkpoints.as_hub_cache(tmp_path, checkpoints.write(tmp_path / "c"))
    other = checkpoints.as_hub_cache(tmp_path, checkpoints.write(tmp_path / "d"), name="models--org--other")
    link = snapshot / "model.safetensors"
    link.unlink()
    link.symlink_to((other / "model.safetensors").resolve())
    assert refusal(snapshot).code == "file-outside"


def test_blobs_beside_a_folder_of_other_origin_are_outside(tmp_path: Path) -> None:
    snapshot = checkpoints.as_hub_cache(tmp_path, checkpoints.write(tmp_path / "c"), name="anything")
    assert refusal(snapshot).code == "file-outside"


def test_cleaned_hub_cache_is_reported_as_broken_links(tmp_path: Path) -> None:
    snapshot = checkpoints.as_hub_cache(tmp_path, checkpoints.write(tmp_path / "c"))
    (snapshot / "model.safetensors").resolve().unlink()
    error = refusal(snapshot)
    assert error.code == "file-missing"
    assert "broken link" in error.message


def test_folder_reached_by_a_link_is_accepted(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "real")
    (tmp_path / "link").symlink_to(folder)
    assert Checkpoint.open(tmp_path / "link").folder == tmp_path / "link"


@pytest.mark.parametrize("kind", ["absent", "file", "loop"])
def test_path_without_a_folder_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c"
    if kind == "file":
        path.write_text("x")
    if kind == "loop":
        path.symlink_to(path)
    assert refusal(path).code == "checkpoint-missing"


def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "c")
    folder.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root reads everything: act as nobody meanwhile
            os.seteuid(65534)
        assert refusal(folder).code == "checkpoint-missing"
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


# --- pickles and code ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_the_conversion(tmp_path: Path, name: str) -> None:
    folder = checkpoints.write(tmp_path)
    (folder / "model.safetensors").rename(folder / name)
    error = refusal(folder)
    assert error.code == "weights-pickled"
    assert name in error.message
    assert "save_pretrained" in error.remedy


def test_no_weights_at_all_are_told_from_pickles(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    error = refusal(folder)
    assert error.code == "weights-missing"
    assert "adapter_model.safetensors" in error.message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("trust", [False, True])
def test_code_of_a_checkpoint_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trust: bool
) -> None:
    folder = checkpoints.write(tmp_path / "c")
    sentinel = tmp_path / "imported"
    (folder / "modeling_own.py").write_text(f"open({str(sentinel)!r}, 'w')\nclass Own: ...\n")
    checkpoints.edit_json(folder / name, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    monkeypatch.chdir(folder)
    if trust:
        Checkpoint.open(folder, trust_remote_code=True)
    else:
        error = refusal(folder)
        assert error.code == "custom-code"
        assert "trust_remote_code" in error.remedy
    assert not sentinel.exists()
    assert "modeling_own" not in sys.modules


# --- JSON and tokenizer --------------------------------------------------------------------------

BAD_JSON = {
    "empty": b"",
    "a list": b"[]",
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep": b'{"a":' * 200_000,
    "duplicate keys": b'{"model_type": "llama", "model_type": "other"}',
    "too large": b'{"a": "' + b"x" * (17 << 20) + b'"}',
    "huge integer": b'{"a": ' + b"9" * 10_000 + b"}",
    "NUL": b"\x00" * 100,
}


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", BAD_JSON)
def test_bad_json_names_the_file(tmp_path: Path, name: str, content: str) -> None:
    folder = checkpoints.write(tmp_path)
    (folder / name).write_bytes(BAD_JSON[content])
    error = refusal(folder)
    assert error.code == "file-invalid"
    assert name in error.message
    assert len(error.message) < 1000


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_mutated_tokenizer_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated-tokenizer"
    checkpoints.write(folder, Recipe(vocab=16))
    path = folder / "tokenizer.json"
    mutated = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(mutated)
    try:
        Checkpoint.open(folder)
    except CheckpointError as error:
        assert "tokenizer.json" in error.message


@pytest.mark.parametrize(
    "document",
    [{}, {"model": {}}, {"model": {"type": "Unheard"}}, {"model": []}, {"version": "1.0", "model": None}],
)
def test_tokenizer_of_another_format_is_refused(tmp_path: Path, document: object) -> None:
    folder = checkpoints.write(tmp_path)
    checkpoints.write_json(folder / "tokenizer.json", document)
    assert refusal(folder).code == "file-invalid"


def test_panic_of_the_tokenizers_library_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panic in Rust arrives as an exception that is no Exception."""

    class PanicException(BaseException):
        pass

    class Panicking:
        @staticmethod
        def from_buffer(data: bytes) -> None:
            raise PanicException("index out of bounds")

    folder = checkpoints.write(tmp_path)
    monkeypatch.setattr("tokenizers.Tokenizer", Panicking)
    assert "index out of bounds" in refusal(folder).message


def test_disk_error_while_reading_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.write(tmp_path)
    genuine = Path.open

    def failing(path: Path, *args: object) -> object:
        if path.name == "model.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return genuine(path, *args)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", failing)
    error = refusal(folder)
    assert "model.safetensors" in error.message
    assert os.strerror(errno.EIO) in error.message
