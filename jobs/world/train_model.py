"""Trains the world's model from nothing: first its eye, then its language, then frozen weights to a folder.

    python -m jobs.world.train_model OUT --clips 12000 --minutes 60
    python -m jobs.world.train_model OUT --clips 12000 --minutes 60 --begin OUT

The second command goes on from what the first wrote, with the lessons of the second half of the course.

The eye learns what each cell holds, which the generator knows. Then it is frozen, clips are encoded once, and the
language model learns to answer from them: first from a frame or three, then from a frame of everything that happens,
at last shown with every kind of plan (the paper's third stage: a model that has not seen mixed resolutions loses by
them). Its first layers learn beside it to tell relevant frames and the two kinds of questions, the paper's two
routing losses.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from jobs.world import lessons as ls
from jobs.world.begin import begin, project_again
from jobs.world.clips import render
from jobs.world.early import Routing, routing_step
from jobs.world.eye import encode, schedule, train_eye
from jobs.world.judge import evaluate, read
from jobs.world.model import HIDDEN, load, make_model, save
from jobs.world.splits import seeds
from jobs.world.words import make_tokenizer

CLIPS_PER_STEP = 16
"""Of the last part; the first part's clips are short, and it takes three times as many."""
PEAK = 2e-3
"""Learning rate; a model that goes on gets half of it."""
ALIGNED_CLIPS = 400
"""Clips that the projector is brought to the words with."""


@dataclass(frozen=True, slots=True)
class Part:
    """How hard the lessons are at one moment of the course, and what counts."""

    tiny: float
    """Share of clips shown with a few frames only."""
    easy: float
    """Of the others, the share shown with a frame of everything that happens."""
    listed: float
    """Share of clips asked with the answers to choose from."""
    clips: int
    routing_weight: float


def part_at(share: float) -> Part:
    """Return the part of the course behind a share of its time."""
    tiny = 1.0 if share < 0.08 else max(0.03, 1.0 - (share - 0.08) / 0.15)
    return Part(
        tiny=tiny,
        easy=1.0 if share < 0.25 else max(0.05, 1.0 - (share - 0.25) / 0.25),
        listed=0.0 if share < 0.35 else 0.2,
        clips=CLIPS_PER_STEP * 3
        if tiny > 0.95
        else CLIPS_PER_STEP * 3 // 2
        if share < 0.3
        else CLIPS_PER_STEP,
        routing_weight=1.0 if share < 0.25 else 0.3,
    )


def language_step(
    model: Any, rng: ls.Rng, tokens: torch.Tensor, taught: ls.Lessons, part: Part
) -> tuple[torch.Tensor, float]:
    """Return the loss of some clips with their questions, and the share of right answers."""
    shown: list[ls.Shown] = []
    picked = rng.integers(0, len(taught), part.clips)
    for clip in picked.tolist():
        scene, known = taught[clip]
        asked = [one.asked for one in known]
        tiny = rng.random() < part.tiny
        plan, places = ls.tiny_plan(rng, asked) if tiny else ls.make_plan(rng, scene, asked, part.easy)
        lists = rng.random() < part.listed
        chosen = [known[place] for place in rng.permutation(places)[: 10 if lists else 24]]
        shown.append(ls.show(plan, chosen, lists))
    states = read(model, shown, tokens[torch.from_numpy(picked)])
    row, place, wanted, asked = np.asarray(
        [(row, *target) for row, one in enumerate(shown) for target in one.targets]
    ).T
    logits = model.lm_head(states[torch.from_numpy(row), torch.from_numpy(place)])
    right = (logits.argmax(-1).numpy() == wanted)[asked >= 0]
    weight = torch.from_numpy(np.where(asked >= 0, 1.0, 0.1)).float()
    losses = cross_entropy(logits, torch.from_numpy(wanted), reduction="none")
    return (losses * weight).sum() / weight.sum(), float(right.mean())


