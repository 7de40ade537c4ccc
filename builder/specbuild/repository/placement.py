# SPDX-License-Identifier: Apache-2.0
"""Which GPUs and processes run the two engines; decided once, for the repository and for the launch.

The modes are TensorRT-LLM's (tensorrtllm_backend, docs/llama_multi_instance.md and README "Leader Mode",
"Orchestrator Mode" at v0.19.0; examples/draft_target_model/README.md at 567239f of NVIDIA/TensorRT-LLM):

- orchestrator: one server, which spawns a worker process for each GPU of each engine. One node only.
- ranks: the same with workers that mpirun starts. Rank 0 is the orchestrator, then come the draft's ranks,
  then the target's. Only here can an engine hand draft logits to the other from GPU to GPU (fast logits).
- leader: one server process for each GPU, rank 0 answering. Each engine must span all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from specbuild.config import Config, Model
from specbuild.errors import ConfigError

Role = Literal["target", "draft"]
Mode = Literal["leader", "orchestrator", "ranks"]
ENGINE_MODELS: Mapping[Role, str] = {"target": "tensorrt_llm", "draft": "tensorrt_llm_draft"}
"""The Triton model of each engine, by NVIDIA's names."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the engines of one server run."""

    mode: Mode
    gpus: Mapping[Role, tuple[int, ...]]
    """CUDA indices."""
    ranks: Mapping[Role, tuple[int, ...]]
    """MPI ranks of each engine's workers; empty unless they are started by mpirun beside the orchestrator."""
    processes: int
    """Server processes that mpirun starts."""
    fast_logits: bool
    """Whether the draft's logits go to the target from GPU to GPU."""

    @property
    def shared(self) -> bool:
        """Whether some GPU runs both engines."""
        return not set(self.gpus["target"]).isdisjoint(self.gpus["draft"])

    @property
    def all_gpus(self) -> tuple[int, ...]:
        """Every GPU in use, in order."""
        return tuple(sorted({*self.gpus["target"], *self.gpus["draft"]}))


def place(settings: Config) -> Placement:
    """The placement that ``settings`` ask for. Raises ConfigError when leader mode cannot run the pair."""
    models: dict[Role, Model] = {"target": settings.target, "draft": settings.draft}
    gpus = {role: model.gpus or tuple(range(_world(model))) for role, model in models.items()}
    mode = _mode(settings)
    if mode == "leader":
        _require_equal(gpus)
        return Placement(mode, gpus, {}, processes=len(gpus["target"]), fast_logits=False)
    if mode == "orchestrator":
        return Placement(mode, gpus, {}, processes=1, fast_logits=False)
    draft_end = 1 + len(gpus["draft"])
    end = draft_end + len(gpus["target"])
    ranks: dict[Role, tuple[int, ...]] = {
        "draft": tuple(range(1, draft_end)),
        "target": tuple(range(draft_end, end)),
    }
    fast_logits = settings.speculation.acceptance == "logits"
    return Placement(mode, gpus, ranks, processes=end, fast_logits=fast_logits)


def _mode(settings: Config) -> Mode:
    wanted = settings.tensorrt_llm.launch
    if wanted != "auto":
        return wanted
    return "ranks" if settings.speculation.acceptance == "logits" else "orchestrator"


def _world(model: Model) -> int:
    return model.tp_size * model.pp_size


def _require_equal(gpus: Mapping[Role, tuple[int, ...]]) -> None:
    if gpus["target"] != gpus["draft"]:
        listed = {role: ",".join(map(str, indices)) for role, indices in gpus.items()}
        raise ConfigError(
            "tensorrt_llm.launch: leader needs both engines on the same GPUs, but the target has "
            f"{listed['target']} and the draft {listed['draft']}",
            remedy="Set tensorrt_llm.launch: orchestrator, or give both models the same tp_size and gpus.",
        )
