"""How captions are written word by word: greedily, by beam search, or drawn from the nucleus; many at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diptych.errors import ConfigError, did_you_mean

METHODS = ("beam", "greedy", "nucleus")
_LIMITS: dict[str, tuple[int | float, int | float]] = {  # setting -> smallest and largest value
    "beams": (1, 256),
    "count": (1, 10_000),
    "max_tokens": (1, 4097),  # one more than a recipe's, for the end
    "temperature": (1e-3, 1e3),
    "top_p": (1e-6, 1.0),
    "seed": (0, 2**63 - 1),
    "length_penalty": (-10.0, 10.0),
    "no_repeat": (0, 1000),
}


@dataclass(frozen=True)
class GenerationConfig:
    """How captions are to be written.

    `length_penalty` is the power of a caption's length that its log-probability is divided by before captions are
    compared: 1 compares by the mean of a word, 0 prefers short ones (Wu et al. 2016). `no_repeat` forbids to write the
    same so many words twice in a caption; 0 allows it.
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
            raise ConfigError(
                f"no way to write captions is called '{self.method}'; {did_you_mean(self.method, METHODS)}"
            )
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            kind = int if isinstance(low, int) else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                raise ConfigError(f"{name} is {value!r}; it must be at least {low:,} and at most {high:,}")
        if self.method == "greedy" and self.count > 1:
            raise ConfigError(f"greedy writes one caption, not {self.count}; for several take beam or nucleus")

    @property
    def width(self) -> int:
        """How many captions of a picture are in the making at once."""
        return {"greedy": 1, "nucleus": self.count, "beam": max(self.beams, self.count)}[self.method]


@dataclass(frozen=True)
class Caption:
    """A caption of a picture, and the mean log-probability of its words (0 at most; better ones are higher)."""

    text: str
    score: float


@dataclass(frozen=True)
class Written:
    """A caption as numbers, without start and end, and the mean log-probability of what was written, its end too."""

    tokens: tuple[int, ...]
    score: float


class DecodingState(Protocol):
    """Captions in the making, `width` for each picture, one picture's after another's."""

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        """(captions, words) logits of the next word, after one more of each; `parents` say which captions go on."""

    def keep(self, pictures: Tensor) -> None:
        """Go on with these pictures alone."""


def write(
    spelling: DecodingState,
    pictures: int,
    wish: GenerationConfig,
    *,
    start: int,
    end: int,
    never: tuple[int, ...] = (),
    prefix: tuple[int, ...] = (),
    numbers: Sequence[int] | None = None,
) -> list[list[Written]]:
    """`wish.count` captions of each picture, best first; fewer where a nucleus drew the same one twice.

    Args:
        start, end: the words that begin and end a caption.
        never: words that are not to be written.
        prefix: words that every caption begins with; they are not scored.
        numbers: one for each picture, on which its draws depend; its place here when not given.
    """
    logits = read(spelling, pictures * wish.width, (start, *prefix))
    if wish.method != "nucleus":
        return _search(spelling, logits, pictures, wish, end, never, prefix)
    drawn = draw(spelling, logits, numbers or range(pictures), wish, end, never, prefix)
    return [sorted(dict.fromkeys(found), key=lambda written: -written.score) for found in drawn]


def read(spelling: DecodingState, rows: int, words: tuple[int, ...]) -> Tensor:
    """The logits after words that all captions begin with: (rows, words)."""
    for word in words:
        logits = spelling.step(torch.full((rows,), word))
    return logits


def _search(
    spelling: DecodingState,
    logits: Tensor,
    pictures: int,
    wish: GenerationConfig,
    end: int,
    never: tuple[int, ...],
    prefix: tuple[int, ...],
) -> list[list[Written]]:
    """Beam search for many pictures at once; those that are done are not computed any further."""
    beams = [_Beams(wish, prefix, end) for _ in range(pictures)]
    alive = beams
    for length in range(1, wish.max_tokens + 1):
        known = _allowed(logits, [words for each in alive for words in each.said], wish, never, end, length)
        totals = torch.tensor([each.totals for each in alive])  # (pictures, beams)
        every = (totals[..., None] + known.view(*totals.shape, -1)).flatten(1)  # (pictures, beams * words)
        best, flat = every.topk(min(2 * wish.width, every.shape[1]), dim=1)
        parents, words = flat // known.shape[1], flat % known.shape[1]
        ways = zip(best.tolist(), parents.tolist(), words.tolist(), strict=True)
        grown = [each.grow(zip(*way, strict=True), length) for each, way in zip(alive, ways, strict=True)]
        going = [row for row, kept in enumerate(grown) if kept]
        if not going or length == wish.max_tokens:
            break
        if len(going) < len(alive):
            spelling.keep(torch.tensor(going))
        rows = [(row * wish.width + parent, word) for row in going for parent, word in grown[row]]
        logits = spelling.step(torch.tensor([word for _, word in rows]), torch.tensor([parent for parent, _ in rows]))
        alive = [alive[row] for row in going]
    return [[written for _, written in each.done[: wish.count]] for each in beams]


