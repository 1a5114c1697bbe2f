"""Does a data set with broken pictures train to the end, and is each of them reported for what it is?

    python benchmarks/broken_pictures.py --data flickr8k

Links the data set's files into a temporary folder, breaks 1% of the pictures in ten ways in turn, trains a small dual
encoder on the rest, and prints for each way how many files were broken and how many were reported as that. Ends with
1 if one was not, or if training left out anything else.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from _links import link
from tests.broken import BROKEN, break_file

from diptych.data.doctor.inspect import inspect
from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train

PROMPT_METHODS = [way for way in BROKEN if way not in ("truncated gif", "text")]  # ten


def broken(pairs: Pairs, share: float) -> dict[str, str]:
    """Break this share of the pictures; returns the way of each file."""
    chosen = random.Random(0).sample(pairs, max(len(PROMPT_METHODS), round(share * len(pairs))))
    ways = {str(row.image): PROMPT_METHODS[index % len(PROMPT_METHODS)] for index, row in enumerate(chosen)}
    for file, way in ways.items():
        break_file(Path(file), way)
    return ways


def reported(pairs: Pairs) -> dict[str, str]:
    """The reason for which the doctor refuses each file, by its path."""
    reasons = {reason for _, reason in BROKEN.values()}
    report = inspect(pairs, examples=len(pairs))
    return {
        example.file: found.kind for found in report.findings if found.kind in reasons for example in found.examples
    }


def recipe(data: Path, out: Path, epochs: int) -> ContrastiveRecipe:
    """A model from configuration alone that is small enough to decode every picture in every epoch."""
    return ContrastiveRecipe(
        data=str(data),
        out=str(out),
        pretrained=False,
        image_tower="timm/test_resnet",
        image_size=64,
        text_tower="distilbert",
        text_arguments={"dim": 64, "n_layers": 1, "n_heads": 2, "hidden_dim": 128},
        dim=64,
        val_fraction=0.0833,
        epochs=epochs,
        batch_size=128,
        lr_image=1e-3,
        lr_text=1e-3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.01, help="share of the pictures to break")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIPTYCH_CACHE"] = f"{folder}/cache"
        data = Path(folder) / "data"
        shutil.copytree(arguments.data, data, copy_function=link)
        pairs = read_pairs(data)
        ways = broken(pairs, arguments.share)
        found = reported(pairs)
        started = time.perf_counter()
        result = train(recipe(data, Path(folder) / "run", arguments.epochs))
        seconds = time.perf_counter() - started

    files, right = (
        Counter(ways.values()),
        Counter(way for file, way in ways.items() if found.get(file) == BROKEN[way][1]),
    )
    print(f"{'way':<16}{'files':>7}{'reported':>10}  as")
    for way in PROMPT_METHODS:
        print(f"{way:<16}{files[way]:>7}{right[way]:>10}  {BROKEN[way][1]}")
    print(f"{'all':<16}{files.total():>7}{right.total():>10}  and {len(found.keys() - ways.keys())} others")
    sizes = result.sizes
    print(
        f"trained to the end: {result.outcome.steps} steps in {seconds:.0f} s on {sizes['train']:,} pictures, "
        f"{sizes['val']:,} for validation; left out {result.left_out.bad_images}: {result.left_out.summary()}"
    )
    if right != files or found.keys() != ways.keys() or result.left_out.bad_images != len(ways):
        sys.exit("not each was reported as what it is")


if __name__ == "__main__":
    main()
