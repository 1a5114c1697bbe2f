"""Indexing a folder of pictures, a second run over it unchanged, and text queries; against rclip and clip-retrieval.

    python benchmarks/index_folder.py --data flickr8k [--model mini] [--others]

Every step runs in a process of its own, whose peak memory is its own. "Start" is a process that imports what `diptych
index` imports and opens the index; a second run is reported with and without it. With --others, rclip and
clip-retrieval are installed by uv in environments of their own in a temporary folder and given the same pictures; each
needs weights from the network, and what a tool says that cannot have them is reported. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_REPEATS = 5
_QUERIES = ("a dog runs on the beach", "two children play football", "a man climbs a rock", "a red car", "snow")


def first_run(index: Path, pictures: Path, model: str) -> dict[str, float]:
    from diptych.index import Index

    library = Index(index, model)
    _ = library.model
    added = library.add(pictures)
    return {"pictures": added.pictures, "skipped": len(added.skipped), "a second": added.pictures_per_second}


def start(index: Path, pictures: Path, model: str) -> dict[str, float]:
    from diptych.index import Index

    return {"rows": len(Index(index))}


def second_run(index: Path, pictures: Path, model: str) -> dict[str, float]:
    from diptych.index import Index

    library = Index(index)
    rows = len(library)  # what `start` does
    began = time.perf_counter()
    added = library.add(pictures)
    assert added.unchanged == rows, added.summary()
    return {"seconds": time.perf_counter() - began}


def queries(index: Path, pictures: Path, model: str) -> dict[str, float]:
    """Text to answer, warm: the model's forward pass and the search."""
    from diptych.index import Index
    from diptych.index.nearest import nearest

    library = Index(index)
    seconds = []
    for query in _QUERIES * 6:
        began = time.perf_counter()
        vector = library.model.encode_texts([query])[0]
        nearest(library.store, vector, 10)
        seconds.append(time.perf_counter() - began)
    warm = seconds[len(_QUERIES) :]
    return {"p50 ms": statistics.median(warm) * 1e3, "max ms": max(warm) * 1e3}


STEPS: dict[str, Callable[[Path, Path, str], dict[str, float]]] = {
    "first": first_run,
    "start": start,
    "second": second_run,
    "queries": queries,
}


def apart(step: str, index: Path, pictures: Path, model: str) -> dict[str, float]:
    """One step in a process of its own, with its wall time and peak memory."""
    command = [sys.executable, __file__, "--step", step, "--index", str(index), "--data", str(pictures)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--model", model], capture_output=True, text=True)
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr[-2_000:])
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": wall}


def measure(pictures: Path, model: str, folder: Path) -> None:
    index = folder / "index"
    first = apart("first", index, pictures, model)
    disk = sum(file.stat().st_size for file in index.rglob("*") if file.is_file()) / 2**20
    print(f"{first['pictures']:,.0f} pictures, {first['skipped']:.0f} skipped; model {model}; {os.cpu_count()} cores\n")
    starts, seconds = [], []
    for _ in range(_REPEATS):
        starts.append(apart("start", index, pictures, model))
        seconds.append(apart("second", index, pictures, model))
    asked = apart("queries", index, pictures, model)
    start_wall = statistics.median(each["wall"] for each in starts)
    second_wall = statistics.median(each["wall"] for each in seconds)
    rows = [
        ("first run, model loaded: pictures a second", f"{first['a second']:,.1f}"),
        ("first run: peak memory, MB", f"{first['peak MB']:,.0f}"),
        ("index on disk, MB", f"{disk:,.1f}"),
        ("start of a process that opens the index, s", f"{start_wall:.2f}"),
        ("second run, whole process, s", f"{second_wall:.2f}"),
        ("second run, beyond the start, s", f"{statistics.median(each['seconds'] for each in seconds):.2f}"),
        ("second run: peak memory, MB", f"{max(each['peak MB'] for each in seconds):,.0f}"),
        ("text query warm, with the model: p50 ms", f"{asked['p50 ms']:.1f}"),
        ("text query warm, with the model: slowest ms", f"{asked['max ms']:.1f}"),
    ]
    print("| diptych | |\n|---|---:|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows), flush=True)


# the others: what to install, a command that indexes, and the folder to run it in
OTHERS = {
    "rclip": (["rclip"], ["rclip", "-f", "a dog"], "{pictures}"),
    "clip-retrieval": (
        ["clip-retrieval", "setuptools<81"],  # it still asks for pkg_resources
        ["clip-retrieval", "inference", "--input_dataset", "{pictures}", "--output_folder", "{out}"],
        "{out}",
    ),
}


def others(pictures: Path, folder: Path) -> None:
    print("\n| tool | installs | index + one query, s | peak memory, MB | what it said |\n|---|---|---:|---:|---|")
    for name, (packages, command, where) in OTHERS.items():
        home, out = folder / name, folder / name / "out"
        out.mkdir(parents=True)
        python = home / "venv" / "bin" / "python"
        subprocess.run(["uv", "venv", "-q", str(home / "venv"), "--python", sys.executable], check=True)
        made = subprocess.run(
            ["uv", "pip", "install", "-q", "--python", str(python), *packages], capture_output=True, text=True
        )
        if made.returncode:
            print(f"| {name} | no | | | {last_line(made.stderr)} |", flush=True)
            continue
        linked = home / "pictures"
        shutil.copytree(pictures, linked, copy_function=os.link if same_disk(pictures, home) else shutil.copy)
        words = [word.format(pictures=linked, out=out) for word in command]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        began = time.perf_counter()
        try:
            done = subprocess.run(
                [str(python.parent / words[0]), *words[1:]],
                cwd=where.format(pictures=linked, out=out),
                env={**os.environ, "HOME": str(home), "PATH": f"{python.parent}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=3_600,
                stdin=subprocess.DEVNULL,
            )
            code, said = done.returncode, last_line(done.stderr or done.stdout)
        except subprocess.TimeoutExpired:
            code, said = 1, "not done after an hour"
        peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
        figures = f"{time.perf_counter() - began:.1f} | {peak:,.0f}" if code == 0 else "could not run | "
        print(f"| {name} | yes | {figures} | {said} |", flush=True)


def same_disk(first: Path, second: Path) -> bool:
    return first.stat().st_dev == second.stat().st_dev and os.access(first, os.W_OK)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace("|", "/")[:160] if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        found = STEPS[arguments.step](arguments.index, arguments.data, arguments.model)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
        print(json.dumps({**found, "peak MB": peak}))
        return
    with tempfile.TemporaryDirectory(prefix="diptych-index-") as folder:
        pictures = arguments.data / "images" if (arguments.data / "images").is_dir() else arguments.data
        measure(pictures.resolve(), arguments.model, Path(folder))
        if arguments.others:
            others(pictures.resolve(), Path(folder))


if __name__ == "__main__":
    main()
