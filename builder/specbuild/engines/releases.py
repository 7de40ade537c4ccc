# SPDX-License-Identifier: Apache-2.0
"""Releases of TensorRT-LLM: which of them build engines, and which image has which.

Engines were removed from main between 1.3.0rc21 and 1.3.0rc23 (pull requests 15763, 15907, 15918,
16369 of NVIDIA/TensorRT-LLM); 1.2.1 is the last stable release that has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from specbuild.engines import contracts

RECOMMENDED = "1.2.1"
_FINAL = 1 << 30


@total_ordering
@dataclass(frozen=True, slots=True)
class Release:
    """A version such as 1.2.1, 1.3.0rc15 or 1.0.3.2510 (a container's patch of 1.0.3)."""

    numbers: tuple[int, int, int]
    candidate: int = _FINAL
    """Number of the release candidate; a final release sorts after all of them."""

    @classmethod
    def parse(cls, text: str) -> Release:
        """The release that ``text`` names. Raises ValueError when it is none."""
        match = re.match(r"(\d+)\.(\d+)\.(\d+)(?:rc(\d+))?", text)
        if match is None:
            raise ValueError(f"{text!r} is not a version of TensorRT-LLM")
        major, minor, patch, candidate = match.groups()
        numbers = (int(major), int(minor), int(patch))
        return cls(numbers, _FINAL if candidate is None else int(candidate))

    def __lt__(self, other: Release) -> bool:
        return (self.numbers, self.candidate) < (other.numbers, other.candidate)

    @property
    def builds_engines(self) -> bool:
        """Whether trtllm-build and the converters are part of it."""
        return self < _WITHOUT_ENGINES

    @property
    def has_known_flags(self) -> bool:
        """Whether the flags that specbuild writes are those of this release."""
        return self >= _FIRST_SUPPORTED


_FIRST_SUPPORTED = Release((1, 0, 0), 0)
_WITHOUT_ENGINES = Release((1, 3, 0), 22)


def same(one: str, other: str) -> bool:
    """Whether two version strings name the same release; patches of containers and posts are ignored."""
    return Release.parse(one) == Release.parse(other)


def version_in(image: str) -> str | None:
    """The TensorRT-LLM version in an NVIDIA image; None for an image that the table does not know."""
    for row in contracts.document("containers")["rows"]:
        if row["image"] == image:
            return str(row["tensorrt_llm"])
    return None


def newest_image(version: str) -> str | None:
    """The newest Triton image with ``version``; None when there is none."""
    rows = contracts.document("containers")["rows"]
    return next((str(row["image"]) for row in rows if same(row["tensorrt_llm"], version)), None)


def image_with(version: str) -> str:
    """The newest Triton image with ``version``, or the recommended one when none has it."""
    return newest_image(version) or str(newest_image(RECOMMENDED))


def refusal(version: str) -> str | None:
    """One sentence that says why ``version`` cannot build engines and what to use; None when it can."""
    release = Release.parse(version)
    image = image_with(RECOMMENDED)
    if not release.builds_engines:
        return (
            f"TensorRT-LLM {version} builds no engines any more: use {RECOMMENDED} from {image}, "
            "or set runtime: llmapi"
        )
    if not release.has_known_flags:
        return f"TensorRT-LLM {version} is older than 1.0, the first that is supported: use {image}"
    return None
