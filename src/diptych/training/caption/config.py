"""Settings of the captioning recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from diptych.training.run_settings import RunSettings


@dataclass(kw_only=True)
class CaptionRecipe(RunSettings):
    """Settings of a captioning run, which trains a captioner."""

    out: str = "runs/caption"
    val_fraction: float | None = None
    """Fraction of the training images held out for validation, by a hash of the image id (default: the `val` split of
    the data set, or 0.1). Use the fraction that the dual encoder was trained with."""

    model: str = ""
    """Dual encoder, which stays frozen and gets a small decoder; or a BLIP or VisionEncoderDecoder checkpoint, which is
    fine-tuned."""
    encoder: str = ""
    """Image encoder of a new VisionEncoderDecoder, instead of `model`: a directory, a hub name, or a model type without
    weights, such as vit."""
    decoder: str = ""
    """Language model of a new VisionEncoderDecoder: a directory, a hub name, or a model type without weights, such as
    gpt2."""
    encoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Configuration of an encoder that is given by its model type."""
    decoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Configuration of a decoder that is given by its model type."""
    freeze_encoder: bool = False
    """Freeze the image encoder of a BLIP or VisionEncoderDecoder."""

    dim: int = 256
    """Width of the small decoder."""
    layers: int = 3
    """Number of layers of the small decoder."""
    image_layers: int = 1
    """Number of self-attention layers over the image patches, before the small decoder."""
    heads: int = 8
    """Number of attention heads of the small decoder; must divide `dim`."""
    hidden: int = 2
    """Width of the feed-forward layers of the small decoder, as a multiple of `dim`."""
    dropout: float = 0.2
    """Dropout in the small decoder."""
    feature_dropout: float = 0.2
    """Dropout on the image patches."""
    min_count: int = 5
    """Minimum number of occurrences in the training captions for a word to enter the small decoder's vocabulary."""
    augment: Literal["none", "light", "strong"] = "light"
    views: int = 3
    """Number of stored views per image for the small decoder, one of them not augmented; epochs cycle through them."""

    max_tokens: int = 24
    """Maximum caption length in words or tokens in training; longer captions are truncated."""
    captions: int = 5
    """Number of captions per image in a batch."""
    label_smoothing: float = 0.1
    """Label smoothing of the cross-entropy loss."""
    epochs: int = 15
    batch_size: int = 64
    lr: float = 5e-4
    """Peak learning rate."""
    warmup: float = 0.05
    ema: float = 0.99
    reward_epochs: int = 0
    """Number of epochs of self-critical training on CIDEr (Rennie et al. 2017) that follow, for the small decoder."""
    reward_lr: float = 5e-5
    """Peak learning rate of self-critical training."""
    reward_samples: int = 5
    """Number of captions sampled per image in self-critical training; the others are the baseline of each."""

    beams: int = 3
    """Beam width in validation, which selects the best epoch by CIDEr."""
