"""Matching heads: modules that compare an image and a text and return a logit for "they match".

A head encodes each image and each text once (`encode`), then compares encoded sides, either row by row (`pairs`) or
every image with every text (`grid`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.models.hidden_states import HiddenStates
from diptych.models.key_map import load_renamed

Side = tuple[Tensor, ...]
"""Encoded images or texts: tensors of (items, ...) whose meaning only the head knows."""


class Head(Protocol):
    """The interface of a matching head, which is also an `nn.Module`."""

    needs_states: bool  # whether it reads patch and token states, or the two embeddings alone

    def encode(self, modality: str, states: HiddenStates) -> Side:
        """Encode images or texts; `modality` is `image` or `text`."""

    def pairs(self, images: Side, texts: Side) -> Tensor:
        """Logits of row i of `images` with row i of `texts`: (pairs,)."""

    def grid(self, images: Side, texts: Side) -> Tensor:
        """Logits of every image with every text: (images, texts)."""


class CosineHead(nn.Module):
    """The cosine of the two embeddings, without parameters: the score of the dual encoder itself."""

    needs_states = False

    def encode(self, _modality: str, states: HiddenStates) -> Side:
        """The embeddings, (items, dim)."""
        return (states.embeddings,)

    def pairs(self, images: Side, texts: Side) -> Tensor:
        """Cosines of row i of `images` with row i of `texts`: (pairs,) in [-1, 1]."""
        return (images[0] * texts[0]).sum(-1)

    def grid(self, images: Side, texts: Side) -> Tensor:
        """Cosines of every image with every text: (images, texts) in [-1, 1]."""
        return images[0] @ texts[0].T


class PairHead(nn.Module):
    """An MLP over both embeddings, their product and their absolute difference (InferSent, Conneau et al. 2017).

    The MLP's last layer starts at zero, so an untrained head returns the scaled cosine.

    Args:
        dim: Dimension of the embeddings.
        hidden: Width of the hidden layer.
        dropout: Dropout probability.
    """

    needs_states = False

    def __init__(self, dim: int, hidden: int = 256, dropout: float = 0.3) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(20.0)), nn.Parameter(torch.tensor(-6.0))
        self.stretch = dim**0.5  # gives the entries of a unit vector a variance of about 1
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * dim, hidden), nn.GELU(), nn.Dropout(dropout), last)
        load_renamed(self, [(r"body\.(.*)", r"mlp.\1")])  # its name before 0.1

    def encode(self, _modality: str, states: HiddenStates) -> Side:
        """The embeddings, (items, dim)."""
        return (states.embeddings,)

    def pairs(self, images: Side, texts: Side) -> Tensor:
        """Logits of row i of `images` with row i of `texts`: (pairs,)."""
        u, v = images[0], texts[0]  # (pairs, dim)
        products = u * v
        joint = torch.cat([products * self.stretch, (u - v).abs(), u, v], dim=-1) * self.stretch  # (pairs, 4 * dim)
        return self.scale * products.sum(-1) + self.bias + self.mlp(joint).squeeze(-1)

    def grid(self, images: Side, texts: Side) -> Tensor:
        """Logits of every image with every text: (images, texts)."""
        rows, columns = len(images[0]), len(texts[0])
        u, v = images[0].repeat_interleave(columns, dim=0), texts[0].repeat(rows, 1)  # (images * texts, dim)
        return self.pairs((u,), (v,)).view(rows, columns)


class CrossHead(nn.Module):
    """Cross-attention between words and patches in both directions (stacked cross attention, SCAN, Lee et al. 2018).

    Each token is compared, by cosine, with its attention-weighted mean of the patches, and each patch with that of the
    tokens. The logit is a weighted mean of these cosines, with learnt weights per token and patch. SCAN attends in one
    direction, to regions from an object detector, with equal weights. Whatever depends on both sides is a few products
    of small matrices, so comparing one image with thousands of texts is cheap.

    Args:
        image_width: Width of the patch states.
        text_width: Width of the token states.
        dim: Dimension of the space in which they are compared.
        dropout: Dropout probability of the states.
    """

    needs_states = True

    def __init__(self, image_width: int, text_width: int, dim: int = 256, dropout: float = 0.4) -> None:
        super().__init__()
        self.sides = nn.ModuleDict(
            {
                "image": StateProjection(image_width, dim, dropout, context=False),
                "text": StateProjection(text_width, dim, dropout, context=True),
            }
        )
        self.sharpness = nn.Parameter(torch.tensor([2.0, 2.0]))  # log of the attention's inverse temperatures
        self.scales = nn.Parameter(torch.tensor([10.0, 10.0]))
        self.bias = nn.Parameter(torch.tensor(-5.0))
        names = {"project": "proj", "weigh": "weight_proj", "context": "conv"}  # before 0.1, and now
        load_renamed(self, [(rf"(sides\.\w+)\.{old}\.(.*)", rf"\1.{new}.\2") for old, new in names.items()])

    def encode(self, modality: str, states: HiddenStates) -> Side:
        """Unit vectors (items, length, dim), and their weights (items, length), which sum to 1 for each item."""
        return self.sides[modality](states)

    def pairs(self, images: Side, texts: Side) -> Tensor:
        """Logits of row i of `images` with row i of `texts`: (pairs,)."""
        padding = (texts[1] == 0)[:, None]  # (pairs, 1, tokens)
        return self._compare(images, texts, padding, ("bpd,bld->blp", "blp,bpq->blq", "bpl,blm->bpm"), ("b", "b"))

    def grid(self, images: Side, texts: Side) -> Tensor:
        """Logits of every image with every text: (images, texts)."""
        padding = (texts[1] == 0)[None, :, None]  # (1, texts, 1, tokens)
        return self._compare(images, texts, padding, ("ipd,tld->itlp", "itlp,ipq->itlq", "itpl,tlm->itpm"), ("i", "t"))

    def _compare(
        self, images: Side, texts: Side, padding: Tensor, axes: tuple[str, str, str], items: tuple[str, str]
    ) -> Tensor:
        """In `axes`, p and q index patches, l and m tokens; `items` names the axes of images and of texts."""
        (patches, patch_weights), (tokens, token_weights) = images, texts
        token_sharpness, patch_sharpness = self.sharpness.exp()
        cosines = torch.einsum(axes[0], patches, tokens)  # (..., tokens, patches)
        by_token = _attended_cosines(cosines, token_sharpness, patches, None, axes[1])  # (..., tokens)
        by_patch = _attended_cosines(cosines.transpose(-1, -2), patch_sharpness, tokens, padding, axes[2])
        pair = "".join(dict.fromkeys(items))
        text_score = torch.einsum(f"{pair}l,{items[1]}l->{pair}", by_token, token_weights)
        image_score = torch.einsum(f"{pair}p,{items[0]}p->{pair}", by_patch, patch_weights)
        return self.scales[0] * text_score + self.scales[1] * image_score + self.bias


class StateProjection(nn.Module):
    """Projects hidden states to unit vectors of the head's space and weighs them.

    With `context`, a convolution over three positions mixes each state with its neighbours, so that "red" and "car" can
    act as one phrase.
    """

    def __init__(self, width: int, dim: int, dropout: float, *, context: bool) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.proj, self.weight_proj = nn.Linear(width, dim), nn.Linear(width, 1)
        self.conv = nn.Conv1d(dim, dim, 3, padding=1) if context else None
        nn.init.zeros_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def forward(self, states: HiddenStates) -> Side:
        """Unit vectors (items, length, dim) of hidden states, and their weights (items, length), which sum to 1."""
        mask = states.mask
        hidden = self.dropout(self.norm(states.states))  # (items, length, width)
        weights = self.weight_proj(hidden).squeeze(-1).masked_fill(~mask, -torch.inf)  # (items, length)
        projected = self.proj(hidden)  # (items, length, dim)
        if self.conv is not None:
            projected = projected * mask.unsqueeze(-1)
            mixed = self.conv(projected.transpose(1, 2)).transpose(1, 2)
            projected = projected + functional.gelu(mixed)
        return functional.normalize(projected, dim=-1), weights.softmax(dim=-1)


def _attended_cosines(cosines: Tensor, sharpness: Tensor, keys: Tensor, padding: Tensor | None, axes: str) -> Tensor:
    """The cosine of each query with its attention-weighted mean of the keys: (..., queries).

    With attention a, cosines c and unit keys K the mean is aK. Its dot product with the query is a.c and its norm is
    sqrt(a K K' a'), so the mean itself is never computed.

    Args:
        cosines: (..., queries, keys).
        sharpness: Inverse temperature of the attention, a scalar.
        keys: (items, keys, dim) unit vectors.
        padding: True at keys that are padding; broadcasts to `cosines`.
        axes: The einsum that multiplies the attention with the keys' Gram matrices.
    """
    scores = cosines * sharpness
    if padding is not None:
        scores = scores.masked_fill(padding, -torch.inf)
    attention = scores.softmax(dim=-1)
    products = torch.einsum(axes, attention, keys @ keys.transpose(-1, -2))
    norm = (products * attention).sum(-1).clamp(min=1e-8).sqrt()
    return (attention * cosines).sum(-1) / norm


HEADS: dict[str, type[PairHead | CrossHead]] = {"pair": PairHead, "cross": CrossHead}
"""Trainable heads by name, the most accurate last."""
