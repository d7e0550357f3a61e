"""A cache of fixed size for endless streams: the first text, the last text, the last seconds of frames.

Shape letters: K rows.
"""

import torch

from actors.kv.reindexed import ReindexedCache
from actors.kv.tokens import Tokens
from pipeline.methods import Method

METHOD = Method(
    source="StreamingVLM (arXiv 2510.09608), its cache without its training",
    stage="cache",
    what="keeps the first 512 tokens of text, the last 512 and the frames of the last 16 s; what stays closes up, so"
    " that positions never leave the trained range",
    differs="frames older than 16 s go whether or not there is room, text likewise beyond its counts; frames come in"
    " groups, all of which see the 16 s before the group. Models that were not trained for it answer worse",
    needs=("keys-and-values",),
    stateful=True,
    positions="contiguous",
)


class StreamingVlm(ReindexedCache):
    """See the module."""

    def kept(self, held: Tokens) -> torch.Tensor:
        """Return which of the held tokens stay, bool [K]: first and last text, last seconds of frames."""
        visual_K = held.is_visual_L
        text_before_K = (~visual_K).cumsum(0) - 1
        text_behind_K = text_before_K[-1] - text_before_K
        sink_K = text_before_K < self.settings.sink_tokens
        recent_K = text_behind_K < self.settings.recent_text_tokens
        newest_s = held.time_s_L.nan_to_num(-torch.inf).max()
        seen_K = held.time_s_L > newest_s - self.settings.vision_s
        return torch.where(visual_K, seen_K, sink_K | recent_K)
