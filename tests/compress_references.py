"""What each compressor does, written as loops over numpy arrays: slow, obvious, and what the fast ones must equal."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from pipeline.compress.uniform import pooled_grid
from pipeline.config import CompressConfig
from pipeline.tokens import VisualTokens, whole_frames

Reference = tuple[np.ndarray, list[int], list[float]]
"""Values, sources and weights of the tokens that stay."""


def clip(frames: int, grid: tuple[int, int], hidden: int = 5, seed: int = 0) -> VisualTokens:
    """Random tokens in float64 with what any compressor needs beside them; a picture does not divide into the grid."""
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1]
    values = torch.randn(frames, count, hidden, generator=generator, dtype=torch.float64)
    size = (frames, 2 * grid[0] + 1, 2 * grid[1] + 1, 3)
    pixels = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    probes = torch.randn(4, hidden, generator=generator, dtype=torch.float64)
    return replace(whole_frames(values, grid), pixels_THWC=pixels, probes_PD=probes)


def planned_of(plan: list[int]) -> list[int]:
    return [frame for frame in range(len(plan)) if plan[frame] > 0]


def frames_of(tokens: VisualTokens, plan: list[int]) -> np.ndarray:
    return tokens.values_ND.numpy().reshape(len(plan), tokens.num_per_frame, -1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def room(share: float, count: int) -> int:
    """What stays of some tokens when a share goes."""
    return math.floor(round((1 - share) * count, 6))


def put_together(
    tokens: VisualTokens, plan: list[int], anchors: list[int], kept: dict[int, list[tuple[float, int]]]
) -> Reference:
    """Anchors pooled to their plan; of what is kept of others, (likeness, place), the least alike within the plan."""
    frames = frames_of(tokens, plan)
    pooled = uniform(tokens, [plan[t] if t in anchors else 0 for t in range(len(plan))], CompressConfig())
    found = list(zip(pooled[1], pooled[0], pooled[2], strict=True))
    for t, candidates in kept.items():
        for _, place in sorted(candidates)[: plan[t]]:
            found.append((t * tokens.num_per_frame + place, frames[t][place], 1.0))
    found.sort(key=lambda item: item[0])
    values = np.array([value for _, value, _ in found]).reshape(-1, frames.shape[2])
    return values, [source for source, _, _ in found], [weight for _, _, weight in found]


def of_share(
    candidates: dict[int, list[tuple[float, int]]], settings: CompressConfig
) -> dict[int, list[tuple[float, int]]]:
    """The least alike that stay when `prune_ratio` of all, or of each frame's own, go."""
    if settings.scope == "frame":
        return {t: sorted(own)[: room(settings.prune_ratio, len(own))] for t, own in candidates.items()}
    every = sorted((likeness, t, place) for t, own in candidates.items() for likeness, place in own)
    stay = every[: room(settings.prune_ratio, len(every))]
    return {t: [(likeness, place) for likeness, u, place in stay if u == t] for t in candidates}


