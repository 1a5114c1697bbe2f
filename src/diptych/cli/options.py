"""Options that several commands share: one name, one meaning and one help text each.

Validators check what can be checked before a command imports the libraries that compute: that files exist, that outputs
can be written, that a device and a model have a known name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from diptych.errors import ConfigError, DataError

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_PAGE_SUFFIXES = (".html", ".htm", *_IMAGE_SUFFIXES)


def check_inputs(_type: object, value: Path | tuple[Path, ...] | None) -> None:
    """Raise `DataError` unless each of these files and folders exists."""
    for path in value if isinstance(value, tuple) else (value,):
        if path is not None and not os.path.lexists(path.expanduser()):
            raise DataError(f"'{path}' does not exist; check the path")


def check_image(kind: object, value: Path | None) -> None:
    """Raise `DataError` unless this is a file."""
    check_inputs(kind, value)
    if value is not None and value.is_dir():
        raise DataError(f"'{value}' is a folder; give one image file")


def check_device(_type: object, value: str) -> None:
    """Raise `ConfigError` unless this is the name of a device."""
    if not _DEVICE.fullmatch(value):
        raise ConfigError(f"unknown device '{value}'; valid: auto, cpu, mps, cuda, or cuda:1 for the second GPU")


def check_model(_type: object, value: str | None) -> None:
    """Raise `ModelError` if this is neither a bundled model, nor a model on the disk, nor shaped like a hub name.

    A prompter has a `diptych.json` and may have nothing else that a model directory has.
    """
    if value is not None and ("/" not in value or value.startswith((".", "/", "~"))):
        from diptych.models.checkpoints import METADATA, model_directory

        if not any((folder / METADATA).exists() for folder in (Path(value), Path(value, "model"))):
            model_directory(value)


def output_file(*suffixes: str) -> Callable[[object, Path | None], None]:
    """A validator for a file to write: its suffix, and that its folder exists or can be made."""

    def check(_type: object, value: Path | None) -> None:
        if value is None:
            return
        if suffixes and value.suffix.lower() not in suffixes:
            raise ConfigError(f"'{value}' has the suffix '{value.suffix}'; valid: {', '.join(suffixes)}")
        if value.is_dir():
            raise ConfigError(f"'{value}' is a folder; name a file")
        folder = next(parent for parent in value.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            reason = "its permissions forbid it" if folder.is_dir() else "it is a file"
            raise ConfigError(f"'{value}' cannot be written to '{folder}': {reason}")

    return check


OUTPUT_NAMES = ("--output", "-o")
_IMAGE_FILE = validators.Path(dir_okay=False, ext=("png", "jpg", "jpeg", "webp"))
_PAGE_FILE = output_file(*_PAGE_SUFFIXES)
_AT_LEAST_ONE = validators.Number(gte=1)

Output = Annotated[Path, Parameter(OUTPUT_NAMES)]
OptionalOutput = Annotated[Path | None, Parameter(OUTPUT_NAMES)]
TableOutput = Annotated[Path | None, Parameter(OUTPUT_NAMES, validator=output_file())]
PageOutput = Annotated[Path | None, Parameter(OUTPUT_NAMES, validator=_PAGE_FILE)]
OptionalImageOutput = Annotated[Path | None, Parameter(OUTPUT_NAMES, validator=_IMAGE_FILE)]
OptionalImageFile = Annotated[Path | None, Parameter(validator=_IMAGE_FILE)]
TableFile = Annotated[Path | None, Parameter(validator=output_file())]

InputPath = Annotated[Path, Parameter(validator=check_inputs)]
OptionalInputPath = Annotated[Path | None, Parameter(validator=check_inputs)]
InputImage = Annotated[Path | None, Parameter(validator=check_image)]
InputImages = Annotated[tuple[Path, ...], Parameter(negative="", validator=check_inputs)]

K = Annotated[int, Parameter("-k", validator=_AT_LEAST_ONE)]
Count = Annotated[int, Parameter(validator=_AT_LEAST_ONE)]
OptionalCount = Annotated[int | None, Parameter(validator=_AT_LEAST_ONE)]
Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]
OptionalShare = Annotated[float | None, Parameter(validator=validators.Number(gte=0, lte=1))]
Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]

Flag = Annotated[bool, Parameter(negative="")]
Several = Annotated[tuple[str, ...], Parameter(negative="")]
SeveralPaths = Annotated[tuple[Path, ...], Parameter(negative="")]

Json = Annotated[bool, Parameter("--json", negative="", help="Print JSON instead of tables.")]
Quiet = Annotated[
    bool, Parameter(("--quiet", "-q"), negative="", help="Print results and errors only: no progress bars, no notes.")
]
Overwrite = Annotated[bool, Parameter(negative="")]
Null = Annotated[bool, Parameter(("--null", "-0"), negative="")]

Device = Annotated[
    str, Parameter(validator=check_device, help="Device: auto, cpu, mps, cuda or cuda:N (GPU N, from 0).")
]
BatchSize = Annotated[int, Parameter(validator=_AT_LEAST_ONE, help="Images per forward pass of the model.")]
Model = Annotated[
    str,
    Parameter(
        validator=check_model, help="The model: mini (bundled), a training run, a model directory or a hub name."
    ),
]
Matcher = Annotated[
    str,
    Parameter(
        validator=check_model,
        help="Matcher: mini (bundled), a run or directory of `diptych train match`, or a BLIP image-text matching "
        "checkpoint.",
    ),
]
Prompter = Annotated[
    str,
    Parameter(validator=check_model, help="Prompter: mini (bundled), or a run or directory of `diptych train prompt`."),
]
Captioner = Annotated[
    str | None, Parameter(validator=check_model, help="Captioner. Default: the one that comes with the model.")
]
Head = Annotated[
    str | None,
    Parameter(
        help="Matching head: pair (fast), cross (more accurate) or cosine (the dual encoder alone). Default: the most "
        "accurate head that the model has."
    ),
]
Prior = Annotated[
    float | None,
    Parameter(
        validator=validators.Number(gt=0, lt=1),
        help="Share of pairs that you expect to match, between 0 and 1; the probabilities are adjusted to it. Default: "
        "the share that the model was calibrated for (0.5 for mini).",
    ),
]
PromptMethod = Literal["retrieve", "compose", "generate"]
Format = Annotated[
    str | None,
    Parameter(
        help="Format of the data set: karpathy, coco, flickr8k, flickr8k-token, flickr30k, imagefolder, webdataset, "
        "parquet, arrow, table, sidecars or hub. Default: detected."
    ),
]
Split = Annotated[str, Parameter(help="Split to use: train, val (or dev), test or all.")]
Index = Annotated[
    Path | None,
    Parameter(help="Library or index folder. Default: the library that contains the working folder."),
]
IndexModel = Annotated[
    str | None,
    Parameter(
        help="Where to find the model of the index, if it has moved or been renamed. The model of an index that "
        "someone else made is only loaded if you name it here."
    ),
]
Templates = Annotated[
    Literal["one", "seven", "eighty"],
    Parameter(
        help='Prompt templates for each class name: one ("a photo of a {}"), or CLIP\'s sets of seven or eighty.'
    ),
]
Classes = Annotated[
    str | None, Parameter(help="Class names: a file with one per line, or a built-in list, imagenet or imagenet-clip.")
]
FollowLinks = Annotated[
    bool,
    Parameter(
        negative="", help="Follow symbolic links that point outside the folder, and read indexed images stored there."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """The options of every command that computes something and prints it.

    Attributes:
        device: Where it computes.
        as_json: Whether results are printed as JSON.
        quiet: Whether only results and errors are printed.
    """

    device: Device = "auto"
    as_json: Json = False
    quiet: Quiet = False


COMMON = Common()
