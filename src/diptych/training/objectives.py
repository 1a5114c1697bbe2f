"""Objectives: pure functions from embeddings and ids to a loss, and the gradient cache that makes large batches fit.

A batch is N (picture, caption) pairs. Only the diagonal of the N x N similarity matrix is known to match, but not all
of the rest is known not to: two captions of one picture, or one caption text under two pictures, are false negatives.
Every objective here takes the ids that tell, and leaves those entries out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Objective(Protocol):
    """The one call form by which a recipe calls any objective in `OBJECTIVES`."""

    def __call__(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        *,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor,
        image_ids: Tensor,
        caption_ids: Tensor | None = None,
    ) -> Tensor: ...


def false_negative_mask(image_ids: Tensor, caption_ids: Tensor | None = None) -> Tensor:
    """Which entries of the similarity matrix are neither positive nor negative: (batch, batch) bool, symmetric.

    Entry (i, j), i != j, is true where pairs i and j show the same picture or, with `caption_ids`, carry the same
    caption text. The diagonal is false.

    Args:
        image_ids: (batch,) integers, equal for pairs of one picture.
        caption_ids: (batch,) integers, equal for captions of identical text.

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
    logit_bias: float | Tensor = 0.0,
) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021, figure 3): the mean of the image-to-text and text-to-image losses.

    Each direction is the mean over the batch of the cross-entropy between softmax(logit_scale * similarities) and the
    pair's own partner. False negatives (`false_negative_mask`) leave the denominator; a pair without negatives costs 0.
    With `label_smoothing` e the target is 1 - e on the partner and e shared equally by the pair's true negatives.
    Computed in float32 (float64 for float64 input), under autocast too.

    Args:
        image_embeddings: (batch, dim) unit vectors; that they are is not checked.
        text_embeddings: (batch, dim) unit vectors; row i captions the picture of row i.
        logit_scale: the positive multiplier itself, already exponentiated (1 / temperature); a float or a 0-d tensor.
        image_ids: (batch,) integers, equal for pairs of one picture.
        caption_ids: (batch,) integers, equal for captions of identical text.
        label_smoothing: in [0, 1).
        logit_bias: ignored, and here for the common call form: adding a constant leaves a softmax as it was.

    Returns:
        A 0-d tensor, at least 0.

    Raises:
        ValueError: shapes disagree, the batch is empty, or `label_smoothing` is out of range.

    Logits [[ln 3, 0], [0, ln 3]] give each partner 3 / (3 + 1) = 0.75, and -ln 0.75 = 0.2877. Were both pairs of one
    picture, nothing would be left to tell apart:

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
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    image_ids: Tensor,
    caption_ids: Tensor | None = None,
) -> Tensor:
    """The pairwise sigmoid loss of SigLIP (Zhai et al. 2023, algorithm 1), summed over entries, divided by the batch.

    -1/N * sum over (i, j) of log sigmoid(z_ij * (logit_scale * similarity_ij + logit_bias)), with z = 1 on the diagonal
    and -1 off it. False negatives (`false_negative_mask`) drop out of the sum; N stays the batch.
    Computed in float32 (float64 for float64 input), under autocast too.

    Args:
        image_embeddings: (batch, dim) unit vectors; that they are is not checked.
        text_embeddings: (batch, dim) unit vectors; row i captions the picture of row i.
        logit_scale: the positive multiplier itself, already exponentiated (the paper starts at 10).
        logit_bias: added to every logit (the paper starts at -10, since nearly all entries are negatives).
        image_ids: (batch,) integers, equal for pairs of one picture.
        caption_ids: (batch,) integers, equal for captions of identical text.

    Returns:
        A 0-d tensor, at least 0.

    Raises:
        ValueError: shapes disagree, or the batch is empty.

    Logits of ln 3 on the diagonal and -ln 3 off it put each of four entries right with probability 3 / 4, and
    4 * -ln 0.75 / 2 = 0.5754. Were both pairs of one picture, the two entries off the diagonal would drop out:

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
    """Symmetric InfoNCE plus balanced binary cross-entropy over a matcher's logits for every pair of a batch.

    The first ranks: each picture against the batch's captions and each caption against its pictures. The second makes
    the logit a probability's: the mean of -log sigmoid(z) on the diagonal and the mean of -log sigmoid(-z) off it count
    half each. False negatives (`false_negative_mask`) drop out of both.

    Args:
        logits: (batch, batch), row i and column j for picture i with caption j; the diagonal matches.
        image_ids: (batch,) integers, equal for pairs of one picture.
        caption_ids: (batch,) integers, equal for captions of identical text.
        contrast: weight of InfoNCE.
        binary: weight of the binary loss.

    Returns:
        A 0-d tensor, at least 0.

    Raises:
        ValueError: shapes disagree, or the batch is empty.

    Logits of ln 3 on the diagonal and -ln 3 off it are right with probability 3 / 4 each, -ln 0.75 = 0.2877, and 9
    times as likely as the one other choice of their row, -ln 0.9 = 0.1054:

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
    """1 - cosine of (batch, dim) vectors and those beside them, the mean over the batch: a 0-d tensor in [0, 2].

    Raises:
        ValueError: shapes disagree, or the batch is empty.

    >>> cosine_loss(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item()
    0.5
    """
    if predicted.shape != targets.shape or predicted.ndim != 2 or not len(predicted):
        raise ValueError(f"predicted is {tuple(predicted.shape)}, targets {tuple(targets.shape)}; both (batch, dim)")
    return 1 - F.cosine_similarity(predicted.float(), targets.float(), dim=-1).mean()


