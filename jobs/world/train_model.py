"""Trains the world's model from nothing: first its eye, then its language, then frozen weights to a folder.

    python -m jobs.world.train_model OUT --clips 12000 --minutes 60

The eye learns what each cell holds, which the generator knows. Then it is frozen, clips are encoded once, and the
language model learns to answer from them, shown with every kind of plan (the paper's third stage: a model that has
not seen mixed resolutions loses by them). Its first layers learn beside it to tell relevant frames and the two kinds
of questions, the paper's two routing losses.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from jobs.world import lessons as ls
from jobs.world.model import HIDDEN, PIXELS, make_model, save
from jobs.world.scenes import FRAME_PX, SECONDS, SIDE, Scene, draw, make_scene
from jobs.world.splits import Split, seeds
from jobs.world.words import make_tokenizer

EARLY_LAYERS = 2
FRAMES_PER_STEP = 512
CLIPS_PER_STEP = 16
PAIRS_PER_STEP = 192
"""Frames with a question behind them, for the routing loss."""
ROUTING_WEIGHT = 0.2

Clips = npt.NDArray[np.uint8]
Lessons = list[tuple[Scene, list[ls.Lesson]]]


def render_clip(seed: int) -> Clips:
    """Return the pictures at whole seconds, scaled to what the eye sees, [T, PIXELS, PIXELS, 3]."""
    scene = make_scene(seed)
    whole = np.stack([draw(scene, float(second)) for second in range(SECONDS)])
    fold = FRAME_PX // PIXELS
    small = whole.reshape(SECONDS, PIXELS, fold, PIXELS, fold, 3).mean((2, 4))
    return np.round(small).astype(np.uint8)


def render(folder: Path, split: Split, count: int) -> Clips:
    """Return the clips of a split, [clips, T, PIXELS, PIXELS, 3], kept in a folder from one run to the next."""
    path = folder / f"{split}-{count}.npy"
    if not path.exists():
        shape = (count, SECONDS, PIXELS, PIXELS, 3)
        part = np.lib.format.open_memmap(f"{path}.part", "w+", np.uint8, shape)
        with multiprocessing.Pool() as pool:
            for place, clip in enumerate(pool.imap(render_clip, seeds(split, count), chunksize=16)):
                part[place] = clip
        part.flush()
        Path(f"{path}.part").rename(path)
    return np.load(path, mmap_mode="r")


def pixels(clips: Clips, rng: ls.Rng | None) -> torch.Tensor:
    """Return pictures as the image processor makes them, [N, 3, H, W]; with `rng`, as compression might spoil them."""
    values = torch.tensor(clips).permute(0, 3, 1, 2).float()
    if rng is not None:
        blurred = nn.functional.avg_pool2d(values, 3, 1, 1, count_include_pad=False)
        grey = values.mean(1, keepdim=True)
        dull = nn.functional.avg_pool2d(values - grey, 3, 1, 1, count_include_pad=False) + grey
        soft = torch.from_numpy(rng.uniform(0, 0.35, (len(values), 1, 1, 1))).float()
        values = torch.where(torch.from_numpy(rng.random((len(values), 1, 1, 1)) < 0.5), dull, values)
        values = values * (1 - soft) + blurred * soft
        values = values + torch.randn_like(values) * 3
    return values / 127.5 - 1


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
    rate = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
    for group in optimizer.param_groups:
        group["lr"] = rate


def train_eye(model: Any, clips: Clips, labels: npt.NDArray[np.uint8], minutes: float, seed: int) -> None:
    """Teach vision tower and projector what each cell holds."""
    cells, rng = Cells(), np.random.default_rng(seed)
    eye = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW([*eye, *cells.parameters()], lr=1e-3, weight_decay=0.02)
    place = torch.arange(SIDE * SIDE)
    started, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        share = (time.monotonic() - started) / (60 * minutes)
        schedule(optimizer, 1.5e-3, share, step)
        clip, second = rng.integers(0, len(clips), FRAMES_PER_STEP), rng.integers(0, SECONDS, FRAMES_PER_STEP)
        truth = torch.from_numpy(labels[clip, second].astype(np.int64))
        tokens = model.get_image_features(
            pixel_values=pixels(clips[clip, second], rng), return_dict=True
        ).pooler_output
        wanted = [
            *truth.unbind(-1),
            (place // SIDE).expand(len(truth), -1),
            (place % SIDE).expand(len(truth), -1),
        ]
        found = cells(tokens)
        loss = sum(
            cross_entropy(one.flatten(0, 1), right.flatten())
            for one, right in zip(found, wanted, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(eye, 1.0)
        optimizer.step()
        if step % 50 == 0:
            full = truth[..., 0] > 0
            right = [
                float((one.argmax(-1) == want)[full].float().mean())
                for one, want in zip(found[:3], wanted, strict=False)
            ]
            print(
                f"eye {step} {share:.2f} loss {loss.item():.3f} shape/ink/digit {np.round(right, 3)}",
                flush=True,
            )
        step += 1


@torch.inference_mode()
def encode(model: Any, clips: Clips, seed: int) -> torch.Tensor:
    """Return the visual tokens of every clip in every size, float16 [clips, T * sum of SIZES, D]."""
    model.eval()
    rng, matrix = np.random.default_rng(seed), ls.pooling()
    found = torch.empty(len(clips), SECONDS * len(matrix), HIDDEN, dtype=torch.float16)
    for start in range(0, len(clips), 32):
        part = np.asarray(clips[start : start + 32])
        tokens = model.get_image_features(
            pixel_values=pixels(part.reshape(-1, *part.shape[2:]), rng), return_dict=True
        )
        pooled = matrix @ tokens.pooler_output
        found[start : start + len(part)] = pooled.reshape(len(part), -1, HIDDEN).half()
    return found


class Routing(nn.Module):
    """The paper's two heads on the states of the first layers; those that ship are trained by `train routers`."""

    def __init__(self) -> None:
        super().__init__()
        self.relevant = nn.Sequential(
            nn.LayerNorm(2 * HIDDEN), nn.Linear(2 * HIDDEN, 128), nn.GELU(), nn.Linear(128, 1)
        )
        self.kind = nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 64), nn.GELU(), nn.Linear(64, 2))


