"""Heads and language model in one loss: what learns, what stays, and that the model written is the one trained."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from actors.models import Ask, Request, WindowView, video_llm
from actors.models.heads import Heads, ImageHead, SemanticHead
from actors.models.loading import fetch
from actors.models.prompting import read_parts
from actors.models.shadow import Shadow
from jobs.training import adapter, joint_stage
from jobs.training.joint import Joint, run
from jobs.training.lessons import Lesson, lessons_of, read_lessons
from jobs.training.loop import train_epoch
from jobs.training.routers import train_routers
from jobs.training.settings import JointConfig, RoutersConfig
from jobs.training.tables import LOOKED
from pipeline import rows
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import ConfigError
from pipeline.frames import Frames
from tests.tiny_models import HIDDEN, VIDEO_LLMS, build

FRAME_PX = 56
TIMES_S = (1.0, 2.5, 4.0)
PIXELS = np.random.default_rng(0).integers(0, 255, (len(TIMES_S), FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
LESSONS = [
    Lesson("a", "Is there a fire?", "flag", (), "yes", "fragment", TIMES_S, (1,), True),
    Lesson("b", "Which of these?", "choose", ("street", "dog"), "dog", "global", TIMES_S, (0, 2), True),
    Lesson("c", "What colour is the car?", "ask", (), "red", "global", TIMES_S[:2], (), False),
]


def group(*lessons):
    return {
        "pts_s": list(TIMES_S), "pixels": rows.pack(PIXELS), "video": "v",
        "questions": json.dumps([asdict(lesson) for lesson in lessons]),
    }  # fmt: skip


def settings(folder, **changes):
    answer = AnswerConfig(model=str(folder), frame_px=FRAME_PX, dtype="float32")
    joint = JointConfig(learning_rate=1e-2, lora_rank=4, lora_alpha=8.0)
    return RoutersConfig(answer=answer, early_layers=2, early_tokens=4, joint=joint, **changes)


def heads():
    return Heads(HIDDEN, 2, 4, SemanticHead(HIDDEN), ImageHead(HIDDEN), model="tiny@1")


def begun(folder):
    torch.manual_seed(0)
    return joint_stage.begin(settings(folder), heads(), "cpu")


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_a_pass_with_gradients_gives_the_states_that_routers_read(kind, tmp_path):
    build(kind, tmp_path, template=kind != "smolvlm")
    config = settings(tmp_path)
    llm = video_llm.make(config.answer, CompressConfig(), "cpu")
    features, index = llm.encode(PIXELS), range(len(TIMES_S))
    shadow = Shadow(llm, 2, 4)
    expected = shadow.frame_states(features, index, TIMES_S, LESSONS[0].text)
    asked = shadow.question_states([LESSONS[0].text])

    joint = Joint(llm, heads().semantic, heads().image, config).eval()
    found = joint._frame_states(features, index, LESSONS[0])
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(joint._question_state(LESSONS[0].text), asked, atol=1e-4)
    assert found.requires_grad
    # together or alone, a sequence is the same
    one, two = joint.shadow.question_segments(["Is there a fire?", "Which of these?"])
    assert torch.allclose(
        run(joint.shadow.decoder, [one, two])[1], run(joint.shadow.decoder, [two])[0], atol=1e-4
    )
    assert torch.isfinite(joint(group(*LESSONS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build("internvl", tmp_path_factory.mktemp("model"))


def test_the_loss_falls_and_only_what_was_added_learns(folder):
    joint = begun(folder)
    before = {name: weight.clone() for name, weight in joint.llm.model.state_dict().items()}
    optimizer = torch.optim.AdamW(joint.parameters(), lr=1e-2)
    batch = group(*LESSONS)
    losses = [train_epoch(joint, optimizer, iter([batch]), 1, joint) for _ in range(12)]
    assert losses[-1] < losses[0] / 2

    named = dict(joint.named_parameters())
    assert {name.partition(".")[0] for name in named} == {"added", "semantic", "image"}
    assert all("lora_" in name and "language_model" in name for name in named if name.startswith("added"))
    assert all(bool(weight.grad.abs().any()) for weight in named.values())
    added = {id(weight) for weight in joint.parameters()}
    assert not any(
        one.requires_grad or one.grad is not None
        for one in joint.llm.model.parameters()
        if id(one) not in added
    )
    after = joint.llm.model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if "lora_" in name
    }


def test_lessons_that_cannot_be_shown_teach_nothing_and_hold_up_nobody(folder):
    joint = begun(folder)
    loss = joint(group(replace(LESSONS[0], text="<IMG_CONTEXT>")))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(weight.grad is not None for weight in joint.parameters())


def test_frames_that_were_not_found_out_about_teach_no_frames(folder):
    read = begun(folder).read(group(LESSONS[2]))
    assert (len(read.answers), len(read.semantic), len(read.image)) == (1, 1, 0)
    found = joint_stage.measure_joint(begun(folder), iter([group(*LESSONS), group(LESSONS[0])]))
    assert (found["dev_answers"], found["semantic"]["dev_items"], found["image"]["dev_items"]) == (4, 4, 9)


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_the_model_that_is_written_answers_like_the_one_trained(kind, tmp_path):
    folder = build(kind, tmp_path / "base")
    joint, batch = begun(folder), group(*LESSONS)
    optimizer = torch.optim.AdamW(joint.parameters(), lr=1e-2)
    for _ in range(3):
        train_epoch(joint, optimizer, iter([batch]), 1, joint)
    trained = logits(joint)
    state = joint_stage._part(joint.state_dict(), "added")
    out = adapter.write_model(settings(folder), state, str(tmp_path / "out"))

    merged, plain = logits(begun(out)), logits(begun(folder))
    for one, other, base in zip(trained, merged, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
        assert (one - base).abs().max() > 0.1
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter", "model"]


def test_models_of_one_base_are_told_apart(folder, tmp_path):
    joint = begun(folder)
    revisions = [fetch(str(folder), "", weights=True).revision]
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        added = joint_stage._part(joint.state_dict(), "added")
        trained = {name: torch.randn_like(weight) for name, weight in added.items()}
        out = adapter.write_model(settings(folder), trained, str(tmp_path))
        revisions.append(fetch(out, "", weights=True).revision)
    assert len(set(revisions)) == 3
    assert revisions[1] == revisions[3]


def logits(joint):
    """Return what the model says where the answer of each lesson should stand."""
    joint.eval()
    with torch.no_grad():
        features = joint.llm.encode(PIXELS)
        found = [joint.answer_logits(features, range(len(one.frame_pts_s)), one) for one in LESSONS]
    return [said for said, _ in found]


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_what_is_learnt_is_what_answering_says(kind, tmp_path):
    config = settings(build(kind, tmp_path))
    llm = video_llm.make(config.answer, CompressConfig(), "cpu")
    yes = LESSONS[0]
    plan = yes.plan(config.joint, llm.parts.tokens_per_frame, "s")
    window = WindowView(0.0, 5.0, np.array(TIMES_S), range(len(TIMES_S)), Frames(PIXELS, np.array(TIMES_S)))
    nothing_N = np.zeros(len(TIMES_S), np.float32)
    [[answer]] = llm.answer([Request(window, [Ask(yes.query, plan, nothing_N, nothing_N[:, None], 0.5)])])

    joint = joint_stage.begin(config, heads(), "cpu").eval()
    joint.seed = "s"
    with torch.no_grad():
        features = joint.llm.encode(PIXELS)
        found = [joint.answer_logits(features, range(3), one) for one in (yes, replace(yes, answer="no"))]
    # the token that ends the answer is learnt, and no part of a label's likelihood
    likelihoods = [said[:-1].log_softmax(-1).gather(1, ids[:-1, None]).mean() for said, ids in found]
    chance = torch.stack(likelihoods).softmax(0)[0 if answer.answer == "yes" else 1]
    assert float(chance) == pytest.approx(answer.confidence, abs=1e-4)


def test_plans_follow_policy_frames_and_seed():
    def tokens(lesson, seed):
        return lesson.plan(JointConfig(), 16, seed).tokens_N

    assert tokens(LESSONS[0], "1") == tokens(LESSONS[0], "1")
    drawn = {tokens(LESSONS[0], str(seed)) for seed in range(50)}
    assert len(drawn) > 1
    assert all(shown[1] == 16 and {shown[0], shown[2]} <= {0, 4} for shown in drawn)
    assert {count for seed in range(50) for count in tokens(LESSONS[1], str(seed))} <= {0, 8}


def test_targets_are_the_labels_that_answers_are_compared_by():
    assert [lesson.target for lesson in LESSONS] == ["Yes", "dog", "red"]


def test_batches_hold_one_video_and_survive_json(tmp_path):
    from jobs.training import parts
    from jobs.training.tables import FLR, QTR

    def row(number, **changes):
        return {
            "id": f"{number}", "video": f"{number // 4}.mp4", "split": "train", "question": "Is there a fire?",
            "kind": "flag", "choices": [], "answer": "yes", "frame_pts_s": list(TIMES_S), "relevant": [1],
            "necessity": {"masked_answerable": number == 1}, "policy": "fragment", "error_type": "", **changes,
        }  # fmt: skip

    several = [row(number) for number in range(6)]
    several[2] |= {"error_type": "AnswerError", "relevant": []}
    several.append(row(7, policy=""))
    for table, schema in (("flr", FLR), ("qtr", QTR)):
        given = several if table == "flr" else [{**one, "error_type": ""} for one in several]
        named = [{name: value for name, value in one.items() if name in schema.names} for one in given]
        parts.write(
            str(tmp_path / table), rows.to_table([{**one, "part": "p"} for one in named], _with_part(schema))
        )
    groups = read_lessons(str(tmp_path), 3, 0.0)
    assert set(groups) == {"train"}
    lessons = [list(lessons_of(one)) for one in groups["train"]]
    assert [[lesson.id for lesson in mine] for mine in lessons] == [["0", "1", "2"], ["3"], ["4", "5"]]
    assert [lesson.teaches_frames for lesson in lessons[0]] == [True, False, False]
    assert lessons[0][0] == Lesson(
        "0", "Is there a fire?", "flag", (), "yes", "fragment", TIMES_S, (1,), True
    )


def _with_part(schema):
    import pyarrow as pa

    return schema.insert(0, pa.field("part", pa.string()))


def test_what_stage_3_cannot_do_is_told_before_it_starts(folder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="found no question with a policy"):
        read_lessons(str(tmp_path), 4, 0.1)
    with pytest.raises(ConfigError, match="expected some of 1, 2 and 3"):
        RoutersConfig(stages="4")
    config = RoutersConfig(answer=AnswerConfig(model="m", quantize="int8"), stages="3")
    with pytest.raises(ConfigError, match="leave it at none"):
        train_routers("labels", "out", config)
    parts = read_parts(AnswerConfig(model=str(folder), frame_px=FRAME_PX), weights=False)
    adapter.check_layers(parts)
    words_only = replace(parts.family, decoder=lambda model: model.get_input_embeddings())
    with pytest.raises(ConfigError, match=r"\(Embedding\) has none of them"):
        adapter.check_layers(replace(parts, family=words_only))
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'reelsift\[train\]'"):
        train_routers("labels", "out", config)


class Shard:
    """Batches of one row, cut from one table, as a worker's share of a dataset hands them out."""

    def __init__(self, table):
        self.table = table

    def iter_batches(self, **_):
        return (self.table.slice(row, 1) for row in range(self.table.num_rows))


def test_videos_are_mixed_by_a_seed_and_keep_their_pictures(monkeypatch):
    looked = [
        {name: rows.default(kind) for name, kind in zip(LOOKED.names, LOOKED.types, strict=True)}
        | {"video": str(number), "pixels": rows.pack(np.full((1, 2, 2, 3), number, np.uint8))}
        for number in range(30)
    ]
    monkeypatch.setattr(joint_stage, "SHUFFLED_BYTES", 8 * 12)
    shard = Shard(rows.to_table(looked, LOOKED))

    def order(seed):
        found = list(joint_stage.mixed_rows(shard, seed))
        assert all(int(row["video"]) == rows.unpack(row["pixels"])[0, 0, 0, 0] for row in found)
        return [int(row["video"]) for row in found]

    assert sorted(order(1)) == list(range(30))
    assert order(1) == order(1) != order(2)
