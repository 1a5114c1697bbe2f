"""BLIP's image-text matching head (Li et al. 2022) as a matcher: `BlipForImageTextRetrieval` checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from diptych.matching.calibration import Calibration
from diptych.matching.heads import Side
from diptych.matching.matcher import Encoded, Matcher
from diptych.models.checkpoints import loading, refuse_unsafe
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.models.modalities import checked_images, checked_texts
from diptych.models.truncation import within_reach
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

_ARCHITECTURE = "BlipForImageTextRetrieval"


class BlipMatcher(Matcher):
    """P(match) as BLIP gives it: softmax of its two matching logits, which is the sigmoid of their difference.

    Vectors are those of its contrastive heads, so that it mines negatives and re-ranks like every matcher. It was
    trained with hard negatives and is not calibrated for any prior: `prior=0.5` leaves its probabilities as they are.
    """

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self.model = model.eval().to(device)
        encoder: Any = _BlipEncoder(self.model, processor)
        super().__init__(encoder, _ItmHead(self.model), Calibration({"head": 1.0}, 0.0), name="itm")

    @torch.inference_mode()
    def _forward(self, features: dict[str, Any]) -> Encoded:
        features = {name: tensor.to(self.encoder.device) for name, tensor in features.items()}
        if "pixel_values" in features:
            hidden = self.model.vision_model(features["pixel_values"]).last_hidden_state  # (batch, patches, width)
            return self._encoded("image", _unit(self.model.vision_proj(hidden[:, 0])), (hidden,))
        ids, mask = features["input_ids"], features["attention_mask"]
        hidden = self.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._encoded("text", _unit(self.model.text_proj(hidden[:, 0])), (ids, mask))


class _ItmHead(nn.Module):
    """The text encoder with cross-attention to the picture's patches, and the matching head on its first token."""

    needs_states = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def pairs(self, images: Side, texts: Side) -> Tensor:
        patches, ids, mask = images[0], texts[0].long(), texts[1].long()
        seen = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        hidden = self.model.text_encoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=patches, encoder_attention_mask=seen
        ).last_hidden_state
        logits = self.model.itm_head(hidden[:, 0])  # (pairs, 2)
        return logits[:, 1] - logits[:, 0]


class _BlipEncoder:
    """What a matcher asks of its encoder."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        return int(self.model.config.vision_config.image_size)

    def preprocess_images(self, images: Iterable[Image.Image]) -> dict[str, Tensor]:
        processor = self.processor.image_processor
        return {"pixel_values": processor(checked_images(images), return_tensors="pt")["pixel_values"]}

    def preprocess_texts(self, texts: Iterable[str]) -> dict[str, Tensor]:
        tokenizer = self.processor.tokenizer
        limit = min(tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)
        texts = within_reach(checked_texts(texts), limit)
        told = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        return {name: told[name] for name in ("input_ids", "attention_mask")}


def is_blip(path: Path) -> bool:
    """Whether a directory holds a BLIP checkpoint for matching."""
    config = path / "config.json"
    with loading(f"'{config}'"):
        return config.exists() and _ARCHITECTURE in (json.loads(config.read_text("utf-8")).get("architectures") or [])


@quiet()
def load_blip(path: Path, device: str = "auto") -> BlipMatcher:
    """Load a BLIP checkpoint for matching, safetensors only.

    Raises:
        ModelError: it has no safetensors, or transformers cannot load it.
    """
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    refuse_unsafe(path)
    with loading(f"BLIP '{path}'"):
        model = BlipForImageTextRetrieval.from_pretrained(path, **WEIGHTS)
        processor = AutoProcessor.from_pretrained(path, **LOCAL)
    return BlipMatcher(model, processor, pick_device(device))


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)
