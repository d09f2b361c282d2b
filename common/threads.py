"""How many threads a process can use: the cores that it may run on, and what its control groups grant of them.

In a container of two cores on a machine of sixty-four, libraries start sixty-four threads, and the kernel stops all of
them as soon as the time of two cores is used up. Nothing here imports torch, which reads the answer at its import.
"""

import os
from pathlib import Path

MEMBERSHIP, HIERARCHY = Path('/proc/self/cgroup'), Path('/sys/fs/cgroup')
# Files of a group that tell microseconds of computing in a period, and the period, by the version of control groups.
VERSION_2, VERSION_1 = ('cpu.max',), ('cpu.cfs_quota_us', 'cpu.cfs_period_us')


def cores() -> int:
    """Return how many cores this process can keep busy: those it may run on, and no more than its quota, rounded down.

    At least 1.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    granted = quota()
    return allowed if granted is None else max(1, min(allowed, int(granted)))


def limit() -> None:
    """Have libraries that are imported later start no more threads than a quota grants.

    OMP_NUM_THREADS stays where the user or torchrun has set it. Without a quota libraries count cores well themselves.
    """
    if quota() is not None:
        os.environ.setdefault('OMP_NUM_THREADS', str(cores()))


def quota(membership: Path = MEMBERSHIP, hierarchy: Path = HIERARCHY) -> float | None:
    """Return how many cores the control groups of this process grant it, the least of all; None for no limit.

    Args:
        membership: the file of this process's groups, with lines NUMBER:CONTROLLERS:PATH; of version 2, 0::PATH.
        hierarchy: where groups are mounted.
    """
    try:
        groups = [line.split(':', 2) for line in membership.read_text().splitlines()]
    except OSError:  # no Linux
        return None
    granted = []
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controllers and 'cpu' not in controllers.split(','):
            continue
        # Version 1 is mounted under its controllers' names, and under each of them alone.
        for root in (hierarchy / controllers, hierarchy / 'cpu') if controllers else (hierarchy,):
            own = root / path.strip('/')  # which a container may not see; then the mounted root is its own
            within = [group for group in (own, *own.parents) if group == root or root in group.parents]
            shares = (_share(group, VERSION_1 if controllers else VERSION_2) for group in within)
            granted += [share for share in shares if share is not None]
    return min(granted, default=None)


def _share(group: Path, files: tuple[str, ...]) -> float | None:
    """Return the cores that a group grants; None where it does not tell, or tells `max` or -1, which is no limit."""
    try:
        time, period = (int(word) for file in files for word in (group / file).read_text().split())
    except (OSError, ValueError):
        return None
    return time / period if time > 0 and period > 0 else None
