"""Frame relevance from a selector that somebody else trained, as two ONNX graphs in a folder.

VideoITG (arXiv 2507.13353) and its like look at all frames of a video and at the question in one pass, and give every
frame a number. No foreign code is run for it: a folder holds what such a model computes, cut where the question comes
in, so that frames are looked at once for all questions.

    selector.json    height_px, width_px, mean and std (three numbers each, of values in 0..1), and, if they differ:
                     max_frames (512; those seen in one pass), max_text_tokens (256), prompt ("{question}")
    tokenizer.json   of the tokenizers library
    frames.onnx      pixels [N, 3, H, W] float32 -> features [N, E] float32
    select.onnx      features [N, E] float32, input_ids [L] int64 -> logits [N] float32; 0 is the border

Shape letters: N frames, H W pixels, E features, P texts, L text tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from actors.models import Device, Floats, FrameScorer, ScorerEntry, ScorerFacts
from actors.models.loading import sample_of
from actors.models.packaged import folder_of
from pipeline.config import STRICT, Count, Positive, ScoreConfig
from pipeline.errors import ModelError
from pipeline.frames import FrameSize
from pipeline.methods import Method

METHOD = Method(
    source="VideoITG (arXiv 2507.13353), by folder (`score.model`): two ONNX graphs and a tokenizer",
    stage="score",
    what="a selector that was trained elsewhere sees all frames of a window with the question, and gives each a"
    " probability",
    differs="its weights (8 B, a licence of their own) are not part of this package, nor was it run; the plan, not a"
    " fixed 32 or 64 frames, decides what is shown. A window's frames are what it sees at once",
    needs=("pixels", "weights"),
    query_dependent=True,
    training_free=False,
    positions="none",
)

FACTS_FILE, TOKENIZER_FILE, FRAMES_FILE, SELECT_FILE = (
    "selector.json", "tokenizer.json", "frames.onnx", "select.onnx"
)  # fmt: skip
GRAPHS = {FRAMES_FILE: (("pixels",), "features"), SELECT_FILE: (("features", "input_ids"), "logits")}
"""Names of inputs and of the output."""
FRAMES_PER_CALL = 1
"""One at a time: a frame's features do not depend on its neighbours, to the last bit."""
NO_TOKEN = -1.0

Three = Annotated[tuple[float, float, float], Field()]


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SelectorFacts:
    """What `selector.json` says."""

    height_px: Count
    width_px: Count
    mean: Three
    std: tuple[Positive, Positive, Positive]
    max_frames: Count = 512
    max_text_tokens: Count = 256
    prompt: str = "{question}"


def describe(config: ScoreConfig) -> ScorerFacts:
    """Return the selector's name with a digest of its files, and the frame size it takes; reads no weights.

    Raises:
        ModelError: a file is missing, or `selector.json` is not what it should be.
    """
    folder = folder_of(config.model)
    facts = _read_facts(config.model, folder)
    return ScorerFacts(f"{config.model}@{_digest(folder)}", FrameSize(facts.height_px, facts.width_px))


def make(config: ScoreConfig, device: Device) -> FrameScorer:
    """Return the selector, its graphs on the device where onnxruntime can use it.

    Raises:
        ModelError: see `describe`; or a graph has other inputs or outputs, or cannot be loaded.
    """
    from tokenizers import Tokenizer

    folder = folder_of(config.model)
    facts = _read_facts(config.model, folder)
    tokenizer: Any = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.enable_truncation(facts.max_text_tokens)
    sessions = [_session(config.model, folder / name, device) for name in GRAPHS]
    return External(config.model, facts, tokenizer, sessions[0], sessions[1])


ENTRY = ScorerEntry(describe, make)


