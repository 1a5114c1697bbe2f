"""Train the matcher of `mini`: `python training/mini/matcher.py --data PATH/flickr8k`.

Run it after `ship.py`, which replaces the bundled model. It trains the heads on the bundled dual encoder with the
settings of `configs/flickr8k_match.yaml`, and writes them in half precision into the directory of the model. With the
same `--out`, an interrupted run is resumed. `benchmarks/matching.py` evaluates the result.
"""

from __future__ import annotations

from head_recipes import read_recipe

from diptych.matching.matcher import load_matcher
from diptych.matching.storage import WEIGHTS, heads_of, save_matchers
from diptych.models.checkpoints import BUNDLED
from diptych.training.match.config import MatchRecipe
from diptych.training.match.train import train_matcher


def main() -> None:
    recipe, resume = read_recipe(MatchRecipe, "flickr8k_match.yaml", __doc__, "runs/mini_match")
    result = train_matcher(recipe, resume=resume)
    for head, scores in result.scores.items():
        print(head, {name: round(value, 2) for name, value in scores.items()})
    mini = BUNDLED / "mini"
    save_matchers([load_matcher(result.model, head, "cpu") for head in heads_of(result.model)], mini, half=True)
    print(f"{mini / WEIGHTS}: {(mini / WEIGHTS).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
