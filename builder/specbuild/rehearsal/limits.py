# SPDX-License-Identifier: Apache-2.0
"""What an engine's model promises, read from its config.pbtxt and the engine folder that it names.

Refuses what NVIDIA's backend refuses when it loads, and also what it would silently ignore: a tensor or a
parameter that it does not know is a mistake in a repository that specbuild wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbuild.errors import EngineError
from specbuild.repository import contracts
from specbuild.repository.engine_facts import EngineFacts

_REMEDY = "Write the repository again: `specbuild repository --config FILE`."


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """One engine as its model presents it."""

    folder: Path
    decoupled: bool
    exclude_input: bool
    reuse: bool
    cancel_poll_s: float
    max_queue_size: int
    """0 is unlimited."""
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_draft_len: int
    max_beam_width: int
    max_num_tokens: int
    generation_logits: bool
    tokens_per_block: int
    vocab_size: int


def read(model: Mapping[str, Any]) -> EngineLimits:
    """The limits of ``model``, Triton's model configuration as JSON. Raises EngineError."""
    parameters = _parameters(model)
    _require_known(model, parameters)
    folder = Path(parameters.get("gpt_model_path", ""))
    if not parameters.get("gpt_model_path") or not folder.exists():
        raise EngineError(
            f"Decoder (GPT) model path at {folder} does not exist.", remedy="Build the engines."
        )
    engine = EngineFacts.read(folder)
    queue = model.get("dynamic_batching", {}).get("default_queue_policy", {}).get("max_queue_size", 0)
    return EngineLimits(
        folder=folder,
        decoupled=bool(model.get("model_transaction_policy", {}).get("decoupled")),
        exclude_input=_flag(parameters, "exclude_input_in_output"),
        reuse=_flag(parameters, "enable_kv_cache_reuse", default=True),
        cancel_poll_s=int(parameters.get("cancellation_check_period_ms", "100")) / 1000,
        max_queue_size=int(queue),
        max_batch_size=engine.max_batch_size,
        max_input_len=engine.max_input_len,
        max_seq_len=engine.max_seq_len,
        max_draft_len=engine.max_draft_len if engine.verifies_drafts else 0,
        max_beam_width=min(engine.max_beam_width, int(parameters.get("max_beam_width", "1"))),
        max_num_tokens=engine.max_num_tokens,
        generation_logits=engine.generation_logits,
        tokens_per_block=engine.tokens_per_block,
        vocab_size=engine.vocab_size,
    )


def _parameters(model: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that are set: an unfilled placeholder is not."""
    values = {key: value["string_value"] for key, value in model.get("parameters", {}).items()}
    return {key: value for key, value in values.items() if value and not value.startswith("${")}


def _flag(parameters: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    return contracts.boolean(parameters[key]) if key in parameters else default


def _require_known(model: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
    known = {"input": contracts.inputs(), "output": contracts.outputs()}
    for side, tensors in known.items():
        for tensor in model.get(side, []):
            contract = tensors.get(tensor["name"])
            if contract is None or not contract.accepts(tensor["data_type"]):
                raise EngineError(
                    f"the backend has no {side} {tensor['name']} of type {tensor['data_type']}",
                    remedy=_REMEDY,
                )
    for key, value in parameters.items():
        if key not in contracts.parameters():
            raise EngineError(f"the backend has no parameter {key}", remedy=_REMEDY)
        complaint = contracts.parameters()[key].complaint(value)
        if complaint is not None:
            raise EngineError(f"parameter {key}: {complaint}", remedy=_REMEDY)
