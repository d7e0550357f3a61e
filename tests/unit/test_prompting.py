"""Files of a model that do not belong together are refused on the driver, before an actor is started for them."""

import json
import shutil

import pytest

from actors.models.prompting import read_parts
from pipeline.config import AnswerConfig
from pipeline.errors import ModelError
from tests import tiny_models


@pytest.fixture
def folder(tmp_path_factory, tmp_path):
    """Return a copy of a good model."""
    kept = tmp_path_factory.getbasetemp() / "prompting-smolvlm"
    if not kept.exists():
        tiny_models.build("smolvlm", kept)
    return shutil.copytree(kept, tmp_path / "copy")


def refused(folder, match):
    with pytest.raises(ModelError, match=match):
        read_parts(AnswerConfig(model=str(folder)), weights=False)


def test_a_good_model_is_not_refused(folder):
    assert read_parts(AnswerConfig(model=str(folder)), weights=False).tokens_per_frame == 16


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "writing a prompt with its chat template failed with TemplateSyntaxError"),
        ("{{ raise_exception('no') }}", "writing a prompt with its chat template failed"),
        (
            "{% for m in messages %}{{ m['content'][0]['text'] | upper }}{% endfor %}",
            "changes the text|keep the text",
        ),
        ("nothing", "placeholders"),
    ],
)
def test_a_chat_template_that_fails_or_changes_the_text(folder, template, message):
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, message)


@pytest.mark.parametrize("token", [99999, 300, "<image>"])
def test_an_image_token_of_another_tokenizer(folder, token):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_token_id": token}))
    refused(
        folder,
        "reading config.json failed" if token == "<image>" else f"image_token_id {token} is none of the",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "reading its image processor failed"),
        (
            '{"size": {"height": 0, "width": 0}, "image_processor_type": "SmolVLMImageProcessor"}',
            "processing a blank frame of 448 px failed",
        ),
    ],
)
def test_an_image_processor_that_processes_nothing(folder, text, message):
    (folder / "preprocessor_config.json").write_text(text)
    refused(folder, message)


@pytest.mark.parametrize("size", [0, 50_000])
def test_weights_cut_short(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refused(folder, rf"opening model.safetensors \({size} bytes\) failed")
