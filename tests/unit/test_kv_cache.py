"""Caches that keep everything, and what all policies share: parity with the library, pieces, questions, refusals."""

import pytest
import torch
import transformers

from actors.kv import KV_POLICIES, METHODS
from actors.kv.cache import Piece
from actors.kv.prefill import say
from actors.kv.rotary import Rotary
from actors.kv.rows import ROOM, Rows
from actors.kv.settings import KvSettings
from actors.kv.tokens import join, of_prompt, split, text
from actors.models.decoding import Language
from pipeline.errors import AnswerError, ConfigError
from tests.kv_reference import KINDS, build_model, embed, fill, library_logits, logits, make_prompt

QUESTION = [5, 6, 7, 8]
ALL = {
    "retention": 1.0, "vision_s": 1e9, "retrieve_frames": 1000, "page_share": 1.0, "prune_ratio": 0.0,
    "prune_layer": 1, "recent_frames": 1, "group_frames": 2,
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return build_model(request.param)


@pytest.fixture(scope="module", params=sorted(KV_POLICIES))
def policy(request):
    return request.param


def test_every_entry_says_what_it_is():
    assert METHODS.keys() == KV_POLICIES.keys()
    assert all(method.stage == "cache" for method in METHODS.values())


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_a_policy_that_keeps_all_says_what_the_library_says(model, policy, num_frames):
    prompt = make_prompt(model, num_frames)
    cache = fill(model, prompt, policy, **ALL)
    expected = library_logits(model, prompt, QUESTION)
    assert (logits(model, cache, QUESTION) - expected).abs().max() < 1e-4
    # nothing of the question stays
    assert (logits(model, cache, QUESTION) - expected).abs().max() < 1e-4


def test_a_question_goes_on_token_by_token(model, policy):
    prompt = make_prompt(model, 3)
    cache = fill(model, prompt, policy, **ALL)
    parts = [cache.ask(embed(model, part)) for part in ([5, 6], [7], [8])]
    found = model.lm_head(torch.cat(parts))
    assert (found - library_logits(model, prompt, QUESTION)).abs().max() < 1e-4


def test_pieces_in_any_groups_are_the_same_prompt(model):
    prompt = make_prompt(model, 5, tail=2)
    expected = library_logits(model, prompt, QUESTION)
    for group_frames in (1, 2, 3, 5, 100):
        found = logits(model, fill(model, prompt, "none", group_frames=group_frames), QUESTION)
        assert (found - expected).abs().max() < 1e-4


def test_parts_that_count_their_frames_anew_are_one_stream(model, policy):
    small = {"group_frames": 2, "vision_s": 2.0, "window_tokens": 10, "retrieve_frames": 2, "long_tokens": 8,
             "recent_frames": 1, "prune_layer": 1}  # fmt: skip
    prompt = make_prompt(model, 6)
    cache = KV_POLICIES[policy](model.get_decoder(), KvSettings(**small))
    whole = of_prompt(prompt.positions_PL, prompt.visual_L, None, prompt.next_position)
    for part in split(whole, 2):
        visual_L, positions_PL = prompt.visual_L[part], prompt.positions_PL[:, part]
        seconds = sorted({second for second in whole.time_s_L[part].tolist() if second == second})
        behind = whole.take(part).extent + int(positions_PL[0, 0])
        cache.feed(Piece(prompt.embeds_LD[part], of_prompt(positions_PL, visual_L, seconds, behind)))
    expected = logits(model, fill(model, prompt, policy, **small), QUESTION)
    assert torch.equal(logits(model, cache, QUESTION), expected)


def test_text_alone_and_nothing_at_all(model, policy):
    prompt = make_prompt(model, 0)
    found = logits(model, fill(model, prompt, policy, **ALL), QUESTION)
    assert (found - library_logits(model, prompt, QUESTION)).abs().max() < 1e-4
    nothing = make_prompt(model, 0, header=0)
    found = logits(model, fill(model, nothing, policy, **ALL), QUESTION)
    assert (found - library_logits(model, nothing, QUESTION)).abs().max() < 1e-4


def test_a_cache_says_greedily_what_the_library_says(model, policy):
    prompt, language = make_prompt(model, 2), Language(model, model.get_decoder(), 1, frozenset())
    said = say(fill(model, prompt, policy, **ALL), language, QUESTION, 4)
    ids = list(QUESTION)
    for _ in range(4):
        ids.append(int(library_logits(model, prompt, ids)[-1].argmax()))
    assert said.ids == ids[len(QUESTION) :]
    assert 0 < said.confidence <= 1


def test_the_end_token_ends_an_answer(model):
    prompt = make_prompt(model, 1)
    first = int(library_logits(model, prompt, QUESTION)[-1].argmax())
    language = Language(model, model.get_decoder(), 1, frozenset([first]))
    assert say(fill(model, prompt, "none"), language, QUESTION, 4).ids == []


def test_a_token_that_is_no_number_names_its_frame(model, policy):
    prompt = make_prompt(model, 3)
    prompt.embeds_LD[prompt.frames[1][0]] = torch.nan
    with pytest.raises(AnswerError, match="frame 1: 1 tokens"):
        fill(model, prompt, policy, **ALL)


def test_a_prompt_does_not_go_on_behind_an_open_question(model):
    prompt = make_prompt(model, 1)
    cache = fill(model, prompt, "none")
    cache.ask(embed(model, QUESTION))
    with pytest.raises(ValueError, match="open"):
        cache.feed(None)


@pytest.mark.parametrize("name", ["retention", "page_share", "group_frames", "prune_ratio", "vision_s"])
def test_settings_out_of_range(name):
    with pytest.raises(ConfigError, match=name):
        KvSettings(**{name: -1})


def test_keys_come_back_when_their_turn_is_taken_off(model):
    rotary = Rotary(model.get_decoder())
    prompt = make_prompt(model, 4)
    keys = torch.randn(1, 2, len(prompt.visual_L), 16)
    turns = rotary.turns(prompt.positions_PL + 900)
    assert (rotary.put_on(rotary.take_off(keys, turns), turns) - keys).abs().max() < 1e-5
    assert (rotary.put_on(keys, turns) - keys).abs().max() > 0.1


def test_tokens_lie_as_the_model_lays_them(model):
    prompt = make_prompt(model, 3, tail=2)
    tokens = of_prompt(prompt.positions_PL, prompt.visual_L, None, prompt.next_position)
    assert torch.equal(tokens.lay_out(), prompt.positions_PL)
    assert tokens.extent == prompt.next_position
    first, second = (tokens.take(part) for part in split(tokens, 2))
    assert torch.equal(first.lay_out(), prompt.positions_PL[:, : len(first)])
    assert torch.equal(join([first, second]).lay_out(7), prompt.positions_PL + 7)
    # without the second frame the rest closes up, as in a prompt that never had it
    fewer = make_prompt(model, 2, lead=2, tail=2)
    away = torch.tensor([place for place in range(len(tokens)) if place not in prompt.frames[1]])
    expected = torch.cat([fewer.positions_PL[:, : prompt.frames[1][0]],
                          fewer.positions_PL[:, prompt.frames[1][0] - 2 :] + 2], 1)  # fmt: skip
    assert torch.equal(tokens.take(away).lay_out(), expected)


def test_text_has_one_position_each():
    tokens = text(3, 3, torch.device("cpu"))
    assert tokens.lay_out(4).tolist() == [[4, 5, 6]] * 3


def test_rows_keep_what_they_are_told():
    rows = Rows()
    keys = torch.arange(6.0).reshape(1, 1, 6, 1)
    rows.append(keys, -keys)
    rows.keep(torch.tensor([0, 2]), start=2)
    assert rows.keys.flatten().tolist() == [0, 1, 2, 4]
    rows.append(keys[:, :, :1] + 9, keys[:, :, :1])
    assert rows.keys.flatten().tolist() == [0, 1, 2, 4, 9]
    assert rows.values.flatten().tolist() == [0, -1, -2, -4, 0]
    rows.cut(1)
    assert rows.keys.flatten().tolist() == [0]
    assert rows.num_bytes == 2 * (6 + ROOM) * 4


def stretched(kind, factor=4.0):
    """Return a decoder whose keys are turned, and made larger, for prompts longer than it was trained with."""
    settings = {
        "rope_type": kind,
        "rope_theta": 1e4,
        "factor": factor,
        "original_max_position_embeddings": 64,
    }
    config = transformers.Qwen2Config(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rope_parameters=settings, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.Qwen2ForCausalLM(config).eval().requires_grad_(False)


def test_keys_that_are_made_larger_are_made_smaller_again():
    model = stretched("yarn")
    rotary, prompt = Rotary(model.get_decoder()), make_prompt(model, 6)
    assert rotary.scale > 1.1
    keys = torch.randn(1, 2, len(prompt.visual_L), 8)
    turns = rotary.turns(prompt.positions_PL)
    assert (rotary.take_off(rotary.put_on(keys, turns), turns) - keys).abs().max() < 1e-5
    found = logits(model, fill(model, prompt, "streaming-vlm", **ALL), QUESTION)
    assert (found - library_logits(model, prompt, QUESTION)).abs().max() < 1e-4


def test_angles_that_move_with_the_length_are_refused_where_they_do():
    rotary = Rotary(stretched("dynamic").get_decoder())
    rotary.turns(torch.arange(64)[None])
    with pytest.raises(AnswerError, match="beyond the 64"):
        rotary.turns(torch.arange(65)[None])