def embed(model: Any, source: torch.Tensor, tokens_BND: torch.Tensor) -> torch.Tensor:
    """Return embeddings [B, L, D]: words, and the clips' own visual tokens where `source` is negative."""
    words = model.get_input_embeddings()(source.clamp(min=0))
    rows = (-1 - source).clamp(min=0)
    seen = tokens_BND.gather(1, rows[..., None].expand(-1, -1, HIDDEN)).float()
    return torch.where((source < 0)[..., None], seen, words)


def language_step(
    model: Any, rng: ls.Rng, tokens: torch.Tensor, taught: Lessons, easy: float, listed: float
) -> tuple[torch.Tensor, float]:
    """Return the loss of some clips with their questions, and the share of right answers."""
    shown: list[ls.Shown] = []
    picked = rng.integers(0, len(taught), CLIPS_PER_STEP)
    for clip in picked.tolist():
        scene, known = taught[clip]
        plan, places = ls.make_plan(rng, scene, [one.asked for one in known], easy)
        lists = rng.random() < listed
        chosen = [known[place] for place in rng.permutation(places)[: 10 if lists else 24]]
        shown.append(ls.show(rng, plan, chosen, lists))
    batch = ls.collate(shown)
    states = model.get_decoder()(
        inputs_embeds=embed(model, batch["source"], tokens[torch.from_numpy(picked)]),
        attention_mask=batch["may_see"],
        position_ids=batch["position"],
        use_cache=False,
    ).last_hidden_state
    row, place, wanted, asked = np.asarray(
        [(row, *target) for row, one in enumerate(shown) for target in one.targets]
    ).T
    logits = model.lm_head(states[torch.from_numpy(row), torch.from_numpy(place)])
    right = (logits.argmax(-1).numpy() == wanted)[asked >= 0]
    weight = torch.from_numpy(np.where(asked >= 0, 1.0, 0.1)).float()
    losses = cross_entropy(logits, torch.from_numpy(wanted), reduction="none")
    return (losses * weight).sum() / weight.sum(), float(right.mean())


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
    model: Any, heads: Routing, rng: ls.Rng, tokens: torch.Tensor, taught: Lessons
) -> tuple[torch.Tensor, float, float]:
    """Return the two routing losses' sum, and the share of right relevances and right kinds."""
    sources, clips, truths, questions, kinds = [], [], [], [], []
    for clip in rng.integers(0, len(taught), PAIRS_PER_STEP // 4).tolist():
        known = taught[clip][1]
        local = [one for one in known if one.asked.evidence_s]
        for _ in range(4):
            one = local[rng.integers(len(local))]
            inside = [s for start_s, end_s in one.asked.evidence_s for s in range(start_s, end_s)]
            wanted = rng.random() < 0.4
            second = int(rng.choice(inside)) if wanted else int(rng.integers(SECONDS))
            first = second * sum(ls.SIZES)
            sources.append(
                [ls.WORDS[f"<{second}s>"], *(-1 - row for row in range(first, first + ls.TOKENS)), *one.bare]
            )
            clips.append(clip)
            truths.append(float(second in inside))
        asked = known[rng.integers(len(known))]
        questions.append(list(asked.bare))
        kinds.append(int(asked.asked.route == "fragment"))

    def pad(rows: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])

    source = pad(sources)
    lengths = [len(row) for row in sources]
    states = early_states(model, embed(model, source, tokens[torch.tensor(clips)]), lengths)
    seen = states[:, 1 : 1 + ls.TOKENS].mean(1)
    last = states[torch.arange(len(states)), torch.tensor(lengths) - 1]
    logits = heads.relevant(torch.cat([seen, last], -1))[:, 0]
    truth = torch.tensor(truths)
    asked_states = early_states(
        model, model.get_input_embeddings()(pad(questions)), [len(row) for row in questions]
    )
    inside = (
        torch.arange(asked_states.shape[1]) < torch.tensor([len(row) for row in questions])[:, None]
    ).float()
    kind_logits = heads.kind((asked_states * inside[..., None]).sum(1) / inside.sum(1, keepdim=True))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, truth) + cross_entropy(
        kind_logits, torch.tensor(kinds)
    )
    right = float(((logits > 0).float() == truth).float().mean())
    return loss, right, float((kind_logits.argmax(-1) == torch.tensor(kinds)).float().mean())


