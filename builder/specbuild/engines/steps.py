# SPDX-License-Identifier: Apache-2.0
"""From a configuration and two checkpoints to the plan of their TensorRT engines. Pure.

The rules of a draft-target pair are kept here (NVIDIA/TensorRT-LLM, examples/draft_target_model/README.md
at 567239f, tensorrt_llm/commands/build.py at 65f1d15, tensorrt_llm/builder.py at 008b2b8): only the target
is built for draft tokens; both engines have paged context FMHA, so that each round reuses the cached
prefix; and since each round sends prompt and text so far, the longest input is the longest sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from specbuild import artifacts
from specbuild.config import Config, Model
from specbuild.engines import contracts
from specbuild.engines.families import FAMILIES, Family
from specbuild.engines.plan import Expected, Plan, Step
from specbuild.engines.quantization import AWQ_GROUP, CALIBRATION_NAMES, FORMATS, Capability, engine_rows
from specbuild.pairing.finding import ModelName

_FORMAT = 1
"""Raised when the meaning of a key changes, so that older outputs are made again."""
TOKENS_PER_BLOCK = 32
DEFAULT_NUM_TOKENS = 8192
"""trtllm-build's own default of --max_num_tokens."""
MAX_NUM_TOKENS = 16384
"""More costs activation memory for nothing; longer prompts are prefilled in chunks."""
_ONLINE: Mapping[str, str] = {"PYTHONUNBUFFERED": "1"}
"""Output reaches the log as it is written."""
_OFFLINE: Mapping[str, str] = {**_ONLINE, "HF_HUB_OFFLINE": "1"}
_MODES = contracts.document("engine_config")["speculative_decoding_mode"]


@dataclass(frozen=True, slots=True)
class Source:
    """The facts of one checkpoint that its steps depend on."""

    folder: Path
    model_type: str
    dtype: str
    """As the weights are stored."""
    vocab_size: int
    hidden_size: int
    parameters: int
    digest: str
    """A sha256 over every byte of the checkpoint."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Where the programs are, on this machine or in an image."""

    python: str
    trtllm_build: str
    examples: PurePosixPath
    """TensorRT-LLM's examples folder."""
    python_path: PurePosixPath | None = None
    """Where ``import examples`` finds that folder: converters of 2026 import a module of it."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What every step of one model needs to know."""

    role: ModelName
    options: Model
    source: Source
    settings: Config
    tools: Toolchain
    capability: Capability | None
    calibration: str | None

    @property
    def family(self) -> Family:
        return FAMILIES[self.source.model_type]

    @property
    def world(self) -> int:
        return self.options.tp_size * self.options.pp_size

    @property
    def dtype(self) -> str:
        """The compute type. float32 weights become float16, as the converters do by themselves."""
        dtype = self.source.dtype if self.options.dtype == "auto" else self.options.dtype
        return "float16" if dtype == "float32" else dtype

    @property
    def draft_length(self) -> int:
        """Draft tokens that the engine verifies: none in the draft."""
        return self.settings.speculation.draft_length if self.role == "target" else 0


def plan(
    settings: Config,
    sources: Mapping[ModelName, Source],
    tools: Toolchain,
    capability: Capability | None,
    *,
    calibration: str | None = None,
) -> Plan:
    """The steps for both models of a pair that ``pairing`` has found no error in.

    ``capability`` is None where there is no GPU to ask: such a plan can be shown, its keys never match.
    ``calibration`` is a sha256 over ``calibration_folder``, where there is one.
    """
    options: dict[ModelName, Model] = {"target": settings.target, "draft": settings.draft}
    jobs = [
        _Job(role, options[role], source, settings, tools, capability, calibration)
        for role, source in sources.items()
    ]
    steps: list[Step] = []
    for job in jobs:
        checkpoint = _checkpoint_step(job)
        steps += [checkpoint, _build_step(job, checkpoint)]
    return Plan(tuple(steps), {job.role: _expected(job) for job in jobs})


