"""`diptych export`: models as graphs for ONNX Runtime and OpenVINO, and as Inference Endpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from diptych.cli.options import Output, Quiet
from diptych.cli.show import echo, note, print_table, set_quiet

app = App(name="export")

Model = Annotated[str, Parameter(help="A training run, a model directory or a hub name.")]
Directory = Annotated[
    Output, Parameter(help="The new directory to write. Every command accepts it as a model.", required=True)
]
Precision = Annotated[
    Literal["fp32", "int8"],
    Parameter(help="Precision of the weights. int8 is a quarter of the size and usually faster, but less exact."),
]
Data = Annotated[
    str | None,
    Parameter(help="Captioned images for the parity check and for int8 calibration. By default, the sample library."),
]
MinCosine = Annotated[
    float | None,
    Parameter(
        help="Fail if the cosine of any embedding with the original is below this. By default, 0.9999 for fp32 and 0.9 "
        "for int8."
    ),
]


@app.command
def onnx(
    model: Model,
    *,
    output: Directory,
    precision: Precision = "fp32",
    data: Data = None,
    min_cosine: MinCosine = None,
    quiet: Quiet = False,
) -> None:
    """Export a model's towers and captioner as ONNX graphs, and check that they give the same embeddings."""
    set_quiet(quiet)
    _export(model, output, "onnx", precision, data, min_cosine)


@app.command
def openvino(
    model: Model,
    *,
    output: Directory,
    precision: Precision = "fp32",
    data: Data = None,
    min_cosine: MinCosine = None,
    quiet: Quiet = False,
) -> None:
    """Export a model's towers and captioner as OpenVINO graphs, and check that they give the same embeddings."""
    set_quiet(quiet)
    _export(model, output, "openvino", precision, data, min_cosine)


@app.command
def endpoint(model: Model, *, output: Output) -> None:
    """Write the directory of a Hugging Face Inference Endpoint: the model, its handler and its requirements.

    Parameters
    ----------
    output
        The new directory to write. `diptych hub push` uploads it.
    """
    from diptych.export.endpoint import write_endpoint

    echo(f"endpoint: {write_endpoint(model, output)}")


def _export(
    model: str, output: Output, engine: str, precision: str, data: str | None, min_cosine: float | None
) -> None:
    from dataclasses import replace

    from diptych.data.formats.read import read_pairs
    from diptych.data.samples.photographs import photographs
    from diptych.export.exporter import export_model
    from diptych.export.parity import TOLERANCES
    from diptych.runtime.cache import cache_dir

    pairs = read_pairs(data) if data else photographs(cache_dir() / "photographs")
    tolerance = TOLERANCES.get(precision)
    if tolerance and min_cosine is not None:
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
