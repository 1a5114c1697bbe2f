"""How the parts of a query are best weighed against one another: precision at 10 of composed queries.

    python benchmarks/search_compose.py --data flickr8k --model runs/mine --split dev

For pairs of concepts that captions name (A, B), the pictures of a split are searched for A without B ("a dog", not
"snow"), by the weight of the unwanted text; for A and B by two texts; and for what a picture shows with B added ("like
this picture of a dog, but on a beach"), by the weight of the text beside that of the picture. A hit is right if its
captions say so. Weights are chosen on `--split val`, a part of the training pictures, and reported on dev. Seed 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import permutations

import numpy as np
from _concepts import CONCEPTS, words

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.models.dual_encoder import load
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.search.query import compose

LEAST, PICTURES = 8, 5
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def shown(pairs: Pairs) -> dict[str, np.ndarray]:
    """For each concept which pictures' captions name it."""
    captions, index = pairs.flat_captions()
    said = [words(caption) for caption in captions]
    found = {}
    for concept, names in CONCEPTS.items():
        rows = np.zeros(len(pairs), bool)
        rows[index[np.array([bool(each & words(names)) for each in said])]] = True
        found[concept] = rows
    return found


def precision(vectors: np.ndarray, query: np.ndarray, right: np.ndarray, without: int | None = None) -> float:
    scores = vectors @ query
    if without is not None:
        scores[without] = -np.inf
    return float(right[np.argsort(-scores, kind="stable")[:10]].mean())


def report(name: str, by_weight: Iterable[tuple[float, list[float]]]) -> None:
    for weight, values in by_weight:
        print(f"{name} | weight {weight:g} | precision@10 {100 * np.mean(values):.1f} | {len(values)} queries")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--split", default="dev", help="dev, or val for a part of the training pictures")
    arguments = parser.parse_args()

    model, pairs = load(arguments.model), read_pairs(arguments.data)
    if arguments.split == "val":
        pairs = pairs.split("train").with_splits(val=0.0833, test=0, of="train")
    pairs = pairs.split(arguments.split)
    vectors, shows = np.asarray(dataset_image_embeddings(model, pairs)), shown(pairs)
    texts = dict(zip(CONCEPTS, model.encode_texts(list(CONCEPTS)), strict=True))
    generator = np.random.default_rng(0)

    without: dict[float, list[float]] = {weight: [] for weight in WEIGHTS}
    both: dict[float, list[float]] = {weight: [] for weight in WEIGHTS[1:]}
    added: dict[float, list[float]] = {weight: [] for weight in WEIGHTS}
    for one, other in permutations(CONCEPTS, 2):
        joint, alone = shows[one] & shows[other], shows[one] & ~shows[other]
        if min(joint.sum(), alone.sum()) < LEAST:
            continue
        pair = np.stack([texts[one], texts[other]])
        for weight, values in without.items():
            values.append(precision(vectors, compose(pair, [1, -weight]), alone))
        for weight, values in both.items():
            values.append(precision(vectors, compose(pair, [1, weight]), joint))
        for row in generator.permutation(np.flatnonzero(alone))[:PICTURES]:
            for weight, values in added.items():
                query = compose(np.stack([vectors[row], texts[other]]), [1, weight])
                values.append(precision(vectors, query, joint, without=int(row)))
    report("A, not B", without.items())
    report("A and B, two texts", both.items())
    report("like a picture of A, with B", added.items())


if __name__ == "__main__":
    main()
