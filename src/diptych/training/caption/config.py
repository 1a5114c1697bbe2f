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
    """Fraction of the training images held out for validation, chosen by a hash of the image id (default: the `val`
    split of the data set, or 0.1 of the images if it has none). Use the fraction that the dual encoder was trained
    with."""

    model: str = ""
    """Model to start from: a dual encoder, which is frozen and extended with a small decoder; or a BLIP or
    VisionEncoderDecoder checkpoint, which is fine-tuned."""
    encoder: str = ""
    """Instead of `model`: image encoder of a new VisionEncoderDecoder to train: a directory, a hub name, or a model
    type such as vit, which is initialized at random."""
    decoder: str = ""
    """Language model of a new VisionEncoderDecoder: a directory, a hub name, or a model type such as gpt2, which is
    initialized at random."""
    encoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Configuration of an encoder given as a model type, such as `{hidden_size: 192}`."""
    decoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Configuration of a decoder given as a model type, such as `{n_layer: 4}`."""
    freeze_encoder: bool = False
    """Freeze the image encoder of a BLIP or VisionEncoderDecoder."""

    dim: int = 256
    """Width of the small decoder."""
    layers: int = 3
    """Number of layers of the small decoder."""
    image_layers: int = 1
    """Number of self-attention layers over the image patches, before the small decoder."""
    heads: int = 8
    """Number of attention heads of the small decoder; its width must be divisible by this."""
    hidden: int = 2
    """Width of the feed-forward layers of the small decoder, as a multiple of its width."""
    dropout: float = 0.2
    """Dropout in the small decoder."""
    feature_dropout: float = 0.2
    """Dropout on the image patches."""
    min_count: int = 5
    """Number of times that a word must occur in the training captions to enter the small decoder's vocabulary."""
    augment: Literal["none", "light", "strong"] = "light"
    views: int = 3
    """Number of versions of each image that are encoded in advance for the small decoder; all but the first are
    augmented. Epochs cycle through them."""

    max_tokens: int = 24
    """Maximum length of training captions, in words (small decoder) or tokens; longer ones are truncated."""
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
    """Number of extra epochs of self-critical training (Rennie et al. 2017), which rewards CIDEr; small decoder
    only."""
    reward_lr: float = 5e-5
    """Peak learning rate of self-critical training."""
    reward_samples: int = 5
    """Number of captions sampled per image in self-critical training; the baseline of each caption is the mean reward
    of the others."""

    beams: int = 3
    """Beam width of the captions generated for validation; the epoch with the best CIDEr is kept."""
