"""The web page without a browser: what each page shows, and its panels on a custom page."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the page comes with the extra 'app'")
pytest.importorskip("lancedb", reason="the page comes with the extra 'app'")
pytest.importorskip("skimage", reason="the sample photographs come with the extra 'samples'")

from streamlit.testing.v1 import AppTest

from diptych.cli import main
from diptych.search.index import Index
from diptych.serving.api.server import is_loopback
from diptych.serving.app.layout import escape_markdown
from diptych.serving.app.match import probability_phrase
from diptych.serving.app.server import SCRIPT, streamlit_options
from diptych.serving.app.settings import VARIABLE, Settings
from diptych.serving.service import Service
from tests.page_models import mini_with_matcher, plain_model, vit_gpt2

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings with a tiny ViT-GPT2 that captions, a matcher, a second model, and a folder that may be indexed."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "captioner": str(vit_gpt2(folder / "captioner")),
        "matcher": str(mini_with_matcher(folder / "matcher")),
        "compare": (str(plain_model(folder / "plain")), "no/such-model"),
        "roots": (str(tmp_path_factory.mktemp("roots")),),
    }


@pytest.fixture
def root(served: dict[str, object]) -> Path:
    return Path(served["roots"][0])  # type: ignore[index]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Opens a page by its name, with the settings that `diptych app` would publish."""
    monkeypatch.setenv(VARIABLE, "{}")

    def open_page(name: str, **settings: object) -> AppTest:
        Settings(**settings).publish()  # type: ignore[arg-type]
        return run(page_script(name))

    return open_page


def page_script(name: str) -> AppTest:
    return AppTest.from_string(
        f"from diptych.serving.app.{name} import {name}_page\n{name}_page()", default_timeout=120
    )


def run(test: AppTest) -> AppTest:
    test.run()
    assert not test.exception, test.exception
    return test


def shown(test: AppTest) -> str:
    """All text of the page."""
    kinds = ("title", "subheader", "markdown", "caption", "html", "error", "info", "success", "code")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(test, kind))


def press(test: AppTest, label: str) -> AppTest:
    [button, *_] = [button for button in test.button if button.label == label]
    button.click()
    return run(test)


def names(test: AppTest) -> list[str]:
    """The file names of the grid, in order."""
    return [html.value.split('title="')[1].split('"')[0] for html in test.html if "d-line" in html.value]


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_by_default_the_sample_library_is_searched_by_text(page: Callable[..., AppTest]) -> None:
    search = page("search")
    assert "15 images" in shown(search)
    assert len(names(search)) == 15
    search.text_input(key="q").set_value("a red motorcycle")
    assert names(run(search))[0] == "motorcycle.png"
    assert "of 15 images" in shown(search)


def test_a_text_that_matches_nothing_finds_nothing_and_says_so(page: Callable[..., AppTest]) -> None:
    search = page("search")
    search.text_input(key="q").set_value("a plate of sushi")
    assert names(run(search)) == []
    assert "No matches among 15 images" in shown(search)
    search.toggle(key="q-nearest").set_value(True)
    assert len(names(run(search))) == 15


def test_words_that_the_model_does_not_know_are_named_instead_of_found_missing(page: Callable[..., AppTest]) -> None:
    search = page("search")
    search.text_input(key="q").set_value("собака")
    run(search)
    assert ["“собака”" in str(warning.value) for warning in search.warning] == [True]
    assert "No matches among" not in shown(search)


def test_more_like_this_searches_similar_pictures_and_can_be_removed(page: Callable[..., AppTest]) -> None:
    search = page("search")
    first = names(search)[0]
    press(search, "More like this")
    assert f"Similar to **{escape_markdown(first)}**" in shown(search)
    assert len(names(search)) == 14
    assert first not in names(search)
    assert len(names(press(search, "Remove"))) == 15


