"""Trains the world's dual encoder from nothing: which frames a question is about, told by two separate towers.

    python -m jobs.world.train_pair OUT --minutes 10

It is the first stage of a cascade: it reads every frame once and every question once, and compares them by a cosine.
It is taught with SigLIP's loss (arXiv 2303.15343) on all pairs of the frames and texts of a batch: a frame belongs to
a text if it shows one of the things that the text names. Beside it, as in the first stage of the answering model, the
eye learns what each cell holds.
"""

import argparse
import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from jobs.training.measures import average_precision
from jobs.world.clips import Clips, pixels, render
from jobs.world.eye import schedule
from jobs.world.model import PIXELS
from jobs.world.questions import ask
from jobs.world.scenes import SECONDS, SIDE, Rng, make_scene
from jobs.world.splits import Split, seeds
from jobs.world.sprites import BAG, BURST, SHAPES
from jobs.world.words import PAD, make_tokenizer, vocabulary

MAX_WORDS = 24
"""Tokens of the longest question, and some."""
HIDDEN, TEXT_HIDDEN = 128, 64
THINGS = (*SHAPES, BAG, BURST)
BARE_TEXTS = tuple(text.format(a=shape) for shape in THINGS for text in ("{a}", "a {a}", "the {a}"))
"""What `find` may be asked for."""
CLIPS_PER_STEP, FRAMES_PER_CLIP, TEXTS_PER_STEP = 32, 8, 64
EYE_WEIGHT = 0.5
DEV_CLIPS = 200

Truth = npt.NDArray[np.uint8]


def make_pair(seed: int) -> Any:
    """Return an untrained SigLIP model, about a million parameters."""
    from transformers import SiglipConfig, SiglipModel

    text = {
        "vocab_size": len(vocabulary()), "hidden_size": TEXT_HIDDEN, "intermediate_size": 2 * TEXT_HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": MAX_WORDS,
        "projection_size": HIDDEN, "pad_token_id": vocabulary().index(PAD), "bos_token_id": None,
        "eos_token_id": None,
    }  # fmt: skip
    vision = {
        "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": PIXELS, "patch_size": PIXELS // SIDE,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    nn.init.constant_(model.logit_scale, float(np.log(10)))
    nn.init.constant_(model.logit_bias, -2.0)
    return model


def save_pair(model: Any, folder: str) -> None:
    """Write the pair with everything that loading it by its folder needs."""
    from transformers import SiglipImageProcessorPil

    model.save_pretrained(folder)
    words = make_tokenizer()
    words.model_max_length, words.model_input_names = MAX_WORDS, ["input_ids"]
    words.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)


def named(text: str) -> npt.NDArray[np.bool_]:
    """Return which of THINGS a text is about; one that names none asks for a collision."""
    found = np.asarray([thing in re.findall(r"\w+", text) for thing in THINGS])
    if not found.any():
        found[THINGS.index(BURST)] = True
    return found


def shapes_of(seed: int) -> Truth:
    """Return what each cell holds in each second, indices into ("", *THINGS), [T, K]."""
    found = np.zeros((SECONDS, SIDE * SIDE), np.uint8)
    for second, things in enumerate(make_scene(seed).things):
        for thing in things:
            found[second, thing.cell] = 1 + THINGS.index(thing.shape)
    return found


def teach_texts(split: Split, count: int) -> list[str]:
    """Return the questions of some scenes without repetition, and bare names of things."""
    asked = {one.text for seed in seeds(split, count) for one in ask(make_scene(seed))}
    return [*sorted(asked), *BARE_TEXTS * 20]


def read(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Return padded tokens [P, MAX_WORDS]."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_WORDS, return_tensors="pt")[
        "input_ids"
    ]


def train_pair(
    model: Any,
    clips: Clips,
    truth: Truth,
    texts: list[str],
    minutes: float,
    max_steps: int,
    seed: int,
    out: str,
) -> None:
    """Teach both towers until the time or the steps are used up; write the model now and then."""
    rng, cells = np.random.default_rng(seed), nn.Linear(HIDDEN, 1 + len(THINGS))
    ids, wanted = read(make_tokenizer(), texts), torch.from_numpy(np.stack([named(text) for text in texts]))
    optimizer = torch.optim.AdamW([*model.parameters(), *cells.parameters()], lr=1e-3, weight_decay=0.02)
    started, step, share = time.process_time(), 0, 0.0
    model.train()
    while share < 1:
        share = max((time.process_time() - started) / (60 * minutes), step / max_steps)
        schedule(optimizer, 1.5e-3, share, step)
        loss, eye_loss = pair_step(model, cells, rng, clips, truth, ids, wanted)
        optimizer.zero_grad()
        (loss + EYE_WEIGHT * eye_loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"pair {step} {share:.2f} loss {loss.item():.3f} eye {eye_loss.item():.3f}", flush=True)
        if step % 500 == 499:
            save_pair(model, out)
        step += 1
    model.eval()
    save_pair(model, out)


