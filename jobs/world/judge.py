"""How well the world's model answers while it learns: accuracy by plan and by category."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jobs.world import lessons as ls
from jobs.world.scenes import SECONDS

EVIDENCE = "evidence 16, rest 2"
PLANS = ("dense", "uniform 8", "uniform 4", "uniform 2", EVIDENCE, "10 frames")


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
def evaluate(model: Any, tokens: torch.Tensor, taught: ls.Lessons) -> dict[str, Any]:
    """Return accuracy by plan and, within a plan, by category.

    Args:
        model: the whole model.
        tokens: of each clip, in every size, [clips, T * sum of SIZES, D].
        taught: of each clip, the scene and its questions.
    """
    found: dict[str, Any] = {}
    for name in PLANS:
        right: dict[str, list[bool]] = defaultdict(list)
        for (_, known), own in zip(taught, tokens, strict=True):
            # a plan made for one question serves no other
            groups = [[one] for one in known] if name == EVIDENCE else [known]
            shown = [ls.show(plan_for(name, group[0]), group, False) for group in groups]
            states = read(model, shown, own[None].expand(len(shown), -1, -1))
            for row, (one, group) in enumerate(zip(shown, groups, strict=True)):
                for place, wanted, asked in one.targets:
                    if asked >= 0:
                        guess = int(model.lm_head(states[row, place]).argmax())
                        right[group[asked].asked.category].append(guess == wanted)
        every = [ok for marks in right.values() for ok in marks]
        found[name] = {"all": round(float(np.mean(every)), 3)} | {
            category: round(float(np.mean(marks)), 2) for category, marks in sorted(right.items())
        }
    return found


def read(model: Any, shown: Sequence[ls.Shown], tokens_BND: torch.Tensor) -> torch.Tensor:
    """Return the language model's last states of clips with their questions, [B, L, D]."""
    batch = ls.collate(shown)
    return model.get_decoder()(
        inputs_embeds=ls.embed(model, batch["source"], tokens_BND),
        attention_mask=batch["may_see"],
        position_ids=batch["position"],
        use_cache=False,
    ).last_hidden_state