def test_a_picture_and_a_text_are_searched_together(page: Callable[..., AppTest]) -> None:
    search = page("search")
    press(search, f"Choose {escape_markdown('cat.png')}")
    alone = names(search)
    search.text_input(key="q").set_value("a rocket on a launch pad")
    both = names(run(search))
    assert alone[0] == both[0] == "cat.png"
    assert both.index("rocket.jpg") < alone.index("rocket.jpg")


def test_filters_exclude_pictures_that_do_not_meet_them(page: Callable[..., AppTest]) -> None:
    search = page("search")
    press(search, f"Choose {escape_markdown('cat.png')}")
    search.number_input(key="q-side").set_value(500)
    assert "cat.png" not in names(run(search))
    assert "motorcycle.png" in names(search)


def test_a_long_list_of_results_is_extended_by_a_button(page: Callable[..., AppTest], root: Path, served: dict) -> None:
    library = root / "colours"
    library.mkdir()
    for i in range(30):
        (library / f"{i:02}.png").write_bytes(png(f"rgb({8 * i}, {255 - 8 * i}, {i})"))
    index = page("index", **served)
    index.text_input(key="index-path").set_value(str(library))
    press(index, "Index")
    search = page_script("search")
    search.session_state["diptych-library"] = str(library)
    assert len(names(run(search))) == 24
    press(search, "More like this")
    assert len(names(search)) == 24
    assert len(names(press(search, "Show more"))) == 29


def test_a_caption_is_written_with_its_confidence_and_alternatives(page: Callable[..., AppTest], served: dict) -> None:
    caption = page("caption", **served)
    press(caption, f"Choose {escape_markdown('coffee.png')}")
    caption.text_area(key="caption-candidates").set_value("a cup of coffee\na red car")
    press(caption, "Generate caption")
    text = shown(caption)
    assert '<p class="d-caption">a cup of coffee</p>' in text
    assert "Confidence" in text
    assert "Alternatives" in text
    ranked = text[text.index("Your captions, ranked") :]
    assert ranked.count("a red car") == 1
    assert f"Generated by {escape_markdown(served['captioner'])} in " in text


