"""`python -m benchmarks.overhead`: start everything, measure, print the table."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.overhead import machine, programs
from benchmarks.overhead.measure import PHASES, Figures, Load, Phase, compile_client
from benchmarks.overhead.peers import peers
from benchmarks.overhead.programs import Target, free_port
from benchmarks.overhead.table import Table, median

QUICK_SECONDS: Final = 0.8
QUICK_WARM_SECONDS: Final = 0.2
WARM_SECONDS: Final = 1.0
SOAK_REQUESTS: Final = 100_000
SOAK_SECONDS: Final = 600.0
BEGIN: Final = "<!-- figures: begin -->"
END: Final = "<!-- figures: end -->"


class Run:
    """One run: its programs, its targets and what was measured."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        usable = machine.cpus()
        self.proxy_cpus, self.other_cpus = (usable[:1], usable[1:]) if len(usable) > 1 else ([], [])
        self.provider_port = free_port()
        self.provider = programs.nginx(folder, "provider", self.provider_port, self.other_cpus, provider=None)
        self.store_port = free_port()
        self.store = programs.redis(folder, self.store_port, self.other_cpus)
        self.targets: list[Target] = []
        self.rounds: dict[str, dict[str, list[Figures]]] = {}
        self.load = Load(compile_client(folder), self.other_cpus, [self.provider, self.store])

    def redis_url(self, database: int) -> str:
        return f"redis://127.0.0.1:{self.store_port}/{database}"

    def faregate(self, name: str, store: str, *, cpus: Sequence[int], workers: int = 1) -> Target:
        """A target for the proxy on a store."""
        port = free_port()
        program = programs.faregate(
            self.folder, name.replace(" ", "-"), port, cpus, provider=self.provider_port, store=store, workers=workers
        )
        return Target(name, port, program, service=self.store if "://" in store else None)

    def usual_targets(self) -> list[Target]:
        """The provider itself, the two yardsticks, and the proxy on both stores."""
        ports = [free_port(), free_port()]
        return [
            Target("direct", self.provider_port),
            Target("nginx", ports[0], programs.nginx(self.folder, "nginx", ports[0], self.proxy_cpus, provider=self.provider_port)),
            Target("hello world", ports[1], programs.hello(self.folder, ports[1], self.proxy_cpus), streams=False),
            self.faregate("faregate, Redis", self.redis_url(0), cpus=self.proxy_cpus),
            self.faregate("faregate, SQLite", str(self.folder / "ledger.sqlite"), cpus=self.proxy_cpus),
        ]

    def peers(self, installed: Path) -> list[Target]:
        """Other proxies."""
        return peers(
            installed.resolve(),
            self.folder,
            provider=self.provider_port,
            service=self.store,
            service_port=self.store_port,
            cpus=self.proxy_cpus,
        )

    def start(self, targets: list[Target]) -> None:
        self.provider.start()
        self.store.start()
        Target("provider", self.provider_port).start()
        for target in targets:
            self.targets.append(target)
            target.start()
            say(f"{target.name} runs" + (f", first 200 after {target.start_seconds:.2f} s" if target.start_seconds else ""))
        time.sleep(0.5)
        for target in targets:
            target.remember_memory()

    def measure(self, phases: Sequence[Phase], rounds: int, seconds: float | None, warm: float) -> None:
        """All phases on all targets, in turn and back, so that a change of the machine meets everybody."""
        for number in range(rounds):
            for phase in phases:
                for target in self.targets if number % 2 == 0 else reversed(self.targets):
                    if not target.carries(phase.name, stream=phase.stream):
                        continue
                    longer = target.patience
                    figures = self.load.run(target, phase, warm=warm * longer, seconds=(seconds or phase.seconds) * longer)
                    self.rounds.setdefault(target.name, {}).setdefault(phase.name, []).append(figures)
                    done = figures["answered"] / figures["seconds"]
                    say(f"{number + 1}/{rounds} {phase.name:6} {target.name:18} {done:8.0f}/s, foreign {figures['foreign']:.2f} cores")

    def soak(self, count: int) -> None:
        """Memory after the phases, after many requests more, and after as many again."""
        ours = [target for target in self.targets if target.name.startswith("faregate")]
        for target in self.targets:
            target.remember_memory()
        for target in ours:
            for _ in range(2 if count else 0):
                self.load.run(target, PHASES[0], warm=0, seconds=SOAK_SECONDS, count=count)
                time.sleep(0.5)
                target.remember_memory()
                say(f"{target.name}: {target.memory[-1]:.0f} MiB after {count} requests more")

    def stop(self) -> None:
        for target in self.targets:
            if target.program is not None:
                target.program.stop()
        self.store.stop()
        self.provider.stop()

    def result(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        return {
            "date": datetime.date.today().isoformat(),
            "machine": machine.description(),
            "python": platform.python_version(),
            "phases": [dataclasses.asdict(phase) for phase in PHASES],
            "targets": [
                {
                    "name": target.name,
                    "note": target.note,
                    "start_seconds": target.start_seconds,
                    "memory": target.memory,
                    "changed": target.changed(),
                }
                for target in self.targets
            ],
            "rounds": self.rounds,
        }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def footing(result: dict[str, Any], rounds: int) -> str:
    """Where and when; and how much of the machine others used meanwhile."""
    foreign = [one["foreign"] for phases in result["rounds"].values() for figures in phases.values() for one in figures]
    return (
        f"{result['date']}; {result['machine']}; Python {result['python']}; {rounds} round{'s' * (rounds > 1)}. "
        f"Other programs used {median(foreign) or 0:.2f} cores meanwhile (median; worst {max(foreign, default=0):.2f})."
    )


def two_workers(run: Run, rounds: int, seconds: float, warm: float) -> str:
    """The whole system on one core with one worker, against the whole system on two with two."""
    cores = machine.cpus()[:2]
    if len(cores) < 2:
        raise SystemExit("--two-workers needs two CPUs.")
    run.other_cpus = []
    layouts = ((1, cores[:1]), (2, cores))
    lines = ["| workers and cores | requests/s | × | CPU-µs per request |", "|---|---:|---:|---:|"]
    done: dict[int, list[float]] = {1: [], 2: []}
    cost: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers, cpus in layouts:
            folder = run.folder / f"{workers}-{number}"
            folder.mkdir()
            part = Run(folder)
            part.load = Load(compile_client(folder), cpus, [part.provider, part.store])
            part.provider.cpus = part.store.cpus = cpus
            try:
                part.start([part.faregate("faregate", part.redis_url(0), cpus=cpus, workers=workers)])
                figures = part.load.run(part.targets[0], PHASES[0], warm=warm, seconds=seconds)
            finally:
                part.stop()
            done[workers].append(figures["answered"] / figures["seconds"])
            cost[workers].append(figures["cpu"]["proxy"] / max(1, figures["answered"]) * 1e6)
    ratio = median(two / one for one, two in zip(done[1], done[2], strict=True))
    for workers in (1, 2):
        shown = f"{ratio:.2f}" if workers == 2 else "1.00"
        lines.append(f"| {workers} | {median(done[workers]):,.0f} | {shown} | {median(cost[workers]):,.1f} |")
    return "\n".join(lines) + "\n\nProvider, client and Redis run on the same cores as the workers."


def write_into(path: Path, text: str) -> None:
    """Replace what stands between the marks of a page."""
    page = path.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not tail:
        raise SystemExit(f"{path} has no {BEGIN} and {END}.")
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, under a minute: for a first look, not for comparisons")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", default="", help="comma list of " + ", ".join(phase.name for phase in PHASES))
    parser.add_argument(
        "--soak", type=int, default=None, metavar="N", help=f"requests between memory readings; {SOAK_REQUESTS}, 0 if quick"
    )
    parser.add_argument("--two-workers", action="store_true", help="only: two workers on two cores against one on one")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="measure the other proxies that are installed in DIR, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.add_argument("--into", type=Path, metavar="FILE", help="write the table between the marks of this page")
    return parser.parse_args()


