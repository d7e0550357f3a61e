"""Attention kernels, quantised weights and compilation: what they change, and where they are refused."""

import importlib.util
import json
import shutil

import pytest
import torch

from actors.models import tuning
from actors.models.loading import fetch, load_model
from pipeline.errors import ModelError
from tests.tiny_models import VIDEO_LLMS

IDS = torch.arange(5, 45)[None]
AUTO = "AutoModelForImageTextToText"


def load(folder, dtype="float32", device="cpu", **settings):
    return load_model(AUTO, fetch(str(folder), "", weights=True), dtype, device, **settings)


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float()


def stored_bytes(model):
    return sum(parameter.nbytes for parameter in model.parameters())


def distance(found, exact):
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_quantised_decoders_are_smaller_and_say_nearly_the_same(llm_folders, kind):
    exact, int8, int4 = (load(llm_folders[kind], quantize=quantize) for quantize in ("none", "int8", "int4"))
    assert distance(logits(int8), logits(exact)) < 0.1
    # random weights have nothing to spare: four bits of them keep the direction, and no more
    assert distance(logits(int4), logits(exact)) < 0.8
    decoder_bytes = [stored_bytes(model.get_decoder().layers) for model in (exact, int8, int4)]
    assert decoder_bytes[1] < 0.3 * decoder_bytes[0]
    assert decoder_bytes[2] < 0.2 * decoder_bytes[0]


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_only_the_decoder_is_quantised(llm_folders, kind):
    exact, int8 = load(llm_folders[kind]), load(llm_folders[kind], quantize="int8")
    weights, decoder = dict(exact.named_parameters()), set(int8.get_decoder().parameters())
    for name, weight in int8.named_parameters():
        assert weight in decoder or weight.equal(weights[name]), name
    assert not decoder & set(int8.get_encoder(modality="image").parameters())
    assert int8.lm_head.weight.equal(exact.lm_head.weight)
    linears = [module for module in int8.get_decoder().modules() if isinstance(module, torch.nn.Linear)]
    assert linears
    assert all(linear.weight.dtype == torch.int8 for linear in linears)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantised_decoders_compute_in_every_number_format(llm_folders, dtype, quantize, caplog):
    half, full = (load(llm_folders["internvl"], number, quantize=quantize) for number in (dtype, "float32"))
    assert logits(half).isfinite().all()
    assert not caplog.records, "a line per layer and pass"
    assert half.lm_head.weight.dtype == getattr(torch, dtype)
    assert distance(logits(half), logits(full)) < (0.1 if quantize == "int8" else 0.3)


def test_quantising_is_refused_where_it_cannot_be_had(llm_folders, tmp_path, monkeypatch):
    with pytest.raises(
        ModelError, match="int8 multiplies in 16 bits on a GPU, found dtype float32: set dtype to bf"
    ):
        load(llm_folders["internvl"], device="cuda", quantize="int8")
    folder = shutil.copytree(llm_folders["internvl"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="found weights that are quantised already, expected float weights"):
        load(folder, quantize="int8")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found(name) if name != "bitsandbytes" else None
    )
    with pytest.raises(
        ModelError, match=r"found no package bitsandbytes: pip install 'reelsift\[quantize\]'"
    ):
        load(llm_folders["internvl"], quantize="int4")


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_attention_is_switched_in_the_vision_tower_only(llm_folders, kind):
    model = load(llm_folders[kind], attention="eager")
    assert model.get_encoder(modality="image").config._attn_implementation == "eager"
    assert model.get_decoder().config._attn_implementation == "sdpa"
    assert load(llm_folders[kind]).get_encoder(modality="image").config._attn_implementation == "sdpa"


def test_flash_attention_runs_on_a_gpu_in_16_bits_where_it_is_installed(monkeypatch):
    flash = "flash_attention_2"
    for installed in (True, False):
        name = "transformers.utils.import_utils.is_flash_attn_2_available"
        monkeypatch.setattr(name, lambda installed=installed: installed)
        picked = flash if installed else None
        assert tuning.pick_attention("auto", torch.bfloat16, "cuda") == picked
        assert tuning.pick_attention("auto", torch.float16, "cuda") == picked
        assert tuning.pick_attention("auto", torch.float32, "cuda") is None
        assert tuning.pick_attention("auto", torch.bfloat16, "cpu") is None
    with pytest.raises(ModelError, match=r"found no usable package flash_attn.* or set attention to sdpa"):
        tuning.pick_attention(flash, torch.bfloat16, "cuda")
    with pytest.raises(ModelError, match="found float32 on cuda, expected bfloat16 or float16 on cuda"):
        tuning.pick_attention(flash, torch.float32, "cuda")
    with pytest.raises(
        ModelError, match=r"found bfloat16 on cpu, .* reserve a GPU, or set attention to sdpa"
    ):
        tuning.pick_attention(flash, torch.bfloat16, "cpu")


def test_an_attention_the_tower_does_not_have_is_refused_when_named(llm_folders):
    model = load(llm_folders["internvl"])
    with pytest.raises(
        ModelError, match=r"attention nonsense is not there .* keeps sdpa; set attention to auto"
    ):
        tuning.set_attention("tiny", model, "nonsense", optional=False)
    tuning.set_attention("tiny", model, "nonsense", optional=True)
    assert model.get_encoder(modality="image").config._attn_implementation == "sdpa"
    decoder = model.get_decoder()
    with pytest.raises(ModelError, match="not there for the vision tower of Qwen2Model"):
        tuning.set_attention("tiny", decoder, "eager", optional=False)
    assert decoder.config._attn_implementation == "sdpa"
    with pytest.raises(ModelError, match="found no vision tower in Qwen2Model; set compile to false"):
        tuning.compile_vision("tiny", decoder)


def test_without_a_compiler_nothing_is_promised(llm_folders, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++ -O2")
    with pytest.raises(ModelError, match=r"none of /nowhere/c\+\+ is on the path; install g\+\+"):
        load(llm_folders["internvl"], compile=True)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelError, match=r"none of g\+\+ is on the path.* point CXX to a compiler"):
        load(llm_folders["internvl"], compile=True)
    monkeypatch.setenv("CC", "")
    with pytest.raises(ModelError, match="none of gcc, clang is on the path"):
        tuning.check_compiler("cuda")
