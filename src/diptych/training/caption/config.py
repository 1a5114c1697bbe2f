"""Settings of the captioning recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class CaptionRecipe:
    """Every setting of a captioner's training."""

    data: str = ""
    """Data set with captions: a folder, a file or a hub name."""
    out: str = "runs/caption"
    """Folder for the model, the log and the checkpoints."""
    format: str | None = None
    """Format of the data set; recognised by itself when not given."""
    val_fraction: float | None = None
    """Share of the training pictures held out, by a hash of their ids, to choose the best epoch; when not given, the
    data set's own `val` split, or a tenth. Use the one that the dual encoder was trained with."""
    max_bad_share: float = 0.1
    """Stop when more than this share of the pictures cannot be used."""

    model: str = ""
    """What it stands on: a dual encoder, which stays as it is and gets a small decoder; or a BLIP or
    VisionEncoderDecoder checkpoint, which is fine-tuned as a whole."""
    encoder: str = ""
    """Instead of a model: an image encoder, by its directory or hub name, or its type alone (vit) without weights."""
    decoder: str = ""
    """The language model beside that encoder, by directory or hub name, or its type alone (gpt2) without weights."""
    encoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Settings of an encoder that is named by its type."""
    decoder_arguments: dict[str, Any] = field(default_factory=dict)
    """Settings of a decoder that is named by its type."""
    freeze_encoder: bool = False
    """Keep the image encoder of a whole model as it is."""

    dim: int = 256
    """Width of the small decoder."""
    layers: int = 3
    """Layers of the small decoder."""
    image_layers: int = 1
    """Layers in which the patches look at one another before the small decoder reads them."""
    heads: int = 8
    """Attention heads of the small decoder; they divide `dim`."""
    hidden: int = 2
    """Width of its hidden layers, as a multiple of `dim`."""
    dropout: float = 0.2
    """Dropout in the small decoder."""
    feature_dropout: float = 0.2
    """Dropout on the patches that it reads."""
    min_count: int = 5
    """The small decoder's words stand at least so many times in the training captions."""
    augment: Literal["none", "light", "strong"] = "light"
    """Picture augmentation: `light` crops and mirrors, `strong` changes colours too."""
    views: int = 3
    """Stored views of each picture, as it is and augmented, for the small decoder; epochs take turns."""

    max_tokens: int = 24
    """Longest caption to learn, in words or tokens; longer ones are cut."""
    captions: int = 5
    """Captions of each picture in a batch."""
    label_smoothing: float = 0.1
    """Share of the probability that is spread over all words."""
    epochs: int = 15
    """Passes over the pictures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 64
    """Pictures in a batch."""
    lr: float = 5e-4
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it then falls by half a cosine."""
    weight_decay: float = 0.05
    """AdamW's weight decay; biases and norms are spared."""
    max_grad_norm: float = 1.0
    """Longest gradient."""
    ema: float = 0.99
    """Decay of the weights' moving average, which is then validated and kept; 0 for none."""
    patience: int = 0
    """Stop after this many epochs without a better validation; 0 never stops early."""
    reward_epochs: int = 0
    """Passes of self-critical training on CIDEr after that, for the small decoder (Rennie et al. 2017)."""
    reward_lr: float = 5e-5
    """Peak learning rate of self-critical training."""
    reward_samples: int = 5
    """Captions drawn of each picture in self-critical training; each is judged against the others."""

    beams: int = 3
    """Beams of the validation, which chooses the best epoch by CIDEr."""
    save_steps: int = 200
    """Steps between checkpoints, beside the one at each epoch's end."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Device: auto, cpu, cuda, mps."""
    workers: int | None = None
    """Threads that read pictures or stored features; one for each core when not given."""
    tensorboard: bool = False
    """Write TensorBoard logs too."""
