"""The docs do what they say: every command line and every Python snippet in them runs, on drawn pictures.

Paths of the docs stand for the drawn pictures (`DATA`), training is of a tiny model (`conftest.TINY`), and what no test
machine can run is in `NOT_RUN`.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from diptych.cli import main
from diptych.data.formats.read import read_pairs
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]

DATA = ("photos", "flickr8k")  # in the docs, a folder of pictures with captions

# Recipe -> the flags that make its model tiny; the contrastive one takes `conftest.TINY`.
TINY_FLAGS: dict[str, list[str]] = {
    "match": ["--dim", "16", "--hidden", "16"],
    "caption": ["--dim", "16", "--layers", "1", "--heads", "2", "--beams", "1"],
    "prompt": ["--image-tower", "timm/test_resnet", "--no-pretrained", "--image-size", "32", "--hidden", "16"],
}

# Beginnings of lines that are not run -> why.
NOT_RUN: dict[str, str] = {
    "diptych eval compositional mini --published": "needs a published set; test_compositional.py makes small ones",
    'import diptych model = diptych.DualEncoder.from_pretrained("google/': "fetches a model from the hub",
    "diptych serve": "serves until it is ended; test_api_server.py starts it",
    "diptych mcp": "serves until it is ended; test_mcp.py starts it",
    "from diptych import Client": "needs a server; test_client.py has one",
    "from openai import OpenAI": "needs a server and a package of others; test_api.py asks as it does",
    "diptych app": "serves until it is ended; test_app_browser.py starts it",
    "streamlit run": "serves until it is ended; test_app.py runs a page of one's own",
    "diptych data get diffusiondb": "fetches a data set from the hub",
    "diptych hub push": "sends a model to the hub; test_hub.py does, to one of its own",
    "diptych export onnx mini --output mini-int8": "takes a minute; test_export.py does it to a tiny model",
    "diptych export openvino": "as above",
}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def lines(page: str) -> list[list[str]]:
    """The words of every command in the page's shell blocks; comments and continued lines are put right."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def is_run(words: list[str]) -> bool:
    return not any(" ".join(words).startswith(beginning) for beginning in NOT_RUN)


@pytest.fixture
def place(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where every data set that the docs name lies, with splits and classes where they have some."""
    monkeypatch.chdir(tmp_path)
    for name in DATA:
        shutil.copytree(scenes, tmp_path / name)
    ids = read_pairs(scenes).image_ids
    (tmp_path / "flickr8k" / "Flickr_8k.trainImages.txt").write_text("\n".join(ids[:32]))
    (tmp_path / "flickr8k" / "Flickr_8k.devImages.txt").write_text("\n".join(ids[32:]))
    for number, image in enumerate(sorted((scenes / "images").iterdir())[:6]):
        (tmp_path / "animals" / ("cat", "dog")[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "animals" / ("cat", "dog")[number % 2])
    (tmp_path / "names.txt").write_text("cat\ndog\nhorse\n")
    shutil.copy(next((scenes / "images").iterdir()), tmp_path / "photos" / "images" / "photo.jpg")
    shutil.copy(next((scenes / "images").iterdir()), tmp_path / "query.jpg")
    return tmp_path


def tiny_config(words: list[str], folder: Path) -> list[str]:
    """The words of a training command, its configuration made that of a tiny model that keeps its own `out`."""
    settings: dict = {}
    if "--config" in words:
        at = words.index("--config")
        settings = yaml.safe_load((ROOT / words[at + 1]).read_text(encoding="utf-8"))
        words = words[:at] + words[at + 2 :]
    if words[1] in TINY_FLAGS:
        return [*words, "--epochs", "1", "--batch-size", "8", "--val-fraction", "0.25", *TINY_FLAGS[words[1]]]
    settings |= {**TINY, "freeze": [], "head_epochs": 0, "text_arguments": TINY["text_arguments"]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    return [*words, "--config", str(folder / "tiny.yaml"), "--epochs", "1"]


def run_command(words: list[str], folder: Path) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
        return
    assert words[0] == "diptych", f"neither make nor diptych: put it in NOT_RUN if it must be there: {words}"
    with pytest.raises(SystemExit) as ended:
        main(tiny_config(words[1:], folder) if words[1] == "train" else words[1:])
    assert not ended.value.code


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_docs_runs(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in filter(is_run, lines(page)):
        try:
            run_command(words, place)
        except BaseException as error:
            pytest.fail(f"{page}: {' '.join(words)}\n{type(error).__name__}: {error}\n{capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES)
def test_every_python_snippet_of_the_docs_runs(page: str, place: Path) -> None:
    from diptych.training.contrastive.config import ContrastiveRecipe

    def tiny_recipe(**settings: object) -> ContrastiveRecipe:
        return ContrastiveRecipe(**{**TINY, **settings})

    known: dict[str, object] = {"tiny_recipe": tiny_recipe}
    for snippet in blocks(page, "python"):
        if is_run(snippet.split()):
            code = snippet.replace("diptych.ContrastiveRecipe(", "tiny_recipe(")
            exec(compile(code, page, "exec"), known)


def test_the_readme_has_commands_and_snippets_to_run() -> None:
    assert sum(words[0] == "diptych" for words in lines("README.md")) >= 4
    assert blocks("README.md", "python")


PAGE = """
```sh
# nothing
diptych find m "a dog" \\
  --data d   # why

make demo
```
```text
diptych nothing
```
"""


def test_comments_and_continued_lines_of_a_block_are_understood(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert lines(str(tmp_path / "page.md")) == [["diptych", "find", "m", "a dog", "--data", "d"], ["make", "demo"]]


def test_a_command_that_fails_is_seen(place: Path) -> None:
    with pytest.raises(AssertionError):
        run_command(["diptych", "data", "inspect", "nowhere"], place)
    with pytest.raises(AssertionError):
        run_command(["make", "coffee"], place)


def test_what_is_not_run_still_stands_in_the_docs() -> None:
    there = [" ".join(words) for page in PAGES for words in lines(page)]
    there += [" ".join(snippet.split()) for page in PAGES for snippet in blocks(page, "python")]
    assert all(any(line.startswith(beginning) for line in there) for beginning in NOT_RUN)


def test_the_reference_of_the_command_line_is_not_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["generate.py"])  # `python -m pytest` would stand in the usage lines
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == generate.reference(), "run `make docs`"
    assert (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8") == generate.architecture(), "run `make docs`"
