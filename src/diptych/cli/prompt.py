"""`diptych prompt`: suggest prompts that could have generated an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.cli.options import Device, K, OptionalOutput, Quiet
from diptych.cli.show import csv_output, note, print_table, progress, set_quiet

if TYPE_CHECKING:
    from diptych.prompting.prompter import Prompter


def prompt(
    images: Path,
    *,
    model: str = "mini",
    method: Literal["retrieve", "compose", "generate"] = "retrieve",
    k: K = 1,
    library: Path | None = None,
    captioner: str | None = None,
    lists: Path | None = None,
    output: OptionalOutput = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Suggest prompts that could have generated an image.

    Parameters
    ----------
    images
        An image file, or a folder of images.
    model
        A prompter: a run or directory of `diptych train prompt`, or mini.
    method
        retrieve returns the nearest prompts of a library; compose starts from a caption and adds the phrases that
        raise its similarity most; generate lets a captioner write the prompt.
    k
        Prompts per image, best first.
    library
        With retrieve, the prompts to choose from: a text file with one per line, a table, or a data set. By default,
        the training prompts stored with the model, or else a general list of subjects.
    captioner
        With compose and generate, the captioner. By default, the model's own.
    lists
        With compose, a folder of phrase lists (one .txt file each) that replaces the built-in lists.
    output
        The CSV file to write. By default, a folder goes to standard output as CSV, and one image is shown as a table.
    """
    from diptych.data.formats.image_paths import image_files
    from diptych.errors import DataError
    from diptych.images.paths import to_text
    from diptych.prompting.many_images import prompt_images
    from diptych.prompting.prompter import load_prompter

    set_quiet(quiet)
    if not images.exists():
        raise DataError(f"'{images}' does not exist; check the path")
    files = list(image_files(images, depth=64)) if images.is_dir() else [images]
    if not files:
        raise DataError(f"'{images}' contains no images")
    prompter = load_prompter(model, device)
    config = {"how": method, "k": k, **generation_config_of(prompter, library, captioner, lists, device)}
    generated = prompt_images(prompter, files, progress=progress, **config)
    if output is None and not images.is_dir():
        prompts = next(iter(generated))[1]
        if not prompts:
            raise DataError(f"'{images}' cannot be decoded; is it an image?")
        print_table(str(images), [{"cosine": f"{prompt.score:.3f}", "prompt": prompt.text} for prompt in prompts])
        return
    bad = 0
    with csv_output(output) as writer:
        writer.writerow(("imgId", "prompt", "score"))
        for row, prompts in generated:
            bad += not prompts
            name = files[row].relative_to(images) if images.is_dir() else files[row].name
            writer.writerows((to_text(name), prompt.text, f"{prompt.score:.4f}") for prompt in prompts)
    if output:
        left_out = f"; {bad:,} left out: they cannot be decoded" if bad else ""
        note(f"{len(files) - bad:,} images: {output}{left_out}")


def generation_config_of(
    prompter: Prompter, library: Path | None, captioner: str | None, lists: Path | None, device: str
) -> dict[str, Any]:
    """The prompt library, captioner and phrase lists that flags name, as keyword arguments of the prompter."""
    from diptych.prompting.library import PromptLibrary, read_prompts
    from diptych.prompting.phrases.compose import phrase_lists

    config: dict[str, Any] = {}
    if library:
        config["library"] = PromptLibrary.of(read_prompts(library), prompter.space, progress)
    if captioner:
        from diptych.captioning.captioner import load_captioner

        config["captioner"] = load_captioner(captioner, device)
    if lists:
        config["lists"] = phrase_lists(lists)
    return config
