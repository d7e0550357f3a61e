"""One line about what a language model computed, for the end of a run and for `reelsift show`."""

from collections.abc import Mapping

from pipeline import rows


def model_work(sums: Mapping[str, float]) -> str:
    """Return what a language model computed, empty when none did.

    Args:
        sums: over answers, of the columns rows.COST; `model_answers`: how many answers were shown pictures.
    """
    frames, prefills, tokens, steps, passes, halvings, routed = (sums.get(name, 0) for name in rows.COST)
    if not (frames or prefills or tokens or steps):
        return ""
    seen = (
        f"{frames:,} frames seen by the vision tower, {prefills:,} prompts of {tokens:,} tokens prefilled for"
        f" {sums.get('model_answers', 0):,} answers, {steps:,} decode steps of theirs in {passes:,} passes"
    )
    routing = f", {routed:,} tokens read by the image router" if routed else ""
    return seen + routing + (f"; out of memory {halvings:,} times, batches halved" if halvings else "")
