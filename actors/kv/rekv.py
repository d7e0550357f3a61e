"""A cache that sees the last frames while it reads, and looks up frames of any time when it is asked.

While frames come, a group sees the text in front of the first frame and the frames in a window before it, closed up.
What every frame left in the cache goes to an archive, in memory or on disk, whatever the window still holds. A
question is shown, in each layer, the frames that its queries of that layer find, side by side in the order of time:
it is retrieval and prefill in one pass.

Shape letters: K rows, L tokens of a question, B blocks, H key heads, G query heads per key head, d head size, E = H d.
"""

from collections.abc import Sequence
from typing import Any

import torch

from actors.kv.blocks import Archive, Blocks, DeviceBlocks, HostArchive
from actors.kv.cache import New, attend
from actors.kv.reindexed import ReindexedCache
from actors.kv.rows import Rows
from actors.kv.settings import KvSettings
from actors.kv.tokens import TEXT, Tokens, join
from pipeline.methods import Method

METHOD = Method(
    source="ReKV (arXiv 2503.00540), internal retrieval",
    stage="cache",
    what="reads the video through a sliding window, moves the keys and values of each frame to memory or disk, and"
    " shows a question, in each layer, the 64 frames whose mean key its mean query matches best, at contiguous"
    " positions behind the prompt's beginning",
    differs="a frame takes the text in front of it along, its time and the closing mark of the frame before; the"
    " window moves by groups and closes up, where the original's moves by tokens and keeps distances. Queries are"
    " those of all tokens behind the frames, the template's among them",
    needs=("keys-and-values",),
    query_dependent=True,
    stateful=True,
    positions="contiguous",
)