def _checkpoint_step(job: _Job) -> Step:
    """Hugging Face weights → TensorRT-LLM weights, one file per rank, quantised where asked."""
    folder = (job.settings.output / "checkpoints" / job.role).absolute()
    quantization = job.options.quantization
    calibrate = quantization is not None and quantization not in job.family.converts
    arguments = _quantize(job, folder) if calibrate else _convert(job, folder)
    script = "quantization/quantize.py" if calibrate else job.family.converter
    contract: contracts.Tool = "quantize" if calibrate else job.family.contract
    data = calibration_folder(job.settings) if calibrate else None
    source = [job.source.digest, *([job.calibration] if data else [])]
    return Step(
        name=f"{job.role}-{'quantize' if calibrate else 'convert'}",
        model=job.role,
        argv=(job.tools.python, str(job.tools.examples / script), *arguments),
        env=_script_env(job, offline=not calibrate or data is not None),
        inputs=(job.source.folder.absolute(), *([data] if data else [])),
        outputs=_files(folder, job.world, "safetensors"),
        # Integer weights are laid out for the GPU that they are meant for.
        key=_key(job, contract, arguments, source, on_gpu=quantization is not None),
    )


def _script_env(job: _Job, *, offline: bool) -> dict[str, str]:
    place = job.tools.python_path
    return {**(_OFFLINE if offline else _ONLINE), **({"PYTHONPATH": str(place)} if place else {})}


def _convert(job: _Job, folder: Path) -> list[str]:
    family, options = job.family, job.options
    arguments = ["--model_dir", str(job.source.folder.absolute()), "--output_dir", str(folder)]
    arguments += [*family.arguments, "--dtype", job.dtype, family.tensor_parallel_flag, str(options.tp_size)]
    if family.pipeline_parallel:
        arguments += ["--pp_size", str(options.pp_size)]
    return arguments + list(family.converts[options.quantization] if options.quantization else ())


def _quantize(job: _Job, folder: Path) -> list[str]:
    options, quantization = job.options, job.options.quantization
    assert quantization is not None
    arguments = ["--model_dir", str(job.source.folder.absolute()), "--output_dir", str(folder)]
    arguments += ["--dtype", job.dtype, "--qformat", quantization]
    arguments += ["--tp_size", str(options.tp_size), "--pp_size", str(options.pp_size)]
    data = calibration_folder(job.settings) or job.settings.tensorrt_llm.calibration_dataset
    arguments += ["--calib_dataset", str(data)]
    if FORMATS[quantization].groups:
        arguments += ["--awq_block_size", str(AWQ_GROUP)]
    if job.settings.kv_cache.dtype != "auto":
        arguments += ["--kv_cache_dtype", job.settings.kv_cache.dtype]
    return arguments


def calibration_folder(settings: Config) -> Path | None:
    """The data set's folder; None when quantize.py knows the set by name and downloads it."""
    dataset = settings.tensorrt_llm.calibration_dataset
    return None if dataset in CALIBRATION_NAMES else Path(dataset).expanduser().absolute()


def _build_step(job: _Job, checkpoint: Step) -> Step:
    """TensorRT-LLM weights → one engine per rank."""
    folder = (job.settings.engines_dir / job.role).absolute()
    arguments = ["--checkpoint_dir", str(checkpoint.folder), "--output_dir", str(folder)]
    # By default the timing cache goes to the working directory, which need not be writable.
    arguments += ["--output_timing_cache", str(folder / "model.cache"), "--workers", str(job.world)]
    arguments += [*_limits(job), *_attention(job), *_speculation(job)]
    return Step(
        name=f"{job.role}-build",
        model=job.role,
        argv=(job.tools.trtllm_build, *arguments),
        env=_OFFLINE,
        inputs=(checkpoint.folder,),
        outputs=_files(folder, job.world, "engine"),
        key=_key(job, "trtllm_build", arguments, [checkpoint.key], on_gpu=True),
    )


def _limits(job: _Job) -> list[str]:
    limits = job.settings.limits
    sizes = {
        "--max_batch_size": limits.max_batch_size,
        "--max_input_len": limits.max_seq_len,
        "--max_seq_len": limits.max_seq_len,
        "--max_num_tokens": num_tokens(job.settings),
        "--max_beam_width": 1,
    }
    return [word for flag, size in sizes.items() for word in (flag, str(size))]


