"""Does a query that matches nothing find nothing? The cutoff against a flat threshold on the cosine.

    python benchmarks/search_cutoff.py --data flickr8k --model runs/mine          # fits on train's validation part
    python benchmarks/search_cutoff.py --data flickr8k --model runs/mine --write  # and keeps it on the model's card

For each of some 60 concepts, queries ("a dog", "a photo of a dog", and five captions that name it) are asked twice: of
the split's pictures without any whose captions may mean the concept (absent), and of as many pictures with all of
those among them (present). Other queries name what no picture of the data set shows (far). Reported for the split
`dev`, which the fit never sees: the area under the ROC curve of present against absent, the share of present queries
that find something at the default cutoff, and the share of the others that find nothing. Beside it, the same for a
flat threshold that keeps the same share of the present queries of the validation part. The queries are also asked of
libraries where one picture of the concept is left, and of libraries of that concept's pictures alone. Seed 0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from _concepts import CONCEPTS, far_queries, words

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.models.checkpoints import METADATA, model_directory
from diptych.models.dual_encoder import DualEncoder, load
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.search.cutoff import KEEP, METADATA_KEY, Cutoff, cutoff_features, fit_cutoff
from diptych.search.vocabulary import vocabulary_embeddings

LEAST_PICTURES, CAPTIONS, NEAREST, LEAST_ALONE = 3, 5, 10, 10


@dataclass(frozen=True)
class QueryFeatures:
    """The features of the images nearest to one query in one library, with the kind of query and library."""

    kind: str  # noun, caption, far
    library: str  # present, absent, one left, alone
    features: np.ndarray  # (NEAREST, 3)


def ask_all(model: DualEncoder, pairs: Pairs) -> list[QueryFeatures]:
    vectors, background = (
        np.asarray(dataset_image_embeddings(model, pairs)),
        vocabulary_embeddings(lambda: model, model.fingerprint()),
    )
    generator = np.random.default_rng(0)

    def ask(kind: str, library: str, query: np.ndarray, rows: np.ndarray) -> QueryFeatures:
        best = rows[np.argsort(-(vectors[rows] @ query), kind="stable")[:NEAREST]]
        return QueryFeatures(kind, library, cutoff_features(query, vectors[best], background))

    found: list[QueryFeatures] = []
    for kind, texts, shows, own in _queries(pairs, generator):
        yes, no = np.flatnonzero(shows), np.flatnonzero(~shows)
        others = generator.permutation(no)
        for text, query in zip(texts, model.encode_texts(texts), strict=True):
            one = own.get(text, generator.choice(yes))
            libraries = {
                "absent": no,
                "present": np.concatenate([yes, others[: len(no) - len(yes)]]),
                "one left": np.concatenate([[one], others[: len(no) - 1]]),
            } | ({"alone": yes} if len(yes) >= LEAST_ALONE else {})
            found += [ask(kind, library, query, rows) for library, rows in libraries.items()]
    far = [form.format(query) for query in far_queries() for form in ("{}", "a photo of {}")]
    return found + [ask("far", "absent", query, np.arange(len(pairs))) for query in model.encode_texts(far)]


def _queries(
    pairs: Pairs, generator: np.random.Generator
) -> Iterator[tuple[str, list[str], np.ndarray, dict[str, int]]]:
    """Kind, texts, which pictures show their concept (pictures,), and for each caption the row of its picture."""
    captions, index = pairs.flat_captions()
    said = [words(caption) for caption in captions]
    for concept, names in CONCEPTS.items():
        meant = np.array([bool(each & words(names)) for each in said])
        shows = np.zeros(len(pairs), bool)
        shows[index[meant]] = True
        if not LEAST_PICTURES <= shows.sum() <= len(pairs) // 2:
            continue
        yield "noun", [concept, f"a photo of {concept}"], shows, {}
        noun = concept.split()[-1]
        naming = np.flatnonzero([any(word.startswith(noun) for word in each) for each in said] & meant)
        chosen = generator.permutation(naming)[:CAPTIONS]
        if len(chosen):
            yield "caption", [captions[at] for at in chosen], shows, {captions[at]: int(index[at]) for at in chosen}


def best(asked: list[QueryFeatures], cutoff: Cutoff, kinds: tuple[str, ...], library: str) -> np.ndarray:
    chosen = [each for each in asked if each.kind in kinds and each.library == library]
    return np.array([cutoff.evidence(each.features).max() for each in chosen])


def row(name: str, cutoff: Cutoff, asked: list[QueryFeatures], keep: float) -> dict[str, str]:
    from sklearn.metrics import roc_auc_score

    def area(yes: np.ndarray, no: np.ndarray) -> str:
        return f"{roc_auc_score(np.repeat([1, 0], [len(yes), len(no)]), np.concatenate([yes, no])):.3f}"

    named, least = ("noun", "caption"), cutoff.least_evidence(keep)
    present = best(asked, cutoff, named, "present")
    absent, far = best(asked, cutoff, named, "absent"), best(asked, cutoff, ("far",), "absent")
    return {
        "": name,
        "AUC": area(present, np.concatenate([absent, far])),
        "AUC near": area(present, absent),
        "AUC far": area(present, far),
        "present kept %": f"{100 * (present >= least).mean():.1f}",
        "absent: nothing %": f"{100 * (absent < least).mean():.1f}",
        "far: nothing %": f"{100 * (far < least).mean():.1f}",
        "one left kept %": f"{100 * (best(asked, cutoff, named, 'one left') >= least).mean():.1f}",
        "alone kept %": f"{100 * (best(asked, cutoff, named, 'alone') >= least).mean():.1f}",
    }


def single(column: int, asked: list[QueryFeatures]) -> Cutoff:
    """One figure alone: a flat threshold (0), or what models without calibration get (2)."""
    cutoff = Cutoff(tuple(float(at == column) for at in range(3)), 0.0, ())
    kept = np.quantile(best(asked, cutoff, ("noun", "caption"), "present"), np.linspace(0, 1, 21))
    return replace(cutoff, evidence_of_present=tuple(map(float, kept)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, or a data set with splits train and dev")
    parser.add_argument("--model", default="mini", help="a training run, a model directory, or a name")
    parser.add_argument("--keep", type=float, default=KEEP, help="share of the queries with a match to keep")
    parser.add_argument("--write", action="store_true", help="keep the fit in the model's diptych.json")
    parser.add_argument("--val-fraction", type=float, default=0.0833, help="as the model was trained")
    parser.add_argument("--validation-only", action="store_true", help="leave dev alone")
    arguments = parser.parse_args()

    model, pairs = load(arguments.model), read_pairs(arguments.data)
    held_out = pairs.split("train").with_splits(val=arguments.val_fraction, test=0, of="train").split("val")
    fitted_on = ask_all(model, held_out)
    present, absent = ([e.features for e in fitted_on if e.library == name] for name in ("present", "absent"))
    cutoff = fit_cutoff(present, absent)
    rival = single(2, fitted_on)
    print("fitted:", json.dumps(cutoff.to_dict()))
    print("of the rival alone:", json.dumps([round(each, 3) for each in rival.evidence_of_present]))
    if arguments.write:
        card = model_directory(arguments.model) / METADATA
        content = json.loads(card.read_text("utf-8")) | {METADATA_KEY: cutoff.to_dict()}
        card.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    scales = {
        "flat threshold on the cosine": single(0, fitted_on),
        "the rival alone (models without calibration)": rival,
        "the cutoff": cutoff,
    }
    for split in ("validation",) if arguments.validation_only else ("validation", "dev"):
        asked = fitted_on if split == "validation" else ask_all(model, pairs.split("dev"))
        counts = {name: sum(each.library == name for each in asked) for name in ("present", "absent", "alone")}
        counts |= {"far": sum(each.kind == "far" for each in asked)}
        counts["absent"] -= counts["far"]
        print(f"\n{split}: queries {counts}, keep {arguments.keep:g}")
        rows = [row(name, scale, asked, arguments.keep) for name, scale in scales.items()]
        print(" | ".join(rows[0]))
        for each in rows:
            print(" | ".join(each.values()))


if __name__ == "__main__":
    main()