class ReKv(ReindexedCache):
    """See the module."""

    def __init__(
        self, decoder: Any, settings: KvSettings | None = None, archive: Archive | None = None
    ) -> None:
        """Take the decoder, and an archive to go on with; none = a new one in memory."""
        super().__init__(decoder, settings)
        self.archive: Archive = HostArchive() if archive is None else archive
        self.num_init = 0
        """Rows in front of the first frame and the text that goes with it."""
        self._is_begun = False
        self._asked_at = 0
        self._shown: dict[int, Tokens] = {}
        """Tokens of the blocks that the open question is shown."""
        most = self.settings.device_frames
        self._blocks = [DeviceBlocks(self.archive, layer, most) for layer in range(self.num_layers)]

    def begin(self, layers: Sequence[torch.Tensor], tokens: Tokens) -> None:
        """Take the rows in front of the first frame, [K, 2, H, d] per layer, from a cache that was fed before."""
        for rows, both in zip(self.layers, layers, strict=True):
            keys, values = both.permute(1, 2, 0, 3)[:, None]
            rows.append(keys, values)
        self.num_init, self._is_begun = len(tokens), True
        super().settle(tokens)

    @property
    def init(self) -> tuple[list[torch.Tensor], Tokens]:
        """Return what `begin` takes; only after a first frame was fed."""
        if self.held is None:
            msg = "nothing was fed yet"
            raise ValueError(msg)
        first = slice(0, self.num_init)
        return [_stacked(rows, first) for rows in self.layers], self.held.take(first)

    @property
    def num_bytes(self) -> int:
        """Bytes that are held on the decoder's device; see KvCache. The archive is not there."""
        shown = sum(tokens.num_bytes for tokens in self._shown.values())
        return super().num_bytes + shown + sum(blocks.num_bytes for blocks in self._blocks)

    # --- reading -------------------------------------------------------------------------------------------

    def settle(self, tokens: Tokens) -> None:
        """Archive what came, and forget what left the window."""
        skip = 0
        if not self._is_begun:
            visual = tokens.is_visual_L.nonzero()[:, 0]
            skip = max(0, int(visual[0]) - self.lead) if len(visual) else len(tokens)
            self.num_init += skip
            self._is_begun = bool(len(visual))
        if skip < len(tokens):
            self._put_away(tokens.take(slice(skip, None)))
        super().settle(tokens)

    def _put_away(self, tokens: Tokens) -> None:
        """Archive the last rows, which are these tokens'."""
        last_K = tokens.is_visual_L.clone()
        last_K[:-1] &= tokens.frame_L[1:] != tokens.frame_L[:-1]
        last_K[-1] = True
        ends = torch.cat([last_K.new_tensor([-1], dtype=torch.int64), last_K.nonzero()[:, 0]])
        lengths = ends.diff()
        block_K = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        layers = [_stacked(rows, slice(rows.num_rows - len(tokens), rows.num_rows)) for rows in self.layers]
        means = torch.stack([_means(both, tokens, block_K, len(lengths)) for both in layers], 1)
        self.archive.add(Blocks(layers, means, lengths.tolist(), tokens.to("cpu")))

    def kept(self, held: Tokens) -> torch.Tensor:
        """Return which of the held tokens stay, bool [K]: those in front of the first frame, and whole frames."""
        at_K = torch.arange(len(held), device=held.frame_L.device)
        border = max(0, len(held) - self.settings.window_tokens)
        inside_K = at_K >= border
        if 0 < border < len(held) and held.frame_L[border] == held.frame_L[border - 1] != TEXT:
            inside_K &= held.frame_L != held.frame_L[border]
        return inside_K | (at_K < self.num_init)

    # --- answering -----------------------------------------------------------------------------------------

    def open_question(self) -> int:
        """Return the position of the question's first token: behind as many frames as can be found for it."""
        self.opened, self._shown = [Rows() for _ in self.layers], {}
        longest = sorted(self.archive.extents, reverse=True)[: self.settings.retrieve_frames]
        init = 0 if self.held is None else self.held.take(slice(0, self.num_init)).extent
        self._asked_at = init + sum(longest)
        return self._asked_at

    def attend(self, layer: int, new: New) -> torch.Tensor:
        """Store what is new in one layer, find frames for a new question, and return attention."""
        if self.stage != "question" or self.opened is None:
            return super().attend(layer, new)
        rows = self.opened[layer]
        found = self._find(layer, new.query, new.keys.shape[1])
        shown = [self._tokens_of(block) for block in found]
        parts = self._blocks[layer].load(found, new.keys)
        if self.num_init and self.held is not None:
            first = slice(0, self.num_init)
            shown.insert(0, self.held.take(first))
            parts.insert(0, _stacked(self.layers[layer], first))
        if parts:
            tokens = join(shown)
            keys, values = torch.cat(parts).permute(1, 2, 0, 3)[:, None]
            # frames may differ in length: what counts is that nothing lies between them and the question
            turns = self.rotary.turns(tokens.lay_out(self._asked_at - tokens.extent))
            rows.append(self.rotary.put_on(keys, turns), values)
        rows.append(new.keys, new.values)
        return attend(new, rows.keys, rows.values)

    def _tokens_of(self, block: int) -> Tokens:
        """Return the tokens of a block; layers that find the same one read them once."""
        if block not in self._shown:
            self._shown[block] = self.archive.tokens(block).to(self.positions_PL.device)
        return self._shown[block]

    def _find(self, layer: int, query: torch.Tensor, heads: int) -> list[int]:
        """Return the frames that a question's queries find in one layer, in the order of time."""
        count = min(self.settings.retrieve_frames, len(self.archive.extents))
        if count == len(self.archive.extents):
            return list(range(count))
        plain = self.rotary.take_off(query, self.new_turns())[0].float()
        # keys are repeated for the queries that share them: their products with one key add up
        query_E = plain.mean(1).unflatten(0, (heads, -1)).sum(1).flatten()
        scores_B = self.archive.means(layer).to(query_E.device) @ query_E
        best = scores_B.argsort(descending=True, stable=True)[:count]
        return best.sort().values.tolist()


def _stacked(rows: Rows, part: slice) -> torch.Tensor:
    """Return keys and values of some rows, [K, 2, H, d], copied."""
    return torch.stack([rows.keys[0, :, part], rows.values[0, :, part]]).permute(2, 0, 1, 3).contiguous()


def _means(both: torch.Tensor, tokens: Tokens, block_K: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """Return [B, E] float32: mean key of each block's visual tokens, of all its tokens where none is visual."""
    keys_KE = both[:, 0].flatten(1).float()
    visual_K = tokens.is_visual_L.float()
    shown_B = torch.zeros(num_blocks, device=visual_K.device).index_add_(0, block_K, visual_K)
    counts_K = torch.where(shown_B[block_K] > 0, visual_K, 1.0)
    total_B = torch.zeros(num_blocks, device=visual_K.device).index_add_(0, block_K, counts_K)
    sums_BE = keys_KE.new_zeros((num_blocks, keys_KE.shape[1]))
    return sums_BE.index_add_(0, block_K, keys_KE * counts_K[:, None]) / total_B[:, None]
