"""The card of a model on the hub: use, data, recipe, numbers, limits and licence, and a picture of results."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from diptych.captioning.transformers_captioner import is_whole
from diptych.data.samples.photographs import PHOTOGRAPHS, photographs
from diptych.errors import ModelError
from diptych.export.endpoint import split_metadata
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import decode
from diptych.matching.blip import is_blip
from diptych.models.checkpoints import CARD, read_metadata
from diptych.models.dual_encoder import load
from diptych.runtime.quoting import code_block, code_span, markdown, to_json

PICTURE = "results.png"

_LOADERS = {"dual": "load", "matcher": "load_matcher", "captioner": "load_captioner", "prompter": "load_prompter"}
_TAGS = {
    "dual": ["dual-encoder", "image-text-retrieval", "zero-shot-image-classification"],
    "matcher": ["image-text-matching"],
    "captioner": ["image-captioning"],
    "prompter": ["image-to-prompt"],
}
_TASKS = {"dual": "zero-shot-image-classification", "captioner": "image-to-text"}
_USES = {
    "dual": 'images = model.encode_images([picture])\ntexts = model.encode_texts(["a dog on a beach"])',
    "matcher": 'model.predict([picture], ["a dog on a beach"])  # the probability that they belong together',
    "captioner": "model.caption([picture])",
    "prompter": "model.say([picture])",
}
_LIMITS = {
    "dual": "- A cosine says which of several texts fits a picture best; it is no probability.\n"
    "- Counting, reading, left and right, and negation are beyond most dual encoders.",
    "matcher": "- Its probability holds where pairs are like those that it was calibrated on.",
    "captioner": "- It writes what its training captions would say, and may name things that are not there.",
    "prompter": "- It says what its training prompts would say; no prompt makes the same picture again.",
}
_EVERYWHERE = "- It knows what its training data shows, and that data's prejudices. It is not to judge people."
_TITLES = {  # a section of a full card -> headings under which an existing card may have it already
    "Use": ("use", "usage", "how to use"),
    "Data": ("data", "training data", "what it is made of"),
    "Recipe": ("recipe", "training", "what it is made of"),
    "Measured": ("measured", "how good", "evaluation", "results"),
    "Limits": ("limits", "limitations", "bias, risks, and limitations"),
    "Licence": ("licence", "license", "terms"),
}


def kinds_of(folder: Path) -> list[str]:
    """What a model's folder holds: `dual`, `matcher`, `captioner`, `prompter`, one or more of them.

    Raises:
        ModelError: it is none of these.
    """
    if is_blip(folder):
        return ["matcher"]
    if is_whole(folder):
        return ["captioner"]
    card = read_metadata(folder)
    dual = ["dual"] * ((folder / "modules.json").exists() or not card)
    found = [*dual, *(kind for kind in ("matcher", "captioner", "prompter") if card.get(kind))]
    if not found:
        raise ModelError(f"'{folder}' holds no dual encoder, matcher, captioner or prompter")
    return found


def full_card(folder: Path, repo: str, *, licence: str | None = None, picture: bool = False) -> str:
    """The card of the model in `folder` as the hub reads it: its own card, with every section that it lacks.

    `licence` is its identifier on the hub (`apache-2.0`, `mit`, ...), needed where the model's own card names none.
    `picture` says that `results.png` lies beside the card.

    Raises:
        ModelError: nobody says under which licence the model is.
    """
    head, body = split_metadata(_own_card(folder))
    metadata = {**_metadata(folder), **(yaml.safe_load(head) or {} if head else {})}
    metadata["tags"] = list(dict.fromkeys([*metadata.get("tags", []), *_metadata(folder)["tags"]]))
    if licence:
        metadata["license"] = licence
    if not metadata.get("license"):
        raise ModelError(
            f"the card of '{folder}' names no licence; say under which one the model may be used, such as "
            "--licence apache-2.0 (licence= in Python)"
        )
    body = body.replace('"path/of/this/folder"', to_json(repo)).strip() or f"# {markdown(repo.split('/')[-1])}"
    there = {heading.strip().lower() for heading in re.findall(r"^##\s+(.+)$", body, re.MULTILINE)}
    sections = _sections(folder, repo, metadata["license"])
    missing = [title for title in sections if not there & set(_TITLES[title])]
    parts = [body, *(f"## {title}\n\n{sections[title]}" for title in missing)]
    if picture:
        parts.append(f"## Examples\n\n![What it makes of the sample library's photographs]({PICTURE})")
    yaml_head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{yaml_head}---\n" + "\n\n".join(parts) + "\n"


def results_picture(folder: Path) -> Image.Image:
    """What the model makes of photographs that may be shown: what it finds for each query, or its captions.

    Raises:
        MissingExtra: the sample library's packages are not installed (the extra `samples`).
        ModelError: it is a model of which there is no such picture.
    """
    kinds = kinds_of(folder)
    free = [name for name, each in PHOTOGRAPHS.items() if each.licence.startswith(("CC0", "public domain"))]
    with tempfile.TemporaryDirectory() as library:
        photographs(library)
        pictures = [decode(Path(library) / "images" / name, min_side=400) for name in free]
    if kinds[0] == "captioner":
        from diptych.captioning.captioner import load_captioner

        captions = [found[0].text for found in load_captioner(folder, "cpu").caption(pictures)]
        tiles = [Tile(picture, text) for picture, text in zip(pictures, captions, strict=True)]
        return image_grid(tiles, title="Captions of photographs that it was not trained on", columns=5)
    if "dual" not in kinds:
        raise ModelError(f"there is no picture of what a {kinds[0]} does")
    model = load(folder, "cpu")
    queries = [PHOTOGRAPHS[name].query for name in free]
    best = (model.encode_texts(queries) @ model.encode_images(pictures).T).argmax(axis=1)
    tiles = [
        Tile(pictures[found], query, highlight=found == meant)
        for meant, (found, query) in enumerate(zip(best, queries, strict=True))
    ]
    return image_grid(tiles, title="What each text finds first (green: what was meant)", columns=5)


def _sections(folder: Path, repo: str, licence: str) -> dict[str, str]:
    told, kinds = read_metadata(folder), kinds_of(folder)
    recipe = told.get("recipe") or told.get("training")
    return {
        "Use": _use(kinds, repo),
        "Data": _data(told),
        "Recipe": code_block(yaml.safe_dump(recipe, sort_keys=False).strip(), "yaml") if recipe else "It is not told.",
        "Measured": _numbers(told),
        "Limits": "\n".join([*(_LIMITS[kind] for kind in kinds), _EVERYWHERE]),
        "Licence": f"{code_span(licence)}. The terms of the data that it was trained on hold besides.",
    }


def _use(kinds: list[str], repo: str) -> str:
    blocks = [
        f"```python\nimport diptych\n\nmodel = diptych.{_LOADERS[kind]}({to_json(repo)})\n{_USES[kind]}\n```"
        for kind in kinds
    ]
    return "`picture` is an upright RGB picture of Pillow's.\n\n" + "\n\n".join(blocks)


def _data(told: dict[str, Any]) -> str:
    name = (told.get("recipe") or {}).get("data")
    pictures = told.get("pictures") or {}
    if not name:
        return "What it was trained on is not told."
    counts = ", ".join(f"{count:,} pictures for {markdown(split)}" for split, count in pictures.items())
    return code_span(Path(str(name)).name) + (f": {counts}." if counts else ".")


def _numbers(told: dict[str, Any]) -> str:
    """Tables of the numbers in `diptych.json`: those of training's validation, and an exported model's parity."""
    found = {"Validation": told.get("validation")}
    found |= {kind.capitalize(): (told.get(kind) or {}).get("validation") for kind in ("captioner", "prompter")}
    tables = [
        f"{title} pictures, by which the model was also chosen; expect a little less elsewhere.\n\n"
        "| measure | value |\n|---|---:|\n"
        + "\n".join(
            f"| {markdown(name)} | {value:.4g} |" for name, value in numbers.items() if isinstance(value, int | float)
        )
        for title, numbers in found.items()
        if isinstance(numbers, dict)
    ]
    return "\n\n".join(tables) or "Nothing is told of its quality."


def _row(name: object, value: float) -> str:
    return f"| {markdown(name)} | {value:.4g} |"


def _metadata(folder: Path) -> dict[str, Any]:
    kinds = kinds_of(folder)
    told: dict[str, Any] = {"library_name": "sentence-transformers" if "dual" in kinds else "transformers"}
    if not (folder / "modules.json").exists() and (folder / CARD).exists():
        told["library_name"] = "diptych"
    if task := next((_TASKS[kind] for kind in kinds if kind in _TASKS), None):
        told["pipeline_tag"] = task
    told["tags"] = ["diptych", *(tag for kind in kinds for tag in _TAGS[kind])]
    return told


def _own_card(folder: Path) -> str:
    path = folder / "README.md"
    return path.read_text("utf-8") if path.exists() else ""
