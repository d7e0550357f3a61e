"""A KV cache that a policy may thin out between groups of frames, and the forward passes over it.

transformers takes both from outside: a `Cache` of its own class, and an attention function that is registered by name.
Here `update` hands the new keys and values through to the attention function, which gives them, with the queries, to
the cache: only there are queries and keys of one layer seen together, which retrieval needs. For the time of a pass
the decoder's attention is ours; before and behind it, it is whatever it was. Library code that makes passes of its own
(`generate`) is let in by `continuing`.

`KvCache` keeps everything. A policy is a subclass that changes what stays (`settle`), where tokens stand, or what new
tokens are shown (`attend`).

Shape letters: L new tokens, K rows, D hidden size, P position axes.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache

from actors.kv.rotary import Rotary, Turns
from actors.kv.rows import Rows
from actors.kv.settings import KvSettings
from actors.kv.tokens import TEXT, Tokens
from pipeline.errors import AnswerError, ModelError

ATTENTION = "reelsift_kv_policy"
Stage = Literal["prompt", "question", "step"]
"""What goes through the decoder: a group of frames with their text; a question; the newest token of an answer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt; the next part follows it without a gap."""

    embeds_LD: torch.Tensor
    tokens: Tokens
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More inputs of the decoder (Qwen3-VL's deepstack)."""
    lead: int = 0
    """Tokens of text right in front of the first frame that go with it, as its time does."""


