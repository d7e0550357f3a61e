"""Reading a model from a folder or the hub: no code of the repository runs, no pickle is opened.

Everything works on a local folder: a hub id is first brought into the hub's own cache (`HF_HUB_OFFLINE` and the
other hub variables count), without weights on the driver, with them in the actor.
"""

import hashlib
import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.device import load_error, pick_dtype
from actors.models import Device
from actors.models.packaged import folder_of
from actors.models.tuning import (
    check_compiler,
    compile_vision,
    language_quantization,
    pick_attention,
    set_attention,
)
from pipeline.errors import ModelError

_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_WEIGHT_FILES = "*.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_SAMPLE_BYTES = 65536

_torchvision_ops: list[torch.library.Library] = []


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies and which state of it."""

    name: str
    """As the user wrote it."""
    folder: Path
    revision: str
    """Commit hash of a hub model; of a folder 12 hex digits over its configuration and a sample of its weights."""


def mend_torchvision() -> bool:
    """Make a torchvision built for another torch importable, and return whether that was needed.

    torchvision is not needed here, but transformers imports it wherever it is installed, and one whose compiled
    library does not load fails with "operator torchvision::nms does not exist", and transformers with it.
    Declaring the two operators it looks for is enough: everything but box suppression then works.
    """
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    else:
        return False
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _torchvision_ops.append(library)  # the declaration lives as long as the object
    return True


def fetch(model: str, revision: str, *, weights: bool) -> ModelFiles:
    """Return the local files of a model, brought from the hub if need be.

    Args:
        model: folder, hub id, or `package:` and what comes with the package (see packaged.py).
        revision: commit, tag or branch of a hub model; empty = its main branch. A folder has none.
        weights: whether the weights are needed too.

    Raises:
        ModelError: nothing there, no safetensors weights, or the hub cannot be reached.
    """
    folder = folder_of(model)
    if folder.is_dir():
        _check_weights(model, [path.name for path in folder.iterdir()])
        _check_headers(model, folder)
        return ModelFiles(model, folder, _content_hash(folder))
    if folder.exists() or model.startswith((".", "/", "~")):
        found = "a file" if folder.exists() else "nothing"
        msg = f"model {model!r}: found {found} at this path, expected a folder with config.json and *.safetensors"
        raise ModelError(msg)
    return _fetch_hub(model, revision, weights=weights)


def _fetch_hub(model: str, revision: str, *, weights: bool) -> ModelFiles:
    """Return the files of a hub model in the hub's cache."""
    from huggingface_hub import constants, list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [*_SMALL_FILES, *([_WEIGHT_FILES] if weights else [])]
    try:
        folder = Path(snapshot_download(model, revision=revision or None, allow_patterns=patterns))
        if not constants.HF_HUB_OFFLINE:
            _check_weights(model, list_repo_files(model, revision=folder.name))
        elif weights:
            _check_weights(model, [path.name for path in folder.iterdir()])
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise load_error(model, "fetching it from the hub", error) from error
    return ModelFiles(model, folder, folder.name)


def _check_weights(model: str, names: list[str]) -> None:
    """Refuse a model without safetensors weights: the other formats are pickles, which run code when opened."""
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        msg = (
            f"model {model!r}: found only pickled weights ({', '.join(pickles[:3])}), which can run any code when"
            " opened; expected *.safetensors: convert them, or take a revision that has them"
        )
    else:
        msg = (
            f"model {model!r}: found no *.safetensors among {len(names)} files"
            f" ({', '.join(sorted(names)[:5])}); expected a model in the Hugging Face layout"
        )
    raise ModelError(msg)


def _check_headers(model: str, folder: Path) -> None:
    """Refuse weight files that are empty or cut short, before an actor is started for them."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob(_WEIGHT_FILES)):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise load_error(model, f"opening {path.name} ({path.stat().st_size} bytes)", error) from error


def _content_hash(folder: Path) -> str:
    """Return 12 hex digits over the small files, and over name, size, head and tail of each weight file.

    Two fine-tunings of one model differ in all of their weights, so 128 KiB of each file tell them apart.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob(_WEIGHT_FILES)):
        digest.update(sample_of(path))
    return digest.hexdigest()[:12]


