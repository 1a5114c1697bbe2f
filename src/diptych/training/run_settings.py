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
    """Run folder, where the model, the log and the checkpoints are saved."""
    format: str | None = None
    """Format of the data set (default: detected)."""
    val_fraction: float | None = None
    """Fraction of the training images held out for validation, chosen by a hash of the image id (default: the `val`
    split of the data set, or 0.1 of the images if it has none)."""
    max_bad_share: float = 0.1
    """Fail if more than this fraction of the images is unusable."""

    epochs: int = 10
    """Number of passes over the training images."""
    max_steps: int | None = None
    """Maximum number of optimizer steps (default: no limit)."""
    batch_size: int = 128
    """Number of images per batch."""
    warmup: float = 0.1
    """Fraction of the steps over which the learning rate warms up linearly; it then follows a cosine decay."""
    weight_decay: float = 0.05
    """Weight decay of AdamW; biases, normalization weights and scales are not decayed."""
    max_grad_norm: float = 1.0
    """Maximum gradient norm; larger gradients are clipped."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights; the average is what is validated and saved. 0 disables
    it."""
    augment: Literal["none", "light", "strong"] = "none"
    """Image augmentation: `light` crops and flips images, `strong` also changes colours."""
    views: int = 1
    """Number of versions of each image that are encoded in advance if the image tower is frozen. The first is not
    augmented, so augmentation needs 2 or more."""
    patience: int = 0
    """Stop after this many epochs without a better validation score; 0 disables early stopping."""
    save_steps: int = 200
    """Number of steps between checkpoints within an epoch; a checkpoint is also saved after every epoch."""
    save_minutes: float = 2.0
    """Maximum number of minutes between checkpoints, in case the steps between them take longer."""
    seed: int = 0
    """Random seed."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int | None = None
    """Number of data-loading threads (default: one per CPU core, at most 8)."""
    tensorboard: bool = False
    """Also write TensorBoard logs."""