@dataclass(frozen=True, slots=True)
class Course:
    """What the language model is taught from and judged by, and for how long."""

    tokens: torch.Tensor
    """Of each clip, in every size, [clips, T * sum of SIZES, D] float16."""
    taught: ls.Lessons
    dev_tokens: torch.Tensor
    judged: ls.Lessons
    minutes: float
    max_steps: float
    seed: int
    begun: float
    """Share of the course that is behind the model already."""


def train_language(model: Any, course: Course, out: str) -> list[dict[str, Any]]:
    """Teach the language model to answer, and its first layers to route; return what was measured on the way."""
    rng, heads = np.random.default_rng(course.seed), Routing()
    history: list[dict[str, Any]] = []
    learnt = [*model.get_decoder().parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    started, step, share, told = time.monotonic(), 0, 0.0, 0.1
    measured: list[tuple[float, float, float, float]] = []
    model.train()
    while share < 1:
        share = max((time.monotonic() - started) / (60 * course.minutes), step / course.max_steps)
        schedule(optimizer, PEAK if course.begun == 0 else PEAK / 2, share, step)
        part = part_at(course.begun + (1 - course.begun) * share)
        loss, right = language_step(model, rng, course.tokens, course.taught, part)
        routing, relevant, kind = routing_step(model, heads, rng, course.tokens, course.taught)
        optimizer.zero_grad()
        (loss + part.routing_weight * routing).backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        measured.append((loss.item(), right, relevant, kind))
        step += 1
        if step % 100 == 0:
            means = np.mean(measured[-100:], axis=0).round(3).tolist()
            print(f"language {step} {share:.2f} {part} loss/right/relevant/kind {means}", flush=True)
        if share >= told:
            told += 0.15
            model.eval()
            found = evaluate(model, course.dev_tokens[:40], course.judged[:40])
            history.append({"step": step, "share": round(share, 2), **found})
            print(json.dumps(history[-1]), flush=True)
            model.train()
            save(model, out)
    return history


def main(argv: list[str] | None = None) -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description="Train the world's model from nothing.")
    parser.add_argument("out", help="folder to write the model to")
    parser.add_argument("--clips", type=int, default=12000)
    parser.add_argument("--dev-clips", type=int, default=200)
    parser.add_argument("--eye-minutes", type=float, default=6.0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--steps", type=float, default=math.inf, help="end either part after so many at the latest"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", help="go on from this folder's model, with its eye as it is")
    parser.add_argument("--cache", default="world_clips", help="folder that keeps rendered clips")
    given = parser.parse_args(argv)
    cache = Path(given.cache)
    cache.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    clips, dev_clips = render(cache, "train", given.clips), render(cache, "dev", given.dev_clips)
    taught = ls.load_scenes(seeds("train", len(clips)), tokenizer)
    judged = ls.load_scenes(seeds("dev", len(dev_clips)), tokenizer)
    labels = np.stack([ls.cells(scene) for scene, _ in taught])
    if given.begin:
        model = load(given.begin)
        tokens, dev_tokens = encode(model, clips, given.seed), encode(model, dev_clips, given.seed + 1)
    else:
        model = make_model(given.seed)
        train_eye(model, clips, labels, given.eye_minutes, given.steps, given.seed)
        save(model, given.out)
        tokens, dev_tokens = encode(model, clips, given.seed), encode(model, dev_clips, given.seed + 1)
        whole = tokens[:ALIGNED_CLIPS].view(-1, sum(ls.SIZES), HIDDEN)[:, : ls.TOKENS]
        places = labels[:ALIGNED_CLIPS].reshape(-1, ls.TOKENS, 3)
        mapping = begin(model, whole.reshape(-1, HIDDEN), places)
        project_again(tokens, mapping)
        project_again(dev_tokens, mapping)
    course = Course(
        tokens, taught, dev_tokens, judged, given.minutes, given.steps, given.seed, 0.5 if given.begin else 0
    )
    history = train_language(model, course, given.out)
    model.eval()
    history.append({"final": True, **evaluate(model, dev_tokens, judged)})
    print(json.dumps(history[-1]), flush=True)
    save(model, given.out)
    Path(given.out, "training.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