def pair_step(
    model: Any,
    cells: nn.Module,
    rng: Rng,
    clips: Clips,
    truth: Truth,
    ids: torch.Tensor,
    wanted: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of all pairs of some frames and texts, and that of what the cells hold."""
    clip = rng.integers(0, len(clips), CLIPS_PER_STEP).repeat(FRAMES_PER_CLIP)
    second = rng.integers(0, SECONDS, len(clip))
    held_FK = torch.from_numpy(truth[clip, second].astype(np.int64))
    shown_FC = nn.functional.one_hot(held_FK, 1 + len(THINGS)).amax(1)[:, 1:].float()
    chosen = torch.from_numpy(rng.integers(0, len(ids), TEXTS_PER_STEP))
    fits_FP = ((shown_FC @ wanted[chosen].float().T) > 0).float()
    seen = model.vision_model(pixel_values=pixels(clips[clip, second], rng))
    frames_FE = normalize(seen.pooler_output, dim=-1)
    texts_PE = normalize(model.text_model(input_ids=ids[chosen]).pooler_output, dim=-1)
    logits_FP = model.logit_scale.exp() * frames_FE @ texts_PE.T + model.logit_bias
    loss = binary_cross_entropy_with_logits(logits_FP, fits_FP)
    return loss, cross_entropy(cells(seen.last_hidden_state).flatten(0, 1), held_FK.flatten())


@torch.inference_mode()
def evaluate(model: Any, clips: Clips, split: Split, *, held_out: bool) -> dict[str, float]:
    """Return the mean average precision of a video's frames by category, and over `all` questions with evidence."""
    tokenizer, found = make_tokenizer(), defaultdict[str, list[float]](list)
    for clip, seed in zip(clips, seeds(split, len(clips)), strict=True):
        frames_TE = normalize(model.vision_model(pixel_values=pixels(clip, None)).pooler_output, dim=-1)
        asked = [one for one in ask(make_scene(seed), held_out=held_out) if one.evidence_s]
        texts_PE = model.text_model(input_ids=read(tokenizer, [one.text for one in asked])).pooler_output
        scores_PT = (normalize(texts_PE, dim=-1) @ frames_TE.T).numpy()
        for one, scores in zip(asked, scores_PT, strict=True):
            relevant = np.zeros(SECONDS, bool)
            for start_s, end_s in one.evidence_s:
                relevant[start_s:end_s] = True
            precision = average_precision(scores, relevant)
            assert precision is not None
            found[one.category].append(precision)
            found["all"].append(precision)
    return {category: round(float(np.mean(values)), 3) for category, values in sorted(found.items())}


def main(argv: list[str] | None = None) -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description="Train the world's dual encoder from nothing.")
    parser.add_argument("out", help="folder to write the model to")
    parser.add_argument("--clips", type=int, default=12000, help="clips that are rendered")
    parser.add_argument("--teach", type=int, default=6000, help="how many of them are learnt from")
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time")
    parser.add_argument("--steps", type=int, default=1_000_000, help="end after so many steps at the latest")
    parser.add_argument("--dev-clips", type=int, default=DEV_CLIPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="world_clips", help="folder that keeps rendered clips")
    given = parser.parse_args(argv)
    cache = Path(given.cache)
    cache.mkdir(parents=True, exist_ok=True)
    clips, dev_clips = render(cache, "train", given.clips), render(cache, "dev", given.dev_clips)
    clips = clips[: given.teach]
    truth = np.stack([shapes_of(seed) for seed in seeds("train", len(clips))])
    model = make_pair(given.seed)
    texts = teach_texts("train", len(clips) // 4)
    train_pair(model, clips, truth, texts, given.minutes, given.steps, given.seed, given.out)
    found = {
        "parameters": sum(one.numel() for one in model.parameters()),
        "dev": evaluate(model, dev_clips, "dev", held_out=False),
        "dev_held_out_ways": evaluate(model, dev_clips, "dev", held_out=True),
    }
    Path(given.out, "training.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
