"""The recipe for cluster.yaml's GPUs, as far as it goes without its weights: memory, seats, machines, plug-ins.

The models' shapes are those of their published config.json; the L4's memory is the 24 GB it is sold with less 0.5 GB
for what the driver keeps of it.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as T

from actors.models.families import FAMILIES
from actors.models.memory import SHARE_OF_FREE_GPU, Memory
from actors.models.prompting import measure_frame
from jobs import check_cluster
from jobs.cluster_file import load_cluster, machines_of
from jobs.placement import DECODING_MACHINES, GPU_MACHINES, check, find_places, most_resources
from jobs.preflight import too_small
from jobs.recipes import find_recipe
from jobs.resolve import resolve
from pipeline.queries import Query
from tests.tiny_models import build

FILE = Path(__file__).parents[2] / "cluster.yaml"
GPU_BYTES = 23.5e9
CONTEXT_BYTES = 0.6e9
"""CUDA's own, of one process."""
TEXT_TOKENS = 1024
"""Of a prompt, beside the visual ones: times of the frames, template, question."""
QWEN: dict[str, Any] = {
    "text_config": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
    },
    "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe():
    return find_recipe("l4")


@pytest.fixture(scope="module")
def machines():
    return machines_of(load_cluster(FILE))


@pytest.fixture(scope="module")
def places(recipe, machines):
    return find_places(recipe, machines, scorer_gpu=True, answerer_gpu=True)


def share_bytes(pool):
    """What torch may take for a pool's actor, its context beside it."""
    return pool.num_gpus * GPU_BYTES - CONTEXT_BYTES


def test_cluster_yaml_is_what_it_was_sized_for(capsys, recipe, machines):
    assert check_cluster.main([str(FILE), "--recipe", "l4"]) == 0
    assert "no mistake found" in capsys.readouterr().err
    assert too_small(recipe.cluster.sized_for, machines) == []
    smaller = [replace(kind, resources={**kind.resources, "CPU": 4.0}) for kind in machines.kinds]
    assert len(too_small(recipe.cluster.sized_for, replace(machines, kinds=smaller))) == 2


def test_both_models_go_to_gpu_machines_and_share_them(places, machines):
    check(places, machines)
    assert places.scorer.labels == places.answerer.labels == GPU_MACHINES
    assert places.scorer.device == places.answerer.device == "cuda"
    assert places.labels == DECODING_MACHINES
    assert places.scorer.num_gpus + places.answerer.num_gpus == 1


def test_the_largest_pools_leave_machines_to_decoding(places, machines):
    spot = next(kind for kind in machines.kinds if kind.name == "gpu")
    halves = places.scorer.pool.max_size + places.answerer.pool.max_size
    assert halves == 2 * spot.count, "on-demand machines stand in for spot ones, they are none besides"
    taken, left = machines.split("GPU", halves / 2)
    assert sum(kind.count for kind in taken.kinds if kind.comes) == 16
    assert left.total("CPU", DECODING_MACHINES) == 8 * 32
    assert most_resources(places, machines) == (256, 20)


def test_the_language_model_and_its_work_fit_half_a_gpu(recipe):
    config = T.Qwen2_5_VLConfig(**QWEN)
    family = FAMILIES["qwen2_5_vl"]
    size, grid = measure_frame(family, config, T.Qwen2VLImageProcessorPil(), recipe.answer.frame_px)
    parts: Any = SimpleNamespace(
        config=config, family=family, frame_size=size, grid=grid, tokens_per_frame=grid[0] * grid[1]
    )
    memory = Memory.foresee(parts, torch.bfloat16, "cuda", 0)
    assert memory.weights_bytes == pytest.approx(7.5e9, rel=0.01)
    visual = recipe.plan.budget_tokens
    kept = (visual + TEXT_TOKENS) * memory.row_bytes
    work = max(
        memory.prefill_bytes(visual + TEXT_TOKENS),
        memory.pass_bytes(TEXT_TOKENS, visual + TEXT_TOKENS),
        memory.look_bytes(visual // parts.tokens_per_frame, 1),
        memory.reduce_bytes(visual // parts.tokens_per_frame),
    )
    spare = (share_bytes(recipe.answer.pool) - memory.weights_bytes) * SHARE_OF_FREE_GPU
    assert kept + work <= spare


def test_the_dual_encoder_fits_the_other_half(recipe):
    with torch.device("meta"):
        model = T.SiglipModel(T.SiglipConfig())
    weights = sum(tensor.numel() for tensor in model.parameters()) * 4
    assert weights == pytest.approx(0.81e9, rel=0.01)
    assert 2 * weights <= share_bytes(recipe.score.pool)


def test_it_resolves_with_small_models_of_the_same_classes(recipe, tmp_path):
    scorer, answerer = (str(build(kind, tmp_path / kind)) for kind in ("siglip", "qwen2_5_vl"))
    small = replace(
        recipe,
        score=replace(recipe.score, model=scorer),
        answer=replace(recipe.answer, model=answerer, frame_px=84),
    )
    plan = resolve(small, [Query("q", "Is there a fire?", "flag")])
    assert plan.scorer_facts.uses_gpu
    assert plan.answerer_facts.cuts_frames
