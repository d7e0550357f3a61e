"""How much of each frame to keep, decided by a small network from what the last few frames showed.

The network sees numbers, not tokens: how much changed against each of the last frames, at how many places, and how
much there is to see. So it is a few hundred weights, works with any model's tokens, and costs what comparing costs.

Shape letters: N tokens of one frame, D hidden size, T frames, P planned frames, L frames before, F features.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.compress.redundancy import (
    chunks,
    cut_to_plan,
    lagged_cosines,
    pick,
    planned_frames,
    squares,
    widen,
)
from pipeline.compress.stream_ttm import THRESHOLD, prune_stream
from pipeline.config import CompressConfig
from pipeline.errors import ModelError
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame

METHOD = Method(
    source="-",
    stage="compress",
    what="a small network reads how each frame differs from the last 3 and says how much of it to keep, its least alike"
    " tokens; at most the `compress.prune_ratio` share goes. Without `compress.policy` tokens go as in `stream-ttm`,"
    " of that share those above a cosine of .9; `compress.threshold` takes the place of both",
    differs="ours: StreamDyCoke is said to have a learned policy, its code has none",
    needs=("weights",),
    settings=("prune_ratio", "threshold", "scope", "policy"),
    training_free=False,
)

WINDOW = 4
"""Frames a decision rests on, the frame itself included."""
CHANGED = (0.05, 0.1, 0.2, 0.4)
"""Changes (1 - cosine) above which a token counts as changed; a feature for each."""
FEATURES = (
    *(f"{what}_change_{lag}_back" for lag in range(1, WINDOW) for what in ("mean", "least", "most")),
    *(f"share_above_{change:g}" for change in CHANGED),
    "mean_novelty",
    "most_novelty",
    "detail",
    "frames_known",
)
"""Names of the network's inputs, in order."""
WIDTH = 16
LEAST_KEPT = 0.01
"""Share of a frame that the network keeps in any case."""
TEMPERATURE = 0.1
"""Of the soft mask, as a share of a frame's tokens."""
FACTS_FILE, WEIGHTS_FILE = "policy.json", "policy.safetensors"


class KeepPolicy(nn.Module):
    """Says of each frame which share of its tokens to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(len(FEATURES), WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    @staticmethod
    def features(values_TND: torch.Tensor, before_LND: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the network reads of each frame, [T, F] float32; see FEATURES.

        Change is 1 - cosine to the same place of an earlier frame, novelty the least change against the last 3; 1
        where there is no such frame. Detail is the part of the tokens' power that is not their mean's. Nothing is
        differentiable in the tokens. Chunks of a stream give what the whole gives.

        Args:
            values_TND: tokens of the frames.
            before_LND: of the frames just before them, of which the last 3 count.

        Raises:
            AnswerError: tokens are not finite.
        """
        with torch.no_grad():
            known = 0 if before_LND is None else min(WINDOW - 1, len(before_LND))
            seen = values_TND
            if before_LND is not None and known:
                seen = torch.cat([before_LND[-known:], values_TND])
            return _features(seen, _changes(seen, range(-known, len(values_TND))))[known:]

    def forward(self, features_TF: torch.Tensor) -> torch.Tensor:
        """Return the share of each frame to keep, [T] in (0, 1]."""
        return LEAST_KEPT + (1.0 - LEAST_KEPT) * self.layers(features_TF)[..., 0].sigmoid()

    def save(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
        """Write the weights and what is known of them to a folder, made if it is not there; facts come last.

        Raises:
            ModelError: the folder cannot be written.
        """
        place = Path(folder).expanduser()
        weights = {
            name: value.detach().float().cpu().contiguous() for name, value in self.state_dict().items()
        }
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / FACTS_FILE).unlink(missing_ok=True)
            save_file(weights, place / WEIGHTS_FILE)
            (place / FACTS_FILE).write_text(
                json.dumps({"features": FEATURES, **(facts or {})}, indent=2) + "\n"
            )
        except OSError as error:
            msg = f"a policy cannot be written to {str(folder)!r}: {error}; name a folder that can be written"
            raise ModelError(msg) from error

    @classmethod
    def load(cls, folder: str | Path) -> "KeepPolicy":
        """Return the policy of a folder, on the CPU.

        Raises:
            ModelError: the folder holds none, or one for other features.
        """
        place = Path(folder).expanduser()
        try:
            facts = json.loads((place / FACTS_FILE).read_text())
            weights = load_file(place / WEIGHTS_FILE)
        except (OSError, ValueError, SafetensorError) as error:
            msg = (
                f"folder {str(folder)!r} holds no policy ({FACTS_FILE}, {WEIGHTS_FILE}): {error}; set --compress.policy"
                " to what training wrote"
            )
            raise ModelError(msg) from error
        policy = cls()
        try:
            if tuple(facts["features"]) != FEATURES:
                raise ValueError(f"features {facts['features']}, expected {list(FEATURES)}")
            policy.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            msg = f"the policy in {str(folder)!r} is for another version of this program: {error}; train it again"
            raise ModelError(msg) from error
        return policy.eval().requires_grad_(requires_grad=False)


