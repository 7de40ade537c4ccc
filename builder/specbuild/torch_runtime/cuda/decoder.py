# SPDX-License-Identifier: Apache-2.0
"""One model of the pair on a GPU: the same checkpoint, loaded the same way, computed by kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specbuild.errors import EngineError
from specbuild.torch_runtime.cuda.attention_pass import Groups, packed_tokens
from specbuild.torch_runtime.cuda.fused_stack import FusedStack
from specbuild.torch_runtime.cuda.module_stack import ModuleStack
from specbuild.torch_runtime.cuda.state import DeviceState
from specbuild.torch_runtime.decoder import load_model, readable_errors
from specbuild.torch_runtime.kv_cache import aligned
from specbuild.torch_runtime.span import Span


class CudaDecoder:
    """A causal language model with a cache of its own. Load it with ``CudaDecoder.load``."""

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        max_seq_len: int,
        draft_length: int,
        where: torch.device,
        eight_bits: bool = False,
    ) -> None:
        settings = model.config.get_text_config()
        self.device = where
        self.vocab_size: int = settings.vocab_size
        self.fused = FusedStack.fits(model)
        sizes = {
            "slots": slots,
            "longest": max_seq_len,
            "length": aligned(max_seq_len + draft_length + 1),
            "most_tokens": max(2, draft_length + 1),
        }
        self.stack: FusedStack | ModuleStack
        if self.fused:
            self.stack = FusedStack(model, **sizes, eight_bits=eight_bits)
        else:
            self.stack = ModuleStack(model, **sizes)
        if eight_bits and not self.stack.takes_few:
            raise EngineError(
                f"{type(model).__name__} does not run with weights in 8 bits",
                remedy="Set its quantization to null; Llama, Mistral and Qwen2 can have int8_wo.",
            )
        self._shared = settings.num_attention_heads // (
            getattr(settings, "num_key_value_heads", None) or settings.num_attention_heads
        )

    @classmethod
    @torch.inference_mode()
    def load(
        cls,
        folder: Path,
        *,
        slots: int,
        max_seq_len: int,
        draft_length: int,
        where: torch.device,
        eight_bits: bool = False,
    ) -> CudaDecoder:
        """The model in ``folder``, ready for ``slots`` sequences of up to ``max_seq_len`` tokens.

        A slot has room for ``draft_length`` more: a round drafts as many for all its requests, also for one
        that is about to end. ``eight_bits`` rounds the weights (see matrix.py) once they are on the device.
        Raises EngineError as ``Decoder.load`` does.
        """
        model = load_model(folder, max_seq_len, where)
        with readable_errors(folder):
            decoder = cls(
                model,
                slots=slots,
                max_seq_len=max_seq_len,
                draft_length=draft_length,
                where=where,
                eight_bits=eight_bits,
            )
            decoder.prefill([0], slot=0, start=0)
        return decoder

    def forward(self, tokens: Tensor, spans: Sequence[Span], rows: Tensor | None = None) -> Tensor:
        """Logits [rows, vocab_size] after the tokens of ``spans``, which are packed in ``tokens`` [n].

        ``rows`` picks the tokens whose logits are wanted (None: all of them).
        """
        return self.stack.forward(tokens, self._groups(spans), rows)

    def prefill(self, tokens: Sequence[int], slot: int, start: int) -> Tensor:
        """Logits [1, vocab_size] after ``tokens``, which continue the ``start`` ones in ``slot``."""
        last = torch.tensor([len(tokens) - 1], device=self.device)
        span = Span(slot, start, len(tokens))
        return self.forward(torch.tensor(tokens, device=self.device), [span], last)

    def forget(self, slot: int) -> None:
        """Nothing to do: the attention reads no further than a request's own tokens."""

    def _groups(self, spans: Sequence[Span]) -> Groups:
        """``spans`` cut into groups of tokens that one program of the attention takes."""
        size = packed_tokens(self._shared)
        groups: list[tuple[int, int, int, int]] = []
        rows: list[tuple[int, int]] = []
        for span in spans:
            for start in range(span.start, span.end, size):
                groups.append((span.slot, start, len(rows) + start - span.start, min(size, span.end - start)))
            rows += [(span.slot, position) for position in range(span.start, span.end)]
        flat = torch.tensor(
            [number for group in groups for number in group] + [number for row in rows for number in row],
            dtype=torch.int32,
        ).to(self.device, non_blocking=True)
        by_group = flat[: 4 * len(groups)].view(-1, 4).T.contiguous()
        by_row = flat[4 * len(groups) :].view(-1, 2).T.contiguous()
        return Groups(
            count=len(groups),
            tokens=size,
            shift=0,
            slots=by_group[0],
            positions=by_group[1],
            row_slots=by_row[0],
            row_positions=by_row[1],
            row_tokens=1,
            firsts=by_group[2],
            counts=by_group[3],
        )


def groups_of(state: DeviceState, requests: int, tokens: int, shift: int) -> Groups:
    """The next ``tokens`` tokens of the first ``requests`` rows, from ``shift`` past their last token."""
    return Groups(
        count=requests,
        tokens=tokens,
        shift=shift,
        slots=state.slots,
        positions=state.positions,
        row_slots=state.slots,
        row_positions=state.positions,
        row_tokens=tokens,
    )
