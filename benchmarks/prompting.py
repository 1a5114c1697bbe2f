"""How near a prompter comes to the prompts of Flickr8k's dev split (each picture's captions), in vectors and in words.

    python benchmarks/prompting.py --data flickr8k --model mini

Two tables. The first is of vectors, in the space of the prompter's text encoder: the mean cosine over each picture's
captions, normalised so that the training set's mean vector is 0 and the truth 1, and the median rank of the true prompt
among all captions of the split (a picture's other captions do not compete). The second is of words: the prompts that
each way says of the same pictures, their mean cosine with the true prompts, BLEU-4 and CIDEr-D against all captions of
the picture (PTB tokens where Java is), and the seconds for 1,000 pictures from files to words, models and the vectors
of the library being there. The library holds the training captions. Ways take turns in `--rounds` rounds; times are
medians. Run it when the machine is idle: `--threads` says how many cores compute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

from diptych.captioning.captioner import load_captioner
from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.errors import ModelError
from diptych.evaluation.metrics.captions import score_captions
from diptych.evaluation.metrics.similarity import similarity_metrics
from diptych.evaluation.prompts import PromptBaselines, PromptEvaluator, nearest_rows
from diptych.prompting.library import PromptLibrary
from diptych.prompting.many_images import prompt_images
from diptych.prompting.prompter import Prompter, load_prompter


def said_by(prompter: Prompter, pairs: Pairs, **wishes: object) -> tuple[list[str], float]:
    """The best prompt of each picture, and the seconds for 1,000."""
    images = [row.image for row in pairs]
    began = time.perf_counter()
    said = [found[0].text for _, found in prompt_images(prompter, images, **wishes)]
    return said, 1000 * (time.perf_counter() - began) / len(pairs)


def word_row(name: str, said: Sequence[str], prompter: Prompter, pairs: Pairs, truth: np.ndarray) -> dict[str, str]:
    owner = pairs.flat_captions()[1]
    cosine = similarity_metrics(prompter.space.encode(said), truth, owner).mean
    references = {row.image_id: row.captions for row in pairs}
    scores = score_captions(dict(zip(references, said, strict=True)), references, metrics=["bleu", "cider_d"])
    told = {"BLEU-4": f"{100 * scores.corpus['bleu4']:.1f}", "CIDEr-D": f"{100 * scores.corpus['cider_d']:.1f}"}
    return {"words": name, "cosine": f"{cosine:.3f}", **told, "tokens": scores.tokenizer}


def show(rows: list[dict[str, str]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(names) + " |")
    print("|---" * len(names) + "|")
    for row in rows:
        print("| " + " | ".join(row.get(name, "") for name in names) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, with its official splits")
    parser.add_argument("--model", default="mini", help="a prompter: a run of `diptych train prompt`, or mini")
    parser.add_argument("--captioner", help="for compose and generate; the prompter's own unless given")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, help="only the first so many")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = read_pairs(arguments.data)
    train, pairs = data.split("train"), data.split(arguments.split)[: arguments.images]
    prompter = load_prompter(arguments.model, "cpu")

    evaluator = PromptEvaluator(pairs, prompter.space.encode_cached(pairs.flat_captions()[0]))
    known, owner = train.flat_captions()
    library = PromptLibrary.of(known, prompter.space)
    features, train_features = (prompter.image_features.cached(part)[:, 0] for part in (pairs, train))
    scores = evaluator(
        {"prompter": prompter.predict_features(features)},
        baselines=PromptBaselines(prompter.space.encode_cached(known), owner, features, train_features),
    )
    show(
        [
            {
                "vectors": name,
                "cosine": f"{each.mean:.3f}",
                "normalised": f"{each.normalised:.3f}",
                "median rank": f"{each.median_rank:g}",
                "of a picture's best": f"{each.median_first_rank:g}",
            }
            for name, each in scores.items()
        ]
    )

    ways: dict[str, dict[str, object]] = {"retrieve": {"how": "retrieve", "library": library}}
    try:
        captioner = load_captioner(arguments.captioner or arguments.model, "cpu")
        ways |= {how: {"how": how, "captioner": captioner} for how in ("compose", "generate")}
    except ModelError as error:
        print(f"composed of subjects alone, nothing generated: {error}\n")
        ways["compose"] = {"how": "compose"}
    said: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {how: [] for how in ways}
    for _ in range(arguments.rounds):
        for how, wishes in ways.items():
            said[how], taken = said_by(prompter, pairs, **wishes)
            seconds[how].append(taken)
    rows = [
        word_row(how, said[how], prompter, pairs, evaluator.truth)
        | {"s for 1,000 pictures": f"{np.median(seconds[how]):.1f}"}
        for how in ways
    ]
    firsts = np.unique(owner, return_index=True)[1]
    neighbours = [known[firsts[row]] for row in nearest_rows(features, train_features)]
    rows.append(word_row("nearest neighbour's prompt", neighbours, prompter, pairs, evaluator.truth))
    show(rows)


if __name__ == "__main__":
    main()
