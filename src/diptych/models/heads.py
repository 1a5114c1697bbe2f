"""Projection heads: sentence-transformers modules from a tower's features to embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sentence_transformers.base.modules import Dense, Module, Normalize
from sentence_transformers.sentence_transformer.modules import Dropout
from torch import nn

from diptych.errors import ConfigError, did_you_mean

EMBEDDING = "sentence_embedding"
Features = dict[str, Any]
"""Inputs and outputs of sentence-transformers modules by name: tensors, and the modality as a string."""

_HUB_ARGUMENTS = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


class ResidualHead(Module):
    """The CLIP tutorials' projection head: `layer_norm(dropout(fc(gelu(p))) + p)` with `p = linear(x)`.

    Source: `ProjectionHead` of the tutorial "Simple implementation of OpenAI CLIP" (M. Moein Shariatnia, 2021). A model
    with this head loads with diptych only; one with linear or MLP heads also with plain `SentenceTransformer`.

    Args:
        in_features: Width of the input, (batch, in_features).
        out_features: Width of the output, (batch, out_features).
        dropout: Dropout probability.
    """

    config_keys: list[str] = ["in_features", "out_features", "dropout"]  # noqa: RUF012 - as the base class has it

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dropout = in_features, out_features, dropout
        self.projection = nn.Linear(in_features, out_features)
        self.body = nn.Sequential(nn.GELU(), nn.Linear(out_features, out_features), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(out_features)

    def forward(self, features: Features, **_kwargs: object) -> Features:
        """Add `sentence_embedding` to `features`: (batch, in_features) to (batch, out_features)."""
        projected = self.projection(features[EMBEDDING])
        features[EMBEDDING] = self.norm(self.body(projected) + projected)
        return features

    def get_embedding_dimension(self) -> int:
        """Width of the output."""
        return self.out_features

    def save(self, output_path: str, *_args: object, **_kwargs: object) -> None:
        """Write configuration and weights, always as safetensors."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(cls, model_name_or_path: str, *_args: object, **kwargs: Any) -> ResidualHead:
        """Read a head that `save` wrote."""
        hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
        head = cls(**cls.load_config(model_name_or_path, **hub))
        return cls.load_torch_weights(model_name_or_path, model=head, **hub)


def linear_head(width: int, dim: int, _dropout: float) -> list[Module]:
    """A linear layer without bias, as in CLIP (Radford et al. 2021); it has no dropout."""
    return [Dense(width, dim, bias=False, activation_function=nn.Identity())]


def mlp_head(width: int, dim: int, dropout: float) -> list[Module]:
    """Two linear layers with a GELU between them; the hidden layer has twice the output's width."""
    hidden = 2 * dim
    return [
        Dense(width, hidden, activation_function=nn.GELU()),
        Dropout(dropout),
        Dense(hidden, dim, activation_function=nn.Identity()),
    ]


def residual_head(width: int, dim: int, dropout: float) -> list[Module]:
    """A `ResidualHead`."""
    return [ResidualHead(width, dim, dropout)]


HEADS: dict[str, Callable[[int, int, float], list[Module]]] = {
    "linear": linear_head,
    "mlp": mlp_head,
    "residual": residual_head,
}
HEAD_MODULES = (Dense, Dropout, ResidualHead, Normalize)


def projection_head(name: str, width: int, dim: int, dropout: float) -> list[Module]:
    """Modules from tower features (batch, width) to unit vectors (batch, dim).

    Args:
        name: A key of `HEADS`.
        width: Width of the tower's features.
        dim: Dimension of the embeddings.
        dropout: Dropout probability.

    Raises:
        ConfigError: There is no head of that name.
    """
    if name not in HEADS:
        raise ConfigError(f"no projection head is called '{name}'; {did_you_mean(name, HEADS)}")
    return [*HEADS[name](width, dim, dropout), Normalize()]
