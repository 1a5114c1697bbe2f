"""Captions by models of transformers: any VisionEncoderDecoder (ViT-GPT2), BLIP, and image-text-to-text models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diptych.captioning.strategies import Caption, Draws, GenerationConfig
from diptych.errors import ModelError
from diptych.images.decode import central
from diptych.models.checkpoints import first_line, is_unreadable, loading, refuse_unsafe
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

_QUESTION = "Describe the picture in one short sentence."  # to models that hold a conversation
_FINE = 1024  # pixels of a picture's shorter side: what sees larger ones cuts them into tiles of 300 to 500


class TransformersCaptionModel:
    """Captions by an encoder and a decoder that were trained together: a VisionEncoderDecoderModel or a BLIP.

    `decoder` is the language model inside; `logits` gives those of each next token.
    """

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, device: torch.device) -> None:
        self.model = model.eval().to(device)
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.is_blip = type(model).__name__ == "BlipForConditionalGeneration"
        self.start, self.end = _blip_marks(model) if self.is_blip else _marks(model, tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int | None:
        config = self.model.config
        return getattr(config.vision_config if self.is_blip else config.encoder, "image_size", None)

    def prepare(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        return {
            "pixel_values": self.image_processor(images=list(map(central, images)), return_tensors="pt")["pixel_values"]
        }

    @torch.inference_mode()
    def write(
        self, prepared: dict[str, Any], wish: GenerationConfig, prefix: str, numbers: Sequence[int]
    ) -> list[list[Caption]]:
        pixels = prepared["pixel_values"].to(self.device)
        begun = torch.tensor([[self.start, *self.encode(prefix)]], device=self.device).repeat(len(pixels), 1)
        if self.is_blip:  # it cuts off the last token, which a tokenizer puts there to end the text
            inputs = {"input_ids": torch.cat([begun, begun.new_full((len(pixels), 1), self.end)], dim=1)}
            return self._generate(self.model.text_decoder, pixels, inputs, begun.shape[1], wish, numbers)
        marks: dict[str, Any] = {"eos_token_id": self.end, "pad_token_id": _pad(self.model, self.end)}
        inputs = {"decoder_input_ids": begun, **marks}
        return self._generate(self.model, pixels, inputs, begun.shape[1], wish, numbers)

    def _generate(
        self,
        speaker: Any,
        pixels: Tensor,
        inputs: dict[str, Any],
        begun: int,
        wish: GenerationConfig,
        numbers: Sequence[int],
    ) -> list[list[Caption]]:
        output = generate(self.model, wish, numbers, pixel_values=pixels, **inputs)
        decode = partial(self.tokenizer.batch_decode, skip_special_tokens=True)
        return captions_of(speaker, output, begun, len(pixels), [self.end], decode)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without start and end."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """The logits of each next token: (captions, length, tokens), the same number of captions for each picture.

        Labels are never handed to the model: which versions of transformers shift them, and how often, is then no
        matter.
        """
        tower = self.model.vision_model if self.is_blip else self.model.encoder
        seen = tower(pixel_values=pixels).last_hidden_state
        seen = seen.repeat_interleave(len(tokens) // len(pixels), dim=0)  # (captions, patches, width)
        if self.is_blip:
            return self.model.text_decoder(input_ids=tokens, encoder_hidden_states=seen).logits
        return self.model(encoder_outputs=(seen,), decoder_input_ids=tokens).logits

    def save(self, path: Path) -> None:
        """Write model, image processor and tokenizer to one directory."""
        with quiet():
            self.model.save_pretrained(path)
            self.image_processor.save_pretrained(path)
            self.tokenizer.save_pretrained(path)


class ChatCaptionModel:
    """Captions by an image-text-to-text model: one that holds a conversation is asked for a short description."""

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self.model, self.processor = model.eval().to(device), processor
        self.device = device
        self.image_size = _FINE
        processor.tokenizer.padding_side = "left"  # what is written stands behind the question

    def prepare(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        return {"images": list(map(central, images))}

    @torch.inference_mode()
    def write(
        self, prepared: dict[str, Any], wish: GenerationConfig, prefix: str, numbers: Sequence[int]
    ) -> list[list[Caption]]:
        images = prepared["images"]
        text = self._question() + prefix
        nested = [[image] for image in images]
        inputs = self.processor(images=nested, text=[text] * len(images), padding=True, return_tensors="pt")
        inputs = inputs.to(self.device)
        output = generate(self.model, wish, numbers, **inputs)
        begun = inputs["input_ids"].shape[1]
        told_ends = self.model.generation_config.eos_token_id
        ends = told_ends if isinstance(told_ends, list) else [] if told_ends is None else [told_ends]
        decode = self.processor.tokenizer.batch_decode
        told = captions_of(
            self.model, output, begun, len(images), ends, lambda rows: decode(rows[:, begun:], skip_special_tokens=True)
        )
        return [[Caption(_joined(prefix, each.text), each.score) for each in of_one] for of_one in told]

    def _question(self) -> str:
        if not getattr(self.processor, "chat_template", None):
            return str(getattr(self.processor, "image_token", ""))
        content = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def generate(model: Any, wish: GenerationConfig, numbers: Sequence[int], **inputs: Any) -> Any:
    """transformers' `generate` as the wish asks for it; the draws of each picture depend on its number."""
    asked: dict[str, Any] = {"max_new_tokens": wish.max_tokens, "no_repeat_ngram_size": wish.no_repeat}
    if wish.method == "nucleus":
        # of what it draws for a whole batch at once, it is left no choice: `_Drawn` draws for each picture
        asked |= {"do_sample": True, "top_p": 1.0, "top_k": 0, "temperature": 1.0, "num_beams": 1}
        asked["logits_processor"] = [_Drawn(Draws(wish, numbers))]
    else:
        asked |= {"do_sample": False, "num_beams": wish.width}
        if wish.width > 1:
            asked |= {"length_penalty": wish.length_penalty, "early_stopping": False}
    told = {"return_dict_in_generate": True, "output_logits": True, "num_return_sequences": wish.count}
    with quiet(), torch.random.fork_rng():
        return model.generate(**inputs, **asked, **told)


