"""LoRA: low-rank adapters in the attention layers of a tower (Hu et al. 2021), by peft."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from diptych.errors import ConfigError, require
from diptych.models.dual_encoder import DualEncoder

# The attention projections of the architectures that transformers and timm build.
ATTENTION = r".*\.(q_proj|k_proj|v_proj|out_proj|q_lin|k_lin|v_lin|out_lin|query|key|value|qkv)"
IN_CLIP = {"image": "vision_model", "text": "text_model"}


def add_lora(model: DualEncoder, rank: int, modalities: list[str]) -> None:
    """Insert adapters of `rank` into the attention layers of the towers; they start as no change at all.

    Raises:
        ConfigError: a tower has no attention layers (a ResNet, say).
    """
    peft = require("peft", "train")
    trunks = {modality: model.tower(modality)[0] for modality in modalities}
    if model.tower("image")[0] is model.tower("text")[0]:
        # One injection for both sides of a CLIP: a second adapter would switch the first one off.
        sides = "|".join(IN_CLIP[modality] for modality in modalities)
        targets = {" and ".join(modalities): (model.tower("image")[0], rf".*({sides}){ATTENTION}")} if sides else {}
    else:
        targets = {modality: (trunk, ATTENTION) for modality, trunk in trunks.items()}
    for name, (trunk, pattern) in targets.items():
        try:
            peft.inject_adapter_in_model(
                peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern), trunk.model
            )
        except ValueError as error:
            raise ConfigError(
                f"the {name} tower has no attention layers for LoRA; freeze it, or set lora_rank to 0"
            ) from error


def merged(model: DualEncoder) -> DualEncoder:
    """The model with its adapters folded into the weights: a copy, or the model itself when it has none."""
    if not any("lora_" in name for name, _ in model.model.named_parameters()):
        return model
    plain = copy.deepcopy(model)
    _fold(plain.model)
    return plain


def _fold(module: nn.Module) -> None:
    child: Any
    for name, child in module.named_children():
        if hasattr(child, "merge") and hasattr(child, "get_base_layer"):
            child.merge()
            setattr(module, name, child.get_base_layer())
        else:
            _fold(child)