def test_captions_are_not_generated_again_when_the_rest_of_the_page_changes(
    page: Callable[..., AppTest], served: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    original = Service.caption

    def counted(self: Service, images: object, **options: object) -> object:
        calls.append(str(options["method"]))
        return original(self, images, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Service, "caption", counted)
    caption = page("caption", **served)
    press(caption, f"Choose {escape_markdown('coffee.png')}")
    press(caption, "Generate caption")
    before = shown(caption).split("Prompt")[0]
    caption.segmented_control(key="caption-how").set_value("compose")
    assert shown(run(caption)).split("Prompt")[0] == before
    assert calls == ["beam"]
    caption.slider(key="caption-count").set_value(2)
    run(caption)
    assert calls == ["beam", "beam"]


def test_an_upload_is_captioned_and_another_picture_clears_the_caption(
    page: Callable[..., AppTest], served: dict
) -> None:
    caption = page("caption", **served)
    caption.file_uploader[0].upload("mine.png", png(), "image/png")
    press(run(caption), "Generate caption")
    assert "d-caption" in shown(caption)
    press(caption, f"Choose {escape_markdown('cat.png')}")
    assert "d-caption" not in shown(caption)


@pytest.mark.parametrize(("name", "data", "message"), [
    ("notes.png", b"these are words", "cannot be decoded as an image"),
    ("empty.jpg", b"", "is empty"),
    ("cut.png", png()[:60], "cut short"),
])  # fmt: skip
def test_an_upload_that_is_not_a_picture_shows_an_error(
    page: Callable[..., AppTest], name: str, data: bytes, message: str
) -> None:
    caption = page("caption")
    caption.file_uploader[0].upload(name, data, "image/png")
    [error] = run(caption).error
    assert message in error.value
    assert "Traceback" not in error.value


def test_a_model_without_captioner_prompter_and_matcher_says_so(page: Callable[..., AppTest], served: dict) -> None:
    caption = page("caption", model=served["compare"][0])
    press(caption, f"Choose {escape_markdown('cat.png')}")
    press(caption, "Generate caption")
    assert "has no captioner" in caption.info[0].value
    assert "has no prompter" in caption.info[1].value
    match = run(page_script("match"))
    press(match, f"Choose {escape_markdown('cat.png')}")
    match.text_area(key="match-texts").set_value("a cat")
    assert "has no matcher" in run(match).info[0].value


def test_a_match_is_shown_as_a_number_and_in_words(page: Callable[..., AppTest], served: dict) -> None:
    match = page("match", **served)
    press(match, f"Choose {escape_markdown('cat.png')}")
    match.text_area(key="match-texts").set_value("a rocket <b>now</b>\n\na cat\na cat")
    text = shown(run(match))
    assert text.count("<b>a cat</b>") == 1
    assert text.index("<b>a cat</b>") < text.index("a rocket &lt;b&gt;now&lt;/b&gt;")
    assert "% · very likely" in text
    assert text.count("</em>") == 2


@pytest.mark.parametrize(
    ("probability", "phrase"),
    [(1.0, "almost certain"), (0.8, "very likely"), (0.5, "uncertain"), (0.0, "almost certainly not")],
)
def test_probabilities_have_phrases(probability: float, phrase: str) -> None:
    assert probability_phrase(probability) == phrase


def test_a_folder_is_indexed_and_skipped_files_are_listed(
    page: Callable[..., AppTest], root: Path, served: dict
) -> None:
    library = root / "my *photos*"
    library.mkdir()
    (library / "<i>red.png").write_bytes(png())
    (library / "broken.jpg").write_bytes(b"no image")
    index = page("index", **served)
    index.text_input(key="index-path").set_value(str(library))
    press(index, "Index")
    assert "1 new, 1 skipped" in index.success[0].value
    assert list(index.dataframe[0].value["File"]) == ["broken.jpg"]
    assert escape_markdown("my *photos*") in index.markdown[0].value
    search = page_script("search")
    search.session_state["diptych-library"] = str(library)
    assert names(run(search)) == ["&lt;i&gt;red.png"]
    press(index, "Back to the sample library")
    assert "15 images" in shown(index)


def test_only_folders_inside_the_roots_are_indexed(page: Callable[..., AppTest], root: Path, served: dict) -> None:
    index = page("index", **served)
    for path, message in [(str(root.parent), "is outside"), (str(root / "no"), "does not exist"), (" ", "no folder")]:
        index.text_input(key="index-path").set_value(path)
        press(index, "Index")
        assert message in index.error[0].value.lower()
    assert not index.success


def test_without_roots_indexing_is_disabled(page: Callable[..., AppTest]) -> None:
    index = page("index")
    assert "--root FOLDER" in index.info[0].value.replace("\\", "")
    assert not index.text_input


def test_two_models_answer_one_query_side_by_side(page: Callable[..., AppTest], served: dict) -> None:
    compare = page("compare", **served)
    compare.text_input(key="compare-text").set_value("a cat")
    hits = names(run(compare))
    assert len(hits) == 12
    assert hits[0] == "cat.png"
    compare.selectbox(key="compare-model-1").set_value("no/such-model")
    assert names(run(compare)) == hits[:6]
    assert "no/such-model" in compare.error[0].value.replace("\\", "")
    box = compare.selectbox(key="compare-model-1")
    box.options.append(
        "nobody/offered-this"
    )  # a browser may send a value that was not offered: the model that was is used
    box.set_value("nobody/offered-this")
    assert names(run(compare)) == hits


def test_captioners_are_compared_too(page: Callable[..., AppTest], served: dict) -> None:
    compare = page("compare", **{**served, "compare": (served["captioner"],)})
    compare.segmented_control(key="compare-kind").set_value("captioner")
    press(run(compare), f"Choose {escape_markdown('cat.png')}")
    assert shown(compare).count('<p class="d-caption">a cat</p>') == 2
    assert shown(compare).count(f"Generated by {escape_markdown(served['captioner'])} in ") == 2


def test_an_address_in_use_is_named_in_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit):
            main(["app", "--no-browser", "--port", str(taken.getsockname()[1])])
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


