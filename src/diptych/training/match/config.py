"""Settings of the matching recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class MatchRecipe:
    """Every setting of a matcher's training."""

    data: str = ""
    """Data set with captions (negatives are made), or a table of labelled pairs: image, caption, label."""
    out: str = "runs/match"
    """Folder for the model, the log and the checkpoints."""
    format: str | None = None
    """Format of the data set; recognised by itself when not given."""
    val_fraction: float | None = None
    """Share of the training pictures held out, by a hash of their ids, to choose the best epoch and to calibrate; when
    not given, the data set's own `val` split, or a tenth. Use the one that the dual encoder was trained with."""
    max_bad_share: float = 0.1
    """Stop when more than this share of the pictures cannot be used."""

    model: str = ""
    """Dual encoder that it stands on, which stays as it is: a run, a directory, a name in the box or on the hub."""
    heads: list[str] = field(default_factory=lambda: ["pair", "cross"])
    """Heads to train: `pair` (a classifier over the two vectors, fast) and `cross` (tokens attend to patches)."""
    hidden: int = 256
    """Width of the pair head's hidden layer."""
    dim: int = 256
    """Width of the cross head's own space."""
    dropout: float = 0.4
    """Dropout on what the heads get from the towers."""
    max_tokens: int = 32
    """States kept of each text while training; longer texts are cut."""

    hard: int = 3
    """Hard negatives beside each picture of a batch; the rest of the batch are random ones."""
    hard_share: float = 0.02
    """Hard negatives are drawn from this share of the pictures, those that the dual encoder finds nearest."""
    hard_mixture: float = 0.5
    """Share of hard ones among the negatives that the probabilities are calibrated for."""
    prior: float = 0.5
    """Share of matches among the pairs that the probabilities are calibrated for."""
    contrast: float = 1.0
    """Weight of the loss that ranks a batch."""
    binary: float = 0.5
    """Weight of the loss that makes each logit a probability's."""

    epochs: int = 12
    """Passes over the pictures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 64
    """Pictures in a batch; each is compared with the captions of all."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; it then falls by half a cosine."""
    weight_decay: float = 0.1
    """AdamW's weight decay; biases, norms and scales are spared."""
    max_grad_norm: float = 1.0
    """Longest gradient."""
    ema: float = 0.99
    """Decay of the weights' moving average, which is then validated and kept; 0 for none."""
    augment: Literal["none", "light", "strong"] = "none"
    """Picture augmentation of the stored views beyond the first."""
    views: int = 1
    """Stored views of each picture: more than 1 with augmentation."""
    patience: int = 0
    """Stop after this many epochs without a better validation; 0 never stops early."""
    save_steps: int = 200
    """Steps between checkpoints, beside the one at each epoch's end."""
    seed: int = 0
    """Seed of every random choice."""
    device: str = "auto"
    """Device: auto, cpu, cuda, mps."""
    workers: int | None = None
    """Threads that read stored features; one for each core when not given."""
    tensorboard: bool = False
    """Write TensorBoard logs too."""