class _Drawn:
    """A logits processor of transformers: 0 for the token that is drawn for each caption, -inf for all others."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        drawn = self.draws(logits.float().log_softmax(-1).cpu()).to(logits.device)
        return torch.full_like(logits, -torch.inf).scatter(1, drawn[:, None], 0.0)


def captions_of(
    speaker: Any, output: Any, begun: int, pictures: int, ends: list[int], decode: Callable[[Tensor], list[str]]
) -> list[list[Caption]]:
    """What was generated as captions, best first; the score is the mean log-probability of the tokens after `begun`.

    It is that of the model's own logits: neither temperature nor the nucleus nor forbidden words change it.
    """
    new = output.sequences[:, begun:]  # (captions, length)
    beams = getattr(output, "beam_indices", None)
    known = speaker.compute_transition_scores(output.sequences, output.logits, beams, normalize_logits=True)
    known = known[:, : new.shape[1]]
    is_end = torch.isin(new, torch.tensor(ends, device=new.device))
    spoken = is_end.cumsum(1) - is_end.long() == 0  # what follows the first end only pads
    if beams is not None:
        spoken &= beams[:, : new.shape[1]] >= 0
    scores = (known.masked_fill(~spoken, 0.0).sum(1) / spoken.sum(1).clamp(min=1)).tolist()
    told = [(" ".join(text.split()), score) for text, score in zip(decode(output.sequences), scores, strict=True)]
    count = len(told) // pictures
    different = (dict(told[at : at + count]) for at in range(0, len(told), count))
    ordered = (sorted(of_one.items(), key=lambda item: -item[1]) for of_one in different)
    return [[Caption(*item) for item in of_one] for of_one in ordered]


def architecture(path: Path) -> str:
    """The class that a checkpoint's `config.json` names; empty where there is none.

    Raises:
        ModelError: that file is damaged.
    """
    config = path / "config.json"
    if not config.exists():
        return ""
    with loading(f"'{config}'"):
        return str((json.loads(config.read_text("utf-8")).get("architectures") or [""])[0])


def is_whole(path: Path) -> bool:
    """Whether a directory holds a VisionEncoderDecoder or a BLIP that writes captions."""
    return architecture(path) in ("VisionEncoderDecoderModel", "BlipForConditionalGeneration")


@quiet()
def load_transformers_model(path: Path, device: str = "auto") -> TransformersCaptionModel:
    """Load a VisionEncoderDecoder or BLIP checkpoint, safetensors only.

    Raises:
        ModelError: it has no safetensors, or transformers cannot load it.
    """
    import transformers

    refuse_unsafe(path)
    with loading(f"the captioner '{path}'"):
        model = getattr(transformers, architecture(path)).from_pretrained(path, **WEIGHTS)
        processor = transformers.AutoImageProcessor.from_pretrained(path, backend="pil", **LOCAL)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **LOCAL)
    return TransformersCaptionModel(model, processor, tokenizer, pick_device(device))


@quiet()
def load_chat_model(path: Path, device: str = "auto") -> ChatCaptionModel:
    """Load an image-text-to-text checkpoint (LLaVA, Qwen-VL, SmolVLM, PaliGemma), safetensors only.

    Raises:
        ModelError: it is no such model, has no safetensors, or transformers cannot load it.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    refuse_unsafe(path)
    try:
        model = AutoModelForImageTextToText.from_pretrained(path, **WEIGHTS)
        processor = AutoProcessor.from_pretrained(path, **LOCAL)
    except Exception as error:
        if not is_unreadable(error):
            raise
        raise ModelError(
            f"'{path}' is no captioner that can be loaded: {first_line(error)}; take mini, a run of `diptych "
            "train caption`, a VisionEncoderDecoder, a BLIP for captions or an image-text-to-text model"
        ) from error
    return ChatCaptionModel(model, processor, pick_device(device))


def _marks(model: Any, tokenizer: Any) -> tuple[int, int]:
    """The tokens that begin and end a caption of a VisionEncoderDecoder."""
    told = (getattr(model, "generation_config", None), model.config, model.config.decoder)
    starts = [getattr(config, "decoder_start_token_id", None) for config in told]
    ends = [getattr(config, "eos_token_id", None) for config in told]
    start = _first([*starts, tokenizer.bos_token_id, tokenizer.cls_token_id])
    end = _first([*ends, tokenizer.eos_token_id, tokenizer.sep_token_id])
    return start, end


def _blip_marks(model: Any) -> tuple[int, int]:
    return int(model.config.text_config.bos_token_id), int(model.config.text_config.sep_token_id)


def _first(tokens: list[int | list[int] | None]) -> int:
    for token in tokens:
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    raise ModelError("neither the model nor its tokenizer says which token begins a caption and which ends it")


def _pad(model: Any, end: int) -> int:
    pad = model.config.pad_token_id
    return end if pad is None else pad


def _joined(prefix: str, text: str) -> str:
    return f"{prefix.strip()} {text}".strip() if prefix else text
