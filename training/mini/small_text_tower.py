"""MiniLM made small: four of its six layers, and the tokens that general English and ImageNet's class names need."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FIRST_WORD = 1996  # BERT's vocabulary lists marks and letters first; from "the" on it is sorted by frequency


def small_text_tower(
    source: Path, target: Path, class_names: list[str], layers: tuple[int, ...], tokens: int, positions: int
) -> None:
    """Write the BERT at `source` with these layers, that many tokens and positions to `target`."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    kept = kept_tokens(tokenizer, class_names, tokens)
    model = AutoModel.from_pretrained(source)
    numbers = tokenizer.get_vocab()
    weights = kept_weights(model.state_dict(), [numbers[token] for token in kept], layers, positions)
    config = model.config
    config.vocab_size, config.num_hidden_layers, config.max_position_embeddings = len(kept), len(layers), positions
    small = type(model)(config)
    small.load_state_dict(weights)
    small.save_pretrained(target)
    vocabulary = {token: number for number, token in enumerate(kept)}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=positions).save_pretrained(target)


def kept_tokens(tokenizer, class_names: list[str], count: int) -> list[str]:
    """Special tokens, every ASCII character, the pieces of the class names, and the most frequent of the rest.

    Frequency is that of BERT's training text, which ordered its vocabulary: nothing here has seen Flickr8k.
    """
    vocabulary = tokenizer.get_vocab()
    in_order = sorted(vocabulary, key=vocabulary.get)
    characters = [token for token in in_order if re.fullmatch(r"(##)?[!-~]", token)]
    of_classes = {piece for name in class_names for piece in tokenizer.tokenize(name) if piece.isascii()}
    frequent = [token for token in in_order if vocabulary[token] >= FIRST_WORD and token.isascii()]
    chosen = dict.fromkeys([*SPECIAL, *characters, *sorted(of_classes, key=vocabulary.get), *frequent])
    return sorted(list(chosen)[:count], key=vocabulary.get)


def kept_weights(
    weights: dict[str, torch.Tensor], rows: list[int], layers: tuple[int, ...], positions: int
) -> dict[str, torch.Tensor]:
    """The weights of these embedding rows and layers, the layers numbered anew."""
    kept = {}
    for name, weight in weights.items():
        if layer := re.match(r"encoder\.layer\.(\d+)\.(.*)", name):
            if int(layer[1]) not in layers:
                continue
            name = f"encoder.layer.{layers.index(int(layer[1]))}.{layer[2]}"
        elif name == "embeddings.word_embeddings.weight":
            weight = weight[rows]
        elif name == "embeddings.position_embeddings.weight":
            weight = weight[:positions]
        kept[name] = weight.clone()
    return kept


def general_words(tokenizer) -> list[str]:
    """Whole English words among the most frequent 20,000 tokens."""
    vocabulary = tokenizer.get_vocab()
    return [
        t
        for t in sorted(vocabulary, key=vocabulary.get)
        if FIRST_WORD <= vocabulary[t] < 20_000 and re.fullmatch("[a-z]{3,}", t)
    ]
