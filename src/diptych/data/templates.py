"""Prompt templates: sentences that turn a class name into text like the captions a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diptych.errors import ConfigError, did_you_mean

# Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), and the notebook
# "Prompt Engineering for ImageNet" of github.com/openai/CLIP (MIT): the eighty templates of its published ImageNet
# results, and the seven that together do nearly as well.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "one": ("a photo of a {}.",),
    "seven": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    "eighty": (
        "a bad photo of a {}.",
        "a photo of many {}.",
        "a sculpture of a {}.",
        "a photo of the hard to see {}.",
        "a low resolution photo of the {}.",
        "a rendering of a {}.",
        "graffiti of a {}.",
        "a bad photo of the {}.",
        "a cropped photo of the {}.",
        "a tattoo of a {}.",
        "the embroidered {}.",
        "a photo of a hard to see {}.",
        "a bright photo of a {}.",
        "a photo of a clean {}.",
        "a photo of a dirty {}.",
        "a dark photo of the {}.",
        "a drawing of a {}.",
        "a photo of my {}.",
        "the plastic {}.",
        "a photo of the cool {}.",
        "a close-up photo of a {}.",
        "a black and white photo of the {}.",
        "a painting of the {}.",
        "a painting of a {}.",
        "a pixelated photo of the {}.",
        "a sculpture of the {}.",
        "a bright photo of the {}.",
        "a cropped photo of a {}.",
        "a plastic {}.",
        "a photo of the dirty {}.",
        "a jpeg corrupted photo of a {}.",
        "a blurry photo of the {}.",
        "a photo of the {}.",
        "a good photo of the {}.",
        "a rendering of the {}.",
        "a {} in a video game.",
        "a photo of one {}.",
        "a doodle of a {}.",
        "a close-up photo of the {}.",
        "a photo of a {}.",
        "the origami {}.",
        "the {} in a video game.",
        "a sketch of a {}.",
        "a doodle of the {}.",
        "a origami {}.",
        "a low resolution photo of a {}.",
        "the toy {}.",
        "a rendition of the {}.",
        "a photo of the clean {}.",
        "a photo of a large {}.",
        "a rendition of a {}.",
        "a photo of a nice {}.",
        "a photo of a weird {}.",
        "a blurry photo of a {}.",
        "a cartoon {}.",
        "art of a {}.",
        "a sketch of the {}.",
        "a embroidered {}.",
        "a pixelated photo of a {}.",
        "itap of the {}.",
        "a jpeg corrupted photo of the {}.",
        "a good photo of a {}.",
        "a plushie {}.",
        "a photo of the nice {}.",
        "a photo of the small {}.",
        "a photo of the weird {}.",
        "the cartoon {}.",
        "art of the {}.",
        "a drawing of the {}.",
        "a photo of the large {}.",
        "a black and white photo of a {}.",
        "the plushie {}.",
        "a dark photo of a {}.",
        "itap of a {}.",
        "graffiti of the {}.",
        "a toy {}.",
        "itap of my {}.",
        "a photo of a cool {}.",
        "a photo of a small {}.",
        "a tattoo of the {}.",
    ),
}


def templates(name: str) -> tuple[str, ...]:
    """The templates of a set, each with `{}` in place of the class name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"unknown templates '{name}'; {did_you_mean(name, TEMPLATES)}")
    return TEMPLATES[name]


def fill(templates: Sequence[str], names: Iterable[str]) -> list[str]:
    """Every template filled with every class name, class by class: (classes * templates,).

    >>> fill(("a photo of a {}.", "the {}."), ["cat", "dog"])
    ['a photo of a cat.', 'the cat.', 'a photo of a dog.', 'the dog.']
    """
    return [template.replace("{}", name) for name in names for template in templates]