def num_tokens(settings: Config) -> int:
    """Tokens of all requests that one pass computes, the same for both engines.

    Enough for the longest prompt in one piece up to ``MAX_NUM_TOKENS``, and for the verification of a full
    batch; never more than the builder accepts, a batch of full sequences.
    """
    limits = settings.limits
    verification = limits.max_batch_size * (settings.speculation.draft_length + 1)
    prompt = min(max(DEFAULT_NUM_TOKENS, limits.max_seq_len), MAX_NUM_TOKENS)
    return max(verification, min(prompt, limits.max_seq_len * limits.max_batch_size))


def _attention(job: _Job) -> list[str]:
    flags = {
        "--kv_cache_type": "paged",
        "--remove_input_padding": "enable",
        "--context_fmha": "enable",
        "--use_paged_context_fmha": "enable",
        "--tokens_per_block": str(TOKENS_PER_BLOCK),
        "--gemm_plugin": "nvfp4" if job.options.quantization == "nvfp4" else "auto",
    }
    if job.settings.kv_cache.dtype == "fp8":
        flags["--use_fp8_context_fmha"] = "enable"
    return [word for pair in flags.items() for word in pair]


def _speculation(job: _Job) -> list[str]:
    arguments = []
    if job.settings.speculation.acceptance == "logits":
        arguments += ["--gather_generation_logits", "--logits_dtype", "float32"]
    if job.draft_length:
        arguments += ["--speculative_decoding_mode", "draft_tokens_external"]
        arguments += ["--max_draft_len", str(job.draft_length)]
    return arguments


def _files(folder: Path, world: int, suffix: str) -> tuple[Path, ...]:
    return (folder / "config.json", *(folder / f"rank{rank}.{suffix}" for rank in range(world)))


_IRRELEVANT = frozenset(
    {
        *("--model_dir", "--model-dir", "--output_dir", "--output-model-dir", "--checkpoint_dir"),
        *("--output_timing_cache", "--workers"),
    }
)


def _key(
    job: _Job, tool: contracts.Tool, arguments: Sequence[str], source: Sequence[str | None], *, on_gpu: bool
) -> str:
    """The content key of a step; places and the number of workers do not change what comes out.

    ``source`` are the digests of what is read. Raises ValueError when ``tool`` would refuse ``arguments``,
    which no configuration should bring about.
    """
    flags: dict[str, Any] = contracts.parse(tool, arguments)
    irrelevant = _IRRELEVANT | ({"--calib_dataset"} if calibration_folder(job.settings) else set())
    return artifacts.content_key(
        {
            "format": _FORMAT,
            "tool": tool,
            "flags": {name: value for name, value in flags.items() if name not in irrelevant},
            "source": list(source),
            "tensorrt_llm": job.settings.tensorrt_llm.version,
            "compute_capability": job.capability if on_gpu else None,
        }
    )


def _expected(job: _Job) -> Expected:
    settings, options = job.settings, job.options
    kv_cache = settings.kv_cache.dtype
    return Expected(
        version=settings.tensorrt_llm.version,
        speculative_decoding_mode=_MODES["DRAFT_TOKENS_EXTERNAL" if job.draft_length else "NONE"],
        max_draft_len=job.draft_length,
        max_batch_size=settings.limits.max_batch_size,
        max_input_len=settings.limits.max_seq_len,
        max_seq_len=settings.limits.max_seq_len + job.draft_length,
        max_num_tokens=num_tokens(settings),
        vocab_size=engine_rows(job.source.vocab_size, options.quantization),
        tp_size=options.tp_size,
        pp_size=options.pp_size,
        dtype=job.dtype,
        quant_algo=FORMATS[options.quantization].algorithm if options.quantization else None,
        kv_cache_quant_algo=None if kv_cache == "auto" else kv_cache.upper(),
        tokens_per_block=TOKENS_PER_BLOCK,
    )
