"""Matchers on disk: saved beside the dual encoder that they stand on, and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from diptych.errors import ModelError, did_you_mean
from diptych.matching.blip import is_blip, load_blip
from diptych.matching.calibration import Calibration
from diptych.matching.heads import HEADS, CosineHead
from diptych.matching.hubness import Banks
from diptych.matching.matcher import Matcher
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import CARD, loading, model_directory, read_metadata, refuse_unsafe, write_card

WEIGHTS = "matcher.safetensors"


def save_matchers(matchers: Sequence[Matcher], path: str | Path, *, half: bool = False) -> None:
    """Add matchers over one dual encoder to the directory in which that encoder lies: a head each.

    Writes `matcher.safetensors` (in half precision if asked) and puts their settings and calibrations into
    `diptych.json`, which a plain dual encoder has too: the directory goes on loading as one.

    Raises:
        ModelError: there is no dual encoder in the directory.
    """
    path = Path(path)
    if not (path / CARD).exists():
        raise ModelError(f"'{path}' holds no dual encoder to add a matcher to; save the encoder there first")
    banks = next((matcher.banks for matcher in matchers if matcher.banks), None)
    weights = {
        f"{matcher.name}.{name}": (tensor.half() if half else tensor).contiguous()
        for matcher in matchers
        for name, tensor in matcher.head.state_dict().items()
    }
    for name, tensor in banks.state_dict().items() if banks else ():
        weights[f"bank.{name}"] = (tensor.half() if half else tensor).contiguous()
    told = {
        m.name: {
            "settings": m.settings,
            "calibration": asdict(m.calibration),
            "sharpness": m.banks.sharpness if m.banks else None,
        }
        for m in matchers
    }
    save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
    write_card(path, {**read_metadata(path), "kind": "matcher", "matcher": told})


def heads_of(name: str | Path) -> list[str]:
    """The heads that a matcher's directory holds; empty for a dual encoder without a matcher."""
    card = read_metadata(model_directory(name))
    with loading(f"the matcher of '{name}'"):
        return list(card.get("matcher", {}))


def load_matcher(name: str | Path, head: str | None = None, device: str = "auto") -> Matcher:
    """Load a matcher: a directory or run of `diptych train match`, one in the box, or a BLIP checkpoint for matching.

    Only safetensors are read.

    `head` chooses among those it has: `cosine` (the dual encoder's cosine, calibrated), `pair` (needs only vectors) and
    `cross` (needs pictures and texts; the best, and what it is when nothing is said).

    Raises:
        ModelError: there is no such model, it has no matcher or no such head, or its files do not fit together.
    """
    path = model_directory(name)
    refuse_unsafe(path)
    if is_blip(path):
        return load_blip(path, device)
    there = heads_of(name)
    if not there:
        raise ModelError(
            f"'{name}' is a dual encoder without a matcher; train one on it: "
            f"diptych train match --model {name} --data PATH --out runs/match"
        )
    chosen = head or max(there, key=lambda name: [*HEADS].index(name) if name in HEADS else -1)
    if chosen not in there:
        raise ModelError(f"'{name}' has no head '{chosen}'; {did_you_mean(chosen, there)}")
    encoder = dual.load(name, device)
    with loading(f"matcher '{name}'"):
        told = read_metadata(path)["matcher"][chosen]
        weights = {key: value.float() for key, value in load_file(path / WEIGHTS).items()}
        module = CosineHead() if chosen == "cosine" else HEADS[chosen](**told["settings"])
        own = {key: value for key, value in weights.items() if key.startswith(f"{chosen}.")}
        module.load_state_dict({key.removeprefix(f"{chosen}."): value for key, value in own.items()})
        banks = Banks(weights["bank.image"], weights["bank.text"], told["sharpness"]) if told["sharpness"] else None
        calibration = Calibration(**told["calibration"])
        return Matcher(encoder, module, calibration, name=chosen, settings=told["settings"], banks=banks)
