"""A lesson as one sequence for the text decoder: a clip, the question, and the answer that should follow.

Shape letters: L tokens, D hidden size, P positions' axes, C visual tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from actors.models.decoding import Question
from actors.models.prompting import label_ids, write_prompt
from actors.models.token_tree import TRUNK, Segment
from actors.models.video_llm import Clip, VideoLlm
from jobs.training.lessons import Lesson
from pipeline.errors import AnswerError


@dataclass(frozen=True, slots=True)
class Written:
    """One lesson, ready for a pass."""

    segment: Segment
    """What is kept of it are the places that the answer's tokens are told from."""
    target: torch.Tensor
    """The tokens that should follow there: the answer's, and the one that ends it."""
    visual_C: torch.Tensor
    """Places of the clip's visual tokens, in its order; only where it is shown whole."""


def write_lesson(llm: VideoLlm, lesson: Lesson, clip: Clip) -> Written:
    """Return a lesson about a clip, with gradients where the clip has them.

    Raises:
        AnswerError: the prompt does not fit into the model's context.
    """
    language, parts = llm.language, llm.parts
    prompt = write_prompt(parts, [lesson.frame_pts_s[frame] for frame in clip.rows], lesson.query)
    head = llm.assemble(prompt.head, clip)
    target = [*label_ids(parts.tokenizer, prompt.text, lesson.target), *_end(llm)]
    if reason := llm.lacks_room(len(head.embeds_LD), Question(prompt.tail, (tuple(target),))):
        raise AnswerError(reason)
    behind_L = torch.tensor([*prompt.tail, *target[:-1]], device=language.device)
    embeds_LD = torch.cat([head.embeds_LD, language.embed(behind_L)])
    positions_PL = torch.cat([head.positions_PL, language.span(head.next_position, len(behind_L))], dim=1)
    keep_R = torch.arange(len(embeds_LD) - len(target), len(embeds_LD), device=language.device)
    trunk_L = torch.full((len(embeds_LD),), TRUNK, device=language.device)
    extra = _with_text(head.extra, len(behind_L))
    visual_L = torch.tensor(prompt.head, device=language.device) == parts.config.image_token_id
    places_TK = visual_L.nonzero()[:, 0].unflatten(0, (len(clip.rows), -1))[:, : parts.tokens_per_frame]
    return Written(
        Segment(language.tree(0), trunk_L, embeds_LD, positions_PL, keep_R, extra),
        torch.tensor(target, device=language.device),
        places_TK.flatten(),
    )


def _end(llm: VideoLlm) -> list[int]:
    """Return the token that ends an answer, if the model has one."""
    ends, own = llm.language.ends, llm.parts.tokenizer.eos_token_id
    return [own] if own in ends else sorted(ends)[:1]


def _with_text(extra: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Return more inputs of the decoder for a clip with some text behind it: in a mask, that is nothing to see."""
    return {
        name: functional.pad(value, (0, length))
        if torch.is_tensor(value) and value.dtype == torch.bool
        else value
        for name, value in extra.items()
    }
