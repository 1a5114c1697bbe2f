"""Put a captioner beside `mini` in the package: `python training/mini/captioner.py --data PATH/flickr8k`.

Run it after `ship.py`, which writes the model anew. It trains the decoder on the model as it is shipped, with the
settings of `configs/caption.yaml`, and writes it in half precision into the model's own directory, which goes on
loading as a dual encoder. Run again with the same `--out`, it goes on where it was; `diptych eval caption` is for its
numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from diptych.captioning.grid_captioner import WEIGHTS, load_grid_model, save_captioner
from diptych.models.checkpoints import BUNDLED, CARD
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.train import train_captioner
from diptych.training.settings import make, read_yaml

CONFIG = Path(__file__).parents[2] / "configs" / "caption.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, with its official splits")
    parser.add_argument("--out", default="runs/mini_caption")
    arguments = parser.parse_args()
    told = {"data": arguments.data, "model": "mini", "out": arguments.out}
    result = train_captioner(make(CaptionRecipe, {**read_yaml(CONFIG), **told}), resume=True)
    for name, outcome in result.outcomes.items():
        print(name, f"{outcome.seconds:,.0f} s", [round(epoch["cider"], 3) for epoch in outcome.history])
    ship(result.model, BUNDLED / "mini")


def ship(source: Path, target: Path) -> None:
    """Write the captioner at `source` beside the dual encoder at `target`, in half precision, with its scores."""
    writer = load_grid_model(source, "cpu")
    told = json.loads((source / CARD).read_text("utf-8"))["captioner"]
    save_captioner(writer, target, {"pictures": told["pictures"], "validation": told["validation"]}, half=True)
    print(f"{target / WEIGHTS}: {(target / WEIGHTS).stat().st_size / 1e6:.1f} MB, {len(writer.words):,} words")


if __name__ == "__main__":
    main()
