# SPDX-License-Identifier: Apache-2.0
"""``specbuild bench openai``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specbuild.commands.bench import saving
from specbuild.commands.bench.options import LoadOptions, common, loads, usage
from specbuild.commands.remote import sampling
from specbuild.errors import ConfigError

if TYPE_CHECKING:
    from specclient.bench import Arm, Settings, Workload


@click.command()
@click.option(
    "-u",
    "--url",
    "urls",
    multiple=True,
    required=True,
    metavar="[NAME=]URL",
    help="http://HOST:PORT of an OpenAI-compatible server, or grpc://HOST:PORT of Triton; repeatable.",
)
@click.option("-m", "--model", help="The model's name.  [default: the first that the server lists]")
@click.option(
    "--api-key-variable",
    metavar="NAME",
    default="OPENAI_API_KEY",
    show_default=True,
    help="Environment variable with the bearer token, if the servers want one.",
)
@sampling
@loads
@common("openai")
def openai(
    *,
    urls: tuple[str, ...],
    model: str | None,
    api_key_variable: str,
    fields: dict[str, Any],
    load: LoadOptions,
    workload: Workload,
    random_seed: int,
    warmup_request_count: int,
    goodput: tuple[str, ...],
    gpu_hour_price: float | None,
    output: Path | None,
    artifact_dir: Path,
    as_json: bool,
) -> None:
    """Measure OpenAI-compatible servers (vLLM, SGLang, trtllm-serve), and Triton beside them.

    With several servers the same prompts go to each, alternating, and every one is compared with the
    first. Tokens are counted by the servers.

    \b
    Example:
      specbuild bench openai --url http://127.0.0.1:8000 --concurrency 1,4,16
      specbuild bench openai --url vllm=http://127.0.0.1:8000 --url triton=grpc://127.0.0.1:8001
    """
    from specclient import GenerationParameters
    from specclient.bench import Settings, servers, slo

    with usage():
        settings = Settings(
            url=",".join(urls),
            model=model or "",
            loads=load.points(workload, default="1"),
            **load.length(),
            warmup_request_count=warmup_request_count,
            seed=random_seed,
            parameters=GenerationParameters(**fields),
            workload=workload,
            goodput=slo.limits(goodput),
            gpu_hour_price=gpu_hour_price,
        )
        named = _named(urls)
        token = os.environ.get(api_key_variable)
        outcome = saving.measured(
            "bench openai",
            lambda progress: servers(settings, lambda: _arms(settings, named, model, token), progress),
        )
    saving.finish(outcome, output=output, artifact_dir=artifact_dir, as_json=as_json)


def _named(urls: tuple[str, ...]) -> dict[str, str]:
    """Name -> address; one without a name is called by its host and port."""
    named: dict[str, str] = {}
    for text in urls:
        head, equals, tail = text.partition("=")
        name, address = (head, tail) if equals and "://" not in head else (text.partition("://")[2], text)
        if "@" in address:
            raise ConfigError(
                "an address with a user or key would be in the report",
                remedy="Put the token into the variable that --api-key-variable names.",
            )
        if not name or not address.startswith(("http://", "https://", "grpc://")):
            raise ConfigError(
                f"{text} is no server", remedy="Write [NAME=]http://HOST:PORT, or grpc:// for Triton."
            )
        if name in named:
            raise ConfigError(f"two servers are called {name}", remedy="Give each its own NAME=.")
        named[name] = address
    return named


def _arms(settings: Settings, named: dict[str, str], model: str | None, token: str | None) -> tuple[Arm, ...]:
    from specclient.bench import Arm
    from specclient.bench.targets import OpenAITarget, TritonTarget
    from specclient.protocol import FRONT_MODEL

    return tuple(
        Arm(
            name,
            TritonTarget(address, FRONT_MODEL, timeout=settings.timeout)
            if address.startswith("grpc://")
            else OpenAITarget(address, model, timeout=settings.timeout, token=token),
            settings.parameters.num_draft_tokens,
        )
        for name, address in named.items()
    )
