"""Train the captioner of `mini`: `python training/mini/captioner.py --data PATH/flickr8k`.

Run it after `ship.py`, which replaces the bundled model. It trains a decoder on the bundled dual encoder with the
settings of `configs/caption.yaml`, and writes it in half precision into the directory of the model. With the same
`--out`, an interrupted run is resumed. `diptych eval caption` evaluates the result.
"""

from __future__ import annotations

import json
from pathlib import Path

from head_recipes import read_recipe

from diptych.captioning.grid_captioner import WEIGHTS, load_grid_model, save_captioner
from diptych.models.checkpoints import BUNDLED, METADATA
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.train import train_captioner


def main() -> None:
    recipe, resume = read_recipe(CaptionRecipe, "caption.yaml", __doc__, "runs/mini_caption")
    result = train_captioner(recipe, resume=resume)
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
