"""Median seconds of `import diptych` and of `diptych --help`, beside those of Python that does nothing. Not on Windows.

    python benchmarks/startup.py

Each round runs every command once, in turn, so that other load on the machine falls on all alike; the first round is
not counted. Processor seconds tell what a machine with nothing else to do would take. Ends with 1 when a median of the
seconds on the clock is over its limit.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

COMMANDS = {  # what -> arguments of Python, limit in seconds
    "python -c pass": (("-c", "pass"), None),
    "import diptych": (("-c", "import diptych"), 0.3),
    "diptych --help": (("-m", "diptych", "--help"), 0.5),
}


def seconds(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for round in range(rounds + 1):
        for name, (words, _) in COMMANDS.items():
            run = seconds(words)
            taken[name] += [run] if round else []
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in taken.items()}
    print(f"{'command':<16}{'median s':>10}{'fastest s':>11}{'processor s':>13}{'limit s':>9}")
    for name, (_, limit) in COMMANDS.items():
        clock, processor = medians[name]
        print(f"{name:<16}{clock:>10.3f}{min(taken[name])[0]:>11.3f}{processor:>13.3f}{limit or '':>9}")
    if slow := [name for name, (_, limit) in COMMANDS.items() if limit and medians[name][0] > limit]:
        sys.exit(f"over the limit: {', '.join(slow)}")


if __name__ == "__main__":
    main()