PLANS = ("dense", "uniform 8", "uniform 4", "uniform 2", "evidence 16, rest 2", "10 frames")


def plan_for(name: str, lesson: ls.Lesson) -> list[int]:
    """Return one of the plans that a model is judged by while it learns."""
    if name == "dense":
        return [ls.TOKENS] * SECONDS
    if name.startswith("uniform"):
        return [int(name.split()[1])] * SECONDS
    if name == "10 frames":
        shown = set(((2 * np.arange(10) + 1) * SECONDS // 20).tolist())
        return [ls.TOKENS if second in shown else 0 for second in range(SECONDS)]
    if not lesson.asked.evidence_s:
        return [4] * SECONDS
    inside = {s for start_s, end_s in lesson.asked.evidence_s for s in range(start_s, end_s)}
    return [ls.TOKENS if second in inside else 2 for second in range(SECONDS)]


@torch.inference_mode()
def evaluate(model: Any, tokens: torch.Tensor, taught: Lessons, num_clips: int) -> dict[str, Any]:
    """Return accuracy by plan and by category."""
    rng, found = np.random.default_rng(0), {}
    for name in PLANS:
        right: dict[str, list[bool]] = defaultdict(list)
        for clip in range(num_clips):
            known = taught[clip][1]
            each = [[one] for one in known] if name.startswith("evidence") else [known]
            shown = [ls.show(rng, plan_for(name, group[0]), group, False) for group in each]
            batch = ls.collate(shown)
            states = model.get_decoder()(
                inputs_embeds=embed(model, batch["source"], tokens[clip][None].expand(len(shown), -1, -1)),
                attention_mask=batch["may_see"],
                position_ids=batch["position"],
                use_cache=False,
            ).last_hidden_state
            for row, (one, group) in enumerate(zip(shown, each, strict=True)):
                for place, wanted, asked in one.targets:
                    if asked >= 0:
                        guess = int(model.lm_head(states[row, place]).argmax())
                        right[group[asked].asked.category].append(guess == wanted)
        total = [ok for marks in right.values() for ok in marks]
        found[name] = {"all": round(float(np.mean(total)), 3)} | {
            category: round(float(np.mean(marks)), 2) for category, marks in sorted(right.items())
        }
    return found


def train_language(
    model: Any,
    tokens: torch.Tensor,
    taught: Lessons,
    judged: tuple[torch.Tensor, Lessons],
    minutes: float,
    seed: int,
    out: str,
) -> list[dict[str, Any]]:
    """Teach the language model to answer, and its first layers to route; return what was measured on the way."""
    rng, heads, history = np.random.default_rng(seed), Routing(), []
    learnt = [*model.get_decoder().parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    started, step, share, told = time.monotonic(), 0, 0.0, 0.1
    losses, rights, routes, kinds = [], [], [], []
    model.train()
    while share < 1:
        share = (time.monotonic() - started) / (60 * minutes)
        schedule(optimizer, 1.5e-3, share, step)
        easy = 1.0 if share < 0.25 else max(0.05, 1.0 - (share - 0.25) / 0.25)
        loss, right = language_step(model, rng, tokens, taught, easy, 0.0 if share < 0.3 else 0.2)
        routing, relevant, kind = routing_step(model, heads, rng, tokens, taught)
        optimizer.zero_grad()
        (loss + ROUTING_WEIGHT * routing).backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        for values, value in zip(
            (losses, rights, routes, kinds), (loss.item(), right, relevant, kind), strict=True
        ):
            values.append(value)
        step += 1
        if step % 100 == 0:
            means = [round(float(np.mean(values[-100:])), 3) for values in (losses, rights, routes, kinds)]
            print(f"language {step} {share:.2f} easy {easy:.2f} loss/right/relevant/kind {means}", flush=True)
        if share >= told:
            told += 0.15
            model.eval()
            history.append({"step": step, "share": round(share, 2), **evaluate(model, *judged, 40)})
            print(json.dumps(history[-1]), flush=True)
            model.train()
            save(model, out)
    return history


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description="Train the world's model from nothing.")
    parser.add_argument("out", help="folder to write the model to")
    parser.add_argument("--clips", type=int, default=12000)
    parser.add_argument("--eye-minutes", type=float, default=6.0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="world_clips", help="folder that keeps rendered clips")
    given = parser.parse_args()
    cache = Path(given.cache)
    cache.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    clips, dev_clips = render(cache, "train", given.clips), render(cache, "dev", 200)
    taught = ls.load_scenes(seeds("train", len(clips)), tokenizer)
    judged = ls.load_scenes(seeds("dev", len(dev_clips)), tokenizer)
    labels = np.stack([ls.cells(scene) for scene, _ in taught])
    model = make_model(given.seed)
    train_eye(model, clips, labels, given.eye_minutes, given.seed)
    save(model, given.out)
    tokens, dev_tokens = encode(model, clips, given.seed), encode(model, dev_clips, given.seed + 1)
    history = train_language(
        model, tokens, taught, (dev_tokens, judged), given.minutes, given.seed, given.out
    )
    model.eval()
    history.append({"final": True, **evaluate(model, dev_tokens, judged, len(judged))})
    print(json.dumps(history[-1]), flush=True)
    save(model, given.out)
    Path(given.out, "training.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
