"""Options that several commands share: one name, one meaning and one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

OUTPUT_NAMES = ("--output", "-o")
_IMAGE_FILE = validators.Path(dir_okay=False, ext=("png", "jpg", "jpeg", "webp"))

Output = Annotated[Path, Parameter(OUTPUT_NAMES)]
OptionalOutput = Annotated[Path | None, Parameter(OUTPUT_NAMES)]
OptionalImageOutput = Annotated[Path | None, Parameter(OUTPUT_NAMES, validator=_IMAGE_FILE)]
OptionalImageFile = Annotated[Path | None, Parameter(validator=_IMAGE_FILE)]

K = Annotated[int, Parameter("-k", validator=validators.Number(gte=1))]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]
OptionalCount = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]

Flag = Annotated[bool, Parameter(negative="")]
Several = Annotated[tuple[str, ...], Parameter(negative="")]
SeveralPaths = Annotated[tuple[Path, ...], Parameter(negative="")]

Json = Annotated[bool, Parameter("--json", negative="", help="Print JSON instead of tables.")]
Quiet = Annotated[
    bool, Parameter(("--quiet", "-q"), negative="", help="Print results and errors only: no progress bars, no notes.")
]
Overwrite = Annotated[bool, Parameter(negative="")]
Null = Annotated[bool, Parameter(("--null", "-0"), negative="")]

Device = Annotated[str, Parameter(help="Device: auto, cpu, cuda or mps.")]
BatchSize = Annotated[int, Parameter(validator=validators.Number(gte=1), help="Images per forward pass of the model.")]
Format = Annotated[str | None, Parameter(help="Format of the data set; detected when omitted.")]
Split = Annotated[str, Parameter(help="Split to use: train, val (or dev), test or all.")]
Index = Annotated[
    Path | None,
    Parameter(help="Library or index folder; by default, the library that contains the working folder."),
]
IndexModel = Annotated[
    str | None,
    Parameter(
        help="Model of the index, if it now has another name or path. Naming it also permits loading the model of an "
        "index that someone else made."
    ),
]
Templates = Annotated[str, Parameter(help="Templates for the class names: one, seven or eighty.")]
FollowLinks = Annotated[
    bool,
    Parameter(negative="", help="Also follow links that lead out of the folder, and read indexed images outside it."),
]
