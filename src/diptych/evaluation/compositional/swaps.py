"""Wrong captions from right ones by one small change: swapped or replaced words, a reversed relation, a negation.

After SugarCrepe (Hsieh et al. 2023) and FOIL (Shekhar et al. 2017), but from the word lists below instead of a language
model, so the result is deterministic and needs no network. A word is not inserted if another caption of the same image
uses it, since the changed caption could then be true.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AGES = (("young",), ("old", "elderly"))

# The words of one row are near-synonyms and do not replace each other; the rows of one group exclude each other.
ATTRIBUTES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("red",), ("orange",), ("yellow",), ("green",), ("turquoise",), ("blue",), ("purple",), ("pink",), ("brown",),
        ("black",), ("white",), ("grey", "gray"),
    ),
    (("small", "little", "tiny"), ("large", "big", "huge")),
    _AGES,
    (("wooden",), ("metal",), ("brick",), ("stone",), ("plastic",)),
    (("empty",), ("full", "crowded")),
    (("wet",), ("dry",)),
    (("tall",), ("short",)),
    (("two",), ("three",), ("four",), ("five",)),
)  # fmt: skip

NOUNS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("man", "guy"), ("woman", "lady")),
    (("men", "guys"), ("women", "ladies")),
    (("boy",), ("girl",)),
    (("boys",), ("girls",)),
    (("dog", "puppy"), ("cat", "kitten"), ("horse", "pony"), ("cow",), ("sheep",), ("goat",), ("bird",), ("monkey",)),
    (("dogs", "puppies"), ("cats", "kittens"), ("horses", "ponies"), ("cows",), ("goats",), ("birds",), ("monkeys",)),
    (("car", "truck", "van"), ("bus",), ("bicycle", "bike"), ("motorcycle", "motorbike"), ("boat",), ("train",)),
    (("beach", "sand"), ("forest", "woods"), ("street", "road", "sidewalk"), ("field", "grass")),
    (("water", "ocean", "sea", "lake", "river"), ("snow",), ("sand",), ("grass",)),
    (("football",), ("basketball",), ("baseball",), ("tennis",), ("hockey",)),
    (("shirt",), ("coat",), ("dress",), ("jacket",)),
    (("chair",), ("bench",), ("couch", "sofa"), ("bed",)),
    (
        ("circle",), ("square",), ("triangle",), ("star",), ("heart",), ("house",), ("tree",), ("fish",), ("flower",),
        ("mushroom",), ("balloon",),
    ),
)  # fmt: skip

RELATIONS: tuple[tuple[str, str], ...] = (
    ("in front of", "behind"),
    ("to the left of", "to the right of"),
    ("on top of", "underneath"),
    ("above", "below"),
    ("over", "under"),
    ("inside", "outside"),
    ("indoors", "outdoors"),
    ("up the", "down the"),
    ("up a", "down a"),
    ("into", "out of"),
    ("towards", "away from"),
    ("toward", "away from"),
    ("next to", "far away from"),
    ("beside", "far away from"),
)

_ANIMATE = _words("man woman boy girl child baby toddler lady dog puppy cat horse cow sheep goat bird monkey")
_ANIMATE_MANY = _words("men women boys girls children babies dogs puppies cats horses cows goats birds monkeys")
# Swapping two nouns changes the meaning if one of these is between them, and may not if one of `_TWO_WAYS` is.
_ONE_WAY = _words(
    "chases chasing chased carries carrying holds holding lifts lifting pushes pushing pulls pulling feeds feeding "
    "pets petting follows following rides riding watches watching leads leading throws throwing bites biting kicks "
    "kicking tackles tackling licks licking behind over above under below at onto while as"
)
_TWO_WAYS = _words("and or near beside , . ; together")
_THINGS = frozenset(word for group in NOUNS[4:] for row in group for word in row)

_NEVER_OLD = _words("boy boys girl girls child children kid kids baby babies toddler puppy")

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[^A-Za-z]+")

Change = Callable[[list[str], frozenset[str], random.Random], list[str] | None]


def wrong_captions(caption: str, others: Iterable[str] = (), *, seed: str = "") -> dict[str, str]:
    """One wrong caption for each kind of change that the caption allows.

    Args:
        caption: a true caption of an image.
        others: the other captions of the image; their words are not inserted.
        seed: selects among the places where a caption can be changed.

    Returns:
        Kind (a key of `KINDS`) to wrong caption.

    >>> wrong_captions("A black dog chases a white cat")["swapped attributes"]
    'A white dog chases a black cat'
    """
    tokens = _WORD.findall(" ".join(caption.split()))
    known = frozenset(token.lower() for text in (caption, *others) for token in _WORD.findall(text))
    wrong = {}
    for kind, change in KINDS.items():
        changed = change(list(tokens), known, random.Random(f"{seed} {kind} {caption}"))
        if changed and (text := "".join(_with_articles(changed))).lower() != "".join(tokens).lower():
            wrong[kind] = text
    return wrong


def _swap_nouns(tokens: list[str], _known: frozenset[str], rng: random.Random) -> list[str] | None:
    """Swap agent and patient: "a dog chases a man" becomes "a man chases a dog"."""
    words = [token.strip().lower() for token in tokens]
    places = [
        (first, second)
        for animate in (_ANIMATE, _ANIMATE_MANY)
        for first, second in _pairs([i for i, word in enumerate(words) if word in animate])
        if words[first] != words[second]
        and _ONE_WAY & set(words[first:second])
        and not _TWO_WAYS & set(words[first:second])
    ]
    return _swapped(tokens, rng.choice(places)) if places else None


def _swap_attributes(tokens: list[str], _known: frozenset[str], rng: random.Random) -> list[str] | None:
    """Swap two attributes: "a black dog and a white cat" becomes "a white dog and a black cat"."""
    places = [
        (first, second)
        for group in ATTRIBUTES
        for first, second in _pairs(_places_of(tokens, group))
        if _row(tokens[first], group) != _row(tokens[second], group)
        and (_head(tokens, first) or "") != (_head(tokens, second) or "")
        and _head(tokens, first)
        and _head(tokens, second)
    ]
    return _swapped(tokens, rng.choice(places)) if places else None


def _replace_noun(tokens: list[str], known: frozenset[str], rng: random.Random) -> list[str] | None:
    return _replaced(tokens, NOUNS, known, rng)


def _replace_attribute(tokens: list[str], known: frozenset[str], rng: random.Random) -> list[str] | None:
    grown = [word.strip().lower() for word in tokens if word.strip().lower() not in _NEVER_OLD]
    ages = len(grown) == len(tokens)  # "an old child" is implausible, so the text alone would give it away
    return _replaced(tokens, [group for group in ATTRIBUTES if ages or group != _AGES], known, rng)


def _turn_relation(tokens: list[str], known: frozenset[str], rng: random.Random) -> list[str] | None:
    """Replace a relation by its opposite: "in front of" by "behind", "over" by "under"."""
    text = "".join(tokens)
    turned = [*RELATIONS, *((right, left) for left, right in RELATIONS)]
    matches = []
    for old, new in turned:
        if set(new.split()) <= known:
            continue
        matches += [(match.start(), match.end(), new) for match in re.finditer(rf"\b{old}\b", text, re.IGNORECASE)]
    longest = [match for match in matches if not any(_within(match, other) for other in matches)]
    if not longest:
        return None
    start, end, new = rng.choice(longest)
    return [text[:start], _like(text[start:end], new), text[end:]]


def _negate(tokens: list[str], _known: frozenset[str], _rng: random.Random) -> list[str] | None:
    """Negate: "is running" becomes "is not running", "with a hat" "without a hat", and "a dog" "no dog"."""
    text = "".join(tokens)
    for old, new in ((r"\b(is|are) (?=\w+ing\b)", r"\1 not "), (r"\bwith (?=an? )", "without ")):
        if re.search(old, text):
            return [re.sub(old, new, text, count=1)]
    words = [token.lower() for token in tokens]
    for i, word in enumerate(words[:-2]):
        if word in ("a", "an", "one") and words[i + 2] in _ANIMATE | _THINGS:
            return [*tokens[:i], _like(tokens[i], "no"), *tokens[i + 1 :]]
    return None


KINDS: dict[str, Change] = {
    "swapped nouns": _swap_nouns,
    "swapped attributes": _swap_attributes,
    "replaced noun": _replace_noun,
    "replaced attribute": _replace_attribute,
    "relation": _turn_relation,
    "negation": _negate,
}


def _replaced(
    tokens: list[str], groups: Sequence[Sequence[Sequence[str]]], known: frozenset[str], rng: random.Random
) -> list[str] | None:
    """Replace a word by one from another row of its group that no caption of the image uses."""
    places = []
    for group in groups:
        free = [row[0] for row in group if not known & set(row)]
        places += [(i, free) for i in _places_of(tokens, group) if free]
    if not places:
        return None
    i, free = rng.choice(places)
    return [*tokens[:i], _like(tokens[i], rng.choice(free)), *tokens[i + 1 :]]


def _places_of(tokens: Sequence[str], group: Sequence[Sequence[str]]) -> list[int]:
    return [i for i, token in enumerate(tokens) if _row(token, group) is not None]


def _row(word: str, group: Sequence[Sequence[str]]) -> int | None:
    return next((i for i, row in enumerate(group) if word.lower() in row), None)


def _head(tokens: Sequence[str], start: int) -> str | None:
    """The noun that an attribute modifies, skipping attributes; None before "and", a preposition or punctuation."""
    for token in tokens[start + 1 :]:
        word = token.strip().lower()
        if not word:
            continue
        if any(_row(word, group) is not None for group in ATTRIBUTES):
            continue
        return word if word.isalpha() and word not in ("and", "or", "of", "with", "in", "on", "is", "are") else None
    return None


def _pairs(places: Sequence[int]) -> list[tuple[int, int]]:
    return [(first, second) for first in places for second in places if first < second]


def _swapped(tokens: list[str], places: tuple[int, int]) -> list[str]:
    first, second = places
    changed = list(tokens)
    changed[first], changed[second] = _like(tokens[first], tokens[second]), _like(tokens[second], tokens[first])
    return changed


def _like(old: str, new: str) -> str:
    """`new` with the capitalization of `old`."""
    return new[0].upper() + new[1:] if old[0].isupper() else new[0].lower() + new[1:]


def _with_articles(tokens: Sequence[str]) -> list[str]:
    """Correct "a" and "an" before the changed words."""
    text = "".join(tokens)
    text = re.sub(r"\b([Aa])n (?=[b-df-hj-np-tv-z])", r"\1 ", text)
    return [re.sub(r"\b([Aa]) (?=(?:orange|old|elderly|empty|ocean)\b)", r"\1n ", text)]


def _within(place: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
    return place != other and other[0] <= place[0] and place[1] <= other[1] and place[:2] != other[:2]
