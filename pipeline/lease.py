"""One driver per output folder: who writes to it says so there, and says it again every few seconds.

    OUT/_run/lease/00000007.json     who writes to OUT; the highest number counts

A driver takes the folder over by creating the file of the next number, which a disk or a bucket lets one of many do
(exclusive.create_only); numbers are never used again, so nobody can destroy a newer claim than the one they know.
No two clocks are compared: a lease of another machine has run out when it was watched, unchanged, for as long as it
lasts. Its holder stops counting on it a little earlier, by its own clock, and then has to take the folder over itself.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Generator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from pipeline import exclusive, store
from pipeline.errors import ConfigError, JobError, StoreError
from pipeline.refusals import is_s3

logger = logging.getLogger(__name__)

FOLDER = "lease"
"""Below OUT/_run/, beside the runs."""
LASTS_S = 60.0
VARIABLE = "REELSIFT_LEASE_S"
"""Environment variable with another length of a lease, in seconds."""
SHORTEST_S = 1.0
OLD_S = 3600.0
"""A lease that by the clocks was renewed so long before it would have run out is not watched: no two differ so much."""
RENEWALS = 3
"""While a lease lasts."""
SAFE = 5 / 6
"""Share of it that its holder counts on: a commit that began in time ends before others take over."""
LOOKS = 30
"""At another's lease, over the time that it lasts."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who writes to an output folder; times in seconds since 1970, by the holder's clock."""

    owner: str
    """Of this one claim; nobody else's is called so."""
    run_id: str
    host: str
    kernel: str
    """Boot and process namespace: a process id means the same to all who share it."""
    pid: int
    started: str
    """When the process began, in the kernel's ticks: a later process under the same id has another."""
    since_s: float
    renewed_s: float
    lasts_s: float
    released: bool = False

    def __str__(self) -> str:
        return f"run {self.run_id}, process {self.pid} on {self.host}, since {_clock(self.since_s)}"


@dataclass(frozen=True, slots=True)
class Claim:
    """The file that counts, as it was read."""

    number: int
    data: bytes

    @property
    def holder(self) -> Holder | None:
        """Who wrote it; None where that cannot be read, because it is only being written."""
        try:
            found = json.loads(self.data)
            return Holder(**{field.name: found[field.name] for field in fields(Holder)})
        except (ValueError, KeyError, TypeError):
            return None


def read(out: str) -> Holder | None:
    """Return who holds an output folder, or held it last (`released`); None = nobody ever did.

    Raises:
        StoreError: the folder cannot be read.
    """
    claim = _latest(out)
    return claim.holder if claim else None


def runs(holder: Holder) -> bool:
    """Return whether a holder still runs, as far as can be told at once; of another machine, by its clock and ours."""
    if holder.released or _died_here(holder):
        return False
    return _lives_here(holder) or abs(time.time() - holder.renewed_s) < 2 * holder.lasts_s


@contextlib.contextmanager
def held(out: str, run_id: str) -> Generator["Lease"]:
    """Hold an output folder while the block runs; waits where nobody can tell yet whether its holder still lives.

    Raises:
        JobError: another driver holds it.
        StoreError: the folder cannot be read or written.
        ConfigError: the length of a lease in the environment is none.
    """
    missing = _missing_folders(out)
    lease = _acquire(out, _myself(run_id))
    try:
        lease.tidy()
        yield lease
    finally:
        lease.release()
        for folder in missing:
            with contextlib.suppress(OSError):  # they hold something by now
                folder.rmdir()


