# SPDX-License-Identifier: Apache-2.0
"""The processes of a server that runs TensorRT engines: mpirun, its ranks, and what tells the backend; pure.

As NVIDIA's scripts/launch_triton_server.py builds them (NVIDIA/TensorRT-LLM, triton_backend at 0a2e2c12), for
the modes that ``specbuild.repository.placement`` describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from specbuild.repository.placement import ENGINE_MODELS, Placement

Options = Mapping[str, object]
"""Flag without dashes -> value; None is a flag without one, a tuple is a flag given several times."""

_WORKER_OPTIONS: Options = {
    # Only rank 0 answers; the others load the engines and nothing else.
    "model-control-mode": "explicit",
    "load-model": tuple(ENGINE_MODELS.values()),
}


def command(placement: Placement, rank: Callable[[int, Options], list[str]], *, gpu_count: int) -> list[str]:
    """The mpirun command. ``rank`` gives the server's own command for a rank with further options.

    ``gpu_count`` is the number of GPUs that the server can see.
    """
    words = ["mpirun", "--allow-run-as-root"]
    for number in range(placement.processes):
        options = {**(_WORKER_OPTIONS if number else {}), **_memory(placement, gpu_count)}
        words += [*([":"] if number else []), "-n", "1", *rank(number, options)]
    return words


def variables(placement: Placement) -> dict[str, str]:
    """What the backend reads from the environment."""
    if placement.mode == "leader":
        return {}
    spawns = placement.mode == "orchestrator"
    return {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1" if spawns else "0"}


def flags(options: Options) -> Iterator[str]:
    """``options`` as words of a command."""
    for name, value in options.items():
        for each in value if isinstance(value, tuple) else (value,):
            yield f"--{name}" if each is None else f"--{name}={each}"


def _memory(placement: Placement, gpu_count: int) -> dict[str, object]:
    """A process that spawns workers must not hold memory that CUDA and MPI would both want to register."""
    if placement.mode != "orchestrator":
        return {}
    visible = range(max(gpu_count, placement.all_gpus[-1] + 1))
    return {
        "pinned-memory-pool-byte-size": 0,
        "enable-peer-access": "false",
        "cuda-memory-pool-byte-size": tuple(f"{gpu}:0" for gpu in visible),
    }
