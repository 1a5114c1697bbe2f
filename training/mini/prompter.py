"""Train the prompter of `mini`: `python training/mini/prompter.py --data PATH/flickr8k`.

Run it after `ship.py`, which replaces the bundled model. It trains a head on the image features of the bundled dual
encoder with the settings of `configs/prompt.yaml`, where the captions of an image are its prompts. It writes the head
in half precision into the directory of the model, without any of the captions. With the same `--out`, an interrupted
run is resumed. `benchmarks/prompting.py` evaluates the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training_data import VAL_FRACTION

from diptych.models.checkpoints import BUNDLED
from diptych.prompting.prompter import load_prompter
from diptych.prompting.storage import WEIGHTS, save_prompter
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter
from diptych.training.recipe_files import make, read_yaml

CONFIG = Path(__file__).parents[2] / "configs" / "prompt.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, with its official splits")
    parser.add_argument("--out", default="runs/mini_prompt")
    arguments = parser.parse_args()
    settings = {**read_yaml(CONFIG), **vars(arguments), "model": "mini", "val_fraction": VAL_FRACTION, "library": 0}
    result = train_prompter(make(PromptRecipe, settings), resume=True)
    print({name: round(value, 3) for name, value in result.outcome.best.items()})
    metadata = {"pictures": result.sizes, "validation": result.outcome.best}
    mini = BUNDLED / "mini"
    save_prompter(load_prompter(result.model, "cpu"), mini, half=True, card=metadata)
    print(f"{mini / WEIGHTS}: {(mini / WEIGHTS).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
