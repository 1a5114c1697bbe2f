"""The main job: index a folder of pictures, then find them by text and by picture.

    python examples/demo.py [MODEL]

Run by `make demo`. The pictures are the sample library, fifteen photographs that come with Python packages; the model
is `mini`, which comes with diptych. Everything lands in `runs/demo`, and nothing is fetched from a network.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from PIL import Image, ImageOps

from diptych.cli.show import print_table, progress
from diptych.data.samples.library import QUERIES, photographs
from diptych.errors import require
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import decode

OUT = Path("runs") / "demo"
TILE = 200
ABSENT = "a plate of sushi"


def main(model: str = "mini") -> None:
    started = time.monotonic()
    require("lancedb", "search")
    from diptych.search.index import Index
    from diptych.search.query import Query

    images = OUT / "library" / "images"
    photographs(OUT / "library")
    shutil.rmtree(images / ".diptych", ignore_errors=True)
    index = Index(images, model)
    added = index.add(images, progress=progress)
    print(f"indexed {added.new} photographs with '{model}'\n")

    rows, tiles = [], []
    for meant, query in QUERIES.items():
        first, second = index.search(query, k=2, keep=None)
        found = Path(first.path)
        rows.append({"text query": query, "found first": found.name, "score": f"{first.score:.3f}",
                     "then": Path(second.path).name})  # fmt: skip
        tiles.append(Tile(decode(found, min_side=TILE), query, highlight=found.name == meant))
    print_table("text to picture", rows)
    right = sum(tile.highlight for tile in tiles)
    print(f"{right} of {len(tiles)} queries found the photograph that was meant first (framed in green)\n")

    view = mirrored_middle(decode(images / "temple.jpg"))
    view.save(OUT / "query.png")
    nearest = index.search(Query.of(image=[OUT / "query.png"]), k=1)
    print(f"picture to picture: the middle of the temple, mirrored, found {Path(nearest.hits[0].path).name}")
    print(f"a text that fits none: {index.search(ABSENT).message}\n")

    image_grid(tiles, title="What each text found first", columns=5, tile_size=TILE).save(OUT / "found.png")
    print(f"Done in {time.monotonic() - started:.0f} s; see {OUT / 'found.png'}. Now with your own pictures:")
    print("  .venv/bin/diptych index YOUR_FOLDER")
    print('  .venv/bin/diptych search "a dog on a beach" --index YOUR_FOLDER -o found.html')
    print("and with your own captions: .venv/bin/diptych train contrastive --data YOUR_FOLDER")


def mirrored_middle(image: Image.Image) -> Image.Image:
    """The middle half of a picture, mirrored: what somebody else's photograph of the same thing might show."""
    width, height = image.size
    return ImageOps.mirror(image.crop((width // 4, height // 4, 3 * width // 4, 3 * height // 4)))


if __name__ == "__main__":
    main(*sys.argv[1:])
