"""The whole stream as a few dozen mean frames, and the real frames nearest to those that stand for most.

Shape letters: T frames, N tokens of one frame, D hidden size, K means, C tokens of one mean, B frames of one block,
F real frames, Q tokens of a question, P tokens of probes.
"""

import torch

from pipeline.compress.uniform import pool_grid
from pipeline.memory.kmeans import weighted_kmeans
from pipeline.memory.slots import Rows, frame_rows, join, no_rows
from pipeline.methods import Method
from pipeline.streams import Clock, Held, MemoryConfig
from pipeline.tokens import whole_frames

METHOD = Method(
    source="Flash-VStream (arXiv 2506.23825), context and detail memory",
    stage="memory",
    what="averages frames that look alike, at half the side, into means ordered by their mean time, and holds whole the"
    " real frames nearest to the means that stand for most frames",
    differs="there 60 means and 30 frames, here what fits: half of the capacity for means. Frames are taken in blocks,"
    " which are shown whole until the next is full; k-means starts from merging the cheapest pairs, not at random. Of"
    " old frames only those are candidates that were held so far. Nothing is trained",
    stateful=True,
    positions="destination",
)


def make_clusters(config: MemoryConfig, probes_PD: torch.Tensor | None = None) -> "Clusters":
    """Return an empty memory; probes are not used.

    Raises:
        ConfigError: there is no room for two whole frames and two means.
    """
    del probes_PD
    return Clusters(config)


