"""Do the caption scores reproduce published figures, to the last digit?

    python benchmarks/caption_metrics_golden.py PATH [--clip open_clip/ViT-B-32]

PATH (or the environment variable DIPTYCH_CAPTION_GOLDEN) holds `clipscore_example`, the example of
github.com/jmhessel/clipscore, and `nlg_eval`, that of github.com/Maluuba/nlg-eval. METEOR needs Java and the extra
`captions`, SPICE its parser's model beside it, CLIPScore and RefCLIPScore OpenAI's ViT-B/32: `--clip` is its directory
or, where the hub can be reached, its name. What cannot be computed here is told and does not count. The exit code is 1
where a figure differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from diptych.cli.show import print_table
from diptych.data.pairs import Pairs, Row
from diptych.errors import DiptychError
from diptych.evaluation.captions import CaptionEvaluator, Scorer
from diptych.evaluation.metrics.captions import NAMES
from diptych.models.dual_encoder import load

KEYS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "spice", "clipscore", "refclipscore")
PUBLISHED = {  # as they were printed; a figure that was not is ""
    "good_captions": "0.6667 0.4899 0.3469 0.0000 0.3444 0.4280 0.5637 0.4000 0.8584 0.8450",
    "bad_captions": "0.4815 0.2404 0.1359 0.0000 0.1861 0.3121 0.2790 0.1500 0.7153 0.7253",
    "nlg_eval": "0.550000 0.428174 0.284043 0.201143 0.295797 0.522104 1.242192 0.312331",
}


def read(folder: Path, case: str) -> tuple[dict[str, str], Pairs]:
    """Captions, and pictures with their references; the pictures of nlg_eval are not there."""
    if case == "nlg_eval":
        lines = [(folder / case / f"{name}.txt").read_text("utf-8").splitlines() for name in ("hyp", "ref1", "ref2")]
        said = {str(at): text for at, text in enumerate(lines[0])}
        known = {key: [lines[1][int(key)], lines[2][int(key)]] for key in said}
    else:
        folder = folder / "clipscore_example"
        said = json.loads((folder / f"{case}.json").read_text("utf-8"))
        known = json.loads((folder / "refs.json").read_text("utf-8"))
    images = folder / "images"
    return said, Pairs.from_rows(Row(key, images / f"{key}.jpg", tuple(texts)) for key, texts in known.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", nargs="?", default=os.environ.get("DIPTYCH_CAPTION_GOLDEN"))
    parser.add_argument("--clip", default="open_clip/ViT-B-32")
    arguments = parser.parse_args()
    if not arguments.golden:
        print("skipped: name the folder of the golden captions")
        return
    try:
        scorer = Scorer(arguments.clip, load(arguments.clip))
    except DiptychError as error:
        print(f"without CLIPScore: {error}")
        scorer = None
    rows, differ = [], 0
    missing: dict[str, str] = {}
    for case, figures in PUBLISHED.items():
        said, pairs = read(Path(arguments.golden), case)
        has_pictures = case != "nlg_eval"
        report = CaptionEvaluator(pairs, scorer=scorer if has_pictures else None)(said)
        missing |= report.missing if has_pictures else {}
        for key, published in zip(KEYS, figures.split(), strict=False):
            value = report.corpus.get(key)
            ours = "" if value is None else f"{value:.{len(published.partition('.')[2])}f}"
            differ += bool(ours) and ours != published
            same = "not computed" if not ours else "yes" if ours == published else "NO"
            rows.append({"case": case, "score": NAMES[key], "published": published, "ours": ours, "same": same})
    print_table(f"tokenizer: {report.tokenizer}", rows)
    for key, why in missing.items():
        print(f"{NAMES[key]}: {why}")
    sys.exit(int(bool(differ)))


if __name__ == "__main__":
    main()
