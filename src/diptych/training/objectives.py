"""Training objectives as pure functions of embeddings and ids, and gradient caching for large batches.

A batch is N (image, caption) pairs. The diagonal of the N x N similarity matrix holds the positives. Most other entries
are negatives, but two captions of one image, or one caption text of two images, are false negatives: every objective
takes image and caption ids and ignores these entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Objective(Protocol):
    """The signature of every objective in `OBJECTIVES`."""

    def __call__(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        *,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor,
        image_ids: Tensor,
        caption_ids: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, a 0-d tensor."""


def false_negative_mask(image_ids: Tensor, caption_ids: Tensor | None = None) -> Tensor:
    """The false negatives of a batch: (batch, batch) bool, symmetric, false on the diagonal.

    Entry (i, j), i != j, is true if pairs i and j have the same image or, with `caption_ids`, the same caption text.

    Args:
        image_ids: (batch,) integers, equal for pairs with the same image.
        caption_ids: (batch,) integers, equal for captions with the same text.

    >>> false_negative_mask(torch.tensor([7, 7, 8])).int().tolist()
    [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    >>> false_negative_mask(torch.tensor([7, 7, 8]), torch.tensor([0, 1, 1])).int().tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    mask = image_ids[:, None] == image_ids[None, :]  # (batch, batch)
    if caption_ids is not None:
        mask = mask | (caption_ids[:, None] == caption_ids[None, :])
    return mask & ~torch.eye(len(image_ids), dtype=torch.bool, device=mask.device)


def info_nce(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    *,
    logit_scale: float | Tensor,
    image_ids: Tensor,
    caption_ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    logit_bias: float | Tensor = 0.0,  # noqa: ARG001 - part of the signature of every objective
) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021, figure 3): the mean of the image-to-text and text-to-image losses.

    Each direction is the mean over the batch of the cross-entropy between softmax(logit_scale * similarities) and the
    matching pair. False negatives (`false_negative_mask`) are excluded from the denominator; the loss of a pair without
    negatives is 0. With `label_smoothing` e the target is 1 - e for the match, and e is shared equally by the true
    negatives of the pair. Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        image_embeddings: (batch, dim) unit embeddings; the norm is not checked.
        text_embeddings: (batch, dim) unit embeddings; row i is a caption of the image of row i.
        logit_scale: positive factor of the similarities (1 / temperature, not its logarithm); a float or a 0-d tensor.
        image_ids: (batch,) integers, equal for pairs with the same image.
        caption_ids: (batch,) integers, equal for captions with the same text.
        label_smoothing: in [0, 1).
        logit_bias: ignored, since a softmax is invariant to it; part of the common signature.

    Returns:
        A 0-d tensor, at least 0.

    Raises:
        ValueError: shapes do not match, the batch is empty, or `label_smoothing` is out of range.

    Logits [[ln 3, 0], [0, ln 3]] give each match the probability 3 / (3 + 1) = 0.75, and -ln 0.75 = 0.2877. If both
    pairs have the same image, there are no negatives:

    >>> import math
    >>> eye = torch.eye(2)
    >>> round(info_nce(eye, eye, logit_scale=math.log(3), image_ids=torch.tensor([0, 1])).item(), 4)
    0.2877
    >>> info_nce(eye, eye, logit_scale=math.log(3), image_ids=torch.tensor([0, 0])).item() == 0
    True
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be in [0, 1)")
    _check(image_embeddings, text_embeddings, image_ids, caption_ids)
    ignored = false_negative_mask(image_ids, caption_ids)  # (batch, batch)
    logits = _logits(image_embeddings, text_embeddings, logit_scale).masked_fill(ignored, -torch.inf)
    return (_cross_entropy(logits, ignored, label_smoothing) + _cross_entropy(logits.T, ignored, label_smoothing)) / 2


def sigmoid_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    *,
    image_ids: Tensor,
    caption_ids: Tensor | None = None,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
) -> Tensor:
    """The pairwise sigmoid loss of SigLIP (Zhai et al. 2023, algorithm 1): summed over entries, divided by batch size.

    -1/N * sum over (i, j) of log sigmoid(z_ij * (logit_scale * similarity_ij + logit_bias)), with z = 1 on the diagonal
    and -1 elsewhere. False negatives (`false_negative_mask`) are excluded from the sum; N is the batch size.
    Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        image_embeddings: (batch, dim) unit embeddings; the norm is not checked.
        text_embeddings: (batch, dim) unit embeddings; row i is a caption of the image of row i.
        logit_scale: positive factor of the similarities, not its logarithm (initially 10 in the paper).
        logit_bias: added to every logit (initially -10 in the paper, since almost all entries are negatives).
        image_ids: (batch,) integers, equal for pairs with the same image.
        caption_ids: (batch,) integers, equal for captions with the same text.

    Returns:
        A 0-d tensor, at least 0.

    Raises:
        ValueError: shapes do not match, or the batch is empty.

    Logits of ln 3 on the diagonal and -ln 3 elsewhere give each of the four entries the probability 3 / 4, and
    4 * -ln 0.75 / 2 = 0.5754. If both pairs have the same image, the two off-diagonal entries are excluded:

    >>> import math
    >>> eye, ln3 = torch.eye(2), math.log(3)
    >>> round(sigmoid_loss(eye, eye, logit_scale=2 * ln3, logit_bias=-ln3, image_ids=torch.tensor([0, 1])).item(), 4)
    0.5754
    >>> round(sigmoid_loss(eye, eye, logit_scale=2 * ln3, logit_bias=-ln3, image_ids=torch.tensor([0, 0])).item(), 4)
    0.2877
    """
    _check(image_embeddings, text_embeddings, image_ids, caption_ids)
    logits = _logits(image_embeddings, text_embeddings, logit_scale) + logit_bias  # (batch, batch)
    labels = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    entries = F.logsigmoid(labels * logits).masked_fill(false_negative_mask(image_ids, caption_ids), 0)
    return -entries.sum() / len(logits)


def matching_loss(
    logits: Tensor,
    *,
    image_ids: Tensor,
    caption_ids: Tensor | None = None,
    contrast: float = 1.0,
    binary: float = 1.0,
) -> Tensor:
    """Symmetric InfoNCE plus balanced binary cross-entropy over the logits of a matcher for all pairs of a batch.

    InfoNCE trains the ranking of captions for each image and of images for each caption. The binary cross-entropy
    trains the logits as those of a probability: the mean of -log sigmoid(z) over the diagonal and the mean of
    -log sigmoid(-z) over the other entries have a weight of one half each. False negatives (`false_negative_mask`) are
    excluded from both.

    Args:
        logits: (batch, batch), entry (i, j) for image i with caption j; the diagonal holds the matches.
        image_ids: (batch,) integers, equal for pairs with the same image.
        caption_ids: (batch,) integers, equal for captions with the same text.
        contrast: weight of InfoNCE.
        binary: weight of the binary cross-entropy.

    Returns:
        A 0-d tensor, at least 0.

    Raises:
        ValueError: shapes do not match, or the batch is empty.

    Logits of ln 3 on the diagonal and -ln 3 elsewhere have a binary cross-entropy of -ln 0.75 = 0.2877; in the softmax
    of a row the match has 9 times the odds of the other entry, and -ln 0.9 = 0.1054:

    >>> import math
    >>> z = math.log(3) * (2 * torch.eye(2) - 1)
    >>> round(matching_loss(z, image_ids=torch.tensor([0, 1]), contrast=0).item(), 4)
    0.2877
    >>> round(matching_loss(z, image_ids=torch.tensor([0, 1]), binary=0).item(), 4)
    0.1054
    """
    if logits.ndim != 2 or not len(logits) or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits are {tuple(logits.shape)}; they must be (batch, batch) with at least one row")
    _check(logits, logits, image_ids, caption_ids)
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ignored = false_negative_mask(image_ids, caption_ids)  # (batch, batch)
    ranked = z.masked_fill(ignored, -torch.inf)
    ranking = (_cross_entropy(ranked, ignored, 0.0) + _cross_entropy(ranked.T, ignored, 0.0)) / 2
    negatives = ~ignored & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    wrong = (F.softplus(z) * negatives).sum() / negatives.sum().clamp(min=1)
    return contrast * ranking + binary * (F.softplus(-z.diagonal()).mean() + wrong) / 2


def cosine_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """The mean over the batch of 1 - cosine similarity of predictions and targets: a 0-d tensor in [0, 2].

    Args:
        predicted: (batch, dim) vectors of any norm.
        targets: (batch, dim) vectors of any norm.

    Raises:
        ValueError: shapes do not match, or the batch is empty.

    >>> cosine_loss(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item()
    0.5
    """
    if predicted.shape != targets.shape or predicted.ndim != 2 or not len(predicted):
        raise ValueError(
            f"predicted is {tuple(predicted.shape)}, targets {tuple(targets.shape)}; both must be (batch, dim)"
        )
    return 1 - F.cosine_similarity(predicted.float(), targets.float(), dim=-1).mean()


OBJECTIVES: dict[str, Objective] = {"info_nce": info_nce, "sigmoid": sigmoid_loss}


def cached_backward(
    image_chunks: Sequence[Callable[[], Tensor]],
    text_chunks: Sequence[Callable[[], Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The backward pass of a batch that does not fit into memory: gradient caching (GradCache, Gao et al. 2021).

    Every chunk is encoded without a graph, the loss is computed over all embeddings, and each chunk is then encoded
    again, with the random state of the first time, to propagate its part of the gradient. Loss and gradients equal
    those of the whole batch (with separate dropout masks per chunk), at the activation memory of one chunk.

    Gradients are added to `.grad` of the tower parameters and of any parameter that `loss` uses, such as the logit
    scale. A chunk that needs no gradient (a frozen tower) is skipped in the backward pass. Keep BatchNorm in eval mode,
    since its statistics would be updated twice. The random state is restored on the CPU and the current CUDA device.

    Args:
        image_chunks: each call encodes one chunk of the images: (chunk, dim). Sizes may differ.
        text_chunks: each call encodes one chunk of the captions: (chunk, dim). The split may differ from the images'.
        loss: maps image embeddings (batch, dim) and text embeddings (batch, dim), in the order of the chunks, to a 0-d
            tensor that depends on both.

    Returns:
        The loss, detached.

    Raises:
        ValueError: a list of chunks is empty, or the loss does not depend on the embeddings of both towers.
    """
    if not image_chunks or not text_chunks:
        raise ValueError("image_chunks and text_chunks must each hold at least one chunk")
    chunks = [*image_chunks, *text_chunks]
    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state())
            parts.append(chunk())  # (chunk, dim)
    images = torch.cat(parts[: len(image_chunks)]).requires_grad_()  # (batch, dim)
    texts = torch.cat(parts[len(image_chunks) :]).requires_grad_()  # (batch, dim)
    value = loss(images, texts)
    value.backward()
    if images.grad is None or texts.grad is None:
        raise ValueError("the loss must depend on the embeddings of both towers")
    sizes = [len(part) for part in parts]
    cached = torch.cat([images.grad, texts.grad]).split(sizes)
    for chunk, state, gradient in zip(chunks, states, cached, strict=True):
        with torch.random.fork_rng(devices=_cuda_devices()):
            _set_random_state(state)
            embeddings = chunk()  # (chunk, dim)
        if embeddings.requires_grad:
            embeddings.backward(gradient)
    return value.detach()


