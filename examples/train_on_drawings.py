"""Training from scratch: draw images with captions, train a dual encoder on them in two minutes, and find images.

    python examples/train_on_drawings.py

In that time the model learns colours; shapes take longer. Everything is written to `runs/drawings`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from diptych.cli import program

ROOT = Path(__file__).parent.parent
OUT = Path("runs") / "drawings"
QUERIES = ("a red star", "a house left of a tree", "three objects on a dark background")


def diptych(*arguments: str | Path) -> None:
    """Print and run a command in this process, so that torch is imported once."""
    words = [str(argument) for argument in arguments]
    print("\n$ diptych " + " ".join(f'"{word}"' if " " in word else word for word in words), flush=True)
    program(words, result_action="return_value")


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(OUT / "model", ignore_errors=True)
    diptych("data", "draw", OUT / "scenes", "--count", "1000")
    diptych("train", "contrastive", "--config", ROOT / "configs" / "scenes.yaml", "--data", OUT / "scenes",
            "--output", OUT / "model")  # fmt: skip
    for number, query in enumerate(QUERIES, 1):
        diptych("find", OUT / "model", query, "--data", OUT / "scenes", "--output", OUT / f"matches-{number}.png")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Next, with your own images and captions:")
    print("  .venv/bin/diptych data inspect YOUR_FOLDER")
    print("  .venv/bin/diptych train contrastive --data YOUR_FOLDER")


if __name__ == "__main__":
    main()