def none(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    del settings
    kept = [
        token
        for token in range(len(tokens.values_ND))
        if plan[token // tokens.num_per_frame] >= tokens.num_per_frame
    ]
    return tokens.values_ND.numpy()[kept], kept, [1.0] * len(kept)


def uniform(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    del settings
    rows, columns = tokens.grid
    pictures = tokens.values_ND.numpy().reshape(len(plan), rows, columns, -1)
    values, sources, weights = [], [], []
    for frame, picture in enumerate(pictures):
        if plan[frame] == 0:
            continue
        high, wide = (
            (rows, columns) if plan[frame] >= rows * columns else pooled_grid(tokens.grid, plan[frame])
        )
        for i in range(high):
            for j in range(wide):
                cell = [
                    (row, column)
                    for row in range(rows)
                    for column in range(columns)
                    if row * high // rows == i and column * wide // columns == j
                ]
                values.append(np.mean([picture[place] for place in cell], axis=0))
                sources.append(frame * rows * columns + min(row * columns + column for row, column in cell))
                weights.append(float(len(cell)))
    return np.array(values).reshape(-1, tokens.values_ND.shape[1]), sources, weights


def dycoke(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    frames, planned = frames_of(tokens, plan), planned_of(plan)
    kept = {}
    for start in range(0, len(planned), 4):
        window = planned[start : start + 4]
        for place, against in ((1, 0), (2, 0), (3, 2)):
            if place >= len(window):
                continue
            pairs = zip(frames[window[place]], frames[window[against]], strict=True)
            alike = [(cosine(a, b), index) for index, (a, b) in enumerate(pairs)]
            kept[window[place]] = sorted(alike)[: room(settings.prune_ratio, len(alike))]
    return put_together(tokens, plan, planned[::4], kept)


def dtd(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    frames, planned = frames_of(tokens, plan), planned_of(plan)
    alike = {}
    for before, now in pairwise(planned):
        pairs = zip(frames[now], frames[before], strict=True)
        alike[now] = [(cosine(a, b), index) for index, (a, b) in enumerate(pairs)]
    if settings.threshold is not None:
        kept = {t: [pair for pair in own if pair[0] <= settings.threshold] for t, own in alike.items()}
    else:
        kept = of_share(alike, settings)
    return put_together(tokens, plan, planned[:1], kept)


def evs(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    """The first frame has likeness minus infinity, and one ranking goes over all tokens, the first frame's too."""
    frames, planned, count = frames_of(tokens, plan), planned_of(plan), tokens.num_per_frame
    every = [(-math.inf, t, place) for t in planned[:1] for place in range(count)]
    for before, now in pairwise(planned):
        every += [(cosine(frames[now][i], frames[before][i]), now, i) for i in range(count)]
    stay = sorted(every)[: max(count, room(settings.prune_ratio, len(planned) * count))]
    kept = {t: [(likeness, place) for likeness, u, place in stay if u == t] for t in planned[1:]}
    return put_together(tokens, plan, planned[:1], kept)


def dtd_pixels(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    planned, (rows, columns) = planned_of(plan), tokens.grid
    pictures = tokens.pixels_THWC.numpy().astype(float) / 255
    high, wide = pictures.shape[1:3]
    changes = {}
    for before, now in pairwise(planned):
        difference = np.abs(pictures[now] - pictures[before])
        changes[now] = []
        for place in range(rows * columns):
            patch = [
                difference[i, j]
                for i in range(high)
                for j in range(wide)
                if (i * rows // high, j * columns // wide) == divmod(place, columns)
            ]
            changes[now].append((-np.mean(patch), place))
    if settings.threshold is not None:
        kept = {t: [pair for pair in own if -pair[0] >= settings.threshold] for t, own in changes.items()}
    else:
        kept = of_share(changes, settings)
    return put_together(tokens, plan, planned[:1], kept)


def stream_ttm(
    tokens: VisualTokens, plan: list[int], settings: CompressConfig, spare_below: float = -2.0
) -> Reference:
    frames, planned = frames_of(tokens, plan), planned_of(plan)
    alike = {}
    for number, t in enumerate(planned):
        if number % 4:
            last = planned[max(0, number - 3) : number]
            alike[t] = [
                (max(cosine(frames[t][i], frames[u][i]) for u in last), i) for i in range(len(frames[t]))
            ]
    if settings.threshold is not None:
        kept = {t: [pair for pair in own if pair[0] < settings.threshold] for t, own in alike.items()}
    else:
        kept = of_share(alike, settings)
        spared = {t: [pair for pair in own if pair[0] < spare_below] for t, own in alike.items()}
        kept = {t: sorted({*own, *spared[t]}) for t, own in kept.items()}
    kept = {t: own or [min(alike[t])] for t, own in kept.items()}
    return put_together(tokens, plan, planned[::4], kept)


def otsu(distances: list[float]) -> float:
    """Every way to part the bins, by the variance between the two classes."""
    bins = [min(127, int(distance * 64)) for distance in distances]
    middle = [(2 * (b + 0.5)) / 128 for b in bins]
    best, found = 0.0, sorted(distances)[(len(distances) - 1) // 2]
    for last in range(127):
        low = [x for x, b in zip(middle, bins, strict=True) if b <= last]
        high = [x for x, b in zip(middle, bins, strict=True) if b > last]
        if low and high:
            share = len(low) / len(bins)
            apart = share * (1 - share) * (np.mean(low) - np.mean(high)) ** 2
            if apart > best + 1e-12:
                best, found = apart, (last + 0.5) * 2 / 128
    return found


def savemem(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    frames, planned, (rows, columns) = frames_of(tokens, plan), planned_of(plan), tokens.grid
    protected, alike, spared = {}, {}, {}
    threshold = average = None
    for before, now in pairwise(planned):
        plain = []
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            near = [
                frames[before][i * columns + j]
                for i in range(max(0, row - 1), min(rows, row + 2))
                for j in range(max(0, column - 1), min(columns, column + 2))
            ]
            plain.append(max(cosine(frames[now][place], other) for other in near))
        own = otsu([1 - likeness for likeness in plain])
        threshold = own if threshold is None else 0.8 * threshold + 0.2 * own
        mean = np.mean([1 - likeness for likeness in plain])
        is_cut = average is not None and mean > 1.5 * average and mean > 0.2
        average = mean if average is None else 0.8 * average + 0.2 * mean
        alike[now] = []
        for place, likeness in enumerate(plain):
            meaning = max(cosine(frames[now][place], probe) for probe in tokens.probes_PD.numpy())
            alike[now].append((likeness - 0.15 * max(0.0, meaning), place))
        if settings.threshold is not None:
            goes = [likeness > settings.threshold for likeness, _ in alike[now]]
        else:
            goes = [1 - likeness < threshold or likeness > 0.8 for likeness, _ in alike[now]]
        spared[now] = [pair for pair, gone in zip(alike[now], goes, strict=True) if is_cut or not gone]
        protected[now] = settings.threshold is None
    within = of_share(alike, settings)
    kept = {
        t: [pair for pair in alike[t] if pair in spared[t] or (protected[t] and pair in within[t])]
        for t in alike
    }
    return put_together(tokens, plan, planned[:1], kept)


def tome(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    frames, planned, count = frames_of(tokens, plan), planned_of(plan), tokens.num_per_frame
    left = []
    for start in range(0, len(planned), 10):
        segment = planned[start : start + 10]
        caps = [min(plan[t], count) for t in segment]
        target = min(sum(caps), max(1, room(settings.prune_ratio, len(segment) * count)))
        # frame within the segment, source, sum, weight
        now = [(f, t * count + i, frames[t][i], 1) for f, t in enumerate(segment) for i in range(count)]
        while len(now) > target:
            now = merge_once(now, caps, target)
        left += [(source, total / weight, weight) for _, source, total, weight in now]
    values = np.array([value for _, value, _ in left]).reshape(-1, frames.shape[2])
    return values, [source for source, _, _ in left], [float(weight) for _, _, weight in left]


def merge_once(now: list, caps: list[int], target: int) -> list:
    """One round: the side of a token is its place in its frame, and turns with the frame."""
    own = [[token for token in now if token[0] == f] for f in range(len(caps))]
    sides = [(i + f) % 2 == 1 for f, tokens in enumerate(own) for i in range(len(tokens))]
    if len(set(sides)) == 1:
        sides = [i % 2 == 1 for i in range(len(now))]
    sources = [token for token, side in zip(now, sides, strict=True) if side]
    others = [token for token, side in zip(now, sides, strict=True) if not side]
    pairs = []
    for token in sources:
        likeness, other = max(
            ((cosine(token[2], other[2]), other) for other in others), key=lambda pair: pair[0]
        )
        pairs.append((likeness, token, other))
    pairs.sort(key=lambda pair: -pair[0])
    needs = [max(0, len(tokens) - cap) for tokens, cap in zip(own, caps, strict=True)]
    free = len(now) - target - sum(needs)
    chosen = []
    for f, need in enumerate(needs):
        chosen += [pair for pair in pairs if pair[1][0] == f][:need]
    rest = [pair for pair in pairs if not any(pair[1][1] == one[1][1] for one in chosen)]
    chosen += rest[:free]
    found = {source: (f, source, total, weight) for f, source, total, weight in now}
    for _, token, other in chosen:
        f, source, total, weight = found[other[1]]
        found[source] = (f, source, total + token[2], weight + token[3])
        del found[token[1]]
    return [found[source] for source in sorted(found)]


def untrained_policy(tokens: VisualTokens, plan: list[int], settings: CompressConfig) -> Reference:
    return stream_ttm(tokens, plan, settings, spare_below=0.9)


REFERENCES = {
    "none": none,
    "uniform": uniform,
    "dycoke": dycoke,
    "dtd": dtd,
    "dtd-pixels": dtd_pixels,
    "evs": evs,
    "policy": untrained_policy,
    "savemem": savemem,
    "stream-ttm": stream_ttm,
    "tome": tome,
}
