"""Refuses graphs that can never run on some machines, in a moment and before anything is decoded.

Every check is a lower bound of what is needed against an upper bound of what there can be, so what is refused can never
run; what passes may still have to wait for machines.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobs.machines import Machines
from pipeline.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Need:
    """So many seats of a size, each within one machine, all at the same time."""

    who: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    count: int = 1
    setting: str = ""
    """Start of the options that change it; empty = none does."""


def check_needs(needs: Sequence[Need], machines: Machines) -> None:
    """Refuse what can never run at the same time on the machines.

    Raises:
        ClusterError: who needs what, what there is and can be, and what to lower.
    """
    for need in needs:
        _check_labels(need, machines)
        _check_one_fits(need, machines)
        _check_all_fit(need, machines)
    for kind in ("CPU", "GPU"):
        _check_total(kind, needs, machines)
    _check_num_machines(needs, machines)


def too_small(sized_for: Sequence[str], machines: Machines) -> list[str]:
    """Return one line per machine that settings were sized for, and of which a cluster can have none.

    Args:
        sized_for: as in `ClusterConfig`: role, CPUs and GPUs of a machine.
        machines: where no machine says its role, any may be meant.
    """
    lines: list[str] = []
    for text in sized_for:
        role, _, amounts = text.partition(":")
        words = amounts.replace(",", "").split()
        needed = {kind: float(amount) for amount, kind in zip(words[::2], words[1::2], strict=True)}
        labelled = any("role" in kind.labels for kind in machines.kinds)
        if not machines.num_seats(needed, {"role": role} if labelled else {}):
            lines.append(
                f"these settings were sized for machines of {amounts.strip()} ({role}), and the cluster can have none:"
                f" {machines.describe()}; expect another speed, or take other machines or settings"
            )
    return lines


def _check_labels(need: Need, machines: Machines) -> None:
    if machines.with_labels(need.labels):
        return
    has = sorted({f"{k}={v}" for kind in machines.kinds for k, v in kind.labels.items()})
    wanted = _text(need.labels)
    close = difflib.get_close_matches(wanted, has, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    msg = (
        f"{need.who} is to sit on machines labelled {wanted}, and the cluster can have none; its labels are"
        f" {', '.join(has) or 'none'}{hint}. Label the machines, or say --cluster.placement none. Machines:"
        f" {machines.describe()}"
    )
    raise ClusterError(msg)


def _check_one_fits(need: Need, machines: Machines) -> None:
    if machines.num_seats(need.resources, need.labels):
        return
    lower = f"lower {_amount_options(need)} or use" if need.setting else "use"
    msg = (
        f"{need.who} needs {_amounts(need.resources)} on one machine, and no machine{_labelled(need)} has that much:"
        f" {machines.describe()}; {lower} larger machines"
    )
    raise ClusterError(msg)


def _check_all_fit(need: Need, machines: Machines) -> None:
    seats = machines.num_seats(need.resources, need.labels)
    if seats >= need.count:
        return
    msg = (
        f"{need.setting}.min-size asks for {need.count} seats of {_amounts(need.resources)}, each on one machine; the"
        f" cluster can have {seats}{_labelled(need)}: {machines.describe()}. Lower {need.setting}.min-size or"
        f" {_amount_options(need)}, or add machines"
    )
    raise ClusterError(msg)


def _check_total(kind: str, needs: Sequence[Need], machines: Machines) -> None:
    """Compare the sum over all needs, and over those with the same labels, with what there can be."""
    groups: list[Mapping[str, str]] = [{}]
    groups += [labels for labels in (need.labels for need in needs) if labels not in groups]
    for labels in groups:
        asked = [need for need in needs if not labels or need.labels == labels]
        need = sum(one.count * one.resources.get(kind, 0.0) for one in asked)
        have = machines.total(kind, labels)
        if need > have + 1e-9:
            on = f" on machines labelled {_text(labels)}" if labels else ""
            msg = (
                f"the smallest pools need {need:g} {kind}s{on} at the same time, one task to decode and one to write"
                f" included; the cluster has {have:g}, with all that its autoscaler may start:"
                f" {machines.describe()}. Lower {_min_sizes(needs)} or num-{kind.lower()}s, or add machines"
            )
            raise ClusterError(msg)


def _check_num_machines(needs: Sequence[Need], machines: Machines) -> None:
    """Refuse what needs machines of so many roles that `max_workers` does not cover them."""
    least: dict[tuple[tuple[str, str], ...], int] = {}
    for need in needs:
        if any(not kind.comes and kind.seats(need.resources) for kind in machines.with_labels(need.labels)):
            continue  # some of it fits on what is there already: no bound worth having
        per_machine = max(kind.seats(need.resources) for kind in machines.with_labels(need.labels))
        role = tuple(sorted(need.labels.items()))
        least[role] = max(least.get(role, 0), -(-need.count // per_machine))
    unlabelled = least.pop((), 0)
    total = max(sum(least.values()), unlabelled)
    if total > machines.max_workers:
        msg = (
            f"the smallest pools and one decoding task need {total} machines at the same time"
            f" ({', '.join(f'{n} labelled {_text(dict(role))}' for role, n in least.items())}); max_workers of the"
            f" cluster is {machines.max_workers}. Raise it, or lower {_min_sizes(needs)}"
        )
        raise ClusterError(msg)


def _text(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())


def _labelled(need: Need) -> str:
    return f" labelled {_text(need.labels)}" if need.labels else ""


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(
        f"{amount:g} {kind}{'s' if amount != 1 else ''}" for kind, amount in resources.items()
    )


def _min_sizes(needs: Sequence[Need]) -> str:
    return " or ".join(f"{need.setting}.min-size" for need in needs if need.setting)


def _amount_options(need: Need) -> str:
    return " and ".join(f"{need.setting}.num-{kind.lower()}s" for kind in need.resources)
