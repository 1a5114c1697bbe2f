"""The web page without a browser: what a visitor sees of each page, and the parts on a page of one's own."""

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
from diptych.serving.app.frame import plain
from diptych.serving.app.match import meaning
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
    """Opens a page by its name, with settings as `diptych app` would hand them on."""
    monkeypatch.setenv(VARIABLE, "{}")

    def opened(name: str, **settings: object) -> AppTest:
        Settings(**settings).publish()  # type: ignore[arg-type]
        return run(page_called(name))

    return opened


def page_called(name: str) -> AppTest:
    return AppTest.from_string(
        f"from diptych.serving.app.{name} import {name}_page\n{name}_page()", default_timeout=120
    )


def run(test: AppTest) -> AppTest:
    test.run()
    assert not test.exception, test.exception
    return test


def shown(test: AppTest) -> str:
    """All words of the page."""
    kinds = ("title", "subheader", "markdown", "caption", "html", "error", "info", "success", "code")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(test, kind))


def press(test: AppTest, label: str, at: int = 0) -> AppTest:
    [button, *_] = [button for button in test.button if button.label == label][at:]
    button.click()
    return run(test)


def names(test: AppTest) -> list[str]:
    """The files of the grid, in order."""
    return [html.value.split('title="')[1].split('"')[0] for html in test.html if "d-line" in html.value]


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_without_settings_the_sample_library_is_searched_by_words(page: Callable[..., AppTest]) -> None:
    search = page("search")
    assert "15 pictures" in shown(search)
    assert len(names(search)) == 15
    search.text_input(key="q").set_value("a red motorcycle")
    assert names(run(search))[0] == "motorcycle.png"
    assert "of 15 pictures" in shown(search)


def test_words_that_fit_nothing_find_nothing_and_say_so(page: Callable[..., AppTest]) -> None:
    search = page("search")
    search.text_input(key="q").set_value("a plate of sushi")
    assert names(run(search)) == []
    assert "Nothing found among 15 pictures" in shown(search)
    search.toggle(key="q-nearest").set_value(True)
    assert len(names(run(search))) == 15


def test_more_like_this_asks_for_pictures_like_it_and_can_be_taken_away(page: Callable[..., AppTest]) -> None:
    search = page("search")
    first = names(search)[0]
    press(search, "More like this")
    assert f"like **{plain(first)}**" in shown(search)
    assert len(names(search)) == 14
    assert first not in names(search)
    assert len(names(press(search, "Take away"))) == 15


def test_a_picture_and_words_are_asked_together(page: Callable[..., AppTest]) -> None:
    search = page("search")
    press(search, f"Take {plain('cat.png')}")
    alone = names(search)
    search.text_input(key="q").set_value("a rocket on a launch pad")
    both = names(run(search))
    assert alone[0] == both[0] == "cat.png"
    assert both.index("rocket.jpg") < alone.index("rocket.jpg")


def test_filters_leave_out_what_does_not_meet_them(page: Callable[..., AppTest]) -> None:
    search = page("search")
    press(search, f"Take {plain('cat.png')}")
    search.number_input(key="q-side").set_value(500)
    assert "cat.png" not in names(run(search))
    assert "motorcycle.png" in names(search)


def test_the_pictures_of_a_long_list_come_when_asked_for(
    page: Callable[..., AppTest], root: Path, served: dict
) -> None:
    library = root / "colours"
    library.mkdir()
    for at in range(30):
        (library / f"{at:02}.png").write_bytes(png(f"rgb({8 * at}, {255 - 8 * at}, {at})"))
    index = page("library", **served)
    index.text_input(key="index-path").set_value(str(library))
    press(index, "Index")
    search = page_called("search")
    search.session_state["diptych-library"] = str(library)
    assert len(names(run(search))) == 24
    press(search, "More like this")
    assert len(names(search)) == 24
    assert len(names(press(search, "Show more"))) == 29


def test_a_caption_is_written_with_its_confidence_and_alternatives(page: Callable[..., AppTest], served: dict) -> None:
    caption = page("caption", **served)
    press(caption, f"Take {plain('coffee.png')}")
    caption.text_area(key="caption-candidates").set_value("a cup of coffee\na red car")
    press(caption, "Generate caption")
    told = shown(caption)
    assert '<p class="d-caption">a cup of coffee</p>' in told
    assert "Confidence" in told
    assert "Alternatives" in told
    ranked = told[told.index("Your captions, ranked") :]
    assert ranked.count("a red car") == 1
    assert "written in" in told


