# SPDX-License-Identifier: Apache-2.0
"""One model of the pair: transformers' code over our cache and attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from specbuild.errors import EngineError
from specbuild.torch_runtime import attention, device, fused_modules, packed_linear
from specbuild.torch_runtime.attention import Slots
from specbuild.torch_runtime.kv_cache import KvCache
from specbuild.torch_runtime.module_walk import forward_of
from specbuild.torch_runtime.span import Span

AttentionInterface.register(attention.NAME, attention.attend)

# Rotary embeddings whose frequencies change once a sequence outgrows the original window: keys that are
# cached already would no longer fit the new ones.
_GROWING_ROPE = frozenset({"dynamic", "longrope"})


class Decoder:
    """A causal language model with a cache of its own. Load it with ``Decoder.load``."""

    def __init__(self, model: Any, cache: KvCache, where: torch.device) -> None:
        self._forward = forward_of(model, cache.length)
        self._slots = Slots(cache)
        attention.attach(model, self._slots)
        self.device = where
        self.vocab_size: int = model.config.get_text_config().vocab_size

    @classmethod
    def load(cls, folder: Path, *, slots: int, max_seq_len: int, where: torch.device) -> Decoder:
        """The model in ``folder`` (config.json and safetensors), ready for ``slots`` sequences.

        Code from the checkpoint is never run. Raises EngineError if the model cannot be loaded whole,
        does not take a foreign attention function, or has too short a context window.
        """
        model = load_model(folder, max_seq_len, where)
        packed_linear.pack(model)
        with readable_errors(folder):
            decoder = cls(model, KvCache(slots, max_seq_len), where)
            decoder._warm_up()
        return decoder

    def forward(self, tokens: Tensor, spans: Sequence[Span], rows: Tensor | None = None) -> Tensor:
        """Logits [rows, vocab_size] after the tokens of ``spans``, which are packed in ``tokens`` [n].

        ``rows`` picks the tokens whose logits are wanted (None: all of them). The logits are in the
        model's own type. A token that the model does not know, because its vocabulary is padded less
        than its partner's, is read as the last one.
        """
        self._slots.expect(spans, self.device)
        positions = [position for span in spans for position in range(span.start, span.end)]
        known = tokens.clamp(max=self.vocab_size - 1)
        return self._forward(known, torch.tensor(positions, device=self.device), rows)

    def prefill(self, tokens: Sequence[int], slot: int, start: int) -> Tensor:
        """Logits [1, vocab_size] after ``tokens``, which continue the ``start`` ones in ``slot``."""
        last = torch.tensor([len(tokens) - 1], device=self.device)
        span = Span(slot, start, len(tokens))
        return self.forward(torch.tensor(tokens, device=self.device), [span], last)

    def forget(self, slot: int) -> None:
        """Make ``slot`` fit for another request after one whose numbers were not finite."""
        self._slots.cache.clear(slot)

    def _warm_up(self) -> None:
        """Allocate the cache, so that a lack of memory shows while loading and not under a request."""
        with torch.inference_mode():
            self.prefill([0], slot=0, start=0)


def load_model(folder: Path, max_seq_len: int, where: torch.device) -> Any:
    """transformers' model on ``where`` with our attention and fused modules. Raises EngineError."""
    with readable_errors(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _check_window(config.get_text_config(), max_seq_len, folder)
    dtype = device.compute_dtype(_stored_dtype(config), where)
    major = int(transformers.__version__.split(".")[0])
    with readable_errors(folder), _quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            attn_implementation=attention.NAME,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **{"dtype" if major >= 5 else "torch_dtype": dtype},
        )
    if absent := sorted(info["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise EngineError(
            f"{folder} lacks {len(absent)} weights, the first of them {absent[0]}",
            remedy="Download the checkpoint again; `specbuild check` verifies it.",
        )
    if not getattr(model, "_supports_attention_backend", False):
        raise EngineError(
            f"{type(model).__name__} does not let its attention be replaced",
            remedy="Use an architecture that transformers supports with AttentionInterface.",
        )
    with readable_errors(folder):
        fused_modules.fuse(model.requires_grad_(False).eval())
        model.to(where)
    return model


def _stored_dtype(config: Any) -> torch.dtype:
    stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return stored if isinstance(stored, torch.dtype) else torch.float32


def _check_window(config: Any, max_seq_len: int, folder: Path) -> None:
    window = getattr(config, "max_position_embeddings", None)
    if window is not None and max_seq_len > window:
        raise EngineError(
            f"max_seq_len {max_seq_len} exceeds the context window of {folder.name} ({window})",
            remedy=f"Set limits.max_seq_len to at most {window}.",
        )
    for scaling in _rope_settings(config):
        original = scaling.get("original_max_position_embeddings") or window
        if _rope_type(scaling) in _GROWING_ROPE and original is not None and max_seq_len > original:
            raise EngineError(
                f"{folder.name} changes its rotary frequencies beyond {original} tokens",
                remedy=f"Set limits.max_seq_len to at most {original}.",
            )


def _rope_settings(config: Any) -> Iterator[dict[str, Any]]:
    """The rotary settings: one dict, or one for each type of layer (rope_scaling before transformers 5)."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for item in [settings, *settings.values()]:
        if isinstance(item, dict):
            yield item


def _rope_type(scaling: dict[str, Any]) -> Any:
    return scaling.get("rope_type", scaling.get("type"))


@contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in loading the model in ``folder`` into EngineError, but a lack of GPU memory."""
    try:
        yield
    except (EngineError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # transformers, huggingface_hub and safetensors raise dozens of kinds for a damaged checkpoint.
        lines = str(error).strip().splitlines()
        raise EngineError(
            f"{folder} cannot be loaded: {lines[0] if lines else type(error).__name__}",
            remedy="Run `specbuild check`; it names what is missing or damaged.",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar, which does not know whether stderr is a terminal."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
