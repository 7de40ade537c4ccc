# SPDX-License-Identifier: Apache-2.0
"""Every way a repository goes wrong has a code; a good one has no finding."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format

from specbuild import artifacts, repository, resources
from specbuild.config import Config
from specbuild.errors import RepositoryError
from specbuild.repository import modelconfig, publish, verify, write
from specbuild.repository.finding import CODES


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    settings = Config.model_validate(
        {
            "name": "pair",
            "runtime": "torch",
            "target": {"checkpoint": "target"},
            "draft": {"checkpoint": "draft"},
            "speculation": {"draft_length": 3, "adaptive": False},
            "torch": {"threads": 2},
            "output": tmp_path / 'the "output"',
        }
    )
    for role in ("target", "draft"):
        with artifacts.publish(settings.engines_dir / role, key=role, facts={}) as staging:
            (staging / "config.json").write_text("{}")
    return settings


@pytest.fixture
def root(settings: Config) -> Path:
    write(settings)
    return settings.repository_dir


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_written_repository_has_no_finding(root: Path) -> None:
    assert verify(root) == []
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        "ensemble",
        "preprocessing",
        "torch",
        "postprocessing",
    }


def test_settings_become_parameters_whatever_they_contain(root: Path, settings: Config) -> None:
    parameters = modelconfig.read(root / "torch").parameters
    assert parameters["target_dir"].string_value == str(settings.engines_dir / "target")
    assert {key: parameters[key].string_value for key in ("draft_length", "adaptive", "threads")} == {
        "draft_length": "3",
        "adaptive": "false",
        "threads": "2",
    }


def test_an_unchanged_repository_is_kept_and_a_damaged_one_written_again(settings: Config) -> None:
    assert write(settings)
    assert not write(settings)
    (settings.repository_dir / "torch" / "config.pbtxt").unlink()
    assert write(settings)
    assert not verify(settings.repository_dir)


def test_new_engines_make_a_new_repository(settings: Config) -> None:
    write(settings)
    with artifacts.publish(settings.engines_dir / "draft", key="other", facts={}):
        pass
    assert write(settings)


def test_engines_come_first(settings: Config) -> None:
    shutil.rmtree(settings.engines_dir / "draft")
    with pytest.raises(RepositoryError, match="draft holds no engine"):
        write(settings)


def test_python_caches_inside_a_model_are_no_finding(root: Path) -> None:
    """Triton's Python backend writes them there; only the root must hold nothing else."""
    (root / "torch" / "1" / "__pycache__").mkdir()
    (root / "notes.txt").write_text("plain files in the root are ignored by Triton")
    assert verify(root) == []


DEFECTS: dict[str, Callable[[Path], object]] = {
    "stray-folder": lambda root: (root / "__pycache__").mkdir(),
    "name-invalid": lambda root: shutil.copytree(root / "preprocessing", root / "pre processing"),
    "link-outside": lambda root: (root / "torch" / "1" / "weights").symlink_to("/etc"),
    "config-missing": lambda root: (root / "torch" / "config.pbtxt").unlink(),
    "config-empty": lambda root: (root / "torch" / "config.pbtxt").write_text(" \n"),
    "config-unparsable": lambda root: change(root / "torch" / "config.pbtxt", "input {", "input ["),
    "config-placeholder": lambda root: change(root / "torch" / "config.pbtxt", '"true"', '"${adaptive}"'),
    "backend-missing": lambda root: change(root / "torch" / "config.pbtxt", 'backend: "python"', ""),
    "name-differs": lambda root: change(root / "torch" / "config.pbtxt", 'name: "torch"', 'name: "other"'),
    "version-missing": lambda root: shutil.rmtree(root / "ensemble" / "1"),
    "file-missing": lambda root: (root / "torch" / "1" / "model.py").unlink(),
    "parameter-unset": lambda root: unset(root / "torch", "target_dir"),
    "path-missing": lambda root: shutil.rmtree(root.parent / "engines" / "draft"),
    "step-unknown": lambda root: shutil.rmtree(root / "postprocessing"),
    "tensor-unknown": lambda root: change(
        root / "torch" / "config.pbtxt", 'name: "num_rounds"', 'name: "rounds"'
    ),
    "tensor-unmapped": lambda root: require(root / "torch", "stop"),
    "tensor-unsourced": lambda root: change(
        root / "ensemble" / "config.pbtxt", 'value: "_TOKENS_BATCH"', 'value: "_TOKENS"'
    ),
    "tensor-unused": lambda root: change(
        root / "ensemble" / "config.pbtxt",
        'key: "seed"\n      value: "seed"',
        'key: "seed"\n      value: "other"',
    ),
    "tensor-mismatch": lambda root: change(
        root / "ensemble" / "config.pbtxt",
        'name: "seed"\n  data_type: TYPE_UINT64',
        'name: "seed"\n  data_type: TYPE_INT64',
    ),
    "file-damaged": lambda root: (root / "torch" / "1" / "model.py").write_text("pass\n"),
    "repository-missing": shutil.rmtree,
}


