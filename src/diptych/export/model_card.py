"""Model cards for the hub: use, data, recipe, evaluation, limits and licence, and an image of results."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import yaml
from PIL import Image

from diptych.captioning.transformers_captioner import is_whole
from diptych.data.samples.photographs import PHOTOGRAPHS, photographs
from diptych.errors import ModelError, NextStep
from diptych.export.endpoint import split_metadata
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import decode
from diptych.matching.blip import is_blip
from diptych.models.checkpoints import METADATA, Metadata, read_metadata
from diptych.models.dual_encoder import load
from diptych.runtime.quoting import code_block, code_span, markdown, to_json

EXAMPLE_IMAGE = "results.png"
"""The file name of the image of results in a repository."""

_PLACEHOLDER = '"path/of/this/folder"'  # in the cards of trained models, for the name under which the model is loaded

_LOADERS = {"dual": "load", "matcher": "load_matcher", "captioner": "load_captioner", "prompter": "load_prompter"}
_TAGS = {
    "dual": ["dual-encoder", "image-text-retrieval", "zero-shot-image-classification"],
    "matcher": ["image-text-matching"],
    "captioner": ["image-captioning"],
    "prompter": ["image-to-prompt"],
}
_PIPELINE_TAGS = {"dual": "zero-shot-image-classification", "captioner": "image-to-text"}
_USES = {
    "dual": 'images = model.encode_images([image])\ntexts = model.encode_texts(["a dog on a beach"])',
    "matcher": 'model.predict([image], ["a dog on a beach"])  # match probability',
    "captioner": "model.caption([image])",
    "prompter": "model.prompt([image])",
}
_LIMITS = {
    "dual": "- Cosine similarity ranks texts for an image; it is not a probability.\n"
    "- Most dual encoders cannot count, read text, tell left from right, or understand negation.",
    "matcher": "- Its probabilities hold for pairs like those it was calibrated on.",
    "captioner": "- It writes captions like those it was trained on, and may mention things that are not in the image.",
    "prompter": "- It writes prompts like those it was trained on; no prompt reproduces an image exactly.",
}
_COMMON_LIMITS = "- It reflects the content and the biases of its training data. Do not use it to judge people."
_HEADINGS = {  # section of a complete card -> headings of an existing card that count as this section
    "Use": ("use", "usage", "how to use"),
    "Data": ("data", "training data", "what it is made of"),
    "Recipe": ("recipe", "training", "what it is made of"),
    "Evaluation": ("evaluation", "results", "measured", "how good"),
    "Limitations": ("limitations", "limits", "bias, risks, and limitations"),
    "Licence": ("licence", "license", "terms"),
}


def model_kinds(folder: Path) -> list[str]:
    """The kinds of model in a directory, one or more of `dual`, `matcher`, `captioner` and `prompter`.

    Raises:
        ModelError: the directory contains none of these.
    """
    if is_blip(folder):
        return ["matcher"]
    if is_whole(folder):
        return ["captioner"]
    metadata = read_metadata(folder)
    dual = ["dual"] * ((folder / "modules.json").exists() or not metadata)
    kinds = [*dual, *(kind for kind in ("matcher", "captioner", "prompter") if metadata.get(kind))]
    if not kinds:
        raise ModelError(f"'{folder}' contains no dual encoder, matcher, captioner or prompter")
    return kinds


def complete_model_card(folder: Path, repo: str, *, licence: str | None = None, preview: bool = False) -> str:
    """The complete model card for the hub: the card of the model in `folder`, with every section that it lacks.

    `licence` is an identifier of the hub (`apache-2.0`, `mit`, ...), required if the card names none. `preview` adds
    a section with `results.png`, which is to be uploaded beside the card.

    Raises:
        ModelError: no licence is given.
    """
    head, body = split_metadata(_own_card(folder))
    hub_metadata = _hub_metadata(folder)
    metadata = {**hub_metadata, **(yaml.safe_load(head) or {} if head else {})}
    metadata["tags"] = list(dict.fromkeys([*metadata.get("tags", []), *hub_metadata["tags"]]))
    if licence:
        metadata["license"] = licence
    if not metadata.get("license"):
        raise ModelError(
            f"the model card of '{folder}' names no licence",
            steps=[NextStep("name the licence of the model, for example", "licence", "apache-2.0")],
        )
    body = body.replace(_PLACEHOLDER, to_json(repo)).strip() or f"# {markdown(repo.split('/')[-1])}"
    present = {heading.strip().lower() for heading in re.findall(r"^##\s+(.+)$", body, re.MULTILINE)}
    sections = _sections(folder, repo, metadata["license"])
    missing = [title for title in sections if not present & set(_HEADINGS[title])]
    parts = [body, *(f"## {title}\n\n{sections[title]}" for title in missing)]
    if preview:
        parts.append(f"## Examples\n\n![Results on photographs of the sample library]({EXAMPLE_IMAGE})")
    yaml_head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{yaml_head}---\n" + "\n\n".join(parts) + "\n"


def example_image(folder: Path) -> Image.Image:
    """An image of the model's results on freely licensed photographs: search hits, or captions.

    Raises:
        MissingExtra: the packages of the sample library (the extra `samples`) are not installed.
        ModelError: the model is neither a dual encoder nor a captioner.
    """
    kinds = model_kinds(folder)
    if kinds[0] == "captioner":
        return _caption_grid(folder)
    if "dual" in kinds:
        return _search_grid(folder)
    raise ModelError(f"there is no example image for a {kinds[0]}")


def _free_photographs() -> tuple[list[str], list[Image.Image]]:
    """The names of the photographs in the public domain, and the photographs."""
    names = [name for name, row in PHOTOGRAPHS.items() if row.licence.startswith(("CC0", "public domain"))]
    with tempfile.TemporaryDirectory() as library:
        photographs(library)
        return names, [decode(Path(library) / "images" / name, min_side=400) for name in names]


def _caption_grid(folder: Path) -> Image.Image:
    from diptych.captioning.captioner import load_captioner

    _, images = _free_photographs()
    captions = [candidates[0].text for candidates in load_captioner(folder, "cpu").caption(images)]
    tiles = [Tile(image, text) for image, text in zip(images, captions, strict=True)]
    return image_grid(tiles, title="Captions of photographs that were not in the training data", columns=5)


def _search_grid(folder: Path) -> Image.Image:
    names, images = _free_photographs()
    model = load(folder, "cpu")
    queries = [PHOTOGRAPHS[name].query for name in names]
    best = (model.encode_texts(queries) @ model.encode_images(images).T).argmax(axis=1)
    tiles = [
        Tile(images[hit], query, highlight=hit == expected)
        for expected, (hit, query) in enumerate(zip(best, queries, strict=True))
    ]
    return image_grid(tiles, title="The first hit for each query (green: the expected photograph)", columns=5)


def _sections(folder: Path, repo: str, licence: str) -> dict[str, str]:
    metadata, kinds = read_metadata(folder), model_kinds(folder)
    return {
        "Use": _use_section(kinds, repo),
        "Data": _data_section(metadata),
        "Recipe": _recipe_section(metadata),
        "Evaluation": _measured_section(metadata),
        "Limitations": "\n".join([*(_LIMITS[kind] for kind in kinds), _COMMON_LIMITS]),
        "Licence": f"{code_span(licence)}. The terms of the training data apply as well.",
    }


def _use_section(kinds: list[str], repo: str) -> str:
    blocks = [
        f"```python\nimport diptych\n\nmodel = diptych.{_LOADERS[kind]}({to_json(repo)})\n{_USES[kind]}\n```"
        for kind in kinds
    ]
    return "`image` is an upright RGB Pillow image.\n\n" + "\n\n".join(blocks)


def _data_section(metadata: Metadata) -> str:
    name = (metadata.get("recipe") or {}).get("data")
    images = metadata.get("pictures") or {}
    if not name:
        return "The training data is not recorded."
    counts = ", ".join(f"{count:,} images for {markdown(split)}" for split, count in images.items())
    return code_span(Path(str(name)).name) + (f": {counts}." if counts else ".")


def _recipe_section(metadata: Metadata) -> str:
    recipe = metadata.get("recipe") or metadata.get("training")
    if not recipe:
        return "The training recipe is not recorded."
    changes = "".join(f"- {code_span(str(change))}\n" for change in metadata.get("changes") or [])
    resumed = f"\n\nThe run was resumed with other settings:\n\n{changes}".rstrip() if changes else ""
    return code_block(yaml.safe_dump(recipe, sort_keys=False).strip(), "yaml") + resumed


def _measured_section(metadata: Metadata) -> str:
    """Tables of the validation scores in `diptych.json`."""
    scores = {"Validation": metadata.get("validation")}
    for kind in ("captioner", "prompter"):
        scores[f"{kind.capitalize()} validation"] = (metadata.get(kind) or {}).get("validation")
    tables = [
        f"{title} scores. The checkpoint was selected by them, so expect slightly lower scores on other data.\n\n"
        "| metric | value |\n|---|---:|\n"
        + "\n".join(
            f"| {markdown(name)} | {value:.4g} |" for name, value in numbers.items() if isinstance(value, int | float)
        )
        for title, numbers in scores.items()
        if isinstance(numbers, dict)
    ]
    return "\n\n".join(tables) or "No evaluation results are recorded."


def _hub_metadata(folder: Path) -> Metadata:
    """The metadata that the hub reads: library, pipeline tag and tags."""
    kinds = model_kinds(folder)
    metadata: Metadata = {"library_name": "sentence-transformers" if "dual" in kinds else "transformers"}
    if not (folder / "modules.json").exists() and (folder / METADATA).exists():
        metadata["library_name"] = "diptych"
    if tag := next((_PIPELINE_TAGS[kind] for kind in kinds if kind in _PIPELINE_TAGS), None):
        metadata["pipeline_tag"] = tag
    metadata["tags"] = ["diptych", *(tag for kind in kinds for tag in _TAGS[kind])]
    return metadata


def _own_card(folder: Path) -> str:
    path = folder / "README.md"
    return path.read_text("utf-8") if path.exists() else ""