def test_what_was_written_stays_while_the_rest_of_the_page_is_touched(
    page: Callable[..., AppTest], served: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    caption_of = Service.caption

    def counted(self: Service, images: object, **settings: object) -> object:
        written.append(str(settings["method"]))
        return caption_of(self, images, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Service, "caption", counted)
    caption = page("caption", **served)
    press(caption, f"Take {plain('coffee.png')}")
    press(caption, "Generate caption")
    before = shown(caption).split("Prompt")[0]
    caption.segmented_control(key="caption-how").set_value("compose")
    assert shown(run(caption)).split("Prompt")[0] == before
    assert written == ["beam"]
    caption.slider(key="caption-count").set_value(2)
    run(caption)
    assert written == ["beam", "beam"]


def test_an_upload_is_captioned_and_another_picture_takes_the_caption_away(
    page: Callable[..., AppTest], served: dict
) -> None:
    caption = page("caption", **served)
    caption.file_uploader[0].upload("mine.png", png(), "image/png")
    press(run(caption), "Generate caption")
    assert "d-caption" in shown(caption)
    press(caption, f"Take {plain('cat.png')}")
    assert "d-caption" not in shown(caption)


@pytest.mark.parametrize(("name", "data", "says"), [
    ("notes.png", b"these are words", "is not a picture"),
    ("empty.jpg", b"", "is empty"),
    ("cut.png", png()[:60], "cut short"),
])  # fmt: skip
def test_an_upload_that_is_no_picture_is_answered_by_a_sentence(
    page: Callable[..., AppTest], name: str, data: bytes, says: str
) -> None:
    caption = page("caption")
    caption.file_uploader[0].upload(name, data, "image/png")
    [error] = run(caption).error
    assert says in error.value
    assert "Traceback" not in error.value


def test_a_model_without_captioner_prompter_and_matcher_says_so(page: Callable[..., AppTest], served: dict) -> None:
    caption = page("caption", model=served["compare"][0])
    press(caption, f"Take {plain('cat.png')}")
    press(caption, "Generate caption")
    assert "has no captioner" in caption.info[0].value
    assert "has no prompter" in caption.info[1].value
    match = run(page_called("match"))
    press(match, f"Take {plain('cat.png')}")
    match.text_area(key="match-texts").set_value("a cat")
    assert "has no matcher" in run(match).info[0].value


def test_a_match_is_told_in_figures_and_in_words(page: Callable[..., AppTest], served: dict) -> None:
    match = page("match", **served)
    press(match, f"Take {plain('cat.png')}")
    match.text_area(key="match-texts").set_value("a rocket <b>now</b>\n\na cat\na cat")
    told = shown(run(match))
    assert told.count("<b>a cat</b>") == 1
    assert told.index("<b>a cat</b>") < told.index("a rocket &lt;b&gt;now&lt;/b&gt;")
    assert "% · very likely" in told
    assert told.count("% · ") == 2  # the other's too, which pictures like these do not let a matcher judge well


@pytest.mark.parametrize(
    ("probability", "words"),
    [(1.0, "almost certainly yes"), (0.8, "very likely"), (0.5, "undecided"), (0.0, "almost certainly not")],
)
def test_probabilities_have_words(probability: float, words: str) -> None:
    assert meaning(probability) == words


def test_a_folder_is_indexed_and_what_was_skipped_is_listed(
    page: Callable[..., AppTest], root: Path, served: dict
) -> None:
    library = root / "my *photos*"
    library.mkdir()
    (library / "<i>red.png").write_bytes(png())
    (library / "broken.jpg").write_bytes(b"no picture")
    index = page("library", **served)
    index.text_input(key="index-path").set_value(str(library))
    press(index, "Index")
    assert "1 new, 1 skipped" in index.success[0].value
    assert list(index.dataframe[0].value["file"]) == ["broken.jpg"]
    assert plain("my *photos*") in index.markdown[0].value
    search = page_called("search")
    search.session_state["diptych-library"] = str(library)
    assert names(run(search)) == ["&lt;i&gt;red.png"]
    press(index, "Back to the sample library")
    assert "15 pictures" in shown(index)


def test_only_folders_inside_the_roots_are_indexed(page: Callable[..., AppTest], root: Path, served: dict) -> None:
    index = page("library", **served)
    for path, says in [(str(root.parent), "is outside"), (str(root / "no"), "does not exist"), (" ", "no folder")]:
        index.text_input(key="index-path").set_value(path)
        press(index, "Index")
        assert says in index.error[0].value.lower()
    assert not index.success


def test_without_roots_nobody_indexes(page: Callable[..., AppTest]) -> None:
    index = page("library")
    assert "--root FOLDER" in index.info[0].value.replace("\\", "")
    assert not index.text_input


def test_two_models_answer_one_question_side_by_side(page: Callable[..., AppTest], served: dict) -> None:
    compare = page("compare", **served)
    compare.text_input(key="compare-text").set_value("a cat")
    found = names(run(compare))
    assert len(found) == 12
    assert found[0] == "cat.png"
    compare.selectbox(key="compare-model-1").set_value("no/such-model")
    assert names(run(compare)) == found[:6]
    assert "no/such-model" in compare.error[0].value.replace("\\", "")
    box = compare.selectbox(key="compare-model-1")
    box.options.append("nobody/offered-this")  # a browser may send what it was not offered: it gets the model that was
    box.set_value("nobody/offered-this")
    assert names(run(compare)) == found


def test_captioners_are_compared_too(page: Callable[..., AppTest], served: dict) -> None:
    compare = page("compare", **{**served, "compare": (served["captioner"],)})
    compare.segmented_control(key="compare-kind").set_value("captioner")
    press(run(compare), f"Take {plain('cat.png')}")
    assert shown(compare).count('<p class="d-caption">a cat</p>') == 2


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
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
    index = page("library", index=str(tmp_path / ".diptych"), captioner=served["captioner"])
    assert "1 picture, indexed by **plain**" in shown(index)
    compare = run(page_called("compare"))
    compare.text_input(key="compare-text").set_value("red")
    assert names(run(compare)) == ["red.png", "red.png"]


@pytest.mark.parametrize("made", [False, True])
def test_an_index_without_pictures_leads_to_the_page_that_fills_it(
    page: Callable[..., AppTest], root: Path, served: dict, tmp_path: Path, made: bool
) -> None:
    place, photos = tmp_path / "index", root / f"mine-{made}"
    if made:
        place.mkdir()
    photos.mkdir()
    (photos / "red.png").write_bytes(png())
    settings = {**served, "index": str(place)}
    for name in ("caption", "search", "match", "compare"):
        opened = page(name, **settings)
        assert not opened.error
        assert "holds no pictures yet: index a folder" in opened.info[0].value.replace("\\", "")
        assert opened.page_link[0].label == "Index a folder"
        assert "from the library" not in shown(opened)
    index = page("library", **settings)
    assert "holds no pictures yet" in index.markdown[0].value
    index.text_input(key="index-path").set_value(str(photos))
    press(index, "Index")
    assert "1 new" in index.success[0].value
    assert "**index**: 1 picture, indexed by **mini**" in index.markdown[0].value
    (photos / "blue.png").write_bytes(png("blue"))
    press(index, "Index")
    assert "1 new" in index.success[0].value
    assert names(run(page_called("search"))) == ["blue.png", "red.png"]
    assert not (photos / ".diptych").exists()


def test_a_library_that_is_no_folder_is_said(page: Callable[..., AppTest], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "Not a directory" in page("search", index=str(tmp_path / "file")).error[0].value


def test_a_library_that_is_gone_is_left_by_a_button(page: Callable[..., AppTest], tmp_path: Path) -> None:
    search = page("search")
    search.session_state["diptych-library"] = str(tmp_path / "gone")
    assert "holds no pictures" in run(search).info[0].value
    assert "15 pictures" in shown(press(search, "Back to the sample library"))


def test_visitors_share_one_service() -> None:
    script = (
        "import streamlit as st\nfrom diptych.serving.app.services import service_here\nst.text(id(service_here()))"
    )
    first, second = (run(AppTest.from_string(script, default_timeout=120)).text[0].value for _ in range(2))
    assert first == second


def test_the_whole_page_runs_and_has_five_pages() -> None:
    assert run(AppTest.from_file(str(SCRIPT), default_timeout=120)).title[0].value == "Caption"


def test_a_page_of_ones_own_stands_on_the_same_parts(page: Callable[..., AppTest]) -> None:
    test = run(AppTest.from_file(str(EXAMPLES / "own_page.py"), default_timeout=120))
    press(test, f"Take {plain('cat.png')}")
    assert "cat" in shown(test)


def test_settings_reach_the_page_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "{}")
    told = Settings(model="runs/mine", compare=("a", "b"), roots=("r",), any_model=True)
    told.publish()
    assert Settings.current() == told


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.1.4", False), ("x", False)],
)
def test_loopback_is_told_from_other_addresses(host: str, here: bool) -> None:
    assert is_loopback(host) is here
    assert ("*" in streamlit_options(host, 1)["server.allowedHosts"]) is not here  # type: ignore[operator]
