"""From a prompt's embeddings to a cache, and from a cache to answers.

Shape letters: L tokens, P position axes, D hidden size, C visual tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from actors.kv import KV_POLICIES
from actors.kv.cache import KvCache, Piece
from actors.kv.settings import KvSettings
from actors.kv.tokens import of_prompt, split
from actors.models.decoding import NOT_FINITE, Language, Said
from pipeline.errors import AnswerError
from pipeline.plugins import find


def prefill(
    decoder: Any,
    embeds_LD: torch.Tensor,
    positions_PL: torch.Tensor,
    visual_L: torch.Tensor,
    policy: str,
    settings: KvSettings | None = None,
    **more: Any,
) -> KvCache:
    """Return a cache of a policy that was shown a prompt, group by group; see `cut` for all that it takes.

    Raises:
        ConfigError: no such policy, or the model has too few layers for it.
        ModelError: the decoder has no rotary positions.
        AnswerError: a visual token is not a finite number; the message names its frame.
    """
    settings = settings or KvSettings()
    cache = find(KV_POLICIES, policy, "KV_POLICIES")(decoder, settings)
    for piece in cut(embeds_LD, positions_PL, visual_L, settings.group_frames, **more):
        cache.feed(piece)
    return cache


def cut(
    embeds_LD: torch.Tensor,
    positions_PL: torch.Tensor,
    visual_L: torch.Tensor,
    group_frames: int,
    *,
    next_position: int | None = None,
    times_s: Sequence[float] | None = None,
    lead: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Iterator[Piece]:
    """Yield a prompt in pieces of whole frames, each with the text in front of them.

    Args:
        embeds_LD: the prompt's embeddings, visual ones injected.
        positions_PL: their positions.
        visual_L: bool: which are visual; frames are parted by text.
        group_frames: frames of a piece.
        next_position: of the token behind the prompt; None = behind the largest.
        times_s: when each frame is shown, in seconds; None = one a second from 0 on.
        lead: tokens of text right in front of the first frame that go with it, as its time does.
        extra: more inputs of the decoder, for the whole prompt (Qwen3-VL's features for its first layers).
    """
    if not len(embeds_LD):
        return
    behind = int(positions_PL.max()) + 1 if next_position is None else next_position
    tokens = of_prompt(positions_PL, visual_L, times_s, behind)
    for part in split(tokens, group_frames):
        own = 0 if part.start else lead
        yield Piece(embeds_LD[part], tokens.take(part), _extra_of(extra or {}, part), own)


def _extra_of(extra: Mapping[str, Any], part: slice) -> dict[str, Any]:
    """Return a piece's share of the features that Qwen3-VL adds to visual tokens inside its first layers."""
    if not extra:
        return {}
    visual_L = extra["visual_pos_masks"][0]
    here = slice(int(visual_L[: part.start].sum()), int(visual_L[: part.stop].sum()))
    layers = [layer_CD[here] for layer_CD in extra["deepstack_visual_embeds"]]
    return {"visual_pos_masks": visual_L[None, part], "deepstack_visual_embeds": layers}


def say(cache: KvCache, language: Language, ids: Sequence[int], max_new_tokens: int) -> Said:
    """Put a question to a cache and return its answer, token by most likely token; the cache is then as before.

    Args:
        cache: was fed a prompt.
        language: the model's text half.
        ids: the question's tokens, one at least, with whatever the chat template puts behind it.
        max_new_tokens: longest answer.

    Raises:
        AnswerError: the logits are not finite numbers.
    """
    found: list[int] = []
    total = 0.0
    new = list(ids)
    try:
        while len(found) < max_new_tokens:
            hidden_LD = cache.ask(language.embed(torch.tensor(new, device=language.device)))
            best_R, log_R, _ = language.read(hidden_LD[-1:])
            if bool(log_R.isnan().any()):
                raise AnswerError(NOT_FINITE)
            new = best_R.tolist()
            if new[0] in language.ends:
                break
            found += new
            total += float(log_R)
    finally:
        cache.forget()
    confidence = float(torch.tensor(total / len(found)).exp()) if found else 0.0
    return Said(found, confidence, len(found))
