"""One video's keys and values in a folder, so that later questions, in other processes, need no frame again.

    manifest.json              model, shape, and per group its file and what is known of its blocks
    init.safetensors           what stands in front of the first frame
    group-000000.safetensors   keys and values of the frames of a group, their mean keys, their tokens

A file is whole or not there, and the manifest is written last: it never names a file that is not complete. Files are
not changed, a group that loses blocks is written anew under the next number. One process writes; readers come later.

Shape letters: K tokens of a group, B blocks, n tokens of a block, H key heads, d head size, E = H d.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from actors.kv.blocks import Blocks, parts_of
from actors.kv.tokens import Tokens
from pipeline.errors import ModelError, StoreError
from pipeline.store import write_bytes

VERSION = 1
SLACK = 1.25
"""How far the files may outgrow their cap before blocks are thrown away: it means writing files anew."""
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Group:
    """What the manifest says of one file."""

    file: str
    num_bytes: int
    lengths: list[int]
    """Tokens of each block, as all below."""
    extents: list[int]
    times_s: list[float]
    """When its frame is shown; -1 = it has none."""
    novelty: list[float]
    """1 - cosine of its mean key to that of the block before, over all layers."""


@dataclass(slots=True)
class Manifest:
    """What a folder holds."""

    model: str
    """As the user wrote it."""
    revision: str
    """Of its files; see actors/models/loading.py."""
    layers: int
    dtype: str
    bytes_per_hour: int
    """Most bytes for each hour of video; 0 = no cap."""
    init_file: str = ""
    is_complete: bool = False
    """Whether the whole video was read."""
    next_number: int = 0
    num_read: int = 0
    """Frames read so far, those that were thrown away again among them."""
    last_s: float = 0.0
    """When the last of them is shown."""
    groups: list[Group] = field(default_factory=list[Group])
    version: int = VERSION


class KvStore:
    """An archive of blocks (see blocks.py) in a folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._files: dict[str, Any] = {}
        self._places: list[tuple[Group, slice]] = []
        self._means: torch.Tensor | None = None
        self._list_blocks()

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> "KvStore":
        """Return an empty store.

        Raises:
            StoreError: the folder already holds one, whole or of a run that was killed, or cannot be written.
        """
        if (folder / "manifest.json").exists():
            msg = (
                f"{folder} already holds a KV store, or what a killed run, or one that still goes on, wrote of it; take"
                " another folder, or delete it"
            )
            raise StoreError(msg)
        store = cls(folder, manifest)
        store._save_manifest()
        return store

    @classmethod
    def open(cls, folder: Path, model: str, revision: str) -> "KvStore":
        """Return what `create` and `add` left in a folder.

        Raises:
            StoreError: it holds no complete store that this version can read.
            ModelError: it is of another model, or another revision of it.
        """
        try:
            found = json.loads((folder / "manifest.json").read_text())
            if found["version"] != VERSION:
                msg = f"{folder} holds a KV store of version {found['version']}, expected {VERSION}: index again"
                raise StoreError(msg)
            groups = [Group(**group) for group in found.pop("groups")]
            manifest = Manifest(**found, groups=groups)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{folder} holds no KV store ({error}); index the video first"
            raise StoreError(msg) from error
        if not manifest.is_complete:
            msg = f"{folder}: indexing did not come to its end; delete the folder and index again"
            raise StoreError(msg)
        if manifest.revision != revision:
            msg = (
                f"{folder} was indexed with model {manifest.model!r}, revision {manifest.revision}; found {model!r},"
                f" revision {revision}: answer with that one, or index again"
            )
            raise ModelError(msg)
        return cls(folder, manifest)

    # --- an archive ----------------------------------------------------------------------------------------

    @property
    def extents(self) -> Sequence[int]:
        """Positions that each block takes up."""
        return self._extents

    def add(self, blocks: Blocks) -> None:
        """Write the blocks of one more group; blocks that say least go when the folder outgrows its cap.

        Raises:
            StoreError: the folder cannot be written, or the numbers do not fit into its number format.
        """
        times = blocks.tokens.time_s_L.nan_to_num(-1.0)
        parts = parts_of(blocks.lengths)
        group = self._write(
            list(blocks.layers), blocks.means_BlE.cpu(), blocks.tokens,
            lengths=list(blocks.lengths),
            extents=[blocks.tokens.take(part).extent for part in parts],
            times_s=[float(times[part].max()) for part in parts],
            novelty=self._novelty(blocks.means_BlE.cpu()),
        )  # fmt: skip
        self.manifest.groups.append(group)
        self.manifest.num_read += len(parts)
        self.manifest.last_s = max(self.manifest.last_s, float(times.max()))
        self._list_blocks()
        cap = self._cap_bytes()
        if cap and self.num_bytes > SLACK * cap:
            self.trim(cap)
        else:
            self._save_manifest()

    def means(self, layer: int) -> torch.Tensor:
        """Return [B, E] float32: the mean keys of all blocks in one layer."""
        if self._means is None:
            self._means = torch.cat([self._read(group).get_tensor("means") for group in self.manifest.groups])
        return self._means[:, layer]

    def load(self, layer: int, block: int) -> torch.Tensor:
        """Return [n, 2, H, d]: keys, not turned, and values of one block in one layer."""
        group, part = self._places[block]
        return self._read(group).get_slice(f"layer.{layer}")[part]

    def tokens(self, block: int) -> Tokens:
        """Return the tokens of one block."""
        group, part = self._places[block]
        return _tokens_of(self._read(group)).take(part)

    # --- beginning and end ---------------------------------------------------------------------------------

    def write_init(self, layers: Sequence[torch.Tensor], tokens: Tokens) -> None:
        """Write what stands in front of the first frame, [K, 2, H, d] per layer."""
        self.manifest.init_file = "init.safetensors"
        self._write_file("init.safetensors", list(layers), tokens, {})

    def read_init(self) -> tuple[list[torch.Tensor], Tokens] | None:
        """Return what `write_init` wrote; None = nothing."""
        if not self.manifest.init_file:
            return None
        file = self._read_file(self.manifest.init_file)
        return [file.get_tensor(f"layer.{layer}") for layer in range(self.manifest.layers)], _tokens_of(file)

    def finish(self) -> None:
        """Note that the whole video was read, and keep to the cap."""
        self.manifest.is_complete = True
        cap = self._cap_bytes()
        # what a file holds beside its blocks does not go with them, so once may not be enough
        while cap and self.num_bytes > cap and len(self._places) > 1:
            self.trim(cap)
        self._save_manifest()

    def discard(self) -> None:
        """Delete everything that was written, as far as that is possible, so that the folder can be used again."""
        self._files.clear()
        groups = [_name(number) for number in range(self.manifest.next_number)]
        for name in ("manifest.json", "init.safetensors", *groups):
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)

    # --- the cap -------------------------------------------------------------------------------------------

    @property
    def num_bytes(self) -> int:
        """Bytes of all groups' files."""
        return sum(group.num_bytes for group in self.manifest.groups)

    def _cap_bytes(self) -> int:
        """Return the most bytes that the video so far may take; 0 = any."""
        # the last frame lasts as long as those before it
        seconds = self.manifest.last_s * (1 + 1 / max(1, self.manifest.num_read - 1))
        hours = seconds / SECONDS_PER_HOUR
        if not hours or not self.manifest.bytes_per_hour:
            return 0
        return max(1, int(self.manifest.bytes_per_hour * hours))

    def trim(self, cap_bytes: int) -> None:
        """Throw away blocks until the files are within a cap: those that say least, the oldest of equal ones first.

        One block stays, whatever the cap.
        """
        old = list(self.manifest.groups)
        ranked = sorted(
            (novelty, number, block)
            for number, group in enumerate(old)
            for block, novelty in enumerate(group.novelty)
        )
        too_many = self.num_bytes - cap_bytes
        gone: dict[int, set[int]] = {}
        for _, number, block in ranked[:-1]:
            if too_many <= 0:
                break
            group = old[number]
            gone.setdefault(number, set()).add(block)
            too_many -= group.num_bytes * group.lengths[block] // sum(group.lengths)
        kept = [self._without(group, gone.get(number, set())) for number, group in enumerate(old)]
        self.manifest.groups = [group for group in kept if group is not None]
        self._list_blocks()
        self._save_manifest()
        for number in gone:
            self._files.pop(old[number].file, None)
            (self.folder / old[number].file).unlink(missing_ok=True)

    def _without(self, group: Group, gone: set[int]) -> Group | None:
        """Return a group written anew without some of its blocks; None where none is left."""
        stay = [block for block in range(len(group.lengths)) if block not in gone]
        if not gone or not stay:
            return group if stay else None
        file = self._read(group)
        parts = [part for block, part in enumerate(parts_of(group.lengths)) if block in stay]
        index = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        layers = [file.get_tensor(f"layer.{layer}")[index] for layer in range(self.manifest.layers)]
        told = {name: [getattr(group, name)[block] for block in stay]
                for name in ("lengths", "extents", "times_s", "novelty")}  # fmt: skip
        return self._write(layers, file.get_tensor("means")[stay], _tokens_of(file).take(index), **told)

    def _novelty(self, means_BlE: torch.Tensor) -> list[float]:
        """Return how unlike each new block is to the one before it."""
        before = means_BlE.new_zeros((1, *means_BlE.shape[1:]))
        if self.manifest.groups:
            before = self._read(self.manifest.groups[-1]).get_tensor("means")[-1:]
        earlier = torch.cat([before, means_BlE[:-1]])
        return (1 - torch.cosine_similarity(means_BlE, earlier, dim=-1).mean(1)).tolist()

    # --- files ---------------------------------------------------------------------------------------------

    def _list_blocks(self) -> None:
        self._means = None
        self._extents = [extent for group in self.manifest.groups for extent in group.extents]
        self._places = [(group, part) for group in self.manifest.groups for part in parts_of(group.lengths)]

    def _write(
        self, layers: list[torch.Tensor], means_BlE: torch.Tensor, tokens: Tokens, **told: Any
    ) -> Group:
        name = _name(self.manifest.next_number)
        self.manifest.next_number += 1
        return Group(name, self._write_file(name, layers, tokens, {"means": means_BlE}), **told)

    def _write_file(
        self, name: str, layers: list[torch.Tensor], tokens: Tokens, more: Mapping[str, torch.Tensor]
    ) -> int:
        dtype = getattr(torch, self.manifest.dtype)
        stored = {f"layer.{number}": layer.to("cpu", dtype) for number, layer in enumerate(layers)}
        if not all(bool(layer.isfinite().all()) for layer in stored.values()):
            msg = (
                f"{self.folder}: some keys or values are not finite numbers in {self.manifest.dtype}; index again with"
                " --dtype bfloat16, which reaches further, and if that does not help try --answer.dtype float32"
            )
            raise StoreError(msg)
        told = {one.name: getattr(tokens, one.name).cpu() for one in fields(Tokens)}
        # a slice of a larger tensor would be written whole
        data = save({key: tensor.contiguous() for key, tensor in {**stored, **told, **more}.items()})
        write_bytes(str(self.folder / name), data)
        return len(data)

    def _save_manifest(self) -> None:
        data = json.dumps(asdict(self.manifest), indent=1).encode()
        write_bytes(str(self.folder / "manifest.json"), data)

    def _read(self, group: Group) -> Any:
        return self._read_file(group.file)

    def _read_file(self, name: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = safe_open(str(self.folder / name), "pt")
            except (OSError, SafetensorError) as error:
                msg = f"{self.folder / name} cannot be read ({error}); delete the folder and index again"
                raise StoreError(msg) from error
        return self._files[name]


def _name(number: int) -> str:
    return f"group-{number:06d}.safetensors"


def _tokens_of(file: Any) -> Tokens:
    return Tokens(*(file.get_tensor(one.name) for one in fields(Tokens)))
