"""What savemem's tiers keep of a frame: what changed, was at a cut or matters; then scattered tokens.

Shape letters: L frames, N tokens of one frame, D hidden size, R rows and W columns of a frame's grid, P tokens of
probes, M tokens.
"""

import torch
from torch.nn.functional import normalize

from pipeline.compress.uniform import pooled_grid
from pipeline.errors import ConfigError
from pipeline.memory.otsu import otsu_thresholds
from pipeline.memory.slots import Rows
from pipeline.streams import MemoryConfig

DROP_LIKENESS = 0.8
"""Cosine from which a token is thrown away whatever it means (direct_drop_sim), where no threshold is set."""
PROTECTION = 0.15
"""How much further from its neighbourhood than it is a token counts that is all that probes are (semantic_protect)."""
CUT = 1.5
"""How many times the running mean change a frame's must be to be a cut (scene_change_multiplier)."""
NEW_SHARE = 0.2
"""Share of a new frame in the running means (alpha)."""
ANCHOR_TOKENS = 16
"""Tokens of a frame's grid from which the long tier keeps one."""
SHIFTS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))


class Thinning:
    """Decides frame by frame, in the order of time, which tokens the middle tier gets, and how much each matters.

    A token is thrown away when its largest cosine with the 3 x 3 neighbourhood in the frame before is .8 or more
    (`threshold`), or when its distance, with .15 times what it matters, is below Otsu's threshold for the distances of
    a frame, as a running mean. At a cut and in the first frame all stay.
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
        self.drop_likeness = DROP_LIKENESS if config.threshold is None else config.threshold
        self.probes_PD = normalize(probes_PD.to(torch.promote_types(probes_PD.dtype, torch.float32)), dim=1)
        self.last_1ND: torch.Tensor | None = None
        self.mean_change: float | None = None
        self.mean_threshold = 0.0

    @property
    def num_bytes(self) -> int:
        """Bytes of the last frame and the probes."""
        return self.probes_PD.nbytes + (0 if self.last_1ND is None else self.last_1ND.nbytes)

    def thin(self, rows: Rows) -> Rows:
        """Return what whole frames keep, ranked by how much each token matters."""
        wide = torch.promote_types(rows.values_MD.dtype, torch.float32)
        unit_LND = unit(rows.values_MD.to(wide)).unflatten(0, (-1, self.config.tokens_per_frame))
        before_LND = torch.cat([unit_LND[:1] if self.last_1ND is None else self.last_1ND, unit_LND[:-1]])
        likeness_LN = neighbour_likeness(unit_LND, before_LND, self.config.grid)
        distance_LN = (1 - likeness_LN).clamp(0.0, 2.0)
        matters_LN = self._matters(unit_LND)
        cut_L, threshold_L = self._follow(distance_LN, self.last_1ND is None)
        changed_LN = distance_LN + PROTECTION * matters_LN >= threshold_L[:, None]
        kept_LN = cut_L[:, None] | ((likeness_LN < self.drop_likeness) & changed_LN)
        self.last_1ND = unit_LND[-1:].clone()
        kept_M = kept_LN.flatten()
        return rows.take(kept_M).ranked(matters_LN.flatten()[kept_M])

    def _matters(self, unit_LND: torch.Tensor) -> torch.Tensor:
        """Return each token's largest cosine with a probe. Loops over probes; see likeness.py."""
        found = [
            (unit_LND * probe_D).sum(-1) for probe_D in self.probes_PD.to(unit_LND.device, unit_LND.dtype)
        ]
        return torch.stack(found).amax(0)

    def _follow(self, distance_LN: torch.Tensor, begins: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which frames are at a cut, and the threshold of each. Loops over frames: means run."""
        changes = distance_LN.to(torch.float64).mean(1).tolist()
        thresholds = otsu_thresholds(distance_LN, 2.0).tolist()
        cuts: list[bool] = []
        running: list[float] = []
        for frame, (change, threshold) in enumerate(zip(changes, thresholds, strict=True)):
            if begins and frame == 0:  # compared with itself
                cuts.append(True)
            elif self.mean_change is None:
                self.mean_change, self.mean_threshold = change, threshold
                cuts.append(False)
            else:
                cuts.append(change > CUT * self.mean_change)
                self.mean_change += NEW_SHARE * (change - self.mean_change)
                self.mean_threshold += NEW_SHARE * (threshold - self.mean_threshold)
            running.append(self.mean_threshold)
        device = distance_LN.device
        return torch.tensor(cuts, device=device), torch.tensor(running, dtype=torch.float64, device=device)


def unit(values_MD: torch.Tensor) -> torch.Tensor:
    """Return tokens of length 1; one of length 0 stays."""
    return values_MD / values_MD.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-30)


def neighbour_likeness(
    unit_LND: torch.Tensor, before_LND: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Return each token's largest cosine with the 3 x 3 neighbourhood of its place in another frame, [L, N].

    Args:
        unit_LND: tokens of length 1.
        before_LND: for each frame the one to compare with, of length 1 too.
        grid: rows and columns of a frame.
    """
    one_LRWD, other_LRWD = unit_LND.unflatten(1, grid), before_LND.unflatten(1, grid)
    best_LRW = unit_LND.new_full(one_LRWD.shape[:3], -1.0)
    for down, right in SHIFTS:
        rows, other_rows = _overlap(grid[0], down)
        columns, other_columns = _overlap(grid[1], right)
        found = (one_LRWD[:, rows, columns] * other_LRWD[:, other_rows, other_columns]).sum(-1)
        best_LRW[:, rows, columns] = torch.maximum(best_LRW[:, rows, columns], found)
    return best_LRW.flatten(1)


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Return where places lie that have a neighbour so far away, and where the neighbours lie."""
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))


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
