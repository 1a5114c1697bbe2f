"""`diptych export`: models as graphs for ONNX Runtime and OpenVINO, and as Inference Endpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from diptych.cli.options import OUTPUT_NAMES, Model, Quiet
from diptych.cli.show import echo, note, print_table, set_quiet
from diptych.errors import ConfigError

app = App(name="export")


def _check_new(_type: object, value: Path) -> None:
    if value.exists():
        raise ConfigError(f"'{value}' exists already; choose a new folder")


Directory = Annotated[
    Path,
    Parameter(
        OUTPUT_NAMES, validator=_check_new, help="The new directory to write. Every command accepts it as a model."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Checks:
    """Precision of exported graphs, and how they are checked.

    Attributes:
        precision: Precision of the weights.
        data: Data set for the parity check and for int8 calibration.
        min_cosine: Limit of the parity check.
    """

    precision: Annotated[
        Literal["fp32", "int8"],
        Parameter(help="Precision of the weights. int8 is a quarter of the size and usually faster, but less exact."),
    ] = "fp32"
    data: Annotated[
        str | None,
        Parameter(help="Captioned images for the parity check and for int8 calibration. Default: the sample library."),
    ] = None
    min_cosine: Annotated[
        float | None,
        Parameter(
            help="Fail if the cosine similarity of any embedding to the original is below this. Default: 0.9999 for "
            "fp32 and 0.9 for int8."
        ),
    ] = None


@app.command
def onnx(model: Model, *, output: Directory, checks: Checks = Checks(), quiet: Quiet = False) -> None:
    """Export a model's towers and captioner as ONNX graphs, and check that they give the same embeddings."""
    set_quiet(quiet)
    _export(model, output, "onnx", checks)


@app.command
def openvino(model: Model, *, output: Directory, checks: Checks = Checks(), quiet: Quiet = False) -> None:
    """Export a model's towers and captioner as OpenVINO graphs, and check that they give the same embeddings."""
    set_quiet(quiet)
    _export(model, output, "openvino", checks)


@app.command
def endpoint(model: Model, *, output: Directory, quiet: Quiet = False) -> None:
    """Write the directory of a Hugging Face Inference Endpoint: the model, its handler and its requirements.

    `diptych hub push` uploads the directory.
    """
    from diptych.export.endpoint import write_endpoint

    set_quiet(quiet)
    echo(f"endpoint: {write_endpoint(model, output)}")


def _export(model: str, output: Path, engine: str, checks: Checks) -> None:
    from diptych.data.formats.read import read_pairs
    from diptych.data.samples.photographs import photographs
    from diptych.runtime.cache import cache_dir

    pairs = read_pairs(checks.data) if checks.data else photographs(cache_dir() / "photographs")
    from diptych.export.exporter import export_model
    from diptych.export.parity import TOLERANCES

    precision, min_cosine = checks.precision, checks.min_cosine
    tolerance = TOLERANCES[precision]
    if min_cosine is not None:
        mean = min(tolerance.mean_cosine, max(min_cosine, 0))
        tolerance = replace(tolerance, min_cosine=min_cosine, mean_cosine=mean)
    exported = export_model(model, output, data=pairs, engine=engine, precision=precision, tolerance=tolerance)
    rows = [
        {
            "graph": graph.name,
            "checked on": graph.checked,
            "min cosine": f"{graph.min_cosine:.5f}",
            "mean cosine": f"{graph.mean_cosine:.5f}",
            "max difference": f"{graph.largest_difference:.1e}",
            "per second, before": f"{graph.rate_before:.1f}",
            "after": f"{graph.rate_after:.1f}",
        }
        for graph in exported.graphs
    ]
    print_table(f"{model} as {engine}, {precision}", rows)
    megabytes_before, megabytes_after = exported.bytes_before / 1e6, exported.bytes_after / 1e6
    note(f"{megabytes_before:.1f} MB in memory before, {megabytes_after:.1f} MB on disk now: {output}")
