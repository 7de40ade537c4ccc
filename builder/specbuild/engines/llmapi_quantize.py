# SPDX-License-Identifier: Apache-2.0
"""Quantised Hugging Face checkpoints, made by ModelOpt's hf_ptq.py. Planning is pure.

The LLM API loads what hf_ptq.py exports as it is. The script is an example of NVIDIA/Model-Optimizer and in
no image; the library it uses, nvidia-modelopt, comes with TensorRT-LLM.
"""

from __future__ import annotations

from pathlib import Path

from specbuild import artifacts
from specbuild.checkpoint import Checkpoint
from specbuild.checkpoint.model_config import CONFIG, MODELOPT_CONFIG
from specbuild.config import Config
from specbuild.engines import contracts, modelopt
from specbuild.engines.plan import Step
from specbuild.errors import MissingDependencyError
from specbuild.pairing.finding import ModelName

_FORMAT = 1


def step(role: ModelName, checkpoint: Checkpoint, settings: Config, program: tuple[str, Path]) -> Step:
    """The run of hf_ptq.py that writes the quantised model into ``engines_dir/role``.

    ``program`` is the Python to run and the script.
    """
    model = settings.target if role == "target" else settings.draft
    assert model.quantization is not None
    python, script = program
    folder = (settings.engines_dir / role).absolute()
    source = checkpoint.folder.absolute()
    arguments = ["--pyt_ckpt_path", str(source), "--export_path", str(folder)]
    arguments += ["--qformat", modelopt.FORMATS[model.quantization]]
    arguments += ["--kv_cache_qformat", "none" if settings.kv_cache.dtype == "auto" else "fp8"]
    arguments += ["--dataset", settings.tensorrt_llm.calibration_dataset]
    if model.trust_remote_code:
        arguments.append("--trust_remote_code")
    return Step(
        name=f"{role}-quantize",
        model=role,
        argv=(python, str(script), *arguments),
        env={"PYTHONUNBUFFERED": "1"},
        inputs=(source, script.parent),
        outputs=(folder / CONFIG, folder / MODELOPT_CONFIG),
        key=_key(arguments, [checkpoint.content_digest(), _digest(script)], settings),
    )


def _digest(script: Path) -> str | None:
    """Another release of the script may quantise otherwise; None for a plan where there is none."""
    return artifacts.sha256(script) if script.is_file() else None


def _key(arguments: list[str], source: list[str | None], settings: Config) -> str:
    """Places do not change what comes out. Raises ValueError on arguments that hf_ptq.py would refuse."""
    flags = contracts.parse("hf_ptq", arguments)
    chosen = {name: value for name, value in flags.items() if not name.endswith("_path")}
    version = settings.tensorrt_llm.version
    return artifacts.content_key({"format": _FORMAT, "flags": chosen, "source": source, "version": version})


def find_script(settings: Config, *, required: bool) -> Path:
    """hf_ptq.py in the Model-Optimizer checkout; unless ``required``, where it would be is enough.

    Raises MissingDependencyError.
    """
    checkout = (settings.tensorrt_llm.model_optimizer_dir or Path("Model-Optimizer")).expanduser().absolute()
    places = [checkout / folder / "hf_ptq.py" for folder in modelopt.FOLDERS]
    found = next((place for place in places if place.is_file()), None)
    if found is None and required:
        raise MissingDependencyError(
            f"quantising for the LLM API needs hf_ptq.py, which is not in {checkout}",
            remedy=f"git clone -b {modelopt.RELEASE} --depth 1 https://github.com/NVIDIA/Model-Optimizer, "
            "and set tensorrt_llm.model_optimizer_dir to it; or name a checkpoint that is quantised already "
            "(NVIDIA publishes many) and set quantization: null.",
        )
    return found or places[-1]
