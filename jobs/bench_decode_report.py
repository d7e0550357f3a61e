"""The report of `reelsift bench decode`: what was measured, in tables that name what they leave out."""

import statistics
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jobs import bench_decode_speed as speed
from jobs.bench_decode_pieces import Measured
from jobs.bench_report import circumstances, table


def lines(command: str, seconds: int, found: Measured, document: dict[str, Any]) -> list[str]:
    """Return the report as Markdown lines."""
    text = [
        "# Decode: what a picture costs, and whether it is the right one",
        "",
        *circumstances(command),
        _others(),
        "",
    ]
    figures = [
        [name, "not measured" if value is None else f"{value:g}"]
        for name, value in document["figures"].items()
    ]
    text += [*table(["figure", "value"], figures), ""]
    if document["missed"]:
        text += ["Aims missed:", "", *(f"- {missed}" for missed in document["missed"]), ""]
    if found.speed:
        text += list(_speed(found, seconds))
    if found.corpus:
        text += list(_corpus(found))
    if found.s3:
        text += list(_s3(found))
    elif found.s3_skipped:
        text += ["## S3", "", found.s3_skipped, ""]
    return text


def _others() -> str:
    """Return which versions of other readers this environment holds, as a Markdown list item."""
    found: list[str] = []
    for name in ("decord", "torchcodec", "daft"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not in this environment")
    return f"- other readers: {', '.join(found)}"


def _speed(found: Measured, seconds: int) -> Iterator[str]:
    """Yield the section on CPU seconds."""
    results, cells = found.speed, found.cells
    counts = sorted({len(result.cpu_s) for result in results.values() if result.cpu_s}) or [0]
    repeats = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    yield from (
        "## Speed",
        "",
        f"CPU seconds (user + system, the process and everything below it) per minute of video; clips of {seconds} s of"
        " real footage at 30 frames a second, 3 B-pictures, 4 Mbit/s at 1080p; output"
        f" {speed.WIDTH_PX}x{speed.HEIGHT_PX} RGB; median of {repeats} runs, peers taking turns, one decoder thread"
        " where a peer lets one choose. Imports, the start of the decoding child and of Ray, and a short clip come"
        " before the clock. Ours goes through the child and its pipe; probing is left out (once per file, not per"
        " window). Of Ray only its workers count,"
        " neither its services nor the driver.",
        "",
    )
    head = ["clip", "fps", *found.peers]
    yield from table(head, [[cell.clip.name, f"{cell.fps:g}", *_costs(found, cell)] for cell in cells])
    yield from (
        "",
        "Wall seconds per minute of video (the machine was shared, so these are upper bounds):",
        "",
    )
    walls = [
        [cell.clip.name, f"{cell.fps:g}", *(_median(found.of(cell, name).wall_s) for name in found.peers)]
        for cell in cells
    ]
    yield from table(head, walls)
    yield from (
        "",
        "Pictures, over all cells: wanted times; delivered; wrong = wanted times without the picture that may stand for"
        " them; other = another picture within what the policy allows (near: 0.1 s; auto: one sampling period where key"
        " pictures come as often as samples).",
        "",
    )
    yield from table(
        ["peer", "cells", "wanted", "delivered", "wrong", "other", "remarks"], list(_judged(found, cells))
    )
    lost = [
        f"- {cell.name}: {times:.2f} x {best}" for cell, best, times in speed.slower(results, found.peers)
    ]
    yield from (
        "",
        f"Cells where `ours exact` costs more than the best other (by over {speed.SAME - 1:.0%}):",
        "",
    )
    yield from (*(lost or ["- none"]), "")


def _costs(found: Measured, cell: speed.Cell) -> Iterator[str]:
    """Yield a cell's median CPU seconds, peer by peer."""
    for name in found.peers:
        cost = speed.cpu_s(found.speed, cell, name)
        yield "-" if cost is None else f"{cost:.2f}"


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "-"


def _judged(found: Measured, cells: list[speed.Cell]) -> Iterator[list[str]]:
    """Yield one line per peer on what its pictures are worth."""
    for name in found.peers:
        mine = [found.of(cell, name) for cell in cells]
        judged = [result.judged for result in mine if result.judged]
        remarks = "; ".join(dict.fromkeys(result.unable for result in mine if result.unable))
        if name == speed.FLOOR:
            remarks = remarks or "decodes everything, delivers nothing: the floor of those that decode all"
        sums = [
            sum(values)
            for values in (
                [j.num_wanted for j in judged], [j.num_delivered for j in judged],
                [j.num_wrong for j in judged], [j.num_other for j in judged],
            )
        ]  # fmt: skip
        yield [name, str(len(judged)), *(map(str, sums) if judged else ["-"] * 4), remarks]


def _corpus(found: Measured) -> Iterator[str]:
    """Yield the section on right and wrong pictures."""
    checked = found.corpus
    yield from (
        "## Right pictures",
        "",
        "The corpus of awkward files through the product's reader, all times at once and one time after the other."
        " wrong = a picture with another number than its sample says, or, of a damaged file, one that differs by a"
        " single byte from the intact file's; of these, `marked` are called stale and count as doubt, not"
        " as wrong frames; late = right, but standing for a time whose own"
        " picture is lost; lacking = a time inside an intact file without a picture.",
        "",
    )
    rows: list[list[str]] = []
    for group in dict.fromkeys(c.group for c in checked):
        for order in dict.fromkeys(c.order for c in checked):
            mine = [c for c in checked if (c.group, c.order) == (group, order)]
            sums = [
                sum(getattr(c, name) for c in mine)
                for name in (
                    "num_asked",
                    "num_shown",
                    "num_wrong",
                    "num_wrong_stale",
                    "num_late",
                    "num_lacking",
                )
            ]
            rows.append([group, order, str(len(mine)), *map(str, sums)])
    yield from table(
        ["files", "order", "number", "times asked", "shown", "wrong", "marked", "late", "lacking"], rows
    )
    odd = [c for c in checked if c.num_wrong or c.num_lacking]
    if odd:
        yield from ("", "Files with a wrong or lacking picture:", "")
        yield from (
            f"- `{c.name}` {c.order}: {c.num_wrong} wrong ({c.num_wrong_stale} called stale), {c.num_lacking} lacking"
            for c in odd
        )
    yield ""
    for is_heavy in (False, True):
        mine = [c for c in checked if c.is_heavy == is_heavy]
        if mine:
            peak = max(mine, key=lambda c: c.child_mb)
            which = "files that themselves ask for more (worker_peak_heavy_mb)" if is_heavy else "the files"
            yield f"Highest memory of the decoding child over {which}: {peak.child_mb:.0f} MB, at {peak.name}."
            yield ""


def _s3(found: Measured) -> Iterator[str]:
    """Yield the section on ranges of objects."""
    reads = found.s3
    yield from (
        "## S3",
        "",
        f"One video of {reads[0].object_bytes / 1e6:.0f} MB in several containers. one group = five pictures all over"
        f" the group in the middle, whose packets are {reads[0].group_bytes / 1e6:.3f} MB; one window = the product's"
        " window of 300 s at 1 fps around it. cold = nothing kept on this machine; warm = the header kept. A download"
        " reads the whole object in one request.",
        "",
    )
    rows = [
        [r.container, r.what, r.state, str(r.num_gets), str(r.num_heads), f"{r.num_bytes / 1e6:.3f}",
         f"{r.num_bytes / r.group_bytes:.2f}", f"{r.num_bytes / r.object_bytes:.1%}"]
        for r in reads
    ]  # fmt: skip
    head = ["container", "what", "state", "GET", "HEAD", "MB read", "of the group's bytes", "of the object"]
    yield from (*table(head, rows), "")