def test_an_index_of_another_model_is_searched_by_that_model_and_compared(
    page: Callable[..., AppTest], served: dict, tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(png())
    Index(tmp_path, served["compare"][0]).add(tmp_path)
    index = page("index", index=str(tmp_path / ".diptych"), captioner=served["captioner"])
    assert "(1 image, indexed with **plain**)" in shown(index)
    compare = run(page_script("compare"))
    compare.text_input(key="compare-text").set_value("red")
    assert names(run(compare)) == ["red.png", "red.png"]


@pytest.mark.parametrize("exists", [False, True])
def test_an_empty_index_links_to_the_index_page(
    page: Callable[..., AppTest], root: Path, served: dict, tmp_path: Path, exists: bool
) -> None:
    place, photos = tmp_path / "index", root / f"mine-{exists}"
    if exists:
        place.mkdir()
    photos.mkdir()
    (photos / "red.png").write_bytes(png())
    settings = {**served, "index": str(place)}
    for name in ("caption", "search", "match", "compare"):
        opened = page(name, **settings)
        assert not opened.error
        assert "has no images yet. Index a folder" in opened.info[0].value.replace("\\", "")
        assert opened.page_link[0].label == "Index a folder"
        assert "from the library" not in shown(opened)
    index = page("index", **settings)
    assert "has no images yet" in index.markdown[0].value
    index.text_input(key="index-path").set_value(str(photos))
    press(index, "Index")
    assert "1 new" in index.success[0].value
    assert "**index** (1 image, indexed with **mini**)" in index.markdown[0].value
    (photos / "blue.png").write_bytes(png("blue"))
    press(index, "Index")
    assert "1 new" in index.success[0].value
    assert names(run(page_script("search"))) == ["blue.png", "red.png"]
    assert not (photos / ".diptych").exists()


def test_a_library_that_is_not_a_folder_shows_an_error(page: Callable[..., AppTest], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "Not a directory" in page("search", index=str(tmp_path / "file")).error[0].value


def test_a_missing_library_has_a_button_back_to_the_default(page: Callable[..., AppTest], tmp_path: Path) -> None:
    search = page("search")
    search.session_state["diptych-library"] = str(tmp_path / "gone")
    assert "has no images" in run(search).info[0].value
    assert "15 images" in shown(press(search, "Back to the sample library"))


def test_visitors_share_one_service() -> None:
    service = "diptych.serving.app.services"
    script = f"import streamlit as st\nfrom {service} import current_service\nst.text(id(current_service()))"
    first, second = (run(AppTest.from_string(script, default_timeout=120)).text[0].value for _ in range(2))
    assert first == second


def test_the_whole_page_runs_and_has_five_pages() -> None:
    assert run(AppTest.from_file(str(SCRIPT), default_timeout=120)).title[0].value == "Caption"


def test_the_example_of_a_custom_page_runs(page: Callable[..., AppTest]) -> None:
    test = run(AppTest.from_file(str(EXAMPLES / "own_page.py"), default_timeout=120))
    press(test, f"Choose {escape_markdown('cat.png')}")
    assert "cat" in shown(test)


def test_settings_reach_the_page_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "{}")
    settings = Settings(model="runs/mine", compare=("a", "b"), roots=("r",), any_model=True)
    settings.publish()
    assert Settings.current() == settings


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.1.4", False), ("x", False)],
)
def test_loopback_addresses_are_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert ("*" in streamlit_options(host, 1)["server.allowedHosts"]) is not loopback  # type: ignore[operator]
