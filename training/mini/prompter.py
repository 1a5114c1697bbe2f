"""Train the prompter of `mini`: `python training/mini/prompter.py --data PATH/flickr8k`.

Run it after `ship.py`, which replaces the bundled model. It trains a head on the image features of the bundled dual
encoder with the settings of `configs/prompt.yaml`, where the captions of an image are its prompts. It writes the head
in half precision into the directory of the model, without any of the captions. With the same `--out`, an interrupted
run is resumed. `benchmarks/prompting.py` evaluates the result.
"""

from __future__ import annotations

from head_recipes import read_recipe
from training_data import VAL_FRACTION

from diptych.models.checkpoints import BUNDLED
from diptych.prompting.prompter import load_prompter
from diptych.prompting.storage import WEIGHTS, save_prompter
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter


def main() -> None:
    settings = {"val_fraction": VAL_FRACTION, "library": 0}
    recipe, resume = read_recipe(PromptRecipe, "prompt.yaml", __doc__, "runs/mini_prompt", **settings)
    result = train_prompter(recipe, resume=resume)
    print({name: round(value, 3) for name, value in result.outcome.best.items()})
    metadata = {"pictures": result.sizes, "validation": result.outcome.best}
    mini = BUNDLED / "mini"
    save_prompter(load_prompter(result.model, "cpu"), mini, half=True, metadata=metadata)
    print(f"{mini / WEIGHTS}: {(mini / WEIGHTS).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
