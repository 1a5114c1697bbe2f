"""The caption decoder: a small transformer that generates captions from an image tower's patch states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.models.hidden_states import HiddenStates
from diptych.models.key_map import load_renamed

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of an attention layer, each (items, heads, length, dim / heads)."""

# Parameter names before 0.1, which saved models and `mini` have, and their current names.
_RENAMES = (
    (r"picture\.patches\.(.*)", r"image_projection.patch_proj.\1"),
    (r"picture\.vector\.(.*)", r"image_projection.embedding_proj.\1"),
    (r"picture\.places", r"image_projection.positions"),
    (r"picture\.norm\.(.*)", r"image_projection.norm.\1"),
    (r"image_layers\.(\d+)\.last_norm\.(.*)", r"image_layers.\1.norm2.\2"),
    (r"layers\.(\d+)\.last_norm\.(.*)", r"layers.\1.norm3.\2"),
    (r"(.*)\.own_norm\.(.*)", r"\1.norm1.\2"),
    (r"(.*)\.cross_norm\.(.*)", r"\1.norm2.\2"),
    (r"(.*)\.wide\.(.*)", r"\1.mlp.fc1.\2"),
    (r"(.*)\.narrow\.(.*)", r"\1.mlp.fc2.\2"),
    (r"(.*)\.own\.(.*)", r"\1.self_attn.\2"),
    (r"(.*)\.cross\.(.*)", r"\1.cross_attn.\2"),
    (r"(.*_attn)\.ask\.(.*)", r"\1.q_proj.\2"),
    (r"(.*_attn)\.tell\.(.*)", r"\1.kv_proj.\2"),
    (r"(.*_attn)\.out\.(.*)", r"\1.out_proj.\2"),
)
_SPLIT = {"kv_proj": ("k_proj", "v_proj")}  # one linear layer before 0.1


