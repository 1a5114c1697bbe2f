"""Indexing a folder of pictures, a second run over it unchanged, and text queries.

    python benchmarks/index_folder.py --data flickr8k [--model mini]

Every step runs in a process of its own, whose peak memory is its own. "Start" is a process that imports what `diptych
index` imports and opens the index; a second run is reported with and without it. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_REPEATS = 5
_QUERIES = ("a dog runs on the beach", "two children play football", "a man climbs a rock", "a red car", "snow")


def first_run(index: Path, images: Path, model: str) -> dict[str, float]:
    from diptych.search.index import Index

    library = Index(index, model)
    _ = library.model
    added = library.add(images)
    return {"pictures": added.images, "skipped": len(added.skipped), "a second": added.images_per_second}


def start(index: Path, images: Path, model: str) -> dict[str, float]:
    from diptych.search.index import Index

    return {"rows": len(Index(index))}


def second_run(index: Path, images: Path, model: str) -> dict[str, float]:
    from diptych.search.index import Index

    library = Index(index)
    rows = len(library)  # what `start` does
    began = time.perf_counter()
    added = library.add(images)
    assert added.unchanged == rows, added.summary()
    return {"seconds": time.perf_counter() - began}


def queries(index: Path, images: Path, model: str) -> dict[str, float]:
    """Text to answer, warm: the model's forward pass and the search."""
    from diptych.search.index import Index
    from diptych.search.vector_search import nearest_rows

    library = Index(index)
    seconds = []
    for query in _QUERIES * 6:
        began = time.perf_counter()
        vector = library.model.encode_texts([query])[0]
        nearest_rows(library.store, vector, 10)
        seconds.append(time.perf_counter() - began)
    warm = seconds[len(_QUERIES) :]
    return {"p50 ms": statistics.median(warm) * 1e3, "max ms": max(warm) * 1e3}


STEPS: dict[str, Callable[[Path, Path, str], dict[str, float]]] = {
    "first": first_run,
    "start": start,
    "second": second_run,
    "queries": queries,
}


def apart(step: str, index: Path, images: Path, model: str) -> dict[str, float]:
    """One step in a process of its own, with its wall time and peak memory."""
    command = [sys.executable, __file__, "--step", step, "--index", str(index), "--data", str(images)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--model", model], capture_output=True, text=True)
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr[-2_000:])
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": wall}


def measure(images: Path, model: str, folder: Path) -> None:
    index = folder / "index"
    first = apart("first", index, images, model)
    disk = sum(file.stat().st_size for file in index.rglob("*") if file.is_file()) / 2**20
    print(f"{first['pictures']:,.0f} pictures, {first['skipped']:.0f} skipped; model {model}; {os.cpu_count()} cores\n")
    starts, seconds = [], []
    for _ in range(_REPEATS):
        starts.append(apart("start", index, images, model))
        seconds.append(apart("second", index, images, model))
    asked = apart("queries", index, images, model)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        found = STEPS[arguments.step](arguments.index, arguments.data, arguments.model)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
        print(json.dumps({**found, "peak MB": peak}))
        return
    with tempfile.TemporaryDirectory(prefix="diptych-index-") as folder:
        images = arguments.data / "images" if (arguments.data / "images").is_dir() else arguments.data
        measure(images.resolve(), arguments.model, Path(folder))


if __name__ == "__main__":
    main()
