"""A cache of fixed size for streams, kept by what frames look at, and pages of it shown to a question.

Layers choose for themselves, so each has its own rows. While frames come, positions stay as they were; what a
question is shown closes up, as the model was trained.

Shape letters: K rows, C candidates, r observers, N buckets, M kept tokens, G pages, E = key heads x head size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from actors.kv.cache import KvCache, New, Piece, attend
from actors.kv.rows import Rows
from actors.kv.settings import KvSettings
from actors.kv.tokens import Tokens, join
from pipeline.errors import AnswerError
from pipeline.methods import Method

METHOD = Method(
    source="LiveVLM (arXiv 2505.15269, version 2)",
    stage="cache",
    what="keeps the last frames whole and, in each layer, 12,000 older visual tokens: half by the attention that the"
    " newest visual tokens pay them, the rest spread over the time of the video; a question is shown the 40 % of their"
    " pages of 16 whose mean key matches its mean query best, at contiguous positions",
    differs="the share of both halves, the number of observers (64) and of last frames (4) are ours, the paper does"
    " not say; buckets divide the tokens that were seen, one token each; text between frames always stays. Positions"
    " grow while the stream is read, and a stream longer than the model's context is refused",
    needs=("keys-and-values",),
    query_dependent=True,
    stateful=True,
    positions="contiguous",
)


@dataclass(slots=True)
class Held:
    """Whose the rows of one layer are."""

    tokens: Tokens
    positions_PK: torch.Tensor
    """Where they stood when they were read."""
    order_K: torch.Tensor
    """[K] int64: number of the token in its stream."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all facts."""
        return self.tokens.num_bytes + self.positions_PK.nbytes + self.order_K.nbytes

    def take(self, index_R: torch.Tensor) -> "Held":
        """Return some of them, at rising places."""
        return Held(self.tokens.take(index_R), self.positions_PK[:, index_R], self.order_K[index_R])


class LiveVlm(KvCache):
    """See the module."""

    takes_back = False

    def __init__(self, decoder: Any, settings: KvSettings | None = None) -> None:
        super().__init__(decoder, settings)
        self.held: list[Held] = []
        """Per layer; empty before the first piece."""
        self.opened: list[Rows] | None = None
        """Per layer what an open question sees; None = no question is open."""
        self._scores: list[torch.Tensor] = []
        """Per layer [K] float32: the attention that the newest visual tokens paid each row."""
        self._num_read = 0
        self._asked_at = 0
        self._context: float = getattr(decoder.config, "max_position_embeddings", None) or math.inf

    @property
    def num_bytes(self) -> int:
        """Bytes that are held on the decoder's device; see KvCache."""
        known = {id(held): held.num_bytes for held in self.held}  # layers share one as long as nothing went
        return super().num_bytes + sum(known.values()) + sum(rows.num_bytes for rows in self.opened or ())

    def feed(self, piece: Piece) -> torch.Tensor:
        """Append a part of the prompt; see KvCache.

        Raises:
            AnswerError: likewise; or the stream has become longer than the model's context.
        """
        end, most = self.end + piece.tokens.extent, self._context
        if end > most:
            msg = (
                f"the stream takes {end} positions with frame {self.num_frames} and those read with it, and the model"
                f" knows {most}: livevlm keeps the positions of the stream while it reads; show it fewer frames,"
                " begin anew, or take streaming-vlm or rekv, whose positions do not grow"
            )
            raise AnswerError(msg)
        return super().feed(piece)

    def attend(self, layer: int, new: New) -> torch.Tensor:
        """Store what is new in one layer and return attention; a question is shown pages of what is held."""
        if self.opened is not None:
            rows = self.opened[layer]
            if self.stage == "question" and self.held:
                self._show(layer, new, rows)
            rows.append(new.keys, new.values)
            return attend(new, rows.keys, rows.values)
        rows = self.layers[layer]
        rows.append(new.keys, new.values)
        if self.tokens is not None:
            observers = self.tokens.is_visual_L.nonzero()[:, 0][-self.settings.observers :]
            self._scores.append(attention_paid(new, rows.keys, observers))
        return attend(new, rows.keys, rows.values)

    # --- reading -------------------------------------------------------------------------------------------

    def settle(self, tokens: Tokens) -> None:
        """Note whose the new rows are, and bring the older visual tokens down to their count."""
        order_L = torch.arange(self._num_read, self._num_read + len(tokens), device=tokens.frame_L.device)
        self._num_read += len(tokens)
        new = Held(tokens, self.positions_PL, order_L)
        held = [new] * self.num_layers
        if self.held:
            held = [Held(join([old.tokens, tokens]), torch.cat([old.positions_PK, self.positions_PL], 1),
                         torch.cat([old.order_K, order_L])) for old in self.held]  # fmt: skip
        self.held = [self._thinned(*layer) for layer in zip(self.layers, held, self._scores, strict=True)]
        self._scores = []

    def _thinned(self, rows: Rows, held: Held, score_K: torch.Tensor) -> Held:
        older_C = self._older(held).nonzero()[:, 0]
        most = self.settings.long_tokens
        if len(older_C) <= most:
            return held
        top = math.floor(most * self.settings.top_share + 1e-9)
        kept_C = spread(score_K[older_C], held.order_K[older_C], top, most)
        kept_K = torch.ones(len(held.tokens), dtype=torch.bool, device=older_C.device)
        kept_K[older_C] = kept_C
        index_R = kept_K.nonzero()[:, 0]
        rows.keep(index_R)
        return held.take(index_R)

    def _older(self, held: Held) -> torch.Tensor:
        """Return which rows are visual tokens of frames before the last ones, bool [K]."""
        frame_K = held.tokens.frame_L
        newest = int(frame_K.max()) if len(frame_K) else 0
        return held.tokens.is_visual_L & (frame_K <= newest - self.settings.recent_frames)

    # --- answering -----------------------------------------------------------------------------------------

    def open_question(self) -> int:
        """Return the position of the question's first token: behind as much as any layer may show it."""
        self.opened = [Rows() for _ in self.layers]
        self._asked_at = max((self._most_shown(held) for held in self.held), default=self.end)
        return self._asked_at

    def _most_shown(self, held: Held) -> int:
        """Return the positions that what a layer shows takes up at most."""
        if self.rotary.axes > 1:
            return held.tokens.extent
        older = int(self._older(held).sum())
        return len(held.tokens) - older + min(older, self._num_pages(older) * self.settings.page_tokens)

    def _num_pages(self, num_tokens: int) -> int:
        """Return how many pages of some tokens are shown."""
        pages = math.ceil(num_tokens / self.settings.page_tokens)
        return math.ceil(pages * self.settings.page_share - 1e-9)

    def close_question(self) -> None:
        """Forget what a question was shown."""
        self.opened = None

    def _show(self, layer: int, new: New, shown: Rows) -> None:
        """Copy to `shown` what a new question sees in one layer, closed up in front of it."""
        rows, held = self.layers[layer], self.held[layer]
        plain = self.rotary.take_off(rows.keys, self.rotary.turns(held.positions_PK))
        older_C = self._older(held).nonzero()[:, 0]
        count = self._num_pages(len(older_C))
        query = self.rotary.take_off(new.query, self.new_turns())[0].float()
        query_E = query.mean(1).unflatten(0, (rows.keys.shape[1], -1)).sum(1).flatten()
        keep_K = torch.ones(len(held.tokens), dtype=torch.bool, device=older_C.device)
        keep_K[older_C] = best_pages(
            plain[0][:, older_C].transpose(0, 1).flatten(1).float(), query_E, self.settings.page_tokens, count
        )
        index_R = keep_K.nonzero()[:, 0]
        tokens = held.tokens.take(index_R)
        turns = self.rotary.turns(tokens.lay_out(self._asked_at - tokens.extent))
        shown.append(self.rotary.put_on(plain[:, :, index_R], turns), rows.values[:, :, index_R])


