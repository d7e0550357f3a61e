"""Keys and values of frames that left the device: what is known of them there, and where they went.

Shape letters: K tokens of all blocks of a group, B blocks, n tokens of one block, H key heads, d head size, E = H d.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from actors.kv.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of one group; a block is a frame and the text in front of it."""

    layers: Sequence[torch.Tensor]
    """Per layer [K, 2, H, d]: keys, not turned, and values; a block's tokens lie together."""
    means_BlE: torch.Tensor
    """[B, layers, E] float32: mean key of each block's visual tokens."""
    lengths: Sequence[int]
    """Tokens of each block."""
    tokens: Tokens
    """K of them, in the memory of the host."""


class Archive(Protocol):
    """Where blocks go. They are numbered in the order in which they came."""

    @property
    def extents(self) -> Sequence[int]:
        """Positions that each block takes up."""
        ...

    def add(self, blocks: Blocks) -> None:
        """Take the blocks of one more group."""
        ...

    def means(self, layer: int) -> torch.Tensor:
        """Return [B, E] float32: the mean keys of all blocks in one layer."""
        ...

    def load(self, layer: int, block: int) -> torch.Tensor:
        """Return [n, 2, H, d]: keys, not turned, and values of one block in one layer."""
        ...

    def tokens(self, block: int) -> Tokens:
        """Return the tokens of one block."""
        ...


class HostArchive:
    """Blocks in the memory of the host."""

    def __init__(self) -> None:
        self.extents: list[int] = []
        self._groups: list[tuple[list[torch.Tensor], Tokens]] = []
        """Keys and values per layer, and whose they are."""
        self._places: list[tuple[int, slice]] = []
        """Per block its group, and its tokens there."""
        self._means: list[torch.Tensor] = []
        """[B, layers, E] each, of blocks one after the other; joined when they are asked for."""

    @property
    def num_bytes(self) -> int:
        """Bytes of everything; all of it is in the memory of the host."""
        groups = sum(layer.nbytes for layers, _ in self._groups for layer in layers)
        return (
            groups
            + sum(tokens.num_bytes for _, tokens in self._groups)
            + sum(one.nbytes for one in self._means)
        )

    def add(self, blocks: Blocks) -> None:
        """Take the blocks of one more group; on the way from a GPU they are copied to memory that it reads fast."""
        layers = [layer.cpu().pin_memory() if layer.is_cuda else layer for layer in blocks.layers]
        self._groups.append((layers, blocks.tokens))
        for part in parts_of(blocks.lengths):
            self._places.append((len(self._groups) - 1, part))
            self.extents.append(blocks.tokens.take(part).extent)
        self._means.append(blocks.means_BlE.cpu())

    def means(self, layer: int) -> torch.Tensor:
        """Return [B, E] float32: the mean keys of all blocks in one layer."""
        if len(self._means) > 1:
            self._means = [torch.cat(self._means)]
        return self._means[0][:, layer]

    def load(self, layer: int, block: int) -> torch.Tensor:
        """Return [n, 2, H, d]: keys, not turned, and values of one block in one layer."""
        group, part = self._places[block]
        return self._groups[group][0][layer][part]

    def tokens(self, block: int) -> Tokens:
        """Return the tokens of one block."""
        group, part = self._places[block]
        return self._groups[group][1].take(part)


def parts_of(lengths: Sequence[int]) -> list[slice]:
    """Return where each of some blocks lies among the tokens of all."""
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


class DeviceBlocks:
    """The blocks of one layer that were used last, on the device."""

    def __init__(self, archive: Archive, layer: int, most: int) -> None:
        self._archive, self._layer, self._most = archive, layer, most
        self._found: OrderedDict[int, torch.Tensor] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Bytes of what is on the device."""
        return sum(block.nbytes for block in self._found.values())

    def load(self, blocks: Sequence[int], like: torch.Tensor) -> list[torch.Tensor]:
        """Return blocks [n, 2, H, d] in the number format and on the device of another tensor."""
        found: list[torch.Tensor] = []
        for block in blocks:
            one = self._found.pop(block, None)
            if one is None:
                one = self._archive.load(self._layer, block).to(like.device, like.dtype, non_blocking=True)
            self._found[block] = one
            found.append(one)
            if len(self._found) > self._most:
                self._found.popitem(last=False)
        return found
