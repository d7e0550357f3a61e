"""Each cache policy against the slow way (tests/kv_reference.py), with explicit lists of what every token sees."""

import pytest
import torch

from actors.kv.livevlm import Held
from actors.kv.prefill import prefill
from actors.kv.quick_prefill import num_kept
from actors.kv.rows import Rows
from actors.kv.settings import KvSettings
from actors.kv.tokens import Tokens
from pipeline.errors import ConfigError
from tests.kv_reference import (
    KINDS,
    LIVE,
    QUESTION,
    Reference,
    build_model,
    embed,
    fill,
    groups_of,
    lay_out,
    logits,
    make_prompt,
    slow,
    whole,
)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return build_model(request.param)


# --- quick-prefill ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_frames", "retention"), [(5, 0.5), (4, 0.2), (1, 0.5), (3, 0.01)])
def test_quick_prefill_keeps_the_smallest_keys_of_each_group_and_layer(model, num_frames, retention):
    prompt = make_prompt(model, num_frames)
    _, positions = whole(model, prompt)
    length, group_of = len(prompt.visual_L), groups_of(prompt, 2)

    def kept(keys, group):
        members = [at for at in range(length) if group_of[at] == group and bool(prompt.visual_L[at])]
        norms = {at: float(keys[:, at].double().pow(2).sum()) for at in members}
        count = max(1, int(len(members) * retention + 1e-9))
        return set(sorted(members, key=lambda at: norms[at])[:count])

    def see(layer, token, queries, keys):
        del layer, queries
        own = group_of[token] if token < length else None
        found = {}
        for at in range(token + 1):
            group = group_of[at] if at < length else own
            if group == own or not bool(prompt.visual_L[at]) or at in kept(keys, group):
                found[at] = positions[at]
        return found

    cache = fill(model, prompt, "quick-prefill", group_frames=2, retention=retention)
    assert (logits(model, cache, QUESTION) - slow(model, prompt, see)).abs().max() < 1e-4


def test_quick_prefill_keeps_a_share_of_each_group_in_every_layer(model):
    prompt = make_prompt(model, 5)
    cache = fill(model, prompt, "quick-prefill", group_frames=2, retention=0.5)
    text = int((~prompt.visual_L).sum())
    assert [rows.num_rows for rows in cache.layers] == [text + 6 + 6 + 3] * 3


def test_shares_are_rounded_down_and_never_nothing():
    assert [num_kept(10, share) for share in (1.0, 0.7, 0.55, 0.01)] == [10, 7, 5, 1]
    assert num_kept(0, 0.5) == 0


# --- streaming-vlm ---------------------------------------------------------------------------------------------

SMALL = {"sink_tokens": 4, "recent_text_tokens": 3, "vision_s": 2.0}


def streaming_rules(prompt, group_frames):
    """Return what is held behind each group, with SMALL, one frame a second."""
    group_of, frame_of = groups_of(prompt, group_frames), {}
    for number, frame in enumerate(prompt.frames):
        frame_of |= dict.fromkeys(frame, number)
    held, after = [], []
    for group in range(max(group_of) + 1):
        held += [at for at in range(len(group_of)) if group_of[at] == group]
        words = [at for at in held if at not in frame_of]
        newest = max(frame_of[at] for at in held if at in frame_of)
        held = [at for at in held if (frame_of[at] > newest - 2 if at in frame_of else
                                      at in words[:4] or at in words[-3:])]  # fmt: skip
        after.append(list(held))
    return group_of, after


