"""Means of frames against a slow reference in feature space, one pair and one point at a time."""

import itertools

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.memory.clusters import Clusters
from pipeline.memory.kmeans import weighted_kmeans
from tests.memories import COUNT, HIDDEN, Token, check, fill, make, stream

Cluster = list[int]


def centre(points: np.ndarray, weights: np.ndarray, cluster: Cluster) -> np.ndarray:
    return np.average(points[cluster], axis=0, weights=weights[cluster])


def reference_kmeans(points: np.ndarray, weights: np.ndarray, most: int) -> list[Cluster]:
    clusters: list[Cluster] = [[point] for point in range(len(points))]
    if len(clusters) <= most:
        return clusters
    while len(clusters) > most:
        costs = {}
        for one, other in itertools.combinations(range(len(clusters)), 2):
            first, second = weights[clusters[one]].sum(), weights[clusters[other]].sum()
            apart = centre(points, weights, clusters[one]) - centre(points, weights, clusters[other])
            costs[one, other] = first * second / (first + second) * float(apart @ apart)
        one, other = min(costs, key=lambda pair: costs[pair])
        clusters[one] = sorted(clusters[one] + clusters.pop(other))
    for _ in range(10):
        centres = [centre(points, weights, cluster) for cluster in clusters]
        moved: list[Cluster] = [[] for _ in clusters]
        for point, value in enumerate(points):
            moved[int(np.argmin([np.sum((value - middle) ** 2) for middle in centres]))].append(point)
        clusters = [cluster for cluster in moved if cluster]
    return clusters


@pytest.mark.parametrize("most", [1, 2, 5, 9, 12, 20])
@pytest.mark.parametrize("seed", range(5))
def test_kmeans_equals_the_slow_reference(seed, most):
    generator = np.random.default_rng(seed)
    points, weights = generator.normal(size=(12, 7)), generator.integers(1, 20, 12).astype(float)
    shares = weighted_kmeans(torch.from_numpy(points), torch.from_numpy(weights), most)
    expected = reference_kmeans(points, weights, most)
    assert [row.nonzero()[:, 0].tolist() for row in shares] == expected
    np.testing.assert_allclose(
        (shares.numpy() @ points), [centre(points, weights, cluster) for cluster in expected], atol=1e-12
    )


def test_kmeans_finds_well_parted_groups():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 6)
    points = 100.0 * np.eye(8)[groups] + generator.normal(size=(24, 8))
    order = generator.permutation(24)
    shares = weighted_kmeans(torch.from_numpy(points[order]), torch.ones(24), 4)
    found = {tuple(sorted(set(groups[order][row.nonzero()[:, 0].numpy()].tolist()))) for row in shares}
    assert found == {(0,), (1,), (2,), (3,)}


def test_kmeans_tells_near_points_apart_that_lie_far_from_the_origin():
    """In float32 the squares of 1e4 leave no digit for a distance of 0.1, unless points are centred."""
    points = 1e4 + torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [5.1, 0.0]])
    shares = weighted_kmeans(points, torch.ones(4), 2)
    assert (shares > 0).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_kmeans_of_equal_points_is_one_cluster():
    assert weighted_kmeans(torch.ones(6, 3), torch.ones(6), 4).tolist() == [[pytest.approx(1 / 6)] * 6]


def halved(frame: np.ndarray) -> np.ndarray:
    """A 2 x 2 grid out of a 4 x 4 one."""
    return frame.reshape(2, 2, 2, 2, -1).mean((1, 3)).reshape(4, -1)


