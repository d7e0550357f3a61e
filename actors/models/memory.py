"""What a video language model and its work take in memory, computed from its configuration.

Work is admitted by these figures instead of by trial: an allocation that fails costs a whole batch. They count the
tensors that are alive at the same time in the forward passes of transformers 5.23, in the worst moment of a layer;
what differs between vision towers is in families/. The process itself (Python, torch, libraries: some 0.5 GB) is
not counted, nor is a GPU's context.

Shape letters: T tokens of a pass, K rows of a tree, D width, Q width of all queries, N frames.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from actors.models.decoding import ROWS_OF_LOGITS
from actors.models.families import VisionTower
from actors.models.prompting import Preprocessing
from pipeline.compress.tome import SEGMENT_FRAMES

FLOAT32_BYTES = 4
POSITION_BYTES = 8
SHARE_OF_FREE_GPU = 0.9
"""The rest is for what torch cannot use: gaps between allocations, kernels' workspace."""
SHARE_OF_FREE_HOST = 0.5
"""Cautious: other stages decode and score on the same machine, and the kernel kills whoever takes the last page."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a model may take, and bytes that its parts take."""

    budget_bytes: int
    """Of model and work together: weights, caches, passes; not of the process around them."""
    weights_bytes: int
    row_bytes: int
    """Kept: keys and values of one token, all layers, and whose token it is."""
    frame_bytes: int
    """Kept: the vision tower's features of one frame."""
    frame_tokens: int
    """Visual tokens of one frame."""
    token_work_bytes: int
    """For the time of a pass: one token in the text decoder."""
    attention_work_bytes: int
    """Of these, while attention is at work."""
    embed_bytes: int
    """A token's embedding, which stays beside the pass that it goes through."""
    seen_work_bytes: int
    """For the time of a pass: whether one token sees one row, in every form that attention makes of it."""
    row_work_bytes: int
    """For the time of a pass: keys and values of one row of one layer, where attention wants them once per query."""
    logits_bytes: int
    """For the time of a pass: the logits that are in memory at once."""
    frame_work_bytes: int
    """For the time of a pass: one frame in the vision tower, and its pixels."""
    picture_bytes: int
    """One decoded frame."""

    @classmethod
    def of(cls, model: Any, parts: Preprocessing, memory_gb: float) -> "Memory":
        """Return the figures of a loaded model.

        Args:
            model: with its weights on the device.
            parts: what belongs to it.
            memory_gb: budget in 10^9 bytes; 0 = what is spare, see `spare_bytes`.
        """
        weights = sum(map(stored_bytes, (*model.parameters(), *model.buffers())))
        budget = int(memory_gb * 1e9) or weights + spare_bytes(model.device)
        return cls._compute(parts, weights, model.dtype.itemsize, model.device.type, budget)

    @classmethod
    def foresee(cls, parts: Preprocessing, dtype: torch.dtype, device: str, memory_gb: float) -> "Memory":
        """Return the figures of a model that is not loaded: its shape is built, without memory for its weights.

        Args:
            parts: of the model; no weights are read.
            dtype: number format it would be loaded in.
            device: type of the device it would run on, "cpu" or "cuda".
            memory_gb: budget in 10^9 bytes.
        """
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(parts.config)
        model.tie_weights()
        weights = sum(tensor.numel() for tensor in model.parameters()) * dtype.itemsize
        buffers = sum(tensor.nbytes for tensor in model.buffers())
        return cls._compute(parts, weights + buffers, dtype.itemsize, device, int(memory_gb * 1e9))

    @classmethod
    def _compute(cls, parts: Preprocessing, weights: int, size: int, device: str, budget: int) -> "Memory":
        text = parts.config.get_text_config()
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        queries, keys = text.num_attention_heads * head_size, text.num_key_value_heads * head_size
        vision = parts.family.tower(parts.config)
        layers = 1 + len(getattr(parts.config.vision_config, "deepstack_visual_indexes", ()))
        per_frame = parts.tokens_per_frame + parts.family.separators
        on_gpu = device == "cuda"
        # all through a pass: packed embeddings, the layer's input, the rotation's cosine and sine, places
        alive = 2 * (text.hidden_size + head_size) * size + (2 + parts.family.axes) * POSITION_BYTES
        attention = alive + _attention_bytes(text, queries, keys, size)
        behind = _mlp_bytes(text, size)
        patches = parts.tokens_per_frame * vision.patches_per_token
        return cls(
            budget_bytes=budget,
            weights_bytes=weights,
            row_bytes=2 * text.num_hidden_layers * keys * size + POSITION_BYTES,
            frame_bytes=per_frame * text.hidden_size * size * layers,
            frame_tokens=parts.tokens_per_frame,
            token_work_bytes=max(alive + behind, attention),
            attention_work_bytes=attention,
            embed_bytes=text.hidden_size * size,
            # as bool, and as what is added to the scores: from its complement on a CPU, aligned once more on a GPU
            seen_work_bytes=1 + (2 * size if on_gpu else size + 1),
            row_work_bytes=2 * queries * size if on_gpu and queries > keys else 0,
            # float32 and its exponentials; while a block is made the block before is still there
            logits_bytes=ROWS_OF_LOGITS * text.vocab_size
            * (2 * FLOAT32_BYTES + (size if size < FLOAT32_BYTES else 0)),
            frame_work_bytes=patches * _patch_bytes(vision, size),
            picture_bytes=parts.frame_size.height_px * parts.frame_size.width_px * 3,
        )  # fmt: skip

    def say(self, need_bytes: int) -> str:
        """Return what some work needs, what the model takes and what is allowed, as a part of a sentence."""
        need_gb, weights_gb, budget_gb = (
            size / 1e9 for size in (need_bytes, self.weights_bytes, self.budget_bytes)
        )
        return f"{need_gb:.2f} GB beside the model's {weights_gb:.2f} GB, and {budget_gb:.2f} GB are allowed"

    def prefill_bytes(self, num_tokens: int) -> int:
        """Return the work of a pass that fills an empty tree: nobody needs to be told who sees whom."""
        return num_tokens * self.token_work_bytes

    def pass_bytes(self, num_tokens: int, num_rows: int) -> int:
        """Return the work of a pass of some tokens over a tree that has some rows then, and of what the head says."""
        seen = num_tokens * num_rows
        attention = num_tokens * self.attention_work_bytes + seen * self.seen_work_bytes
        most = max(
            num_tokens * self.token_work_bytes + seen,
            attention + num_rows * self.row_work_bytes,
            self.logits_bytes,
        )
        return num_tokens * self.embed_bytes + most

    def look_bytes(self, num_frames: int, frames_per_call: int) -> int:
        """Return what it takes to encode frames, the features that are kept of them included.

        At the end all features are there twice: frame by frame, and put together.
        """
        work = max(frames_per_call * self.frame_work_bytes, num_frames * self.frame_bytes)
        return num_frames * (self.frame_bytes + self.picture_bytes) + work

    def reduce_bytes(self, num_frames: int) -> int:
        """Return the work of compressing frames and putting them into a prompt.

        Bounds every compressor that comes along; of those, two are far from frugal. dycoke compares three of four
        frames with earlier ones in float32: as they come, widened and normalised, on both sides. tome holds a segment's
        frames widened, twice normalised, and how alike any two tokens of its two halves are.
        """
        frames = num_frames * self.frame_bytes
        segment_tokens = min(num_frames, SEGMENT_FRAMES) * self.frame_tokens
        pairs_bytes = FLOAT32_BYTES * (segment_tokens // 2 + 1) ** 2
        return max(9 * frames, 8 * frames + pairs_bytes)


def _attention_bytes(text: Any, queries: int, keys: int, size: int) -> int:
    """Return what one token takes in a layer's attention, the norm it came from included.

    Rotation holds queries, keys, values and three tensors like the queries. Later there are queries, the output of all
    trees, its transpose and the projection.
    """
    return size * max(text.hidden_size + 4 * queries + 2 * keys, 2 * text.hidden_size + 3 * queries)


def _mlp_bytes(text: Any, size: int) -> int:
    """Return what one token takes behind attention: gate, up and their product, or the norm, counted in float32."""
    mlp = (2 * text.hidden_size + 3 * text.intermediate_size) * size
    return max(mlp, text.hidden_size * (2 * size + 2 * FLOAT32_BYTES))


def _patch_bytes(vision: VisionTower, size: int) -> int:
    """Return what one patch takes in the vision tower, its pixels included: of a layer's phases, the hungriest.

    Attention holds the layer's input, its norm, queries, keys, values, the output and its projection; where these
    are turned, queries and keys are there before and behind it, and rotation counts in float32.
    """
    width, converted = vision.width, size < FLOAT32_BYTES
    if vision.turned:
        attention = 10 * width * size
        rotation = width * (5 * size + (6 if converted else 4) * FLOAT32_BYTES)
    else:
        attention, rotation = 8 * width * size, 0
    mlp = ((3 + vision.kept) * width + vision.mlp_tensors * vision.mlp) * size
    angles = 2 * vision.turned * FLOAT32_BYTES
    pixels = vision.patch_values * FLOAT32_BYTES * (2 if vision.copied else 1)
    pixels += vision.patch_values * size if converted or vision.masked else 0
    if vision.masked:
        pixels += 2 * vision.patch_values // 3 * POSITION_BYTES
    # in numpy, before: frame by frame, and all in one piece; a mask likewise
    processor = vision.patch_values * (4 if vision.masked else 2) * FLOAT32_BYTES
    embedding = (vision.patch_values + width) * size  # the convolution's columns, and its result
    return max(processor, pixels + angles + max(embedding, rotation, attention, mlp))


# --- what is there ---------------------------------------------------------------------------------------------


def stored_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a weight; of one that bitsandbytes has quantised, those of its scales too."""
    state = getattr(tensor, "quant_state", None)
    scales = [getattr(state, "absmax", None), getattr(tensor, "SCB", None)]
    return tensor.nbytes + sum(scale.nbytes for scale in scales if isinstance(scale, torch.Tensor))


def spare_bytes(device: torch.device) -> int:
    """Return what this process may take of a device beside what it has: a cautious share of what is free.

    On a GPU no more than the share that the process has been lent (`torch.cuda.set_per_process_memory_fraction`); on
    a CPU no more than its control group allows.
    """
    if device.type != "cuda":
        free = min([psutil.virtual_memory().available, *_group_spare_bytes(Path("/proc/self/cgroup"))])
        return int(free * SHARE_OF_FREE_HOST)
    free, total = torch.cuda.mem_get_info(device)
    taken, unused = torch.cuda.memory_reserved(device), torch.cuda.memory_reserved(device)
    unused -= torch.cuda.memory_allocated(device)
    lent = int(total * torch.cuda.get_per_process_memory_fraction(device)) - taken
    return max(0, int((min(free, lent) + unused) * SHARE_OF_FREE_GPU))


def _group_spare_bytes(membership: Path, root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return what the memory limits of this process's control groups leave, those of their parents included."""
    spare: list[int] = []
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            folder, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            folder, names = root, ("memory.max", "memory.current")
        else:
            continue
        inside = folder / path.lstrip("/")
        for group in (inside, *inside.parents):
            if group != folder.parent and (group / names[0]).exists():
                limit, used = ((group / name).read_text().strip() for name in names)
                spare += [max(0, int(limit) - int(used) + _cached_bytes(group))] if limit.isdigit() else []
    return spare


def _cached_bytes(group: Path) -> int:
    """Return what a control group holds of files, weights that are mapped among them: it counts as used, and is not."""
    file = group / "memory.stat"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    figures = {line[0]: int(line[1]) for line in lines if len(line) == 2}
    kinds = ("inactive_file", "active_file")
    return sum(figures.get(f"total_{kind}", figures.get(kind, 0)) for kind in kinds)
