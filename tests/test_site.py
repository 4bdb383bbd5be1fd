"The site: notebooks become pages without being run, and whatever would be lost on the way stops the build."

import importlib.util
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script(name):
    "A script of the folder site, as a module"
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stage, check = script("stage"), script("check")


def text(source):
    return dict(cell_type="markdown", metadata={}, source=source)


def code(source, *outputs, tags=()):
    return dict(cell_type="code", metadata=dict(tags=list(tags)), source=source, outputs=list(outputs))


# ---- staging ----


def test_title_and_summary_become_front_matter_and_the_text_below_them_stays():
    front, rest = stage.head([text("# Words\n\n> What is a word?\n\nA run of letters.")], Path("10_words.ipynb"))
    assert front["source"] == "---\ntitle: Words\ndescription: What is a word?\n---"
    assert rest["source"] == "A run of letters."


@pytest.mark.parametrize("first", ["Words", "# Words", "# Words\n\nNo summary.", "## Words\n\n> Too small."])
def test_a_notebook_without_title_or_summary_is_no_page(first):
    with pytest.raises(stage.CannotStage, match="10_words.ipynb"):
        stage.head([text(first)], Path("10_words.ipynb"))


FUNCTION = """#| export
def share(
    part:int,   # how many
    whole:int,  # of how many
) -> float:     # in [0, 1]
    "How much of the whole the part is"
    return part/whole

class NoWhole(ValueError): "There is nothing to take a part of"

def _private(): pass
"""


def test_an_exported_cell_is_documented_by_its_signature_and_folded():
    function, error, folded = stage.shown(code(FUNCTION))
    assert function["source"].startswith("### `share`\n\nHow much of the whole the part is\n\n```python\ndef share(")
    assert "# of how many" in function["source"] and "return" not in function["source"]
    assert error["source"] == "#### `NoWhole`\n\nThere is nothing to take a part of"
    assert "code-fold: true" in folded["source"] and "_private" in folded["source"]


def test_what_is_hidden_stays_hidden_and_progress_bars_go():
    assert stage.shown(code("#| hide\nimport this")) == []
    assert stage.shown(code("n = 3", tags=["injected-parameters"])) == []
    [cell] = stage.shown(
        code("n", dict(output_type="stream", name="stderr", text="99 %"), dict(output_type="execute_result"))
    )
    assert [o["output_type"] for o in cell["outputs"]] == ["execute_result"]


def test_a_cell_that_ended_in_an_error_stops_the_build():
    with pytest.raises(stage.CannotStage, match="ZeroDivisionError"):
        stage.shown(code("1/0", dict(output_type="error", ename="ZeroDivisionError", evalue="", traceback=[])))


def test_links_between_notebooks_lose_their_digits():
    lookup = type("Lookup", (), dict(home="https://x.io/y", repository="https://g.it/y", linkify=staticmethod(str)))
    linked = stage.relinked("[a](../20_aggregate.ipynb#seeds) [b](https://x.io/y/data/corpus.html#head)",
                            PurePosixPath("evaluation/plausibility/counts.ipynb"), lookup)  # fmt: skip
    assert linked == "[a](../aggregate.ipynb#seeds) [b](../../data/corpus.html#head)"


def test_links_to_results_and_files_of_the_repository_lead_somewhere_on_the_site():
    lookup = type("Lookup", (), dict(home="https://x.io/y", repository="https://g.it/y", linkify=staticmethod(str)))
    text = "[t](../results/smoke/tab1_methods.md) ![f](../results/smoke/fig1.svg) [h](../llm/README.md)"
    linked = stage.relinked(text, PurePosixPath("index.ipynb"), lookup)
    assert (
        linked == "[t](paper/tab1_methods.ipynb) ![f](./results/fig1.svg) [h](https://g.it/y/blob/main/llm/README.md)"
    )


def test_a_figure_stands_above_its_making_with_its_caption(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    made = tmp_path / "results" / "smoke"
    made.mkdir(parents=True)
    (made / "fig1_toy.svg").write_text("<svg/>")
    (made / "fig1_toy.md").write_text("![A line.](fig1_toy.svg)\n\n**Figure 1.** A line. It rises.\n")
    [cell] = stage.result(Path("paper/fig1_toy.ipynb"), "smoke")
    assert cell["source"].startswith("![A line.](../results/fig1_toy.svg)\n\n**Figure 1.** A line. It rises.")


def test_every_folder_of_notebooks_has_a_section_in_words():
    folders = {p.parent.as_posix() for p in stage.pages() if p.name != "index.ipynb"}
    assert folders <= set(stage.SECTIONS), "name the new folder in SECTIONS of site/stage.py"


def test_an_experiment_that_was_not_run_is_named(monkeypatch):
    with pytest.raises(stage.CannotStage, match="make reproduce PROFILE=nowhere"):
        stage.page(Path("experiments/e1_coder.ipynb"), "nowhere", None)


# ---- checking ----

PAGE = '<html><head><title>t</title><meta name="description" content="s"></head><body>{}</body></html>'


@pytest.fixture
def docs(tmp_path, monkeypatch):
    "A site of two pages that is whole, for a package of one module"
    for path, words in {"index": '<a href="a/words.html#here">x</a>', "a/words": '<h2 id="here">share</h2>'}.items():
        file = tmp_path / "_docs" / f"{path}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(PAGE.format(words))
    (tmp_path / "_docs" / "search.json").write_text('[{"href": "index.html"}, {"href": "a/words.html#here"}]')
    (tmp_path / "icdrat" / "a").mkdir(parents=True)
    (tmp_path / "icdrat" / "a" / "words.py").write_text("__all__ = ['share']\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "DOCS", tmp_path / "_docs")
    return tmp_path / "_docs"


def test_a_whole_site_has_no_problems(docs):
    assert check.problems() == []


@pytest.mark.parametrize(
    "page, words, problem",
    [
        ("index", PAGE.format('<a href="b.html">x</a>'), "links to b.html, and there is no such file"),
        ("index", PAGE.format('<a href="a/words.html#there">x</a>'), "that page has no such heading"),
        ("index", PAGE.format('<img src="a.png">'), "links to a.png"),
        ("index", PAGE.format('<div class="cell-output-error">E</div>'), "shows an error"),
        ("index", PAGE.format("").replace("<title>t", "<title>"), "has no title"),
        ("index", PAGE.format("").replace('content="s"', 'content=""'), "has no one-line summary"),
        ("a/words", PAGE.format('<h2 id="here">other</h2>'), "share is exported and its page does not speak of it"),
        ("new", PAGE.format(""), "the search does not know it"),
    ],
)
def test_what_is_broken_is_named_with_its_page(docs, page, words, problem):
    (docs / f"{page}.html").write_text(words)
    found = check.problems()
    assert len(found) == 1 and problem in found[0] and page in found[0], found


def test_a_module_without_a_page_is_named(docs):
    (docs.parent / "icdrat" / "b.py").write_text("__all__ = ['thing']\n")
    assert check.problems() == ["b: the module has no page"]


def test_no_site_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "DOCS", tmp_path / "_docs")
    assert "make site" in check.problems()[0]