def _check(image_embeddings: Tensor, text_embeddings: Tensor, image_ids: Tensor, caption_ids: Tensor | None) -> None:
    shape = tuple(image_embeddings.shape)
    if len(shape) != 2 or not shape[0] or tuple(text_embeddings.shape) != shape:
        raise ValueError(
            f"image embeddings are {shape}, text embeddings {tuple(text_embeddings.shape)}; "
            "both must have the same shape (batch, dim) with at least one row"
        )
    for name, ids in (("image_ids", image_ids), ("caption_ids", caption_ids)):
        if ids is not None and tuple(ids.shape) != shape[:1]:
            raise ValueError(f"{name} is {tuple(ids.shape)}; it must hold one id per pair, {shape[0]} in all")


def _logits(image_embeddings: Tensor, text_embeddings: Tensor, logit_scale: float | Tensor) -> Tensor:
    """(batch, batch) scaled similarities, images by captions, in float32 or float64."""
    dtype = torch.promote_types(image_embeddings.dtype, torch.float32)
    with torch.autocast(image_embeddings.device.type, enabled=False):  # bf16 is too coarse
        return (image_embeddings.to(dtype) @ text_embeddings.to(dtype).T) * logit_scale


def _cross_entropy(logits: Tensor, ignored: Tensor, label_smoothing: float) -> Tensor:
    """The mean over rows of the cross-entropy of the diagonal, smoothed over the entries that are not `ignored`."""
    log_probabilities = logits.log_softmax(dim=1)  # (batch, batch)
    own = log_probabilities.diagonal()  # (batch,)
    if not label_smoothing:
        return -own.mean()
    others = log_probabilities.masked_fill(ignored, 0).sum(dim=1) - own  # (batch,)
    negatives = (~ignored).sum(dim=1) - 1  # (batch,)
    return -((1 - label_smoothing) * own + label_smoothing * others / negatives.clamp(min=1)).mean()


def _cuda_devices() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in _cuda_devices()]


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    for device, cuda_state in zip(_cuda_devices(), state[1], strict=False):
        torch.cuda.set_rng_state(cuda_state, device)
