# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what is accepted, and that every mistake is named with its place."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from specbuild import config
from specbuild.errors import ConfigError

MINIMAL = """
name: pair
runtime: torch
target: {checkpoint: models/target}
draft: {checkpoint: models/draft}
output: build/pair
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "pair.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def failure(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), overrides)
    assert caught.value.remedy
    return caught.value.message


def test_minimal_file_gets_defaults(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, MINIMAL))
    assert loaded.speculation.draft_length == 5
    assert loaded.serving.host == "127.0.0.1"
    assert loaded.engines_dir == Path("build/pair/engines")


def test_unknown_key_gets_a_suggestion(tmp_path: Path) -> None:
    message = failure(tmp_path, MINIMAL + "speculation: {draft_lenght: 3}\n")
    assert "speculation.draft_lenght" in message and "did you mean draft_length?" in message


def test_every_invalid_key_is_listed(tmp_path: Path) -> None:
    message = failure(tmp_path, MINIMAL + "limits: {max_batch_size: 0, max_seq_len: 1}\n")
    assert "limits.max_batch_size" in message and "limits.max_seq_len" in message


def test_missing_key_is_named(tmp_path: Path) -> None:
    assert "target is missing" in failure(tmp_path, MINIMAL.replace("target:", "# target:"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "line 2, column 1: duplicate key 'name'"),
        ("target: &t {checkpoint: x}\ndraft: *t\n", "aliases"),
        ("a: [1, 2\n", "line 2"),
        ("\tname: x\n", "line 1"),
        ("- a\n- b\n", "not a list"),
        ("", "not nothing"),
        ("just words\n", "not a single str"),
        ("name: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("? [a, b]\n: 1\n", "keys must be words"),
        ("a: \x00\n", "special characters"),
        ("a: " + "[" * 100_000, "nested deeper"),
        (b"name: \xff\xfe\n", "not UTF-8"),
    ],
    ids=[
        "duplicate", "alias", "unclosed", "tab", "list", "empty", "scalar", "python-object", "complex-key",
        "nul", "deep", "not-utf8",
    ],
)  # fmt: skip
def test_malformed_yaml_names_the_place(tmp_path: Path, text: str | bytes, expected: str) -> None:
    start = time.monotonic()
    assert expected in failure(tmp_path, text)
    assert time.monotonic() - start < 5


def test_alias_bomb_is_refused_without_expanding(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "aliases" in failure(tmp_path, "\n".join(lines))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "pair.yaml"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        config.load(path)


@pytest.mark.parametrize(
    "value", ["yes", "on", "1e3", "017", ".nan", ".inf", "'8'", "-1", "99999999999999999999", "true"]
)
def test_a_number_must_be_a_plain_number_in_bounds(tmp_path: Path, value: str) -> None:
    assert "limits.max_batch_size" in failure(tmp_path, MINIMAL + f"limits: {{max_batch_size: {value}}}\n")


def test_values_stay_literal(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, MINIMAL.replace("models/target", "'$HOME/${x}'")))
    assert loaded.target.checkpoint == "$HOME/${x}"


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/abs",
        "a/b",
        "..",
        "a..b",
        " ",
        "",
        "x\\n",
        "a b",
        "x" * 65,
        "-dash",
        "${x}",
        "'\"'",
        ".hidden",
    ],
)
def test_a_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert "name" in failure(
        tmp_path, MINIMAL.replace("name: pair", f'name: "{name}"'.replace('"\'"\'"', '"\'"'))
    )


def test_limits_and_ports_must_agree(tmp_path: Path) -> None:
    assert "must be below max_seq_len" in failure(
        tmp_path, MINIMAL + "limits: {max_input_len: 4096, max_seq_len: 4096}\n"
    )
    assert "must differ" in failure(tmp_path, MINIMAL + "serving: {http_port: 9000, grpc_port: 9000}\n")


def test_set_overrides_the_file(tmp_path: Path) -> None:
    loaded = config.load(
        write(tmp_path, MINIMAL),
        [
            "speculation.draft_length=3",
            "target.revision=main",
            "serving.host=0.0.0.0",
            "target.revision=null",
        ],
    )
    assert loaded.speculation.draft_length == 3
    assert loaded.serving.host == "0.0.0.0"
    assert loaded.target.revision is None
    assert loaded.target.checkpoint == "models/target"


@pytest.mark.parametrize(
    "text", ["draft_length", "=3", "a..b=1", "name.sub=1", "speculation.draft_length=[1"]
)
def test_a_malformed_override_is_named(tmp_path: Path, text: str) -> None:
    assert "--set" in failure(tmp_path, MINIMAL, text)


@pytest.mark.parametrize("path", ["nowhere.yaml", "."])
def test_an_unreadable_file_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / path)


def test_the_published_schema_accepts_what_load_accepts(tmp_path: Path) -> None:
    schema = config.schema()
    jsonschema.validate(yaml.safe_load(MINIMAL), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(MINIMAL) | {"unknown": 1}, schema)
    assert (
        "Draft tokens per round"
        in schema["$defs"]["Speculation"]["properties"]["draft_length"]["description"]
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*config.Config.model_fields, "other"]), JSON))
def test_any_document_is_a_config_or_a_config_error(document: dict[str, object]) -> None:
    try:
        config.validate(document, source="test")
    except ConfigError as error:
        assert error.message.startswith("test: ")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "pair.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        config.load(path)
