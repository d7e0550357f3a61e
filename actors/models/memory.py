"""What a video language model and its work take in memory, computed from its configuration.

Work is admitted by these figures instead of by trial: an allocation that fails costs a whole batch.
"""

from dataclasses import dataclass
from typing import Any

import psutil
import torch

from actors.models.decoding import ROWS_OF_LOGITS
from actors.models.prompting import Preprocessing


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a model may take, and bytes that its parts take."""

    budget_bytes: int
    """Of everything: weights, caches, work."""
    weights_bytes: int
    row_bytes: int
    """Kept: keys and values of one token, all layers."""
    frame_bytes: int
    """Kept: the vision tower's features of one frame."""
    token_work_bytes: int
    """For the time of a pass: one token in the text decoder."""
    logits_bytes: int
    """For the time of a pass: the logits that are in memory at once."""
    frame_work_bytes: int
    """For the time of a pass: one frame in the vision tower."""

    @classmethod
    def of(cls, model: Any, parts: Preprocessing, memory_gb: float) -> "Memory":
        """Return the figures of a loaded model."""
        text, vision = parts.config.get_text_config(), parts.config.vision_config
        size = model.get_input_embeddings().weight.element_size()
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        kept = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * size
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        token = (4 * text.hidden_size + 3 * text.intermediate_size) * size
        hidden = vision.hidden_size
        frame = parts.tokens_per_frame * text.hidden_size * size
        patches = 16 * parts.tokens_per_frame
        return cls(
            budget_bytes=int(memory_gb * 1e9) or _spare_bytes(model.device),
            weights_bytes=weights,
            row_bytes=kept,
            frame_bytes=frame,
            token_work_bytes=token,
            logits_bytes=ROWS_OF_LOGITS * text.vocab_size * (size + 4),
            frame_work_bytes=patches * hidden * 12 * size,
        )

    def pass_bytes(self, num_tokens: int, num_rows: int) -> int:
        """Return the work of a pass of some tokens over a tree that has some rows then."""
        return num_tokens * (self.token_work_bytes + num_rows) + self.logits_bytes


def _spare_bytes(device: torch.device) -> int:
    """Return what the device has to spare for a model that is loaded already, its weights included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.9)
    return psutil.virtual_memory().available // 2