def unset(folder: Path, key: str) -> None:
    message = modelconfig.read(folder)
    message.parameters[key].string_value = ""
    (folder / "config.pbtxt").write_text(modelconfig.render(message))


def require(folder: Path, name: str) -> None:
    message = modelconfig.read(folder)
    for tensor in message.input:
        tensor.optional = tensor.optional and tensor.name != name
    (folder / "config.pbtxt").write_text(modelconfig.render(message))


@pytest.mark.parametrize("code", CODES)
def test_each_defect_is_found(root: Path, code: str) -> None:
    DEFECTS[code](root)
    found = {finding.code: finding for finding in verify(root)}
    assert code in found
    assert found[code].reason
    assert found[code].remedy


@pytest.mark.parametrize(
    ("text", "code"), [("# nothing but a comment\n", "config-empty"), ("input [", "config-unparsable")]
)
def test_an_unreadable_model_is_one_finding_and_not_one_for_each_of_its_tensors(
    root: Path, text: str, code: str
) -> None:
    (root / "torch" / "config.pbtxt").write_text(text)
    assert [finding.code for finding in verify(root)] == [code, "file-damaged"]


def test_a_model_may_leave_its_name_to_its_folder(root: Path) -> None:
    change(root / "torch" / "config.pbtxt", 'name: "torch"\n', "")
    change(root / "torch" / "config.pbtxt", 'name: "num_rounds"', 'name: "rounds"')
    reasons = [finding.reason for finding in verify(root) if finding.code == "tensor-unknown"]
    assert reasons == ["torch has no output num_rounds"]


def test_a_loop_of_links_does_not_stop_the_check(root: Path) -> None:
    (root / "torch" / "1" / "loop").symlink_to("loop")
    assert verify(root) == []


def test_a_file_in_place_of_the_repository_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "repository").write_text("")
    assert [finding.code for finding in verify(tmp_path / "repository")] == ["repository-missing"]


def test_an_empty_folder_is_no_repository(tmp_path: Path) -> None:
    assert [finding.code for finding in verify(tmp_path)] == ["repository-missing"]


def test_a_hidden_copy_of_a_model_is_stray(root: Path) -> None:
    shutil.copytree(root / "torch", root / ".torch.old")
    assert [finding.code for finding in verify(root)] == ["stray-folder"]


def test_what_must_be_in_order_is_refused_with_all_that_is_wrong(root: Path) -> None:
    (root / "torch" / "config.pbtxt").unlink()
    (root / "stray").mkdir()
    with pytest.raises(RepositoryError) as error:
        repository.require(root)
    assert "(config-missing)" in error.value.message and "(stray-folder)" in error.value.message
    assert f"--verify {root}" in error.value.remedy
    with pytest.raises(RepositoryError) as error:
        repository.require(root / "nowhere")
    assert "specbuild repository --config" in error.value.remedy


def test_a_file_changed_by_hand_is_only_warned_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository.require(root)
    assert not caplog.messages
    with (root / "torch" / "config.pbtxt").open("a") as file:
        file.write("# tuned\n")
    repository.require(root)
    assert ["config.pbtxt has changed" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    "name", [path.name for path in sorted(resources.folder("model_repository").iterdir())]
)
def test_base_configurations_are_valid_on_their_own(name: str) -> None:
    base = resources.folder("model_repository")
    message = modelconfig.read(base / name)
    assert message.name == name
    assert modelconfig.parse(modelconfig.render(message)) == message


def test_a_batch_size_of_zero_is_printed() -> None:
    message = modelconfig.parse('name: "m" backend: "python"')
    assert "max_batch_size: 0" in modelconfig.render(message)


def test_only_declared_parameters_can_be_set() -> None:
    message = modelconfig.parse('name: "m"')
    with pytest.raises(KeyError, match="m has no parameter draft_dir"):
        modelconfig.set_parameters(message, {"draft_dir": "x"})


def test_only_fields_that_triton_2_51_knows_are_written(settings: Config) -> None:
    known = {
        "name",
        "platform",
        "backend",
        "max_batch_size",
        "input",
        "output",
        "instance_group",
        "parameters",
        "model_transaction_policy",
        "ensemble_scheduling",
    }
    for text in publish.plan(settings).configs.values():
        fields = {field.name for field, _ in text_format.Parse(text, _message()).ListFields()}
        assert fields <= known


def _message() -> object:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return ModelConfig()
