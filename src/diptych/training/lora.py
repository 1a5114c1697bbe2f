"""LoRA adapters for the attention layers of a tower (Hu et al. 2021), as parametrizations of their weights.

A parametrized weight is `W + 2 B A` wherever it is read. PyTorch's `nn.MultiheadAttention` (in open_clip) and the
attention pooling of CLIP's ResNets read the weights of their projections instead of calling them, so that an adapter
around the projection, as in peft, would have no effect there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from diptych.errors import ConfigError
from diptych.models.dual_encoder import DualEncoder

# The attention projections of the architectures in transformers, timm and open_clip.
_PROJECTIONS = {
    *("q_proj", "k_proj", "v_proj", "out_proj", "q_lin", "k_lin", "v_lin", "out_lin", "query", "key", "value", "qkv")
}
_FUSED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention
_IN_CLIP = {"image": "vision_model", "text": "text_model"}
_SCALE = 2.0  # alpha / rank


class LowRank(nn.Module):
    """A parametrization that adds a product of two low-rank matrices to a weight matrix; zero at the start.

    Args:
        weight: the matrix, (outputs, inputs).
        rank: rank of the product.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.lora_a = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.lora_b = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted matrix, (outputs, inputs)."""
        return weight + _SCALE * (self.lora_b @ self.lora_a)


def add_lora(model: DualEncoder, rank: int, modalities: Sequence[str]) -> None:
    """Insert LoRA adapters into the attention layers of the towers, in place; embeddings do not change yet.

    Args:
        model: the dual encoder.
        rank: rank of the adapters, at least 1; their alpha is twice the rank.
        modalities: the towers, `image` and `text`.

    Raises:
        ConfigError: a tower has no attention layers (a ResNet, for example).
    """
    shared = model.tower("image")[0] is model.tower("text")[0]  # both towers of a CLIP are one module
    for modality in modalities:
        within = _IN_CLIP[modality] if shared else ""
        targets = [*_attention_weights(model.tower(modality)[0], within)]
        if not targets:
            raise ConfigError(
                f"the {modality} tower has no attention layers for LoRA; freeze it, or set lora_rank to 0"
            )
        for module, name in targets:
            parametrize.register_parametrization(module, name, LowRank(getattr(module, name), rank))


def _attention_weights(trunk: nn.Module, within: str) -> Iterator[tuple[nn.Module, str]]:
    """The (module, name of the weight) of every attention projection in the parts of a tower named `within`."""
    for path, module in trunk.named_modules():
        *parents, name = path.split(".")
        if within and within not in parents:
            continue
        if isinstance(module, nn.MultiheadAttention):
            for weight in _FUSED:
                if getattr(module, weight) is not None:
                    yield module, weight
        elif isinstance(module, nn.Linear) and name in _PROJECTIONS:
            yield module, "weight"


def merge_lora(model: DualEncoder) -> DualEncoder:
    """A copy of the model with its adapters merged into the weights; the model itself if it has no adapters."""
    if not any("lora_" in name for name, _ in model.model.named_parameters()):
        return model
    merged = copy.deepcopy(model)
    for module in [*merged.model.modules()]:
        if parametrize.is_parametrized(module):
            _merge(module)
    return merged


def _merge(module: nn.Module) -> None:
    """Make the adapted weights of a copied module its own.

    `remove_parametrizations` would also take them from the module that it was copied from: both have the same class.
    """
    weights = {name: getattr(module, name).detach().clone() for name in cast(nn.ModuleDict, module.parametrizations)}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight))
