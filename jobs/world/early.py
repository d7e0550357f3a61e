"""What the first layers of the world's model learn beside answering: relevant frames, and kinds of questions.

The paper's two routing losses (VideoRouter, arXiv 2605.05848), so that heads behind these layers have something to
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from jobs.world import lessons as ls
from jobs.world.model import HIDDEN
from jobs.world.scenes import SECONDS

EARLY_LAYERS = 2
PAIRS_PER_STEP = 192
"""Frames with a question behind them."""


class Routing(nn.Module):
    """The paper's two heads on the states of the first layers; those that ship are trained by `train routers`."""

    def __init__(self) -> None:
        super().__init__()
        self.relevant = nn.Sequential(
            nn.LayerNorm(2 * HIDDEN), nn.Linear(2 * HIDDEN, 128), nn.GELU(), nn.Linear(128, 1)
        )
        self.kind = nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 64), nn.GELU(), nn.Linear(64, 2))


def early_states(model: Any, embeds: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Return the states behind the first layers for padded sequences."""
    decoder = model.get_decoder()
    length = embeds.shape[1]
    inside = torch.arange(length) < torch.tensor(lengths)[:, None]
    mask = (inside[:, None, :] & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    mask = mask | torch.eye(length, dtype=torch.bool)
    positions = torch.arange(length)[None]
    turned = decoder.rotary_emb(embeds, positions)
    for layer in decoder.layers[:EARLY_LAYERS]:
        embeds = layer(embeds, attention_mask=mask, position_ids=positions, position_embeddings=turned)
        embeds = embeds[0] if isinstance(embeds, tuple) else embeds
    return embeds


def routing_step(
    model: Any, heads: Routing, rng: ls.Rng, tokens: torch.Tensor, taught: ls.Lessons
) -> tuple[torch.Tensor, float, float]:
    """Return the two routing losses' sum, and the share of right relevances and right kinds."""
    batch = _draw(rng, taught)
    source, lengths = _pad(batch.sources), [len(row) for row in batch.sources]
    states = early_states(model, ls.embed(model, source, tokens[torch.tensor(batch.clips)]), lengths)
    seen = states[:, 1 : 1 + ls.TOKENS].mean(1)
    last = states[torch.arange(len(states)), torch.tensor(lengths) - 1]
    logits = heads.relevant(torch.cat([seen, last], -1))[:, 0]
    truth = torch.tensor(batch.relevant)
    lengths = [len(row) for row in batch.questions]
    states = early_states(model, model.get_input_embeddings()(_pad(batch.questions)), lengths)
    inside = (torch.arange(states.shape[1]) < torch.tensor(lengths)[:, None]).float()
    kind_logits = heads.kind((states * inside[..., None]).sum(1) / inside.sum(1, keepdim=True))
    kinds = torch.tensor(batch.kinds)
    loss = binary_cross_entropy_with_logits(logits, truth) + cross_entropy(kind_logits, kinds)
    right = float(((logits > 0).float() == truth).float().mean())
    return loss, right, float((kind_logits.argmax(-1) == kinds).float().mean())


@dataclass(frozen=True, slots=True)
class _Batch:
    """Frames, each with a question behind it, and questions alone."""

    sources: list[list[int]] = field(default_factory=list[list[int]])
    clips: list[int] = field(default_factory=list[int])
    relevant: list[float] = field(default_factory=list[float])
    questions: list[list[int]] = field(default_factory=list[list[int]])
    kinds: list[int] = field(default_factory=list[int])
    """1 = fragment."""


def _draw(rng: ls.Rng, taught: ls.Lessons) -> _Batch:
    """Return frames, four of a clip, relevant ones more often than they come."""
    batch, per_frame = _Batch(), sum(ls.SIZES)
    for clip in rng.integers(0, len(taught), PAIRS_PER_STEP // 4).tolist():
        known = taught[clip][1]
        local = [one for one in known if one.asked.evidence_s]
        for _ in range(4):
            one = local[rng.integers(len(local))]
            inside = [s for start_s, end_s in one.asked.evidence_s for s in range(start_s, end_s)]
            wanted = rng.random() < 0.4
            second = int(rng.choice(inside)) if wanted else int(rng.integers(SECONDS))
            rows = range(second * per_frame, second * per_frame + ls.TOKENS)
            batch.sources.append([ls.WORDS[f"<{second}s>"], *(-1 - row for row in rows), *one.bare])
            batch.clips.append(clip)
            batch.relevant.append(float(second in inside))
        asked = known[rng.integers(len(known))]
        batch.questions.append(list(asked.bare))
        batch.kinds.append(int(asked.asked.route == "fragment"))
    return batch


def _pad(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