class Clusters:
    """Holds means of frames at half the side, real frames, and the latest frames, up to one block.

    When a block is full, weighted k-means brings the means and the block's frames down to the means that fit; then
    each of the heaviest means chooses in turn the nearest real frame, by Euclid at half the side, among those held and
    the block's. Blocks are counted from the stream's beginning. `read` does not depend on the question. A block takes
    O((K + F) K C D).
    """

    def __init__(self, config: MemoryConfig) -> None:
        per_frame = config.tokens_per_frame
        pooled = pool_grid(whole_frames(torch.zeros(1, per_frame, 1), config.grid), [max(1, per_frame // 4)])
        self.config = config
        self.clock = Clock(config)
        self.place_C, self.size_C = pooled.source_N, pooled.weight_N
        config.require(max(4 * per_frame, 4 * len(self.place_C)), "two whole frames and as much for means")
        self.num_means = config.capacity_tokens // 2 // len(self.place_C)
        whole = (config.capacity_tokens - self.num_means * len(self.place_C)) // per_frame
        self.block_frames = max(1, whole // 2)
        self.num_real = whole - self.block_frames
        self.mean_KCD: torch.Tensor | None = None
        self.mean_s_K = self.weight_K = torch.zeros(0, dtype=torch.float64)
        self.real_FCD: torch.Tensor | None = None
        self.real, self.block = no_rows(0), no_rows(0)

    def add(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        """Take the next frames; see Memory. Loops over blocks: each stands on the one before."""
        index_T = self.clock.admit(values_TND, pts_s_T)
        start = 0
        while start < len(values_TND):
            room = self.block_frames - len(self.block) // self.config.tokens_per_frame
            part = slice(start, start + room)
            all_TN = torch.ones(values_TND[part].shape[:2], dtype=torch.bool, device=values_TND.device)
            rows = frame_rows(values_TND[part], pts_s_T[part], index_T[part], all_TN)
            self.block = join([self.block, rows]) if len(self.block) else rows
            if len(self.block) == self.block_frames * self.config.tokens_per_frame:
                self._settle()
            start += room

    def _settle(self) -> None:
        """Take the block's frames into the means, and choose the real frames anew."""
        block_BCD = self._pool(self.block)
        block_s_B = self.block.pts_s_M[:: self.config.tokens_per_frame]
        ones_B = torch.ones_like(block_s_B)
        if self.mean_KCD is None:
            points_KCD, times_s_K, weight_K = block_BCD, block_s_B, ones_B
        else:
            points_KCD = torch.cat([self.mean_KCD, block_BCD])
            times_s_K, weight_K = torch.cat([self.mean_s_K, block_s_B]), torch.cat([self.weight_K, ones_B])
        shares_KP = weighted_kmeans(points_KCD.flatten(1), weight_K, self.num_means)
        shares_KP = shares_KP[(shares_KP @ times_s_K).argsort(stable=True)]
        self.mean_KCD = _centres(shares_KP, points_KCD)
        self.mean_s_K = shares_KP @ times_s_K
        self.weight_K = (shares_KP > 0).to(weight_K.dtype) @ weight_K
        self._choose_real(block_BCD)
        self.block = no_rows(0)

    def _choose_real(self, block_BCD: torch.Tensor) -> None:
        """Let each of the heaviest means choose the nearest real frame that is left."""
        assert self.mean_KCD is not None
        per_frame = self.config.tokens_per_frame
        candidates = join([self.real, self.block]) if len(self.real) else self.block
        pooled_FCD = block_BCD if self.real_FCD is None else torch.cat([self.real_FCD, block_BCD])
        heaviest = self.weight_K.argsort(descending=True, stable=True)[: self.num_real]
        far_KF = torch.cdist(
            self.mean_KCD[heaviest].flatten(1),
            pooled_FCD.flatten(1),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        chosen: list[int] = []
        for far_F in far_KF:
            if len(chosen) < far_KF.shape[1]:
                far_F[chosen] = torch.inf
                chosen.append(int(far_F.argmin()))
        frames = torch.tensor(sorted(chosen), dtype=torch.int64, device=far_KF.device)
        index = frames[:, None] * per_frame + torch.arange(per_frame, device=far_KF.device)
        self.real, self.real_FCD = candidates.take(index.flatten()), pooled_FCD[frames]

    def _pool(self, rows: Rows) -> torch.Tensor:
        """Return whole frames at half the side, [frames, C, D], float32 or wider."""
        wide = torch.promote_types(rows.values_MD.dtype, torch.float32)
        frames_FND = rows.values_MD.to(wide).unflatten(0, (-1, self.config.tokens_per_frame))
        tokens = whole_frames(frames_FND, self.config.grid)
        return pool_grid(tokens, [len(self.place_C)] * len(frames_FND)).values_ND.unflatten(
            0, (-1, len(self.place_C))
        )

    def read(self, query_QD: torch.Tensor | None = None) -> Held:
        """Return means, real frames and the latest frames."""
        del query_QD
        parts = [part for part in (self._mean_rows(), self.real, self.block) if len(part)]
        return join(parts).sorted().held() if parts else no_rows(0).held()

    def _mean_rows(self) -> Rows:
        """Return the means as tokens."""
        if self.mean_KCD is None:
            return no_rows(0)
        num, each = self.mean_KCD.shape[:2]
        device = self.mean_KCD.device
        return Rows(
            values_MD=self.mean_KCD.flatten(0, 1).to(self.real.values_MD.dtype),
            pts_s_M=self.mean_s_K.repeat_interleave(each),
            place_M=self.place_C.to(device).repeat(num),
            weight_M=(self.weight_K[:, None] * self.size_C.to(device)).flatten().float(),
            rank_M=self.mean_s_K.repeat_interleave(each),
            order_M=torch.arange(num * each, device=device),
        )

    @property
    def num_tokens(self) -> int:
        return len(self.weight_K) * len(self.place_C) + len(self.real) + len(self.block)

    @property
    def num_bytes(self) -> int:
        means_bytes = sum(0 if pooled is None else pooled.nbytes for pooled in (self.mean_KCD, self.real_FCD))
        times_bytes = self.mean_s_K.nbytes + self.weight_K.nbytes
        return means_bytes + times_bytes + self.real.num_bytes + self.block.num_bytes


def _centres(shares_KP: torch.Tensor, points_PCD: torch.Tensor) -> torch.Tensor:
    """Return the centre of each cluster; most are one point, which is taken as it is."""
    centre_KCD = points_PCD[shares_KP.argmax(1)]
    joined_K = (shares_KP > 0).sum(1) > 1
    sums_KF = shares_KP[joined_K].to(points_PCD.dtype) @ points_PCD.flatten(1)
    centre_KCD[joined_K] = sums_KF.unflatten(1, points_PCD.shape[1:])
    return centre_KCD