def reference_clusters(values: np.ndarray, num_means: int, block: int, num_real: int) -> list[Token]:
    means: list[dict] = []
    real: list[int] = []
    settled = len(values) // block * block
    for start in range(0, settled, block):
        new = range(start, start + block)
        points = means + [{"x": halved(values[t]), "t": 0.5 * t, "w": 1.0} for t in new]
        weights = np.array([point["w"] for point in points])
        flat = np.array([point["x"].ravel() for point in points])
        at = np.array([point["t"] for point in points])
        means = [
            {
                "x": centre(flat, weights, cluster).reshape(4, -1),
                "t": float(np.average(at[cluster], weights=weights[cluster])),
                "w": float(weights[cluster].sum()),
            }
            for cluster in reference_kmeans(flat, weights, num_means)
        ]
        means.sort(key=lambda mean: mean["t"])
        candidates, real = real + list(new), []
        for mean in sorted(means, key=lambda mean: -mean["w"])[:num_real]:
            left = [t for t in candidates if t not in real]
            if left:
                real.append(min(left, key=lambda t: float(np.sum((halved(values[t]) - mean["x"]) ** 2))))
        real.sort()
    tokens = [
        (mean["t"], place, mean["x"][cell]) for mean in means for cell, place in enumerate((0, 2, 8, 10))
    ]
    whole = real + list(range(settled, len(values)))
    return tokens + [(0.5 * t, place, values[t, place]) for t in whole for place in range(16)]


def in_order(tokens: list[Token]) -> list[Token]:
    """Sort by time, place, value; means of the same time differ in its last bits, other ones on another CPU."""
    return sorted(tokens, key=lambda token: (round(token[0], 6), token[1], round(float(token[2][0]), 6)))


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 29, 60])
def test_clusters_equal_the_slow_reference(frames):
    values = stream(frames, speed=0.3, count=16)
    memory = make("clusters", grid=(4, 4), capacity_tokens=8 * 16)
    assert isinstance(memory, Clusters)
    assert (memory.num_means, memory.block_frames, memory.num_real) == (16, 2, 2)
    held = fill(memory, values).read()
    assert held.pts_s_M.tolist() == sorted(held.pts_s_M.tolist())
    expected = in_order(reference_clusters(values.numpy(), 16, 2, 2))
    found = in_order(
        list(zip(held.pts_s_M.tolist(), held.place_M.tolist(), held.values_MD.numpy(), strict=True))
    )
    np.testing.assert_allclose([one[0] for one in found], [one[0] for one in expected], atol=1e-9)
    assert [one[1] for one in found] == [one[1] for one in expected]
    np.testing.assert_allclose([one[2] for one in found], [one[2] for one in expected], atol=1e-9)
    means = held.weight_M[held.weight_M > 1]
    assert float(means.sum()) == frames // 2 * 2 * 16


def test_every_scene_gets_a_mean_and_the_longest_ones_a_real_frame():
    scenes = torch.randn(6, 1, COUNT, HIDDEN, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    lengths = [40, 10, 10, 40, 10, 10]
    values = torch.cat([scenes[i].expand(n, COUNT, HIDDEN) for i, n in enumerate(lengths)])
    values = values + 0.01 * torch.randn(values.shape, generator=torch.Generator().manual_seed(5))
    held = fill(make("clusters", capacity_tokens=8 * COUNT), values).read()
    starts_s = np.cumsum([0, *lengths]) / 2
    means_s = held.pts_s_M[held.weight_M > 1].unique()
    for start_s, end_s in itertools.pairwise(starts_s):
        assert bool(((means_s >= start_s) & (means_s < end_s)).any())
    real_s = held.pts_s_M[held.weight_M == 1].unique().tolist()
    assert len(real_s) == 2


def test_the_latest_frames_are_whole_until_their_block_is_full():
    values = stream(5)
    held = fill(make("clusters", capacity_tokens=24 * COUNT), values).read()
    assert torch.equal(held.values_MD, values.flatten(0, 1))
    check(held, [(0.5 * t, place, values[t, place].numpy()) for t in range(5) for place in range(COUNT)])


def test_clusters_refuse_a_capacity_that_is_too_small():
    with pytest.raises(ConfigError, match=r"two whole frames and as much for means, 48 tokens"):
        make("clusters", capacity_tokens=4 * COUNT - 1)
