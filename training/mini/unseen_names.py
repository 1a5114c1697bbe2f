"""Recall of ImageNet classes by names that are not in the training data: `unseen_names.py --data PATH MODEL...`

`mini` is trained on the first name of each class. WordNet has other names of most classes, and a definition of each.
For each of these texts, the prototypes of the thousand classes (`class_prototypes.py`) are ranked; the measure is R@5
in percent. It measures what a model knows beyond Flickr8k, and needs no ImageNet images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from class_prototypes import ClassPrototypes
from numpy.typing import NDArray
from teachers import classifier
from timm.data import ImageNetInfo
from torch.nn import functional
from train import run
from training_data import split

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.images.decode import decode
from diptych.models import dual_encoder, towers
from diptych.models.dual_encoder import DualEncoder
from diptych.models.modalities import preprocess_images

IMAGES = 1024  # whose features the prototypes are made from
DRAWS = 3  # prototypes per class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of Flickr8k")
    parser.add_argument("models", nargs="+", help="mini, or directories of models that train.py wrote")
    arguments = parser.parse_args()
    train_pairs, _ = split(read_pairs(arguments.data))
    prototypes = ClassPrototypes(*classifier(), original_features(train_pairs[:IMAGES]))
    queries = class_queries()
    print(f"{'model':<40}", *(f"{kind:>13}" for kind in queries))
    for name in arguments.models:
        model = dual_encoder.load(name)
        recalls = [recall(model, prototypes, *query) for query in queries.values()]
        print(f"{name[-40:]:<40}", *(f"{value:>13.1f}" for value in recalls), flush=True)


def class_queries() -> dict[str, tuple[list[str], NDArray[np.int64]]]:
    """Texts by kind, and the class of each."""
    info = ImageNetInfo()
    names = [info.index_to_description(index).split(", ") for index in range(1000)]
    definitions = [info.index_to_description(index, detailed=True).partition(": ")[2] for index in range(1000)]
    others = [(f"a photo of a {name}", index) for index, of_class in enumerate(names) for name in of_class[1:]]
    classes = np.arange(1000)
    return {
        "first names": ([f"a photo of a {of_class[0]}" for of_class in names], classes),
        "other names": ([text for text, _ in others], np.array([index for _, index in others])),
        "definitions": (definitions, classes),
    }


@torch.inference_mode()
def original_features(pairs: Pairs) -> NDArray[np.float32]:
    """(images, 1280) features of the pretrained ImageNet tower."""
    tower = towers.image_tower("pypi/efficientnet-lite0", image_size=224, crop="squash")
    batches = [pairs[start : start + 64] for start in range(0, len(pairs), 64)]
    inputs = (preprocess_images(tower[0], (decode(row.image) for row in batch)) for batch in batches)
    return torch.cat([run(tower, pixels) for pixels in inputs]).numpy()


@torch.inference_mode()
def recall(model: DualEncoder, prototypes: ClassPrototypes, texts: Sequence[str], classes: NDArray[np.int64]) -> float:
    """The percentage of texts whose class is among the five nearest prototypes; the mean of `DRAWS` draws."""
    embeddings = model.encode_texts(texts)  # (texts, dim)
    random = np.random.default_rng(0)
    recalls = []
    for _ in range(DRAWS):
        features, drawn = prototypes.draw(1000, random)
        images = functional.normalize(run(model.head("image"), {"sentence_embedding": features}), dim=1).numpy()
        scores = embeddings @ images[np.argsort(drawn)].T  # (texts, classes)
        own = scores[np.arange(len(texts)), classes]
        recalls.append(100 * ((scores > own[:, None]).sum(axis=1) < 5).mean())
    return float(np.mean(recalls))


if __name__ == "__main__":
    main()
