# SPDX-License-Identifier: Apache-2.0
"""Which draft tokens stand, and the token that follows them. Pure: tensors in, tensors out.

Rejection sampling as in Leviathan et al. (arXiv 2211.17192) and Chen et al. (arXiv 2302.01318): the
output has the target's distribution exactly, whatever the draft's is. B requests, G draft tokens at
most, V tokens in the vocabulary; ``lengths`` [B] says how many draft tokens a request has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specbuild.torch_runtime.sampling import draw


def verify_greedy(choices: Tensor, drafted: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Accepted [B] and following token [B], when the target takes ``choices`` [B, G + 1].

    A draft token stands while it is the target's own choice; the choice after the last one follows.
    """
    accepted = _leading(choices[:, :-1] == drafted, lengths)
    return accepted, choices.gather(1, accepted[:, None])[:, 0]


def verify_sampled(
    p: Tensor, q: Tensor, drafted: Tensor, lengths: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Accepted [B] and following token [B], when ``drafted`` [B, G] came from ``q`` [B, G, V].

    ``p`` [B, G + 1, V] is the target's. ``uniform`` [B, G + 1] decides on each draft token and, last,
    draws the following one. Token x stands with probability min(1, p(x) ÷ q(x)); instead of the first
    one that does not, a token is drawn from the positive part of p − q; if all stand, from p.
    """
    index = drafted[..., None]
    p_token = p[:, :-1].gather(2, index)[..., 0]
    q_token = q.gather(2, index)[..., 0]
    accepted = _leading(uniform[:, :-1] * q_token < p_token, lengths)
    rows = torch.arange(len(accepted), device=accepted.device)
    following = p[rows, accepted]
    if q.shape[1]:
        rejected = accepted < lengths
        q_rejected = q[rows, accepted.clamp(max=q.shape[1] - 1)]
        excess = (following - q_rejected).clamp_(min=0.0)
        # Equal distributions leave no excess; a rejection is then a rounding error of the division.
        usable = rejected & (excess.sum(-1) > 0)
        following = torch.where(usable[:, None], excess, following)
    return accepted, draw(following, uniform[:, -1])


def _leading(stands: Tensor, lengths: Tensor) -> Tensor:
    """How many of the first ``lengths`` entries hold before the first that does not [B]."""
    real = torch.arange(stands.shape[1], device=stands.device) < lengths[:, None]
    return (stands & real).long().cumprod(1).sum(1)
