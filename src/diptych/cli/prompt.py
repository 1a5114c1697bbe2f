"""`diptych prompt`: suggest prompts that could have generated an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.options import (
    COMMON,
    Captioner,
    Common,
    InputPath,
    K,
    OptionalInputPath,
    Prompter,
    PromptMethod,
    TableOutput,
)
from diptych.cli.show import csv_output, note, print_json, print_table, progress, set_quiet, warn_failures

if TYPE_CHECKING:
    from diptych.prompting.library import Prompt
    from diptych.prompting.prompter import Prompter as PrompterModel


def prompt(
    source: InputPath,
    *,
    model: Prompter = "mini",
    method: PromptMethod = "retrieve",
    k: K = 1,
    library: Annotated[OptionalInputPath, Parameter("--prompts")] = None,
    captioner: Captioner = None,
    lists: OptionalInputPath = None,
    output: TableOutput = None,
    common: Common = COMMON,
) -> None:
    """Suggest prompts that could have generated an image.

    Parameters
    ----------
    source
        An image file, or a folder of images.
    method
        retrieve returns the nearest prompts of a library; compose starts from a caption and adds the phrases that
        raise its similarity most; generate lets a captioner write the prompt.
    k
        Prompts per image, best first.
    library
        With retrieve, the prompts to choose from: a text file with one per line, a table, or a data set. Default: the
        training prompts stored with the model, or else a general list of subjects.
    lists
        With compose, a folder of phrase lists (one .txt file each) that replaces the built-in lists.
    output
        The CSV file to write. Default: CSV on standard output for a folder, a table for one image.
    """
    from diptych.data.formats.image_paths import image_files
    from diptych.errors import DataError

    set_quiet(common.quiet, common.as_json)
    files = list(image_files(source, depth=64)) if source.is_dir() else [source]
    if not files:
        raise DataError(f"'{source}' contains no images")
    from diptych.prompting.many_images import prompt_images
    from diptych.prompting.prompter import load_prompter
    from diptych.runtime.progress import silent

    prompter = load_prompter(model, common.device)
    config = {"how": method, "k": k, **generation_config_of(prompter, library, captioner, lists, common.device)}
    one = not source.is_dir()
    generated = prompt_images(prompter, files, progress=silent if one else progress, **config)
    if output is None and one and not common.as_json:
        prompts = next(iter(generated))[1]
        if not prompts:
            raise DataError(f"'{source}' cannot be decoded; is it an image?")
        print_table(str(source), [{"cosine": f"{prompt.score:.3f}", "prompt": prompt.text} for prompt in prompts])
        return
    names = [_name(file, source) for file in files]
    if common.as_json:
        _print_json(names, list(generated), output)
    else:
        _write(names, generated, output)


def _name(file: Path, images: Path) -> str:
    from diptych.images.paths import to_text

    return to_text(file.relative_to(images) if images.is_dir() else file.name)


def _print_json(names: Sequence[str], generated: Sequence[tuple[int, list[Prompt]]], output: Path | None) -> None:
    if output:
        _write(names, generated, output)
    rows = ((names[row], prompts) for row, prompts in generated)
    print_json(
        [
            {"image": name, "prompts": [{"prompt": prompt.text, "score": prompt.score} for prompt in prompts]}
            for name, prompts in rows
        ]
    )


def _write(names: Sequence[str], generated: Iterable[tuple[int, list[Prompt]]], output: Path | None) -> None:
    """Write the prompts as CSV, row by row as they come."""
    failed: list[str] = []
    with csv_output(output) as writer:
        writer.writerow(("imgId", "prompt", "score"))
        for row, prompts in generated:
            failed += [] if prompts else [names[row]]
            writer.writerows((names[row], prompt.text, f"{prompt.score:.4f}") for prompt in prompts)
    warn_failures({"undecodable": failed} if failed else {}, len(names), "images", "prompt")
    if output:
        note(f"{len(names) - len(failed):,} images: {output}")


def generation_config_of(
    prompter: PrompterModel, library: Path | None, captioner: str | None, lists: Path | None, device: str
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
