"""What is read of a model, and what is refused, with a message that says what to do."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from actors.models import video_llm
from actors.models.loading import fetch, load_model, mend_torchvision
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import ConfigError, ModelError
from tests.tiny_models import build


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build("internvl", tmp_path_factory.mktemp("models") / "internvl")


def copy(model, tmp_path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def describe(folder, **settings):
    return video_llm.describe(AnswerConfig(model=str(folder), **settings))


def test_folders_that_are_no_model_are_refused(model, tmp_path):
    with pytest.raises(ModelError, match="found nothing at this path, expected a folder"):
        describe(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="found a file at this path"):
        describe(tmp_path / "file")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"found no \*.safetensors among 0 files"):
        describe(empty)
    folder = copy(model, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="reading its image processor failed"):
        describe(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="reading its tokenizer failed"):
        describe(folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(
        ModelError, match=r"found no tokenizer, expected one of merges.txt, tokenizer.json, vocab"
    ):
        describe(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(ModelError, match=r"reading config.json failed with JSONDecodeError"):
        describe(folder)


def test_pickled_weights_and_remote_code_are_refused(model, tmp_path):
    folder = copy(model, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"found only pickled weights \(pytorch_model.bin\).*convert them"):
        describe(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    foreign = {
        "model_type": "internvl_chat",
        "auto_map": {"AutoConfig": "configuration_internvl_chat.Config"},
    }
    (folder / "config.json").write_text(json.dumps(config | foreign))
    with pytest.raises(
        ModelError, match="'internvl_chat' runs code from the model's repository, which is refused"
    ):
        describe(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonsense"}))
    with pytest.raises(ModelError, match="'nonsense' is not known here"):
        describe(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"is a 'bert', not a video language model .* internvl"):
        describe(folder)


def test_incomplete_weights_are_refused_rather_than_made_up(model, tmp_path):
    folder = copy(model, tmp_path)
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if "multi_modal_projector" in name)
    del weights[dropped]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are not in the files and would be random"):
        video_llm.make(AnswerConfig(model=str(folder)), CompressConfig(), "cpu")
    with pytest.raises(ConfigError, match=r"TOKEN_COMPRESSORS has no entry 'unifrom'; .* 'uniform'"):
        video_llm.make(AnswerConfig(model=str(folder)), CompressConfig(compressor="unifrom"), "cpu")


def load(folder, auto="AutoModelForImageTextToText", dtype="float32"):
    return load_model(auto, fetch(str(folder), "", weights=True), dtype, "cpu")


def change_config(folder, **text):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))


def test_weights_that_do_not_fit_the_configuration_are_refused(model, tmp_path):
    folder = copy(model, tmp_path)
    change_config(folder, intermediate_size=96)
    shapes = r"9 weights do not fit config.json; .*down_proj.weight has shape \(64, 128\) in the files"
    with pytest.raises(ModelError, match=shapes + r", expected \(64, 96\)"):
        load(folder)
    change_config(folder, intermediate_size=128, num_hidden_layers=4, layer_types=["full_attention"] * 4)
    with pytest.raises(ModelError, match="12 weights are not in the files and would be random"):
        load(folder)


def test_damaged_and_missing_weight_files_are_refused(model, tmp_path):
    folder = copy(model, tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ModelError, match=r"opening model.safetensors .* failed with SafetensorError: .*not fully covered"
    ):
        load(folder)
    weights.write_bytes(whole)
    names = load_file(weights)
    shards = dict.fromkeys(names, "model-00002-of-00002.safetensors")
    shards[next(iter(names))] = "model-00001-of-00002.safetensors"
    weights.rename(folder / "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with pytest.raises(ModelError, match=r"loading its weights failed .*model-00001-of-00002.safetensors"):
        load(folder)


def test_a_model_of_another_task_is_refused(model, tmp_path):
    folder = copy(model, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(
        ModelError, match="found a 'bert', which transformers' AutoModelForImageTextToText does not"
    ):
        load(folder)


def test_weights_stay_mapped_to_their_file_so_that_processes_share_them(model):
    def mapped(weights):
        address, end = weights.data_ptr(), weights.data_ptr() + weights.nbytes
        return any(first <= address and end <= last for first, last in ranges)

    loaded, converted = load(model), load(model, dtype="bfloat16")
    lines = Path("/proc/self/maps").read_text().splitlines()
    mappings = [
        line.split()[0].split("-") for line in lines if line.endswith(str(model / "model.safetensors"))
    ]
    ranges = [(int(first, 16), int(last, 16)) for first, last in mappings]
    assert all(mapped(weights) for weights in loaded.parameters())
    assert not any(mapped(weights) for weights in converted.parameters())


def test_hub_models_are_read_from_the_cache_with_their_commit(model, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    facts = describe("someone/tiny")
    assert (facts.name, facts.revision, facts.tokens_per_frame) == ("someone/tiny", commit, 4)
    with pytest.raises(ModelError, match="model 'someone/else': fetching it from the hub failed"):
        describe("someone/else")
    with pytest.raises(ModelError, match="fetching it from the hub failed"):
        describe("someone/tiny", revision="v2")


def test_a_torchvision_without_its_operators_is_mended(tmp_path):
    # what a torchvision built for another torch does when imported: its operators are not registered
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from torchvision import broken\n")
    (package / "broken.py").write_text(
        "import torch\ntry:\n    torch.ops.torchvision.nms\n    torch.ops.torchvision.qnms\n"
        "except AttributeError as error:\n"
        "    raise RuntimeError('operator torchvision::nms does not exist') from error\n"
    )
    code = f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        from actors.models.loading import fetch, load_model, mend_torchvision
        print(mend_torchvision(), mend_torchvision())
        import torchvision; print(torchvision.__file__)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", str(package / "__init__.py")], done.stderr


def test_without_torchvision_nothing_is_mended(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert mend_torchvision() is False
