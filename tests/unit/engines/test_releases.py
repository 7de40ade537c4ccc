# SPDX-License-Identifier: Apache-2.0
"""Which TensorRT-LLM builds engines, and which image has it."""

from __future__ import annotations

import pytest

from specbuild.engines import releases
from specbuild.engines.releases import Release


@pytest.mark.parametrize("version", ["1.0.0", "1.0.3.2510", "1.1.0", "1.2.0", "1.2.1", "1.2.7", "1.3.0rc15"])
def test_releases_with_engines_are_accepted(version: str) -> None:
    assert releases.refusal(version) is None


@pytest.mark.parametrize("version", ["1.3.0rc22", "1.3.0rc23.post1", "1.3.0", "1.4.0rc0", "2.0.0"])
def test_releases_after_the_removal_are_refused(version: str) -> None:
    sentence = releases.refusal(version)
    assert sentence
    assert "builds no engines" in sentence
    assert "runtime: llmapi" in sentence


@pytest.mark.parametrize("version", ["0.21.0", "0.17.0.post1"])
def test_releases_before_one_are_refused_with_an_image(version: str) -> None:
    assert "tritonserver:" in (releases.refusal(version) or "")


def test_candidates_sort_before_their_release() -> None:
    order = ["1.2.1", "1.3.0rc2", "1.3.0rc15", "1.3.0rc22", "1.3.0", "1.4.0rc0"]
    parsed = [Release.parse(text) for text in order]
    assert parsed == sorted(parsed)


def test_a_container_patch_is_the_same_release() -> None:
    assert releases.same("1.0.3.2510", "1.0.3")
    assert not releases.same("1.2.1", "1.2.0")


def test_the_newest_image_of_a_version_is_named() -> None:
    assert releases.image_with("1.1.0") == "nvcr.io/nvidia/tritonserver:26.02-trtllm-python-py3"
    assert releases.version_in("nvcr.io/nvidia/tritonserver:25.11-trtllm-python-py3") == "1.0.3.2510"
    assert releases.version_in("example.org/own:latest") is None


def test_a_version_without_an_image_has_none() -> None:
    assert releases.newest_image("1.3.0rc15") is None
    assert releases.image_with("1.3.0rc15") == releases.newest_image("1.2.1")


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(ValueError, match="not a version"):
        Release.parse("latest")