class CaptionDecoder(nn.Module):
    """A pre-norm transformer decoder (Vaswani et al. 2017) with cross-attention to an image's patches and embedding.

    Input and output embeddings are tied. `forward` scores whole captions in parallel (training); `start` begins
    generating captions token by token with cached keys and values.

    Args:
        words: Vocabulary size, special tokens included.
        places: Number of patches of an image.
        image_width: Width of the patch states.
        vector_dim: Dimension of the image embedding.
        dim: Width of the decoder.
        layers: Number of decoder layers.
        image_layers: Number of encoder layers over the projected patches.
        heads: Number of attention heads.
        hidden: Width of the MLPs as a multiple of `dim`.
        dropout: Dropout probability in the layers.
        feature_dropout: Dropout probability of the image's patch states and embedding.
        max_tokens: Maximum number of words of a caption.
    """

    image_layers: Any  # nn.ModuleList; mypy does not know the type of its elements
    layers: Any

    def __init__(
        self,
        words: int,
        places: int,
        image_width: int,
        vector_dim: int,
        *,
        dim: int = 256,
        layers: int = 3,
        image_layers: int = 1,
        heads: int = 8,
        hidden: int = 2,
        dropout: float = 0.1,
        feature_dropout: float = 0.1,
        max_tokens: int = 40,
    ) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.image_projection = ImageProjection(places, image_width, vector_dim, dim, feature_dropout)
        self.image_layers = nn.ModuleList(EncoderLayer(dim, heads, hidden * dim, dropout) for _ in range(image_layers))
        self.image_norm = nn.LayerNorm(dim)
        self.embedding = nn.Embedding(words, dim)
        self.positions = nn.Parameter(torch.zeros(max_tokens + 2, dim))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, hidden * dim, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # a larger spread makes it repeat its last word at first
        nn.init.normal_(self.positions, std=0.02)
        load_renamed(self, _RENAMES, split=_SPLIT)

    def encode(self, states: HiddenStates) -> Tensor:
        """The memory that captions attend to: (images, 1 + patches, dim), the image embedding first."""
        hidden = self.image_projection(states)
        for layer in self.image_layers:
            hidden = layer(hidden)
        return self.image_norm(hidden)

    def forward(self, memory: Tensor, words: Tensor) -> Tensor:
        """Logits of the next word at every position: (captions, length, vocabulary).

        Args:
            memory: (images, 1 + patches, dim) from `encode`.
            words: (captions, length) token ids. Every image has the same number of captions, in consecutive rows.
        """
        hidden = self.dropout(self.embed(words, 0))  # (captions, length, dim)
        for layer in self.layers:
            hidden = layer(hidden, layer.cross_attn.keys_values(memory))
        return self.logits(hidden)

    def start(self, memory: Tensor) -> DecodingState:
        """A decoding state for captions of the images in `memory`, (images, 1 + patches, dim) from `encode`."""
        return DecodingState(self, memory)

    def embed(self, words: Tensor, first: int) -> Tensor:
        """Token and position embeddings of `words`, (captions, length), which begin at position `first`."""
        scale = self.embedding.embedding_dim**0.5
        return self.embedding(words) * scale + self.positions[first : first + words.shape[1]]

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., dim) to logits of the next word (..., vocabulary)."""
        return functional.linear(self.norm(hidden), self.embedding.weight)


class DecodingState:
    """Captions that are being generated, several for each image, with cached keys and values."""

    def __init__(self, decoder: CaptionDecoder, memory: Tensor) -> None:
        self.decoder, self.length = decoder, 0
        self.image_cache = [layer.cross_attn.keys_values(memory) for layer in decoder.layers]
        self.word_cache: list[KeysValues | None] = [None] * len(decoder.layers)

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        """Append one word to each caption and return the logits of the next: (captions, vocabulary).

        Args:
            words: (captions,) token ids. Captions of one image are consecutive.
            parents: (captions,) row of the previous step that each caption continues; by default its own.
        """
        hidden = self.decoder.embed(words[:, None], self.length)  # (captions, 1, dim)
        for i, (layer, image_cache) in enumerate(zip(self.decoder.layers, self.image_cache, strict=True)):
            cache = self.word_cache[i]
            if cache is not None and parents is not None:
                cache = cache[0][parents], cache[1][parents]
            hidden, self.word_cache[i] = layer.step(hidden, cache, image_cache)
        self.length += 1
        return self.decoder.logits(hidden).squeeze(1)

    def keep(self, images: Tensor) -> None:
        """Continue with the images at these rows only; `parents` of the next step then names the captions that stay."""
        self.image_cache = [(keys[images], values[images]) for keys, values in self.image_cache]


class ImageProjection(nn.Module):
    """Patch states and image embedding in the decoder's width: (images, 1 + patches, dim), the embedding first."""

    def __init__(self, places: int, image_width: int, vector_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(image_width), nn.Dropout(dropout)
        self.patch_proj, self.embedding_proj = nn.Linear(image_width, dim), nn.Linear(vector_dim, dim)
        self.scale = vector_dim**0.5  # gives the entries of a unit vector a variance of about 1
        self.positions = nn.Parameter(torch.zeros(places, dim))
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, states: HiddenStates) -> Tensor:
        """(images, 1 + patches, dim) from patch states (images, patches, image_width) and embeddings."""
        patches = self.patch_proj(self.dropout(self.norm(states.states))) + self.positions
        embedding = self.embedding_proj(self.dropout(states.embeddings * self.scale))
        return torch.cat([embedding[:, None], patches], dim=1)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017) over keys and values that may be cached."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def keys_values(self, hidden: Tensor) -> KeysValues:
        """Keys and values of (items, length, dim), each (items, heads, length, dim / heads)."""
        return self._split_heads(self.k_proj(hidden)), self._split_heads(self.v_proj(hidden))

    def forward(self, hidden: Tensor, keys_values: KeysValues, causal: bool = False) -> Tensor:
        """(items, length, dim). With fewer items in `keys_values`, each serves the same number of consecutive rows."""
        items = keys_values[0].shape[0]
        queries = self._split_heads(self.q_proj(hidden).reshape(items, -1, hidden.shape[-1]))
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(queries, *keys_values, dropout_p=dropout, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(hidden.shape))

    def _split_heads(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2, self.dropout = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return self.fc2(self.dropout(functional.gelu(self.fc1(hidden))))


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer: self-attention without a mask, and an MLP."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn, self.norm1 = Attention(dim, heads, dropout), nn.LayerNorm(dim)
        self.mlp, self.norm2 = Mlp(dim, hidden, dropout), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(items, length, dim) to (items, length, dim)."""
        normed = self.norm1(hidden)
        hidden = hidden + self.dropout(self.self_attn(normed, self.self_attn.keys_values(normed)))
        return hidden + self.dropout(self.mlp(self.norm2(hidden)))


class DecoderLayer(nn.Module):
    """A pre-norm transformer layer: causal self-attention, cross-attention to the image, and an MLP."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn, self.norm1 = Attention(dim, heads, dropout), nn.LayerNorm(dim)
        self.cross_attn, self.norm2 = Attention(dim, heads, dropout), nn.LayerNorm(dim)
        self.mlp, self.norm3 = Mlp(dim, hidden, dropout), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, image: KeysValues) -> Tensor:
        """(captions, length, dim) for whole captions; `image` holds keys and values of the memory."""
        normed = self.norm1(hidden)
        hidden = hidden + self.dropout(self.self_attn(normed, self.self_attn.keys_values(normed), causal=True))
        return self._attend_image(hidden, image)

    def step(self, hidden: Tensor, cache: KeysValues | None, image: KeysValues) -> tuple[Tensor, KeysValues]:
        """One more word of each caption, (captions, 1, dim), and the cache with it."""
        normed = self.norm1(hidden)
        new = self.self_attn.keys_values(normed)
        if cache is not None:
            new = torch.cat([cache[0], new[0]], dim=2), torch.cat([cache[1], new[1]], dim=2)
        return self._attend_image(hidden + self.self_attn(normed, new), image), new

    def _attend_image(self, hidden: Tensor, image: KeysValues) -> Tensor:
        hidden = hidden + self.dropout(self.cross_attn(self.norm2(hidden), image))
        return hidden + self.dropout(self.mlp(self.norm3(hidden)))
