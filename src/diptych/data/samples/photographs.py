"""The sample library: fifteen photographs from scikit-image and scikit-learn, with one natural query each."""

from __future__ import annotations

import csv
import filecmp
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.errors import DataError, require
from diptych.runtime.atomic import write_bytes, write_text
from diptych.runtime.files import read_file

_SKIMAGE = "skimage", "data"
_SKLEARN = "sklearn", "datasets/images"


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph of the sample library: a query that should find it, its source file, and its licence."""

    query: str
    home: tuple[str, str]  # package, and folder in the package
    file: str
    licence: str


# Only files in the wheels: scikit-image downloads its other images. The queries were fixed before any model was tried
# on them, so that benchmarks that count correct answers remain meaningful.
PHOTOGRAPHS: dict[str, Photograph] = {
    "astronaut.png": Photograph(
        "a woman in an orange space suit", _SKIMAGE, "astronaut.png", "public domain, NASA: Eileen Collins"
    ),
    "cat.png": Photograph("a cat", _SKIMAGE, "chelsea.png", "CC0, Stefan van der Walt"),
    "coffee.png": Photograph("a cup of coffee", _SKIMAGE, "coffee.png", "CC0, Rachel Michetti"),
    "rocket.jpg": Photograph(
        "a rocket on a launch pad", _SKIMAGE, "rocket.jpg", "public domain by scikit-image's account, SpaceX"
    ),
    "motorcycle.png": Photograph(
        "a red motorcycle",
        _SKIMAGE,
        "motorcycle_left.png",
        "Middlebury stereo data 2014, D. Scharstein et al.; scikit-image names no licence",
    ),
    "coins.png": Photograph(
        "old coins", _SKIMAGE, "coins.png", "no known copyright restrictions, Brooklyn Museum: coins from Pompeii"
    ),
    "cameraman.png": Photograph("a man with a camera on a tripod", _SKIMAGE, "camera.png", "CC0, Lav Varshney"),
    "moon.png": Photograph("craters on the moon", _SKIMAGE, "moon.png", "scikit-image names no licence"),
    "clock.png": Photograph("a clock", _SKIMAGE, "clock_motion.png", "public domain, Stefan van der Walt"),
    "grass.png": Photograph("grass", _SKIMAGE, "grass.png", "CC0, linolafett (DeviantArt)"),
    "brick.png": Photograph("a brick wall", _SKIMAGE, "brick.png", "CC0, CC0Textures"),
    "page.png": Photograph("a page of printed text", _SKIMAGE, "page.png", "scikit-image names no licence"),
    "galaxies.jpg": Photograph(
        "stars and galaxies in space", _SKIMAGE, "hubble_deep_field.jpg", "public domain, NASA: Hubble deep field"
    ),
    "temple.jpg": Photograph("a chinese temple", _SKLEARN, "china.jpg", "CC BY 2.0, danielbuechele (Flickr)"),
    "flower.jpg": Photograph("an orange flower", _SKLEARN, "flower.jpg", "CC BY 2.0, vultilion (Flickr)"),
}
QUERIES: dict[str, str] = {name: photograph.query for name, photograph in PHOTOGRAPHS.items()}


def photographs(out: str | Path) -> Pairs:
    """Copy the sample library to `out/images`, with `out/captions.txt` and `out/LICENCES.md`.

    Returns 15 pairs in the order of `PHOTOGRAPHS`; the caption of each photograph is its query. Unchanged files are
    not rewritten, so cached embeddings stay valid.

    Raises:
        MissingExtra: scikit-image or scikit-learn is not installed (the extra `samples`).
        DataError: `out` contains another data set, or an installed package lacks one of the photographs.
    """
    out = Path(out)
    captions = _captions()
    captions_file = out / "captions.txt"
    if captions_file.exists() and read_file(captions_file) != captions.encode():
        raise DataError(f"'{captions_file}' belongs to another data set; choose another folder")
    is_ours = captions_file.exists()
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name, photograph in PHOTOGRAPHS.items():
        source, target = _source(photograph), out / "images" / name
        if target.exists() and not is_ours and not filecmp.cmp(source, target, shallow=False):
            raise DataError(f"'{target}' is not an image of the sample library; choose another folder")
        if not target.exists() or not filecmp.cmp(source, target, shallow=False):
            write_bytes(target, source.read_bytes())
    write_text(out / "LICENCES.md", _licences())
    write_text(captions_file, captions)
    return read_pairs(out)


def _source(photograph: Photograph) -> Path:
    package, folder = photograph.home
    spec = importlib.util.find_spec(package)  # without importing it: importing scikit-learn takes seconds
    if spec is None or spec.origin is None:
        require(package, "samples")
        raise DataError(f"the folder of the package '{package}' was not found; reinstall it")
    path = Path(spec.origin).parent / folder / photograph.file
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; this version of '{package}' lacks it, install another one")
    return path


def _captions() -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("image", "caption"))
    writer.writerows(QUERIES.items())
    return lines.getvalue()


def _licences() -> str:
    lines = [f"| images/{name} | {photograph.licence} |" for name, photograph in PHOTOGRAPHS.items()]
    head = "Photographs from scikit-image and scikit-learn, with the licence terms stated by these packages.\n"
    return "\n".join((head, "| file | terms |", "| --- | --- |", *lines, ""))
