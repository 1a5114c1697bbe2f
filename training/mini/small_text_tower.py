"""A small text tower: MiniLM with four of its six layers, and a vocabulary for general English and ImageNet classes."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerBase

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FIRST_WORD = 1996  # BERT's vocabulary begins with symbols and letters; from "the" on it is sorted by frequency


def small_text_tower(
    source: Path, target: Path, class_names: list[str], layers: tuple[int, ...], tokens: int, positions: int
) -> None:
    """Write a smaller copy of the BERT at `source` to `target`.

    Args:
        source: directory of the model.
        target: directory of the copy.
        class_names: names whose tokens are kept.
        layers: the layers to keep.
        tokens: the number of tokens to keep.
        positions: the number of position embeddings to keep.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    kept = select_tokens(tokenizer, class_names, tokens)
    model = AutoModel.from_pretrained(source)
    ids = tokenizer.get_vocab()
    weights = select_weights(model.state_dict(), [ids[token] for token in kept], layers, positions)
    config = model.config
    config.vocab_size, config.num_hidden_layers, config.max_position_embeddings = len(kept), len(layers), positions
    small = type(model)(config)
    small.load_state_dict(weights)
    small.save_pretrained(target)
    vocabulary = {token: index for index, token in enumerate(kept)}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=positions).save_pretrained(target)


def select_tokens(tokenizer: PreTrainedTokenizerBase, class_names: list[str], count: int) -> list[str]:
    """Special tokens, all ASCII characters, the tokens of the class names, and the most frequent other tokens.

    BERT's vocabulary is sorted by frequency in its training text, so the selection does not depend on Flickr8k.
    """
    vocabulary = tokenizer.get_vocab()
    by_id = sorted(vocabulary, key=lambda token: vocabulary[token])
    characters = [token for token in by_id if re.fullmatch(r"(##)?[!-~]", token)]
    of_classes = {token for name in class_names for token in tokenizer.tokenize(name) if token.isascii()}
    frequent = [token for token in by_id if vocabulary[token] >= FIRST_WORD and token.isascii()]
    in_classes = sorted(of_classes, key=lambda token: vocabulary[token])
    selected = list(dict.fromkeys([*SPECIAL, *characters, *in_classes, *frequent]))[:count]
    return sorted(selected, key=lambda token: vocabulary[token])


def select_weights(
    weights: dict[str, torch.Tensor], rows: list[int], layers: tuple[int, ...], positions: int
) -> dict[str, torch.Tensor]:
    """The weights of these embedding rows, layers and positions, with the layers renumbered."""
    selected = {}
    for name, weight in weights.items():
        if layer := re.match(r"encoder\.layer\.(\d+)\.(.*)", name):
            if int(layer[1]) not in layers:
                continue
            name = f"encoder.layer.{layers.index(int(layer[1]))}.{layer[2]}"
        elif name == "embeddings.word_embeddings.weight":
            weight = weight[rows]
        elif name == "embeddings.position_embeddings.weight":
            weight = weight[:positions]
        selected[name] = weight.clone()
    return selected


def common_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The English words of at least three letters among the 20,000 most frequent tokens."""
    vocabulary = tokenizer.get_vocab()
    return [
        token
        for token in sorted(vocabulary, key=lambda token: vocabulary[token])
        if FIRST_WORD <= vocabulary[token] < 20_000 and re.fullmatch("[a-z]{3,}", token)
    ]
