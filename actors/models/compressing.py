"""What compressors are given beside visual tokens, and whose frame it is that they cannot use.

Only entries that declare a need (pipeline/methods.py) are given pictures or probes; a plug-in by path needs nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from actors.device import to_device
from pipeline.compress import needs_of
from pipeline.errors import AnswerError
from pipeline.tokens import VisualTokens, whole_frames

if TYPE_CHECKING:
    from actors.models.video_llm import FrameFeatures, VideoLlm

PROBES = (
    "Which things can be seen here?",
    "How many people, animals or objects are there?",
    "Who does what, and what is going on?",
    "What is different from a moment ago?",
    "Where is everything, and what is next to what?",
)
"""Questions of the kinds that are asked of videos; what they are made of is worth keeping whatever is asked."""


def clip_of(llm: "VideoLlm", features: "FrameFeatures", index: Sequence[int]) -> VisualTokens:
    """Return all tokens of some frames of a window, with what the model's compressor needs beside them."""
    rows = list(index)
    clip = whole_frames(features.values_NKD[rows], llm.parts.grid)
    needs = needs_of(llm.compress)
    if "pixels" in needs and features.pixels_NHWC is not None:
        pixels_THWC = to_device(torch.from_numpy(features.pixels_NHWC[rows]), llm.device)
        clip = replace(clip, pixels_THWC=pixels_THWC)
    if "probes" in needs:
        clip = replace(clip, probes_PD=_probes(llm))
    return clip


def compress_clip(
    llm: "VideoLlm", clip: VisualTokens, plan_T: Sequence[int], times_s: Sequence[float]
) -> VisualTokens:
    """Return a clip compressed to its plan.

    Args:
        llm: whose compressor it is.
        clip: from `clip_of`.
        plan_T: most tokens of each frame.
        times_s: of each frame, for messages; may be empty.

    Raises:
        AnswerError: the compressor cannot use the clip; where tokens are not finite, with the time of their frame.
    """
    try:
        return llm.compress(clip, plan_T, llm.settings)
    except AnswerError as error:
        finite_TK = clip.values_ND.isfinite().all(1).unflatten(0, (len(plan_T), -1))
        broken = [
            time_s
            for time_s, planned, fine in zip(times_s, plan_T, finite_TK.all(1).tolist(), strict=False)
            if planned and not fine
        ]
        if not broken:
            raise
        msg = f"the frame shown at {broken[0]:g} s cannot be used: {error}"
        raise AnswerError(msg) from error


def _probes(llm: "VideoLlm") -> torch.Tensor:
    """Return the token embeddings of the probes [P, D]."""
    tokenizer = llm.parts.tokenizer
    ids = [token for text in PROBES for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return llm.language.embed(torch.tensor(ids, device=llm.language.device))
