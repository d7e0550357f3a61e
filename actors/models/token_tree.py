"""One prompt with many questions behind it: a KV cache whose rows belong to branches, and the forward pass over it.

The trunk is what all questions share (the frames); a question is a branch of the trunk, a label or an answer being
written a branch of its question. All of them lie in one buffer per layer: the trunk's keys and values are computed
once and never copied, and a token sees the rows of its own branch and of the branches below it, up to itself. Several
trees go through the weights at once: their tokens are packed into one sequence, and attention, the only place where
tokens meet, is done tree by tree.

transformers takes both from outside: a cache is anything with `update`, an attention function is registered by name.
Positions are told with every token: a model's own count, the length of the cache, would be wrong.

Shape letters: L tokens of a segment, K rows of a tree, B branches, D hidden size, P position axes, R kept tokens.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipeline.errors import AnswerError, ModelError

ATTENTION = "reelsift_token_tree"
TRUNK = 0
DEPTH = 3
"""Branches a token sees at most, its own included: label or answer, question, trunk."""


class TokenTree:
    """Keys and values of a trunk and its branches; rows are appended by `forward` and never move."""

    def __init__(self, capacity: int, num_layers: int, device: torch.device) -> None:
        self.capacity = capacity
        self._num_layers = num_layers
        self.num_rows = 0
        self.next_position = 0
        """Position of the first token behind the trunk, on every axis."""
        self._branch_K = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._below = [(TRUNK,) * DEPTH]
        self._rows: torch.Tensor | None = None
        """[layers, keys and values, 1, heads, capacity, head size], one block so that it is given back as one."""

    def grow(self, below: int = TRUNK) -> int:
        """Return a new branch on top of another one."""
        self._below.append((len(self._below), *self._below[below][: DEPTH - 1]))
        return len(self._below) - 1

    def cut(self, num_rows: int) -> None:
        """Forget the rows behind the first `num_rows`."""
        self.num_rows = num_rows

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [1, heads, L, head size] behind the rows that count, and return views of all rows up to there."""
        if self._rows is None:
            shape = (self._num_layers, 2, 1, keys.shape[1], self.capacity, keys.shape[3])
            self._rows = keys.new_empty(shape)
        end = self.num_rows + keys.shape[2]
        all_keys, all_values = self._rows[layer]
        all_keys[:, :, self.num_rows : end] = keys
        all_values[:, :, self.num_rows : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def enter(self, branch_L: torch.Tensor) -> torch.Tensor | None:
        """Note whose the next rows are; return who sees whom, bool [1, 1, L, K], or None where plainly causal."""
        start, end = self.num_rows, self.num_rows + len(branch_L)
        if end > self.capacity:
            msg = f"a tree of {self.capacity} rows cannot take {end}"
            raise ValueError(msg)
        self._branch_K[start:end] = branch_L
        if not start and not bool(branch_L.any()):
            return None
        below_BD = torch.tensor(self._below, device=branch_L.device)
        below_LD = below_BD[branch_L]
        own_K, rows_K = self._branch_K[:end], torch.arange(end, device=branch_L.device)
        seen_LK = own_K == below_LD[:, :1]
        for depth in range(1, DEPTH):
            seen_LK |= own_K == below_LD[:, depth : depth + 1]
        return (seen_LK & (rows_K <= rows_K[start:, None]))[None, None]


Watch = Callable[[torch.Tensor, torch.Tensor, float | None], None]
"""Told the queries of a segment's tokens [1, heads, L, head size], the keys of its tree and their scale, per layer."""


@dataclass(frozen=True, slots=True)
class Segment:
    """New tokens of one tree."""

    tree: TokenTree
    branch_L: torch.Tensor
    """[L] int64; a branch's tokens in order, and behind those of the branches below it."""
    embeds_LD: torch.Tensor
    positions_PL: torch.Tensor
    keep_R: torch.Tensor
    """[R] int64: the tokens whose final hidden state is wanted."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More inputs of the decoder (Qwen3-VL's deepstack); for all segments of a pass they stand in the first."""
    watch: Watch | None = None


@contextmanager
def unchanged_on_error(trees: Iterable[TokenTree]) -> Generator[None]:
    """Take back what was appended to trees when the block fails, so that it can be tried again."""
    before = [(tree, tree.num_rows) for tree in trees]
    try:
        yield
    except Exception:
        for tree, num_rows in before:
            tree.cut(num_rows)
        raise


def forward(decoder: Any, segments: Sequence[Segment]) -> list[torch.Tensor]:
    """Append segments to their trees, one segment a tree, in one pass; return the hidden states [R, D] of each.

    Trees grow only when the pass succeeds.

    Args:
        decoder: the text decoder, prepared by `use_trees`.
        segments: of different trees; the first holds the extra inputs of all.
    """
    lengths = [len(segment.branch_L) for segment in segments]
    edges = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    parts = [
        _Part(segment.tree, slice(start, end), segment.tree.enter(segment.branch_L), segment.watch)
        for segment, (start, end) in zip(segments, pairwise(edges), strict=True)
    ]
    positions_PL = torch.cat([segment.positions_PL for segment in segments], dim=1)
    with torch.inference_mode():
        hidden_LD = decoder(
            inputs_embeds=torch.cat([segment.embeds_LD for segment in segments])[None],
            # position ids are [axes, batch, L] for M-RoPE, [batch, L] for the others
            position_ids=positions_PL[:, None] if len(positions_PL) > 1 else positions_PL,
            past_key_values=_Trees(parts),
            use_cache=True,
            **segments[0].extra,
        ).last_hidden_state[0]
    for segment, length in zip(segments, lengths, strict=True):
        segment.tree.num_rows += length
    pieces = zip(segments, hidden_LD.split(lengths), strict=True)
    return [piece_LD[segment.keep_R] for segment, piece_LD in pieces]


@dataclass(frozen=True, slots=True)
class _Part:
    """One tree's share of a packed sequence."""

    tree: TokenTree
    tokens: slice
    seen: torch.Tensor | None
    watch: Watch | None


class _Trees:
    """What a decoder takes for its KV cache in one pass. "Keys" are all trees', for `_attend` alone to understand."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[list[tuple[_Part, torch.Tensor, torch.Tensor]], None]:
        """Store the new rows of each tree; return per tree its part and views of all its keys and values."""
        found = [
            (part, *part.tree.write(layer, keys[:, :, part.tokens], values[:, :, part.tokens]))
            for part in self._parts
        ]
        return found, None


def _attend(
    module: Any, query: torch.Tensor, key: Any, value: None, attention_mask: None, scaling: float | None = None,
    sliding_window: int | None = None, s_aux: Any = None, softcap: float | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Return attention [1, L, heads, head size] of a packed sequence, tree by tree; an attention of transformers."""
    del module, value, attention_mask
    if s_aux is not None or softcap is not None:
        msg = (
            "this model's attention has sinks or a soft cap, which are not computed here; take another model"
        )
        raise ModelError(msg)
    for part, keys, _ in key:
        if part.watch:
            part.watch(query[:, :, part.tokens], keys, scaling)
    found = [_attend_tree(query[:, :, part.tokens], keys, values, part.seen, scaling, sliding_window)
             for part, keys, values in key]  # fmt: skip
    return torch.cat(found, dim=2).transpose(1, 2), None


def _attend_tree(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor | None, scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:  # fmt: skip
    """Return attention [1, heads, L, head size] of one tree's new tokens to all of its rows."""
    if sliding_window and keys.shape[2] > sliding_window:
        msg = (
            f"the prompt's {keys.shape[2]} tokens are more than the {sliding_window} that this model's sliding"
            " attention sees at once; lower plan.budget_tokens"
        )
        raise AnswerError(msg)
    groups = query.shape[1] // keys.shape[1]
    if groups > 1 and query.is_cuda and (seen is not None or not _has_flash(query)):
        # grouped heads are for the flash kernel alone, which takes no mask; the next best would be all scores at once
        keys, values = (tensor.repeat_interleave(groups, dim=1) for tensor in (keys, values))
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, is_causal=seen is None, scale=scaling,
        enable_gqa=keys.shape[1] != query.shape[1],
    )  # fmt: skip


def _has_flash(query: torch.Tensor) -> bool:
    """Return whether a GPU's flash attention computes this."""
    return query.dtype != torch.float32 and torch.cuda.get_device_capability(query.device)[0] >= 8


def use_trees(model: Any) -> None:
    """Let a model's text decoder attend over trees. Its own `forward` and `generate` do not work any more."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)
    model.set_attn_implementation({"text_config": ATTENTION})
