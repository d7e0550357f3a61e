"""From a prompt with injected visual tokens to likelihoods and text: our own prefill and greedy decoding.

transformers' `generate` is not used: it recomputes positions from a cache's length, which is wrong once visual
tokens were dropped. Here every call is told its positions. A prompt is prefilled in two steps, up to its last
visual token and behind it, so that questions put to the same frames share the first one; where it is cut never
depends on who shares it.

Shape letters: L tokens, D hidden size, V vocabulary, P position axes (3 for Qwen's M-RoPE, else 1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import AnswerError


@dataclass(slots=True)
class Prefix:
    """A prefilled prompt head; decoding extends its cache and `rewind` takes that back."""

    cache: Any
    num_tokens: int
    next_position: int
    """Position of the first token behind it, on every axis."""


def prefill(
    model: Any,
    embeds_LD: torch.Tensor,
    positions_PL: torch.Tensor,
    next_position: int,
    extra: Mapping[str, Any],
) -> Prefix:
    """Return the head of a prompt, prefilled.

    Args:
        model: the whole language model.
        embeds_LD: its tokens' embeddings, visual ones injected.
        positions_PL: their positions, gaps where visual tokens were dropped.
        next_position: position of the first token behind them; not their largest plus one where the last visual
            tokens were dropped.
        extra: inputs that replace `embeds_LD` (Qwen3-VL's, with features for its first layers); empty = none.
    """
    from transformers import DynamicCache

    # a plain cache: one built from the configuration could hold sliding layers, which cannot be rewound
    cache = DynamicCache()
    _forward(model, cache, positions_PL, extra or {"inputs_embeds": embeds_LD[None]})
    return Prefix(cache, embeds_LD.shape[0], next_position)


def step(
    model: Any, prefix: Prefix, ids: Sequence[int], axes: int, *, all_logits: bool = False
) -> torch.Tensor:
    """Return the logits behind text tokens appended to the cache: [V] behind the last, or [L, V] behind each.

    Raises:
        AnswerError: the model computed something that is not a number.
    """
    behind = prefix.cache.get_seq_length() - prefix.num_tokens
    start = prefix.next_position + behind
    ids_L = torch.tensor(ids, device=model.device)
    positions_PL = torch.arange(start, start + len(ids), device=model.device).expand(axes, -1)
    embeds_LD = model.get_input_embeddings()(ids_L)
    logits_LV = _forward(
        model, prefix.cache, positions_PL, {"inputs_embeds": embeds_LD[None]}, keep=0 if all_logits else 1
    )
    if not bool(torch.isfinite(logits_LV).all()):
        msg = (
            "the model's logits are not finite numbers; with float16 weights try --answer.dtype bfloat16 or float32,"
            " otherwise the weights are damaged"
        )
        raise AnswerError(msg)
    return logits_LV if all_logits else logits_LV[-1]


def rewind(prefix: Prefix) -> None:
    """Take back whatever was appended behind a prefix."""
    behind = prefix.cache.get_seq_length() - prefix.num_tokens
    if behind:
        prefix.cache.crop(-behind)


def label_log_likelihoods(
    model: Any, prefix: Prefix, logits_V: torch.Tensor, labels: Sequence[Sequence[int]], axes: int
) -> torch.Tensor:
    """Return, per label, its mean log-probability per token, so that long labels are not punished.

    Args:
        model: the whole language model.
        prefix: holds exactly the prompt behind which `logits_V` stand; left as found.
        logits_V: logits behind the prompt.
        labels: tokens of each label, one at least.
        axes: position axes.
    """
    first_V = torch.log_softmax(logits_V.float(), -1)
    asked = prefix.cache.get_seq_length()
    found: list[torch.Tensor] = []
    for label in labels:
        logs = [first_V[label[0]]]
        if len(label) > 1:
            logits_LV = step(model, prefix, label[:-1], axes, all_logits=True)
            behind_L = torch.tensor(label[1:], device=logits_LV.device)[:, None]
            logs += list(torch.log_softmax(logits_LV.float(), -1).gather(1, behind_L)[:, 0])
            prefix.cache.crop(asked - prefix.cache.get_seq_length())
        found.append(torch.stack(logs).mean())
    return torch.stack(found).cpu()


def generate(
    model: Any, prefix: Prefix, logits_V: torch.Tensor, ends: frozenset[int], max_new_tokens: int, axes: int
) -> tuple[list[int], float]:
    """Return the most likely next tokens, one after the other, and the geometric mean of their probabilities.

    Plain greedy: a checkpoint's own sampling settings and repetition penalty are not applied, since the confidence
    must be the model's own. The end token is neither returned nor counted.
    """
    ids: list[int] = []
    logs: list[float] = []
    while len(ids) < max_new_tokens:
        log_V = torch.log_softmax(logits_V.float(), -1)
        best = int(log_V.argmax())
        if best in ends:
            break
        ids.append(best)
        logs.append(float(log_V[best]))
        if len(ids) < max_new_tokens:
            logits_V = step(model, prefix, [best], axes)
    return ids, math.exp(sum(logs) / len(logs)) if logs else 0.0


def _forward(
    model: Any, cache: Any, positions_PL: torch.Tensor, inputs: Mapping[str, Any], keep: int = 1
) -> torch.Tensor:
    """Return logits [L, V] of the last `keep` tokens (0 = all)."""
    # position ids are [axes, batch, L] for M-RoPE, [batch, L] for the others
    positions = positions_PL[:, None] if positions_PL.shape[0] > 1 else positions_PL
    with torch.inference_mode():
        out = model(
            **inputs, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep
        )
    return out.logits[0]
