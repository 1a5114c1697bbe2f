"""Train the captioner of `mini`: `python training/mini/captioner.py --data PATH/flickr8k`.

Run it after `ship.py`, which replaces the bundled model. It trains a decoder on the bundled dual encoder with the
settings of `configs/caption.yaml`, and writes it in half precision into the directory of the model. With the same
`--out`, an interrupted run is resumed. `diptych eval caption` evaluates the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from diptych.captioning.grid_captioner import WEIGHTS, load_grid_model, save_captioner
from diptych.models.checkpoints import BUNDLED, METADATA
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.train import train_captioner
from diptych.training.recipe_files import make, read_yaml

CONFIG = Path(__file__).parents[2] / "configs" / "caption.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, with its official splits")
    parser.add_argument("--out", default="runs/mini_caption")
    arguments = parser.parse_args()
    settings = {**read_yaml(CONFIG), "data": arguments.data, "model": "mini", "out": arguments.out}
    result = train_captioner(make(CaptionRecipe, settings), resume=True)
    for name, outcome in result.outcomes.items():
        print(name, f"{outcome.seconds:,.0f} s", [round(epoch["cider"], 3) for epoch in outcome.history])
    ship(result.model, BUNDLED / "mini")


def ship(source: Path, target: Path) -> None:
    """Copy the captioner at `source` into the dual encoder at `target`, in half precision, with its scores."""
    captioner = load_grid_model(source, "cpu")
    metadata = json.loads((source / METADATA).read_text("utf-8"))["captioner"]
    kept = {name: metadata[name] for name in ("pictures", "validation")}
    save_captioner(captioner, target, kept, half=True)
    print(f"{target / WEIGHTS}: {(target / WEIGHTS).stat().st_size / 1e6:.1f} MB, {len(captioner.words):,} words")


if __name__ == "__main__":
    main()
