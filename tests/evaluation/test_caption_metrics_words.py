"""The words of captions: the fallback against Stanford's tokenizer where Java is, and what they both hold."""

from __future__ import annotations

import doctest
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import ConfigError, DiptychError
from diptych.evaluation.metrics import java, ptb, ptb_fallback
from diptych.evaluation.metrics.ptb import tokenize
from diptych.evaluation.metrics.ptb_fallback import fallback_tokens

# As Stanford's tokenizer (CoreNLP 3.4.1) cuts them, punctuation left out as coco-caption does: text -> words.
CUT = {
    "A child in a pink dress is climbing up stairs in an entry way .": (
        "a child in a pink dress is climbing up stairs in an entry way"
    ),
    "A dog's ball, the dogs' ball; it's red-white!": "a dog 's ball the dogs ball it 's red-white",
    "They can't, won't and don't; cannot and gonna": "they ca n't wo n't and do n't can not and gon na",
    'A man with a "stop" sign, (left) and [right]': "a man with a stop sign -lrb- left -rrb- and -lsb- right -rsb-",
    "Mr. Smith and Dr. Jones at 5 p.m. in the U.S. with a T.V.": (
        "mr. smith and dr. jones at 5 p.m. in the u.s. with a t.v."
    ),
    "He is no. 5. She said no.": "he is no. 5 she said no",
    "The letter P. is on plan B.": "the letter p. is on plan b.",
    "50% of $1,000.50 at 10:30pm, #7 & AT&T": "50 % of $ 1,000.50 at 10:30 pm # 7 & at&t",
    "a 12-year-old in a t-shirt -- and x-ray - ok": "a 12-year-old in a t-shirt and x-ray ok",
    "rock 'n' roll o'clock the '90s O'Neill": "rock 'n' roll o'clock the '90s o'neill",
    "“curly” ‘quotes’ don’t … stop—now": "curly quotes do n't stop now",
    "wait?! what?? a/b and/or w/ it": "wait ?! what ?? a/b and/or w / it",
    "dog.The cat flickr.com image.jpg": "dog.the cat flickr.com image.jpg",
    "café naïve 日本語 😀 dog🐶": "café naïve 日本語 dog",
    "5€ and £3 for 50¢": "5 $ and # 3 for 50 cents",
    "a &amp; b": "a & b",
    "": "",
    " . ": "",
}

has_ptb = pytest.mark.skipif(
    not java.runs("tokenizer", "stanford-corenlp-3.4.1.jar"), reason="no Java, or no pycocoevalcap"
)


@pytest.mark.parametrize("module", [ptb, ptb_fallback], ids=lambda module: module.__name__)
def test_the_examples_of_the_docstrings_hold(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


@pytest.mark.parametrize("text", CUT)
def test_the_fallback_tokenizes_as_stanfords_tokenizer_does(text: str) -> None:
    assert " ".join(tokenize([text], "fallback")[0][0]) == CUT[text]


@has_ptb
def test_stanfords_tokenizer_gives_a_line_of_words_for_each_text() -> None:
    texts = [*CUT, "two\nlines\u2028in one", "\x85", "tab\there"]
    words, name = tokenize(texts, "ptb")
    assert name == "ptb"
    assert [" ".join(tokens) for tokens in words[: len(CUT)]] == list(CUT.values())
    assert words[len(CUT) :] == [["two", "lines", "in", "one"], [], ["tab", "here"]]


WORDS = """a dog Dog's dogs' t-shirt it's can't cannot red, red. "red" (red) 3 1,000 5'6 U.S. Mr. St. St no. . , ! ? ...
- -- & # $5 5% 10:30 rock 'n' 'tis o'clock B&W w/ and/or ?! don’t “red” e-mail she'll we've I'm gonna 1990's"""


@has_ptb
def test_the_fallback_agrees_with_stanfords_tokenizer_on_five_hundred_generated_captions() -> None:
    made: list[str] = []

    @given(st.lists(st.sampled_from(WORDS.split()), max_size=9))
    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    def make(words: list[str]) -> None:
        made.append(" ".join(words))

    make()
    theirs, ours = tokenize(made, "ptb")[0], tokenize(made, "fallback")[0]
    wrong = [text for text, expected, other in zip(made, theirs, ours, strict=True) if expected != other]
    assert len(wrong) <= 0.01 * len(made), "\n".join(wrong)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_token_is_empty_or_has_a_space_or_an_upper_case_letter(text: str) -> None:
    words = tokenize([text], "fallback")[0][0]
    assert all(word and word == word.lower() and not any(c.isspace() for c in word) for word in words)


@given(st.lists(st.text(string.ascii_letters, min_size=1, max_size=8), max_size=8))
@settings(max_examples=100, deadline=None)
def test_plain_words_stay_whole_whatever_is_between_them(words: list[str]) -> None:
    special = set(ptb_fallback._JOINED.split("|"))
    words = [word for word in words if word.lower() not in special]
    assert tokenize(["  ".join(words) + "\n"], "fallback")[0][0] == [word.lower() for word in words]


def test_every_letter_and_digit_of_a_text_comes_back() -> None:
    text = "A man's 2 dogs (red & white) can't run 3.5 miles; he'd stop at St. John's!"
    kept = "".join(fallback_tokens(text)).replace("-lrb-", "").replace("-rrb-", "")
    assert [c for c in kept if c.isalnum()] == [c for c in text.lower() if c.isalnum()]


def test_an_unknown_tokenizer_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="auto, fallback, ptb"):
        tokenize(["a"], "treebank")


def test_no_text_gives_no_words() -> None:
    assert tokenize([], "auto")[0] == []


@pytest.mark.skipif(java.java() is None, reason="no Java")
def test_a_java_program_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="nowhere"):
        java.run_java("-jar", str(tmp_path / "nowhere.jar"))
