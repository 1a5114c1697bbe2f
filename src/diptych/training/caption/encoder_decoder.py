"""Training an encoder-decoder captioner: a BLIP, or a VisionEncoderDecoder such as ViT-GPT2, pretrained or new."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from diptych.captioning.strategies import Caption, GenerationConfig
from diptych.captioning.transformers_captioner import TransformersCaptionModel, load_transformers_model
from diptych.data.pairs import Pairs
from diptych.errors import ModelError
from diptych.images.augment import augmentation
from diptych.models.checkpoints import model_directory, refuse_unsafe
from diptych.models.heads import Features
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.models.towers import config_alone, default_image_processor, learn_tokenizer
from diptych.runtime.atomic import write_text
from diptych.runtime.background import prefetch
from diptych.runtime.device import computes_in_bfloat16, pick_device
from diptych.runtime.quiet import quiet
from diptych.training.batches import load_view
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.phase import CaptionBatch, CaptionSampler, CiderScorer, TrainingPhase, run_phase
from diptych.training.run import Run, TrainingData
from diptych.training.trainer import Outcome

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.image_processing_utils import BaseImageProcessor

PHASE = "whole"
_BLOCK = 16  # images captioned at once in validation


def train_encoder_decoder(run: Run[CaptionRecipe], data: TrainingData) -> tuple[dict[str, Outcome], dict[str, float]]:
    """Train and publish an encoder-decoder model with its tokenizer.

    Returns:
        The training of its only phase, and the validation scores of the published model.
    """
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    if recipe.encoder:
        captioner = new_caption_model(recipe, data.train)
    else:
        captioner = load_transformers_model(model_directory(recipe.model), recipe.device)
    if recipe.freeze_encoder:
        (captioner.model.vision_model if captioner.is_blip else captioner.model.encoder).requires_grad_(False)
    steps, scorer = EncoderDecoderTraining(recipe, captioner, data.train), CiderScorer(data.val)
    phase = TrainingPhase(PHASE, captioner.model, steps.load, steps.cross_entropy, recipe.epochs, recipe.lr)
    config = GenerationConfig(beams=recipe.beams, max_tokens=recipe.max_tokens + 1)

    def validate() -> dict[str, float]:
        return scorer(caption_pairs(captioner, data.val, config))

    outcome = run_phase(run, phase, CaptionSampler(data.train, recipe), validate)
    with run.publish() as folder:
        captioner.save(folder)
        write_text(folder / "training.json", json.dumps(run.metadata(data, outcome.best), indent=2) + "\n")
    return {PHASE: outcome}, outcome.best


@dataclass
class Batch:
    """A loaded batch of images with captions."""

    pixels: Tensor  # (images, channels, height, width)
    tokens: Tensor  # (captions, length)
    mask: Tensor  # (captions, length - 1) bool: the targets that are not padding


class EncoderDecoderTraining:
    """The batches of an encoder-decoder model, and its next-token cross-entropy."""

    def __init__(self, recipe: CaptionRecipe, captioner: TransformersCaptionModel, train: Pairs) -> None:
        self.recipe, self.captioner, self.train = recipe, captioner, train
        self.augment, self.size = augmentation(recipe.augment), captioner.image_size or 224
        device = captioner.device
        bf16 = computes_in_bfloat16(device)
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)

    def load(self, batch: CaptionBatch) -> Batch:
        """Decode and augment the images of a batch, and tokenize its captions."""
        epoch, rows, captions = batch
        images = [load_view(self.train[int(row)], self.augment, self.size, self.recipe.seed, epoch) for row in rows]
        pixels = self.captioner.prepare(images)["pixel_values"]
        return Batch(pixels, *token_rows(self.captioner, captions, self.recipe.max_tokens))

    def cross_entropy(self, batch: Batch) -> Tensor:
        """Add the gradients of the next-token cross-entropy, with label smoothing; returns the loss."""
        device = self.captioner.device
        tokens, mask = batch.tokens.to(device), batch.mask.to(device)
        with self.autocast():
            logits = self.captioner.logits(
                batch.pixels.to(device), tokens[:, :-1]
            ).float()  # (captions, length, tokens)
        loss = functional.cross_entropy(logits[mask], tokens[:, 1:][mask], label_smoothing=self.recipe.label_smoothing)
        loss.backward()
        return loss.detach()


def token_rows(captioner: TransformersCaptionModel, captions: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Tokenize captions for teacher forcing.

    The mask follows the lengths of the captions and not a padding token: GPT-2 pads with its end token.

    Returns:
        (captions, length) tokens with start and end, and (captions, length - 1) bool, whether a target is not padding.
    """
    rows = [[captioner.start, *captioner.encode(text)[:max_tokens], captioner.end] for text in captions]
    tokens = torch.full((len(rows), max(map(len, rows))), captioner.end)
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, torch.arange(1, tokens.shape[1]) < lengths[:, None]


