"""The keep policy: what it reads, what its mask keeps and learns from, and the folder it is kept in."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.compress.policy import FACTS_FILE, FEATURES, WEIGHTS_FILE, KeepPolicy, keep_mask
from pipeline.config import CompressConfig
from pipeline.errors import AnswerError, ConfigError, ModelError
from pipeline.tokens import whole_frames


def random_frames(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 8, 32, generator=torch.Generator().manual_seed(seed))


def reads(features_TF: torch.Tensor, name: str) -> list[float]:
    return [round(float(value), 4) for value in features_TF[:, FEATURES.index(name)]]


@pytest.fixture
def folder(tmp_path):
    """A policy that keeps a quarter of frames that are new in a tenth of their places or less, and all of others."""
    policy = KeepPolicy()
    with torch.no_grad():
        for weights in policy.parameters():
            weights.zero_()
        policy.layers[0].weight[0, FEATURES.index("share_above_0.4")] = 100.0
        policy.layers[2].weight[0, 0] = 1.0
        policy.layers[2].bias[0] = torch.tensor((0.25 - 0.01) / 0.99).logit()
    policy.save(tmp_path / "policy", {"model": "a model"})
    return str(tmp_path / "policy")


def test_it_reads_how_frames_differ():
    """A, A, B, A, with a quarter of the places of B like A's; B is opposite in the others."""
    one = random_frames(1)[0]
    other = one * torch.tensor([1.0, 1.0, -1, -1, -1, -1, -1, -1])[:, None]
    features = KeepPolicy.features(torch.stack([one, one, other, one]))
    assert reads(features, "mean_change_1_back") == [1, 0, 1.5, 1.5]
    assert reads(features, "least_change_1_back") == [1, 0, 0, 0]
    assert reads(features, "most_change_1_back") == [1, 0, 2, 2]
    assert reads(features, "mean_change_2_back") == [1, 1, 1.5, 0]
    assert reads(features, "mean_change_3_back") == [1, 1, 1, 0]
    assert reads(features, "share_above_0.05") == reads(features, "share_above_0.4") == [1, 0, 0.75, 0]
    assert reads(features, "mean_novelty") == [1, 0, 1.5, 0]
    assert reads(features, "most_novelty") == [1, 0, 2, 0]
    assert reads(features, "frames_known") == [0, 0.3333, 0.6667, 1]


def test_detail_is_what_differs_within_a_frame():
    flat, opposite, orthogonal = torch.ones(4, 4), torch.ones(4, 4), torch.eye(4)
    opposite[:2] = -1
    features = KeepPolicy.features(torch.stack([flat, opposite, orthogonal, torch.zeros(4, 4)]))
    assert reads(features, "detail") == [0, 1, round(0.75**0.5, 4), 0]


@pytest.mark.parametrize("cuts", [[1, 2, 3, 9], [6], [0, 4, 8]])
def test_chunks_are_read_as_the_whole_is(cuts):
    values = random_frames(11)
    found, before = [], None
    for part in values.tensor_split(cuts):
        found.append(KeepPolicy.features(part, before))
        before = part if before is None else torch.cat([before, part])
    assert torch.equal(torch.cat(found), KeepPolicy.features(values))


