"""Read a video once into a KV store, and answer any number of questions from it later, in any process.

The model, its compressor and the policy `rekv` (rekv.py) do the work; store.py has the files. Frames come in pieces,
so that neither pictures nor embeddings of the whole video are in memory at once.

Shape letters: N frames, L tokens, P position axes.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from actors.kv.cache import Piece
from actors.kv.prefill import say
from actors.kv.rekv import ReKv
from actors.kv.settings import KvSettings
from actors.kv.store import KvStore, Manifest
from actors.kv.tokens import join, of_prompt, text
from actors.models.prompting import write_prompt
from actors.models.video_llm import Clip, VideoLlm
from pipeline.errors import AnswerError, ConfigError
from pipeline.frames import Frames
from pipeline.queries import Query

ANY = Query("index", "What is seen?", "ask")
"""A prompt needs a question; what is behind the frames is not indexed."""


def index_video(
    llm: VideoLlm,
    frames: Iterable[Frames],
    folder: Path,
    settings: KvSettings | None = None,
    *,
    dtype: Literal["float16", "bfloat16"] = "float16",
    bytes_per_hour: int = 0,
) -> KvStore:
    """Read a video into a new folder; whatever goes wrong, nothing stays there that a next try would stumble over.

    Args:
        llm: the model that will answer.
        frames: the sampled frames, in pieces of any length, at the model's size.
        folder: made if missing; must not hold a store yet.
        settings: of `rekv`.
        dtype: number format of the files.
        bytes_per_hour: most bytes for each hour of video; frames that hardly differ from the one before are thrown
            away first. 0 = no cap. Keys and values of one token take 2 x layers x key heads x head size x 2 bytes.

    Raises:
        StoreError: the folder holds a store, or cannot be written.
        ConfigError: the window does not fit into the model's context.
        AnswerError: no frame at all, or see `VideoLlm.encode`.
    """
    settings = settings or KvSettings()
    _check_context(llm, settings)
    files, layers = llm.parts.files, llm.language.num_layers
    store = KvStore.create(folder, Manifest(files.name, files.revision, layers, dtype, bytes_per_hour))
    try:
        cache = ReKv(llm.language.decoder, settings, store)
        for piece in pieces(llm, frames, settings.group_frames):
            cache.feed(piece)
            if not store.manifest.init_file and cache.num_init:
                store.write_init(*cache.init)
        if not store.extents:
            msg = "there is no frame to index"
            raise AnswerError(msg)
        store.finish()
    except BaseException:
        store.discard()
        raise
    return store


def open_index(llm: VideoLlm, folder: Path, settings: KvSettings | None = None) -> ReKv:
    """Return a cache that questions can be put to (prefill.py, `say`).

    Raises:
        StoreError: the folder holds no complete store.
        ModelError: it is another model's.
    """
    files = llm.parts.files
    store = KvStore.open(folder, files.name, files.revision)
    cache = ReKv(llm.language.decoder, settings, store)
    init = store.read_init()
    if init is not None:
        layers, tokens = init
        weights = llm.language.embed.weight
        with torch.inference_mode():
            cache.begin([layer.to(weights) for layer in layers], tokens.to(weights.device))
    return cache


def answer_from(llm: VideoLlm, folder: Path, question: str, settings: KvSettings | None = None) -> str:
    """Return what the model answers to a question about an indexed video.

    Raises:
        StoreError: the folder holds no complete store.
        ModelError: it is another model's.
        AnswerError: the frames that are shown do not fit into the model's context, or the question holds one of the
            model's own marks.
    """
    cache = open_index(llm, folder, settings)
    tail = write_prompt(llm.parts, (0.0,), Query("question", question, "ask")).tail
    start = cache.open_question()
    cache.close_question()
    room = start + len(tail) + llm.config.max_new_tokens
    if room > _context(llm):
        msg = (
            f"{cache.settings.retrieve_frames} frames, the question and its answer take {room} positions, more than the"
            f" model's {_context(llm)}; lower retrieve_frames"
        )
        raise AnswerError(msg)
    return llm.decode(say(cache, llm.language, tail, llm.config.max_new_tokens).ids)


def _context(llm: VideoLlm) -> float:
    return getattr(llm.parts.config.get_text_config(), "max_position_embeddings", None) or float("inf")


def _check_context(llm: VideoLlm, settings: KvSettings) -> None:
    group = settings.group_frames * llm.parts.tokens_per_frame
    if settings.window_tokens + group > _context(llm):
        msg = (
            f"window_tokens {settings.window_tokens} and {settings.group_frames} frames of"
            f" {llm.parts.tokens_per_frame} tokens do not fit into the model's context of {_context(llm)}; lower"
            " window_tokens or group_frames"
        )
        raise ConfigError(msg)


# --- from pictures to pieces of a prompt -----------------------------------------------------------------------


def pieces(llm: VideoLlm, frames: Iterable[Frames], group_frames: int) -> Iterator[Piece]:
    """Yield the prompt of a video up to its last frame, a group of frames at a time.

    The groups are the same however the frames were cut. A compressor sees one group.

    Raises:
        AnswerError: see `VideoLlm.encode` and `VideoLlm.reduce`.
    """
    before_s: float | None = None
    for group in _regroup(frames, group_frames):
        features = llm.encode(group.data_NHWC)
        plan = [(row, llm.parts.tokens_per_frame) for row in range(len(group))]
        clip = llm.reduce(features, range(len(group)), plan)
        yield _piece(llm, clip, [float(group.pts_s_N[row]) for row in clip.rows], before_s)
        before_s = float(group.pts_s_N[clip.rows[-1]])


def _regroup(frames: Iterable[Frames], size: int) -> Iterator[Frames]:
    """Yield groups of `size` frames, the last one shorter."""
    waiting: list[Frames] = []
    count = 0
    for one in frames:
        waiting.append(one)
        count += len(one)
        while count >= size:
            whole = _joined(waiting)
            yield Frames(whole.data_NHWC[:size], whole.pts_s_N[:size])
            waiting = [Frames(whole.data_NHWC[size:], whole.pts_s_N[size:])]
            count -= size
    if count:
        yield _joined(waiting)


def _joined(parts: Sequence[Frames]) -> Frames:
    data_NHWC = np.concatenate([part.data_NHWC for part in parts])
    return Frames(data_NHWC, np.concatenate([part.pts_s_N for part in parts]))


def _piece(llm: VideoLlm, clip: Clip, times_s: Sequence[float], before_s: float | None) -> Piece:
    """Return some frames as a piece of a prompt; `before_s` is the time of the frame before them, if there is one."""
    prompt = write_prompt(llm.parts, times_s, ANY)
    head = llm.assemble(prompt.head, clip)
    visual_L = visual_tokens(llm, prompt.head, clip)
    tokens = of_prompt(head.positions_PL, visual_L, times_s, head.next_position)
    embeds_LD, extra = head.embeds_LD, dict(head.extra)
    first = int(visual_L.nonzero()[0, 0])
    if before_s is None:
        return Piece(embeds_LD, tokens, extra, first - _num_before(llm, prompt.head))
    # in place of the prompt's beginning comes what stands between two frames
    lead = _between(llm, before_s, times_s[0])
    embeds_LD = torch.cat(
        [llm.language.embed(torch.tensor(lead, device=embeds_LD.device)), embeds_LD[first:]]
    )
    tokens = join([text(len(lead), llm.language.axes, visual_L.device), tokens.take(slice(first, None))])
    if extra:
        extra["visual_pos_masks"] = tokens.is_visual_L[None]
    return Piece(embeds_LD, tokens, extra, len(lead))


def visual_tokens(llm: VideoLlm, head: Sequence[int], clip: Clip) -> torch.Tensor:
    """Return which embeddings of an assembled prompt head are visual, bool [L]; learnt separators are."""
    parts = llm.parts
    head_L = torch.tensor(head, device=llm.language.device)
    visual_L = head_L == parts.config.image_token_id
    place_L = visual_L.cumsum(0) - 1
    per_frame = parts.tokens_per_frame + parts.family.separators
    kept_T = torch.tensor(clip.tokens_T, device=head_L.device) + parts.family.separators
    frame_L = place_L.clamp(min=0) // per_frame
    return visual_L[~visual_L | (place_L % per_frame < kept_T[frame_L])]


def _num_before(llm: VideoLlm, head: Sequence[int]) -> int:
    """Return how many tokens of a prompt's head are its beginning, the same with and without frames."""
    without = write_prompt(llm.parts, (), ANY).tail
    return next(
        (at for at, (one, other) in enumerate(zip(head, without, strict=False)) if one != other),
        min(len(head), len(without)),
    )


def _between(llm: VideoLlm, before_s: float, after_s: float) -> list[int]:
    """Return the tokens between the visual tokens of two frames."""
    ids = write_prompt(llm.parts, (before_s, after_s), ANY).head
    visual = [token == llm.parts.config.image_token_id for token in ids]
    per_frame = llm.parts.tokens_per_frame + llm.parts.family.separators
    start = visual.index(True) + per_frame
    return list(ids[start : len(ids) - per_frame])
