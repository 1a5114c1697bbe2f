"""Images decoded a second: `diptych.images.decode` beside Pillow's `open(...).convert("RGB")`, alternated in one run.

    python benchmarks/decoding.py --data flickr8k_originals

Measures the JPEGs of the folder as they are, and copies of them enlarged to 12 megapixels; for a model that sees 224
pixels, and at full size. The files are read from memory, so the disk does not count. `as a tower sees it` is the mean
absolute difference, in grey levels of 0 to 255, of the two after both are resized to 224 x 224.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.images.decode import decode

MEGAPIXELS = 12e6
SIDE = 224


def plain(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def enlarged(data: bytes) -> bytes:
    """The same picture with 12 million pixels."""
    image = plain(data)
    scale = (MEGAPIXELS / (image.width * image.height)) ** 0.5
    file = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale))).save(file, "JPEG", quality=90)
    return file.getvalue()


def seconds(work: Callable[[bytes], Image.Image], files: Sequence[bytes]) -> float:
    started = time.perf_counter()
    for data in files:
        work(data)
    return time.perf_counter() - started


def difference(files: Sequence[bytes], min_side: int | None) -> float:
    """Mean absolute difference of both ways, as a tower of 224 pixels sees them."""

    def seen(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)

    gaps = [np.abs(seen(plain(data)) - seen(decode(data, min_side=min_side))).mean() for data in files]
    return float(np.mean(gaps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEGs at their original size")
    parser.add_argument("--large", type=int, default=12, help="how many of them to enlarge")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    small = [path.read_bytes() for path in sorted(arguments.data.rglob("*.jpg"))]
    large = [enlarged(data) for data in small[: arguments.large]]
    print(f"{'pictures':<26}{'for':<11}{'plain/s':>9}{'diptych/s':>11}{'times':>7}{'as a tower sees it':>20}")
    for name, files in ((f"{len(small)} originals", small), (f"{len(large)} of 12 megapixels", large)):
        for purpose, side in (("224 px", SIDE), ("full size", None)):

            def ours(data: bytes, side: int | None = side) -> Image.Image:
                return decode(data, min_side=side)

            runs = [(seconds(plain, files), seconds(ours, files)) for _ in range(arguments.repeats)]
            speeds = [len(files) / statistics.median(column) for column in zip(*runs, strict=True)]
            ratio = statistics.median(theirs / mine for theirs, mine in runs)
            speed = f"{name:<26}{purpose:<11}{speeds[0]:>9.1f}{speeds[1]:>11.1f}{ratio:>7.2f}"
            print(f"{speed}{difference(files, side):>20.2f}", flush=True)


if __name__ == "__main__":
    main()
