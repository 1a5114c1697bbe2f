"""The sample library: fifteen photographs that scikit-image and scikit-learn carry, one natural query for each."""

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
    """A photograph of the sample library: what somebody would type to find it, and on what terms it may be used."""

    query: str
    home: tuple[str, str]  # the package that carries it, and the folder in it
    file: str
    licence: str


# Only what lies in the packages' wheels: scikit-image fetches its other pictures from the network. The queries were
# written down before any model was tried on them; a benchmark that counts right answers is worth nothing otherwise.
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
    """Copy the sample library into `out/images`, its queries into `out/captions.txt`, the terms into `out/LICENCES.md`.

    Returns its 15 pairs in the order of `PHOTOGRAPHS`, each photograph with its query as its one caption. Files that
    are there already are left as they are, so that vectors kept for them stay good.

    Raises:
        MissingExtra: scikit-image or scikit-learn is not installed (the extra `samples`).
        DataError: `out` holds the captions of another data set, or a package no longer carries one of the photographs.
    """
    out = Path(out)
    told = _captions()
    captions = out / "captions.txt"
    if captions.exists() and read_file(captions) != told.encode():
        raise DataError(f"'{captions}' holds other captions than the sample library's; choose another folder")
    is_ours = captions.exists()
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name, photograph in PHOTOGRAPHS.items():
        source, target = _source(photograph), out / "images" / name
        if target.exists() and not is_ours and not filecmp.cmp(source, target, shallow=False):
            raise DataError(f"'{target}' is another picture than the sample library's; choose another folder")
        if not target.exists() or not filecmp.cmp(source, target, shallow=False):
            write_bytes(target, source.read_bytes())
    write_text(out / "LICENCES.md", _licences())
    write_text(captions, told)
    return read_pairs(out)


def _source(photograph: Photograph) -> Path:
    package, folder = photograph.home
    found = importlib.util.find_spec(package)  # found, not imported: importing scikit-learn takes seconds
    if found is None or found.origin is None:
        require(package, "samples")
        raise DataError(f"the package '{package}' has no folder of its own; install it again")
    path = Path(found.origin).parent / folder / photograph.file
    if not path.is_file():
        raise DataError(f"'{path}' is gone: this version of '{package}' no longer carries it; install another version")
    return path


def _captions() -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("image", "caption"))
    writer.writerows(QUERIES.items())
    return lines.getvalue()


def _licences() -> str:
    lines = [f"| images/{name} | {photograph.licence} |" for name, photograph in PHOTOGRAPHS.items()]
    head = "Photographs that scikit-image and scikit-learn carry, and what these packages say of their terms.\n"
    return "\n".join((head, "| file | terms |", "| --- | --- |", *lines, ""))