OBJECTIVES: dict[str, Objective] = {"info_nce": info_nce, "sigmoid": sigmoid_loss}


def cached_backward(
    image_chunks: Sequence[Callable[[], Tensor]],
    text_chunks: Sequence[Callable[[], Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """One backward pass over a batch too large for memory: gradient caching (GradCache, Gao et al. 2021).

    Every chunk is embedded without a graph, the loss is taken over all embeddings at once, and each chunk is then
    embedded again, with the random state that it had the first time, to pass its share of the gradient on. Loss and
    gradients are those of the whole batch (dropout draws once for each chunk), activations those of one chunk.

    Gradients are added to `.grad` of the towers' parameters and of whatever `loss` closes over, such as the logit
    scale. A chunk that needs no gradient (a frozen tower) is left out of the backward pass. Everything runs twice, so
    keep BatchNorm in eval, or its statistics move twice. Random state is replayed on the CPU and the current CUDA
    device.

    Args:
        image_chunks: each call embeds one chunk of the batch's pictures: (chunk, dim). Sizes may differ.
        text_chunks: the same for the captions; it need not be cut where the pictures are.
        loss: from image embeddings (batch, dim) and text embeddings (batch, dim), in the order of the chunks, to a 0-d
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
            "both must be one (batch, dim) with at least one row"
        )
    for name, ids in (("image_ids", image_ids), ("caption_ids", caption_ids)):
        if ids is not None and tuple(ids.shape) != shape[:1]:
            raise ValueError(f"{name} is {tuple(ids.shape)}; it must hold one id for each of the {shape[0]} pairs")


def _logits(image_embeddings: Tensor, text_embeddings: Tensor, logit_scale: float | Tensor) -> Tensor:
    """Scaled similarities (batch, batch), rows pictures and columns captions, in float32 or finer."""
    dtype = torch.promote_types(image_embeddings.dtype, torch.float32)
    with torch.autocast(image_embeddings.device.type, enabled=False):  # it would multiply in bf16
        return (image_embeddings.to(dtype) @ text_embeddings.to(dtype).T) * logit_scale


def _cross_entropy(logits: Tensor, ignored: Tensor, label_smoothing: float) -> Tensor:
    """Mean over rows of the cross-entropy with the diagonal, smoothed over the entries that are not `ignored`."""
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
