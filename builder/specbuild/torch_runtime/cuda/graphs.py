# SPDX-License-Identifier: Apache-2.0
"""Rounds as captured CUDA graphs: the draft burst is one, the verification with all that follows another.

A graph is fixed in its number of rows and of draft tokens; everything else (slots, positions, limits,
sampling settings, random numbers) is data that it reads. All graphs share one pool of memory, as one runs at
a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from specbuild.torch_runtime.constraints import BANNED
from specbuild.torch_runtime.cuda.decoder import CudaDecoder, groups_of
from specbuild.torch_runtime.cuda.round_kernels import begin_kernel, settle_kernel
from specbuild.torch_runtime.cuda.state import SETTINGS, DeviceState
from specbuild.torch_runtime.sampling import Shape, distributions, draw
from specbuild.torch_runtime.verification import verify_sampled

Kind = Literal["greedy", "sampled", "truncated"]
"""All rows greedy; some are drawn from whole distributions; some from distributions cut by top-k or top-p."""


@dataclass(frozen=True, slots=True)
class Round:
    """Replays of one captured round. They return at once; the device works on."""

    burst: Callable[[], None]
    verification: Callable[[], None]


class RoundGraphs:
    """The captured rounds of a pair, by rows, draft tokens and kind."""

    def __init__(self, target: CudaDecoder, draft: CudaDecoder | None, state: DeviceState) -> None:
        self._target = target
        self._draft = draft
        self._state = state
        self._rounds: dict[tuple[int, int, Kind], Round] = {}
        self._proposals: Tensor | None = None
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream(state.device)  # type: ignore[no-untyped-call]

    def get(self, rows: int, drafted: int, kind: Kind) -> Round:
        """The round of ``rows`` requests and ``drafted`` draft tokens; captured when first asked for."""
        key = (rows, drafted, kind)
        if key not in self._rounds:
            self._rounds[key] = self._capture(rows, drafted, kind)
        return self._rounds[key]

    def _capture(self, rows: int, drafted: int, kind: Kind) -> Round:
        # Before it is captured the round runs once, and must not touch the requests.
        self._state.idle()
        burst = self._burst(rows, drafted, kind)
        if kind == "greedy":
            return Round(self._replayable(burst.run), self._replayable(lambda: self._verify(rows, drafted)))
        return Round(
            self._replayable(burst.run),
            self._replayable(lambda: self._judge(rows, drafted, kind, burst.proposals)),
        )

    def _burst(self, rows: int, drafted: int, kind: Kind) -> _Burst:
        proposals = None
        if kind != "greedy" and drafted:
            proposals = self._room_for_proposals(rows, drafted)
        return _Burst(self._draft, self._state, rows, drafted, kind, proposals)

    def _room_for_proposals(self, rows: int, drafted: int) -> Tensor:
        """The same memory for every round, allocated with the first one that draws tokens."""
        vocab = self._target.vocab_size
        if self._proposals is None:
            most = self._state.filler * self._state.draft_length
            self._proposals = torch.zeros(most * vocab, device=self._state.device)
        return self._proposals[: rows * drafted * vocab].view(rows, drafted, vocab)

    def _verify(self, rows: int, drafted: int) -> None:
        state = self._state
        groups = groups_of(state, rows, drafted + 1, 0)
        self._target.stack.step(state.grid, groups, last=False, choices=state.choices)
        self._settle(rows, drafted, None, None)

    def _judge(self, rows: int, drafted: int, kind: Kind, proposals: Tensor | None) -> None:
        state, width = self._state, drafted + 1
        logits = self._target.stack.step(state.grid, groups_of(state, rows, width, 0), last=False)
        assert logits is not None
        shape = shape_of(state, rows, width, kind)
        p = distributions(logits.float() / shape.temperature[:, None], shape).view(rows, width, -1)
        q = p[:, :0] if proposals is None else proposals
        most = state.draft_length
        numbers = state.orders[:rows, SETTINGS + most :]
        uniform = torch.cat([numbers[:, :drafted], numbers[:, -1:]], dim=1)
        accepted, following = verify_sampled(
            p, q, state.grid[:rows, 1:width], state.limits[:rows].long(), uniform
        )
        self._settle(rows, drafted, accepted, following)

    def _settle(self, rows: int, drafted: int, accepted: Tensor | None, following: Tensor | None) -> None:
        state = self._state
        settle_kernel[(rows,)](
            state.choices,
            state.choices if accepted is None else accepted,
            state.choices if following is None else following,
            state.grid, state.limits, state.slots, state.length, state.last, state.previous, state.remaining,
            state.outcome, state.grid.stride(0), state.outcome.stride(0), drafted, state.filler,
            GREEDY=accepted is None,
            num_warps=1,
        )  # fmt: skip

    def _replayable(self, work: Callable[[], None]) -> Callable[[], None]:
        """``work`` as a graph. It runs once before, which compiles its kernels."""
        device = self._state.device
        self._side.wait_stream(torch.cuda.current_stream(device))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._side):
            work()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(self._side)
        return graph.replay


@dataclass(frozen=True, slots=True)
class _Burst:
    draft: CudaDecoder | None
    state: DeviceState
    rows: int
    drafted: int
    kind: Kind
    proposals: Tensor | None
    """The draft's distributions [rows, drafted, vocab], unless the round is greedy."""

    def run(self) -> None:
        state = self.state
        begin_kernel[(self.rows,)](
            state.orders, state.orders.stride(0), state.length, state.last, state.previous, state.remaining,
            state.slots, state.positions, state.limits, state.pairs, state.grid, state.grid.stride(0),
            state.filler,
            num_warps=1,
        )  # fmt: skip
        for step in range(self.drafted):
            self._step(step)

    def _step(self, step: int) -> None:
        """Draft token ``step``. The first step reads two tokens, the later ones the token just drafted.

        After a round whose draft tokens were all accepted the draft has not read the last of them; after any
        other round the first of the two is read again, to the same effect.
        """
        assert self.draft is not None
        state = self.state
        tokens = state.grid[:, step:] if step else state.pairs
        groups = groups_of(state, self.rows, 1 if step else 2, step or -1)
        following = state.grid[:, step + 1 :]
        if self.proposals is None:
            self.draft.stack.step(tokens, groups, last=True, choices=following)
            return
        logits = self.draft.stack.step(tokens, groups, last=True)
        assert logits is not None
        shape = shape_of(state, self.rows, 1, self.kind)
        scaled = _fit(logits, self.proposals.shape[2]).float() / shape.temperature[:, None]
        q = distributions(scaled, shape)
        self.proposals[:, step] = q
        following[: self.rows, 0] = draw(q, state.orders[: self.rows, SETTINGS + step])


def shape_of(state: DeviceState, rows: int, times: int, kind: Kind) -> Shape:
    """How the distributions of the first ``rows`` requests are shaped, each entry ``times`` times."""
    orders = state.orders[:rows].repeat_interleave(times, dim=0)
    truncated = kind == "truncated"
    return Shape(
        temperature=orders[:, 2].float(),
        greedy=orders[:, 3] > 0,
        top_k=orders[:, 4].long() if truncated else None,
        top_p=orders[:, 5].float() if truncated else None,
    )


def _fit(logits: Tensor, vocab_size: int) -> Tensor:
    """The draft's logits over the target's vocabulary: paddings of the two may differ."""
    missing = vocab_size - logits.shape[1]
    return logits if missing == 0 else torch.nn.functional.pad(logits, (0, missing), value=BANNED)
