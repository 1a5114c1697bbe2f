"""Models that the web page is tested with, made in seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch.nn import functional

from diptych.data.samples.library import QUERIES, photographs
from diptych.images.decode import decode
from diptych.matching.calibration import Calibration
from diptych.matching.heads import CosineHead
from diptych.matching.matcher import Matcher
from diptych.matching.storage import save_matchers
from diptych.models import builder
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import model_directory
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.encoder_decoder import new_caption_model, token_rows

_STEPS = 60


def mini_with_matcher(folder: Path) -> Path:
    """mini, and beside it a matcher that goes by the cosine: 0.35 is undecided, 0.55 nine in ten."""
    shutil.copytree(model_directory("mini"), folder)
    matcher = Matcher(dual.load(folder, "cpu"), CosineHead(), Calibration({"cosine": 12.0}, -4.2), name="cosine")
    save_matchers([matcher], folder)
    return folder


def plain_model(folder: Path) -> Path:
    """A tiny dual encoder of random weights that neither captions nor matches."""
    torch.manual_seed(0)
    tiny = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    settings = {"pretrained": False, "text_arguments": tiny, "captions": QUERIES.values(), "dim": 16, "image_size": 32}
    builder.build("timm/test_resnet", "distilbert", device="cpu", **settings).save(folder)
    return folder


def vit_gpt2(folder: Path) -> Path:
    """A tiny ViT-GPT2 that learnt the captions of the sample photographs by heart, saved with its tokenizer."""
    torch.manual_seed(0)
    pairs = photographs(folder.parent / "photographs")
    tower = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "intermediate_size": 96}
    words = {"n_embd": 48, "n_layer": 1, "n_head": 2, "n_positions": 32}
    recipe = CaptionRecipe(
        encoder="vit",
        decoder="gpt2",
        encoder_arguments={**tower, "num_hidden_layers": 1, "num_attention_heads": 2},
        decoder_arguments={**words, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        device="cpu",
    )
    writer = new_caption_model(recipe, pairs)
    pixels = writer.prepare([decode(row.image) for row in pairs])["pixel_values"]
    tokens, spoken = token_rows(writer, [row.captions[0] for row in pairs], 24)
    optimizer = torch.optim.AdamW(writer.model.parameters(), lr=8e-3)
    for _ in range(_STEPS):
        logits = writer.logits(pixels, tokens[:, :-1])  # (photographs, length, tokens)
        loss = functional.cross_entropy(logits[spoken], tokens[:, 1:][spoken])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    writer.save(folder)
    return folder