@dataclass(frozen=True, slots=True)
class New:
    """What a layer makes of the new tokens, [1, heads, L, head size] each; queries and keys are turned."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    scaling: float


class KvCache(Cache):
    """Everything is kept; the parent of all policies."""

    takes_back = True
    """Whether single tokens of an open question can be taken back (`crop`): nothing else depends on them."""
    layers: list[Rows]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, decoder: Any, settings: KvSettings | None = None) -> None:
        """Take the text decoder whose keys and values these will be.

        Raises:
            ModelError: the decoder has no rotary positions.
        """
        self.decoder = decoder
        self.settings = settings or KvSettings()
        self.rotary = Rotary(decoder)
        self.num_layers: int = decoder.config.num_hidden_layers
        super().__init__(layers=[Rows() for _ in range(self.num_layers)])
        self.num_frames = 0
        """Frames fed so far."""
        self.end = 0
        """Position of the first token behind the prompt so far."""
        self.stage: Stage = "prompt"
        self.positions_PL = torch.empty((self.rotary.axes, 0), dtype=torch.int64)
        """Of the tokens that go through the decoder."""
        self.tokens: Tokens | None = None
        """The same, of a prompt."""
        self.lead = 0
        """Of the piece that goes through the decoder."""
        self._new_turns: Turns | None = None
        self._behind: int | None = None
        """Position behind an open question and its answer; None = no question is open."""
        self._asked_from = 0
        """Position of the first token of the open question."""
        self._is_passing = False
        """Whether the decoder's attention is ours."""

    # --- what callers use ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def feed(self, piece: Piece) -> torch.Tensor:
        """Append a part of the prompt, whole frames, and let the policy throw away what it does not keep.

        Frames are counted on from the parts before, whatever numbers they have in this one.

        Returns:
            Final hidden states [L, D] of the part.

        Raises:
            AnswerError: a visual token is not a finite number; the message names its frame.
        """
        if self._behind is not None:
            msg = "a question is open; `forget` it before more of the prompt comes"
            raise ValueError(msg)
        tokens, num_frames = piece.tokens.counted_from(self.num_frames)
        _check_finite(piece.embeds_LD, tokens)
        self.tokens, self.lead = tokens, piece.lead
        hidden_LD = self._run("prompt", piece.embeds_LD, tokens.lay_out(self.end), piece.extra)
        self.end += tokens.extent
        self.num_frames += num_frames
        self.settle(tokens)
        return hidden_LD

    @torch.inference_mode()
    def ask(self, embeds_LD: torch.Tensor) -> torch.Tensor:
        """Put a question behind the prompt, or one token behind the question; return hidden states [L, D].

        The first call opens the question, every further one continues it; `forget` closes it.
        """
        stage, positions_PL = self.put(len(embeds_LD), embeds_LD.device)
        return self._run(stage, embeds_LD, positions_PL, {})

    def put(self, length: int, device: torch.device) -> tuple[Stage, torch.Tensor]:
        """Open a question, or go on with it; return what its next tokens are, and their positions [P, L]."""
        stage: Stage = "question" if self._behind is None else "step"
        start = self.open_question() if self._behind is None else self._behind
        if stage == "question":
            self._asked_from = start
        self._behind = start + length
        return stage, torch.arange(start, self._behind, device=device).expand(self.rotary.axes, -1)

    def forget(self) -> None:
        """Take back the open question and its answer: the cache is again what it was before."""
        if self._behind is not None:
            self._behind = None
            self.close_question()

    @property
    def num_bytes(self) -> int:
        """Bytes that are held on the decoder's device: keys and values, and what a policy knows of each of them.

        What a pass leaves of the tokens that went through it last is not counted.
        """
        return sum(rows.num_bytes for rows in self.layers)

    # --- what a policy changes -----------------------------------------------------------------------------

    def attend(self, layer: int, new: New) -> torch.Tensor:
        """Store what is new in one layer and return attention [1, heads, L, head size]."""
        rows = self.layers[layer]
        rows.append(new.keys, new.values)
        return attend(new, rows.keys, rows.values)

    def settle(self, tokens: Tokens) -> None:
        """Throw away what is not kept, now that these tokens went through all layers."""
        del tokens

    def open_question(self) -> int:
        """Get ready for a question and return the position of its first token."""
        self._rows_before = [rows.num_rows for rows in self.layers]
        return self.end

    def close_question(self) -> None:
        """Take back what a question and its answer appended."""
        for rows, num_rows in zip(self.layers, self._rows_before, strict=True):
            rows.cut(num_rows)

    def new_turns(self) -> Turns:
        """Return the angles that the new queries and keys are turned by."""
        if self._new_turns is None:
            self._new_turns = self.rotary.turns(self.positions_PL)
        return self._new_turns

    # --- what transformers asks a cache --------------------------------------------------------------------

    @contextmanager
    def continuing(self) -> Generator[None]:
        """Let the library's own code put a question to this cache and go on with it, until the block ends.

            with cache.continuing():
                seen = torch.ones((1, cache.get_seq_length() + ids.shape[1]), dtype=torch.int64)
                ids = model.generate(ids, attention_mask=seen, past_key_values=cache, do_sample=False)

        Tokens stand where the policy puts them, whatever positions the library counts. The decoder sees no other
        cache meanwhile; the question is forgotten behind the block.

        Raises:
            ValueError: inside, a pass has another cache, or more than one prompt.
        """
        hook = self.decoder.register_forward_pre_hook(self._enter, with_kwargs=True)
        try:
            with torch.inference_mode(), self._attending():
                yield
        finally:
            hook.remove()
            self.forget()

    def _enter(self, decoder: Any, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Take a pass that the library makes for one of the question."""
        del decoder
        new = inputs.get("inputs_embeds")
        new = inputs.get("input_ids") if new is None else new
        if inputs.get("past_key_values") is not self or new is None:
            msg = (
                "the decoder was called without this cache while it is continued; give it as past_key_values"
            )
            raise ValueError(msg)
        if new.shape[0] != 1:
            msg = f"found {new.shape[0]} prompts or beams, expected one: a cache policy holds one prompt"
            raise ValueError(msg)
        stage, positions_PL = self.put(new.shape[1], new.device)
        self._begin(stage, positions_PL)
        return args, {**inputs, "position_ids": self._position_ids(), "attention_mask": None}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the position of the next token: that many the library takes to be in front of it."""
        del layer_idx
        return self.end if self._behind is None else self._behind

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the number of the next row of a layer, for masks: all rows in front of it are seen."""
        return self.layers[layer_idx].num_rows

    def reset(self) -> None:
        """Begin anew, without a prompt."""
        KvCache.forget(self)
        type(self).__init__(self, self.decoder, self.settings)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens of the open question or its answer, -n for n of them.

        Raises:
            ValueError: there are not as many, or this policy has made up its mind from them already.
        """
        if not tokens_to_remove:
            return
        num_open = 0 if self._behind is None else self._behind - self._asked_from
        if not self.takes_back or self._behind is None or not 0 < -tokens_to_remove <= num_open:
            msg = (
                f"crop({tokens_to_remove}): {num_open} tokens of a question are in this cache, and"
                f" {type(self).__name__} {'takes back those' if self.takes_back else 'takes back none'}; `forget` takes"
                " the whole question back"
            )
            raise ValueError(msg)
        for rows in self.layers:
            rows.cut(rows.num_rows + tokens_to_remove)
        self._behind += tokens_to_remove

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Refuse more than one prompt.

        Raises:
            ValueError: always, but for one.
        """
        if repeats != 1:
            msg = f"found {repeats} copies of a prompt, expected one: a cache policy holds one prompt"
            raise ValueError(msg)

    # --- the pass ------------------------------------------------------------------------------------------

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]  the attention function takes what it returns
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple["_Handed", None]:
        """Hand new keys and values through to the attention function; transformers calls this per layer.

        Raises:
            ValueError: the decoder's attention is not ours: what a policy leaves out would be seen.
        """
        if not self._is_passing:
            msg = (
                f"{type(self).__name__} chooses what attention sees, and the model's own attention is at work; make the"
                " call inside `with cache.continuing():`"
            )
            raise ValueError(msg)
        return _Handed(self, layer, keys, values), None

    def _begin(self, stage: Stage, positions_PL: torch.Tensor) -> None:
        self.stage, self.positions_PL, self._new_turns = stage, positions_PL, None

    def _position_ids(self) -> torch.Tensor:
        """Return positions as the decoder takes them: [axes, batch, L] for M-RoPE, [batch, L] for the others."""
        return self.positions_PL[:, None] if len(self.positions_PL) > 1 else self.positions_PL

    def _run(
        self, stage: Stage, embeds_LD: torch.Tensor, positions_PL: torch.Tensor, extra: Mapping[str, Any]
    ) -> torch.Tensor:
        self._begin(stage, positions_PL)
        with self._attending():
            out = self.decoder(
                inputs_embeds=embeds_LD[None],
                position_ids=self._position_ids(),
                past_key_values=self,
                use_cache=True,
                **extra,
            )
        return out.last_hidden_state[0]

    @contextmanager
    def _attending(self) -> Generator[None]:
        """Let the decoder use our attention for the time of a block."""
        from transformers import AttentionInterface  # noqa: PLC0415  slow, and needed only where a decoder is

        if self._is_passing:
            msg = "the library's code goes on with this cache: put questions to it behind that block"
            raise ValueError(msg)
        AttentionInterface.register(ATTENTION, _attend)
        before = self.decoder.config._attn_implementation
        self.decoder.config._attn_implementation, self._is_passing = ATTENTION, True
        try:
            yield
        finally:
            self.decoder.config._attn_implementation, self._is_passing = before, False


@dataclass(frozen=True, slots=True)
class _Handed:
    """What `update` returns for keys."""

    cache: KvCache
    layer: int
    keys: torch.Tensor
    values: torch.Tensor


def _check_finite(embeds_LD: torch.Tensor, tokens: Tokens) -> None:
    bad_L = ~embeds_LD.isfinite().all(-1)
    if bool(bad_L.any()):
        frame = int(tokens.frame_L[bad_L][0])
        where = "the prompt's text" if frame == TEXT else f"frame {frame}"
        msg = (
            f"{where}: {int(bad_L.sum())} tokens are not finite numbers; with float16 weights try --answer.dtype"
            " bfloat16 or float32, otherwise the weights or the frame are damaged"
        )
        raise AnswerError(msg)


def attend(new: New, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return attention of new tokens to rows [1, heads, K, head size], the last L of which are their own."""
    query, length, rows = new.query, new.query.shape[2], keys.shape[2]
    seen = None
    if 1 < length < rows:
        seen = torch.ones((length, rows), dtype=torch.bool, device=query.device).tril(rows - length)
    groups = query.shape[1] // keys.shape[1]
    if groups > 1 and query.is_cuda and seen is not None:
        # grouped heads are for the flash kernel alone, which takes no mask; the next best would be all scores at once
        keys, values = (tensor.repeat_interleave(groups, dim=1) for tensor in (keys, values))
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, is_causal=length == rows and length > 1, scale=new.scaling,
        enable_gqa=keys.shape[1] != query.shape[1],
    )  # fmt: skip


def _attend(
    module: Any, query: torch.Tensor, key: _Handed, value: None, attention_mask: None, scaling: float | None = None,
    s_aux: Any = None, softcap: float | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Return attention [1, L, heads, head size]; an attention function of transformers."""
    del module, value, attention_mask
    if s_aux is not None or softcap is not None:
        msg = (
            "this model's attention has sinks or a soft cap, which are not computed here; take another model"
        )
        raise ModelError(msg)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return key.cache.attend(key.layer, New(query, key.keys, key.values, scale)).transpose(1, 2), None
