"""How much memory may be used."""

import os
from pathlib import Path
from typing import Any

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
STATUS = Path("/proc/self/status")
CGROUP = Path("/sys/fs/cgroup")
UNKNOWN = 4 << 30
"""Assumed where the system does not say."""


def memory_limit(gib: float) -> int:
    """Bytes for statistics and activations: what `gib` leaves beside what the process holds already.

    A quarter of `gib` at least; half of what is available where it is 0.
    """
    if gib <= 0:
        return available_memory() // 2
    whole = int(gib * (1 << 30))
    return max(whole - resident(), whole // 4)


def resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say."""
    try:
        pages = STATM.read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_resident() -> int:
    """Most bytes that the process ever held, pages mapped from files among them; 0 where that is not told."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def device_memory_limit(cupy: Any, gib: float) -> int:
    """Bytes for the same on the current GPU: half of what is free there, and not more than `gib` if given."""
    cupy.get_default_memory_pool().free_all_blocks()
    free, _ = cupy.cuda.runtime.memGetInfo()
    return min(free // 2, int(gib * (1 << 30))) if gib > 0 else free // 2


def available_memory() -> int:
    """Bytes that can be had without swapping, the limit of a container counted."""
    free = _from_meminfo() or _from_sysconf() or UNKNOWN
    contained = _from_cgroup()
    return free if contained is None else min(free, contained)


def _from_meminfo() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _from_sysconf() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _from_cgroup() -> int | None:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(int(limit) - used, 0) if limit.isdecimal() else None