def sample_of(path: Path) -> bytes:
    """Return name, size, head and tail of a file that is too large to be read for a digest."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_SAMPLE_BYTES)
        file.seek(max(0, size_bytes - _SAMPLE_BYTES))
        return f"{path.name} {size_bytes}".encode() + head + file.read(_SAMPLE_BYTES)


def read_config(files: ModelFiles) -> Any:
    """Return the model's transformers configuration.

    Raises:
        ModelError: no config.json, an architecture this transformers does not have, or one that needs code from
            the model's repository.
    """
    mend_torchvision()
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = files.folder / "config.json"
    try:
        raw = json.loads(path.read_text())
        kind = raw.get("model_type", "")
    except (OSError, ValueError, AttributeError) as error:
        raise load_error(files.name, "reading config.json", error) from error
    if kind not in CONFIG_MAPPING:
        why = (
            "runs code from the model's repository, which is refused"
            if "auto_map" in raw
            else "is not known here"
        )
        msg = (
            f"model {files.name!r}: its architecture {kind!r} {why}; expected one that transformers implements:"
            " look for a conversion of the same model (often named ...-hf)"
        )
        raise ModelError(msg)
    try:
        return AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise load_error(files.name, "reading config.json", error) from error


def read_preprocessing(files: ModelFiles) -> tuple[Any, Any, str]:
    """Return the model's tokenizer, its image processor and its chat template (empty = it has none).

    The combined processor class of transformers is not used: it cannot be built without torchvision, and for some
    families not without num2words either. The PIL image processor is asked for wherever torchvision is installed
    too, so that the same frame gives the same pixels on every machine.

    Raises:
        ModelError: a file is missing or cannot be read.
    """
    mend_torchvision()
    from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin

    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise load_error(files.name, "reading its tokenizer", error) from error
    vocabularies = sorted(set(tokenizer.vocab_files_names.values()))
    if not any((files.folder / name).exists() for name in vocabularies):
        # transformers makes an empty one up
        msg = f"model {files.name!r}: found no tokenizer, expected one of {', '.join(vocabularies)} in its files"
        raise ModelError(msg)
    try:
        images = AutoImageProcessor.from_pretrained(files.folder, trust_remote_code=False, backend="pil")
        settings, _ = ProcessorMixin.get_processor_dict(files.folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise load_error(files.name, "reading its image processor", error) from error
    template: Any = settings.get("chat_template") or tokenizer.chat_template or ""
    return tokenizer, images, template.get("default", "") if isinstance(template, dict) else template


def load_model(
    auto: str,
    files: ModelFiles,
    dtype: str,
    device: Device,
    *,
    attention: str = "auto",
    quantize: str = "none",
    compile: bool = False,  # noqa: A002  the name of the setting
) -> Any:
    """Return the model with its weights, in evaluation mode, on the device.

    On a CPU, weights that are wanted in the number format of the files stay mapped to them, so that all processes of
    a node share one copy; docs/models.md has what was measured.

    Args:
        auto: name of transformers' Auto class that builds it.
        files: fetched with its weights.
        dtype: number format, `pick_dtype` knows the names.
        device: where the weights go.
        attention: of the vision tower: `auto`, or a name transformers has.
        quantize: `int8` or `int4` weights of the language model; the vision tower, the projector and the output
            layer stay in `dtype`. `none` = all in `dtype`.
        compile: compile the vision tower when it first runs.

    Raises:
        ModelError: the class does not build this model, its weights are missing or do not fit the configuration,
            or a setting cannot be had here.
    """
    mend_torchvision()
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()
    maker, config, number = getattr(transformers, auto), read_config(files), pick_dtype(dtype, device)
    _check_class(files, auto, maker, config)
    switch_to = pick_attention(attention, number, device)
    settings = language_quantization(files.name, maker, config, quantize, number, device)
    if compile:
        check_compiler(device)
    try:
        model, info = maker.from_pretrained(
            files.folder,
            dtype=number,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with names and shapes
            **settings,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise load_error(files.name, "loading its weights", error) from error
    _check_complete(files, model, info)
    if switch_to:
        set_attention(files.name, model, switch_to, optional=attention == "auto")
    if compile:
        compile_vision(files.name, model)
    return model.eval().requires_grad_(False)


def _check_class(files: ModelFiles, auto: str, maker: Any, config: Any) -> None:
    """Refuse a model the Auto class does not build."""
    if type(config) not in maker._model_mapping:
        msg = (
            f"model {files.name!r}: found a {config.model_type!r}, which transformers' {auto} does not build;"
            " expected a model made for that task: check the name"
        )
        raise ModelError(msg)


def _check_complete(files: ModelFiles, model: Any, info: dict[str, Any]) -> None:
    """Refuse weights that are not in the files, or have another shape there: transformers makes up random ones."""
    name = type(model).__name__
    if misfits := sorted(info["mismatched_keys"]):
        weight, found, expected = misfits[0]
        msg = (
            f"model {files.name!r}: {len(misfits)} weights do not fit config.json; {weight} has shape"
            f" {tuple(found)} in the files, expected {tuple(expected)}: take config.json and *.safetensors of"
            f" the same {name}"
        )
        raise ModelError(msg)
    if missing := sorted(info["missing_keys"]):
        msg = (
            f"model {files.name!r}: {len(missing)} weights are not in the files and would be random"
            f" ({', '.join(missing[:3])}); expected a complete checkpoint of {name}"
        )
        raise ModelError(msg)