def test_a_mask_keeps_the_most_novel_and_learns_how_many():
    novelty = torch.tensor([[0.1, 0.9, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    keep = torch.tensor([0.25, 0.5, 0.51], requires_grad=True)
    mask = keep_mask(novelty, keep)
    assert mask.tolist() == [[0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0]]
    (gradient,) = torch.autograd.grad(mask.sum(), keep)
    assert bool((gradient > 0).all())
    assert keep_mask(torch.rand(1, 10), torch.tensor([0.3])).sum() == 3


def test_it_learns_to_keep_more_where_more_moves():
    """Half of the frames stand still, half are new; the price of a token is less than what a new one is worth."""
    torch.manual_seed(0)
    values = random_frames(40)
    for frame in range(1, 40, 2):
        values[frame] = values[frame - 1] + 0.02 * random_frames(1, seed=frame)[0]
    features = KeepPolicy.features(values)
    novelty = features[:, FEATURES.index("mean_novelty")][:, None].expand(-1, 8)
    policy = KeepPolicy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(60):
        mask = keep_mask(novelty, policy(features))
        loss = (0.3 * mask - novelty.clamp(max=1.0) * mask).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    keep = policy(features).detach()
    assert float(keep[2::2].min()) > 0.9
    assert float(keep[1::2].max()) < 0.15


def test_a_trained_policy_keeps_its_share_of_each_frame(folder):
    """Frames 1 and 3 are still but for a place, frame 2 is new; place 5 moves in frame 1, place 2 in frame 3."""
    first, second = random_frames(2)
    values = torch.stack([first, first, second, second])
    values[1, 5], values[3, 2] = 1.0, -1.0
    tokens = whole_frames(values, (2, 4))
    settings = CompressConfig(compressor="policy", policy=folder, prune_ratio=0.9)
    found = TOKEN_COMPRESSORS["policy"](tokens, [8] * 4, settings)
    assert torch.bincount(found.frame_N).tolist() == [8, 8, 8, 8]  # a place of eight is more than a tenth
    values[1, 5], values[3, 2] = values[0, 5], values[2, 2]
    values[1, 5, 0] += 2.0
    values[3, 2, 0] += 2.0
    found = TOKEN_COMPRESSORS["policy"](tokens, [8] * 4, settings)
    assert torch.bincount(found.frame_N).tolist() == [8, 2, 8, 2]
    assert 8 + 5 in found.source_N.tolist()
    assert 24 + 2 in found.source_N.tolist()
    # no more goes than allowed, and no more stays than planned
    half = CompressConfig(compressor="policy", policy=folder, prune_ratio=0.5)
    found = TOKEN_COMPRESSORS["policy"](tokens, [4, 8, 0, 1], half)
    assert torch.bincount(found.frame_N).tolist() == [4, 4, 0, 1]
    whole = CompressConfig(compressor="policy", policy=folder, prune_ratio=0.0)
    assert torch.equal(TOKEN_COMPRESSORS["policy"](tokens, [8] * 4, whole).values_ND, tokens.values_ND)


@pytest.mark.parametrize("scope", ["video", "frame"])
def test_without_a_folder_what_is_new_stays_and_no_more_goes_than_allowed(scope):
    """Frames 1 and 2 are still but for three places of eight in frame 2."""
    [first] = random_frames(1)
    values = torch.stack([first, first, first])
    values[2, 5:] = random_frames(2)[1, 5:]
    for ratio, expected in ((1.0, [8, 1, 3]), (0.5, [8, 4, 4]), (0.0, [8, 8, 8])):
        settings = CompressConfig(compressor="policy", prune_ratio=ratio, scope=scope)
        found = TOKEN_COMPRESSORS["policy"](whole_frames(values, (2, 4)), [8] * 3, settings)
        kept = torch.bincount(found.frame_N, minlength=3).tolist()
        assert sum(kept) == sum(expected), (ratio, kept)
        assert kept == expected or scope == "video"
        assert {16 + 5, 16 + 6, 16 + 7} <= set(found.source_N.tolist())


def test_a_broken_frame_is_named_to_a_trained_policy_too(folder):
    values = random_frames(3)
    values[2, 1, 1] = float("inf")
    settings = CompressConfig(compressor="policy", policy=folder)
    with pytest.raises(AnswerError, match="tokens of frame 2 are not finite"):
        TOKEN_COMPRESSORS["policy"](whole_frames(values, (2, 4)), [0, 8, 8], settings)


def test_a_folder_gives_back_what_was_put_into_it(folder, tmp_path):
    features = KeepPolicy.features(random_frames(5))
    policy = KeepPolicy()
    policy.save(tmp_path / "deep" / "new")
    again = KeepPolicy.load(tmp_path / "deep" / "new")
    assert torch.equal(again(features), policy(features))
    assert not any(weights.requires_grad for weights in again.parameters())
    assert json.loads((Path(folder) / FACTS_FILE).read_text())["model"] == "a model"
    assert bool(((policy(features) > 0) & (policy(features) <= 1)).all())


def test_folders_that_hold_no_policy_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match=r"holds no policy .* set --compress\.policy"):
        KeepPolicy.load(tmp_path)
    facts = Path(folder) / FACTS_FILE
    facts.write_text(json.dumps({"features": ["luck"]}))
    with pytest.raises(ModelError, match=r"another version of this program: features \['luck'\]"):
        KeepPolicy.load(folder)
    (Path(folder) / WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="holds no policy"):
        KeepPolicy.load(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        KeepPolicy().save(tmp_path / "file")


def test_a_policy_that_nobody_would_ask_is_refused():
    with pytest.raises(ConfigError, match=r"has no effect on compressor 'dtd'"):
        CompressConfig(compressor="dtd", policy="folder")
    assert CompressConfig(compressor="my.own:function", policy="folder").policy == "folder"