def main() -> None:
    """Parse the options and run."""
    options = parsed()
    try:
        programs.check_installed()
    except programs.Missing as exc:
        raise SystemExit(str(exc)) from None
    rounds = 1 if options.quick else options.rounds
    seconds, warm = (QUICK_SECONDS, QUICK_WARM_SECONDS) if options.quick else (None, WARM_SECONDS)
    chosen = set(filter(None, options.phases.split(",")))
    if unknown := chosen - {phase.name for phase in PHASES}:
        raise SystemExit(f"No such phase: {', '.join(sorted(unknown))}.")
    phases = [phase for phase in PHASES if not chosen or phase.name in chosen]
    soak = options.soak if options.soak is not None else (0 if options.quick else SOAK_REQUESTS)
    with tempfile.TemporaryDirectory(prefix="faregate-bench-") as folder:
        run = Run(Path(folder))
        if options.two_workers:
            print(two_workers(run, rounds, seconds or PHASES[0].seconds, warm))
            return
        try:
            run.start(run.usual_targets() + (run.peers(options.peers) if options.peers is not None else []))
            run.measure(phases, rounds, seconds, warm)
            run.soak(soak)
            result = run.result()
        finally:
            run.stop()
    text = f"{Table(result['rounds'], result['targets']).markdown()}\n\n{footing(result, rounds)}"
    print(text)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))
    if options.into is not None:
        write_into(options.into, text)


if __name__ == "__main__":
    main()
