"""Matchers on disk: heads, hubness banks and calibrations in the directory of their dual encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from diptych.errors import ModelError, did_you_mean
from diptych.matching.blip import BlipEncoder, is_blip, load_blip
from diptych.matching.calibration import Calibration
from diptych.matching.heads import HEADS, CosineHead, Side
from diptych.matching.hubness import Banks
from diptych.models import dual_encoder
from diptych.models.checkpoints import (
    HeadSettings,
    add_part,
    loading,
    model_directory,
    read_metadata,
    refuse_unsafe,
    write_metadata,
)
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import Features
from diptych.models.weights import read_weights, save_weights

WEIGHTS = "matcher.safetensors"


class StoredMatcher(Protocol):
    """The parts of a `Matcher` that are saved."""

    name: str
    settings: HeadSettings
    head: nn.Module
    calibration: Calibration
    banks: Banks | None


@dataclass(frozen=True)
class MatcherParts:
    """The arguments of a `Matcher`, as read from a directory."""

    encoder: DualEncoder | BlipEncoder
    head: nn.Module
    calibration: Calibration
    name: str
    settings: HeadSettings = field(default_factory=dict)
    banks: Banks | None = None
    encode: Callable[[Features], tuple[Tensor, Side]] | None = None


def save_matchers(matchers: Sequence[StoredMatcher], path: str | Path, *, half: bool = False) -> None:
    """Add matchers with different heads to the directory of their dual encoder, which still loads as one.

    Writes `matcher.safetensors` and the `matcher` section of `diptych.json`.

    Args:
        matchers: Matchers over the encoder in the directory, one for each head.
        path: The directory.
        half: Store the weights in half precision.

    Raises:
        ModelError: There is no dual encoder in the directory.
    """
    path = Path(path)
    metadata = add_part(path, "matcher")
    banks = next((matcher.banks for matcher in matchers if matcher.banks), None)
    weights = {
        f"{matcher.name}.{name}": tensor for matcher in matchers for name, tensor in matcher.head.state_dict().items()
    }
    weights |= {f"bank.{name}": tensor for name, tensor in (banks.state_dict().items() if banks else ())}
    section = {
        matcher.name: {
            "settings": matcher.settings,
            "calibration": asdict(matcher.calibration),
            "sharpness": matcher.banks.sharpness if matcher.banks else None,
        }
        for matcher in matchers
    }
    save_weights(path / WEIGHTS, weights, half=half)
    write_metadata(path, {**metadata, "kind": "matcher", "matcher": section})


def heads_of(name: str | Path) -> list[str]:
    """The names of the heads in a matcher's directory; empty for a dual encoder without a matcher."""
    metadata = read_metadata(model_directory(name))
    with loading(f"the matcher of '{name}'"):
        return list(metadata.get("matcher", {}))


def read_matcher(name: str | Path, head: str | None = None, device: str = "auto") -> MatcherParts:
    """Read the parts of a matcher; see `Matcher.from_pretrained` for the arguments and errors."""
    path = model_directory(name)
    refuse_unsafe(path)
    if is_blip(path):
        encoder, itm = load_blip(path, device)
        # BLIP is not calibrated for a base rate: prior 0.5 leaves its probabilities as they are.
        return MatcherParts(encoder, itm, Calibration({"head": 1.0}, 0.0), name="itm", encode=encoder.encode)
    chosen = _chosen_head(name, head)
    dual = dual_encoder.load(name, device)
    with loading(f"matcher '{name}'"):
        section = read_metadata(path)["matcher"][chosen]
        weights = read_weights(path / WEIGHTS)
        module = CosineHead() if chosen == "cosine" else HEADS[chosen](**section["settings"])
        own = {key: value for key, value in weights.items() if key.startswith(f"{chosen}.")}
        module.load_state_dict({key.removeprefix(f"{chosen}."): value for key, value in own.items()})
        sharpness = section["sharpness"]
        banks = Banks(weights["bank.image"], weights["bank.text"], sharpness) if sharpness else None
        calibration = Calibration(**section["calibration"])
        return MatcherParts(dual, module, calibration, name=chosen, settings=section["settings"], banks=banks)


def _chosen_head(name: str | Path, head: str | None) -> str:
    """The head by name, or the most accurate one of the directory."""
    available = heads_of(name)
    if not available:
        raise ModelError(
            f"'{name}' is a dual encoder without a matcher; train one on it: "
            f"diptych train match --model {name} --data PATH --output runs/match"
        )
    chosen = head or max(available, key=lambda name: [*HEADS].index(name) if name in HEADS else -1)
    if chosen not in available:
        raise ModelError(f"model '{name}' has no head '{chosen}'; {did_you_mean(chosen, available)}")
    return chosen
