"""Does a model know ImageNet's classes by names that it never learnt? `other_names.py --data PATH/flickr8k MODEL...`

Training tells the model the first name of each class; WordNet has other names of most, and an explanation of each. For
each of these texts the prototypes of the thousand classes (`class_prototypes.py`) are ranked: R@5 in percent. It is a
measure of what a model knows beyond Flickr8k for which no picture of ImageNet is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from class_prototypes import ClassPrototypes
from study import split
from teachers import classifier
from timm.data import ImageNetInfo
from torch.nn import functional
from train import run

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.images.decode import decode
from diptych.models import dual_encoder as dual
from diptych.models import towers
from diptych.models.dual_encoder import DualEncoder
from diptych.models.modalities import preprocess_images

PICTURES = 1024  # whose features the prototypes are drawn from
DRAWS = 3  # prototypes of every class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of Flickr8k")
    parser.add_argument("models", nargs="+", help="mini, or directories of models made by train.py")
    arguments = parser.parse_args()
    train_pairs, _ = split(read_pairs(arguments.data))
    prototypes = ClassPrototypes(*classifier(), untouched_features(train_pairs[:PICTURES]))
    print(f"{'model':<40}", *(f"{kind:>13}" for kind in texts_of_classes()))
    for name in arguments.models:
        model = dual.load(name)
        found = [recall(model, prototypes, *texts) for texts in texts_of_classes().values()]
        print(f"{name[-40:]:<40}", *(f"{value:>13.1f}" for value in found), flush=True)


def texts_of_classes() -> dict[str, tuple[list[str], np.ndarray]]:
    """By kind: texts, and the class that each means."""
    info = ImageNetInfo()
    names = [info.index_to_description(index).split(", ") for index in range(1000)]
    explained = [info.index_to_description(index, detailed=True).partition(": ")[2] for index in range(1000)]
    others = [(f"a photo of a {name}", index) for index, each in enumerate(names) for name in each[1:]]
    every = np.arange(1000)
    return {
        "first names": ([f"a photo of a {each[0]}" for each in names], every),
        "other names": ([text for text, _ in others], np.array([index for _, index in others])),
        "explanations": (explained, every),
    }


@torch.inference_mode()
def untouched_features(pairs: Pairs) -> np.ndarray:
    """What the ImageNet tower makes of pictures: (pictures, 1280)."""
    tower = towers.image_tower("pypi/efficientnet-lite0", image_size=224, crop="squash")
    batches = [pairs[start : start + 64] for start in range(0, len(pairs), 64)]
    prepared = (preprocess_images(tower[0], (decode(row.image) for row in batch)) for batch in batches)
    return torch.cat([run(tower, pixels) for pixels in prepared]).numpy()


@torch.inference_mode()
def recall(model: DualEncoder, prototypes: ClassPrototypes, texts: Sequence[str], classes: np.ndarray) -> float:
    """The share of texts, in percent, whose class is among the five with the nearest prototypes; mean of some draws."""
    meanings = model.encode_texts(texts)  # (texts, dim)
    random = np.random.default_rng(0)
    shares = []
    for _ in range(DRAWS):
        features, drawn = prototypes.draw(1000, random)
        images = functional.normalize(run(model.head("image"), {"sentence_embedding": features}), dim=1).numpy()
        scores = meanings @ images[np.argsort(drawn)].T  # (texts, 1000), in the order of classes
        own = scores[np.arange(len(texts)), classes]
        shares.append(100 * ((scores > own[:, None]).sum(axis=1) < 5).mean())
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
