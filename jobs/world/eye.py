"""The eye of the world's model: vision tower and projector, taught what each cell holds, then frozen."""

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from jobs.world import lessons as ls
from jobs.world.clips import Clips, pixels
from jobs.world.model import HIDDEN
from jobs.world.scenes import SECONDS, SIDE

FRAMES_PER_STEP = 256


class Cells(nn.Module):
    """Reads what a cell holds, and where it is, off a visual token; only for training the eye."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        sizes = (len(ls.THINGS), len(ls.INKS), len(ls.NUMERALS), SIDE, SIDE)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, size) for size in sizes)

    def forward(self, tokens_NKD: torch.Tensor) -> list[torch.Tensor]:
        normed = self.norm(tokens_NKD)
        return [head(normed) for head in self.heads]


def schedule(optimizer: torch.optim.Optimizer, peak: float, share: float, step: int) -> None:
    """Warm up, then fall by a cosine to 2 %."""
    rate = peak * min(1.0, (step + 1) / 33) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
    for group in optimizer.param_groups:
        group["lr"] = rate


def train_eye(
    model: Any, clips: Clips, labels: npt.NDArray[np.uint8], minutes: float, max_steps: float, seed: int
) -> None:
    """Teach vision tower and projector what each cell holds, until the time or the steps are used up."""
    cells, rng = Cells(), np.random.default_rng(seed)
    eye = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW([*eye, *cells.parameters()], lr=1e-3, weight_decay=0.02)
    place = torch.arange(SIDE * SIDE)
    started, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        share = max((time.monotonic() - started) / (60 * minutes), step / max_steps)
        schedule(optimizer, 1.5e-3, share, step)
        clip, second = rng.integers(0, len(clips), FRAMES_PER_STEP), rng.integers(0, SECONDS, FRAMES_PER_STEP)
        truth = torch.from_numpy(labels[clip, second].astype(np.int64))
        tokens = model.get_image_features(
            pixel_values=pixels(clips[clip, second], rng), return_dict=True
        ).pooler_output
        wanted = [*truth.unbind(-1), *(one.expand(len(truth), -1) for one in (place // SIDE, place % SIDE))]
        found = cells(tokens)
        losses = [
            cross_entropy(one.flatten(0, 1), right.flatten())
            for one, right in zip(found, wanted, strict=True)
        ]
        loss = sum(losses, torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(eye, 1.0)
        optimizer.step()
        if step % 50 == 0:
            right = _right(found, wanted)
            print(f"eye {step} {share:.2f} loss {loss.item():.3f} shape/ink/digit {right}", flush=True)
        step += 1


def _right(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> list[float]:
    """Return the shares of right shapes, inks and digits, of the cells that hold something."""
    full = wanted[0] > 0
    shares = [
        float((one.argmax(-1) == want)[full].float().mean())
        for one, want in zip(found[:3], wanted, strict=False)
    ]
    return [round(share, 3) for share in shares]


@torch.no_grad()
def encode(model: Any, clips: Clips, seed: int) -> torch.Tensor:
    """Return the visual tokens of every clip in every size, float16 [clips, T * sum of SIZES, D].

    Every other batch of clips is spoilt as compression might: that costs more than looking at them.
    """
    model.eval()
    rng, matrix = np.random.default_rng(seed), ls.pooling()
    found = torch.empty(len(clips), SECONDS * len(matrix), HIDDEN, dtype=torch.float16)
    for start in range(0, len(clips), 32):
        part = np.asarray(clips[start : start + 32])
        spoilt = rng if start % 64 else None
        tokens = model.get_image_features(
            pixel_values=pixels(part.reshape(-1, *part.shape[2:]), spoilt), return_dict=True
        )
        pooled = matrix @ tokens.pooler_output
        found[start : start + len(part)] = pooled.reshape(len(part), -1, HIDDEN).half()
    return found
