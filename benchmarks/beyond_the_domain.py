"""How a model does on photographs unlike those it was trained on: the sample library, one natural query for each.

    python benchmarks/beyond_the_domain.py --model mini

Prints the rank of each query's own photograph among all fifteen, the count of first places, and where a class that a
person would accept stands by zero-shot classification over ImageNet's 1,000 class names (- where it has none). Queries
and accepted classes were fixed before a model was tried on them. Needs the extra `samples`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from diptych.data.classes import read_classes
from diptych.data.samples.library import photographs
from diptych.data.templates import templates
from diptych.evaluation.evaluators import embed_classes
from diptych.evaluation.metrics.retrieval import retrieval_ranks
from diptych.images.decode import decode
from diptych.models.dual_encoder import load

# What a person would accept of ImageNet's 1,000 names; photographs whose subject has no class there are left out.
ACCEPTED = {
    "cat.png": ("tabby", "tiger cat", "egyptian cat"),
    "coffee.png": ("espresso", "cup", "coffee mug"),
    "rocket.jpg": ("missile", "projectile"),
    "motorcycle.png": ("moped", "motor scooter"),
    "cameraman.png": ("tripod",),
    "clock.png": ("wall clock", "analog clock"),
    "page.png": ("crossword puzzle", "menu", "book jacket", "web site"),
    "temple.jpg": ("palace", "stupa", "monastery"),
    "flower.jpg": ("daisy",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="a name or directory that diptych.load takes")
    parser.add_argument("--prompts", default="seven", help="templates of the class names: one, seven or eighty")
    arguments = parser.parse_args()

    model = load(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        pairs = photographs(Path(folder))
        queries, owner = pairs.flat_captions()
        images = model.encode_images([decode(row.image) for row in pairs])
    texts = model.encode_texts(queries)
    ranks = retrieval_ranks(images, texts, owner).text_to_image
    nearest = [pairs.image_ids[int(at)] for at in (texts @ images.T).argmax(axis=1)]

    imagenet = read_classes("imagenet")
    scores = images @ embed_classes(model, imagenet.names, templates(arguments.prompts)).T  # (photographs, classes)

    print(f"{'query':<34}{'rank':>5}  {'found first':<15}{'nearest ImageNet class':<25}{'rank of an accepted class'}")
    for row, query in enumerate(queries):
        best = imagenet.names[int(scores[row].argmax())]
        first = "" if ranks[row] == 1 else nearest[row]
        accepted = accepted_rank(pairs.image_ids[row], scores[row]) or "-"
        print(f"{query:<34}{ranks[row]:>5}  {first:<15}{best:<25}{accepted}")
    print(f"first places: {(ranks == 1).sum()} of {len(ranks)}; mean rank {ranks.mean():.1f}")
    known = [accepted_rank(name, scores[row]) for row, name in enumerate(pairs.image_ids) if name in ACCEPTED]
    print(f"ImageNet classes: {sum(rank <= 5 for rank in known)} of {len(known)} photographs among the first five")


def accepted_rank(photograph: str, scores: np.ndarray) -> int:
    """The best rank, from 1, of the names that a person would accept; 0 where ImageNet has none."""
    if photograph not in ACCEPTED:
        return 0
    names = [name.lower() for name in read_classes("imagenet").names]
    own = [scores[names.index(accepted)] for accepted in ACCEPTED[photograph]]
    return 1 + int((scores > max(own)).sum())


if __name__ == "__main__":
    main()
