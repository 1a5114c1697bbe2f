"""`diptych prompt`: pictures to prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.cli.show import csv_output, print_table, progress, say

if TYPE_CHECKING:
    from diptych.prompting.prompter import Prompter


def prompt(
    pictures: Path,
    *,
    model: str = "mini",
    how: Literal["retrieve", "compose", "generate"] = "retrieve",
    count: int = 1,
    library: Path | None = None,
    captioner: str | None = None,
    lists: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> None:
    """Say with which prompt a picture could have been made, for one picture or a whole folder.

    Parameters
    ----------
    pictures
        A picture file, or a folder of them.
    model
        A prompter: the run or directory of `diptych train prompt`, or mini.
    how
        retrieve takes the nearest prompts of a library; compose begins with a caption and adds the phrases that bring
        it nearest; generate has a captioner write the prompt.
    count
        Prompts for each picture, best first.
    library
        With retrieve, the prompts to choose from: a text file with one a line, or a table or data set with prompts.
        Those that the model was trained on when not given, or else a list of general subjects.
    captioner
        With compose and generate, the captioner; the model's own when not given.
    lists
        With compose, a folder of phrase lists, one .txt each, instead of diptych's own.
    out
        The CSV file to write; to standard output when not given. One picture is shown as a table.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.data.formats.image_paths import walk_pictures
    from diptych.errors import DataError
    from diptych.images.paths import to_text
    from diptych.prompting.many_images import prompt_pictures
    from diptych.prompting.prompter import load_prompter

    if not pictures.exists():
        raise DataError(f"there is no picture or folder '{pictures}'; check the path")
    files = list(walk_pictures(pictures, depth=64)) if pictures.is_dir() else [pictures]
    if not files:
        raise DataError(f"no picture is below '{pictures}'")
    prompter = load_prompter(model, device)
    wishes = {"how": how, "count": count, **generation_config_of(prompter, library, captioner, lists, device)}
    found = prompt_pictures(prompter, files, progress=progress, **wishes)
    if out is None and not pictures.is_dir():
        said = next(iter(found))[1]
        if not said:
            raise DataError(f"'{pictures}' cannot be decoded; is it a picture?")
        rows = [{"cosine": f"{each.score:.3f}", "prompt": each.text} for each in said]
        print_table(str(pictures), rows)
        return
    bad = 0
    with csv_output(out) as writer:
        writer.writerow(("imgId", "prompt", "score"))
        for at, said in found:
            bad += not said
            name = files[at].relative_to(pictures) if pictures.is_dir() else files[at].name
            writer.writerows((to_text(name), each.text, f"{each.score:.4f}") for each in said)
    if out:
        say(f"{len(files) - bad:,} pictures: {out}" + (f"; {bad:,} left out: they cannot be decoded" if bad else ""))


def generation_config_of(
    prompter: Prompter, library: Path | None, captioner: str | None, lists: Path | None, device: str
) -> dict[str, Any]:
    """What `Prompter.say` is given beside the pictures."""
    from diptych.prompting.library import PromptLibrary, read_prompts
    from diptych.prompting.phrases.compose import phrase_lists

    wishes: dict[str, Any] = {}
    if library:
        wishes["library"] = PromptLibrary.of(read_prompts(library), prompter.space, progress)
    if captioner:
        from diptych.captioning.captioner import load_captioner

        wishes["captioner"] = load_captioner(captioner, device)
    if lists:
        wishes["lists"] = phrase_lists(lists)
    return wishes