def caption_pairs(
    captioner: TransformersCaptionModel, pairs: Pairs, config: GenerationConfig
) -> Iterator[list[Caption]]:
    """The captions of each image, in the order of the images."""

    def prepare(start: int) -> tuple[int, Features]:
        rows = pairs[start : start + _BLOCK]
        return start, captioner.prepare([load_view(row, None, 0, 0, 0) for row in rows])

    for start, prepared in prefetch(range(0, len(pairs), _BLOCK), prepare):
        yield from captioner.generate(prepared, config, "", range(start, start + len(prepared["pixel_values"])))


@quiet()
def new_caption_model(recipe: CaptionRecipe, train: Pairs) -> TransformersCaptionModel:
    """A new VisionEncoderDecoder of the recipe's encoder and decoder, with its special tokens set.

    Encoder and decoder are a directory, a hub name, or a model type, which is initialized at random; a decoder that is
    given by its model type gets a tokenizer trained on the captions of `train`.

    Raises:
        ModelError: the encoder or decoder does not exist, or its weights are a pickle.
    """
    from transformers import VisionEncoderDecoderModel

    try:
        encoder, image_processor = _encoder(recipe)
        decoder, tokenizer = _decoder(recipe, train)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot combine encoder '{recipe.encoder}' and decoder '{recipe.decoder}': {str(error).splitlines()[0]}"
        ) from error
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    start = _first_given(tokenizer.bos_token_id, tokenizer.cls_token_id)
    end = _first_given(tokenizer.eos_token_id, tokenizer.sep_token_id)
    pad = _first_given(tokenizer.pad_token_id, end)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = start, end, pad
    return TransformersCaptionModel(model, image_processor, tokenizer, pick_device(recipe.device))


def _encoder(recipe: CaptionRecipe) -> tuple[PreTrainedModel, BaseImageProcessor]:
    from transformers import AutoImageProcessor, AutoModel

    if recipe.encoder in _model_types():
        config = config_alone(recipe.encoder, recipe.encoder_arguments)
        return AutoModel.from_config(config), default_image_processor(config, None)
    path = model_directory(recipe.encoder)
    refuse_unsafe(path)
    model = AutoModel.from_pretrained(path, **WEIGHTS)
    return model, AutoImageProcessor.from_pretrained(path, backend="pil", **LOCAL)


def _decoder(recipe: CaptionRecipe, train: Pairs) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cross_attention = {"is_decoder": True, "add_cross_attention": True}
    if recipe.decoder not in _model_types():
        path = model_directory(recipe.decoder)
        refuse_unsafe(path)
        model = AutoModelForCausalLM.from_pretrained(path, **WEIGHTS, **cross_attention)
        return model, AutoTokenizer.from_pretrained(path, **LOCAL)
    tokenizer = learn_tokenizer(train.flat_captions()[0])
    arguments = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        **recipe.decoder_arguments,
        **cross_attention,
    }
    return AutoModelForCausalLM.from_config(config_alone(recipe.decoder, arguments)), tokenizer


def _model_types() -> Container[str]:
    """The model types of transformers, which can be built from a configuration alone."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING


def _first_given(first: int | None, second: int | None) -> int | None:
    return second if first is None else first