def attention_paid(new: New, keys: torch.Tensor, observers: torch.Tensor) -> torch.Tensor:
    """Return the mean attention, float32 [K], that some of the new tokens pay to each row; they see none behind them.

    Args:
        new: queries [1, heads, L, d].
        keys: [1, key heads, K, d]; the last L are the new tokens'.
        observers: [r] int64 places among the new tokens; none = nothing is paid.
    """
    rows, length = keys.shape[2], new.query.shape[2]
    if not len(observers):
        return torch.zeros(rows, device=keys.device)
    grouped = new.query[0][:, observers].float().unflatten(0, (keys.shape[1], -1))
    scores = grouped @ keys[0].float().transpose(1, 2)[:, None] * new.scaling
    behind_rK = torch.arange(rows, device=keys.device) > (observers + rows - length)[:, None]
    return scores.masked_fill(behind_rK, -torch.inf).softmax(-1).mean((0, 1, 2))


def spread(score_C: torch.Tensor, order_C: torch.Tensor, top: int, most: int) -> torch.Tensor:
    """Return which of some tokens stay, bool [C]: the best ones, then the best of each part of the video without one.

    Args:
        score_C: what they are ranked by; equal scores in the order of time.
        order_C: rising numbers of the tokens in their stream; from the first to the last they are divided into `most`
            buckets with room for one.
        top: tokens that stay wherever they are.
        most: tokens that stay altogether, at most.
    """
    ranked = score_C.argsort(descending=True, stable=True)
    span = int(order_C[-1] - order_C[0]) + 1
    bucket_C = (order_C - order_C[0]) * most // span
    is_full_N = torch.zeros(most, dtype=torch.bool, device=score_C.device)
    is_full_N[bucket_C[ranked[:top]]] = True
    rest = ranked[top:]
    rank_C = torch.arange(len(rest), device=rest.device)
    first_N = torch.full((most,), len(rest), device=rest.device)
    first_N = first_N.scatter_reduce(0, bucket_C[rest], rank_C, "amin")
    has_room = (first_N[bucket_C[rest]] == rank_C) & ~is_full_N[bucket_C[rest]]
    kept_C = torch.zeros(len(score_C), dtype=torch.bool, device=score_C.device)
    kept_C[ranked[:top]] = True
    kept_C[rest[has_room][: most - top]] = True
    return kept_C


def best_pages(keys_CE: torch.Tensor, query_E: torch.Tensor, page_tokens: int, count: int) -> torch.Tensor:
    """Return which of some tokens lie in the pages whose mean key matches a query best, bool [C].

    Args:
        keys_CE: float32, not turned, in the order of time.
        query_E: float32, likewise.
        page_tokens: tokens of a page; the last one may be shorter.
        count: pages.
    """
    page_C = torch.arange(len(keys_CE), device=keys_CE.device) // page_tokens
    num_pages = math.ceil(len(keys_CE) / page_tokens)
    sums_GE = keys_CE.new_zeros((num_pages, keys_CE.shape[1])).index_add_(0, page_C, keys_CE)
    means_GE = sums_GE / torch.bincount(page_C, minlength=num_pages)[:, None]
    best = (means_GE @ query_E).argsort(descending=True, stable=True)[:count]
    is_best_G = torch.zeros(num_pages, dtype=torch.bool, device=keys_CE.device)
    is_best_G[best] = True
    return is_best_G[page_C]
