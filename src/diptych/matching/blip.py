"""BLIP's image-text matching head (Li et al. 2022) for a `Matcher`: `BlipForImageTextRetrieval` checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from diptych.matching.heads import Side
from diptych.models.checkpoints import loading, refuse_unsafe
from diptych.models.heads import Features
from diptych.models.hidden_states import HiddenStates
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.models.modalities import checked_images, checked_texts
from diptych.models.truncation import within_reach
from diptych.models.unknown_words import unknown_in
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

_ARCHITECTURE = "BlipForImageTextRetrieval"


class BlipEncoder:
    """BLIP's towers and contrastive heads, with the methods of a `DualEncoder` that a matcher calls.

    Embeddings are those of the contrastive heads, so a BLIP matcher mines negatives and re-ranks like any other.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        """Input side of the image tower in pixels."""
        return int(self.model.config.vision_config.image_size)

    def preprocess_images(self, images: Iterable[Image.Image]) -> dict[str, Tensor]:
        """The image tower's input, on the CPU."""
        processor = self.processor.image_processor
        return {"pixel_values": processor(checked_images(images), return_tensors="pt")["pixel_values"]}

    def preprocess_texts(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """The text tower's input, on the CPU; texts are truncated at its limit."""
        tokenizer = self.processor.tokenizer
        limit = min(tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)
        texts = within_reach(checked_texts(texts), limit)
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts of which the model knows no word, in order."""
        return unknown_in(self.processor.tokenizer.backend_tokenizer, self.processor.tokenizer.unk_token_id, texts)

    def encode(self, features: Features) -> tuple[Tensor, Side]:
        """Embeddings (batch, dim), and patch states of images or token ids and mask of texts."""
        features = {name: tensor.to(self.device) for name, tensor in features.items()}
        if "pixel_values" in features:
            hidden = self.model.vision_model(features["pixel_values"]).last_hidden_state  # (batch, patches, width)
            return _unit(self.model.vision_proj(hidden[:, 0])), (hidden,)
        ids, mask = features["input_ids"], features["attention_mask"]
        hidden = self.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return _unit(self.model.text_proj(hidden[:, 0])), (ids, mask)

    def save_pretrained(self, path: str | Path) -> None:
        """Write model and processor to a directory."""
        with quiet():
            self.model.save_pretrained(path)
            self.processor.save_pretrained(path)


class ItmHead(nn.Module):
    """BLIP's text encoder with cross-attention to the image's patches, and its matching head on the first token.

    The logit is the difference of the two matching logits, whose sigmoid is their softmax.
    """

    needs_states = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def encode(self, modality: str, states: HiddenStates) -> Side:
        """Not used: `BlipEncoder.encode` returns both sides."""
        raise NotImplementedError

    def pairs(self, images: Side, texts: Side) -> Tensor:
        """Logits of row i of `images` with row i of `texts`: (pairs,)."""
        patches, ids, mask = images[0], texts[0].long(), texts[1].long()
        patch_mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        hidden = self.model.text_encoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=patches, encoder_attention_mask=patch_mask
        ).last_hidden_state
        logits = self.model.itm_head(hidden[:, 0])  # (pairs, 2)
        return logits[:, 1] - logits[:, 0]


def is_blip(path: Path) -> bool:
    """Whether a directory holds a BLIP checkpoint for matching."""
    config = path / "config.json"
    with loading(f"'{config}'"):
        return config.exists() and _ARCHITECTURE in (json.loads(config.read_text("utf-8")).get("architectures") or [])


@quiet()
def load_blip(path: Path, device: str = "auto") -> tuple[BlipEncoder, ItmHead]:
    """Load a BLIP checkpoint for matching from safetensors.

    Raises:
        ModelError: It has no safetensors, or transformers cannot load it.
    """
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    refuse_unsafe(path)
    with loading(f"BLIP '{path}'"):
        model: Any = BlipForImageTextRetrieval.from_pretrained(path, **WEIGHTS)
        processor = AutoProcessor.from_pretrained(path, **LOCAL)
    model = model.eval().to(pick_device(device))
    return BlipEncoder(model, processor), ItmHead(model)


def _unit(embeddings: Tensor) -> Tensor:
    return functional.normalize(embeddings.float(), dim=-1)
