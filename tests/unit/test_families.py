"""Every family against transformers' own classes, on small random models that were saved and loaded."""

import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from actors.models.families import FAMILIES, Family, find_family
from actors.models.loading import ModelFiles, load_model, read_config, read_preprocessing
from tests.tiny_models import build

FRAME_PX = 84
GRIDS = {
    "internvl": (2, 2), "smolvlm": (4, 4), "idefics3": (4, 4), "qwen2_vl": (3, 3), "qwen2_5_vl": (3, 3),
    "qwen3_vl": (3, 3), "llava_onevision": (4, 4),
}  # fmt: skip
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FRAMES_NHWC = np.random.default_rng(0).integers(0, 255, (3, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
TAIL = "Is there a fire?"


def older(kind, config):
    """Return a random model of the class that a family started from, with the sizes of a newer one."""
    tokens = {name: value for name, value in config.to_dict().items() if name.endswith("token_id")}
    text = config.text_config.to_dict() | {"model_type": {"qwen2_vl": "qwen2_vl_text"}.get(kind, "llama")}
    if kind == "idefics3":
        sizes = {"image_size": 64, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
        vision = {**sizes, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
        settings = transformers.Idefics3Config(
            vision_config=vision, text_config=text, scale_factor=2, **tokens
        )
        return transformers.Idefics3ForConditionalGeneration(settings)
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 4,
        "hidden_size": 64,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    settings = transformers.Qwen2VLConfig(vision_config=vision, text_config=text, **tokens)
    return transformers.Qwen2VLForConditionalGeneration(settings)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model with all its parts and three frames processed."""

    kind: str
    family: Family
    model: object
    config: object
    tokenizer: object
    images: object
    pixels: dict

    @property
    def per_frame(self):
        rows, columns = GRIDS[self.kind]
        return rows * columns + self.family.separators

    def ids(self, times=("0.0", "12.0", "3.5")):
        """Return the tokens of a prompt's head, which ends in a placeholder, and of its tail."""
        mark = self.tokenizer.convert_ids_to_tokens(self.config.image_token_id) * self.per_frame
        shown = "".join(f"<{at}s>{self.family.before}{mark}{self.family.after}\n" for at in times)
        ids = self.tokenizer(shown + TAIL)["input_ids"]
        end = max(at for at, token in enumerate(ids) if token == self.config.image_token_id) + 1
        return torch.tensor(ids[:end]), torch.tensor(ids[end:])

    def library_inputs(self, ids_L):
        """Return what the library's own forward takes."""
        inputs = {**self.pixels, "input_ids": ids_L[None], "attention_mask": torch.ones_like(ids_L)[None]}
        if self.kind in QWEN:
            inputs["mm_token_type_ids"] = (ids_L == self.config.image_token_id)[None].int()
        return inputs

    def features(self):
        with torch.inference_mode():
            return self.family.features(self.model.get_image_features(**self.pixels, return_dict=True))

    def positions(self, head_L, keep_L):
        grid = GRIDS[self.kind]
        return self.family.positions(self.model, self.config, head_L, keep_L, grid, len(FRAMES_NHWC))

    def logits(self, head_L, tail_L, kept_C):
        """Return logits [L, V] of a pruned head prefilled by the decoder, and of a tail put behind it."""
        values_CD, layers_CD = self.features()
        visual_L = head_L == self.config.image_token_id
        keep_L = ~visual_L
        keep_L[visual_L.nonzero()[kept_C, 0]] = True
        positions_PL, start = self.positions(head_L, keep_L)
        behind_PL = torch.arange(start, start + len(tail_L)).expand(self.family.axes, -1)
        embed = self.model.get_input_embeddings()
        embeds_LD = embed(head_L[keep_L])
        embeds_LD[visual_L[keep_L]] = values_CD[kept_C]
        extra = self.family.deepstack_inputs(visual_L[keep_L], [layer[kept_C] for layer in layers_CD])
        cache = transformers.DynamicCache()
        with torch.inference_mode():
            head = self.decode(embeds_LD, positions_PL, cache, **extra)
            return torch.cat([head, self.decode(embed(tail_L), behind_PL, cache)])

    def decode(self, embeds_LD, positions_PL, cache, **extra):
        """Return logits [L, V] from the family's decoder."""
        positions = positions_PL[:, None] if self.family.axes > 1 else positions_PL
        out = self.family.decoder(self.model)(
            inputs_embeds=embeds_LD[None], position_ids=positions, past_key_values=cache, use_cache=True, **extra
        )  # fmt: skip
        return self.model.lm_head(out.last_hidden_state)[0]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a loader by model_type that keeps what it loaded."""
    root = tmp_path_factory.mktemp("models")
    newer = {"idefics3": "smolvlm", "qwen2_vl": "qwen2_5_vl"}
    kept = {}

    def get(kind):
        if kind not in kept:
            files = ModelFiles(kind, build(newer.get(kind, kind), root / kind), "")
            tokenizer, images, _ = read_preprocessing(files)
            if kind in newer:
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    older(kind, read_config(files)).save_pretrained(files.folder)
            config = read_config(files)
            model = load_model("AutoModelForImageTextToText", files, "float32", "cpu")
            family = find_family(kind, config)
            frames = [list(FRAMES_NHWC)] if family.nested else list(FRAMES_NHWC)
            found = images(frames, return_tensors="pt", **family.options)
            pixels = {name: found[name] for name in family.inputs if name in found}
            kept[kind] = Loaded(kind, family, model, config, tokenizer, images, pixels)
        return kept[kind]

    return get


def some(num_tokens):
    """Return which visual tokens a pruned head keeps: neither the first nor the last of them."""
    return torch.arange(1, num_tokens - 2, 3)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_decoder_with_our_positions_computes_what_the_whole_model_does(load, kind):
    it = load(kind)
    assert it.model.config.model_type == kind
    assert it.family.decoder(it.model).config.model_type == it.config.text_config.model_type
    head_L, tail_L = it.ids()
    logits_LV = it.logits(head_L, tail_L, torch.arange(3 * it.per_frame))
    inputs = it.library_inputs(torch.cat([head_L, tail_L]))
    with torch.inference_mode():
        expected_LV = it.model(**inputs).logits[0]
        blind_LV = it.model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(-1)}).logits[0]
    assert (blind_LV - expected_LV).abs().max() > 0.1, "pixels must matter here"
    assert (logits_LV - expected_LV).abs().max() < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_grid_and_features_are_those_of_the_processed_frames(load, kind):
    it = load(kind)
    assert it.family.grid(it.config, it.pixels) == GRIDS[kind]
    values_CD, layers_CD = it.features()
    assert values_CD.shape == (3 * it.per_frame, it.config.text_config.hidden_size)
    assert [layer.shape for layer in layers_CD] == [values_CD.shape] * (2 if kind == "qwen3_vl" else 0)


@pytest.mark.parametrize("kind", sorted(set(FAMILIES) - set(QWEN)))
def test_plain_positions_close_up_over_dropped_tokens(load, kind):
    it = load(kind)
    head_L, tail_L = it.ids()
    kept_C = some(3 * it.per_frame)
    dropped = 3 * it.per_frame - len(kept_C)
    visual_L = head_L == it.config.image_token_id
    keep_L = ~visual_L
    keep_L[visual_L.nonzero()[kept_C, 0]] = True
    positions_PL, start = it.positions(head_L, keep_L)
    assert positions_PL.dtype == torch.int64
    assert positions_PL.tolist() == [list(range(len(head_L) - dropped))]
    assert start == len(head_L) - dropped
    # as the library computes a prompt that never held the dropped tokens
    values_CD, _ = it.features()
    embeds_LD = it.model.get_input_embeddings()(torch.cat([head_L[keep_L], tail_L]))
    embeds_LD[torch.cat([visual_L[keep_L], torch.zeros(len(tail_L), dtype=torch.bool)])] = values_CD[kept_C]
    with torch.inference_mode():
        expected_LV = it.model(inputs_embeds=embeds_LD[None]).logits[0]
    assert (it.logits(head_L, tail_L, kept_C) - expected_LV).abs().max() < 1e-4


@pytest.mark.parametrize("kind", QWEN)
def test_kept_tokens_keep_their_coordinates_whatever_was_dropped(load, kind):
    it = load(kind)
    head_L, tail_L = it.ids()
    full_PL, behind = it.positions(head_L, torch.ones_like(head_L, dtype=torch.bool))
    # three rows of three: rows and columns count up inside a frame, time stands still
    visual = (head_L == it.config.image_token_id).nonzero()[:, 0]
    first = int(visual[0])
    assert full_PL[:, first : first + 9].tolist() == [
        [first] * 9,
        [first + row for row in (0, 0, 0, 1, 1, 1, 2, 2, 2)],
        [first + column for column in (0, 1, 2) * 3],
    ]
    assert full_PL[:, first + 9].tolist() == [first + 3] * 3
    # the library's own count for the prompt with its question
    ids_L = torch.cat([head_L, tail_L])
    inputs = it.library_inputs(ids_L)
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw")
    library_PBL, _ = it.model.model.get_rope_index(**{name: inputs[name] for name in names})
    assert torch.equal(full_PL, library_PBL[:, 0, : len(head_L)])
    assert library_PBL[:, 0, len(head_L)].tolist() == [behind] * 3

    for dropped in (visual[some(len(visual))], visual[-9:]):
        keep_L = torch.ones_like(head_L, dtype=torch.bool)
        keep_L[dropped] = False
        positions_PL, start = it.positions(head_L, keep_L)
        assert positions_PL.dtype == torch.int64
        assert torch.equal(positions_PL, full_PL[:, keep_L])
        assert start == behind


def test_deepstack_layers_are_pruned_with_the_same_index_as_the_features(load):
    it = load("qwen3_vl")
    head_L, tail_L = it.ids()
    kept_C = some(3 * it.per_frame)
    logits_LV = it.logits(head_L, tail_L, kept_C)
    # the whole model, told the same: it places features and layers at the placeholders itself
    visual_L = head_L == it.config.image_token_id
    keep_L = ~visual_L
    keep_L[visual_L.nonzero()[kept_C, 0]] = True
    ids_L = torch.cat([head_L[keep_L], tail_L])
    positions_PL, start = it.positions(head_L, keep_L)
    positions_PL = torch.cat([positions_PL, torch.arange(start, start + len(tail_L)).expand(3, -1)], dim=1)
    values_CD, layers_CD = it.features()

    def whole(index_C):
        image = SimpleNamespace(
            pooler_output=(values_CD[kept_C],), deepstack_features=[(layer[index_C],) for layer in layers_CD]
        )
        with torch.inference_mode():
            return it.model(
                input_ids=ids_L[None], position_ids=positions_PL[:, None], mm_encoder_outputs={"image": image}
            ).logits[0]

    assert (logits_LV - whole(kept_C)).abs().max() < 1e-4
    assert (logits_LV - whole(kept_C + 1)).abs().max() > 1e-2, "layers of other tokens must matter here"


@pytest.mark.parametrize(
    ("kind", "library"),
    [
        ("internvl", "InternVLProcessor"),
        ("smolvlm", "SmolVLMProcessor"),
        ("idefics3", "Idefics3Processor"),
        ("qwen2_vl", "Qwen2VLProcessor"),
        ("qwen2_5_vl", "Qwen2_5_VLProcessor"),
        ("qwen3_vl", "Qwen3VLProcessor"),
        ("llava_onevision", "LlavaOnevisionProcessor"),
    ],
)
def test_a_frame_is_written_as_the_library_processor_writes_it(load, kind, library):
    # the processor itself cannot be built without torchvision; the method that writes a frame needs no more than this
    it = load(kind)
    rows, columns = GRIDS[kind]
    mark = it.tokenizer.convert_ids_to_tokens(it.config.image_token_id)
    processed = {
        "num_patches": [1], "rows": [[0]], "cols": [[0]], "batch_num_images": [2],
        "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * columns]]),
    }  # fmt: skip
    processor = SimpleNamespace(
        image_token=mark, start_image_token="<img>", end_image_token="</img>", image_seq_length=4, image_seq_len=16,
        fake_image_token="<fake_token_around_image>", global_image_token="<global-img>",
        global_image_tag="<global-img>", image_processor=it.images, num_image_tokens=16,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    written = getattr(transformers, library).replace_image_token(processor, processed, 0)
    # Qwen's processors leave the markers around a frame to the chat template
    written = f"<|vision_start|>{written}<|vision_end|>" if kind in QWEN else written
    assert it.family.before + mark * it.per_frame + it.family.after == written


def test_a_model_of_no_known_family_has_none_and_the_log_says_so(caplog):
    with caplog.at_level(logging.INFO):
        assert find_family("org/name", SimpleNamespace(model_type="florence2")) is None
    assert "'org/name' is a 'florence2': no family of its own, known are idefics3, internvl" in caplog.text


def test_a_decoder_that_sees_a_window_of_its_prompt_belongs_to_none():
    config = transformers.InternVLConfig(text_config={"model_type": "qwen2", "num_hidden_layers": 2})
    assert find_family("m", config) is FAMILIES["internvl"]
    config.text_config.layer_types = ["full_attention", "sliding_attention"]
    assert find_family("m", config) is None
