"""What Linux says of processes and of the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty for a process that has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of all threads of these processes.

    From schedstat, in nanoseconds (kernel documentation, scheduler/sched-stats); from stat, in ticks of 10 ms, where
    the kernel keeps no schedstat. Threads that have ended are missing from the first.
    """
    total = 0.0
    for pid in pids:
        try:
            total += sum(int((task / "schedstat").read_text().split()[0]) for task in (PROC / str(pid) / "task").iterdir()) / 1e9
        except (OSError, IndexError):
            fields = _stat(pid)
            total += (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0
    return total


def resident_mib(pids: list[int]) -> float:
    """Resident memory, shared pages included."""
    pages = 0
    for pid in pids:
        try:
            pages += int((PROC / str(pid) / "statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE / 2**20


def busy_seconds() -> float:
    """CPU time that anybody used since the machine started, time stolen by its host included."""
    fields = [int(word) for word in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft_irq, stolen = fields
    return (user + nice + system + irq + soft_irq + stolen) / _TICKS


def cpus() -> list[int]:
    """The CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0))


def description() -> str:
    """Kind of CPU, number of cores, kernel."""
    names = [line.partition(":")[2].strip() for line in (PROC / "cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else os.uname().machine}, {os.cpu_count()} CPUs, Linux {os.uname().release}"
