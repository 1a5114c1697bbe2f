"""Decoding strategies: greedy, beam search and nucleus sampling for batches of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diptych.errors import ConfigError, did_you_mean

METHODS = ("beam", "greedy", "nucleus")
_LIMITS: dict[str, tuple[int | float, int | float]] = {  # field -> minimum and maximum
    "beams": (1, 256),
    "count": (1, 10_000),
    "max_tokens": (1, 4097),  # one more than a recipe's, for the end token
    "temperature": (1e-3, 1e3),
    "top_p": (1e-6, 1.0),
    "seed": (0, 2**63 - 1),
    "length_penalty": (-10.0, 10.0),
    "no_repeat": (0, 1000),
}


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of caption generation.

    Attributes:
        method: `beam`, `greedy` or `nucleus`.
        beams: Beam width of beam search.
        count: Number of captions for each image.
        max_tokens: Maximum number of generated tokens, the end token included.
        temperature: Divides the logits before sampling (`nucleus`).
        top_p: Probability mass of the nucleus (Holtzman et al. 2020).
        seed: Seed of the sampling.
        length_penalty: Exponent of the length by which a caption's log-probability is divided before captions are
            compared: 1 compares means per token, 0 favours short captions (Wu et al. 2016).
        no_repeat: Size of the n-grams that may occur only once in a caption; 0 disables the rule.

    Raises:
        ConfigError: A field is out of its range, or `greedy` with `count` above 1.
    """

    method: str = "beam"
    beams: int = 3
    count: int = 1
    max_tokens: int = 30
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0
    length_penalty: float = 1.0
    no_repeat: int = 3

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"unknown decoding method '{self.method}'; {did_you_mean(self.method, METHODS)}")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            kind = int if isinstance(low, int) else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                raise ConfigError(f"{name} is {value!r}; it must be at least {low:,} and at most {high:,}")
        if self.method == "greedy" and self.count > 1:
            raise ConfigError(f"greedy decoding gives one caption, not {self.count}; use beam or nucleus for several")

    @property
    def width(self) -> int:
        """The number of captions of an image that are generated in parallel."""
        return {"greedy": 1, "nucleus": self.count, "beam": max(self.beams, self.count)}[self.method]


