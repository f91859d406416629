"""The folder of a page with a student: what is laid into it, and what is said where something is missing."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request

import build_site
import pytest
import student_page

from kdtutor.assets import asset_path
from kdtutor.deploy import browser
from kdtutor.deploy.browser import RUNTIME, LocalPage, browser_page, fetch_runtime
from kdtutor.errors import KDTutorError


def exported(folder, labels=("bad", "good"), length=24):
    """What `kdtutor export` makes, without a model in it."""
    folder.mkdir()
    config = {"id2label": {str(i): label for i, label in enumerate(labels)}, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "export.json").write_text(json.dumps({"max_length": length}))
    (folder / "model.onnx").write_bytes(b"graph")
    shutil.copyfile(asset_path("tokenizer/tokenizer.json"), folder / "tokenizer.json")
    return folder


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A folder in which the two files of onnxruntime-web seem to lie."""
    folder = tmp_path / "page"
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).write_bytes(b"program")
    digest = browser.sha256(folder / name)
    monkeypatch.setattr(browser, "RUNTIME", dict.fromkeys(RUNTIME, digest))
    return folder


def test_the_page_has_all_that_it_names_and_one_tokenizer_for_both(runtime, tmp_path):
    first = browser_page(exported(tmp_path / "s"), runtime, teacher=exported(tmp_path / "t"), texts=["a"])
    page = json.loads((runtime / "page.json").read_text(encoding="utf-8"))
    student, teacher = page["models"]
    assert student["tokenizer"] == teacher["tokenizer"] and student["labels"] == ["bad", "good"]
    assert (page["runtime"], student["bytes"], student["max_length"]) == (7, 5, 24)
    assert all((runtime / one[file]).is_file() for one in page["models"] for file in ("model", "tokenizer"))
    assert 'import("./page.js")' in first.read_text(encoding="utf-8")


def test_a_page_is_served_to_this_machine_alone_and_its_port_is_given_back(tmp_path):
    page = tmp_path / "index.html"
    page.write_text("the page")
    shown = LocalPage(page)
    assert shown.address.startswith("http://127.0.0.1:")
    assert urllib.request.urlopen(shown.address).read() == b"the page"
    assert f'data="{shown.address}"' in shown._repr_html_() and repr(shown) in shown._repr_html_()
    shown.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(shown.address)
    with pytest.raises(KDTutorError, match="is no page: browser_page"):
        LocalPage(tmp_path)


def test_what_is_no_export_and_a_teacher_of_other_classes_are_refused(runtime, tmp_path):
    with pytest.raises(KDTutorError, match=r"holds no exported classifier .*kdtutor export"):
        browser_page(tmp_path, runtime)
    teacher = exported(tmp_path / "t", labels=("good", "bad"))
    with pytest.raises(KDTutorError, match="answers with other classes"):
        browser_page(exported(tmp_path / "s"), runtime, teacher=teacher)
    assert not (runtime / "page.json").exists()


def test_without_npm_one_sentence_says_what_is_missing_and_nothing_is_kept(tmp_path):
    with pytest.raises(KDTutorError, match=r"onnxruntime-web@.* comes from npm.* install Node.js"):
        fetch_runtime(tmp_path / "page", npm=["no-such-npm"])
    assert not [*(tmp_path / "page").glob("*")]


def test_another_file_than_the_published_one_is_not_kept(runtime, monkeypatch):
    (runtime / "ort-wasm-simd-threaded.wasm").write_bytes(b"another program")

    def pack(command, **_):
        import io
        import tarfile

        with tarfile.open(f"{command[-1]}/x.tgz", "w:gz") as package:
            for name in RUNTIME:
                about = tarfile.TarInfo(f"package/dist/{name}")
                about.size = 5
                package.addfile(about, io.BytesIO(b"wrong"))

    monkeypatch.setattr(browser.subprocess, "run", pack)
    with pytest.raises(KDTutorError, match="is not the file that was published"):
        fetch_runtime(runtime)
    assert [*runtime.glob("*.mjs")] == []


def test_a_site_without_npm_is_made_without_the_page_and_says_so(tmp_path, monkeypatch, capsys):
    shutil.copyfile(build_site.COURSE / student_page.TEMPLATE, tmp_path / student_page.TEMPLATE)
    monkeypatch.setattr(build_site, "BUILD", tmp_path / "build")
    monkeypatch.setattr(build_site, "npm", lambda: (["no-such-npm"], {}))
    assert build_site.add_student(tmp_path, student_page.RECIPE) == []
    said = capsys.readouterr().err
    assert said.startswith("The site is made without its page in-your-browser: ") and said.count("\n") == 1
    assert not (tmp_path / student_page.TEMPLATE).exists()