class External:
    """Holds one selector; see the module."""

    def __init__(self, name: str, facts: SelectorFacts, tokenizer: Any, frames: Any, select: Any) -> None:
        self.name = name
        self.facts = facts
        self.tokenizer = tokenizer
        self.frames = frames
        self.select = select

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return the tokens of each text behind the selector's own words, [P, L] float32, -1 where there is none."""
        ids = [
            self.tokenizer.encode(self.facts.prompt.replace("{question}", text)).ids
            for text in texts
        ]  # fmt: skip
        found = np.full((len(ids), max(map(len, ids), default=0)), NO_TOKEN, np.float32)
        for row, own in zip(found, ids, strict=True):
            row[: len(own)] = own
        return found

    def embed_frames(self, data_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Return features [N, E] float32.

        Raises:
            ModelError: the selector computed something that is not a number.
        """
        mean, std = (np.asarray(value, np.float32) for value in (self.facts.mean, self.facts.std))
        parts: list[Floats] = []
        for start in range(0, len(data_NHWC), FRAMES_PER_CALL):
            part_NHWC = data_NHWC[start : start + FRAMES_PER_CALL].astype(np.float32) / 255
            pixels = ((part_NHWC - mean) / std).transpose(0, 3, 1, 2)
            parts.append(self._run(self.frames, {"pixels": np.ascontiguousarray(pixels)}))
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def relevance(self, embeddings_NE: Floats, texts_PE: Floats) -> Floats:
        """Return [N, P] float32 in [0, 1]: more than `max_frames` frames are seen in runs of equal length.

        Raises:
            ModelError: the selector computed something that is not a number, or not one for each frame.
        """
        num_frames = len(embeddings_NE)
        found = np.zeros((num_frames, len(texts_PE)), np.float32)
        runs = np.array_split(np.arange(num_frames), max(1, -(-num_frames // self.facts.max_frames)))
        for column, ids in enumerate(texts_PE):
            input_ids = ids[ids != NO_TOKEN].astype(np.int64)
            for run in runs if num_frames else ():
                logits = self._run(self.select, {"features": embeddings_NE[run], "input_ids": input_ids})
                if logits.shape != run.shape:
                    msg = f"selector {self.name!r} gave numbers of shape {logits.shape} for {len(run)} frames"
                    raise ModelError(f"{msg}, expected one each")
                found[run, column] = 0.5 * (1 + np.tanh(0.5 * logits))
        return found

    def _run(self, session: Any, inputs: dict[str, Any]) -> Floats:
        found = np.asarray(session.run(None, inputs)[0], np.float32)
        if not np.isfinite(found).all():
            msg = f"selector {self.name!r} computed something that is not a number; its weights are damaged"
            raise ModelError(msg)
        return found


def _read_facts(name: str, folder: Path) -> SelectorFacts:
    """Return what the folder says of itself.

    Raises:
        ModelError: a file is missing, or `selector.json` is not what it should be.
    """
    missing = [file for file in (FACTS_FILE, TOKENIZER_FILE, *GRAPHS) if not (folder / file).is_file()]
    if not name or missing:
        msg = (
            f"scorer external, model {name!r}: found no {', '.join(missing) or 'name'}; --score.model names a folder"
            f" with {FACTS_FILE}, {TOKENIZER_FILE}, {FRAMES_FILE} and {SELECT_FILE} (docs/models.md)"
        )
        raise ModelError(msg)
    try:
        return TypeAdapter(SelectorFacts).validate_python(json.loads((folder / FACTS_FILE).read_text()))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)
        )
        msg = f"model {name!r}: {FACTS_FILE} cannot be used: {wrong}"
        raise ModelError(msg) from error
    except ValueError as error:
        msg = f"model {name!r}: {FACTS_FILE} is no JSON: {error}"
        raise ModelError(msg) from error


def _session(name: str, path: Path, device: Device) -> Any:
    """Return a graph ready to run.

    Raises:
        ModelError: it cannot be loaded, or its inputs and outputs are others.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if device == "cpu":
        options.intra_op_num_threads = options.inter_op_num_threads = 1
    there = onnxruntime.get_available_providers()
    on_gpu = [one for one in ("CUDAExecutionProvider",) if device == "cuda" and one in there]
    try:
        session = onnxruntime.InferenceSession(str(path), options, [*on_gpu, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common class
        msg = f"model {name!r}: {path.name} cannot be loaded: {str(error).splitlines()[0]}"
        raise ModelError(msg) from error
    inputs, output = GRAPHS[path.name]
    found = ({one.name for one in session.get_inputs()}, session.get_outputs()[0].name)
    if found != (set(inputs), output):
        msg = (
            f"model {name!r}: {path.name} takes {', '.join(sorted(found[0]))} and gives {found[1]}, expected"
            f" {', '.join(inputs)} and {output}; export it with these names"
        )
        raise ModelError(msg)
    return session


def _digest(folder: Path) -> str:
    """Return 12 hex digits over name, size, head and tail of each file."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(sample_of(path))
    return digest.hexdigest()[:12]