@dataclass(frozen=True)
class Caption:
    """A generated caption.

    Attributes:
        text: The caption.
        score: Mean log-probability of its tokens and the end token, at most 0; higher is better.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Hypothesis:
    """Token ids without start and end, and the mean log-probability of the generated tokens and the end token."""

    tokens: tuple[int, ...]
    score: float


class DecodingState(Protocol):
    """Partial captions of a language model, `width` consecutive rows for each image."""

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        """Append `words` (captions,) and return the next logits, (captions, vocabulary).

        `parents` names the row of the previous step that each caption continues.
        """

    def keep(self, images: Tensor) -> None:
        """Continue with the images at these rows only."""


def generate(
    state: DecodingState,
    images: int,
    config: GenerationConfig,
    *,
    start: int,
    end: int,
    suppress: tuple[int, ...] = (),
    prefix: tuple[int, ...] = (),
    image_seeds: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """`config.count` captions of each image, best first; nucleus sampling may give fewer, as duplicates are merged.

    Args:
        state: A state without any token, for `images` times `config.width` captions.
        images: Number of images.
        config: Decoding method and its settings.
        start: Id of the start token.
        end: Id of the end token.
        suppress: Ids of tokens that are never generated.
        prefix: Token ids that every caption begins with. They are not scored.
        image_seeds: One number per image on which its samples depend; by default its row.
    """
    logits = prefill(state, images * config.width, (start, *prefix))
    if config.method != "nucleus":
        return _search(state, logits, images, config, end, suppress, prefix)
    samples = sample(state, logits, image_seeds or range(images), config, end, suppress, prefix)
    return [sorted(dict.fromkeys(group), key=lambda hypothesis: -hypothesis.score) for group in samples]


def prefill(state: DecodingState, rows: int, words: tuple[int, ...]) -> Tensor:
    """Feed tokens that all captions begin with; the logits after the last of them, (rows, vocabulary)."""
    for word in words:
        logits = state.step(torch.full((rows,), word))
    return logits


def _search(
    state: DecodingState,
    logits: Tensor,
    images: int,
    config: GenerationConfig,
    end: int,
    suppress: tuple[int, ...],
    prefix: tuple[int, ...],
) -> list[list[Hypothesis]]:
    """Beam search over a batch of images. Finished images leave the batch."""
    beams = [_Beams(config, prefix, end) for _ in range(images)]
    active = beams
    for length in range(1, config.max_tokens + 1):
        sequences = [tokens for beam in active for tokens in beam.sequences]
        log_probs = _allowed(logits, sequences, config, suppress, end, length)
        totals = torch.tensor([beam.totals for beam in active])  # (images, beams)
        flat_totals = (totals[..., None] + log_probs.view(*totals.shape, -1)).flatten(1)  # (images, beams * vocabulary)
        best, flat = flat_totals.topk(min(2 * config.width, flat_totals.shape[1]), dim=1)
        parents, words = flat // log_probs.shape[1], flat % log_probs.shape[1]
        extensions = zip(best.tolist(), parents.tolist(), words.tolist(), strict=True)
        grown = [
            beam.grow(zip(*extension, strict=True), length) for beam, extension in zip(active, extensions, strict=True)
        ]
        unfinished = [row for row, kept in enumerate(grown) if kept]
        if not unfinished or length == config.max_tokens:
            break
        if len(unfinished) < len(active):
            state.keep(torch.tensor(unfinished))
        rows = [(row * config.width + parent, word) for row in unfinished for parent, word in grown[row]]
        logits = state.step(torch.tensor([word for _, word in rows]), torch.tensor([parent for parent, _ in rows]))
        active = [active[row] for row in unfinished]
    return [[hypothesis for _, hypothesis in beam.finished[: config.count]] for beam in beams]


class _Beams:
    """The partial captions of one image, `width` of them, and its best finished ones."""

    def __init__(self, config: GenerationConfig, prefix: tuple[int, ...], end: int) -> None:
        self.config, self.prefix_length, self.end = config, len(prefix), end
        self.sequences = [prefix] * config.width
        self.totals = [0.0] + [-math.inf] * (config.width - 1)  # all rows are equal at first: one of them may grow
        self.finished: list[tuple[float, Hypothesis]] = []  # with the score by which they are compared

    def grow(self, extensions: Iterable[tuple[float, int, int]], length: int) -> list[tuple[int, int]]:
        """Extend the beams; returns the (beam, token) of each that goes on.

        `extensions` are (total log-probability, beam, token), the most probable first. The result is empty when the
        image is finished: it has `width` captions and no partial one can still beat them.
        """
        kept: list[tuple[float, int, int]] = []
        for total, beam, word in extensions:
            if total == -math.inf or len(kept) == self.config.width:
                break
            if word != self.end:
                kept.append((total, beam, word))
                continue
            hypothesis = Hypothesis(self.sequences[beam][self.prefix_length :], total / length)
            self.finished.append((total / length**self.config.length_penalty, hypothesis))
            if self.config.method == "greedy":
                return []
        self.finished = sorted(self.finished, key=lambda pair: -pair[0])[: self.config.width]
        if not kept or self._is_settled(kept[0][0], length):
            return []
        kept += [(-math.inf, *kept[0][1:])] * (self.config.width - len(kept))
        self.sequences = [(*self.sequences[beam], word) for _, beam, word in kept]
        self.totals = [total for total, _, _ in kept]
        return [(beam, word) for _, beam, word in kept]

    def _is_settled(self, total: float, length: int) -> bool:
        """Whether no partial caption can still enter the best: totals only fall and lengths only grow."""
        if len(self.finished) < self.config.width:
            return False
        longest = self.config.max_tokens if self.config.length_penalty > 0 else length + 1
        return self.finished[-1][0] >= total / longest**self.config.length_penalty


def sample(
    state: DecodingState,
    logits: Tensor,
    image_seeds: Sequence[int],
    config: GenerationConfig,
    end: int,
    suppress: tuple[int, ...] = (),
    prefix: tuple[int, ...] = (),
) -> list[list[Hypothesis]]:
    """`config.count` samples for each image, in the order of sampling and with duplicates.

    `logits` (captions, vocabulary) are those after start and prefix. There is one of `image_seeds` for each image, on
    which its samples depend.
    """
    rows, sampler = len(image_seeds) * config.width, NucleusSampler(config, image_seeds)
    sequences: list[tuple[int, ...]] = [prefix] * rows
    totals, lengths, unfinished = torch.zeros(rows), torch.zeros(rows), torch.ones(rows, dtype=torch.bool)
    for length in range(1, config.max_tokens + 1):
        log_probs = _allowed(logits, sequences, config, suppress, end, length)
        sampled = sampler(log_probs)
        totals += torch.where(unfinished, log_probs.gather(1, sampled[:, None]).squeeze(1), 0.0)
        lengths += unfinished
        unfinished &= sampled != end
        sequences = [
            (*tokens, token) if grows else tokens
            for tokens, token, grows in zip(sequences, sampled.tolist(), unfinished, strict=True)
        ]
        if not unfinished.any():
            break
        if length < config.max_tokens:
            logits = state.step(sampled)
    scores = (totals / lengths).tolist()
    samples = [Hypothesis(tokens[len(prefix) :], score) for tokens, score in zip(sequences, scores, strict=True)]
    return [samples[row : row + config.width] for row in range(0, rows, config.width)]


class NucleusSampler:
    """Nucleus sampling (Holtzman et al. 2020) with a random generator per image.

    An image's samples depend on the config's seed and the image's own, and not on the rest of the batch.
    """

    def __init__(self, config: GenerationConfig, image_seeds: Sequence[int]) -> None:
        self.config = config
        seeds = [(config.seed * 1_000_003 + image_seed) % 2**63 for image_seed in image_seeds]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Sample the next token of each caption, (captions,), from (captions, vocabulary) on the CPU."""
        probabilities = nucleus((log_probs / self.config.temperature).softmax(-1), self.config.top_p)
        uniform = torch.cat([torch.rand(self.config.width, 1, generator=source) for source in self._generators])
        cumulative = probabilities.double().cumsum(-1)  # in float32, rounding can select a token of probability 0
        return (cumulative <= uniform * cumulative[:, -1:]).sum(-1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities (rows, vocabulary) with all set to 0 but the fewest tokens that reach a mass of `top_p`."""
    if top_p == 1:
        return probabilities
    ordered, order = probabilities.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    return torch.zeros_like(probabilities).scatter(1, order, ordered)


def _allowed(
    logits: Tensor,
    sequences: list[tuple[int, ...]],
    config: GenerationConfig,
    suppress: tuple[int, ...],
    end: int,
    length: int,
) -> Tensor:
    """Log-probabilities (rows, vocabulary), -inf for tokens that may not follow; the last token must be the end."""
    log_probs = logits.float().log_softmax(-1).cpu()
    log_probs[:, list(suppress)] = -torch.inf
    if length == config.max_tokens:
        last = log_probs[:, end].clone()
        log_probs.fill_(-torch.inf)
        log_probs[:, end] = last
        return log_probs
    if config.no_repeat:
        for row, tokens in enumerate(sequences):
            if banned := repeats(tokens, config.no_repeat):
                log_probs[row, banned] = -torch.inf
    return log_probs


def repeats(words: tuple[int, ...], size: int) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens which `words` already contains.

    >>> repeats((1, 2, 3, 1, 2), 3)
    [3]
    """
    if len(words) < size:
        return []
    tail = words[len(words) - size + 1 :]
    return [words[i + size - 1] for i in range(len(words) - size + 1) if words[i : i + size - 1] == tail]
