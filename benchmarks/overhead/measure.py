"""Loads a target and reads what that cost."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.overhead import machine
from benchmarks.overhead.programs import EVENTS, HERE, Program, Target

TRIES: Final = 3
LATEST: Final = 0.05
"""Share of the measured time by which its ends may be read too late."""

Figures = dict[str, Any]
"""One measurement: the client's figures, and the CPU seconds of everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A kind of load."""

    name: str
    label: str
    stream: bool = False
    gap_ms: int = 0
    long: bool = False
    connections: int = 64
    rate: float = 0.0
    """Requests a second at random moments; 0: closed loop."""
    seconds: float = 3.0

    @property
    def stagger_seconds(self) -> float:
        """The first streams are spread over the length of one."""
        return self.gap_ms * EVENTS / 1000 if not self.rate else 0.0


PHASES: Final = (
    Phase(name="json", label="JSON, 1.5 KB, 64 connections"),
    Phase(name="single", label="JSON, 1 connection", connections=1),
    Phase(name="rate", label="JSON, 100 requests/s", rate=100, connections=256, seconds=5.0),
    Phase(name="large", label="JSON, 180 KB, 32 connections", long=True, connections=32),
    Phase(name="sse", label="SSE, 54 events at once, 64 connections", stream=True),
    Phase(name="paced", label="SSE, an event each 20 ms, 128 connections", stream=True, gap_ms=20, connections=128),
    Phase(name="first", label="SSE, an event each 5 ms, 20 streams/s", stream=True, gap_ms=5, rate=20, connections=256, seconds=5.0),
)


def compile_client(folder: Path) -> Path:
    """The load client, built from load.c."""
    built = folder / "load"
    subprocess.run(["gcc", "-O2", "-o", str(built), str(HERE / "load.c"), "-lm"], check=True)
    return built


class Load:
    """Puts load on targets and takes the CPU times at both ends of the measured time."""

    def __init__(self, client: Path, cpus: Sequence[int], helpers: Sequence[Program]) -> None:
        """`helpers` belong to the benchmark: what they use is not foreign load."""
        self._client = client
        self._cpus = cpus
        self._helpers = helpers

    def run(self, target: Target, phase: Phase, *, warm: float, seconds: float, count: int = 0) -> Figures:
        """One measurement; with `count` it ends after so many answers.

        A measurement whose ends were read too late, because the machine was busy, is made again.
        """
        for _ in range(TRIES):
            figures = self._run(target, phase, warm=warm, seconds=seconds, count=count)
            if figures["late"] <= LATEST * figures["seconds"]:
                break
        return figures

    def _run(self, target: Target, phase: Phase, *, warm: float, seconds: float, count: int) -> Figures:
        request = self._client.parent / "request"
        request.write_bytes(target.request(stream=phase.stream, gap_ms=phase.gap_ms, long=phase.long))
        warm = max(warm, phase.stagger_seconds)
        words = [target.port, request, phase.connections, warm, seconds, phase.rate, phase.stagger_seconds, count]
        pin = ["taskset", "-c", ",".join(map(str, self._cpus))] if self._cpus else []
        command = [*pin, str(self._client), *map(str, words)]
        # Found now: looking for descendants takes time that would fall into what is measured.
        pids = self._pids(target)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            pids["helpers"].append(client.pid)
            started = client.stdout.readline()
            before, began = _cpu(pids), time.monotonic()
            ended = client.stdout.readline()
            after, wall = _cpu(pids), time.monotonic() - began
        if started != "start\n" or client.returncode:
            raise SystemExit(f"The load client failed on {target.name}.")
        figures: Figures = json.loads(ended)
        used = {name: after[name] - before[name] for name in after}
        figures["cpu"] = used
        figures["late"] = abs(wall - figures["seconds"])
        figures["foreign"] = max(0.0, used.pop("all") - sum(used.values())) / wall
        return figures

    def _pids(self, target: Target) -> dict[str, list[int]]:
        return {
            "proxy": [] if target.program is None else target.program.pids,
            "service": [] if target.service is None else target.service.pids,
            "helpers": [pid for helper in self._helpers if helper is not target.service for pid in helper.pids],
        }


def _cpu(pids: dict[str, list[int]]) -> dict[str, float]:
    return {**{whose: machine.cpu_seconds(found) for whose, found in pids.items()}, "all": machine.busy_seconds()}


def work_done(phase: Phase, figures: Figures) -> int:
    """What the CPU time of a measurement is divided by: events where they are paced, else answers."""
    done: int = figures["events"] if phase.gap_ms else figures["answered"]
    return done


def cpu_us(phase: Phase, figures: Figures, whose: str = "proxy") -> float | None:
    """CPU microseconds per request, or per event where they are paced."""
    done = work_done(phase, figures)
    return figures["cpu"][whose] / done * 1e6 if done and figures["cpu"][whose] else None
