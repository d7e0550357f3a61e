"""Compiling a vision tower takes a C++ compiler and ten seconds."""

import pytest
import torch

from actors.models.loading import fetch, load_model
from tests.tiny_models import build


# torch's own, where it imports its compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_vision_tower_sees_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    files = fetch(str(build("internvl", tmp_path / "internvl")), "", weights=True)
    plain, compiled = (
        load_model("AutoModelForImageTextToText", files, "float32", "cpu", compile=wanted)
        for wanted in (False, True)
    )
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen, expected = (
            model.get_image_features(pixels, return_dict=True).pooler_output for model in (compiled, plain)
        )
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)
    compiled_files = [path for path in (tmp_path / "cache").rglob("*.so") if path.is_file()]
    assert compiled_files, "nothing was compiled"
