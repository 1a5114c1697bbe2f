"""Captions of the sample library, good and bad ones, as one picture: `docs/captions.png` is made by it.

    python examples/captions.py [MODEL] [FILE]

The pictures are fifteen photographs that come with Python packages (the extra `samples`); the model is `mini` unless
another captioner is named, and nothing is fetched from a network. Beside each caption stands its score, the mean
log-probability of its words.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from diptych import load_captioner
from diptych.data.samples.library import photographs
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import decode

TILE = 200


def main(model: str = "mini", file: str = "runs/captions.png") -> None:
    captioner = load_captioner(model)
    with tempfile.TemporaryDirectory() as folder:
        photos = [decode(row.image, min_side=2 * TILE) for row in photographs(Path(folder))]
    told = [captions[0] for captions in captioner.caption(photos)]
    tiles = [Tile(photo, caption.text, f"{caption.score:.2f}") for photo, caption in zip(photos, told, strict=True)]
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    image_grid(tiles, title=f"Captions by {captioner.name}", columns=5, tile_size=TILE).save(file)
    for caption in told:
        print(f"{caption.score:.2f}  {caption.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
