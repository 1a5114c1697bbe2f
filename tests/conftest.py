"""What tests share: a drawn data set, settings of a tiny model, and a cache folder that is thrown away."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers that each take every core wait for each other


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["DIPTYCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 drawn pictures of 64 pixels with five captions each."""
    from diptych.data.samples.library import draw_scenes

    return draw_scenes(tmp_path_factory.mktemp("scenes"), count=48, size=64)


TINY: dict[str, Any] = {
    "image_tower": "timm/test_resnet",
    "text_tower": "distilbert",
    "pretrained": False,
    "text_arguments": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
    "image_size": 32,
    "crop": "squash",
    "dim": 16,
    "val_fraction": 0.25,
    "epochs": 2,
    "batch_size": 8,
    "lr_image": 1e-3,
    "lr_text": 1e-3,
    "device": "cpu",
}


@pytest.fixture
def tiny(scenes: Path, tmp_path: Path) -> Callable[..., Any]:
    """A maker of recipes that train a tiny model on the drawn pictures in a second."""
    from diptych.training.contrastive.config import ContrastiveRecipe

    return lambda **settings: ContrastiveRecipe(
        **{**TINY, "data": str(scenes), "out": str(tmp_path / "run"), **settings}
    )


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A service with a captioner, a matcher and an index of the sample photographs, and the folder where all lies.

    Tests leave its index as it was.
    """
    from tests.servers import whole_service

    folder = tmp_path_factory.mktemp("whole")
    return whole_service(folder), folder
