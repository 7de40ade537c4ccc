# SPDX-License-Identifier: Apache-2.0
"""The same pair as another server's command line and configuration. Pure; flags are upstream's."""

from collections.abc import Callable, Mapping

from specbuild.config import Config
from specbuild.export import sglang, trtllm_serve, vllm
from specbuild.export.command import Command, Pair, Source

SERVERS: Mapping[str, Callable[[Config, Pair], Command]] = {
    "vllm": vllm.command,
    "sglang": sglang.command,
    "trtllm-serve": trtllm_serve.command,
}
"""Name of a server -> what makes its command. Each raises ConfigError for what the server cannot do."""

__all__ = ["SERVERS", "Command", "Pair", "Source"]
