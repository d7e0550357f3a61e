"""The plain way to ask a video language model: transformers' own model and `generate`, one question after the other.

What the project's answerer is compared with, in its answers and in its time. Frames, prompts and labels are the
same; every question pays for its frames anew, as a loop over `model(...)` and `model.generate(...)` does.

Shape letters: L tokens of a prompt, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from actors.models import Answer, Answerer, Request, WindowView
from actors.models.prompting import Preprocessing, Prompt, label_ids, labels, process_frames, write_prompt
from pipeline.errors import ConfigError
from pipeline.queries import Query


@dataclass(frozen=True, slots=True)
class Spoken:
    """One answer."""

    text: str
    num_tokens: int = 0
    """Tokens of free text that were decoded, the end token included."""


@dataclass(frozen=True, slots=True)
class LibraryLoop:
    """Answers from a model as transformers loads it; not one that `use_trees` prepared."""

    parts: Preprocessing
    model: Any
    max_new_tokens: int

    def answer(self, window: WindowView, query: Query) -> Spoken:
        """Return the answer to one question about all frames of a window, every frame at full resolution.

        Raises:
            ConfigError: the window has no pictures, or a single one where a lone picture is cut into tiles.
        """
        frames, family = window.evidence, self.parts.family
        if frames is None or len(frames) <= family.nested:
            msg = f"the library is asked about 2 frames or more, found {0 if frames is None else len(frames)}"
            raise ConfigError(msg)
        prompt = write_prompt(self.parts, [float(pts_s) for pts_s in frames.pts_s_N], query)
        pixels = process_frames(family, self.parts.images, frames.data_NHWC)
        with torch.inference_mode():
            return self._choose(prompt, pixels, query) if query.kind != "ask" else self._say(prompt, pixels)

    def _inputs(self, prompt: Prompt, behind: Sequence[int], pixels: dict[str, Any]) -> dict[str, Any]:
        """Return what the library's model takes for a prompt and some tokens behind it."""
        ids_L = torch.tensor([[*prompt.head, *prompt.tail, *behind]])
        inputs = {**pixels, "input_ids": ids_L, "attention_mask": torch.ones_like(ids_L)}
        if self.parts.family.axes > 1:
            inputs["mm_token_type_ids"] = (ids_L == self.parts.config.image_token_id).int()
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}

    def _say(self, prompt: Prompt, pixels: dict[str, Any]) -> Spoken:
        inputs = self._inputs(prompt, (), pixels)
        ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :].tolist()
        return Spoken(self.parts.tokenizer.decode(new, skip_special_tokens=True).strip(), len(new))

    def _choose(self, prompt: Prompt, pixels: dict[str, Any], query: Query) -> Spoken:
        """Return the likeliest label per token; labels that differ in their last token alone share a pass."""
        words = labels(query)
        ids = [tuple(label_ids(self.parts.tokenizer, prompt.text, word)) for word in words]
        logs_LV = {behind: self._logs(prompt, behind, pixels) for behind in {one[:-1] for one in ids}}
        means = [
            float(torch.stack([logs_LV[one[:-1]][at, token] for at, token in enumerate(one)]).mean())
            for one in ids
        ]
        best = words[means.index(max(means))]
        return Spoken(best.lower() if query.kind == "flag" else best)

    def _logs(self, prompt: Prompt, behind: Sequence[int], pixels: dict[str, Any]) -> torch.Tensor:
        """Return the log-probabilities [L, V] of each word behind the prompt, and behind each further token."""
        inputs = self._inputs(prompt, behind, pixels)
        logits_LV = self.model(**inputs, logits_to_keep=len(behind) + 1).logits[0]
        return torch.log_softmax(logits_LV.float(), -1)


def race(llm: Answerer, loop: LibraryLoop, requests: Sequence[Request], repeats: int) -> dict[str, Any]:
    """Put the same questions to an answerer and to the loop; return median seconds, and how many answers are equal.

    The two take turns, and turns in going first. One window goes through both before, unmeasured.
    """

    def ask_together() -> list[Answer]:
        return [answer for answers in llm.answer(requests) for answer in answers]

    def ask_one_by_one() -> list[Spoken]:
        return [loop.answer(one.window, ask.query) for one in requests for ask in one.asks]

    llm.answer(requests[:1])
    loop.answer(requests[0].window, requests[0].asks[0].query)
    ours, theirs = list[Answer](), list[Spoken]()
    spent_s: dict[str, list[tuple[float, float]]] = {"ours": [], "loop": []}
    for repeat in range(repeats):
        for name in ("loop", "ours") if repeat % 2 else ("ours", "loop"):
            wall, cpu = time.perf_counter(), time.process_time()
            if name == "ours":
                ours = ask_together()
            else:
                theirs = ask_one_by_one()
            spent_s[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    (ours_s, ours_cpu_s), (loop_s, loop_cpu_s) = (
        (median(wall for wall, _ in spent_s[name]), median(cpu for _, cpu in spent_s[name]))
        for name in ("ours", "loop")
    )
    return {
        "windows": len(requests),
        "questions": len(theirs),
        "same_answers": sum(one.answer == other.text for one, other in zip(ours, theirs, strict=True)),
        "ours_s": round(ours_s, 3),
        "loop_s": round(loop_s, 3),
        "ratio": round(loop_s / ours_s, 3),
        "cpu_ratio": round(loop_cpu_s / ours_cpu_s, 3),
        "decode_steps": sum(answer.cost.decode_steps for answer in ours),
        "loop_decode_steps": sum(max(0, one.num_tokens - 1) for one in theirs),
    }
