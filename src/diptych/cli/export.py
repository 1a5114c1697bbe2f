"""`diptych export`: models for where there is no torch training to do: graphs, and hosted endpoints."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from diptych.cli.show import print_table, say

app = App(name="export")


@app.command
def onnx(
    model: str,
    *,
    out: Path,
    precision: str = "fp32",
    data: str | None = None,
    least_cosine: float | None = None,
) -> None:
    """Write a model's towers and captioner as ONNX graphs, and check on pictures that they give the same vectors.

    Parameters
    ----------
    model
        A training run, a model directory, or a hub name.
    out
        The new directory to write; every command takes it as a model.
    precision
        fp32, or int8: a quarter of the size, usually faster, and a little off.
    data
        Captioned pictures to check on (and to calibrate int8 with); the sample library when not given.
    least_cosine
        Fail where a vector's cosine to the original's is below this; 0.9999 for fp32 and 0.9 for int8 when not given.
    """
    _export(model, out, "onnx", precision, data, least_cosine)


@app.command
def openvino(
    model: str,
    *,
    out: Path,
    precision: str = "fp32",
    data: str | None = None,
    least_cosine: float | None = None,
) -> None:
    """Write a model's towers and captioner as OpenVINO graphs, and check on pictures that they give the same vectors.

    Parameters
    ----------
    model
        A training run, a model directory, or a hub name.
    out
        The new directory to write; every command takes it as a model.
    precision
        fp32, or int8: a quarter of the size, usually faster, and a little off.
    data
        Captioned pictures to check on (and to calibrate int8 with); the sample library when not given.
    least_cosine
        Fail where a vector's cosine to the original's is below this; 0.9999 for fp32 and 0.9 for int8 when not given.
    """
    _export(model, out, "openvino", precision, data, least_cosine)


@app.command
def endpoint(model: str, *, out: Path) -> None:
    """Write the directory that a Hugging Face Inference Endpoint serves: the model, its handler and requirements.

    Parameters
    ----------
    model
        A training run, a model directory, one that was exported, or a hub name.
    out
        The new directory to write; `diptych hub push` takes it to the hub.
    """
    from diptych.export.endpoint import write_endpoint

    say(f"endpoint: {write_endpoint(model, out)}")


def _export(model: str, out: Path, engine: str, precision: str, data: str | None, least_cosine: float | None) -> None:
    from dataclasses import replace

    from diptych.data.formats.read import read_pairs
    from diptych.data.samples.photographs import photographs
    from diptych.export.exporter import export_model
    from diptych.export.parity import TOLERANCES
    from diptych.runtime.cache import cache_dir

    pairs = read_pairs(data) if data else photographs(cache_dir() / "photographs")
    tolerance = TOLERANCES.get(precision)
    if tolerance and least_cosine is not None:
        mean = min(tolerance.mean_cosine, max(least_cosine, 0))
        tolerance = replace(tolerance, least_cosine=least_cosine, mean_cosine=mean)
    done = export_model(model, out, data=pairs, engine=engine, precision=precision, tolerance=tolerance)
    rows = [
        {
            "graph": tower.name,
            "checked on": tower.checked,
            "least cosine": f"{tower.least_cosine:.5f}",
            "mean": f"{tower.mean_cosine:.5f}",
            "largest difference": f"{tower.largest_difference:.1e}",
            "a second, before": f"{tower.rate_before:.1f}",
            "after": f"{tower.rate_after:.1f}",
        }
        for tower in done.graphs
    ]
    print_table(f"{model} as {engine}, {precision}", rows)
    say(f"{done.bytes_before / 1e6:.1f} MB in memory before, {done.bytes_after / 1e6:.1f} MB on disk now: {out}")