@pytest.mark.parametrize(("num_frames", "group_frames"), [(6, 2), (5, 1), (3, 2), (1, 1)])
def test_streaming_vlm_sees_what_is_held_closed_up(model, num_frames, group_frames):
    prompt = make_prompt(model, num_frames)
    group_of, after = streaming_rules(prompt, group_frames)
    length = len(group_of)

    def see(layer, token, queries, keys):
        del layer, queries, keys
        if token < length:
            group = group_of[token]
            before = after[group - 1] if group else []
            own = [at for at in range(length) if group_of[at] == group]
            places, _ = lay_out(prompt, before + own)
            return {at: where for at, where in places.items() if at in before or at <= token}
        places, behind = lay_out(prompt, after[-1])
        asked = {at: [behind + at - length] * len(prompt.positions_PL) for at in range(length, token + 1)}
        return places | asked

    cache = fill(model, prompt, "streaming-vlm", group_frames=group_frames, **SMALL)
    assert (logits(model, cache, QUESTION) - slow(model, prompt, see)).abs().max() < 1e-4
    assert cache.layers[0].num_rows == len(after[-1])


def test_streaming_vlm_holds_no_more_however_long_the_stream(model):
    held = {frames: fill(model, make_prompt(model, frames), "streaming-vlm", group_frames=1, **SMALL)
            for frames in (6, 12, 24)}  # fmt: skip
    assert {cache.layers[2].num_rows for cache in held.values()} == {4 + 3 + 2 * 6}
    assert len({cache.end for cache in held.values()}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_says_what_a_fresh_prompt_of_the_kept_tokens_says(kind):
    model = build_model(kind, layers=1)
    prompt = make_prompt(model, 6)
    _, after = streaming_rules(prompt, 2)
    places, behind = lay_out(prompt, after[-1])
    fresh = make_prompt(model, 0, header=0)
    fresh.embeds_LD, fresh.visual_L = prompt.embeds_LD[after[-1]], prompt.visual_L[after[-1]]
    fresh.positions_PL, fresh.next_position = torch.tensor([places[at] for at in after[-1]]).T, behind
    found = logits(model, fill(model, prompt, "streaming-vlm", group_frames=2, **SMALL), QUESTION)
    assert (found - logits(model, fill(model, fresh, "none"), QUESTION)).abs().max() < 1e-4


# --- rekv ------------------------------------------------------------------------------------------------------


def rekv_rules(prompt, group_frames, window_tokens, retrieve_frames, lead=0):
    """Return what a token sees: a window of whole frames while reading, the frames found in each layer when asked."""
    group_of, length = groups_of(prompt, group_frames), len(prompt.visual_L)
    frames, axes = prompt.frames, len(prompt.positions_PL)
    init = frames[0][0] - lead
    blocks = [list(range(init if number == 0 else frames[number - 1][-1] + 1, frame[-1] + 1))
              for number, frame in enumerate(frames)]  # fmt: skip
    before, held = [], []
    for group in range(max(group_of) + 1):
        before.append(list(held))
        held += [at for at in range(length) if group_of[at] == group]
        border = len(held) - window_tokens
        if border > 0:
            cut = next((frame for frame in frames if held[border] in frame and held[border - 1] in frame), [])
            held = [at for n, at in enumerate(held) if at < init or (n >= border and at not in cut)]

    def see(layer, token, queries, keys):
        del layer
        if token < length:
            past = before[group_of[token]]
            own = [at for at in range(length) if group_of[at] == group_of[token] and at not in past]
            places, _ = lay_out(prompt, past + own)
            return {at: where for at, where in places.items() if at <= token}
        groups = queries.shape[0] // keys.shape[0]
        query = queries[:, length:].double().mean(1)
        scores = []
        for frame in frames:
            mean = keys[:, frame].double().mean(1).repeat_interleave(groups, 0)
            scores.append(float((mean * query).sum()))
        best = sorted(sorted(range(len(frames)), key=lambda number: -scores[number])[:retrieve_frames])
        shown = list(range(init)) + [at for number in best for at in blocks[number]]
        places, behind = lay_out(prompt, shown)
        return places | {at: [behind + at - length] * axes for at in range(length, token + 1)}

    return see


@pytest.mark.parametrize(
    ("num_frames", "window_tokens", "retrieve_frames"), [(6, 12, 2), (5, 1000, 1), (1, 5, 3)]
)
def test_rekv_shows_a_question_the_frames_it_finds(model, num_frames, window_tokens, retrieve_frames):
    prompt = make_prompt(model, num_frames)
    see = rekv_rules(prompt, 2, window_tokens, retrieve_frames)
    cache = fill(model, prompt, "rekv", group_frames=2, window_tokens=window_tokens,
                 retrieve_frames=retrieve_frames, device_frames=1)  # fmt: skip
    expected = slow(model, prompt, see)
    assert (logits(model, cache, QUESTION) - expected).abs().max() < 1e-4
    assert (logits(model, cache, QUESTION) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("lead", [1, 2, 100])
def test_rekv_shows_the_text_of_the_first_frame_only_with_it(model, lead):
    prompt = make_prompt(model, 6)
    see = rekv_rules(prompt, 2, 12, 2, lead=min(lead, 5))
    settings = KvSettings(group_frames=2, window_tokens=12, retrieve_frames=2)
    cache = prefill(model.get_decoder(), prompt.embeds_LD, prompt.positions_PL, prompt.visual_L, "rekv", settings,
                    next_position=prompt.next_position, lead=lead)  # fmt: skip
    assert cache.num_init == 5 - min(lead, 5)
    assert (logits(model, cache, QUESTION) - slow(model, prompt, see)).abs().max() < 1e-4


def test_rekv_counts_its_archive_on_the_host(model):
    short, long = (
        fill(model, make_prompt(model, frames), "rekv", group_frames=1, window_tokens=16)
        for frames in (5, 15)
    )
    assert short.num_bytes == long.num_bytes
    before = long.archive.num_bytes
    keys_and_values = sum(long.archive.load(layer, block).nbytes for layer in range(3) for block in range(15))
    means = sum(long.archive.means(layer).nbytes for layer in range(3))
    assert before == keys_and_values + means + sum(
        long.archive.tokens(block).num_bytes for block in range(15)
    )
    long.ask(embed(model, QUESTION))
    assert long.archive.num_bytes == before  # a question joins the mean keys, and does not double them


def test_rekv_holds_no_more_however_long_the_stream(model):
    held = [
        fill(model, make_prompt(model, frames), "rekv", group_frames=1, window_tokens=16)
        for frames in (5, 15)
    ]
    assert held[0].layers[1].num_rows == held[1].layers[1].num_rows == 5 + 16
    assert [len(cache.archive.extents) for cache in held] == [5, 15]


def test_rekv_finds_other_frames_for_other_questions_and_in_other_layers(model):
    cache = fill(model, make_prompt(model, 12), "rekv", group_frames=2, retrieve_frames=3)
    found = set()
    for ids in ([5, 6, 7], [30, 31, 32], [40]):
        cache.ask(embed(model, ids))
        found |= {
            tuple(rows.keys[0, 0, 5 : 5 + 24].sum(-1).round(decimals=3).tolist()) for rows in cache.opened
        }
        cache.forget()
    assert len(found) > 3


# --- dycoke-dp -------------------------------------------------------------------------------------------------

ANSWER = [11, 12, 13, 14]


class DyCokeRules:
    """What each token of an answer sees: chosen in plain loops, one choice per step that turns."""

    def __init__(self, model, prompt, first, prune_ratio, similarity):
        self.model, self.prompt, self.first = model, prompt, first
        self.count = max(1, int(sum(prompt.visual_L.tolist()) * (1 - prune_ratio) + 1e-9))
        self.similarity, self.num_choices = similarity, 0
        self.last, self.chosen = None, set()
        behind = range(prompt.next_position, prompt.next_position + len(QUESTION) + len(ANSWER))
        self.positions = prompt.positions_PL.T.tolist() + [[at] * len(prompt.positions_PL) for at in behind]
        self.by_step = {}

    def see(self, layer, token, queries, keys):
        length = len(self.prompt.visual_L)
        places = {at: self.positions[at] for at in range(token + 1)}
        if token < length + len(QUESTION):
            return places
        if layer == self.first - 1:
            self.choose(token, places, queries, keys)
        if layer < self.first:
            return places
        return {at: where for at, where in places.items()
                if at >= length or not bool(self.prompt.visual_L[at]) or at in self.by_step[token]}  # fmt: skip

    def choose(self, token, places, queries, keys):
        reference = Reference(self.model, None)
        heads = queries.shape[0] // keys.shape[0]
        turned = reference.turn(keys[:, list(places)], list(places.values())).repeat_interleave(heads, 0)
        query = reference.turn(queries[:, [token]], [places[token]])
        weights = torch.softmax(query @ turned.transpose(1, 2) / queries.shape[-1] ** 0.5, -1).mean(0)[0]
        found = weights[: len(self.prompt.visual_L)][self.prompt.visual_L]
        alike = (
            self.last is not None
            and float(found @ self.last / found.norm() / self.last.norm()) >= self.similarity
        )
        self.last = found
        if not alike:
            visual = [at for at, is_visual in enumerate(self.prompt.visual_L.tolist()) if is_visual]
            self.num_choices += 1
            order = sorted(range(len(visual)), key=lambda at: -float(found[at]))
            self.chosen = {visual[at] for at in order[: self.count]}
        self.by_step[token] = set(self.chosen)


@pytest.mark.parametrize(("first", "similarity"), [(1, 0.9), (2, 0.999), (2, -1.0)])
def test_dycoke_dp_shows_deep_layers_what_the_newest_token_looks_at(model, first, similarity):
    prompt = make_prompt(model, 3)
    rules = DyCokeRules(model, prompt, first, 0.7, similarity)
    embeds = torch.cat([prompt.embeds_LD, embed(model, QUESTION + ANSWER)])
    expected = Reference(model, rules.see).run(embeds)[-len(ANSWER) :]
    cache = fill(model, prompt, "dycoke-dp", prune_layer=first, prune_ratio=0.7, similarity=similarity)
    for _ in range(2):
        cache.ask(embed(model, QUESTION))
        found = model.lm_head(torch.cat([cache.ask(embed(model, [token])) for token in ANSWER]))
        cache.forget()
        assert (found - expected).abs().max() < 1e-4
    assert cache.num_choices == 2 * rules.num_choices
    assert (rules.num_choices == 1) == (similarity == -1.0)


def test_dycoke_dp_needs_a_layer_to_prune(model):
    with pytest.raises(ConfigError, match=r"prune_layer is 3.*at most 2"):
        fill(model, make_prompt(model, 1), "dycoke-dp")


def held_bytes(value, seen):
    """Return the bytes of all storages that a cache's attributes reach, each once."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        return 0 if storage.data_ptr() in seen else seen.add(storage.data_ptr()) or storage.nbytes()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return sum(held_bytes(one, seen) for one in value)
    if isinstance(value, Rows | Tokens | Held):
        names = vars(value) if hasattr(value, "__dict__") else value.__slots__
        return sum(held_bytes(getattr(value, name), seen) for name in names)
    return 0


@pytest.mark.parametrize("policy", ["none", "quick-prefill", "streaming-vlm", "livevlm", "dycoke-dp"])
def test_bytes_are_those_of_all_that_is_held(model, policy):
    settings = LIVE | SMALL | {"prune_layer": 1, "group_frames": 2}
    cache = fill(model, make_prompt(model, 7), policy, **settings)
    of_a_pass = {"tokens", "positions_PL", "_new_turns", "rotary"}

    def check():
        held = held_bytes([value for name, value in vars(cache).items() if name not in of_a_pass], set())
        assert held * 0.95 <= cache.num_bytes <= held * 1.05

    check()
    for ids in (QUESTION, [9], [10]):
        cache.ask(embed(model, ids))
        check()
