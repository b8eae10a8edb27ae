"""Measures what a cluster costs while nobody asks anything.

The cluster is ProcessContainerManager's, with two replicas of a model. CPU time is the kernel's, in nanoseconds, over
all threads of a process; wake-ups are its voluntary context switches.
"""

import os
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from bench import report
from bench.kill import Victims, started_cluster
from bench.report import Table, progress
from clipper_admin.process import programs

_SETTLE_SECONDS: Final = 3.0


class Spent(NamedTuple):
    """The CPU time and the wake-ups of a process since its start."""

    cpu_seconds: float
    wakeups: int


def spent(pid: int) -> Spent:
    cpu_nanoseconds = wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu_nanoseconds += int((task / "schedstat").read_text().split()[0])
        lines = (task / "status").read_text().splitlines()
        wakeups += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return Spent(cpu_nanoseconds / 1e9, wakeups)


def processes(victims: Victims) -> dict[str, int]:
    """Ids of all processes of the cluster, by name."""
    found = {program: victims.pid(program) for program in victims.files.programs()}
    workers = enumerate(psutil.Process(found[programs.QUERY_FRONTEND]).children())
    found |= {f"{programs.QUERY_FRONTEND}, worker {number}": worker.pid for number, worker in workers}
    return {"supervisor": victims.supervisor_pid(), **found}


def measure(seconds: float) -> list[dict[str, Any]]:
    with started_cluster() as connection:
        pids = processes(Victims(connection))
        time.sleep(_SETTLE_SECONDS)
        progress(f"idle for {seconds:g} s: " + ", ".join(f"{name} {pid}" for name, pid in pids.items()))
        start = time.monotonic()
        before = {name: spent(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        after = {name: spent(pid) for name, pid in pids.items()}
        passed = time.monotonic() - start
    return [
        {
            "program": name,
            "percent of a core": 100 * (after[name].cpu_seconds - before[name].cpu_seconds) / passed,
            "wake-ups/s": (after[name].wakeups - before[name].wakeups) / passed,
        }
        for name in pids
    ]


def table(rows: list[dict[str, Any]]) -> Table:
    figures = list(rows[0])[1:]
    total = ["all", *(sum(row[name] for row in rows) for name in figures)]
    return Table("An idle cluster", list(rows[0]), [*(list(row.values()) for row in rows), total])


def main() -> None:
    parser = report.parser("idle", __doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="default: %(default)g")
    arguments = report.parse(parser)
    if arguments.quick:
        arguments.seconds = 2.0
    if not os.path.exists("/proc/self/schedstat"):
        parser.error("it reads /proc, so it needs Linux")
    rows = measure(arguments.seconds)
    report.finish("idle", arguments, [table(rows)], rows)


if __name__ == "__main__":
    main()
