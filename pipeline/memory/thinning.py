"""What savemem's tiers keep of a frame: what changed, was at a cut or matters; then scattered tokens.

Shape letters: L frames, F those compared with one before, P those and the last before, N tokens of one frame, D hidden
size, M tokens.
"""

import torch
from torch.nn.functional import normalize

from pipeline.compress.redundancy import squares, widen
from pipeline.compress.savemem import (
    DIRECT_DROP_SIM,
    PROTECT_WEIGHT,
    SCENE_CHANGE,
    SMOOTHING,
    nearby,
    otsu_thresholds,
)
from pipeline.compress.uniform import pooled_grid
from pipeline.errors import ConfigError
from pipeline.memory.slots import Rows
from pipeline.streams import MemoryConfig

ANCHOR_TOKENS = 16
"""Tokens of a frame's grid from which the long tier keeps one."""


class Thinning:
    """Decides frame by frame, in the order of time, which tokens the middle tier gets, and how much each matters.

    The rule is compressor `savemem`'s, with its constants, carried from chunk to chunk: a token goes when its largest
    cosine with the 3 x 3 neighbourhood in the frame before, less .15 times how much it matters, is above .8
    (`threshold`), or when 1 less that is below the running mean of Otsu's thresholds. At a cut and in the first frame
    all stay.
    """

    def __init__(self, config: MemoryConfig, probes_PD: torch.Tensor | None) -> None:
        if probes_PD is None or not len(probes_PD) or not bool(probes_PD.isfinite().all()):
            msg = (
                f"memory {config.memory!r} tells what matters by probes, token embeddings of made-up questions, and got"
                f" {'none' if probes_PD is None or not len(probes_PD) else 'some that are not finite'}; pass them, or"
                " take another memory"
            )
            raise ConfigError(msg)
        self.config = config
        self.drop_above = DIRECT_DROP_SIM if config.threshold is None else config.threshold
        self.probes_MD = normalize(probes_PD.to(torch.promote_types(probes_PD.dtype, torch.float32)), dim=1)
        self.last_1ND: torch.Tensor | None = None
        self.mean_change: float | None = None
        self.mean_threshold = 0.0

    @property
    def num_bytes(self) -> int:
        """Bytes of the last frame and the probes."""
        return self.probes_MD.nbytes + (0 if self.last_1ND is None else self.last_1ND.nbytes)

    def thin(self, rows: Rows) -> Rows:
        """Return what whole frames keep, ranked by how much each token matters."""
        leaving_LND = rows.values_MD.unflatten(0, (-1, self.config.tokens_per_frame))
        first = 0 if self.last_1ND is None else 1
        all_PND = leaving_LND if self.last_1ND is None else torch.cat([self.last_1ND, leaving_LND])
        squares_PN = squares(all_PND, range(len(all_PND)))
        matters_LN = self._matters(leaving_LND, squares_PN[first:])
        cosine_FN = nearby(all_PND, squares_PN, self.config.grid)
        cut_F, threshold_F = self._follow(1.0 - cosine_FN)
        likeness_FN = cosine_FN - PROTECT_WEIGHT * matters_LN[len(matters_LN) - len(cosine_FN) :].clamp(
            min=0.0
        )
        is_like_FN = (1.0 - likeness_FN < threshold_F[:, None]) | (likeness_FN > self.drop_above)
        kept_LN = torch.ones_like(matters_LN, dtype=torch.bool)
        kept_LN[len(kept_LN) - len(cosine_FN) :] = cut_F[:, None] | ~is_like_FN
        self.last_1ND = leaving_LND[-1:].clone()
        kept_M = kept_LN.flatten()
        return rows.take(kept_M).ranked(matters_LN.flatten()[kept_M])

    def _matters(self, values_LND: torch.Tensor, squares_LN: torch.Tensor) -> torch.Tensor:
        """Return each token's largest cosine with a probe, float64 [L, N]; 0 for tokens of zeros.

        Loops over probes: sums along rows are the same to the bit for any chunks, a matrix product's need not be.
        """
        wide_LND = widen(values_LND)
        found = [
            (wide_LND * probe_D).sum(-1) for probe_D in self.probes_MD.to(wide_LND.device, wide_LND.dtype)
        ]
        best_LN = torch.stack(found).amax(0).double()
        return torch.where(squares_LN > 0, best_LN / squares_LN.sqrt(), 0.0)

    def _follow(self, distance_FN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which frames are at a cut, and the threshold of each. Loops over frames: means run."""
        cuts: list[bool] = []
        running: list[float] = []
        for change, threshold in zip(distance_FN.mean(1).tolist(), otsu_thresholds(distance_FN), strict=True):
            if self.mean_change is None:
                self.mean_change, self.mean_threshold = change, threshold
                cuts.append(False)
            else:
                cuts.append(change > SCENE_CHANGE * self.mean_change and change > 1.0 - DIRECT_DROP_SIM)
                self.mean_change += SMOOTHING * (change - self.mean_change)
                self.mean_threshold += SMOOTHING * (threshold - self.mean_threshold)
            running.append(self.mean_threshold)
        device = distance_FN.device
        return torch.tensor(cuts, dtype=torch.bool, device=device), torch.tensor(
            running, dtype=torch.float64, device=device
        )


def disperse(rows: Rows, grid: tuple[int, int]) -> Rows:
    """Return of each frame the token of highest rank in every cell of a coarse grid, of equals the first.

    Cells hold some 16 tokens, so what is left is scattered over the frame.
    """
    num_rows, num_columns = pooled_grid(grid, max(1, grid[0] * grid[1] // ANCHOR_TOKENS))
    row_M, column_M = rows.place_M // grid[1], rows.place_M % grid[1]
    cell_M = row_M * num_rows // grid[0] * num_columns + column_M * num_columns // grid[1]
    group_M = rows.order_M // (grid[0] * grid[1]) * (num_rows * num_columns) + cell_M
    order = rows.rank_M.argsort(descending=True, stable=True)
    order = order[group_M[order].argsort(stable=True)]
    group = group_M[order]
    first = torch.ones(len(group), dtype=torch.bool, device=group.device)
    first[1:] = group[1:] != group[:-1]
    return rows.take(order[first].sort().values)
