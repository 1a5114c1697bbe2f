"""A small decoder: word by word from what the image tower made of a picture's patches to a caption of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.models.hidden_states import HiddenStates


class CaptionDecoder(nn.Module):
    """A transformer decoder (Vaswani et al. 2017, norms first) that attends to patches and to the picture's vector.

    Its input and output embeddings are one matrix. `forward` reads whole captions, `spell` begins to write some.
    """

    image_layers: Any  # nn.ModuleList, of which mypy knows no element
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
        self.picture = _Picture(places, image_width, vector_dim, dim, feature_dropout)
        blocks: dict[str, Any] = {"dim": dim, "heads": heads, "hidden": hidden * dim, "dropout": dropout}
        self.image_layers = nn.ModuleList(_Block(**blocks, looks=False) for _ in range(image_layers))
        self.image_norm = nn.LayerNorm(dim)
        self.embedding = nn.Embedding(words, dim)
        self.positions = nn.Parameter(torch.zeros(max_tokens + 2, dim))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Block(**blocks, looks=True) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # with larger ones it begins by repeating its last word
        nn.init.normal_(self.positions, std=0.02)

    def look(self, states: HiddenStates) -> Tensor:
        """What captions are written from: (pictures, 1 + places, dim)."""
        hidden = self.picture(states)
        for layer in self.image_layers:
            hidden = layer(hidden)
        return self.image_norm(hidden)

    def forward(self, memory: Tensor, words: Tensor) -> Tensor:
        """The logits of each next word: (captions, length, words).

        Args:
            memory: (pictures, 1 + places, dim) from `look`.
            words: (captions, length) the same number of captions for each picture, one picture's after another's.
        """
        hidden = self.dropout(self._embed(words, 0))  # (captions, length, dim)
        for layer in self.layers:
            hidden = layer(hidden, layer.cross.keys(memory))
        return self._logits(hidden)

    def spell(self, memory: Tensor) -> DecodingState:
        """Begin captions of these pictures."""
        return DecodingState(self, memory)

    def _embed(self, words: Tensor, first: int) -> Tensor:
        scale = self.embedding.embedding_dim**0.5
        return self.embedding(words) * scale + self.positions[first : first + words.shape[1]]

    def _logits(self, hidden: Tensor) -> Tensor:
        return functional.linear(self.norm(hidden), self.embedding.weight)


class DecodingState:
    """Captions in the making, some for each picture: the keys and values of the words so far are kept."""

    def __init__(self, decoder: CaptionDecoder, memory: Tensor) -> None:
        self.decoder, self.written = decoder, 0
        self.looked = [layer.cross.keys(memory) for layer in decoder.layers]  # of the pictures, for all their captions
        self.said: list[tuple[Tensor, Tensor] | None] = [None] * len(decoder.layers)

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        """The logits of the next word: (captions, words), after one more word of each caption.

        Args:
            words: (captions,) the newest word of each caption, one picture's captions after another's.
            parents: (captions,) which of the earlier captions each of them goes on with; each its own when not given.
        """
        hidden = self.decoder._embed(words[:, None], self.written)  # (captions, 1, dim)
        for number, (layer, looked) in enumerate(zip(self.decoder.layers, self.looked, strict=True)):
            said = self.said[number]
            if said is not None and parents is not None:
                said = said[0][parents], said[1][parents]
            hidden, self.said[number] = layer.step(hidden, said, looked)
        self.written += 1
        return self.decoder._logits(hidden).squeeze(1)

    def keep(self, pictures: Tensor) -> None:
        """Go on with these pictures alone; `parents` of the next step then names the captions that stay."""
        self.looked = [(keys[pictures], values[pictures]) for keys, values in self.looked]


class _Picture(nn.Module):
    """Patch states and the picture's vector in the decoder's space: (pictures, 1 + places, dim), the vector first."""

    def __init__(self, places: int, image_width: int, vector_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(image_width), nn.Dropout(dropout)
        self.patches, self.vector = nn.Linear(image_width, dim), nn.Linear(vector_dim, dim)
        self.stretch = vector_dim**0.5  # entries of unit vectors are small; a linear layer expects numbers of about 1
        self.places = nn.Parameter(torch.zeros(places, dim))
        nn.init.normal_(self.places, std=0.02)

    def forward(self, states: HiddenStates) -> Tensor:
        patches = self.patches(self.dropout(self.norm(states.states))) + self.places
        vector = self.vector(self.dropout(states.vectors * self.stretch))
        return torch.cat([vector[:, None], patches], dim=1)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.share = heads, dropout
        self.ask, self.tell, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def keys(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (items, heads, length, dim / heads)."""
        keys, values = self.tell(hidden).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, hidden: Tensor, known: tuple[Tensor, Tensor], causal: bool = False) -> Tensor:
        """(items, length, dim). Of fewer keys' items than `hidden` has, each serves as many in a row."""
        items = known[0].shape[0]
        queries = self._split(self.ask(hidden).reshape(items, -1, hidden.shape[-1]))
        share = self.share if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(queries, *known, dropout_p=share, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(hidden.shape))

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class _Block(nn.Module):
    """Attention to itself, to the picture if it `looks` at one, and two linear layers; norms stand before each."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, *, looks: bool) -> None:
        super().__init__()
        self.own, self.own_norm = _Attention(dim, heads, dropout), nn.LayerNorm(dim)
        if looks:
            self.cross, self.cross_norm = _Attention(dim, heads, dropout), nn.LayerNorm(dim)
        self.wide, self.narrow, self.last_norm = nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, looked: tuple[Tensor, Tensor] | None = None) -> Tensor:
        normed = self.own_norm(hidden)
        hidden = hidden + self.dropout(self.own(normed, self.own.keys(normed), causal=looked is not None))
        return self._rest(hidden, looked)

    def step(
        self, hidden: Tensor, said: tuple[Tensor, Tensor] | None, looked: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One more word: (captions, 1, dim), and the keys and values with it."""
        normed = self.own_norm(hidden)
        known = self.own.keys(normed)
        if said is not None:
            known = torch.cat([said[0], known[0]], dim=2), torch.cat([said[1], known[1]], dim=2)
        return self._rest(hidden + self.own(normed, known), looked), known

    def _rest(self, hidden: Tensor, looked: tuple[Tensor, Tensor] | None) -> Tensor:
        if looked is not None:
            hidden = hidden + self.dropout(self.cross(self.cross_norm(hidden), looked))
        wide = functional.gelu(self.wide(self.last_norm(hidden)))
        return hidden + self.dropout(self.narrow(self.dropout(wide)))
