"""Training a small caption decoder on the patches of a frozen dual encoder: cross-entropy, then self-critical."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diptych.captioning import strategies
from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.grid_captioner import NEVER, GridCaptionModel, save_captioner
from diptych.captioning.strategies import Caption, GenerationConfig
from diptych.captioning.vocabulary import END, PAD, START, UNKNOWN, Words, words_of
from diptych.errors import DataError
from diptych.evaluation.metrics.cider import CiderD
from diptych.models import dual_encoder
from diptych.models.checkpoints import HeadSettings
from diptych.models.hidden_states import HiddenStates
from diptych.runtime.atomic import write_text
from diptych.runtime.device import computes_in_bfloat16
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.phase import CaptionBatch, CaptionSampler, CiderScorer, TrainingPhase, run_phase
from diptych.training.checkpoint import BEST, read_weights
from diptych.training.encoded_images import EncodedImages, Views, encode_images, state_shapes
from diptych.training.run import Run, TrainingData
from diptych.training.trainer import Outcome

WORDS_PHASE, REWARD_PHASE = "words", "reward"
_PENALTIES, _REPEATS = (0.0, 0.5, 1.0, 1.5), (2, 3)  # length penalties and n-gram sizes tried after training
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the weights after self-critical training
_BLOCK = 64  # images captioned at once in validation
_STOP = "."  # the end of a caption, as a word for CIDEr


class DecoderSettings(TypedDict):
    """The arguments of `CaptionDecoder` beside the vocabulary size."""

    places: int
    image_width: int
    vector_dim: int
    dim: int
    layers: int
    image_layers: int
    heads: int
    hidden: int
    dropout: float
    feature_dropout: float
    max_tokens: int


class GenerationSettings(TypedDict):
    """The settings of `GenerationConfig` that are chosen by validation CIDEr."""

    length_penalty: float
    no_repeat: int


def train_small_decoder(run: Run[CaptionRecipe], data: TrainingData) -> tuple[dict[str, Outcome], dict[str, float]]:
    """Train and publish a small decoder.

    Returns:
        The training of each phase, and the validation scores of the published model.
    """
    recipe = run.recipe
    encoder = dual_encoder.load(recipe.model, recipe.device)
    words = Words.learn(data.train.flat_captions()[0], recipe.min_count)
    if not words.words:
        raise DataError(
            f"no word occurs {recipe.min_count} times in the captions of the {len(data.train):,} training images, so "
            "the decoder would have no vocabulary; set min_count to 1, or add images"
        )
    views = Views(recipe.views if recipe.augment != "none" else 1, recipe.augment, recipe.seed)
    encode = partial(encode_images, encoder, shape=state_shapes(encoder)["image"], progress=run.progress)
    train = encode(data.train, views=views)
    val = encode(data.val)
    torch.manual_seed(recipe.seed)
    settings = decoder_settings(recipe, val)
    model = GridCaptionModel(encoder, CaptionDecoder(len(words), **settings), words, cast(HeadSettings, settings))
    outcomes = _train_phases(run, model, train, val)
    chosen, scores = choose_generation_config(recipe, model, val)
    model.defaults = {**chosen}
    with run.publish() as folder:
        encoder.save(folder)
        save_captioner(model, folder, run.metadata(data, scores))
    return outcomes, scores


def decoder_settings(recipe: CaptionRecipe, images: EncodedImages) -> DecoderSettings:
    """The arguments of `CaptionDecoder` for a recipe and the hidden states of these images."""
    sample = images.take(np.arange(1))
    return {
        "places": sample.states.shape[1],
        "image_width": sample.states.shape[2],
        "vector_dim": sample.embeddings.shape[1],
        "dim": recipe.dim,
        "layers": recipe.layers,
        "image_layers": recipe.image_layers,
        "heads": recipe.heads,
        "hidden": recipe.hidden,
        "dropout": recipe.dropout,
        "feature_dropout": recipe.feature_dropout,
        "max_tokens": max(recipe.max_tokens, 40),
    }


def _train_phases(
    run: Run[CaptionRecipe], model: GridCaptionModel, train: EncodedImages, val: EncodedImages
) -> dict[str, Outcome]:
    recipe = run.recipe
    scorer, sampler = CiderScorer(val.pairs), CaptionSampler(train.pairs, recipe)
    steps = DecoderTraining(recipe, model, train)
    config = GenerationConfig(beams=recipe.beams, max_tokens=recipe.max_tokens + 1)

    def validate() -> dict[str, float]:
        return scorer(caption_encoded(model, val, config))

    words = TrainingPhase(WORDS_PHASE, model.decoder, steps.load, steps.cross_entropy, recipe.epochs, recipe.lr)
    outcomes = {WORDS_PHASE: run_phase(run, words, sampler, validate)}
    if recipe.reward_epochs:
        load = partial(steps.load, previous_epochs=recipe.epochs)
        reward = TrainingPhase(
            REWARD_PHASE, model.decoder, load, steps.self_critical, recipe.reward_epochs, recipe.reward_lr
        )
        outcomes[REWARD_PHASE] = run_phase(run, reward, sampler, validate)
        _interpolate_weights(run.out, model.decoder, validate)
    return outcomes


def _interpolate_weights(out: Path, decoder: CaptionDecoder, validate: Callable[[], dict[str, float]]) -> None:
    """Load the interpolation between the weights of both phases that has the best validation CIDEr.

    Such an interpolation is often better than the weights before and after fine-tuning (Wortsman et al. 2022):
    self-critical training alone overfits the training images.
    """
    before, after = (read_weights(out / name / BEST) for name in (WORDS_PHASE, REWARD_PHASE))

    def load(share: float) -> None:
        decoder.load_state_dict({name: weight.lerp(after[name], share) for name, weight in before.items()})

    ciders = {}
    for share in _SHARES:
        load(share)
        ciders[share] = validate()["cider"]
    load(max(ciders, key=lambda share: ciders[share]))
    write_text(out / REWARD_PHASE / "shares.json", json.dumps(ciders, indent=2) + "\n")


def choose_generation_config(
    recipe: CaptionRecipe, model: GridCaptionModel, val: EncodedImages
) -> tuple[GenerationSettings, dict[str, float]]:
    """The length penalty and repetition limit with the best validation CIDEr, and the scores with them."""
    scorer = CiderScorer(val.pairs)
    results = []
    for length_penalty, no_repeat in itertools.product(_PENALTIES, _REPEATS):
        chosen: GenerationSettings = {"length_penalty": length_penalty, "no_repeat": no_repeat}
        scores = scorer(caption_encoded(model, val, GenerationConfig(beams=recipe.beams, **chosen)))
        results.append((chosen, scores))
    return max(results, key=lambda result: result[1]["cider"])


@torch.inference_mode()
def caption_encoded(
    model: GridCaptionModel, images: EncodedImages, config: GenerationConfig
) -> Iterator[list[Caption]]:
    """The captions of each image, in the order of the images."""
    for start in range(0, len(images.pairs), _BLOCK):
        states = images.take(np.arange(start, min(start + _BLOCK, len(images.pairs))))
        memory = model.decoder.encode(states.to(model.encoder.device))
        yield from model.from_memory(memory, config)


@dataclass
class Batch:
    """A loaded batch: images, and `recipe.captions` captions of each, one image's after another's."""

    epoch: int
    rows: NDArray[np.int64]
    states: HiddenStates
    words: Tensor  # (captions, length)


class DecoderTraining:
    """The batches of a small decoder and its two objectives: cross-entropy and self-critical training."""

    def __init__(self, recipe: CaptionRecipe, model: GridCaptionModel, images: EncodedImages) -> None:
        self.recipe, self.images, self.words, self.decoder = recipe, images, model.words, model.decoder
        self.device = model.encoder.device
        bf16 = computes_in_bfloat16(self.device)
        self.autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=bf16)
        self.cider: CiderD | None = None

    def load(self, batch: CaptionBatch, previous_epochs: int = 0) -> Batch:
        """Load a batch; the views of the images continue after `previous_epochs`, those of the phase before."""
        epoch, rows, captions = batch
        states = self.images.take(rows, previous_epochs + epoch)
        return Batch(epoch, rows, states, self.words.batch(captions, self.recipe.max_tokens))

    def cross_entropy(self, batch: Batch) -> Tensor:
        """Add the gradients of the next-word cross-entropy, with label smoothing; returns the loss."""
        words = batch.words.to(self.device)
        with self.autocast():
            logits = self.decoder(self.decoder.encode(batch.states.to(self.device)), words[:, :-1]).float()
        target = words[:, 1:].masked_fill(words[:, 1:] == UNKNOWN, PAD)  # unknown words are not to be generated
        loss = functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()
        return loss.detach()

    def self_critical(self, batch: Batch) -> Tensor:
        """Add the gradients of self-critical training on CIDEr-D; returns the negative mean reward.

        The policy gradient of sampled captions. The baseline of a caption is the mean reward of the other samples of
        its image (Luo 2020). The reward includes the end of the caption; otherwise captions would stop in mid-phrase
        (Rennie et al. 2017, appendix).
        """
        states = batch.states.to(self.device)
        samples = self.sample(states, batch)
        rewards = self.rewards(samples, batch.rows)  # (images, samples)
        baseline = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        advantage = (rewards - baseline).flatten().to(self.device)
        words = _padded([[START, *tokens, END] for of_image in samples for tokens in of_image]).to(self.device)
        with self.autocast():
            logits = self.decoder(self.decoder.encode(states), words[:, :-1]).float()
        logits[..., list(NEVER)] = -torch.inf
        target = words[:, 1:]
        negative_log = functional.cross_entropy(
            logits.transpose(1, 2), target, reduction="none", ignore_index=PAD
        )  # (captions, length)
        loss = (negative_log * advantage[:, None]).sum() / (target != PAD).sum()
        loss.backward()
        return rewards.mean().neg()

    @torch.inference_mode()
    def sample(self, states: HiddenStates, batch: Batch) -> list[list[tuple[int, ...]]]:
        """`reward_samples` sampled captions of each image, as word ids; deterministic for given decoder weights."""
        samples, max_tokens = self.recipe.reward_samples, self.recipe.max_tokens
        config = GenerationConfig("nucleus", count=samples, top_p=1.0, max_tokens=max_tokens, no_repeat=0)
        first = (self.recipe.seed * 10_000 + batch.epoch) * len(self.images.pairs) + int(batch.rows[0]) * _BLOCK
        self.decoder.eval()
        with self.autocast():
            memory = self.decoder.encode(states)
            decoding = self.decoder.start(memory)
            logits = strategies.prefill(decoding, len(memory) * config.width, (START,))
            sampled = strategies.sample(decoding, logits, range(first, first + len(memory)), config, END, NEVER)
        self.decoder.train()
        return [[caption.tokens for caption in of_image] for of_image in sampled]

    def rewards(self, samples: list[list[tuple[int, ...]]], rows: NDArray[np.int64]) -> Tensor:
        """(images, samples) CIDEr-D of sampled captions against the captions of their images, in [0, 10]."""
        if self.cider is None:
            self.cider = CiderD([[[*words_of(text), _STOP] for text in row.captions] for row in self.images.pairs])
        texts = [[*words_of(self.words.decode(tokens)), _STOP] for of_image in samples for tokens in of_image]
        scores = self.cider(texts, np.repeat(rows, self.recipe.reward_samples).tolist())
        return torch.from_numpy(scores.astype(np.float32)).view(len(rows), -1)


def _padded(rows: list[list[int]]) -> Tensor:
    """(rows, length) int64, padded with `PAD`."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)
