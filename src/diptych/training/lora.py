"""LoRA adapters for the attention layers of a tower (Hu et al. 2021), by peft."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from diptych.errors import ConfigError, require
from diptych.models.dual_encoder import DualEncoder

# The attention projections of the architectures in transformers and timm.
ATTENTION = r".*\.(q_proj|k_proj|v_proj|out_proj|q_lin|k_lin|v_lin|out_lin|query|key|value|qkv)"
IN_CLIP = {"image": "vision_model", "text": "text_model"}


def add_lora(model: DualEncoder, rank: int, modalities: Sequence[str]) -> None:
    """Insert LoRA adapters into the attention layers of the towers, in place; embeddings do not change yet.

    Args:
        model: the dual encoder.
        rank: rank of the adapters, at least 1; their alpha is twice the rank.
        modalities: the towers, `image` and `text`.

    Raises:
        ConfigError: a tower has no attention layers (a ResNet, for example).
    """
    peft = require("peft", "train")
    trunks = {modality: model.tower(modality)[0] for modality in modalities}
    if model.tower("image")[0] is model.tower("text")[0]:
        # Both towers of a CLIP are one module: a second injection would disable the adapters of the first.
        towers = "|".join(IN_CLIP[modality] for modality in modalities)
        targets = {" and ".join(modalities): (model.tower("image")[0], rf".*({towers}){ATTENTION}")} if towers else {}
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


def merge_lora(model: DualEncoder) -> DualEncoder:
    """A copy of the model with its adapters merged into the weights; the model itself if it has no adapters."""
    if not any("lora_" in name for name, _ in model.model.named_parameters()):
        return model
    merged = copy.deepcopy(model)
    _merge(merged.model)
    return merged


def _merge(module: nn.Module) -> None:
    child: Any
    for name, child in module.named_children():
        if hasattr(child, "merge") and hasattr(child, "get_base_layer"):
            child.merge()
            setattr(module, name, child.get_base_layer())
        else:
            _merge(child)
