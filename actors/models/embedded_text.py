"""The text tower of the embedded scorer: all-MiniLM-L6-v2, int8, in onnxruntime, one text at a time.

The int8 graph scales its activations by the whole batch, so a text's vector would depend on its neighbours;
one call per text makes it depend on the text alone.

Shape letters: L word pieces, D hidden size (384), P texts.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
HIDDEN = 384
_MAX_PIECES = 256
"""What the model was built for; a longer text is cut here."""


_ASKING = re.compile(
    r"^(please\s+)?(((at\s+what\s+time|when|where|why|how\s+often|how\s+long)\s+)?"
    r"(is|are|was|were|does|do|did|can\s+(you|we)\s+see|has|have)\s+(there\s+)?"
    r"|(find|show(\s+me)?|search\s+for|look\s+for)\s+)",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"\s+((is|are)\s+)?(visible|shown|seen|present|(in|on)\s+(the\s+|this\s+)?(picture|video|scene|frame|image|clip))$",
    re.IGNORECASE,
)


def prompts(question: str) -> tuple[str, str]:
    """Return the texts to embed for a question: what it asks for, bare and as the caption of a photo.

    Class descriptions are not questions: "When is a bicycle visible?" is compared as "a bicycle". A text of which
    nothing would be left stays as it is. English only.
    """
    text = question.strip().rstrip("?.! ")
    subject = _PLACE.sub("", _ASKING.sub("", text)).strip() or text
    return subject, f"a photo of {subject}"


def text_encoder(model_file: Path, vocabulary_file: Path) -> Callable[[str], Floats]:
    """Return a function from one text to its [D] vector of length 1 (mean over word pieces, sentence-transformers)."""
    import onnxruntime
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {
        word: index
        for index, word in enumerate(vocabulary_file.read_text(encoding="utf-8").split("\n"))
        if word
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    tokenizer.enable_truncation(_MAX_PIECES)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])

    def encode(text: str) -> Floats:
        ids_1L = np.asarray([tokenizer.encode(text).ids], np.int64)
        inputs = {
            "input_ids": ids_1L,
            "attention_mask": np.ones_like(ids_1L),
            "token_type_ids": np.zeros_like(ids_1L),
        }
        hidden_1LD = np.asarray(session.run(["last_hidden_state"], inputs)[0])
        vector_D = hidden_1LD[0].mean(axis=0)
        return vector_D / np.linalg.norm(vector_D)

    return encode
