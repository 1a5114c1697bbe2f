"""Does memory grow with the number of pictures? Peaks of training and of evaluation at two sizes, each in its process.

    python benchmarks/memory.py --data flickr8k
    python benchmarks/memory.py --data flickr8k --images 1000 7000 28000

The model is small and the same at every size. Two things are counted every 5 ms, above what there was when everything
was imported: `held`, what the program has allocated and not freed (glibc's mallinfo2, with Python's and Arrow's own
memory in it), and `resident`, its anonymous memory (Linux's RssAnon), which has also what the allocator keeps of
freed memory and how threads happen to break it up, so that it differs from run to run. Stored features are files
mapped into memory, and in neither. Evaluation holds the captions' vectors: they stand in a column of their own, and
are taken off both. Each figure is the median of several processes. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _links import link

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.evaluation.evaluators import evaluate_retrieval
from diptych.models import builder
from diptych.models import dual_encoder as dual
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train

DIM = 256


MALLINFO2 = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO2.split()]


LIBC = ctypes.CDLL(None)
LIBC.mallinfo2.restype = Mallinfo2


def used() -> np.ndarray:
    """MiB of this process that are allocated and not freed, and that are resident and no file's."""
    told = LIBC.mallinfo2()
    resident = int(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
    return np.array([(told.uordblks + told.hblkhd) / 2**20, resident])


def write_subset(pairs: Pairs, count: int, folder: Path) -> None:
    """A data set of the first pictures; of more than there are, the same ones come again under other names."""
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.txt").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for number in range(count):
            row = pairs[number % len(pairs)]
            image_id = f"{number // len(pairs)}-{row.image_id}"
            link(row.image, folder / "images" / image_id)
            writer.writerows((image_id, caption) for caption in row.captions)


def build_model(data: Path, out: Path) -> None:
    model = builder.build(
        "timm/resnet10t",
        "distilbert",
        pretrained=False,
        image_size=64,
        dim=DIM,
        text_arguments={"dim": 64, "n_layers": 1, "n_heads": 2, "hidden_dim": 128},
        captions=read_pairs(data).flat_captions()[0],
        device="cpu",
    )
    model.save(out)


def train_stored(data: Path, folder: Path) -> None:
    """Three epochs of the heads on stored features."""
    train(ContrastiveRecipe(data=str(data), out=str(folder / "run"), start=str(folder / "model"), val_fraction=0.05,
                            freeze=["image", "text"], epochs=3, batch_size=256, device="cpu"))  # fmt: skip


def train_live(data: Path, folder: Path) -> None:
    """Forty steps of everything, with decoding and augmentation, and one validation."""
    train(ContrastiveRecipe(data=str(data), out=str(folder / "run"), start=str(folder / "model"), val_fraction=0.05,
                            max_steps=40, epochs=100, batch_size=64, augment="strong", device="cpu"))  # fmt: skip


def evaluate(data: Path, folder: Path) -> None:
    """Embedding every picture and caption, and the ranks of both directions."""
    evaluate_retrieval(dual.load(folder / "model", "cpu"), read_pairs(data))


def measure(job: Callable[[Path, Path], None], data: Path, folder: Path, queue: multiprocessing.Queue) -> None:
    """Put the peaks of `used` above the start of one job."""
    os.environ["DIPTYCH_CACHE"] = str(folder / "cache")
    start = peak = used()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = np.maximum(peak, used())

    watcher = threading.Thread(target=watch)
    watcher.start()
    job(data, folder)
    done.set()
    watcher.join()
    queue.put(peak - start)


def in_own_process(function: Callable, *arguments: object) -> None:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{function.__name__} ended with exit code {process.exitcode}")


def peak_of(job: Callable[[Path, Path], None], data: Path, folder: Path) -> np.ndarray:
    """The peaks of one job in a fresh process, with nothing kept from an earlier one."""
    for left in (folder / "run", folder / "cache"):
        shutil.rmtree(left, ignore_errors=True)
    queue = multiprocessing.get_context("spawn").Queue()
    in_own_process(measure, job, data, folder, queue)
    return queue.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 7000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.data)
    # of the processes to come, so that mallinfo2 sees all of it
    os.environ |= {"PYTHONMALLOC": "malloc", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    print("MiB           ", *(f"{name:>10}" for name in ("pictures", "captions", "vectors", "held", "resident")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {count: folder / str(count) for count in sorted(arguments.images)}
        for count, data in sets.items():
            write_subset(pairs, count, data)
        in_own_process(build_model, max(sets.items())[1], folder / "model")
        for job in (train_stored, train_live, evaluate):
            for data in sets.values():
                peaks = np.median([peak_of(job, data, folder) for _ in range(arguments.repeats)], axis=0)
                images, captions = len(read_pairs(data)), len(read_pairs(data).flat_captions()[0])
                # a picture's vectors lie in a file, a caption's in memory
                vectors = captions * DIM * 4 / 2**20 if job is evaluate else 0.0
                numbers = (images, captions, vectors, *(peaks - vectors))
                print(f"{job.__name__:<14}", *(f"{number:>10,.0f}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
