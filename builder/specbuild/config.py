# SPDX-License-Identifier: Apache-2.0
"""The configuration file as frozen pydantic models.

``load`` turns a YAML file and ``--set`` overrides into a ``Config``; every mistake becomes a
``ConfigError`` that names the place. The YAML itself is read by ``specbuild.yamlfile``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from specbuild import yamlfile
from specbuild.errors import ConfigError
from specbuild.suggest import did_you_mean

Runtime = Literal["tensorrt_llm", "llmapi", "torch"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal[
    "fp8", "fp8_pc_pt", "nvfp4", "int4_awq", "w4a8_awq", "int8_sq", "int8_wo", "int4_wo"
]  # the values of quantize.py's --qformat; full_prec is written as null

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00\n\r]+$")]


def _plain_path(path: Path) -> Path:
    if not str(path) or any(character in str(path) for character in "\x00\n\r"):
        raise ValueError("must be a path without control characters")
    return path


PlainPath = Annotated[Path, AfterValidator(_plain_path)]


class _Section(BaseModel):
    # Not strict as a whole, since YAML has no paths; numbers are, so that "8" or true is refused.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


StrictInt = Annotated[int, Field(strict=True)]
StrictFloat = Annotated[float, Field(strict=True)]
StrictBool = Annotated[bool, Field(strict=True)]


class Model(_Section):
    """One model of the pair."""

    checkpoint: Text
    """A Hugging Face hub id, or a folder with config.json and safetensors."""
    revision: Text | None = None
    """Branch, tag or commit on the hub; ignored for a folder."""
    dtype: Dtype = "auto"
    """What the weights are cast to; auto keeps the checkpoint's own type."""
    quantization: Quantization | None = None
    """Format of the weights in the engine. The torch runtime knows int8_wo, on a GPU: it reads the weights as
    they are and rounds them in the GPU's memory."""
    tp_size: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    """Tensor parallelism, in GPUs."""
    pp_size: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    """Pipeline parallelism, in GPUs."""
    gpus: tuple[Annotated[StrictInt, Field(ge=0, le=1023)], ...] | None = None
    """Which GPUs serve the model (runtime tensorrt_llm): tp_size * pp_size CUDA indices. null takes the first
    ones; target and draft then share them, which is faster than separate GPUs when both fit."""
    trust_remote_code: StrictBool = False
    """Accept a checkpoint that brings its own Python code."""

    @model_validator(mode="after")
    def _gpus_match(self) -> Model:
        needed = self.tp_size * self.pp_size
        if self.gpus is not None and not len(self.gpus) == len(set(self.gpus)) == needed:
            raise ValueError(f"gpus must name tp_size * pp_size = {needed} different GPUs")
        return self


class Speculation(_Section):
    """How the draft speculates for the target."""

    draft_length: Annotated[StrictInt, Field(ge=1, le=64)] = 5
    """Draft tokens per round: the engine's limit (max_draft_len) and each request's default."""
    acceptance: Literal["exact", "logits"] = "exact"
    """exact compares tokens, logits does rejection sampling on the draft's distribution. The torch
    runtime always does rejection sampling: it has both distributions at hand."""
    adaptive: StrictBool = True
    """Shorten, stop and resume drafting by the measured acceptance."""


class Limits(_Section):
    """What one deployment accepts at most."""

    max_batch_size: Annotated[StrictInt, Field(ge=1, le=4096)] = 8
    """Requests decoded together."""
    max_input_len: Annotated[StrictInt, Field(ge=1, le=10_000_000)] = 3072
    """Prompt tokens of one request."""
    max_seq_len: Annotated[StrictInt, Field(ge=2, le=10_000_000)] = 4096
    """Prompt and output tokens of one request together."""

    @model_validator(mode="after")
    def _input_fits(self) -> Limits:
        if self.max_input_len >= self.max_seq_len:
            raise ValueError(
                f"max_input_len ({self.max_input_len}) must be below max_seq_len ({self.max_seq_len}), "
                "which counts prompt and output"
            )
        return self


class KvCache(_Section):
    """Memory of the attention caches (runtimes tensorrt_llm and llmapi)."""

    dtype: Literal["auto", "fp8", "int8"] = "auto"
    """auto is the type of the weights' activations."""
    free_gpu_memory_fraction: Annotated[StrictFloat, Field(gt=0, lt=1)] = 0.9
    """Share of the GPU memory left after loading, for both models' caches together."""
    reuse: StrictBool = True
    """Keep the blocks of earlier prefixes; speculation through Triton needs it."""


class TensorrtLlm(_Section):
    """Where TensorRT-LLM comes from (runtimes tensorrt_llm and llmapi)."""

    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+([a-z0-9.]+)?$")] = "1.2.1"
    """The version that builds and runs the engines; engines do not carry over to another."""
    image: Text = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    """Container image holding that version."""
    execution: Literal["auto", "local", "docker"] = "auto"
    """auto builds locally when that version can be imported, and in the image otherwise."""
    examples_dir: PlainPath | None = None
    """Folder with convert_checkpoint.py's parents, when it is not where the image has it."""
    calibration_dataset: Text = "cnn_dailymail"
    """What quantize.py calibrates on: cnn_dailymail (downloaded), or a folder with a text column."""
    launch: Literal["auto", "leader", "orchestrator", "ranks"] = "auto"
    """How the server runs its engines (runtime tensorrt_llm). orchestrator: one server that spawns a worker
    process for each GPU of each engine; NVIDIA's way to run two engines, and auto's. ranks: the same with
    the workers started by mpirun, which acceptance: logits needs to hand logits from GPU to GPU (auto then).
    leader: one server process for each GPU, both engines on the same GPUs; the shortest way if it works."""
    model_optimizer_dir: PlainPath | None = None
    """Checkout of NVIDIA/Model-Optimizer: hf_ptq.py quantises for llmapi. null is ./Model-Optimizer."""


