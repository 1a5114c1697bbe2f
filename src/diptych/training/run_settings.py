"""Settings that every training recipe shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scalar = int | float | bool | str


@dataclass(kw_only=True)
class RunSettings:
    """Data, run folder, optimizer and schedule of a training run; every recipe extends it.

    A field is a command-line flag, a YAML key and a Python argument. Its docstring is the help text of the flag.
    """

    data: str = ""
    """Data set: a folder, a caption file, WebDataset shards, or a data set on the Hugging Face Hub."""
    out: str = ""
    """Run folder, for the model, the log and the checkpoints."""
    format: str | None = None
    """Format of the data set (default: detected)."""
    val_fraction: float | None = None
    """Fraction of the training images held out for validation, by a hash of the image id (default: the `val` split of
    the data set, or 0.1 of the images if it has none)."""
    max_bad_share: float = 0.1
    """Maximum fraction of unusable images; training stops if more are unusable."""

    epochs: int = 10
    """Number of passes over the training images."""
    max_steps: int | None = None
    """Maximum number of optimizer steps (default: no limit)."""
    batch_size: int = 128
    """Number of images per batch."""
    warmup: float = 0.1
    """Fraction of steps over which the learning rate warms up; it then decays along a half cosine."""
    weight_decay: float = 0.05
    """Weight decay of AdamW; biases, normalization weights and scales are not decayed."""
    max_grad_norm: float = 1.0
    """Maximum gradient norm (clipping)."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights, which is validated and saved; 0 disables it."""
    augment: Literal["none", "light", "strong"] = "none"
    """Image augmentation: `light` crops and mirrors, `strong` also changes colors."""
    views: int = 1
    """Number of stored views per image when the image tower is frozen; augmentation needs 2 or more."""
    patience: int = 0
    """Stop after this many epochs without a better validation score; 0 disables early stopping."""
    save_steps: int = 200
    """Steps between checkpoints within an epoch; the end of an epoch is always saved."""
    save_minutes: float = 2.0
    """Maximum number of minutes between checkpoints, if `save_steps` take longer."""
    seed: int = 0
    """Random seed."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int | None = None
    """Number of threads that load data (default: one per CPU core, at most 8)."""
    tensorboard: bool = False
    """Also write TensorBoard logs."""
