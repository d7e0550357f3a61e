"""How many visual tokens each frame of a window gets: integers, pure, never over budget."""

from dataclasses import dataclass
from typing import Literal

RouteName = Literal["global", "fragment"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Visual tokens per sampled frame for one (window, query)."""

    route: RouteName
    tokens_N: tuple[int, ...]
    """Tokens of each sampled frame; 0 = not shown to the model."""
    reason: str
    """Why this plan and not another; goes to the row."""
