"""Penn Treebank tokenization of captions without Java, equivalent to Stanford CoreNLP 3.4.1 on captions."""

from __future__ import annotations

import re

# Abbreviations: their period belongs to the token wherever they occur.
_ABBREVIATIONS = (
    "mrs? ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt mt capt ste? ave pres "
    "lieut hon brig cmdr pfc spc supts? det jr sr bros esq vs alex wm jos cie etc al seq bldg pp blvd rd inc cos? "
    "corp ltd plc dept assn univ intl ft est ext tel jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed "
    "thu thurs fri ariz calif colo conn fla kans? mich minn mont neb nev okla penn tenn wash wisc? wyo e\\.g i\\.e "
    "ph\\.d"
).replace(" ", "|")
# Sentence starters: a period between a single letter and one of these ends the sentence before it.
_STARTS = "(?-i:A|An|And|As|At|But|He|Her|Here|His|I|In|It|No|On|One|She|That|The|There|They|This|Two|We|With)"
_JOINED = "cannot|gonna|wanna|gotta|lemme|gimme"
_QUOTE = "['’]"
_DASH = "[-–—]"

# The first alternative that matches is the token; matching ignores case except inside `(?-i:`.
_TOKENS = re.compile(
    "|".join(
        (
            rf"(?!(?:{_JOINED})\b)[a-z]+(?!\S)",  # plain words, the most common case
            r"&(?:amp|lt|gt|quot|nbsp);",
            r"https?://[^\s\"<>|()]+|www\.[^\s\"<>|()]+\.[a-z]{2,4}\b|[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
            r"[#@][a-z]\w*|</?[a-z]\w*/?>",
            r"[:;=]-?[()](?!\w)|:[dp]\b",
            r"can(?=not\b)|gon(?=na\b)|wan(?=na\b)|got(?=ta\b)|lem(?=me\b)|gim(?=me\b)",
            rf"{_QUOTE}t(?=is\b|was\b)|{_QUOTE}n{_QUOTE}|{_QUOTE}(?:em|till?|cause|n|[2-9]0s)\b",
            rf"{_QUOTE}(?:s|d|m|ll|re|ve)\b|n['’`]t\b|[a-z]+?(?=n['’`]t\b)",
            rf"y{_QUOTE}(?=[a-z])|ol{_QUOTE}(?!\w)|c{_QUOTE}mon\b|ma{_QUOTE}am\b|[a-hj-z]{_QUOTE}[a-z]{{2,}}",
            r"(?-i:[A-Z]+&[A-Z]+)",
            rf"(?:[a-z]\.)+[a-z]\.|[a-z]\.(?!\w|\s+{_STARTS}\b)",  # U.S., plan B.
            rf"(?:{_ABBREVIATIONS})\.(?!\w)|nos?\.(?=\s?\d)",
            r"\d+:\d+(?=[ap]m\b)|[+-]?(?:\d+(?:[.,:/]\d+)+|(?<!\w)\.\d+)|[+-]\d+",
            r"[^\W_](?:\.[^\W_])+\b|[^\W_]+(?:[-_/][^\W_]+)+|[^\W\d_][^\W_]*(?:[.!?][^\W\d_][^\W_]*)+|[^\W_]+",
            rf"\.(?:\s?\.){{2,}}|…|--+|{_DASH}|[?!]+|\*+|\#+|_+|''|``|\S",
        )
    ),
    re.IGNORECASE,
)
_REPLACEMENTS = {
    **{"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", '"': "''", "–": "--", "—": "--", "…": "..."},
    **{"“": "``", "”": "''", "‘": "`", "«": "``", "»": "''", "£": "#", "€": "$", "¢": "cents", "½": "1/2"},
    **{"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&nbsp;": ""},
}
_DROPPED = re.compile("[\ufe00-\ufe0f\u200b-\u200d\U00010000-\U0010ffff]+")  # emoji and their joiners


def fallback_tokens(text: str) -> list[str]:
    """The tokens of one line, lower-cased, punctuation included.

    Opening and closing quotes are not distinguished; metrics remove them as punctuation.

    >>> fallback_tokens("Mr. Smith can't see the dogs' red-white ball...")
    ['mr.', 'smith', 'ca', "n't", 'see', 'the', 'dogs', "'", 'red-white', 'ball', '...']
    """
    tokens = (_normalized(token) for token in _TOKENS.findall(_DROPPED.sub(" ", text)))
    return [token for token in tokens if token]


def _normalized(token: str) -> str:
    if token.isalnum():
        return "1/2" if token == "½" else token.lower()
    if token[0] in ".-" and set(token) <= set(". -"):
        return "..." if "." in token and len(token) > 1 else "--" if 1 < len(token) < 5 else token
    token = _REPLACEMENTS.get(token, token).lower().replace("’", "'")
    return token.replace("(", "-lrb-").replace(")", "-rrb-")
