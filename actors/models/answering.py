"""What becomes of a model's words: an answer with its spans, the frames it rests on and what they cost, or a refusal.

Shape letters: L labels.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from actors.models import Answer, Ask, WindowView
from actors.models.prompting import labels
from pipeline.errors import AnswerError
from pipeline.queries import Query
from pipeline.spans import find_spans


def given(
    window: WindowView,
    ask: Ask,
    said: tuple[str, float],
    shown: Sequence[tuple[int, int]],
    tokens_per_frame: int,
) -> Answer:
    """Return the answer to a question that was put to a model.

    Args:
        window: what it was asked about.
        ask: the question; spans of a yes come from its proposer, scores of frames from who judged them last.
        said: text and confidence.
        shown: rows of the evidence that stood in the prompt, in time order, and the visual tokens of each.
        tokens_per_frame: visual tokens of one frame at full resolution.
    """
    spans = []
    if ask.query.kind == "flag" and said[0] == "yes":
        spans = find_spans(ask.relevance_N, window.pts_s_N, window.end_s, ask.threshold)
    score_N = ask.relevance_N if ask.refined_N is None else ask.refined_N
    frames = [(window.evidence_index[row], tokens) for row, tokens in shown]
    return Answer(
        *said,
        spans=tuple((span.start_s, span.end_s, span.score) for span in spans),
        evidence=tuple(
            (float(window.pts_s_N[frame]), float(score_N[frame]), tokens) for frame, tokens in frames
        ),
        tokens_dense=tokens_dense(window, tokens_per_frame),
        tokens_used=sum(tokens for _, tokens in shown),
    )


def refused(window: WindowView, reason: str, tokens_per_frame: int) -> Answer:
    """Return that there is no answer, and why."""
    return Answer("", 0.0, tokens_dense=tokens_dense(window, tokens_per_frame), error=reason)


def refined(window: WindowView, ask: Ask, answer: Answer) -> Answer:
    """Return an answer, or a refusal, with what an image router planned for it and said of every frame it looked at.

    Args:
        window: what was asked about.
        ask: the question as the router left it.
        answer: what came of it; a frame that it does not rest on has cost it no tokens.
    """
    said_N = ask.relevance_N if ask.refined_N is None else ask.refined_N
    spent = {pts_s: tokens for pts_s, _, tokens in answer.evidence}
    judged = [(float(window.pts_s_N[frame]), float(said_N[frame])) for frame in sorted(ask.candidates)]
    return replace(
        answer, plan=ask.plan, judged=tuple((pts_s, said, spent.get(pts_s, 0)) for pts_s, said in judged)
    )


def tokens_dense(window: WindowView, tokens_per_frame: int) -> int:
    """Return the visual tokens of all sampled frames at full resolution."""
    return len(window.pts_s_N) * tokens_per_frame


def why_not(window: WindowView, ask: Ask, whole_tokens: int = 0) -> str:
    """Return why a question is not put to a model; `whole_tokens` of one that takes a frame whole or not at all."""
    if ask.query.kind == "find":
        return f"query {ask.query.query_id!r}: find is answered from relevance, not by a language model"
    whole = f" whole, at {whole_tokens} tokens each" if whole_tokens else ""
    return (
        f"query {ask.query.query_id!r}: its plan shows none of the {len(window.evidence_index)} evidence frames"
        f"{whole}; raise plan.budget_tokens"
    )


def free_text(decoded: str, stop: Sequence[str], num_tokens: int) -> str:
    """Return the text of an answer up to the first stop string.

    Raises:
        AnswerError: nothing is left of it; says how many tokens it had.
    """
    text = cut_at(decoded, stop).strip()
    if not text:
        msg = f"the model returned no text ({num_tokens} tokens before its end token); ask more specifically"
        raise AnswerError(msg)
    return text


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first of some strings."""
    return text[: min([len(text), *(at for word in stop if (at := text.find(word)) >= 0)])]


def likeliest(query: Query, share_L: torch.Tensor) -> tuple[str, float]:
    """Return the most likely label as it is answered, and its share of the likelihood of all labels."""
    best, words = int(share_L.argmax()), labels(query)
    return words[best].lower() if query.kind == "flag" else words[best], float(share_L[best])
