"""Objectives against loops that follow the formula, and gradient caching against one plain backward pass."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diptych.training import objectives
from diptych.training.objectives import OBJECTIVES, cached_backward, false_negative_mask, info_nce, sigmoid_loss

ids = st.integers(0, 3)
batches = st.lists(st.tuples(ids, ids), min_size=1, max_size=6)  # (image id, caption id) of each pair


def unit(rows: int, dim: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def is_false_negative(pairs: list[tuple[int, int]], i: int, j: int) -> bool:
    return i != j and (pairs[i][0] == pairs[j][0] or pairs[i][1] == pairs[j][1])


def slow_info_nce(images, texts, scale, pairs, smoothing):
    """The mean over both directions and all queries of the cross-entropy, written out."""
    total = 0.0
    for queries, answers in ((images, texts), (texts, images)):
        for i in range(len(pairs)):
            valid = [j for j in range(len(pairs)) if not is_false_negative(pairs, i, j)]
            logits = {j: scale * (queries[i] * answers[j]).sum() for j in valid}
            denominator = sum(logit.exp() for logit in logits.values())
            cost = {j: -(logits[j].exp() / denominator).log() for j in valid}
            negatives = [j for j in valid if j != i]
            total = total + (1 - smoothing) * cost[i]
            for j in negatives:
                total = total + smoothing / len(negatives) * cost[j]
    return total / (2 * len(pairs))


def slow_sigmoid(images, texts, scale, bias, pairs):
    total = 0.0
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            if not is_false_negative(pairs, i, j):
                z = 1 if i == j else -1
                total = total - (1 / (1 + torch.exp(-z * (scale * (images[i] * texts[j]).sum() + bias)))).log()
    return total / len(pairs)


def id_tensors(pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
    return {"image_ids": torch.tensor([p[0] for p in pairs]), "caption_ids": torch.tensor([p[1] for p in pairs])}


def leaves(batch: int, seed: int) -> list[Tensor]:
    """Image embeddings, text embeddings, scale and bias."""
    values = [
        unit(batch, seed=seed),
        unit(batch, seed=seed + 1),
        torch.tensor(3.0).double(),
        torch.tensor(-2.0).double(),
    ]
    return [value.requires_grad_() for value in values]


@settings(deadline=None, max_examples=50)
@given(pairs=batches, smoothing=st.sampled_from([0.0, 0.1, 0.5]), seed=st.integers(0, 99))
def test_info_nce_equals_the_loop_in_value_and_gradient(pairs, smoothing, seed):
    images, texts, scale, _ = leaves(len(pairs), seed)
    fast = info_nce(images, texts, logit_scale=scale, label_smoothing=smoothing, **id_tensors(pairs))
    slow = slow_info_nce(images, texts, scale, pairs, smoothing)
    torch.testing.assert_close(fast, slow)
    inputs = [images, texts, scale]
    for quick, plain in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(quick, plain)


@settings(deadline=None, max_examples=50)
@given(pairs=batches, seed=st.integers(0, 99))
def test_sigmoid_loss_equals_the_loop_in_value_and_gradient(pairs, seed):
    inputs = leaves(len(pairs), seed)
    images, texts, scale, bias = inputs
    fast = sigmoid_loss(images, texts, logit_scale=scale, logit_bias=bias, **id_tensors(pairs))
    slow = slow_sigmoid(images, texts, scale, bias, pairs)
    torch.testing.assert_close(fast, slow)
    for quick, plain in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(quick, plain)


@given(pairs=batches)
def test_the_mask_follows_the_ids_is_symmetric_and_spares_the_diagonal(pairs):
    mask = false_negative_mask(**id_tensors(pairs))
    expected = [[is_false_negative(pairs, i, j) for j in range(len(pairs))] for i in range(len(pairs))]
    assert mask.tolist() == expected
    assert torch.equal(mask, mask.T)
    assert not mask.diagonal().any()


def similarity_gradient(name: str, **ids_of_pairs: Tensor) -> Tensor:
    """The gradient with respect to each similarity: with the identity for images, text j holds column j of them."""
    texts = unit(3, dim=3, seed=5).requires_grad_()
    OBJECTIVES[name](torch.eye(3).double(), texts, logit_scale=2.0, logit_bias=-1.0, **ids_of_pairs).backward()
    return texts.grad.T


@pytest.mark.parametrize("name", OBJECTIVES)
def test_another_caption_of_the_same_picture_is_never_a_negative(name):
    pushed = similarity_gradient(name, image_ids=torch.tensor([4, 9, 4]))
    assert (pushed != 0).tolist() == [[True, True, False], [True, True, True], [False, True, True]]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_identical_caption_is_never_a_negative(name):
    pushed = similarity_gradient(name, image_ids=torch.tensor([0, 1, 2]), caption_ids=torch.tensor([5, 5, 6]))
    assert (pushed != 0).tolist() == [[True, False, True], [False, True, True], [True, True, True]]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_pulls_partners_together_and_pushes_negatives_apart(name):
    pushed = similarity_gradient(name, image_ids=torch.tensor([0, 1, 2]))
    diagonal = torch.eye(3, dtype=torch.bool)
    assert (pushed[diagonal] < 0).all()
    assert (pushed[~diagonal] > 0).all()


def test_label_smoothing_moves_its_share_of_the_target_to_the_negatives():
    eye = torch.eye(2)
    loss = info_nce(eye, eye, logit_scale=math.log(3), image_ids=torch.tensor([0, 1]), label_smoothing=0.2)
    assert loss.item() == pytest.approx(-0.8 * math.log(0.75) - 0.2 * math.log(0.25), rel=1e-6)


def test_a_pair_without_negatives_costs_nothing_and_moves_nothing():
    images, texts, scale, _ = leaves(3, seed=1)
    loss = info_nce(images, texts, logit_scale=scale, image_ids=torch.tensor([8, 8, 8]), label_smoothing=0.1)
    loss.backward()
    assert loss.item() == 0
    assert not images.grad.any()
    assert not scale.grad.any()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_bf16_embeddings_are_multiplied_in_float32(name, autocast):
    images, texts = unit(8, seed=1, dtype=torch.bfloat16), unit(8, seed=2, dtype=torch.bfloat16)
    settings_ = {"logit_scale": 100.0, "logit_bias": -10.0, "image_ids": torch.arange(8)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = OBJECTIVES[name](images, texts, **settings_)
    assert loss.dtype == torch.float32
    exact = OBJECTIVES[name](images.double(), texts.double(), **settings_)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_large_scale_overflows_neither_loss_nor_gradient(name):
    images = unit(4, seed=1, dtype=torch.float32).requires_grad_()
    loss = OBJECTIVES[name](images, -images.detach(), logit_scale=1e4, logit_bias=0.0, image_ids=torch.arange(4))
    loss.backward()
    assert 100 < loss.item() < math.inf
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("texts", "image_ids", "caption_ids"),
    [
        (torch.eye(3), torch.arange(2), None),
        (torch.eye(2, 4), torch.arange(2), None),
        (torch.eye(2, 3), torch.arange(3), None),
        (torch.eye(2, 3), torch.arange(2), torch.arange(1)),
    ],
)
def test_shapes_that_disagree_are_refused(name, texts, image_ids, caption_ids):
    with pytest.raises(ValueError, match="must"):
        OBJECTIVES[name](
            torch.eye(2, 3), texts, logit_scale=1.0, logit_bias=0.0, image_ids=image_ids, caption_ids=caption_ids
        )


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        info_nce(torch.eye(2), torch.eye(2), logit_scale=1.0, image_ids=torch.arange(2), label_smoothing=smoothing)


class Towers(nn.Module):
    """Two toy towers over one batch, and the scale; `chunks` is how the batch is cut."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(6, 16), nn.Dropout(dropout), nn.ReLU(), nn.Linear(16, 4))
        self.text = nn.Sequential(nn.Linear(5, 16), nn.Dropout(dropout), nn.ReLU(), nn.Linear(16, 4))
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.images, self.captions = torch.randn(9, 6), torch.randn(9, 5)
        self.grad_modes: list[bool] = []

    def chunks(self, tower: nn.Module, inputs: Tensor, size: int):
        def embed(part: Tensor) -> Tensor:
            self.grad_modes.append(torch.is_grad_enabled())
            return nn.functional.normalize(tower(part), dim=1)

        return [lambda part=part: embed(part) for part in inputs.split(size)]

    def loss(self, images: Tensor, texts: Tensor) -> Tensor:
        return info_nce(images, texts, logit_scale=self.log_scale.exp(), image_ids=torch.arange(9) // 2)

    def cached(self, image_size: int, text_size: int) -> Tensor:
        images, texts = (
            self.chunks(self.image, self.images, image_size),
            self.chunks(self.text, self.captions, text_size),
        )
        return cached_backward(images, texts, self.loss)

    def plain(self, image_size: int, text_size: int) -> Tensor:
        images = torch.cat([chunk() for chunk in self.chunks(self.image, self.images, image_size)])
        texts = torch.cat([chunk() for chunk in self.chunks(self.text, self.captions, text_size)])
        loss = self.loss(images, texts)
        loss.backward()
        return loss.detach()

    def take_gradients(self) -> dict[str, Tensor | None]:
        gradients = {name: parameter.grad for name, parameter in self.named_parameters()}
        self.zero_grad(set_to_none=True)
        return gradients


@pytest.mark.parametrize(("image_size", "text_size"), [(9, 9), (3, 3), (4, 2), (1, 9)])
def test_cached_backward_equals_the_whole_batch_at_once(image_size, text_size):
    towers = Towers(dropout=0.0)
    loss = towers.cached(image_size, text_size)
    cached = towers.take_gradients()
    torch.testing.assert_close(loss, towers.plain(9, 9))
    torch.testing.assert_close(cached, towers.take_gradients())
    assert cached["log_scale"].item() != 0


def test_cached_backward_replays_the_dropout_of_each_chunk():
    towers = Towers(dropout=0.5)
    torch.manual_seed(3)
    loss = towers.cached(4, 2)
    after = torch.get_rng_state()
    cached = towers.take_gradients()
    torch.manual_seed(3)
    torch.testing.assert_close(loss, towers.plain(4, 2))
    torch.testing.assert_close(cached, towers.take_gradients())
    assert torch.equal(after, torch.get_rng_state())


def test_cached_backward_leaves_the_generator_where_the_plain_pass_leaves_it():
    towers = Towers(dropout=0.5)
    towers.loss = lambda images, texts: (images * texts * torch.rand(9, 1)).sum()  # draws after the towers have
    torch.manual_seed(3)
    towers.cached(4, 2)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    towers.plain(4, 2)
    assert torch.equal(after, torch.get_rng_state())


def test_cached_backward_replays_the_dropout_of_each_chunk_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    towers = Towers(dropout=0.5).cuda()
    towers.images, towers.captions = towers.images.cuda(), towers.captions.cuda()
    towers.loss = lambda images, texts: info_nce(
        images, texts, logit_scale=towers.log_scale.exp(), image_ids=torch.arange(9, device="cuda")
    )
    torch.manual_seed(3)
    loss = towers.cached(4, 2)
    cached = towers.take_gradients()
    torch.manual_seed(3)
    torch.testing.assert_close(loss, towers.plain(4, 2))
    torch.testing.assert_close(cached, towers.take_gradients())


def test_cached_backward_keeps_no_graph_in_its_first_pass():
    towers = Towers(dropout=0.0)
    towers.cached(3, 3)
    assert towers.grad_modes == [False] * 6 + [True] * 6


def test_cached_backward_under_autocast_equals_the_plain_pass_under_autocast():
    towers = Towers(dropout=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = towers.cached(3, 3)
        cached = towers.take_gradients()
        torch.testing.assert_close(loss, towers.plain(3, 3))
    plain = towers.take_gradients()
    assert all(gradient is not None for gradient in cached.values())
    torch.testing.assert_close(cached, plain, rtol=0.02, atol=0.002)  # bf16 sums, in another order


def test_cached_backward_trains_one_tower_while_the_other_is_frozen():
    towers = Towers(dropout=0.0)
    towers.image.requires_grad_(False)
    towers.cached(3, 3)
    cached = towers.take_gradients()
    towers.plain(9, 9)
    torch.testing.assert_close(cached, towers.take_gradients())
    assert cached["image.0.weight"] is None
    assert cached["text.0.weight"].any()


def test_cached_backward_adds_to_the_gradients_that_are_there():
    towers = Towers(dropout=0.0)
    towers.cached(3, 3)
    once = {name: gradient.clone() for name, gradient in towers.take_gradients().items()}
    towers.cached(3, 3)
    towers.cached(3, 3)
    torch.testing.assert_close(towers.take_gradients(), {name: 2 * gradient for name, gradient in once.items()})


def test_cached_backward_refuses_a_batch_without_chunks_and_a_loss_of_one_tower():
    towers = Towers(dropout=0.0)
    images, texts = towers.chunks(towers.image, towers.images, 3), towers.chunks(towers.text, towers.captions, 3)
    with pytest.raises(ValueError, match="at least one chunk"):
        cached_backward(images, [], towers.loss)
    with pytest.raises(ValueError, match="both towers"):
        cached_backward(images, texts, lambda images, texts: images.sum())


def test_the_worked_examples_hold():
    outcome = doctest.testmod(objectives)
    assert outcome.attempted >= 8
    assert outcome.failed == 0
