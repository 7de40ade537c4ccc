# SPDX-License-Identifier: Apache-2.0
"""A machine with TensorRT-LLM, or with docker and its image, in a folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.trtllm_tools import devices

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
_TESTS = Path(__file__).parents[2]
_SCRIPTS = {
    "examples/models/core/llama/convert_checkpoint.py": "convert.llama",
    "examples/models/core/qwen/convert_checkpoint.py": "convert.qwen",
    "examples/models/core/gemma/convert_checkpoint.py": "convert.gemma",
    "examples/quantization/quantize.py": "quantize.main",
    "Model-Optimizer/examples/llm_ptq/hf_ptq.py": "hf_ptq.main",
    "image-bin/trtllm-build": "build.main",
}


@dataclass(frozen=True)
class Machine:
    """Where the stand-ins are, and what a program must see of them."""

    root: Path
    local: bool
    docker: bool

    @property
    def env(self) -> dict[str, str]:
        """The environment of a shell on that machine."""
        places = [self.root / "bin", *([self.root / "image-bin"] if self.local else [])]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "HF_"))}
        env["PATH"] = os.pathsep.join([*map(str, places), "/usr/bin", "/bin"])
        env["PYTHONPATH"] = str(self.root / "site") if self.local else ""
        env["XDG_CACHE_HOME"] = str(self.root / "cache")
        return env

    def fault(self, kind: str | None, **options: Any) -> None:
        """From now on the stand-ins fail in this way; None repairs them."""
        path = self.root / "fault.json"
        if kind is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(json.dumps({"kind": kind, **options}), encoding="utf-8")


def machine(
    root: Path,
    *,
    local: bool = True,
    docker: bool = False,
    version: str = "1.2.1",
    gpus: Sequence[dict[str, Any]] = (devices.H100,) * 4,
) -> Machine:
    """The stand-ins in ``root``: TensorRT-LLM for this Python, docker with NVIDIA's image, or both."""
    for name, function in _SCRIPTS.items():
        _script(root / name, function, root)
    _script(root / "bin" / "nvidia-smi", "devices.main", root)
    if docker:
        _script(root / "bin" / "docker", "docker.main", root)
    (root / "containers").mkdir()
    (root / "version").write_text(version, encoding="utf-8")
    (root / "gpus.json").write_text(json.dumps(list(gpus)), encoding="utf-8")
    (root / "images.json").write_text(json.dumps([IMAGE]), encoding="utf-8")
    info = root / "site" / f"tensorrt_llm-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: tensorrt-llm\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (root / "site" / "tensorrt_llm").mkdir()
    (root / "site" / "tensorrt_llm" / "__init__.py").write_text("raise ImportError('needs a GPU')\n")
    return Machine(root, local, docker)


def _script(path: Path, function: str, root: Path) -> None:
    module, name = function.split(".")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable} -S\nimport sys\nfrom pathlib import Path\nsys.path.insert(0, {str(_TESTS)!r})\n"
        f"from support.trtllm_tools import {module}\n{module}.{name}(Path({str(root)!r}))\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
