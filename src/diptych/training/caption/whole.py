"""Training an encoder and a decoder together: a VisionEncoderDecoder (ViT-GPT2), new or not, or a BLIP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diptych.captioning.strategies import Caption, GenerationConfig
from diptych.captioning.transformers_captioner import TransformersCaptionModel, load_transformers_model
from diptych.data.pairs import Pairs, Row
from diptych.errors import ModelError
from diptych.images.augment import augmentation
from diptych.models.checkpoints import model_directory, refuse_unsafe
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.models.towers import config_alone, default_image_processor, learn_tokenizer
from diptych.runtime.atomic import write_text
from diptych.runtime.background import prefetch
from diptych.runtime.device import computes_in_bfloat16, pick_device
from diptych.runtime.progress import Progress
from diptych.runtime.quiet import quiet
from diptych.training.batches import view
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.phase import Judge, Phase, Turns, run_phase
from diptych.training.run_folder import Run
from diptych.training.trainer import Outcome

PHASE = "whole"
_BLOCK = 16  # pictures captioned at once in validation


def train_whole(run: Run, train: Pairs, val: Pairs, progress: Progress) -> tuple[dict[str, Outcome], dict[str, float]]:
    """Train and save encoder, decoder and tokenizer: how it went, and the validation scores of what was saved."""
    recipe: CaptionRecipe = run.recipe
    torch.manual_seed(recipe.seed)
    if recipe.encoder:
        writer = new_caption_model(recipe, train)
    else:
        writer = load_transformers_model(model_directory(recipe.model), recipe.device)
    if recipe.freeze_encoder:
        (writer.model.vision_model if writer.is_blip else writer.model.encoder).requires_grad_(False)
    lessons, judge = Lessons(recipe, writer, train), Judge(val)
    phase = Phase(PHASE, writer.model, lessons.load, lessons.teach, recipe.epochs, recipe.lr)

    def validate() -> dict[str, float]:
        return judge(
            captions_of_pairs(writer, val, GenerationConfig(beams=recipe.beams, max_tokens=recipe.max_tokens + 1))
        )

    outcome = run_phase(run, phase, Turns(train, recipe), validate, progress)
    told = {"recipe": asdict(recipe), "pictures": {"train": len(train), "val": len(val)}, "validation": outcome.best}
    with run.publishing() as fresh:
        writer.save(fresh)
        write_text(fresh / "training.json", json.dumps(told, indent=2) + "\n")
    return {PHASE: outcome}, outcome.best


class Lessons:
    """Pictures decoded at every step, and the cross-entropy of each next token of their captions."""

    def __init__(self, recipe: CaptionRecipe, writer: TransformersCaptionModel, train: Pairs) -> None:
        self.recipe, self.writer, self.train = recipe, writer, train
        self.augment = augmentation(recipe.augment)
        self.half = partial(
            torch.autocast, writer.device.type, torch.bfloat16, enabled=computes_in_bfloat16(writer.device)
        )

    def load(self, turn: tuple[int, np.ndarray, list[str]]) -> tuple[Tensor, Tensor, Tensor]:
        epoch, rows, captions = turn
        images = [self._picture(self.train[int(row)], epoch) for row in rows]
        return self.writer.prepare(images)["pixel_values"], *token_rows(self.writer, captions, self.recipe.max_tokens)

    def _picture(self, row: Row, epoch: int) -> Image.Image:
        return view(row, self.augment, self.writer.image_size or 224, self.recipe.seed, epoch)

    def teach(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        pixels, tokens, spoken = (tensor.to(self.writer.device) for tensor in batch)
        with self.half():
            logits = self.writer.logits(pixels, tokens[:, :-1]).float()  # (captions, length, tokens)
        loss = functional.cross_entropy(
            logits[spoken], tokens[:, 1:][spoken], label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()
        return loss.detach()


def token_rows(writer: TransformersCaptionModel, captions: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Captions as (captions, length) tokens, start and end with them, and (captions, length - 1) bool: what to learn.

    What pads is told by a caption's length and not by its token, which for GPT-2 is the one that ends a caption.
    """
    rows = [[writer.start, *writer.encode(text)[:max_tokens], writer.end] for text in captions]
    tokens = torch.full((len(rows), max(map(len, rows))), writer.end)
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, torch.arange(1, tokens.shape[1]) < lengths[:, None]


def captions_of_pairs(
    writer: TransformersCaptionModel, pairs: Pairs, wish: GenerationConfig
) -> Iterator[list[Caption]]:
    """Captions of a data set's pictures, in their order."""

    def prepare(start: int) -> tuple[int, dict[str, Any]]:
        rows = pairs[start : start + _BLOCK]
        return start, writer.prepare([view(row, None, 0, 0, 0) for row in rows])

    for start, prepared in prefetch(range(0, len(pairs), _BLOCK), prepare):
        yield from writer.write(prepared, wish, "", range(start, start + len(prepared["pixel_values"])))


@quiet()
def new_caption_model(recipe: CaptionRecipe, train: Pairs) -> TransformersCaptionModel:
    """A VisionEncoderDecoder of the recipe's encoder and decoder, with special tokens set and yet to be trained.

    Each is a directory or hub name, or a type without weights: then the words are learnt from the training captions.

    Raises:
        ModelError: there is no such encoder or decoder, or its weights are a pickle.
    """
    from transformers import VisionEncoderDecoderModel

    try:
        encoder, image_processor = _encoder(recipe)
        decoder, tokenizer = _decoder(recipe, train)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot join encoder '{recipe.encoder}' and decoder '{recipe.decoder}': {str(error).splitlines()[0]}"
        ) from error
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    start = _either(tokenizer.bos_token_id, tokenizer.cls_token_id)
    end = _either(tokenizer.eos_token_id, tokenizer.sep_token_id)
    pad = _either(tokenizer.pad_token_id, end)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = start, end, pad
    return TransformersCaptionModel(model, image_processor, tokenizer, pick_device(recipe.device))


def _encoder(recipe: CaptionRecipe) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModel

    if recipe.encoder in _types():
        config = config_alone(recipe.encoder, recipe.encoder_arguments)
        return AutoModel.from_config(config), default_image_processor(config, None)
    path = model_directory(recipe.encoder)
    refuse_unsafe(path)
    model = AutoModel.from_pretrained(path, **WEIGHTS)
    return model, AutoImageProcessor.from_pretrained(path, backend="pil", **LOCAL)


def _decoder(recipe: CaptionRecipe, train: Pairs) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    looks = {"is_decoder": True, "add_cross_attention": True}
    if recipe.decoder not in _types():
        path = model_directory(recipe.decoder)
        refuse_unsafe(path)
        model = AutoModelForCausalLM.from_pretrained(path, **WEIGHTS, **looks)
        return model, AutoTokenizer.from_pretrained(path, **LOCAL)
    tokenizer = learn_tokenizer(train.flat_captions()[0])
    marks = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    told = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **marks, **recipe.decoder_arguments}
    return AutoModelForCausalLM.from_config(config_alone(recipe.decoder, {**told, **looks})), tokenizer


def _types() -> Any:
    """The types of transformers that a configuration alone makes a model of."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING


def _either(first: int | None, second: int | None) -> int | None:
    return second if first is None else first