class LlmApi(_Section):
    """Settings of the llmapi runtime."""

    arguments: dict[str, Any] = {}
    """More arguments of TensorRT-LLM's LLM(), as that release spells them; they win over specbuild's own."""


class Torch(_Section):
    """Settings of the torch runtime."""

    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")] = "auto"
    """auto takes the first GPU that PyTorch sees, and the CPU otherwise."""
    threads: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    """CPU threads of the model; null takes the cores this process may use."""
    prefill_chunk: Annotated[StrictInt, Field(ge=16, le=65536)] = 256
    """Prompt tokens computed between two rounds of the running requests."""


class Serving(_Section):
    """Addresses of the server."""

    http_port: Port = 8000
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")] = "127.0.0.1"
    """Listen address; loopback unless told otherwise, because Triton has no authentication."""
    max_queue_size: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 256
    """Waiting requests beyond which new ones are refused at once."""
    startup_timeout_s: Annotated[StrictInt, Field(ge=1, le=86_400)] = 600
    """How long loading may take until the first answer."""
    tritonserver: PlainPath | None = None
    """The tritonserver program; null looks in PATH, /opt/tritonserver and the nvidia-pytriton wheel."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Serving:
        if len({self.http_port, self.grpc_port, self.metrics_port}) < 3:
            raise ValueError("http_port, grpc_port and metrics_port must differ")
        return self


class Config(_Section):
    """One deployment: a pair, its limits, and where it is built and served."""

    name: Name
    """Name of the deployment; also a folder and file name."""
    runtime: Runtime
    """Who executes the pair."""
    target: Model
    draft: Model
    speculation: Speculation = Speculation()
    limits: Limits = Limits()
    kv_cache: KvCache = KvCache()
    tensorrt_llm: TensorrtLlm = TensorrtLlm()
    llmapi: LlmApi = LlmApi()
    torch: Torch = Torch()
    serving: Serving = Serving()
    output: PlainPath
    """Folder for everything that is built, relative to the working directory."""

    @model_validator(mode="after")
    def _name_is_no_traversal(self) -> Config:
        if ".." in self.name:
            raise ValueError('name must not contain ".."')
        return self

    @property
    def engines_dir(self) -> Path:
        """Holds ``target/`` and ``draft/`` once built."""
        return self.output / "engines"

    @property
    def repository_dir(self) -> Path:
        """The Triton model repository; nothing but model folders may lie in it."""
        return self.output / "repository"

    @property
    def logs_dir(self) -> Path:
        """Logs of builds and servers."""
        return self.output / "logs"


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in ``path`` with ``a.b=value`` overrides applied, validated.

    Raises ConfigError naming the file, the line or key, and what to write instead.
    """
    document = yamlfile.read(path)
    return validate(_override(document, overrides), source=str(path))


def validate(document: Mapping[str, Any], *, source: str) -> Config:
    """``document`` as a Config. Raises ConfigError listing every invalid key."""
    try:
        return Config.model_validate(document)
    except pydantic.ValidationError as error:
        lines = [_explain(detail) for detail in error.errors(include_url=False)]
        raise ConfigError(
            f"{source}: " + "; ".join(lines),
            remedy="Correct the file; `specbuild config schema` describes every key.",
        ) from None


def schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors."""
    return Config.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def _override(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``document`` with each ``a.b=value`` applied; values are read as YAML scalars."""
    result = dict(document)
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(re.fullmatch(r"[a-z0-9_]+", part) for part in parts):
            raise ConfigError(
                f"--set {text!r} is not of the form key.sub=value",
                remedy="Write for example --set speculation.draft_length=4.",
            )
        section = result
        for part in parts[:-1]:
            inner = section.get(part)
            if inner is not None and not isinstance(inner, Mapping):
                raise ConfigError(
                    f"--set {text!r}: {part} is not a section",
                    remedy="`specbuild config show` prints the keys in force.",
                )
            section[part] = dict(inner or {})
            section = section[part]
        section[parts[-1]] = yamlfile.parse_value(value, source=f"--set {key}")
    return result


def _explain(detail: Mapping[str, Any]) -> str:
    """One line for one pydantic error, with a suggestion for an unknown key."""
    location = [str(part) for part in detail["loc"]]
    where = ".".join(location) or "the file"
    if detail["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        return f"unknown key {where}{did_you_mean(location[-1], known)}"
    if detail["type"] == "missing":
        return f"{where} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    value = detail.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) or value is None else ""
    if detail["type"] == "model_type":
        return f"{where}: must be a section with keys of its own{shown[:120]}"
    return f"{where}: {message[:1].lower()}{message[1:]}{shown[:120]}"


def _keys_at(location: Sequence[str]) -> list[str]:
    """The keys that the section at ``location`` may hold."""
    section: type[BaseModel] = Config
    for part in location:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
