"""The blocked retrieval metric against a full-matrix argsort: median seconds and peak memory, in one run.

    python benchmarks/retrieval_metrics.py                       # 5,000 x 25,000 both ways, then 20,000 x 100,000 alone
    python benchmarks/retrieval_metrics.py --images 1000 --large-images 0 --repeats 5

The embeddings are random directions with captions near their pictures. Each measurement runs in a process of its own,
so that a peak is its own; what is reported is the peak above what the process held once the embeddings were made.
Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diptych.evaluation.metrics.retrieval import retrieval_metrics


def embeddings(pictures: int, captions_each: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit pictures and captions in float32, and the picture of each caption."""
    generator = np.random.default_rng(0)

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    images = unit(generator.standard_normal((pictures, dim), dtype=np.float32))
    index = np.repeat(np.arange(pictures), captions_each)
    noise = unit(generator.standard_normal((len(index), dim), dtype=np.float32))
    return images, unit(images[index] + 5 * noise), index


def blocked(images: np.ndarray, texts: np.ndarray, index: np.ndarray) -> float:
    return retrieval_metrics(images, texts, index).rsum


def argsorted(images: np.ndarray, texts: np.ndarray, index: np.ndarray) -> float:
    """The usual script: the whole similarity matrix, sorted along both sides."""
    similarity = images @ texts.T  # (pictures, captions)
    own = index[np.argsort(-similarity, axis=1)] == np.arange(len(images))[:, None]
    best = own.argmax(axis=1)
    del own
    found = (np.argsort(-similarity.T, axis=1) == index[:, None]).argmax(axis=1)
    return sum(100 * float((ranks < k).mean()) for ranks in (best, found) for k in (1, 5, 10))


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(function: Callable[..., float], files: list[Path], queue: multiprocessing.Queue) -> None:
    """Put (seconds, peak bytes above the start, rsum) of one call; the peak is sampled every 5 ms."""
    data = [np.load(file) for file in files]  # made elsewhere: memory freed here would hide what the call takes
    blocked(data[0][:64], data[1][:64], np.zeros(64, dtype=np.int64))  # warm the BLAS
    start, peak, done = resident(), resident(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    rsum = function(*data)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    queue.put((seconds, peak - start, rsum))


def medians(function: Callable[..., float], files: list[Path], repeats: int) -> tuple[float, float, float]:
    """Median seconds and peak MiB over `repeats` processes, and the rsum."""
    context = multiprocessing.get_context("spawn")
    runs = []
    for _ in range(repeats):
        queue = context.Queue()
        process = context.Process(target=measure, args=(function, files, queue))
        process.start()
        while queue.empty() and process.is_alive():
            time.sleep(0.05)
        if queue.empty() and process.exitcode:
            sys.exit(f"{function.__name__} ended with exit code {process.exitcode}: out of memory?")
        runs.append(queue.get())
        process.join()
    seconds, peaks, rsums = zip(*runs, strict=True)
    return statistics.median(seconds), statistics.median(peaks) / 2**20, rsums[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000, help="pictures where both are measured")
    parser.add_argument("--large-images", type=int, default=20_000, help="pictures of the blocked run alone; 0: none")
    parser.add_argument("--captions-each", type=int, default=5)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    print(f"{'method':<10}{'pictures':>10}{'captions':>10}{'seconds':>10}{'peak MiB':>10}{'rsum':>9}")

    def report(function: Callable[..., float], images: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{name}.npy") for name in ("images", "texts", "index")]
            for file, array in zip(files, embeddings(images, arguments.captions_each, arguments.dim), strict=True):
                np.save(file, array)
            seconds, peak, rsum = medians(function, files, arguments.repeats)
        captions = images * arguments.captions_each
        print(
            f"{function.__name__:<10}{images:>10,}{captions:>10,}{seconds:>10.2f}{peak:>10.0f}{rsum:>9.2f}",
            flush=True,
        )
        return seconds, peak

    sorted_seconds, sorted_peak = report(argsorted, arguments.images)
    seconds, peak = report(blocked, arguments.images)
    print(f"blocked is {sorted_seconds / seconds:.1f} times as fast, in 1/{sorted_peak / peak:.0f} of the memory")
    if arguments.large_images:
        report(blocked, arguments.large_images)


if __name__ == "__main__":
    main()
