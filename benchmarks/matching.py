"""How well a matcher does on Flickr8k's dev split, each head beside the cosine of the dual encoder that it stands on.

    python benchmarks/matching.py --data flickr8k --model mini

Prints one table. `random`, `hard` and `mixture` are kinds of negatives (`diptych.matching.negatives`: hard ones are
drawn from the 2% of the pictures that the dual encoder finds nearest to the caption); the cosine is given a threshold
and a calibration too, fitted on the same held-out part as the heads'. `R@1` is text-to-image recall after the first 50
pictures are put in order anew. `planted` is the share of captions swapped between pictures (5% of all) that the audit
puts among its worst tenth. `pairs/s` is a picture with one text, decoded pictures to probabilities; `compared/s` are
pairs of which both sides are encoded already. Memory is the peak of the process, models and data in it. Run it when the
machine is idle: `--threads` says how many cores compute.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import numpy as np
import torch

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.evaluation.evaluators import MatchEvaluator
from diptych.images.decode import decode
from diptych.matching.matcher import Encoded, Matcher, load_matcher
from diptych.matching.negatives import make_labelled_pairs
from diptych.matching.rerank import reranked_ranks
from diptych.matching.storage import heads_of

SWAPPED, WORST = 0.05, 0.1


def planted(matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, seed: int) -> float:
    """Percentage of the captions put to another's picture that are among the least likely tenth."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(owner))[: round(SWAPPED * len(owner))]
    moved = owner.copy()
    moved[chosen] = owner[np.roll(chosen, 1)]
    chosen = chosen[moved[chosen] != owner[chosen]]
    probabilities = matcher.probabilities(images, texts, moved, np.arange(len(owner)))
    worst = np.argsort(probabilities, kind="stable")[: round(WORST * len(owner))]
    return 100 * float(np.isin(chosen, worst).mean())


def speeds(matcher: Matcher, pairs: Pairs, images: Encoded, texts: Encoded) -> tuple[float, float]:
    """Pairs a second: of decoded pictures with a text each, and of pictures and texts that are encoded already."""
    rows = list(pairs[:64])
    pictures, captions = [decode(row.image) for row in rows], [row.captions[0] for row in rows]
    matcher.predict(pictures[:8], captions[:8])
    whole = []
    for _ in range(3):
        began = time.perf_counter()
        matcher.predict(pictures, captions)
        whole.append(len(rows) / (time.perf_counter() - began))
    random = np.random.default_rng(0)
    left, right = random.integers(len(images), size=20_000), random.integers(len(texts), size=20_000)
    began = time.perf_counter()
    matcher.logits(images, texts, left, right)
    return float(np.median(whole)), 20_000 / (time.perf_counter() - began)


def measure(data: str, model: str, head: str, split: str, threads: int) -> dict[str, str]:
    """The row of one head."""
    torch.set_num_threads(threads)
    pairs = read_pairs(data).split(split)
    captions, owner = pairs.flat_captions()
    matcher = load_matcher(model, head, "cpu")
    images, texts = matcher.encode_dataset(pairs), matcher.encode_texts(captions)
    judged = make_labelled_pairs(pairs, images.embeddings.numpy(), texts.embeddings.numpy())
    report = MatchEvaluator(judged)(matcher.probabilities(images, texts, judged.rows, judged.texts))

    def shown(name: str, key: str) -> str:
        low, high = report.intervals[name][key]
        return f"{getattr(report.scores[name], key):.3f} ({low:.3f}-{high:.3f})"

    ranks = reranked_ranks(matcher, images, texts, owner)
    caught = [planted(matcher, images, texts, owner, seed) for seed in range(5)]
    whole, compared = speeds(matcher, pairs, images, texts)
    return {
        "head": head,
        "AUC random": shown("random", "auc"),
        "AUC hard": shown("hard", "auc"),
        "accuracy mixture": shown("mixture", "accuracy"),
        **{f"ECE {name}": shown(name, "ece") for name in ("mixture", "random", "hard")},
        "R@1": f"{100 * np.mean(ranks == 1):.1f}",
        "planted": f"{np.mean(caught):.1f}% ({min(caught):.1f}-{max(caught):.1f})",
        "pairs/s": f"{whole:.0f}",
        "compared/s": f"{compared:,.0f}",
        "memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, with its official splits")
    parser.add_argument("--model", default="mini", help="a matcher: a run of `diptych train match`, or mini")
    parser.add_argument("--split", default="val")
    parser.add_argument("--heads", nargs="*", help="those of the model unless given")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows = []
    for head in arguments.heads or heads_of(arguments.model):
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process each, so that peaks do not add up
            told = arguments.data, arguments.model, head, arguments.split, arguments.threads
            rows.append(pool.apply(measure, told))
    for name in rows[0]:
        print(f"| {name} | " + " | ".join(row[name] for row in rows) + " |")
        if name == "head":
            print("|---" * (1 + len(rows)) + "|")


if __name__ == "__main__":
    main()
