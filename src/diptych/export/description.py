"""What an exported model's directory says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.models.checkpoints import model_directory, read_metadata
from diptych.models.checkpoints import write_card as save_card
from diptych.models.dual_encoder import DualEncoder
from diptych.models.open_clip.names import is_named

_NOT_CARRIED = ("matcher", "captioner", "prompter")


def write_card(
    name: str | Path, encoder: DualEncoder, out: Path, told: dict[str, Any], captioner: dict[str, Any] | None
) -> None:
    """Write `diptych.json` and the model card: those of the original, and what was done to it.

    The heads for matching and prompting are not carried over, since they look into the towers; `captioner` is what is
    told of one that was exported too.
    """
    source = None if is_named(name) else model_directory(name)
    card, readme = read_metadata(source) if source else {}, "# An exported dual encoder\n"
    if source and (source / "README.md").exists():
        readme = (source / "README.md").read_text("utf-8")
    card = {key: value for key, value in card.items() if key not in _NOT_CARRIED} | {"kind": "dual"}
    card |= {"logit_scale": encoder.logit_scale, "logit_bias": encoder.logit_bias}
    card["exported"] = told
    if captioner:
        card["captioner"] = captioner
    save_card(out, card)
    (out / "README.md").write_text(readme.rstrip() + "\n\n" + _section(told), "utf-8")


def _section(told: dict[str, Any]) -> str:
    lines = [
        f"## Exported\n\nIts networks are graphs for {told['engine']}, {told['precision']}; `diptych.load` reads them "
        "with the extra `export`. Against the original:\n",
        "| graph | checked on | least cosine | mean | largest difference | a second, before | after |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, tower in told.get("parity", {}).items():
        lines.append(
            f"| {name} | {tower['checked']} | {tower['least_cosine']:.5f} | {tower['mean_cosine']:.5f} | "
            f"{tower['largest_difference']:.1e} | {tower['rate_before']:.0f} | {tower['rate_after']:.0f} |"
        )
    return "\n".join(lines) + "\n"
