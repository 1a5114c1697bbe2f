"""Classes: their labels and names, and the class of each image of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.data.formats.image_paths import image_files
from diptych.data.formats.read import detect, read_pairs
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError, require
from diptych.runtime.files import read_text


@dataclass(frozen=True)
class Classes:
    """Classes in a fixed order: `labels` as the data set spells them, `names` as they are used in prompts.

    Raises:
        DataError: there are no classes, or two labels are the same but for case, hyphens and underscores.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.labels:
            raise DataError("invalid classes: there are none; give each class its own label")
        known: dict[str, str] = {}
        for label in self.labels:
            first = known.get(_plain(label))
            if first is not None:
                fault = f"label '{label}' occurs twice" if first == label else f"'{first}' and '{label}' are one label"
                raise DataError(
                    f"invalid classes: {fault} (case, hyphens and underscores do not count); give each class its own "
                    "label, or merge their folders"
                )
            known[_plain(label)] = label

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, pairs: Pairs) -> NDArray[np.int64]:
        """The class index of each image, from its first caption, which must be a label or a name: (images,) int64.

        Case, underscores and hyphens are ignored; a label takes precedence over a name.

        Raises:
            DataError: an image has no caption, or its caption is not a class; the message names the image.
        """
        known = {_plain(name): index for index, name in reversed(list(enumerate(self.names)))}
        known |= {_plain(label): index for index, label in enumerate(self.labels)}
        classes = np.empty(len(pairs), np.int64)
        for row, (image_id, captions) in enumerate(
            zip(pairs.image_ids, pairs.table.column("captions").to_pylist(), strict=True)
        ):
            label = captions[0] if captions else ""
            if (index := known.get(_plain(label))) is None:
                some = ", ".join(f"'{name}'" for name in self.labels[:5])
                raise DataError(
                    f"image '{image_id}' has the class '{label}', which is not one of the {len(self)} classes ({some}, "
                    "...); pass the classes of the data set as a file with a line `label<TAB>name` for each"
                )
            classes[row] = index
        return classes


def read_classes(source: str | Path) -> Classes:
    """Read classes by a name in `CLASSES`, or from a text file with one class a line: `name`, or `label<TAB>name`.

    Raises:
        DataError: the file does not exist or is empty, or a label occurs twice.
    """
    if str(source) in CLASSES:
        return CLASSES[str(source)]()
    try:
        lines = read_text(source).splitlines()
    except (OSError, DataError) as error:
        reason = f"'{source}' does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(
            f"cannot read the classes: {reason}; give a text file with one class per line, "
            f"or one of: {', '.join(CLASSES)}"
        ) from error
    fields = [line.strip().split("\t", 1) for line in lines if line.strip()]
    return Classes(tuple(field[0].strip() for field in fields), tuple(field[-1].strip() for field in fields))


def classes_in(pairs: Pairs) -> Classes:
    """The classes of a data set without a class list: its distinct first captions, sorted, with `class_names`.

    Raises:
        DataError: no image has a caption, or two classes are the same but for case, hyphens and underscores.
    """
    labels = sorted({captions[0] for captions in pairs.table.column("captions").to_pylist() if captions})
    return Classes(tuple(labels), class_names(labels))


def class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in prompts, from labels such as the names of class folders.

    `red_fox` and `RedFox` become "red fox" and "Red Fox". Numbers in front of every label (`001.Black_Tern`,
    `n02085620-Chihuahua`) are dropped. WordNet ids (`n02119022`) become the first word of their synset, from timm; an
    unknown id stays as it is.
    """
    if labels and all(_WORDNET_ID.fullmatch(label) for label in labels):
        return _wordnet_names(labels)
    without_numbers = [_NUMBERED.sub("", label) for label in labels]
    if all(_NUMBERED.match(label) for label in labels) and len(set(without_numbers)) == len(labels):
        labels = without_numbers
    return tuple(map(_words, labels))


_WORDNET_ID = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"(n\d{8}|\d{1,5})[._ -]+(?=.)")
_HUMPS = re.compile(r"(?:[A-Z]|^)[a-z]{2,}")  # of CamelCase; not those of "McDonald" or "iPhone"


def _wordnet_names(labels: Sequence[str]) -> tuple[str, ...]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = []
    for label in labels:
        try:
            names.append(info.label_name_to_description(label).split(", ")[0])
        except KeyError:
            names.append(label)
    return tuple(names)


def _words(label: str) -> str:
    humps = _HUMPS.findall(label)
    return " ".join(humps) if "".join(humps) == label else label.replace("_", " ")


def read_class_folders(folder: str | Path) -> Pairs:
    """Read a folder with one subfolder of images for each class, as in ImageNet: the caption is the subfolder's name.

    Images may lie deeper; the class is the topmost folder. A folder `train`, `val` or `test` above the classes is the
    split.

    Raises:
        DataError: no image lies in a class folder.
    """
    folder = Path(folder).absolute()
    pairs = Pairs.from_rows(_rows(folder))
    if not len(pairs):
        raise DataError(f"'{folder}' has no class subfolders; sort the images into one subfolder per class")
    return pairs


def read_labelled(source: str | Path, format: str | None = None) -> Pairs:
    """Read a data set whose first captions are classes: class folders, or any format of `read_pairs`.

    A folder without recognised captions is read as class folders; `format="class-folders"` forces that.

    Raises:
        ConfigError: the format is unknown.
        DataError: the source cannot be read.
    """
    if format == "class-folders":
        return read_class_folders(source)
    if format is None and Path(source).is_dir():
        try:
            detect(source)
        except DataError:
            return read_class_folders(source)
    return read_pairs(source, format)


def _rows(folder: Path) -> Iterator[Row]:
    splits = {"train", "val", "test"}
    for path in image_files(folder):
        parts = path.relative_to(folder).parts
        split = parts[0] if parts[0] in splits and len(parts) > 2 else None
        if len(parts := parts[split is not None :]) > 1:
            yield Row("/".join(path.relative_to(folder).parts), path, (parts[0],), split)


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").replace("-", " ").lower().split())


def _imagenet() -> Classes:
    """The 1,000 classes of ImageNet named by the first WordNet synonym of each, from timm.

    "crane" and "maillot" each name two classes, whose embeddings then tie.
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    indices = range(info.num_classes())
    return Classes(
        tuple(info.index_to_label_name(index) for index in indices),
        tuple(info.index_to_description(index).split(", ")[0] for index in indices),
    )


def _imagenet_clip() -> Classes:
    """The same classes under the names curated by CLIP's authors, which its published results use."""
    metadata = require("open_clip.zero_shot_metadata", "open-clip")
    return Classes(_imagenet().labels, tuple(metadata.IMAGENET_CLASSNAMES))


CLASSES: dict[str, Callable[[], Classes]] = {"imagenet": _imagenet, "imagenet-clip": _imagenet_clip}
