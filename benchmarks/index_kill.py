"""Kill -9 at random moments while a library is indexed: does the index end with exactly the files on disk, each once?

    python benchmarks/index_kill.py [--kills 20] [--images 2000] [--data PATH] [--model PATH]

Each round starts `Index.add(library, prune=True)` in a process of its own, kills it after a random time, checks that
every acknowledged row is there, and then changes the library: pictures come, go, change, move and are copied. In the
end one run is let through, and every row is compared with an index that was made anew. Pictures are small drawings, or
with --data those of a data set; the model is a tiny untrained one unless --model names another. Linux and macOS.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def index_slowly(library: str, acknowledged: Any) -> None:
    """Index with a transaction for every few batches, and tell how many rows are on disk."""
    from diptych.search import add as adding
    from diptych.search.index import Index

    adding._COMMIT_ROWS = 32  # type: ignore[attr-defined]
    index = Index(library)
    acknowledged.value = len(index)

    def told(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        for item in items:
            yield item
            acknowledged.value = len(index)

    index.add(library, prune=True, batch_size=16, progress=told)


def tiny_model(folder: Path) -> Path:
    import diptych

    text = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    model = diptych.build(
        *("timm/test_resnet", "distilbert"),
        pretrained=False,
        dim=16,
        image_size=32,
        text_arguments=text,
        captions=["a"],
    )
    model.save(folder)
    return folder


class Library:
    """Pictures in a folder that keeps changing."""

    def __init__(self, folder: Path, count: int, data: Path | None, seed: int) -> None:
        self.folder, self.rng, self.made = folder, random.Random(seed), 0
        folder.mkdir(parents=True)
        self.sources = sorted(data.rglob("*.jpg")) if data else []
        for _ in range(count):
            self.draw(self.new_name())

    def new_name(self) -> Path:
        self.made += 1
        path = self.folder / f"{self.made % 7}" / f"{self.made}.png"
        path.parent.mkdir(exist_ok=True)
        return path

    def draw(self, path: Path) -> None:
        if self.sources:
            shutil.copy(self.rng.choice(self.sources), path)
        else:
            Image.frombytes("RGB", (12, 10), self.rng.randbytes(360)).resize((96, 80), 0).save(path)

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.png"))

    def change(self, each: int) -> None:
        """`each` pictures come, go, change, move, and are copied."""
        chosen = self.rng.sample(self.files(), 4 * each)
        for gone, changed, moved, copied in zip(*(chosen[at::4] for at in range(4)), strict=True):
            gone.unlink()
            self.draw(changed)
            moved.rename(self.new_name())
            shutil.copy(copied, self.new_name())
            self.draw(self.new_name())


def vectors(index: Any) -> dict[str, np.ndarray]:
    table = index.store.table.search().select(["path", "vector"]).limit(len(index) + 1).to_arrow()
    paths = table["path"].to_pylist()
    assert len(set(paths)) == len(paths), "a file stands twice"
    return dict(zip(paths, np.array(table["vector"].to_pylist(), np.float32), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diptych-kill-") as folder:
        run(Path(folder), arguments)


def run(folder: Path, arguments: argparse.Namespace) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diptych.models.dual_encoder", "diptych.search.index", "timm"])
    acknowledged = context.Value("q", 0)
    library = Library(folder / "library", arguments.images, arguments.data, arguments.seed)
    model = arguments.model or tiny_model(folder / "model")
    from diptych.search.index import Index

    index = Index(library.folder, model)
    rng, killed, lost, began = random.Random(arguments.seed), 0, 0, time.perf_counter()
    while killed < arguments.kills:
        acknowledged.value = -1
        process = context.Process(target=index_slowly, args=(str(library.folder), acknowledged))
        process.start()
        while acknowledged.value < 0 and process.is_alive():
            time.sleep(0.01)
        process.join(rng.uniform(0, 3))  # seconds into the work
        process.kill()
        process.join()
        killed += process.exitcode != 0
        lost += max(0, acknowledged.value - len(index))
        print(f"kill {killed}: {len(index):,} rows, acknowledged {acknowledged.value:,}", flush=True)
        library.change(max(1, arguments.images // 200))
    added = index.add(library.folder, prune=True)
    found, there = vectors(index), {str(path) for path in library.files()}
    fresh = Index(folder / "fresh", model)
    fresh.add(library.folder)
    right = vectors(fresh)
    same = sum(np.allclose(found[path], right[path], atol=2e-3) for path in found.keys() & right.keys())
    print(f"last run: {added.summary()}")
    print("\n| kills | files on disk | rows | missing | too many | with the right vector | acknowledged but lost |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    counts = (killed, len(there), len(found), len(there - found.keys()), len(found.keys() - there), same, lost)
    print("| " + " | ".join(f"{count:,}" for count in counts) + " |")
    print(f"\n{time.perf_counter() - began:.0f} s")
    if there != found.keys() or same != len(there) or lost:
        raise SystemExit("the index is not what is on disk")


if __name__ == "__main__":
    main()
