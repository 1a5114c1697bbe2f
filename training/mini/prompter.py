"""Put a prompter beside `mini` in the package: `python training/mini/prompter.py --data PATH/flickr8k`.

Run it after `ship.py`, which writes the model anew. It trains a head on the image features of the model as it is
shipped, with the settings of `configs/prompt.yaml`, each picture's captions being its prompts, and writes it in half
precision into the model's own directory, which goes on loading as a dual encoder. No caption of Flickr8k goes with it.
Run again with the same `--out`, it goes on where it was; `benchmarks/prompting.py` is for its numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diptych.models.checkpoints import BUNDLED
from diptych.prompting.prompter import load_prompter
from diptych.prompting.storage import WEIGHTS, save_prompter
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter
from diptych.training.settings import make, read_yaml

CONFIG = Path(__file__).parents[2] / "configs" / "prompt.yaml"
VAL_FRACTION = 0.0833  # the part that mini was chosen by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, with its official splits")
    parser.add_argument("--out", default="runs/mini_prompt")
    arguments = parser.parse_args()
    told = {"data": arguments.data, "model": "mini", "out": arguments.out}
    recipe = make(PromptRecipe, {**read_yaml(CONFIG), **told, "val_fraction": VAL_FRACTION, "library": 0})
    result = train_prompter(recipe, resume=True)
    print({name: round(value, 3) for name, value in result.outcome.best.items()})
    card = {"pictures": result.sizes, "validation": result.outcome.best}
    save_prompter(load_prompter(result.model, "cpu"), BUNDLED / "mini", half=True, card=card)
    print(f"{BUNDLED / 'mini' / WEIGHTS}: {(BUNDLED / 'mini' / WEIGHTS).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
