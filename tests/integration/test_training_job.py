"""Labels from a tiny model's answers, heads trained on them by two workers, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from actors.models.heads import load_heads
from tests import tiny_models
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.results import read
from tests.videos import X264, write_video

NUM_FRAMES = 5
SNAPSHOT = "_runs/image-*/checkpoint_manager_snapshot.json"
ASKED = [
    ("Is there a fire?", "flag", "yes"), ("Is there a fire?", "flag", "no"), ("Is there a car?", "flag", "yes"),
    ("Which of these?", "choose", "street"), ("Which of these?", "choose", "dog"),
]  # fmt: skip
"""The same question with either answer: whatever a random model says, some are right."""
MODEL = ("--answer.dtype", "float32", "--answer.frame-px", "56")
LABELLING = (
    "--num-frames",
    NUM_FRAMES,
    "--plan.budget-tokens",
    20,
    "--min-likelihood",
    0,
    "--evidence",
    "trust",
)
TRAINING = ("--early-layers", 2, "--early-tokens", 4, "--image.learning-rate", "1e-3", "--image.batch-rows", 1,
            "--image.accumulate", 2, "--semantic.batch-rows", 2)  # fmt: skip


JOINT = ("--stages", 3, "--joint.batch-rows", 2, "--joint.accumulate", 2, "--joint.learning-rate", "1e-3")


@pytest.fixture
def lessons(tmp_path):
    """Three short videos and questions about them; of some the evidence is known, some cannot be used."""
    folder = tmp_path / "videos"
    folder.mkdir()
    questions = []
    for number in range(3):
        write_video(folder / f"{number}.mp4", numbers=range(30 * (number + 2)), options=X264)
        for index, (text, kind, answer) in enumerate(ASKED):
            questions.append({
                "id": f"{number}-{index}", "video": f"{number}.mp4", "question": text, "kind": kind, "answer": answer,
                "category": kind, "split": "dev" if number == 2 else "train", "evidence_s": [[0.1, 0.9 + number / 2]],
            })  # fmt: skip
            if kind == "choose":
                questions[-1]["choices"] = ["street", "dog"]
    (folder / "broken.mp4").write_bytes(b"no video at all")
    questions.append({**questions[0], "id": "broken", "video": "broken.mp4"})
    questions.append({**questions[0], "id": "open", "answer": None})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in questions))
    return folder, path, len(questions)


@pytest.mark.timeout(7200)
def test_from_questions_to_heads(reelsift, ray_address, lessons, tmp_path):
    videos, questions, num_questions = lessons
    model = tiny_models.build("internvl", tmp_path / "model")
    named = ("--answer.model", model, *MODEL)
    labels = tmp_path / "labels"
    done = reelsift("train", "label", videos, questions, labels, *named, *LABELLING)
    assert done.code == 0, done.err
    _labels_say_what_was_asked(done.json, labels, num_questions)

    train = ("train", "routers", labels)
    heads, whole = tmp_path / "heads", tmp_path / "whole"
    epochs = _killed_behind_a_checkpoint(
        ray_address, heads, *train, heads, *named, *TRAINING, "--stages", 1, "--epochs", 1000
    )
    done = reelsift(*train, heads, *named, *TRAINING, "--epochs", epochs)
    assert done.code == 0, done.err
    found = load_heads(heads, hidden_size=tiny_models.HIDDEN)
    _heads_say_what_they_reached(found, epochs)
    # it went on where it was killed, also with another stage beside it
    assert len(list(heads.glob("_runs/image-*"))) == 1

    done = reelsift(*train, whole, *named, *TRAINING, "--stages", 1, "--epochs", epochs)
    assert done.code == 0, done.err
    uninterrupted = load_heads(whole, hidden_size=tiny_models.HIDDEN)
    assert uninterrupted.semantic is None
    states = torch.randn(8, 2 * tiny_models.HIDDEN)
    assert torch.equal(found.image(states), uninterrupted.image(states))
    assert uninterrupted.metrics["image"] == found.metrics["image"]

    done = reelsift(*train, heads, *named, *TRAINING, *JOINT, "--epochs", 1)
    assert done.code == 0, done.err
    _model_was_trained_with_its_heads(found, heads, done.json)
    again = reelsift(*train, heads, *named, *TRAINING, *JOINT, "--epochs", 1)
    assert again.code == 0, again.err
    assert again.json["joint"] == done.json["joint"]
    assert again.json["model"] == done.json["model"]
    _the_model_answers(reelsift, videos, heads, tmp_path)

    policy = tmp_path / "policy"
    price = ("--price", 20, "--learning-rate", 0.1, "--batch-rows", 2, "--accumulate", 1, "--epochs", 2)
    done = reelsift("train", "policy", labels, policy, *named, *price)
    assert done.code == 0, done.err
    first, last = json.loads((policy / "policy.json").read_text())["history"]
    assert last["dev_retention"] < first["dev_retention"] < 1
    assert done.json["dev_answers"] == last["dev_answers"] > 0
    _the_policy_compresses(reelsift, videos, policy, named, tmp_path)


def _the_policy_compresses(reelsift, videos, policy, named, tmp_path):
    questions = tmp_path / "asked.jsonl"
    questions.write_text(json.dumps({"query_id": "fire", "kind": "flag", "text": "Is there a fire?"}) + "\n")
    compress = ("--compress.compressor", "policy", "--compress.policy", policy, "--compress.prune-ratio", 1)
    whole = ("--plan.scale-global", 1, "--plan.router", "rules")
    done = reelsift("answer", videos, questions, tmp_path / "kept", *named, *compress, *whole)
    assert done.code == 0, done.err
    assert 0 < done.json["tokens_used"] < done.json["tokens_dense"]


def _labels_say_what_was_asked(counts, labels, num_questions):
    assert (counts["questions"], counts["failed"]) == (num_questions, 2)
    qtr, flr = read(labels, "qtr"), read(labels, "flr")
    assert len(qtr) == len(flr) == num_questions
    failed = {row["id"]: row["error_type"] for row in flr if row["error_type"]}
    assert failed == {"broken": "ProbeError", "open": "QuestionError"}
    for row in qtr:
        if row["error_type"]:
            continue
        assert row["policy"] in {"global", "fragment"}
        assert 0 < row["duration_s"] < 4.1
        assert row["acc_global"] == counts["categories"][row["category"]]["acc_global"]
    # of a question asked with both of its answers, just one is right
    for number in range(3):
        asked = {row["id"]: row for row in qtr}
        assert asked[f"{number}-0"]["right_global"] != asked[f"{number}-1"]["right_global"]
        both = sum(asked[f"{number}-{index}"]["likelihood_global"] for index in (0, 1))
        assert both == pytest.approx(1.0, abs=1e-5)
    for row in flr:
        if not row["error_type"]:
            end_s = 0.9 + int(row["id"][0]) / 2
            inside = [i for i, time_s in enumerate(row["frame_pts_s"]) if 0.1 <= time_s < end_s]
            assert row["relevant"] == inside
            assert len(row["frame_pts_s"]) == NUM_FRAMES
    assert any(not row["necessity"]["masked_answerable"] for row in flr)


def _killed_behind_a_checkpoint(ray_address, out, *args):
    """Start a training, kill it when it has a checkpoint; return some more epochs than it has made."""
    command = [sys.executable, "-m", "jobs", *map(str, args)]
    environment = {**os.environ, **QUIET, "RAY_ADDRESS": ray_address}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )  # fmt: skip
    try:
        # the list of checkpoints is written behind each of them
        while not (snapshots := [path for path in out.glob(SNAPSHOT) if path.read_text().endswith("}")]):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert not (out / "heads.json").exists()
    made = [int(folder.name.partition("-")[2]) for folder in snapshots[0].parent.glob("epoch-*")]
    return max(made) + 3


def _heads_say_what_they_reached(found, epochs):
    assert (found.early_layers, found.early_tokens) == (2, 4)
    image, semantic = found.metrics["image"], found.metrics["semantic"]
    assert [one["epoch"] for one in image["history"]] == list(range(epochs))
    assert image["history"][-1]["train_loss"] < image["history"][0]["train_loss"]
    assert image["dev_items"] == NUM_FRAMES * image["dev_rows"]
    assert 0 < image["dev_average_precision"] <= 1
    assert found.image_temperature == image["temperature"] > 0
    assert (semantic["train_rows"], semantic["dev_rows"]) == (2 * len(ASKED), len(ASKED))
    assert 0 <= semantic["dev_accuracy"] <= 1
    assert len(semantic["history"]) == epochs


def _model_was_trained_with_its_heads(before, folder, reached):
    after = load_heads(folder, hidden_size=tiny_models.HIDDEN)
    states = torch.randn(8, 2 * tiny_models.HIDDEN)
    assert not torch.equal(after.image(states), before.image(states))
    kept = load_heads(folder / "_before_joint", hidden_size=tiny_models.HIDDEN)
    assert torch.equal(kept.image(states), before.image(states))
    joint = reached["joint"]
    assert joint["train_loss"] > 0
    assert (joint["train_rows"], joint["dev_rows"], joint["dev_answers"]) == (10, 5, 5)
    assert joint["image"]["dev_items"] == NUM_FRAMES * after.metrics["image"]["dev_rows"]
    assert reached["model"].startswith(f"{folder / 'model'}@")
    assert (folder / "adapter" / "adapter_model.safetensors").exists()


def _the_model_answers(reelsift, videos, heads, tmp_path):
    """It is one like any other, and the heads read it."""
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps({"query_id": "fire", "text": "Is there a fire?", "kind": "flag"}) + "\n")
    done = reelsift(
        "answer", videos, queries, tmp_path / "answers", "--answer.model", heads / "model", *MODEL,
        "--plan.router", "trained", "--score.scorer", "trained", "--plan.heads", heads, "--plan.early-layers", 2,
        "--plan.early-tokens", 4,
    )  # fmt: skip
    assert done.code in (0, 1), done.err
    answered = [row for row in read(tmp_path / "answers", "answers") if not row["error_type"]]
    assert len(answered) >= 3
