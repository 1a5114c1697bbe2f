"""Heads that look at a picture and a text together and say, as a logit, whether they match.

A head first encodes each side by itself, once for each picture and text (`encode`), then compares encoded sides: row by
row (`pairs`) or every picture with every text (`grid`).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.models.hidden_states import HiddenStates

Side = tuple[Tensor, ...]  # what a head made of some pictures or texts: tensors of (items, ...)


class Head(Protocol):
    """What a matcher needs of a head; it is an `nn.Module` too."""

    needs_states: bool  # whether it looks at patches and tokens, or at the two vectors alone

    def encode(self, modality: str, states: HiddenStates) -> Side: ...

    def pairs(self, images: Side, texts: Side) -> Tensor:
        """Row by row: (pairs,) logits."""

    def grid(self, images: Side, texts: Side) -> Tensor:
        """Every picture with every text: (pictures, texts) logits."""


class CosineHead(nn.Module):
    """The cosine of the two vectors: what a dual encoder says without a matcher. Nothing in it is trained."""

    needs_states = False

    def encode(self, modality: str, states: HiddenStates) -> Side:
        return (states.vectors,)

    def pairs(self, images: Side, texts: Side) -> Tensor:
        return (images[0] * texts[0]).sum(-1)

    def grid(self, images: Side, texts: Side) -> Tensor:
        return images[0] @ texts[0].T


class PairHead(nn.Module):
    """A classifier over both vectors, their products and their differences (as InferSent's, Conneau et al. 2017).

    It begins as the scaled cosine and learns what to add to it: its last layer is 0 at first.
    """

    needs_states = False

    def __init__(self, dim: int, hidden: int = 256, dropout: float = 0.3) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(20.0)), nn.Parameter(torch.tensor(-6.0))
        self.stretch = dim**0.5  # entries of unit vectors are small; a linear layer expects numbers of about 1
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * dim, hidden), nn.GELU(), nn.Dropout(dropout), last)

    def encode(self, modality: str, states: HiddenStates) -> Side:
        return (states.vectors,)

    def pairs(self, images: Side, texts: Side) -> Tensor:
        u, v = images[0], texts[0]  # (pairs, dim)
        products = u * v
        joint = torch.cat([products * self.stretch, (u - v).abs(), u, v], dim=-1) * self.stretch  # (pairs, 4 * dim)
        return self.scale * products.sum(-1) + self.bias + self.body(joint).squeeze(-1)

    def grid(self, images: Side, texts: Side) -> Tensor:
        rows, columns = len(images[0]), len(texts[0])
        every = images[0].repeat_interleave(columns, dim=0), texts[0].repeat(rows, 1)
        return self.pairs((every[0],), (every[1],)).view(rows, columns)


class CrossHead(nn.Module):
    """Each token attends to the picture's patches, and each patch to the text's tokens (SCAN, Lee et al. 2018).

    A token is compared, by the cosine, with the mixture of patches that it attends to, and a patch with its mixture of
    tokens; the logit is the mean of these cosines, weighted by how much each token and each patch has to say. Unlike in
    SCAN, whose regions come from an object detector, the patches are those of the tower, the weights are learnt, and
    both directions count. All that depends on both sides is a few products of small matrices, so that a picture can be
    compared with thousands of texts.
    """

    needs_states = True

    def __init__(self, image_width: int, text_width: int, dim: int = 256, dropout: float = 0.4) -> None:
        super().__init__()
        self.sides = nn.ModuleDict(
            {
                "image": _Projection(image_width, dim, dropout, context=False),
                "text": _Projection(text_width, dim, dropout, context=True),
            }
        )
        self.sharpness = nn.Parameter(torch.tensor([2.0, 2.0]))  # logarithms of what the cosines are multiplied with
        self.scales = nn.Parameter(torch.tensor([10.0, 10.0]))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def encode(self, modality: str, states: HiddenStates) -> Side:
        """(items, length, dim) unit vectors, and (items, length) how much each counts; the latter sum to 1."""
        return self.sides[modality](states)

    def pairs(self, images: Side, texts: Side) -> Tensor:
        padding = (texts[1] == 0)[:, None]  # (pairs, 1, tokens)
        return self._compare(images, texts, padding, ("bpd,bld->blp", "blp,bpq->blq", "bpl,blm->bpm"), ("b", "b"))

    def grid(self, images: Side, texts: Side) -> Tensor:
        padding = (texts[1] == 0)[None, :, None]  # (1, texts, 1, tokens)
        return self._compare(images, texts, padding, ("ipd,tld->itlp", "itlp,ipq->itlq", "itpl,tlm->itpm"), ("i", "t"))

    def _compare(
        self, images: Side, texts: Side, padding: Tensor, axes: tuple[str, str, str], items: tuple[str, str]
    ) -> Tensor:
        """In `axes`, p and q are patches and l and m tokens; `items` name the axes of pictures and of texts."""
        (patches, patch_weights), (tokens, token_weights) = images, texts
        by_token, by_patch = self.sharpness.exp()
        cosines = torch.einsum(axes[0], patches, tokens)  # (..., tokens, patches)
        of_tokens = _attended(cosines, by_token, patches, None, axes[1])  # (..., tokens)
        of_patches = _attended(cosines.transpose(-1, -2), by_patch, tokens, padding, axes[2])  # (..., patches)
        pair = "".join(dict.fromkeys(items))
        told = torch.einsum(f"{pair}l,{items[1]}l->{pair}", of_tokens, token_weights)
        shown = torch.einsum(f"{pair}p,{items[0]}p->{pair}", of_patches, patch_weights)
        return self.scales[0] * told + self.scales[1] * shown + self.bias


class _Projection(nn.Module):
    """States to unit vectors of the head's own space, and how much each of them counts.

    With `context` each state is mixed with its two neighbours, so that "red" and "car" become a red car.
    """

    def __init__(self, width: int, dim: int, dropout: float, *, context: bool) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.project, self.weigh = nn.Linear(width, dim), nn.Linear(width, 1)
        self.context = nn.Conv1d(dim, dim, 3, padding=1) if context else None
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, states: HiddenStates) -> Side:
        mask = states.mask
        hidden = self.dropout(self.norm(states.states))  # (items, length, width)
        weights = self.weigh(hidden).squeeze(-1).masked_fill(~mask, -torch.inf)  # (items, length)
        projected = self.project(hidden)  # (items, length, dim)
        if self.context is not None:
            projected = projected * mask.unsqueeze(-1)
            mixed = self.context(projected.transpose(1, 2)).transpose(1, 2)
            projected = projected + functional.gelu(mixed)
        return functional.normalize(projected, dim=-1), weights.softmax(dim=-1)


def _attended(cosines: Tensor, sharpness: Tensor, keys: Tensor, padding: Tensor | None, axes: str) -> Tensor:
    """The cosine of each query with the mixture of keys that it attends to: (..., queries).

    With attention a, cosines c and unit keys K the mixture is aK; its product with the query is a.c, and its length the
    root of a(KK')a', so that no mixture is ever formed.

    Args:
        cosines: (..., queries, keys).
        keys: (items, keys, dim) unit vectors.
        padding: true for the keys that only pad, broadcast to `cosines`.
        axes: how `cosines` and the keys' own products are multiplied.
    """
    scores = cosines * sharpness
    if padding is not None:
        scores = scores.masked_fill(padding, -torch.inf)
    attention = scores.softmax(dim=-1)
    products = torch.einsum(axes, attention, keys @ keys.transpose(-1, -2))
    length = (products * attention).sum(-1).clamp(min=1e-8).sqrt()
    return (attention * cosines).sum(-1) / length


HEADS: dict[str, Any] = {"pair": PairHead, "cross": CrossHead}  # the better ones last
