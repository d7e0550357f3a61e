"""Which packets of a span have to be decoded to get the pictures at given times, found without decoding.

A picture depends only on its group of pictures (GOP): the key packet before it and what follows that. From the
presentation times alone one can tell which packets carry wanted pictures, pass over groups that carry none, and
stop in a group after its last wanted one. On 1080p at one frame per second that takes a third off with groups of
250 frames and up to seven eighths with groups of 30 (the plan decodes 1684 of 3600 packets at GOP 250).

The plan is a claim about a well-formed stream. `UnplannableError` says that it cannot be made; the decoder checks that
every promised picture arrives, and decodes everything where one does not.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.pictures import VideoPacket

REORDER_PACKETS = 32
"""Pictures are at most 16 places out of order in any codec we decode; after twice that many later ones, none is
missing (H.264 A.3.1: max_dec_frame_buffering <= 16; H.265 A.4.2: maxDpbSize <= 16)."""
MAX_GOP_PACKETS = 4096
MAX_GOP_BYTES = 96 * 2**20


class UnplannableError(Exception):
    """Times are missing or damaged, or a group is too long to look through; decode everything instead."""


@dataclass(frozen=True, slots=True)
class Step:
    """Packets to decode in one go."""

    packets: Sequence[VideoPacket]
    targets: frozenset[int]
    """Presentation times (stream ticks) of the wanted pictures among them."""
    follows_on: bool
    """These packets directly follow the ones of the step before; otherwise the decoder is emptied first."""


def plan(packets: Iterable[VideoPacket], wanted: Sequence[int], stale_after: int) -> Iterator[Step]:
    """Yield what to decode so that the picture shown at each wanted time comes out.

    The picture shown at w is the last one with a presentation time <= w. Leading pictures of an open group (shown
    before the key picture they follow in the file) need the group before it: both are then decoded in one go.

    Args:
        packets: of the video stream in file order, from a key packet at or before the first wanted time.
        wanted: sorted times in stream ticks.
        stale_after: ticks after the stream's last picture from which a time has no picture.

    Raises:
        UnplannableError: see the class.
    """
    groups = _groups(_until(packets, wanted[-1]))
    group = next(groups, None)
    place = 0
    follows_on = False
    carried: set[int] = set()
    while group is not None and (place < len(wanted) or carried):
        after = next(groups, None)
        border = after[0].pts if after else None
        shown, leading = _shown(group), _shown(after or []) if border is not None else []
        leading = [pts for pts in leading if border is not None and pts < border]
        known = sorted(shown + leading)
        targets: set[int] = set()
        while place < len(wanted) and (border is None or wanted[place] < border):
            index = bisect_right(known, wanted[place]) - 1
            if index < 0:
                raise UnplannableError
            if border is not None or index < len(known) - 1 or wanted[place] <= known[index] + stale_after:
                targets.add(known[index])
            place += 1
        in_leading = targets.intersection(leading)
        own = (targets - in_leading) | carried
        carried = in_leading
        if in_leading:
            length = len(group)
        else:
            length = max((i + 1 for i, packet in enumerate(group) if packet.pts in own), default=0)
        if length:
            yield Step(group[:length], frozenset(own), follows_on)
        follows_on = length == len(group)
        group = after


def _shown(group: Sequence[VideoPacket]) -> list[int]:
    """Return the presentation times of a group's pictures, without those an edit list hides."""
    return [packet.pts for packet in group if packet.pts is not None and not packet.is_discard]


def _until(packets: Iterable[VideoPacket], last_wanted: int) -> Iterator[VideoPacket]:
    """Yield packets until the picture at the last wanted time is surely among them."""
    num_later = 0
    for packet in packets:
        if packet.size == 0:
            continue
        if packet.pts is None or packet.is_corrupt:
            raise UnplannableError
        yield packet
        num_later += packet.pts > last_wanted
        if num_later >= REORDER_PACKETS:
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