class Lease:
    """An output folder that this process holds; a thread renews it."""

    def __init__(self, out: str, me: Holder, number: int, until_s: float) -> None:
        self._out, self._me, self._number, self._until_s = out, me, number, until_s
        self._lost = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Return while the folder is held; costs no more than a look at the clock. Call it before every commit.

        Raises:
            JobError: another driver has taken it over.
            StoreError: the lease ran out and cannot be renewed.
        """
        if not self._lost and _now_s() >= self._until_s:
            self._renew()
        if self._lost:
            raise JobError(self._lost)

    def tidy(self) -> None:
        """Delete what earlier holders left.

        Raises:
            StoreError: files cannot be deleted here: better known now than when there is something to commit.
        """
        for number in {0, *_numbers(self._out)}:
            if number < self._number:
                store.delete(_uri(self._out, number))

    def release(self) -> None:
        """Give the folder back; a failure to say so costs the next driver the time of one lease."""
        self._ended.set()
        self._thread.join(timeout=self._me.lasts_s)
        if self._lost:
            return
        self._lost = (
            f"{self._out} was given back by this driver (run {self._me.run_id}); what it has committed counts"
        )
        mine = _uri(self._out, self._number)
        try:
            every = store.list_files(store.join(self._out, "_run"), missing_ok=True)
            if self._number == 1 and all(entry.uri == mine for entry in every) and _now_s() < self._until_s:
                store.delete(mine)  # a command that did nothing leaves nothing
            else:
                store.write_bytes(mine, _encode(replace(self._me, released=True)))
        except StoreError as error:
            logger.warning("could not give %s back: %s", self._out, error)

    def _keep_renewing(self) -> None:
        while not self._lost and not self._ended.wait(self._me.lasts_s / RENEWALS):
            try:
                self._renew()
            except StoreError as error:
                logger.warning("could not renew the lease of %s, will try again: %s", self._out, error)

    def _renew(self) -> None:
        with self._lock:
            began_s = _now_s()
            me = replace(self._me, renewed_s=time.time())
            if began_s < self._until_s:
                latest = _latest(self._out)
                if latest is None or latest.holder is None or latest.holder.owner != me.owner:
                    self._lose(latest)
                    return
                store.write_bytes(_uri(self._out, self._number), _encode(me))
                if _now_s() < self._until_s:
                    self._until_s = began_s + SAFE * me.lasts_s
                    return
            # others may count it as run out by now: who takes the next number comes first
            began_s = _now_s()
            if _create(self._out, self._number + 1, me):
                self._number, self._until_s = self._number + 1, began_s + SAFE * me.lasts_s
            else:
                self._lose(_latest(self._out))

    def _lose(self, claim: Claim | None) -> None:
        by = (claim and claim.holder) or "another driver"
        self._lost = (
            f"{self._out} was taken over by {by}: this driver (run {self._me.run_id}, process {self._me.pid} on"
            f" {self._me.host}) had been silent for longer than its lease of {self._me.lasts_s:g} s. It stops;"
            " what it has committed counts. Let the other one finish, then run the same command again"
        )


def _acquire(out: str, me: Holder) -> Lease:
    seen = 0
    while True:
        claim = _latest(out)
        if claim is not None and not _is_free(claim):
            if 0 < seen < claim.number:
                raise _refusal(out, claim)  # somebody was quicker, this very moment
            claim = _watch(out, claim)
        seen = claim.number if claim else 0
        began_s = _now_s()
        if _create(out, seen + 1, me):
            return Lease(out, me, seen + 1, began_s + SAFE * me.lasts_s)


def _create(out: str, number: int, me: Holder) -> bool:
    """Return whether this process got a number, and the highest: one that others have used up is free again."""
    if not exclusive.create_only(_uri(out, number), _encode(me)):
        return False
    if max(_numbers(out), default=0) == number:
        return True
    store.delete(_uri(out, number))
    return False


def _watch(out: str, claim: Claim) -> Claim | None:
    """Return what there is to take over once the claim has run out or was given back.

    Raises:
        JobError: its holder lives.
    """
    holder = claim.holder
    lasts_s = holder.lasts_s if holder else LASTS_S
    if holder and _lives_here(holder) and abs(time.time() - holder.renewed_s) < lasts_s:
        raise _refusal(out, claim)
    logger.warning(
        "%s is held by %s; waiting %g s to see whether it still runs",
        out,
        holder or "an unknown driver",
        lasts_s,
    )
    began_s = _now_s()
    while _now_s() - began_s < lasts_s:
        time.sleep(lasts_s / LOOKS)
        now = _latest(out)
        if now is None or _is_free(now):
            return now
        if now != claim:
            raise _refusal(out, now)
    logger.warning("%s: its holder was silent for %g s, so this run takes it over", out, lasts_s)
    return claim


def _refusal(out: str, claim: Claim) -> JobError:
    holder = claim.holder
    until = f" and holds it until {_clock(holder.renewed_s + holder.lasts_s)} or longer" if holder else ""
    return JobError(
        f"another driver writes to {out}: {holder or 'not known yet which'}{until}; expected nobody. Wait until it has"
        " finished, or end it, and run the same command again; or give another output folder"
    )


def _is_free(claim: Claim) -> bool:
    """Return whether a claim may be taken over at once."""
    holder = claim.holder
    if holder is None:
        return False
    silent_s = time.time() - holder.renewed_s - holder.lasts_s
    return holder.released or silent_s > OLD_S or _died_here(holder)


# --- the files -------------------------------------------------------------------------------------------


def _uri(out: str, number: int) -> str:
    return store.join(out, "_run", FOLDER, f"{number:08d}.json")


def _numbers(out: str) -> list[int]:
    files = store.list_files(store.join(out, "_run", FOLDER), missing_ok=True)
    names = (entry.uri.rpartition("/")[2].removesuffix(".json") for entry in files)
    return [int(name) for name in names if name.isdigit()]


def _latest(out: str) -> Claim | None:
    while number := max(_numbers(out), default=0):
        uri = _uri(out, number)
        try:
            return Claim(number, store.read_bytes(uri))
        except StoreError:
            if store.exists(uri):
                raise
    return None


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()


def _missing_folders(out: str) -> list[Path]:
    """Return the local folders that holding an output folder will make, the deepest first."""
    if is_s3(out):
        return []
    folder = Path(store.join(out, "_run", FOLDER)).absolute()
    return [path for path in (folder, *folder.parents) if not path.exists()]


# --- clocks and processes --------------------------------------------------------------------------------


def _now_s() -> float:
    """Return seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _clock(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))


def _myself(run_id: str) -> Holder:
    now_s, pid = time.time(), os.getpid()
    return Holder(
        uuid.uuid4().hex,
        run_id,
        socket.gethostname(),
        _kernel(),
        pid,
        _start_of(pid),
        now_s,
        now_s,
        _length_s(),
    )


def _length_s() -> float:
    said = os.environ.get(VARIABLE, "")
    try:
        length_s = float(said or LASTS_S)
    except ValueError:
        length_s = 0.0
    if not SHORTEST_S <= length_s < OLD_S:
        msg = f"{VARIABLE}={said}: expected seconds from {SHORTEST_S:g} to {OLD_S:g}; correct or unset it"
        raise ConfigError(msg)
    return length_s


def _kernel() -> str:
    """Return this boot and process namespace; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """Return when a process began; empty where it is gone, a zombie, or not to be seen by this user."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else numbers[18]


def _is_here(holder: Holder) -> bool:
    return bool(holder.kernel) and (holder.host, holder.kernel) == (socket.gethostname(), _kernel())


def _lives_here(holder: Holder) -> bool:
    return _is_here(holder) and _start_of(holder.pid) == holder.started


def _died_here(holder: Holder) -> bool:
    """Return whether the holder was a process of this machine that has ended."""
    if not _is_here(holder) or _start_of(holder.pid) == holder.started:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user, and perhaps hidden from this one
        return bool(_start_of(holder.pid))
    return True
