"""Classes: their names in words, and which one each picture of a data set belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.formats.image_paths import walk_pictures
from diptych.data.formats.read import detect, read_pairs
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError, require
from diptych.runtime.files import read_text


@dataclass(frozen=True)
class Classes:
    """Classes in a fixed order: `labels` as a data set writes them, `names` as people say them.

    Raises:
        DataError: there are none, or two share a label.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = [label for label, count in Counter(self.labels).items() if count > 1]
        if twice or not self.labels:
            fault = f"label '{twice[0]}' stands twice" if twice else "there are none"
            raise DataError(f"the classes cannot be told apart: {fault}; give each class a label of its own")

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, pairs: Pairs) -> np.ndarray:
        """The class of each picture, by its first caption, which must be a label or a name: (pictures,) int64.

        Case, underscores and hyphens make no difference; a label wins over a name.

        Raises:
            DataError: a picture has no caption, or one that is no class; the message names the picture.
        """
        known = {_plain(name): at for at, name in reversed(list(enumerate(self.names)))}
        known |= {_plain(label): at for at, label in enumerate(self.labels)}
        found = np.empty(len(pairs), np.int64)
        for row, (image_id, captions) in enumerate(
            zip(pairs.image_ids, pairs.table.column("captions").to_pylist(), strict=True)
        ):
            label = captions[0] if captions else ""
            if (at := known.get(_plain(label))) is None:
                some = ", ".join(f"'{name}'" for name in self.labels[:5])
                raise DataError(
                    f"picture '{image_id}' is of class '{label}', which is none of the {len(self)} classes ({some}, "
                    "...); give the classes that the data set has, as a file with a line `label<TAB>name` for each"
                )
            found[row] = at
        return found


def read_classes(source: str | Path) -> Classes:
    """Classes by a name of `CLASSES`, or from a text file with a class a line: `name`, or `label<TAB>name`.

    Raises:
        DataError: there is no such file, it is empty, or a label stands twice.
    """
    if str(source) in CLASSES:
        return CLASSES[str(source)]()
    try:
        lines = read_text(source).splitlines()
    except (OSError, DataError) as error:
        raise DataError(
            f"cannot read classes from '{source}' ({error}); give a text file with a class a line, "
            f"or one of: {', '.join(CLASSES)}"
        ) from error
    fields = [line.strip().split("\t", 1) for line in lines if line.strip()]
    return Classes(tuple(field[0].strip() for field in fields), tuple(field[-1].strip() for field in fields))


def classes_in(pairs: Pairs) -> Classes:
    """The classes of a data set that names none: its distinct first captions, sorted; `red_fox` reads "red fox".

    Raises:
        DataError: no picture has a caption.
    """
    labels = sorted({captions[0] for captions in pairs.table.column("captions").to_pylist() if captions})
    return Classes(tuple(labels), tuple(label.replace("_", " ") for label in labels))


def read_class_folders(folder: str | Path) -> Pairs:
    """A folder that holds one folder of pictures for each class, as ImageNet does: the caption is the folder's name.

    Pictures may lie deeper; the class is the uppermost folder. A folder `train`, `val` or `test` around the classes is
    their split.

    Raises:
        DataError: no picture lies in a folder of a class.
    """
    folder = Path(folder).absolute()
    pairs = Pairs.from_rows(_rows(folder))
    if not len(pairs):
        raise DataError(f"'{folder}' holds no folders of pictures; make one folder for each class, named after it")
    return pairs


def read_labelled(source: str | Path, format: str | None = None) -> Pairs:
    """A data set whose first captions are classes: class folders, or any other format that `read_pairs` knows.

    A folder in which no captions are recognised is taken for class folders; `format="class-folders"` says so.

    Raises:
        ConfigError: there is no such format.
        DataError: nothing there can be read.
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
    for path in walk_pictures(folder):
        parts = path.relative_to(folder).parts
        split = parts[0] if parts[0] in splits and len(parts) > 2 else None
        if len(parts := parts[split is not None :]) > 1:
            yield Row("/".join(path.relative_to(folder).parts), path, (parts[0],), split)


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").replace("-", " ").lower().split())


def _imagenet() -> Classes:
    """The 1,000 classes of ImageNet with the first of WordNet's words for each, as timm carries them.

    "crane" and "maillot" are each the first word of two classes, which then tie.
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    every = range(info.num_classes())
    return Classes(
        tuple(info.index_to_label_name(at) for at in every),
        tuple(info.index_to_description(at).split(", ")[0] for at in every),
    )


def _imagenet_clip() -> Classes:
    """The same classes by the names that CLIP's authors gave them, in which its published figures were measured."""
    metadata = require("open_clip.zero_shot_metadata", "open-clip")
    return Classes(_imagenet().labels, tuple(metadata.IMAGENET_CLASSNAMES))


CLASSES: dict[str, Callable[[], Classes]] = {"imagenet": _imagenet, "imagenet-clip": _imagenet_clip}
