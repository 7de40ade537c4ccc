# SPDX-License-Identifier: Apache-2.0
"""Where engines run: GPUs, MPI ranks, and the launch that fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specbuild.config import Config
from specbuild.errors import ConfigError, MissingDependencyError
from specbuild.repository.placement import place
from specbuild.server import argv, preview
from specbuild.server.installation import Installation, require
from specbuild.server.launch import mode_variables
from support.trt_engines import settings_for


@pytest.fixture
def image(tmp_path: Path) -> Installation:
    """An installation as in NVIDIA's image: with the compiled backend."""
    (tmp_path / "opt" / "backends" / "tensorrtllm").mkdir(parents=True)
    (tmp_path / "opt" / "bin").mkdir()
    (tmp_path / "opt" / "bin" / "tritonserver").touch()
    return Installation(tmp_path / "opt" / "bin" / "tritonserver", None, (), ())


def settings(**sections: Any) -> Config:
    return settings_for(Path("build"), **sections)


def ranks(command: list[str]) -> list[list[str]]:
    """The server's command of each rank."""
    assert command[:2] == ["mpirun", "--allow-run-as-root"]
    parts: list[list[str]] = [[]]
    for word in command[2:]:
        if word == ":":
            parts.append([])
        else:
            parts[-1].append(word)
    assert all(part[:2] == ["-n", "1"] for part in parts)
    return [part[2:] for part in parts]


def test_both_engines_share_the_first_gpu_unless_told_otherwise() -> None:
    placement = place(settings())
    assert placement.gpus == {"target": (0,), "draft": (0,)}
    assert placement.shared
    assert not place(settings(draft={"gpus": [1]})).shared


def test_a_small_draft_shares_one_of_the_targets_gpus() -> None:
    placement = place(settings(target={"tp_size": 2, "pp_size": 2}))
    assert placement.gpus == {"target": (0, 1, 2, 3), "draft": (0,)}
    assert placement.all_gpus == (0, 1, 2, 3)


def test_nvidias_example_with_fast_logits() -> None:
    """Its README: the draft on GPU 0, the target on 1 and 2; ranks 1 and 2,3; world size 4."""
    placement = place(
        settings(
            target={"tp_size": 2, "gpus": [1, 2]},
            draft={"gpus": [0]},
            speculation={"acceptance": "logits"},
        )
    )
    assert placement.mode == "ranks"
    assert placement.ranks == {"draft": (1,), "target": (2, 3)}
    assert placement.processes == 4
    assert placement.fast_logits


def test_logits_without_pre_started_ranks_take_the_slow_way() -> None:
    placement = place(settings(speculation={"acceptance": "logits"}, tensorrt_llm={"launch": "orchestrator"}))
    assert (placement.processes, placement.fast_logits) == (1, False)


def test_leader_mode_needs_engines_of_equal_extent() -> None:
    assert place(settings(tensorrt_llm={"launch": "leader"})).processes == 1
    both = {"tp_size": 2}
    assert place(settings(target=both, draft=both, tensorrt_llm={"launch": "leader"})).processes == 2
    with pytest.raises(ConfigError, match=r"the target has 0,1 and the draft 0"):
        place(settings(target=both, tensorrt_llm={"launch": "leader"}))


@pytest.mark.parametrize("gpus", [[0], [0, 0], [0, 1, 2]])
def test_gpus_must_be_as_many_as_the_engine_has_ranks(gpus: list[int]) -> None:
    with pytest.raises(ValueError, match="must name tp_size \\* pp_size = 2 different GPUs"):
        settings(target={"tp_size": 2, "gpus": gpus})


def test_one_gpu_is_an_orchestrator_that_spawns_its_workers(image: Installation) -> None:
    command = ranks(argv(settings(), image, shm_prefix="p-", gpu_count=2))
    assert len(command) == 1
    assert {
        "--pinned-memory-pool-byte-size=0",
        "--enable-peer-access=false",
        "--cuda-memory-pool-byte-size=0:0",
        "--cuda-memory-pool-byte-size=1:0",
    } <= set(command[0])
    assert mode_variables(settings(), image) == {
        "TRTLLM_ORCHESTRATOR": "1",
        "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1",
    }


def test_every_gpu_of_the_engines_is_counted_even_if_none_is_seen(image: Installation) -> None:
    [command] = ranks(argv(settings(target={"tp_size": 2, "gpus": [2, 3]}), image))
    pools = [word for word in command if word.startswith("--cuda-memory-pool")]
    assert pools == [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(4)]


def test_tensor_parallel_in_leader_mode_is_a_server_for_each_gpu(image: Installation) -> None:
    both = {"tp_size": 2}
    deployment = settings(target=both, draft=both, tensorrt_llm={"launch": "leader"})
    first, second = ranks(argv(deployment, image, shm_prefix="p-"))
    assert "--model-control-mode=none" in first
    assert {"--model-control-mode=explicit", "--load-model=tensorrt_llm"} <= set(second)
    assert "--load-model=tensorrt_llm_draft" in second
    assert mode_variables(deployment, image) == {}


def test_pre_started_ranks_get_shared_memory_of_their_own_under_one_prefix(image: Installation) -> None:
    deployment = settings(tensorrt_llm={"launch": "ranks"})
    commands = ranks(argv(deployment, image, shm_prefix="p-"))
    prefixes = [word.rpartition("=")[2] for command in commands for word in command if "shm-region" in word]
    assert prefixes == ["p-0-", "p-1-", "p-2-"]
    assert mode_variables(deployment, image)["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] == "0"
    assert not [word for command in commands for word in command if "memory-pool" in word]


def test_a_backend_written_in_python_needs_no_mpi(image: Installation) -> None:
    (image.backend("tensorrtllm") / "model.py").touch()
    assert argv(settings(), image)[0] == str(image.executable)
    assert mode_variables(settings(), image) == {}
    require(settings(), image, {"PATH": ""})


def test_other_runtimes_need_no_mpi(image: Installation) -> None:
    deployment = settings().model_copy(update={"runtime": "llmapi"})
    assert argv(deployment, image)[0] == str(image.executable)


def test_what_is_missing_is_said_before_the_server_starts(image: Installation, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="mpirun is not in PATH"):
        require(settings(), image, {"PATH": str(tmp_path)})
    bare = Installation(tmp_path / "bin" / "tritonserver", tmp_path, (), ())
    with pytest.raises(MissingDependencyError, match="has no backend tensorrtllm"):
        require(settings(), bare, {})


def test_a_preview_is_for_nvidias_image_where_nothing_here_can_run_it(tmp_path: Path) -> None:
    text = preview(settings(), {"PATH": str(tmp_path)}, gpu_count=0)
    head, command = text.splitlines()
    assert head == f"# in {settings().tensorrt_llm.image}"
    assert command.startswith("env TRTLLM_ORCHESTRATOR=1 ")
    assert " mpirun --allow-run-as-root -n 1 /opt/tritonserver/bin/tritonserver " in command