def describe_policy(folder: str | Path) -> str:
    """Return what a folder's policy is told from others by: 12 hex digits over its weights.

    Raises:
        ModelError: see `KeepPolicy.load`.
    """
    weights = KeepPolicy.load(folder).state_dict()
    digest = hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights)))
    return digest.hexdigest()[:12]


def novelty(values_TND: torch.Tensor) -> torch.Tensor:
    """Return how unlike the same place of the last 3 frames a token is, float64 [T, N]; inf in the first frame.

    Raises:
        AnswerError: tokens are not finite.
    """
    with torch.no_grad():
        return _changes(values_TND, range(len(values_TND))).amin(0)


def keep_mask(novelty_TN: torch.Tensor, keep_T: torch.Tensor) -> torch.Tensor:
    """Return 1.0 for the most novel ceil(share x N) tokens of each frame and 0.0 for others, [T, N] float32.

    Of equal ones the earlier stay. Backwards it is the soft mask that training needs (straight-through): a sigmoid in
    the distance of a token's rank from the share, in units of a frame.
    """
    count = novelty_TN.shape[1]
    order_TN = novelty_TN.argsort(dim=1, descending=True, stable=True)
    number_N = torch.arange(count, device=novelty_TN.device)
    rank_TN = torch.empty_like(order_TN).scatter_(1, order_TN, number_N.expand_as(order_TN))
    # a thousandth of a token: what a share is off in float32 must not cost one more
    hard_TN = (rank_TN < (keep_T[:, None] * count - 1e-3).ceil()).to(keep_T.dtype)
    soft_TN = ((keep_T[:, None] - (rank_TN + 0.5) / count) / TEMPERATURE).sigmoid()
    return hard_TN + (soft_TN - soft_TN.detach())


def keep_by_policy(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return of each frame the share that a trained policy says, the tokens least like the last 3 planned frames.

    No less than the share 1 - `settings.prune_ratio` stays. The first planned frame is whole, pooled to its plan.
    Causal: a frame's share depends on it and 3 planned frames before. O(N T D) time.

    Without a policy (`settings.policy` empty) this is `stream-ttm`, with `settings.threshold` or, where there is none,
    sparing what is less alike than .9; its share is of the whole clip, unless `settings.scope` says otherwise.

    Raises:
        AnswerError: tokens are not finite.
        ModelError: see `KeepPolicy.load`.
    """
    if not settings.policy:
        return prune_stream(tokens, plan_T, settings, spare_below=THRESHOLD)
    values_TND = by_frame(tokens, len(plan_T))
    frames = planned_frames(plan_T)
    values_PND = pick(values_TND, frames)
    change_LPN = _changes(values_PND, frames)
    novelty_PN = change_LPN.amin(0)
    policy = _loaded(settings.policy, str(values_TND.device))
    with torch.no_grad():
        keep_P = policy(_features(values_PND, change_LPN)).clamp(min=1.0 - settings.prune_ratio)
        kept_PN = keep_mask(novelty_PN, keep_P) > 0
    return cut_to_plan(tokens, plan_T, kept_PN, -novelty_PN, [place == 0 for place in range(len(frames))])


@lru_cache(maxsize=8)
def _loaded(folder: str, device: str) -> KeepPolicy:
    return KeepPolicy.load(folder).to(device)


def _changes(values_PND: torch.Tensor, frames: Sequence[int]) -> torch.Tensor:
    """Return 1 - cosine to the same place 1, 2 and 3 frames before, [L, P, N] float64; inf where there is none.

    Raises:
        AnswerError: tokens are not finite; the message takes the frame's number from `frames`.
    """
    squares_PN = squares(values_PND, frames)
    return 1.0 - lagged_cosines(values_PND, squares_PN, WINDOW - 1)


def _features(values_PND: torch.Tensor, change_LPN: torch.Tensor) -> torch.Tensor:
    """Return what the network reads of the frames of a stream's beginning, [P, F]."""
    novelty_PN = change_LPN.amin(0).nan_to_num(posinf=1.0)
    found: list[torch.Tensor] = []
    for change_PN in change_LPN.nan_to_num(posinf=1.0):
        found += [change_PN.mean(1), change_PN.amin(1), change_PN.amax(1)]
    found += [(novelty_PN > change).double().mean(1) for change in CHANGED]
    known_P = torch.arange(len(values_PND), device=values_PND.device).clamp(max=WINDOW - 1) / (WINDOW - 1)
    found += [novelty_PN.mean(1), novelty_PN.amax(1), _detail(values_PND), known_P.double()]
    return torch.stack(found, 1).float()


def _detail(values_PND: torch.Tensor) -> torch.Tensor:
    """Return how far a frame's tokens are from their mean, [P]: 0 for one repeated token, 1 for a mean of zeros."""
    power_P = values_PND.new_zeros(len(values_PND), dtype=torch.float64)
    of_mean_P = torch.zeros_like(power_P)
    for part in chunks(values_PND):
        wide = widen(values_PND[part])
        power_P[part] = (wide * wide).sum(2).double().mean(1)
        of_mean_P[part] = wide.mean(1).double().square().sum(1)
    share_P = torch.where(power_P > 0, of_mean_P / power_P, 1.0)
    return (1.0 - share_P).clamp(min=0.0).sqrt()
