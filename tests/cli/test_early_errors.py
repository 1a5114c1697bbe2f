"""What is wrong with a command line is said before anything slow is imported or computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

CASES = [
    ("match photo.png", "no text to match with 'photo.png'"),
    ("match nowhere.png text", "'nowhere.png' does not exist"),
    ("match folder text", "'folder' is a folder"),
    ("match photo.png text --model nowhere", "there is no model 'nowhere'"),
    ("match photo.png text --device gpu", "unknown device 'gpu'"),
    ("match --pairs nowhere.csv", "'nowhere.csv' does not exist"),
    ("match --pairs pairs.csv --output pairs.csv/out.csv", "'pairs.csv/out.csv' cannot be written"),
    ("match --pairs pairs.csv --output folder", "'folder' is a folder"),
    ("score", "no table given"),
    ("score nowhere.csv", "'nowhere.csv' does not exist"),
    ("prompt nowhere", "'nowhere' does not exist"),
    ("prompt photo.png --prompts nowhere.txt", "'nowhere.txt' does not exist"),
    ("prompt folder", "'folder' contains no images"),
    ("caption nowhere", "'nowhere'"),
    ("caption folder", "'folder' contains no images"),
    ("caption photo.png --output x.txt", "'x.txt' has the suffix '.txt'; valid: .jsonl, .csv"),
    ("caption photo.png --candidates nowhere.txt", "'nowhere.txt' does not exist"),
    ("caption --index folder", "'folder' has no index"),
    ("find mini dog --data nowhere", "'nowhere'"),
    ("find mini dog --data pairs.csv --split test", "no image is in split 'test'"),
    ("classify nowhere", "nowhere'"),
    ("classify photo.png --classes pairs.csv", "'photo.png' is a file"),
    ("classify folder --classes nowhere.txt", "nowhere.txt'"),
    ("search dog --index nowhere", "nowhere"),
    ("search --image nowhere.png", "'nowhere.png' does not exist"),
    ("search dog --output x.txt", "'x.txt' has the suffix '.txt'; valid: .html"),
    ("index nowhere", "'nowhere' does not exist"),
    ("index folder --device gpu", "unknown device 'gpu'"),
    ("cluster --output x.txt", "'x.txt' has the suffix '.txt'"),
    ("data audit nowhere", "'nowhere'"),
    ("data audit pairs.csv --output x.txt", "'x.txt' has the suffix '.txt'"),
    ("compare", "no model given"),
    ("compare mini", "no data given"),
    ("compare mini other=nowhere --data pairs.csv", "there is no model 'nowhere'"),
    ("compare mini --data nowhere", "'nowhere'"),
    ("export onnx mini --output folder", "'folder' exists already"),
    ("export openvino mini --output new --data nowhere", "'nowhere'"),
    ("eval retrieval mini --data nowhere", "'nowhere'"),
    ("eval zeroshot mini --data pairs.csv --classes nowhere.txt", "nowhere.txt'"),
    ("eval match mini --data pairs.csv --split test", "no image is in split 'test'"),
    ("eval caption mini", "give --data"),
    ("eval caption --captions nowhere.csv --references pairs.csv", "'nowhere.csv' does not exist"),
    ("eval compositional mini", "give either --data"),
    ("eval prompt mini --data pairs.csv --split test", "no image is in split 'test'"),
    ("train contrastive", "no data set is given"),
    ("train match --data nowhere", "'nowhere'"),
    ("train prompt --data pairs.csv --device gpu", "unknown device 'gpu'"),
    ("train caption --data pairs.csv --config nowhere.yaml", "nowhere.yaml"),
    ("serve --index nowhere", "'nowhere' does not exist"),
    ("serve --host 0.0.0.0", "0.0.0.0"),
    ("mcp --key-file nowhere", "'nowhere' does not exist"),
    ("app --index nowhere", "'nowhere' does not exist"),
]

SCRIPT = """
import contextlib, io, json, sys
from diptych.cli import main
ended = []
for words in json.loads(sys.stdin.read()):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(words.split())
        except SystemExit as end:
            code = end.code
    ended.append((code, errors.getvalue(), "torch" in sys.modules))
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """Exit code and message of every case, and whether torch was loaded by then, all run in one new process."""
    folder: Path = tmp_path_factory.mktemp("wrong")
    (folder / "folder").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "photo.png")
    (folder / "pairs.csv").write_text("image,caption\nphoto.png,a black square\n")
    words = [case for case, _ in CASES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(words),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        timeout=240,
    )
    return dict(zip(words, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("words", "message"), CASES)
def test_a_wrong_command_line_is_refused_in_one_sentence_before_torch_is_loaded(
    ended: dict[str, tuple[int, str, bool]], words: str, message: str
) -> None:
    code, error, loaded = ended[words]
    assert (code, loaded) == (1, False), error
    assert error.startswith("diptych: ")
    assert message in error
    assert error.count("\n") == 1
