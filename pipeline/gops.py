"""Which packets of a span have to be decoded to get the pictures at given times, found without decoding.

A picture depends only on its group of pictures (GOP): the key packet before it and what follows that. From the
presentation times alone one can tell which packets carry wanted pictures, pass over groups that carry none, and
stop in a group after its last wanted one. On 1080p at one frame per second that takes a third off with groups of
250 frames and up to seven eighths with groups of 30 (the plan decodes 1684 of 3600 packets at GOP 250).

The plan is a claim about a well-formed stream. `UnplannableError` says that it cannot be made; the decoder checks that
every promised picture arrives, and decodes everything where one does not.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pipeline.pictures import VideoPacket

REORDER_PACKETS = 32
"""Pictures are at most 16 places out of order in any codec we decode; after twice that many later ones, none is
missing (H.264 A.3.1: max_dec_frame_buffering <= 16; H.265 A.4.2: maxDpbSize <= 16)."""
MAX_GOP_PACKETS = 4096
MAX_GOP_BYTES = 32 * 2**20
"""Two groups are in memory at a time."""


class UnplannableError(Exception):
    """Times are missing or damaged, or a group is too long to look through; decode everything instead."""


@dataclass(frozen=True, slots=True)
class Step:
    """Packets to decode in one go."""

    packets: Sequence[VideoPacket]
    chosen: "Sequence[tuple[int, Choice | None]]"
    """Wanted times with the picture among these packets that stands for each, None where the stream has none."""
    follows_on: bool
    """These packets directly follow the ones of the step before; otherwise the decoder is emptied first."""


class Choice(NamedTuple):
    """The picture that stands for a wanted time, in ticks of the stream's clock."""

    pts: int
    exact: int
    """Presentation time of the picture shown at the wanted time."""
    until: int | None
    """Presentation time of the picture after the exact one, None when there is none."""
    follows_gap: bool
    """Somewhere between its key picture and this one no picture was shown for longer than is usual."""


def plan(
    packets: Iterable[VideoPacket],
    wanted: Sequence[int],
    stale_after: int,
    near: int = 0,
    longest: int | None = None,
) -> Iterator[Step]:
    """Yield what to decode so that the picture shown at each wanted time comes out.

    The picture shown at w is the last one with a presentation time <= w. Leading pictures of an open group (shown
    before the key picture they follow in the file) need the group before it: both are then decoded in one go.

    Args:
        packets: of the video stream in file order, from a key packet at or before the first wanted time.
        wanted: sorted times in stream ticks.
        stale_after: ticks after the stream's last picture from which a time has no picture.
        longest: ticks for which a picture is usually shown at most, None when any time is usual.
        near: a picture at most this many ticks away may stand for the one shown: the one that is decoded soonest.

    Raises:
        UnplannableError: see the class.
    """
    groups = _groups(_until(packets, wanted[-1]))
    group = next(groups, None)
    place = 0
    follows_on = False
    carried: list[tuple[int, Choice | None]] = []
    while group is not None:
        after = next(groups, None)
        border = after[0].pts if after else None
        leading = [pts for pts in _shown(after or []) if border is not None and pts < border]
        known = sorted(_shown(group) + leading)
        chosen, carried = carried, []
        depth = {packet.pts: index + 1 for index, packet in enumerate(group)}
        latest = known[0] if known else 0
        gap = _first_gap(known, longest)
        while place < len(wanted) and (border is None or wanted[place] < border):
            index = bisect_right(known, wanted[place]) - 1
            if index < 0:
                raise UnplannableError
            exact = known[index]
            until = known[index + 1] if index + 1 < len(known) else border
            if until is None and wanted[place] > exact + stale_after:
                chosen.append((wanted[place], None))
            else:
                # not after the last wanted time: it may be the last one of a window
                high = min(exact + near, max(exact, wanted[-1]))
                latest = _cheapest(known, exact, max(latest, exact - near), high, depth, border)
                found = (wanted[place], Choice(latest, exact, until, exact >= gap))
                (chosen if latest in depth else carried).append(found)
            place += 1
        is_open = any(choice is not None and choice.pts in leading for _, choice in carried)
        length = len(group)
        if not is_open:
            length = max((depth.get(choice.pts, 0) for _, choice in chosen if choice is not None), default=0)
        if length or chosen:
            yield Step(group[:length], chosen, follows_on)
        follows_on = length == len(group)
        group = after


def _first_gap(known: Sequence[int], longest: int | None) -> float:
    """Return the time of the first picture that comes after a gap, infinity when none does."""
    if longest is not None:
        for before, after in pairwise(known):
            if after - before > longest:
                return after
    return math.inf


def _cheapest(
    known: Sequence[int], exact: int, low: int, high: int, depth: Mapping[int | None, int], border: int | None
) -> int:
    """Return the picture of a group within [low, high] before which the fewest packets must be decoded.

    The key picture of the next group, at `border`, costs one.
    """
    if low >= exact == high:
        return exact
    near = known[bisect_left(known, low) : bisect_right(known, high)]
    choices = [pts for pts in near if pts in depth] or [exact]
    best = min(choices, key=lambda pts: (depth.get(pts, 0), abs(pts - exact)))
    if border is not None and border <= high and depth.get(best, 2) > 1:
        return border
    return best


def _shown(group: Sequence[VideoPacket]) -> list[int]:
    """Return the presentation times of a group's pictures, without those an edit list hides."""
    return [packet.pts for packet in group if packet.pts is not None and not packet.is_discard]


def _until(packets: Iterable[VideoPacket], last_wanted: int) -> Iterator[VideoPacket]:
    """Yield packets until the picture at the last wanted time, and one shown after it, are surely among them.

    Decoding times only rise and no picture is shown before it is decoded, so the first packet decoded later ends the
    search; in containers without decoding times a count does.
    """
    num_later = 0
    is_ordered = True
    for packet in packets:
        if packet.size == 0:
            continue
        if packet.pts is None or packet.is_corrupt:
            raise UnplannableError
        yield packet
        is_ordered = is_ordered and packet.dts is not None and packet.dts <= packet.pts
        num_later += packet.pts > last_wanted
        if num_later >= REORDER_PACKETS or (
            is_ordered and packet.dts is not None and packet.dts > last_wanted
        ):
            return


def _groups(packets: Iterable[VideoPacket]) -> Iterator[list[VideoPacket]]:
    """Yield runs of packets that each begin with a key packet."""
    group: list[VideoPacket] = []
    num_bytes = 0
    for packet in packets:
        if not group and not packet.is_keyframe:
            raise UnplannableError
        if group and packet.is_keyframe:
            yield group
            group, num_bytes = [], 0
        group.append(packet)
        num_bytes += packet.size
        if len(group) > MAX_GOP_PACKETS or num_bytes > MAX_GOP_BYTES:
            raise UnplannableError
    if group:
        yield group
