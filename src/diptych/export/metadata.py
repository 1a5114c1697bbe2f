"""The metadata (`diptych.json`) and the model card of an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from diptych.export.parity import Parity
from diptych.models.checkpoints import Metadata, model_directory, read_metadata
from diptych.models.checkpoints import write_metadata as save_metadata
from diptych.models.dual_encoder import DualEncoder
from diptych.models.open_clip.names import is_named

_HEADS = ("matcher", "captioner", "prompter")


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """What is exported, by the identity of its dual encoder, and to which engine and precision."""

    model: str
    engine: str
    precision: str

    def to_dict(self) -> dict[str, str]:
        """The part `exported` of `diptych.json`, without the parity of the graphs."""
        return {"of": self.model, "engine": self.engine, "precision": self.precision}


class CaptionerGraphs(TypedDict):
    """The part `captioner.graphs` of `diptych.json`: the engine, the input names, and the hash of each graph."""

    engine: str
    inputs: list[str]
    sha256: dict[str, str]


def write_metadata(
    name: str | Path,
    encoder: DualEncoder,
    out: Path,
    target: ExportTarget,
    captioner: Metadata | None,
    parities: Sequence[Parity] = (),
) -> None:
    """Write `diptych.json` and `README.md`: those of the original model, with a section about the export.

    The metadata of the heads for matching, captioning and prompting is dropped, because these heads are not exported;
    `captioner` is the new metadata of a captioner that is. `parities` compare the graphs with the original.
    """
    source = None if is_named(name) else model_directory(name)
    metadata, readme = read_metadata(source) if source else {}, "# An exported dual encoder\n"
    if source and (source / "README.md").exists():
        readme = (source / "README.md").read_text("utf-8")
    metadata = {key: value for key, value in metadata.items() if key not in _HEADS} | {"kind": "dual"}
    metadata |= {"logit_scale": encoder.logit_scale, "logit_bias": encoder.logit_bias}
    measured = {"parity": {parity.name: asdict(parity) for parity in parities}} if parities else {}
    metadata["exported"] = target.to_dict() | measured
    if captioner:
        metadata["captioner"] = captioner
    save_metadata(out, metadata)
    (out / "README.md").write_text(f"{readme.rstrip()}\n\n{_export_section(target, parities)}", "utf-8")


def _export_section(target: ExportTarget, parities: Sequence[Parity]) -> str:
    lines = [
        f"## Exported\n\nThe networks are {target.engine} graphs in {target.precision}. `diptych.load` reads them with "
        "the extra `export`. Compared with the original model:\n",
        "| graph | inputs | minimum cosine | mean cosine | maximum difference | per second, original | exported |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {parity.name} | {parity.checked} | {parity.min_cosine:.5f} | {parity.mean_cosine:.5f} | "
        f"{parity.largest_difference:.1e} | {parity.rate_before:.0f} | {parity.rate_after:.0f} |"
        for parity in parities
    ]
    return "\n".join(lines) + "\n"