class _Beams:
    """A picture's captions in the making, `width` of them, and the best of those that have come to their end."""

    def __init__(self, wish: GenerationConfig, prefix: tuple[int, ...], end: int) -> None:
        self.wish, self.begun, self.end = wish, len(prefix), end
        self.said = [prefix] * wish.width
        self.totals = [0.0] + [-math.inf] * (wish.width - 1)  # all are alike at first: only one may go on
        self.done: list[tuple[float, Written]] = []  # each with what it is compared by

    def grow(self, likeliest: Iterable[tuple[float, int, int]], length: int) -> list[tuple[int, int]]:
        """Take the likeliest ways to go on, each a total with beam and word: (beam, word) of those that are followed.

        None are when the picture is done: it has `width` captions, and none in the making can become better.
        """
        kept: list[tuple[float, int, int]] = []
        for total, beam, word in likeliest:
            if total == -math.inf or len(kept) == self.wish.width:
                break
            if word != self.end:
                kept.append((total, beam, word))
                continue
            finished = Written(self.said[beam][self.begun :], total / length)
            self.done.append((total / length**self.wish.length_penalty, finished))
            if self.wish.method == "greedy":
                return []
        self.done = sorted(self.done, key=lambda pair: -pair[0])[: self.wish.width]
        if not kept or self._is_settled(kept[0][0], length):
            return []
        kept += [(-math.inf, *kept[0][1:])] * (self.wish.width - len(kept))
        self.said = [(*self.said[beam], word) for _, beam, word in kept]
        self.totals = [total for total, _, _ in kept]
        return [(beam, word) for _, beam, word in kept]

    def _is_settled(self, total: float, length: int) -> bool:
        """Whether no caption in the making can still come among the best: a total only falls, a length only grows."""
        if len(self.done) < self.wish.width:
            return False
        longest = self.wish.max_tokens if self.wish.length_penalty > 0 else length + 1
        return self.done[-1][0] >= total / longest**self.wish.length_penalty


def draw(
    spelling: DecodingState,
    logits: Tensor,
    numbers: Sequence[int],
    wish: GenerationConfig,
    end: int,
    never: tuple[int, ...] = (),
    prefix: tuple[int, ...] = (),
) -> list[list[Written]]:
    """`wish.count` captions of each picture, in no order, the same one perhaps more than once.

    Each picture has one of the `numbers`, on which its draws depend.
    """
    rows, draws = len(numbers) * wish.width, Draws(wish, numbers)
    said: list[tuple[int, ...]] = [prefix] * rows
    totals, lengths, open_ = torch.zeros(rows), torch.zeros(rows), torch.ones(rows, dtype=torch.bool)
    for length in range(1, wish.max_tokens + 1):
        known = _allowed(logits, said, wish, never, end, length)
        chosen = draws(known)
        totals += torch.where(open_, known.gather(1, chosen[:, None]).squeeze(1), 0.0)
        lengths += open_
        open_ &= chosen != end
        said = [
            (*words, word) if going else words for words, word, going in zip(said, chosen.tolist(), open_, strict=True)
        ]
        if not open_.any():
            break
        if length < wish.max_tokens:
            logits = spelling.step(chosen)
    scores = (totals / lengths).tolist()
    drawn = [Written(words[len(prefix) :], score) for words, score in zip(said, scores, strict=True)]
    return [drawn[at : at + wish.width] for at in range(0, rows, wish.width)]


class Draws:
    """Words drawn from the fewest that together have `top_p` of the probability (Holtzman et al. 2020).

    The chances of each picture come from the seed and a number of its own, whichever others it is drawn beside.
    """

    def __init__(self, wish: GenerationConfig, numbers: Sequence[int]) -> None:
        self.wish = wish
        seeds = [(wish.seed * 1_000_003 + number) % 2**63 for number in numbers]
        self._chances = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, known: Tensor) -> Tensor:
        """The next word of each caption: (captions,), from their log-probabilities on the CPU, (captions, words)."""
        likely = nucleus((known / self.wish.temperature).softmax(-1), self.wish.top_p)
        chances = torch.cat([torch.rand(self.wish.width, 1, generator=each) for each in self._chances])
        reached = likely.double().cumsum(-1)  # float32 rounds: now and then a word of no probability would be drawn
        return (reached <= chances * reached[:, -1:]).sum(-1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities (rows, words) with 0 for all but the fewest words that together have at least `top_p`."""
    if top_p == 1:
        return probabilities
    ordered, places = probabilities.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    return torch.zeros_like(probabilities).scatter(1, places, ordered)


def _allowed(
    logits: Tensor, said: list[tuple[int, ...]], wish: GenerationConfig, never: tuple[int, ...], end: int, length: int
) -> Tensor:
    """Log-probabilities (rows, words), -inf for words that may not come; at the last place only the end may."""
    known = logits.float().log_softmax(-1).cpu()
    known[:, list(never)] = -torch.inf
    if length == wish.max_tokens:
        last = known[:, end].clone()
        known.fill_(-torch.inf)
        known[:, end] = last
        return known
    if wish.no_repeat:
        for row, words in enumerate(said):
            if banned := repeats(words, wish.no_repeat):
                known[row, banned] = -torch.inf
    return known


def repeats(words: tuple[int, ...], size: int) -> list[int]:
    """The words that would repeat `size` words of a caption.

    >>> repeats((1, 2, 3, 1, 2), 3)
    [3]
    """
    if len(words) < size:
        return []
    tail = words[len(words) - size + 1 :]
    return [words[at + size - 1] for at in range(len(words) - size + 1) if words[at : at + size - 1] == tail]
