"""Trains the two routing heads of the world's model from the generator's truth.

    python -m jobs.world.train_heads OUT

For any other videos `reelsift train label` finds out what matters by asking the model; here it is known. Behind it the
heads, their losses, the states and the folder are the same as those of `reelsift train routers`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from actors.models.heads import Heads, ImageHead, SemanticHead, save_heads
from jobs.training.measures import head_loss, measure
from jobs.world import lessons as ls
from jobs.world.clips import Clips, render
from jobs.world.early import EARLY_LAYERS, early_states
from jobs.world.eye import encode
from jobs.world.model import HIDDEN, load
from jobs.world.scenes import SECONDS
from jobs.world.splits import Split, seeds
from jobs.world.words import make_tokenizer

STEPS = 1500
ROWS_PER_STEP = 1024

Table = tuple[torch.Tensor, torch.Tensor]
"""States [N, ...] and truth [N]."""


@torch.no_grad()
def states_of(model: Any, tokens_ND: torch.Tensor, known: list[ls.Lesson]) -> tuple[Table, Table]:
    """Return the states of one clip: of every frame with every local question, and of every question alone."""
    per_frame, frames, asked = sum(ls.SIZES), [], []
    relevant: list[float] = []
    for one in known:
        asked.append(_early(model, [list(one.bare)], tokens_ND)[0].mean(0))
        if not one.asked.evidence_s:
            continue
        rows = [
            [ls.WORDS[f"<{s}s>"], *(-1 - s * per_frame - row for row in range(ls.TOKENS)), *one.bare]
            for s in range(SECONDS)
        ]
        states = _early(model, rows, tokens_ND)
        frames.append(torch.cat([states[:, 1 : 1 + ls.TOKENS].mean(1), states[:, -1]], -1))
        relevant += [float(any(a <= s < b for a, b in one.asked.evidence_s)) for s in range(SECONDS)]
    kinds = torch.tensor([int(one.asked.route == "fragment") for one in known])
    return (torch.cat(frames), torch.tensor(relevant)), (torch.stack(asked), kinds)


def _early(model: Any, rows: list[list[int]], tokens_ND: torch.Tensor) -> torch.Tensor:
    """Return the states of rows of one length, [R, L, D]."""
    embeds = ls.embed(model, torch.tensor(rows), tokens_ND[None].expand(len(rows), -1, -1))
    return early_states(model, embeds, [len(rows[0])] * len(rows))


def tables(model: Any, clips: Clips, split: Split) -> tuple[Table, Table]:
    """Return the states of frames and of questions of some clips."""
    tokens = encode(model, clips, 0)
    taught = ls.load_scenes(seeds(split, len(clips)), make_tokenizer())
    found = [states_of(model, one, known) for one, (_, known) in zip(tokens, taught, strict=True)]
    frames, asked = ([pair[kind] for pair in found] for kind in (0, 1))
    return (
        (torch.cat([states for states, _ in frames]), torch.cat([truth for _, truth in frames])),
        (torch.cat([states for states, _ in asked]), torch.cat([truth for _, truth in asked])),
    )


def train(name: str, head: torch.nn.Module, table: Table, seed: int) -> None:
    """Fit one head."""
    states, truth = table
    chosen = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01)
    head.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / STEPS)
        rows = torch.randint(0, len(states), (ROWS_PER_STEP,), generator=chosen)
        loss = head_loss(name, head(states[rows]), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()


def main(argv: list[str] | None = None) -> None:
    """Train, measure on the dev split, and write."""
    parser = argparse.ArgumentParser(description="Train the routing heads of the world's model.")
    parser.add_argument("out", help="folder to write the heads to")
    parser.add_argument("--model", default="package:world/model")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--dev-clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="world_clips", help="folder that keeps rendered clips")
    given = parser.parse_args(argv)
    torch.manual_seed(given.seed)
    model = load(given.model)
    cache = Path(given.cache)
    cache.mkdir(parents=True, exist_ok=True)
    learnt = tables(model, render(cache, "train", given.clips), "train")
    held = tables(model, render(cache, "dev", given.dev_clips), "dev")
    heads = Heads(HIDDEN, EARLY_LAYERS, ls.TOKENS, SemanticHead(HIDDEN), ImageHead(HIDDEN), model=given.model)
    found: dict[str, Any] = {}
    for name, table, dev in zip(("image", "semantic"), learnt, held, strict=True):
        head = getattr(heads, name)
        train(name, head, table, given.seed)
        with torch.no_grad():
            found[name] = measure(name, head(dev[0]), dev[1])
        setattr(heads, f"{name}_temperature", found[name]["temperature"])
    heads.metrics = found
    print(found, flush=True)
    save_heads(given.out, heads)


if __name__ == "__main__":
    main()
