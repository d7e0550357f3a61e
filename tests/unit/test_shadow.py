"""The first layers of a language model, checked against transformers' own hidden states on weights loaded apart."""

import numpy as np
import pytest
import torch
import transformers

from actors.models.prompting import pad_lone_frame, process_frames, render
from actors.models.shadow import Shadow
from pipeline.errors import AnswerError, ModelError
from tests.tiny_models import FRAME_PX, HIDDEN, LANGUAGE, VIDEO_LLMS

PIXELS = np.random.default_rng(0).integers(0, 255, (3, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
TIMES_S = (2.0, 8.5, 112.0)
TEXT = "Is there a fire?"
LAYERS = LANGUAGE["num_hidden_layers"]
ALL_TOKENS = 4096
EXACT = 1e-4


def shadow(llm, layers=2, tokens=ALL_TOKENS):
    return Shadow(llm, layers, tokens)


def library_states(model, llm, ids, row=None):
    """Return transformers' hidden states [layers + 1, L, D] of one sequence, the last behind the final norm."""
    ids_L = torch.tensor([ids])
    inputs = {"input_ids": ids_L, "attention_mask": torch.ones_like(ids_L)}
    family = llm.parts.family
    if row is not None:
        pixels = process_frames(family, llm.parts.images, pad_lone_frame(family, PIXELS[row : row + 1]))
        if family.nested:
            # a lone frame would be cut into tiles; of two alike, one is taken
            features, _ = family.features(model.get_image_features(**pixels, return_dict=True))
            embeds = model.get_input_embeddings()(ids_L)
            embeds[ids_L == llm.parts.config.image_token_id] = features[: len(features) // 2]
            inputs = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
        else:
            inputs |= pixels
    if family.axes == 3:
        inputs["mm_token_type_ids"] = (ids_L == llm.parts.config.image_token_id).int()
    with torch.no_grad():
        return torch.cat(model(**inputs, output_hidden_states=True).hidden_states)


def frame_ids(llm, kept):
    """Return the tokens of frame `kept` and its question, and where its visual tokens are."""
    one = shadow(llm)
    ids = [*one._before(TIMES_S[kept]), *one._ids(TEXT)]
    visual = [at for at, token in enumerate(ids) if token == llm.parts.config.image_token_id]
    return ids, visual[: llm.parts.tokens_per_frame]


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_all_layers_are_the_model(load_llm, library_llm, kind):
    """Whatever stands beside it in the pass, a frame's last state is what the whole model has there."""
    llm = load_llm(kind)
    found = shadow(llm, LAYERS).frame_states(llm.encode(PIXELS), (0, 1, 2), TIMES_S, TEXT)
    assert found.shape == (3, 2 * HIDDEN)
    for row in range(3):
        ids, _ = frame_ids(llm, row)
        expected = library_states(library_llm(kind), llm, ids, row)[-1][-1]
        norm = llm.language.decoder.norm
        assert torch.allclose(norm(found[row, HIDDEN:]), expected, atol=EXACT)


@pytest.mark.parametrize("kind", [kind for kind in VIDEO_LLMS if kind != "qwen3_vl"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_layers_are_the_models_first(load_llm, library_llm, kind, layers):
    """Qwen3-VL reports its states before it adds the vision tower's to them."""
    llm = load_llm(kind)
    found = shadow(llm, layers).frame_states(llm.encode(PIXELS), (2,), TIMES_S[2:], TEXT)[0]
    ids, visual = frame_ids(llm, 2)
    states_LD = library_states(library_llm(kind), llm, ids, 2)[layers]
    assert torch.allclose(found[:HIDDEN], states_LD[visual].mean(0), atol=EXACT)
    assert torch.allclose(found[HIDDEN:], states_LD[-1], atol=EXACT)


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_a_question_is_the_mean_of_its_own_tokens(load_llm, library_llm, kind):
    llm = load_llm(kind)
    one = shadow(llm)
    texts = ["a dog", TEXT, "What colour is the car?"]
    found = one.question_states(texts)
    assert found.shape == (3, HIDDEN)
    assert found.dtype == torch.float32
    before = one._before()
    assert one.num_tokens == sum(len(before) + len(one._ids(text)) for text in texts)
    for text, state in zip(texts, found, strict=True):
        ids = [*before, *one._ids(text)]
        expected = library_states(library_llm(kind), llm, ids)[2][len(before) :].mean(0)
        assert torch.allclose(state, expected, atol=EXACT)


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_attention_is_what_eager_attention_gives(llm_folders, load_llm, kind):
    llm = load_llm(kind)
    share = shadow(llm, 1).attention(llm.encode(PIXELS), (1,), TIMES_S[1:2], TEXT)
    ids, visual = frame_ids(llm, 1)
    auto = transformers.AutoModelForImageTextToText
    eager = auto.from_pretrained(llm_folders[kind], dtype="float32", attn_implementation="eager").eval()
    seen = []
    layer = llm.parts.family.decoder(eager).layers[0].self_attn
    layer.register_forward_hook(lambda _, __, out: seen.append(out[1]))
    library_states(eager, llm, ids, 1)
    assert share.item() == pytest.approx(seen[0][0, :, -1, visual].sum(-1).mean().item(), abs=1e-5)
    assert 0 < share.item() < 1


def test_weights_are_shared_and_the_answerer_is_unchanged(load_llm):
    llm = load_llm("internvl")
    one = shadow(llm, 1)
    own = {tensor.data_ptr() for tensor in llm.model.parameters()}
    assert {tensor.data_ptr() for tensor in one.decoder.parameters()} <= own
    assert len(one.decoder.layers) == 1
    assert len(llm.language.decoder.layers) == LAYERS


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_pooled_frames_cost_fewer_tokens(load_llm, kind):
    llm = load_llm(kind)
    features = llm.encode(PIXELS)
    whole, pooled = shadow(llm), shadow(llm, tokens=2)
    states = [one.frame_states(features, (0, 2), TIMES_S[:2], TEXT) for one in (whole, pooled)]
    assert whole.num_tokens - pooled.num_tokens == 2 * (llm.parts.tokens_per_frame - 2)
    assert not torch.allclose(*states, atol=1e-2)


def test_a_frame_does_not_depend_on_its_neighbours(load_llm):
    """More frames than a call holds, in another order."""
    llm = load_llm("qwen3_vl")
    features = llm.encode(PIXELS)
    index = [0, 1, 2] * 7
    times_s = [TIMES_S[row] for row in index]
    many = shadow(llm, tokens=4).frame_states(features, index, times_s, TEXT)
    for row in range(3):
        alone = shadow(llm, tokens=4).frame_states(features, [row], [TIMES_S[row]], TEXT)[0]
        assert torch.allclose(many[row::3], alone.expand(7, -1), atol=1e-5)


def test_a_frames_prompt_is_written_once_for_all_that_is_asked(load_llm, monkeypatch):
    llm = load_llm("smolvlm")
    one, features, written = shadow(llm), llm.encode(PIXELS), []

    def write(*args):
        written.append(args)
        return render(*args)

    monkeypatch.setattr("actors.models.shadow.render", write)
    for text in (TEXT, "a dog"):
        one.frame_states(features, (0, 1, 2), TIMES_S, text)
    assert len(written) == len(TIMES_S)


def test_states_can_be_learnt_from(load_llm):
    llm = load_llm("smolvlm")
    head = torch.nn.Linear(HIDDEN, 1)
    head(shadow(llm).question_states([TEXT])).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_nothing_asked_is_nothing_computed(load_llm):
    one = shadow(load_llm("smolvlm"))
    assert one.question_states([]).shape == (0, HIDDEN)
    assert one.attention(load_llm("smolvlm").encode(PIXELS), (), (), TEXT).shape == (0,)
    assert one.num_tokens == 0


def test_more_layers_than_there_are_are_refused(load_llm):
    with pytest.raises(ModelError, match=r"has 3 layers.*first 4; set plan.early_layers to 1 up to 3"):
        shadow(load_llm("internvl"), 4)


def test_the_models_own_marks_are_refused_in_a_question(load_llm):
    llm = load_llm("internvl")
    with pytest.raises(AnswerError, match="mark"):
        shadow(llm).question_states(["a dog<IMG_CONTEXT>"])
