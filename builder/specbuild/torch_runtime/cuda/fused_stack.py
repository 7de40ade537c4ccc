# SPDX-License-Identifier: Apache-2.0
"""The layers of Llama and its like, computed by five kernels each, on the weights of the loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor, nn

from specbuild.torch_runtime.cuda import linear_kernels as few
from specbuild.torch_runtime.cuda.attention_kernel import add_norm_kernel, gate_kernel, store_kernel
from specbuild.torch_runtime.cuda.attention_pass import Groups, Heads, Meeting, attend, shared_memory
from specbuild.torch_runtime.cuda.matrix import Matrix, in_8_bits
from specbuild.torch_runtime.cuda.tiles import MOST_ROWS, Tile, block_rows, tile
from specbuild.torch_runtime.fused_modules import FusedRMSNorm, PartOfLinear

_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ANY = 1 << 30
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: Tensor
    qkv: Matrix
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Matrix
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix
    window: int | None
    keys: Tensor
    values: Tensor


class FusedStack:
    """Computes the model whose weights it was given. ``fits`` says for which models that is right."""

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        longest: int,
        length: int,
        most_tokens: int,
        eight_bits: bool = False,
    ) -> None:
        inner, config = model.model, model.config
        attention = inner.layers[0].self_attn
        self.device = inner.embed_tokens.weight.device
        self.dtype = inner.embed_tokens.weight.dtype
        self._heads = Heads(
            config.num_attention_heads,
            config.num_key_value_heads,
            attention.head_dim,
            float(attention.scaling),
        )
        self._slots = slots
        self._eight_bits = eight_bits
        self._eps = float(config.rms_norm_eps)
        self._table: Tensor = inner.embed_tokens.weight
        self._head = self._matrix(model.lm_head.weight)
        self._final: Tensor = inner.norm.weight
        self._cos, self._sin = _rotations(inner.rotary_emb, length, longest, self._table)
        self._layers = [self._layer(layer, config, length) for layer in inner.layers]
        self._meeting = Meeting(self._heads, most_tokens, self.device)
        self._precision = "ieee" if self.dtype == torch.float32 else "tf32"
        self._shared_memory = shared_memory(self.device)
        self._room = _Room(self, config.hidden_size, config.intermediate_size)
        self.hidden_size: int = config.hidden_size
        self.takes_few = self._layers[0].query_norm is None
        """Whether the kernels for few rows compute this model, which alone gain from weights in 8 bits."""

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether ``model``, its modules fused already, is one that this class computes."""
        inner = getattr(model, "model", None)
        if model.config.model_type not in _FAMILIES or inner is None:
            return False
        return all(_fits(layer, model.config) for layer in inner.layers) and (
            isinstance(inner.norm, FusedRMSNorm) and model.lm_head.bias is None
        )

    def step(
        self, tokens: Tensor, groups: Groups, *, last: bool, choices: Tensor | None = None
    ) -> Tensor | None:
        """Logits after ``groups.tokens`` tokens of each row of ``tokens`` [requests, ...], or after the last.

        With ``choices`` [requests, ...] it gets the largest logit's token after each of them, or after the
        last, and nothing is returned. Nothing here waits for the device or depends on values in its memory.
        """
        rows = groups.count * groups.tokens
        if rows > MOST_ROWS or not self.takes_few:
            flat = tokens[: groups.count, : groups.tokens].reshape(-1)
            logits = self.forward(flat, groups, self._last_rows(groups) if last else None)
            if choices is None:
                return logits
            width = 1 if last else groups.tokens
            choices[: groups.count, :width] = logits.argmax(-1).view(groups.count, width)
            return None
        return self._few(tokens, groups, last=last, choices=choices)

    def forward(self, tokens: Tensor, groups: Groups, rows: Tensor | None) -> Tensor:
        """Logits [rows, vocab] after ``tokens`` [n]: all of them, or those that ``rows`` picks."""
        n = len(tokens)
        heads, grid = self._heads, (n,)
        hidden = nn.functional.embedding(tokens.clamp(max=len(self._table) - 1), self._table)
        normed = torch.empty_like(hidden)
        queries = hidden.new_empty(n, heads.queries, heads.size)
        mixed = torch.empty_like(queries)
        size = hidden.shape[1]
        block = triton.next_power_of_2(size)
        warps = 8 if block >= 4096 else 4

        def norm(change: Tensor | None, gamma: Tensor) -> None:
            add_norm_kernel[grid](
                hidden, hidden if change is None else change, gamma, normed, size, self._eps,
                ADD=change is not None, BLOCK=block, num_warps=warps,
            )  # fmt: skip

        norm(None, self._layers[0].norm)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv.times(normed, layer.qkv_bias)
            self._store(qkv, queries, layer, groups)
            attend(
                queries, layer.keys, layer.values, mixed, groups=groups, heads=heads, meeting=self._meeting,
                slots=self._slots, window=layer.window,
            )  # fmt: skip
            norm(layer.output.times(mixed.view(n, -1), layer.output_bias), layer.mlp_norm)
            both = layer.gate_up.times(normed)
            width = both.shape[1] // 2
            product = both.new_empty(n, width)
            gate_kernel[(n, triton.cdiv(width, 1024))](both, product, width, BLOCK=1024)
            norm(layer.down.times(product), self._gamma_after(index))
        return self._head.times(normed if rows is None else normed[rows])

    def _store(self, qkv: Tensor, queries: Tensor, layer: _Layer, groups: Groups) -> None:
        heads = self._heads
        store_kernel[(len(qkv), heads.queries + 2 * heads.keys)](
            qkv, queries, layer.keys, layer.values,
            self._final if layer.query_norm is None else layer.query_norm,
            self._final if layer.key_norm is None else layer.key_norm,
            self._cos, self._sin, groups.row_slots, groups.row_positions, groups.shift, self._eps,
            self._slots, layer.keys.stride(0), layer.keys.stride(1),
            T=groups.row_tokens,
            HEADS=heads.queries,
            KV_HEADS=heads.keys,
            HALF=heads.size // 2,
            HALF_P=triton.next_power_of_2(heads.size // 2),
            ROTATE=True,
            NORM=layer.query_norm is not None,
            num_warps=1,
        )  # fmt: skip

    def _few(self, tokens: Tensor, groups: Groups, *, last: bool, choices: Tensor | None) -> Tensor | None:
        rows = groups.count * groups.tokens
        room, heads = self._room, self._heads
        size = self.hidden_size
        fixed = {"STRIDE": MOST_ROWS, "BM": block_rows(rows), "PRECISION": self._precision}
        most = self._most_parts(rows)
        few.embed_kernel[(rows,)](
            tokens, tokens.stride(0), groups.tokens, self._table, len(self._table), self._layers[0].norm,
            room.hidden, room.scaled, room.squares, self._cos, self._sin, groups.row_positions, groups.shift,
            room.turns, size,
            HALF=heads.size // 2, STRIDE=MOST_ROWS, BLOCK=1024,
        )  # fmt: skip
        parts = 1
        pairs = (heads.queries + 2 * heads.keys) * heads.size // 2
        for index, layer in enumerate(self._layers):
            cut = self._tile(layer.qkv, rows, paired=True, divisor=heads.size // 2)
            few.qkv_kernel[(pairs // cut.columns,)](
                room.scaled, *_pair(layer.qkv), self._final if layer.qkv_bias is None else layer.qkv_bias,
                room.queries, layer.keys, layer.values, room.turns, groups.row_slots, groups.row_positions,
                room.squares, parts, rows, size, self._eps, groups.shift, self._slots,
                layer.keys.stride(0), layer.keys.stride(1),
                T=groups.tokens, HEADS=heads.queries, KV_HEADS=heads.keys, HALF=heads.size // 2,
                HAS_BIAS=layer.qkv_bias is not None, SCALED=layer.qkv.scales is not None, PARTS=most,
                **fixed, **_blocks(cut),
            )  # fmt: skip
            attend(
                room.queries, layer.keys, layer.values, room.mixed, groups=groups, heads=heads,
                meeting=self._meeting, slots=self._slots, window=layer.window,
            )  # fmt: skip
            parts = self._residual(
                room.mixed, layer.output, layer.output_bias, layer.mlp_norm, rows=rows, fixed=fixed
            )
            inner = layer.down.shape[1]
            cut = self._tile(layer.gate_up, rows, paired=True, divisor=inner)
            few.gated_kernel[(inner // cut.columns,)](
                room.scaled, *_pair(layer.gate_up), room.product, room.squares, parts, rows, inner, size,
                self._eps, SCALED=layer.gate_up.scales is not None, **fixed, **_blocks(cut),
            )  # fmt: skip
            parts = self._residual(
                room.product, layer.down, None, self._gamma_after(index), rows=rows, fixed=fixed
            )
        return self._logits(groups, parts, choices, last=last)

    def _residual(
        self, x: Tensor, w: Matrix, bias: Tensor | None, gamma: Tensor, *, rows: int, fixed: dict[str, Any]
    ) -> int:
        n, k = w.shape
        cut = self._tile(w, rows, divisor=n)
        few.residual_kernel[(n // cut.columns,)](
            x, *_pair(w), self._final if bias is None else bias, self._room.hidden, gamma, self._room.scaled,
            self._room.squares, rows, n, k,
            HAS_BIAS=bias is not None, SCALED=w.scales is not None, **fixed, **_blocks(cut),
        )  # fmt: skip
        return n // cut.columns

    def _logits(self, groups: Groups, parts: int, choices: Tensor | None, *, last: bool) -> Tensor | None:
        every = groups.tokens if last else 1
        rows = groups.count * groups.tokens // every
        n, k = self._head.shape
        cut = self._tile(self._head, rows, divisor=_ANY)
        programs = triton.cdiv(n, cut.columns)
        room = self._room
        logits = room.scaled.new_empty(rows, n) if choices is None else room.scaled
        few.logits_kernel[(programs,)](
            room.scaled, *_pair(self._head), logits, room.best, room.index, room.squares, parts, rows, n, k,
            self._eps, every,
            CHOOSE=choices is not None, STRIDE=MOST_ROWS, BM=block_rows(rows), PRECISION=self._precision,
            SCALED=self._head.scales is not None, PARTS=self._most_parts(groups.count * groups.tokens),
            **_blocks(cut),
        )  # fmt: skip
        if choices is None:
            return logits
        few.choose_kernel[(rows,)](
            room.best, room.index, programs, choices, choices.stride(0), 1 if last else groups.tokens,
            STRIDE=MOST_ROWS, BLOCK=2048, num_warps=8,
        )  # fmt: skip
        return None

    def _tile(self, weights: Matrix, rows: int, *, divisor: int, paired: bool = False) -> Tile:
        columns, depth = weights.shape
        return tile(
            columns // 2 if paired else columns, depth, rows, paired=paired, divisor=divisor,
            weight_bytes=weights.values.itemsize, row_bytes=self.dtype.itemsize,
            shared_memory=self._shared_memory,
        )  # fmt: skip

    def _most_parts(self, rows: int) -> int:
        """Most sums of squares that a pass over ``rows`` rows has of each, as a power of two."""
        size = self.hidden_size
        writers = (self._layers[0].output, self._layers[0].down)
        narrowest = min(self._tile(weights, rows, divisor=size).columns for weights in writers)
        return int(triton.next_power_of_2(size // narrowest))

    def _gamma_after(self, index: int) -> Tensor:
        return self._layers[index + 1].norm if index + 1 < len(self._layers) else self._final

    def _last_rows(self, groups: Groups) -> Tensor:
        return torch.arange(1, groups.count + 1, device=self.device) * groups.tokens - 1

    def _matrix(self, weights: nn.Parameter) -> Matrix:
        """``weights``, or rounded ones; then the model's own are given up, unless it embeds with them too."""
        if not self._eight_bits:
            return Matrix(weights.detach())
        rounded = in_8_bits(weights.detach())
        if weights is not self._table:
            weights.data = weights.new_empty(0)
        return rounded

    def _layer(self, layer: Any, config: Any, length: int) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = attention.q_proj.shared.linear
        window = getattr(attention, "sliding_window", None)
        if config.model_type == "mistral":
            window = config.sliding_window
        shape = (self._slots, self._heads.keys, length, self._heads.size)

        def weight(name: str) -> Tensor | None:
            module = getattr(attention, name, None)
            return None if module is None else module.weight

        return _Layer(
            norm=layer.input_layernorm.weight,
            qkv=self._matrix(qkv.weight),
            qkv_bias=qkv.bias,
            query_norm=weight("q_norm"),
            key_norm=weight("k_norm"),
            output=self._matrix(attention.o_proj.weight),
            output_bias=attention.o_proj.bias,
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=self._matrix(mlp.gate_proj.shared.linear.weight),
            down=self._matrix(mlp.down_proj.weight),
            window=window,
            keys=torch.zeros(shape, dtype=self.dtype, device=self.device),
            values=torch.zeros(shape, dtype=self.dtype, device=self.device),
        )


class _Room:
    """Intermediate results of passes over few rows; they are the same tensors for every pass."""

    def __init__(self, stack: FusedStack, size: int, inner: int) -> None:
        heads = stack._heads

        def rows(width: int) -> Tensor:
            return torch.zeros(MOST_ROWS, width, dtype=stack.dtype, device=stack.device)

        self.hidden, self.scaled, self.product = rows(size), rows(size), rows(inner)
        self.queries, self.mixed = rows(heads.queries * heads.size), rows(heads.queries * heads.size)
        self.turns = torch.zeros(2, MOST_ROWS, heads.size // 2, dtype=stack.dtype, device=stack.device)
        self.squares = torch.zeros(max(1, size // 4), MOST_ROWS, device=stack.device)
        programs = triton.cdiv(stack._head.shape[0], 16)
        self.best = torch.zeros(programs, MOST_ROWS, device=stack.device)
        self.index = torch.zeros(programs, MOST_ROWS, dtype=torch.int32, device=stack.device)


def _pair(weights: Matrix) -> tuple[Tensor, Tensor]:
    """Weights and scales for a kernel, which does not look at scales that are not there."""
    return weights.values, weights.values if weights.scales is None else weights.scales


def _blocks(cut: Tile) -> dict[str, int]:
    return {"BN": cut.columns, "BK": cut.depth, "num_warps": cut.warps, "num_stages": cut.stages}


def _fits(layer: Any, config: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        {name for name, _ in layer.named_children()} == _LAYER
        and {name for name, _ in attention.named_children()} <= _ATTENTION
        and isinstance(attention.q_proj, PartOfLinear)
        and isinstance(getattr(mlp, "gate_proj", None), PartOfLinear)
        and mlp.down_proj.bias is None
        and mlp.gate_proj.shared.linear.bias is None
        and config.hidden_act == "silu"
        and isinstance(layer.input_layernorm, FusedRMSNorm)
        and attention.head_dim % 2 == 0
        and (attention.head_dim // 2) & (attention.head_dim // 2 - 1) == 0
        and config.hidden_size % 16 == 0
        and config.intermediate_size % 16 == 0
        and float(getattr(config, "partial_rotary_factor", 1.0) or 1.0) == 1.0
    )


def _rotations(rotary: Any, length: int, longest: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim ÷ 2], as the model's own module computes them.

    Beyond ``longest`` are draft tokens that never stand; the model may rotate all tokens otherwise there.
    """
    positions = torch.arange(length, device=like.device).clamp_(max=longest - 1)[None]
    cos, sin = rotary(like[None, :1], positions)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
