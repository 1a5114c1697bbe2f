"""Caption models of transformers: any VisionEncoderDecoder (ViT-GPT2), BLIP, and image-text-to-text models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diptych.captioning.strategies import Caption, GenerationConfig, NucleusSampler
from diptych.errors import ModelError
from diptych.images.decode import central
from diptych.models.checkpoints import first_line, is_unreadable, loading, refuse_unsafe
from diptych.models.heads import Features
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

_INSTRUCTION = "Describe the picture in one short sentence."  # for chat models
_CHAT_IMAGE_SIZE = 1024  # pixels of the shorter side; chat models split larger images into tiles of 300 to 500 pixels


class TransformersCaptionModel:
    """An encoder and a decoder that were trained together: a `VisionEncoderDecoderModel` or a BLIP.

    Args:
        model: The transformers model.
        image_processor: Its image processor.
        tokenizer: Its tokenizer.
        device: Device of the model.
    """

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, device: torch.device) -> None:
        self.model = model.eval().to(device)
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.is_blip = type(model).__name__ == "BlipForConditionalGeneration"
        self.start, self.end = _blip_start_end(model) if self.is_blip else _start_end(model, tokenizer)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int | None:
        """Input side of the image encoder in pixels, or None if its configuration has none."""
        config = self.model.config
        return getattr(config.vision_config if self.is_blip else config.encoder, "image_size", None)

    def prepare(self, images: Sequence[Image.Image]) -> Features:
        """The image encoder's input, on the CPU. Thread-safe."""
        inputs = self.image_processor(images=list(map(central, images)), return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"]}

    @torch.inference_mode()
    def generate(
        self, prepared: Features, config: GenerationConfig, prefix: str, image_seeds: Sequence[int]
    ) -> list[list[Caption]]:
        """Captions of each prepared image, best first."""
        pixels = prepared["pixel_values"].to(self.device)
        prompt = torch.tensor([[self.start, *self.encode(prefix)]], device=self.device).repeat(len(pixels), 1)
        length = prompt.shape[1]
        if self.is_blip:  # BLIP drops the last token of its input, since its tokenizer ends every text
            inputs = {"input_ids": torch.cat([prompt, prompt.new_full((len(pixels), 1), self.end)], dim=1)}
            return self._generate(self.model.text_decoder, pixels, inputs, length, config, image_seeds)
        special: dict[str, Any] = {"eos_token_id": self.end, "pad_token_id": _pad(self.model, self.end)}
        inputs = {"decoder_input_ids": prompt, **special}
        return self._generate(self.model, pixels, inputs, length, config, image_seeds)

    def _generate(
        self,
        language_model: Any,
        pixels: Tensor,
        inputs: Features,
        prompt_length: int,
        config: GenerationConfig,
        image_seeds: Sequence[int],
    ) -> list[list[Caption]]:
        output = generate(self.model, config, image_seeds, {"pixel_values": pixels, **inputs})
        decode = partial(self.tokenizer.batch_decode, skip_special_tokens=True)
        return captions_of(language_model, output, prompt_length, len(pixels), [self.end], decode)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without start and end."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position: (captions, length, vocabulary).

        No labels are passed to the model, because versions of transformers differ in how often they shift them.

        Args:
            pixels: (images, 3, height, width).
            tokens: (captions, length), the same number of consecutive captions for each image.
        """
        tower = self.model.vision_model if self.is_blip else self.model.encoder
        states = tower(pixel_values=pixels).last_hidden_state
        states = states.repeat_interleave(len(tokens) // len(pixels), dim=0)  # (captions, patches, width)
        if self.is_blip:
            return self.model.text_decoder(input_ids=tokens, encoder_hidden_states=states).logits
        return self.model(encoder_outputs=(states,), decoder_input_ids=tokens).logits

    def save(self, path: Path) -> None:
        """Write model, image processor and tokenizer to one directory."""
        with quiet():
            self.model.save_pretrained(path)
            self.image_processor.save_pretrained(path)
            self.tokenizer.save_pretrained(path)


class ChatCaptionModel:
    """An image-text-to-text model; one with a chat template is asked for a short description.

    Args:
        model: The transformers model.
        processor: Its processor.
        device: Device of the model.
    """

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self.model, self.processor = model.eval().to(device), processor
        self.device = device
        self.image_size = _CHAT_IMAGE_SIZE
        processor.tokenizer.padding_side = "left"  # generated tokens follow the prompt directly

    def prepare(self, images: Sequence[Image.Image]) -> Features:
        """Images bounded in aspect ratio; the processor runs together with the prompt in `write`."""
        return {"images": list(map(central, images))}

    @torch.inference_mode()
    def generate(
        self, prepared: Features, config: GenerationConfig, prefix: str, image_seeds: Sequence[int]
    ) -> list[list[Caption]]:
        """Captions of each prepared image, best first."""
        images = prepared["images"]
        prompt = self._prompt() + prefix
        nested = [[image] for image in images]
        inputs = self.processor(images=nested, text=[prompt] * len(images), padding=True, return_tensors="pt")
        inputs = inputs.to(self.device)
        output = generate(self.model, config, image_seeds, dict(inputs))
        length = inputs["input_ids"].shape[1]
        end = self.model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [] if end is None else [end]
        decode = self.processor.tokenizer.batch_decode
        captions = captions_of(
            self.model,
            output,
            length,
            len(images),
            ends,
            lambda rows: decode(rows[:, length:], skip_special_tokens=True),
        )
        return [[Caption(_joined(prefix, caption.text), caption.score) for caption in group] for group in captions]

    def save(self, path: Path) -> None:
        """Write model and processor to one directory."""
        with quiet():
            self.model.save_pretrained(path)
            self.processor.save_pretrained(path)

    def _prompt(self) -> str:
        if not getattr(self.processor, "chat_template", None):
            return str(getattr(self.processor, "image_token", ""))
        content = [{"type": "image"}, {"type": "text", "text": _INSTRUCTION}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def generate(model: Any, config: GenerationConfig, image_seeds: Sequence[int], inputs: Features) -> Any:
    """Transformers' `generate` under a `GenerationConfig`; the samples of an image depend on its own seed."""
    arguments: dict[str, Any] = {"max_new_tokens": config.max_tokens, "no_repeat_ngram_size": config.no_repeat}
    if config.method == "nucleus":
        # transformers samples for the whole batch at once; `_SampledToken` samples per image and leaves it no choice
        arguments |= {"do_sample": True, "top_p": 1.0, "top_k": 0, "temperature": 1.0, "num_beams": 1}
        arguments["logits_processor"] = [_SampledToken(NucleusSampler(config, image_seeds))]
    else:
        arguments |= {"do_sample": False, "num_beams": config.width}
        if config.width > 1:
            arguments |= {"length_penalty": config.length_penalty, "early_stopping": False}
    output = {"return_dict_in_generate": True, "output_logits": True, "num_return_sequences": config.count}
    with quiet(), torch.random.fork_rng():
        return model.generate(**inputs, **arguments, **output)


class _SampledToken:
    """A logits processor of transformers: 0 for the token that was sampled for each caption, -inf for all others."""

    def __init__(self, sampler: NucleusSampler) -> None:
        self.sampler = sampler

    def __call__(self, _tokens: Tensor, logits: Tensor) -> Tensor:
        sampled = self.sampler(logits.float().log_softmax(-1).cpu()).to(logits.device)
        return torch.full_like(logits, -torch.inf).scatter(1, sampled[:, None], 0.0)


def captions_of(
    language_model: Any,
    output: Any,
    prompt_length: int,
    images: int,
    ends: list[int],
    decode: Callable[[Tensor], list[str]],
) -> list[list[Caption]]:
    """The output of `generate` as captions, best first and without duplicates.

    The score is the mean log-probability of the tokens after the prompt under the model's own logits: temperature,
    nucleus and suppressed tokens do not change it.

    Args:
        language_model: The model whose `compute_transition_scores` fits the output.
        output: The output of `generate`.
        prompt_length: Number of tokens of the prompt.
        images: Number of images.
        ends: Ids of the end tokens.
        decode: Sequences to texts.
    """
    new = output.sequences[:, prompt_length:]  # (captions, length)
    beams = getattr(output, "beam_indices", None)
    log_probs = language_model.compute_transition_scores(output.sequences, output.logits, beams, normalize_logits=True)[
        :, : new.shape[1]
    ]
    is_end = torch.isin(new, torch.tensor(ends, device=new.device))
    scored = is_end.cumsum(1) - is_end.long() == 0  # up to and including the first end; the rest is padding
    if beams is not None:
        scored &= beams[:, : new.shape[1]] >= 0
    scores = (log_probs.masked_fill(~scored, 0.0).sum(1) / scored.sum(1).clamp(min=1)).tolist()
    captions = [(" ".join(text.split()), score) for text, score in zip(decode(output.sequences), scores, strict=True)]
    count = len(captions) // images
    distinct = (dict(captions[i : i + count]) for i in range(0, len(captions), count))
    ordered = (sorted(group.items(), key=lambda item: -item[1]) for group in distinct)
    return [[Caption(*item) for item in group] for group in ordered]


def architecture(path: Path) -> str:
    """The first architecture in a checkpoint's `config.json`; empty if there is none.

    Raises:
        ModelError: The file is damaged.
    """
    config = path / "config.json"
    if not config.exists():
        return ""
    with loading(f"'{config}'"):
        return str((json.loads(config.read_text("utf-8")).get("architectures") or [""])[0])


def is_whole(path: Path) -> bool:
    """Whether a directory holds a VisionEncoderDecoder or a BLIP for captions."""
    return architecture(path) in ("VisionEncoderDecoderModel", "BlipForConditionalGeneration")


@quiet()
def load_transformers_model(path: Path, device: str = "auto") -> TransformersCaptionModel:
    """Load a VisionEncoderDecoder or BLIP checkpoint from safetensors.

    Raises:
        ModelError: It has no safetensors, or transformers cannot load it.
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
    """Load an image-text-to-text checkpoint (LLaVA, Qwen-VL, SmolVLM, PaliGemma) from safetensors.

    Raises:
        ModelError: It is another kind of model, has no safetensors, or transformers cannot load it.
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
            f"'{path}' is not a captioner that can be loaded: {first_line(error)}; use mini, a run of `diptych "
            "train caption`, a VisionEncoderDecoder, a BLIP for captions or an image-text-to-text model"
        ) from error
    return ChatCaptionModel(model, processor, pick_device(device))


def _start_end(model: Any, tokenizer: Any) -> tuple[int, int]:
    """The ids of the start and end tokens of a VisionEncoderDecoder."""
    configs = (getattr(model, "generation_config", None), model.config, model.config.decoder)
    starts = [getattr(config, "decoder_start_token_id", None) for config in configs]
    ends = [getattr(config, "eos_token_id", None) for config in configs]
    start = _first([*starts, tokenizer.bos_token_id, tokenizer.cls_token_id])
    end = _first([*ends, tokenizer.eos_token_id, tokenizer.sep_token_id])
    return start, end


def _blip_start_end(model: Any) -> tuple[int, int]:
    return int(model.config.text_config.bos_token_id), int(model.config.text_config.sep_token_id)


def _first(tokens: list[int | list[int] | None]) -> int:
    for token in tokens:
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    raise ModelError("neither the model nor its tokenizer defines the tokens that start and end a caption")


def _pad(model: Any, end: int) -> int:
    pad = model.config.pad_token_id
    return end if pad is None else pad


def _joined(prefix: str, text: str) -> str:
    return f"{prefix.strip()} {text}".strip() if prefix else text
