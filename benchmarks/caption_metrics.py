"""Caption scores against coco-caption itself, and the tokenizers against each other, on a data set's captions.

    python benchmarks/caption_metrics.py --data flickr8k [--split dev]

The first caption of each picture is scored against its others, by diptych and by pycocoevalcap 1.2 (PTB tokenizer,
BLEU, ROUGE-L, CIDEr-D; METEOR is the same program in both and is left out), and every caption of the data set is cut by
both tokenizers. Needs Java and the extra `captions`. Seconds include the start of Java; the runs alternate, medians of
three.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from diptych.cli.show import print_table
from diptych.data.formats.read import read_pairs
from diptych.evaluation.metrics.captions import NAMES, score_captions
from diptych.evaluation.metrics.ptb import tokenize

RUNS = 3
METRICS = ("bleu", "rouge_l", "cider_d")


def by_coco(said: dict[str, str], known: dict[str, list[str]]) -> dict[str, float]:
    tokenizer = PTBTokenizer()
    with contextlib.redirect_stdout(io.StringIO()):
        candidates = tokenizer.tokenize({key: [{"caption": text}] for key, text in said.items()})
        references = tokenizer.tokenize({key: [{"caption": text} for text in texts] for key, texts in known.items()})
        found = dict(
            zip([f"bleu{n}" for n in range(1, 5)], Bleu(4).compute_score(references, candidates)[0], strict=True)
        )
    found["rouge_l"] = Rouge().compute_score(references, candidates)[0]
    found["cider_d"] = Cider().compute_score(references, candidates)[0]
    return {key: float(value) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="dev")
    arguments = parser.parse_args()
    everything = read_pairs(arguments.data).with_val()
    pairs = [row for row in everything.split(arguments.split) if len(row.captions) > 1]
    said = {row.image_id: row.captions[0] for row in pairs}
    known = {row.image_id: list(row.captions[1:]) for row in pairs}
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "coco-caption": lambda: by_coco(said, known),
        "diptych, PTB": lambda: score_captions(said, known, tokenizer="ptb", metrics=METRICS).corpus,
        "diptych, fallback": lambda: score_captions(said, known, tokenizer="fallback", metrics=METRICS).corpus,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, dict[str, float]] = {}
    for _ in range(RUNS):
        for name, way in ways.items():
            began = time.perf_counter()
            scores[name] = way()
            seconds[name].append(time.perf_counter() - began)
    rows = [
        {"score": NAMES[key], **{name: f"{scores[name][key]:.12f}" for name in ways}} for key in scores["coco-caption"]
    ]
    rows.append({"score": "seconds", **{name: f"{statistics.median(took):.2f}" for name, took in seconds.items()}})
    print_table(f"{len(said):,} captions against {sum(map(len, known.values())):,}", rows)
    captions = everything.flat_captions()[0]
    pairs_of_words = zip(tokenize(captions, "ptb")[0], tokenize(captions, "fallback")[0], strict=True)
    same = sum(one == other for one, other in pairs_of_words)
    print(
        f"{same:,} of {len(captions):,} captions are cut alike by both tokenizers ({100 * same / len(captions):.3f}%)"
    )


if __name__ == "__main__":
    main()
