"""Prefill in groups of frames, and keep of each group, in each layer, the visual tokens with the smallest keys.

Shape letters: L tokens of a group, V visual tokens of it.
"""

import math

import torch

from actors.kv.cache import KvCache
from actors.kv.tokens import Tokens
from pipeline.methods import Method

METHOD = Method(
    source="QuickVideo (arXiv 2505.16175), QuickPrefill with key norms",
    stage="cache",
    what="after each group of frames, keeps in each layer the share of its visual tokens whose keys have the smallest"
    " L2 norm over all heads; text is never thrown away",
    differs="text between frames goes with the frame behind it; at least one token of a group stays",
    needs=("keys-and-values",),
    stateful=True,
)


class QuickPrefill(KvCache):
    """See the module. Layers choose for themselves, all the same number of tokens; positions stay as they were."""

    def settle(self, tokens: Tokens) -> None:
        """Thin out the group that was fed last."""
        visual_V = tokens.is_visual_L.nonzero()[:, 0]
        count = num_kept(len(visual_V), self.settings.retention)
        if count == len(visual_V):
            return
        for rows in self.layers:
            start = rows.num_rows - len(tokens)
            kept_L = ~tokens.is_visual_L
            kept_L[visual_V[smallest_norms(rows.keys[0, :, start:][:, visual_V], count)]] = True
            rows.keep(kept_L.nonzero()[:, 0], start)


def num_kept(num_tokens: int, share: float) -> int:
    """Return how many of some tokens a share is: rounded down, but one at least of any."""
    # 1e-9: 0.7 x 10 is 7.000000000000001 one way and 6.999999999999999 another
    return min(num_tokens, max(1, math.floor(num_tokens * share + 1e-9)))


def smallest_norms(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Return the rising places of the `count` keys [heads, V, head size] with the smallest norm over all heads.

    Keys may be turned or not: turning does not change their length.
    """
    norm_V = keys.float().square().sum((0, 2)).sqrt()
    return norm_V.argsort(stable=True)[:count].sort().values
