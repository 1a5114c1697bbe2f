"""Settings of the matching recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal  # noqa: F401 - hints of inherited fields are resolved in this module

from diptych.training.run_settings import RunSettings


@dataclass(kw_only=True)
class MatchRecipe(RunSettings):
    """Settings of a matching run, which trains a matcher on a frozen dual encoder."""

    data: str = ""
    """Data set of images with captions, from which non-matching pairs are sampled, or a table of labelled pairs with
    the columns image, caption and label."""
    out: str = "runs/match"
    val_fraction: float | None = None
    """Fraction of the training images held out for validation and calibration, chosen by a hash of the image
    id (default: the `val` split of the data set, or 0.1 of the images if it has none). Use the fraction that the dual
    encoder was trained with."""

    model: str = ""
    """Dual encoder that the matcher is trained on, which stays frozen: a run, a model directory, or the name of a
    bundled or hub model."""
    heads: list[str] = field(default_factory=lambda: ["pair", "cross"])
    """Heads to train: `pair` (an MLP on the two embeddings, fast) and `cross` (text tokens attend to image patches)."""
    hidden: int = 256
    """Width of the hidden layer of the pair head."""
    dim: int = 256
    """Width of the cross head."""
    dropout: float = 0.4
    """Dropout on the inputs of the heads."""
    max_tokens: int = 32
    """Maximum length of training texts in tokens; longer ones are truncated."""

    hard: int = 3
    """Number of hard negatives per image in a batch; the rest of the batch serves as random negatives."""
    hard_share: float = 0.02
    """Fraction of the images from which hard negatives are sampled: those that the dual encoder finds most similar to
    the caption."""
    hard_mixture: float = 0.5
    """Fraction of hard negatives among the negatives used for calibration."""
    prior: float = 0.5
    """Share of pairs expected to match, for which the probabilities are calibrated."""
    contrast: float = 1.0
    """Weight of the ranking loss (InfoNCE over the batch)."""
    binary: float = 0.5
    """Weight of the binary cross-entropy loss."""

    epochs: int = 12
    batch_size: int = 64
    """Number of images per batch; each image is compared with every caption in the batch."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.1
    ema: float = 0.99
