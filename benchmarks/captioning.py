"""Captions a second: a small captioner in batches beside transformers' `generate` on the same model at batch 1.

    python benchmarks/captioning.py --model mini
    python benchmarks/captioning.py --model runs/caption --threads 2 --images 64

The same model: the same image tower and preprocessing, and the decoder's weights in transformers' own
`BlenderbotForCausalLM`, which has the same layers; the run ends with an error unless both write the same captions
greedily. Both get decoded photographs and give texts. They take turns, and the medians are told. Needs the extra
`samples`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diptych.captioning.captioner import Captioner, load_captioner
from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.grid_captioner import NEVER, GridCaptionModel
from diptych.captioning.strategies import GenerationConfig
from diptych.captioning.vocabulary import END, PAD, START
from diptych.data.samples.library import photographs
from diptych.images.decode import decode
from diptych.models.hidden_states import compute_hidden_states
from diptych.runtime.quiet import quiet


def in_transformers(decoder: CaptionDecoder) -> Any:
    """The decoder's weights in transformers' Blenderbot, whose decoder has the same layers in the same order."""
    from transformers import BlenderbotConfig, BlenderbotForCausalLM

    (words, dim), first = decoder.embedding.weight.shape, decoder.layers[0]
    config = BlenderbotConfig(
        **{"vocab_size": words, "d_model": dim, "decoder_layers": len(decoder.layers), "scale_embedding": True},
        **{"decoder_attention_heads": first.self_attn.heads, "decoder_ffn_dim": first.mlp.fc1.out_features},
        **{"max_position_embeddings": len(decoder.positions), "activation_function": "gelu"},
        **{"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END, "forced_eos_token_id": None},
    )
    twin = BlenderbotForCausalLM(config).eval()
    weights = {
        "model.decoder.embed_tokens.weight": decoder.embedding.weight,
        "lm_head.weight": decoder.embedding.weight,
        "model.decoder.embed_positions.weight": decoder.positions,
        **_named("model.decoder.layer_norm", decoder.norm),
    }
    for number, layer in enumerate(decoder.layers):
        place = f"model.decoder.layers.{number}"
        for ours, theirs, norm in (("self_attn", "self_attn", "norm1"), ("cross_attn", "encoder_attn", "norm2")):
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                weights |= _named(f"{place}.{theirs}.{name}", getattr(getattr(layer, ours), name))
            weights |= _named(f"{place}.{theirs}_layer_norm", getattr(layer, norm))
        weights |= _named(f"{place}.fc1", layer.mlp.fc1) | _named(f"{place}.fc2", layer.mlp.fc2)
        weights |= _named(f"{place}.final_layer_norm", layer.norm3)
    twin.load_state_dict(weights)
    return twin


def _named(place: str, layer: Any) -> dict[str, torch.Tensor]:
    return {f"{place}.weight": layer.weight, f"{place}.bias": layer.bias}


@torch.inference_mode()
def by_transformers(writer: GridCaptionModel, twin: Any, image: Image.Image, wish: GenerationConfig) -> str:
    """One picture's caption as transformers' `generate` writes it."""
    from transformers import DynamicCache, EncoderDecoderCache

    memory = writer.decoder.encode(compute_hidden_states(writer.encoder, writer.prepare([image])))
    told: dict[str, Any] = {"suppress_tokens": list(NEVER), "no_repeat_ngram_size": wish.no_repeat, "do_sample": False}
    told["forced_eos_token_id"] = END
    if wish.width > 1:
        told |= {"length_penalty": wish.length_penalty}
    with quiet():
        tokens = twin.generate(
            input_ids=torch.tensor([[START]]),
            encoder_hidden_states=memory,
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),  # or it mixes words and patches
            max_new_tokens=wish.max_tokens,
            num_beams=wish.width,
            **told,
        )
    return writer.words.decode(tokens[0].tolist())


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="a small captioner on a dual encoder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads")
    parser.add_argument("--images", type=int, default=45, help="captions in a round; the photographs are repeated")
    parser.add_argument("--batch", type=int, default=16, help="pictures in a batch, ours")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, alternated")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    captioner = load_captioner(arguments.model, "cpu")
    assert isinstance(captioner.model, GridCaptionModel), "name a small captioner on a dual encoder"
    twin = in_transformers(captioner.model.decoder)
    with tempfile.TemporaryDirectory() as folder:
        photos = [decode(row.image, min_side=captioner.image_size) for row in photographs(Path(folder))]
    images = [photos[at % len(photos)] for at in range(arguments.images)]
    print(
        f"{arguments.model}, {arguments.threads} threads, {len(images)} captions a round, medians of {arguments.rounds}"
    )
    print("| method | batches of | captions a second | times |\n|---|---:|---:|---:|")
    for name, settings in (("greedy", {"method": "greedy"}), ("beam 3", {"beams": 3})):
        compare(name, captioner, twin, images, settings, arguments)


def compare(
    name: str, captioner: Captioner, twin: Any, images: list[Image.Image], settings: dict[str, Any], arguments: Any
) -> None:
    """Check that both write the same, let them take turns, and print a line for each."""
    wish, writer = captioner.generation_config(GenerationConfig(**settings)), captioner.model

    def theirs(images: list[Image.Image]) -> list[str]:
        return [by_transformers(writer, twin, image, wish) for image in images]

    def ours(images: list[Image.Image], batch_size: int) -> list[str]:
        return [of_one[0].text for of_one in captioner.caption(images, batch_size=batch_size, **settings)]

    some = images[:15]
    same = sum(one == other for one, other in zip(ours(some, 16), theirs(some), strict=True)) / len(some)
    if name == "greedy" and same < 1:
        raise SystemExit(f"the two do not write the same greedily: {ours(some, 16)} and {theirs(some)}")
    ways = {
        ("transformers' generate", 1): lambda: theirs(images),
        ("diptych", 1): lambda: ours(images, 1),
        ("diptych", arguments.batch): lambda: ours(images, arguments.batch),
    }
    took: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, work in ways.items():
            took[way].append(seconds(work))
    speed = {way: len(images) / statistics.median(times) for way, times in took.items()}
    base = next(iter(speed.values()))
    for (who, batch), each in speed.items():
        print(f"| {name}: {who} | {batch} | {each:.1f} | {each / base:.1f} |")
    print(f"{name}: both write the same for {same:.0%} of {len(some)} photographs")


if __name__ == "__main__":
    main()
