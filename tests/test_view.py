"Laws of the view: the text survives, nothing is loaded, nothing is said that is not so; and a real browser agrees."

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from icdrat.codes import icd
from icdrat.data.corpus import RepeatedNote
from icdrat.evaluation.plausibility import character_counts
from icdrat.text import mark, merge_spans
from icdrat.types import Note, Rationale, Span, SpanOutsideNote
from icdrat.view import (
    LICENCE,
    NoteNotGiven,
    NothingToShow,
    agreement,
    evidence,
    marked_text,
    page,
    segments,
    show,
    strokes,
    style,
    verdict,
    write_page,
)

CODES = [icd(v) for v in ("E11.22", "N18.32", "I10", "J44.1", "Z79.4")]
ALPHABET = list("abc  \n\t.é<>&\"'") + ["\r\n", "🙂", "👩‍⚕️", "</script>", "&amp;", "</div>", "-->", "{}", "$x"]


def random_note(rng, id="n1"):
    return Note(id, "".join(rng.choice(ALPHABET, size=rng.integers(1, 80))), corpus="made up")


def random_rationales(rng, note, source):
    rationales = []
    for code in rng.permutation(np.array(CODES, object))[: rng.integers(1, 6)]:
        ends = [sorted(rng.choice(len(note) + 1, size=2, replace=False)) for _ in range(rng.integers(0, 5))]
        rationales.append(mark(note, code, [Span(int(a), int(b)) for a, b in ends], source))
    return rationales


def random_case(seed):
    rng = np.random.default_rng(seed)
    notes = [random_note(rng, f"n{i}") for i in range(rng.integers(1, 4))]
    return notes, {s: [r for n in notes for r in random_rationales(rng, n, s)] for s in ("human", "mention", "attention")}


class Reader(HTMLParser):
    "What a browser would read: the characters of every text, with the codes that each of them is marked for"

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.texts, self.marked, self.tags, self.codes, self.depth = [], [], [], [], 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "div" and attrs.get("class") == "text":
            self.depth, self.texts, self.marked = 1, [*self.texts, ""], [*self.marked, []]
        elif self.depth and tag == "mark":
            self.codes.append(attrs["data-code"])

    def handle_endtag(self, tag):
        if self.depth and tag == "mark":
            self.codes.pop()
        elif self.depth and tag == "div":
            self.depth = 0

    def handle_data(self, data):
        if self.depth:
            self.texts[-1] += data
            self.marked[-1] += [set(self.codes)] * len(data)


@pytest.mark.parametrize("seed", range(40))
def test_every_character_stands_once_in_every_column_under_exactly_its_codes(seed):
    notes, sources = random_case(seed)
    read = Reader(page(notes, sources))
    shown = [(n, s) for n in [notes[0], *notes] for s in sources]  # the first note is on the stage and in its template
    assert read.texts == [n.text for n, _ in shown]
    for (note, source), marked in zip(shown, read.marked, strict=True):
        expected = [set() for _ in note.text]
        for r in sources[source]:
            if r.note_id == note.id:
                for s in r.spans:
                    for i in range(s.start, s.end):
                        expected[i].add(r.code.value)
        assert marked == expected


@pytest.mark.parametrize("seed", range(40))
def test_no_two_lines_of_one_lane_overlap(seed):
    rng = np.random.default_rng(seed)
    note = random_note(rng)
    drawn = strokes({k: list(r.spans) for k, r in enumerate(random_rationales(rng, note, "x"))})
    for a in drawn:
        assert not [b for b in drawn if b is not a and b.lane == a.lane and b.start < a.end and a.start < b.end]
        taken = {b.lane for b in drawn if b.start <= a.start < b.end and b is not a}
        assert set(range(a.lane)) <= taken, "a higher lane was free"


def test_of_two_lines_that_begin_together_the_longer_lies_higher_and_touching_lines_share_a_lane():
    assert [(s.code, s.lane) for s in strokes({0: [Span(0, 2)], 1: [Span(0, 4)]})] == [(1, 0), (0, 1)]
    assert [s.lane for s in strokes({0: [Span(0, 2)], 1: [Span(2, 4)]})] == [0, 0]


@pytest.mark.parametrize("seed", range(40))
def test_segments_tile_the_note(seed):
    rng = np.random.default_rng(seed)
    note = random_note(rng)
    cut = segments(len(note), strokes({k: list(r.spans) for k, r in enumerate(random_rationales(rng, note, "x"))}))
    assert [a for a, _, _ in cut] == [0, *(b for _, b, _ in cut[:-1])] and cut[-1][1] == len(note)
    assert all(a < b for a, b, _ in cut)


def test_an_empty_note_can_be_shown():
    assert Reader(page([Note("n1", "")], {"human": []})).texts == ["", ""]


@pytest.mark.parametrize("seed", range(40))
def test_agreement_is_the_character_definition_of_plausibility(seed):
    rng = np.random.default_rng(seed)
    note = random_note(rng)
    ours, first = ({r.code: list(r.spans) for r in random_rationales(rng, note, "x")} for _ in range(2))
    rows = [np.array([(k, s.start, s.end) for k, c in enumerate(CODES) for s in side.get(c, ())], int).reshape(-1, 3) for side in (first, ours)]
    hits, n_ours, _, n_first = character_counts(*rows, len(CODES)).sum(0)
    assert agreement(ours, first, CODES, len(note)) == (hits, n_ours, n_first)


def test_a_source_agrees_perfectly_with_itself():
    spans = {CODES[0]: [Span(0, 3), Span(5, 9)]}
    assert verdict(CODES[:1], spans, spans, "human", 10) == ("2 places, 7 characters", "7 shared with human, character F1 1.00")


@pytest.mark.parametrize(
    "ours, first, said",
    [
        ({}, {}, ("No rationale given", "human marked nothing either")),
        ({CODES[0]: []}, {}, ("Asked, and marked nothing", "human marked nothing either")),
        ({}, {CODES[0]: [Span(0, 1)]}, ("No rationale given", "human marked 1 character")),
        ({CODES[0]: [Span(0, 1)]}, {}, ("1 place, 1 character", "human marked nothing")),
        ({CODES[0]: [Span(0, 2)]}, {CODES[0]: [Span(2, 4)]}, ("1 place, 2 characters", "0 shared with human, character F1 0.00")),
    ],
)
def test_silence_is_said_in_words_and_never_as_a_number(ours, first, said):
    assert verdict(CODES[:1], ours, first, "human", 10) == said


def test_codes_without_evidence_are_named_with_the_silent_sources():
    note = Note("n1", "T2DM")
    html = page([note], {"human": [mark(note, CODES[0], [Span(0, 4)], "human")], "mention": []}, codes={"n1": CODES[:2]})
    assert re.search(r"E11\.22</b>[^<]*<em>nothing from mention</em>", html)
    assert re.search(r"N18\.32</b>[^<]*<em>nothing from any source</em>", html)


def test_a_code_of_the_note_comes_first_and_a_code_of_a_source_is_added():
    note = Note("n1", "T2DM")
    html = page([note], {"human": [mark(note, CODES[2], [Span(0, 4)], "human")]}, codes={"n1": [CODES[3], CODES[1]]})
    values = [a["value"] for tag, a in Reader(html).tags if tag == "input"]
    assert values == ["", "J44.1", "N18.32", "I10"] * 2


def test_levels_of_one_code_are_joined():
    note = Note("n1", "T2DM, on metformin.")
    both = [mark(note, CODES[0], [Span(0, 4)], "human"), mark(note, CODES[0], [Span(2, 19)], "human", "sentence")]
    assert evidence([note], {"human": both})["n1"]["human"] == {CODES[0]: [Span(0, 19)]}


@pytest.mark.parametrize("seed", range(10))
def test_nothing_can_be_loaded(seed):
    notes, sources = random_case(seed)
    html = page(notes, sources, title="<script src=x>")
    for tag, attrs in Reader(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "a")
        assert not {"src", "href", "action", "srcset", "style", "formaction"} & set(attrs) and not [a for a in attrs if a.startswith("on")]
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|WebSocket|import\(", html)
    assert [t for t, _ in Reader(html).tags].count("script") == 1
    assert "default-src 'none'" in html


def test_names_are_escaped_everywhere():
    note = Note('"><i>', "text", corpus="<u>", language='"><s>')
    html = page([note], {'<b class="x">': [mark(note, CODES[0], [Span(0, 4)], "x")]}, title="</title><em>")
    tags = [tag for tag, _ in Reader(html).tags]
    assert not {"i", "u", "s"} & set(tags) and "<b class=\"x\">" not in html and "<em>" not in html.split("<body>")[0]


def test_every_rule_of_the_style_stays_inside_the_panel():
    for selector in re.findall(r"(?:^|[}{])\s*([^{}]+)\{", style(20)):
        if not selector.strip().startswith("@"):
            assert all(".icdrat" in part for part in selector.split(",") if "(" not in part), selector


def test_twenty_codes_look_different_in_colour_or_line_up_to_the_eighteenth():
    looks = re.findall(r"\.c\d+ \{ (--ink.*?) \}", style(20))
    assert len(set(looks)) == 18 and looks[18] == looks[0]


def test_a_restricted_note_carries_a_warning_and_its_file_is_private(tmp_path):
    note = Note("n1", "T2DM")
    secret, sources = replace(note, id="n2", restricted=True), {"human": []}
    free = write_page(tmp_path / "free.html", [note], sources)
    closed = write_page(tmp_path / "deep" / "closed.html", [note, secret], sources)
    assert closed.stat().st_mode & 0o777 == 0o600 != free.stat().st_mode & 0o777
    assert f"This page {LICENCE}" in closed.read_text(encoding="utf-8") and LICENCE not in free.read_text(encoding="utf-8")
    assert f"This output {LICENCE}" in show(secret, sources).data and LICENCE not in show(note, sources).data


def test_a_page_that_cannot_be_made_leaves_the_old_one_alone(tmp_path):
    note = Note("n1", "T2DM")
    path = write_page(tmp_path / "page.html", [note], {"human": []})
    before = path.read_bytes()
    with pytest.raises(NoteNotGiven):
        write_page(path, [note], {"human": [Rationale("n9", CODES[0], (), "human")]})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "notes, sources, error",
    [
        ([], {"human": []}, NothingToShow),
        ([Note("n1", "secret")], {}, NothingToShow),
        ([Note("n1", "secret")] * 2, {"human": []}, RepeatedNote),
        ([Note("n1", "secret")], {"human": [Rationale("n9", CODES[0], (), "human")]}, NoteNotGiven),
        ([Note("n1", "secret")], {"human": [Rationale("n1", CODES[0], [Span(0, 7)], "human")]}, SpanOutsideNote),
    ],
)
def test_bad_input_has_a_name_and_its_message_never_quotes_a_note(notes, sources, error):
    with pytest.raises(error) as e:
        page(notes, sources)
    assert "secret" not in str(e.value)


def test_a_page_is_the_same_every_time():
    assert page(*random_case(3)) == page(*random_case(3))


def test_two_hundred_and_fifty_notes_with_four_sources_are_a_few_megabytes():
    rng = np.random.default_rng(0)
    text = " ".join(rng.choice(["patient", "with", "sepsis", "on", "day", "three"], size=400))
    notes = [Note(f"n{i}", text) for i in range(250)]
    spans = merge_spans([Span(int(a), int(a) + 20) for a in rng.integers(len(text) - 20, size=3)])
    sources = {s: [Rationale(n.id, c, spans, s) for n in notes for c in CODES] for s in "abcd"}
    assert len(page(notes, sources).encode()) < 6e6


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: install it to test the page in a browser")
def test_a_browser_shows_the_note_that_the_address_names_without_any_network(tmp_path):
    one = Note("first", "T2DM 🙂, on metformin.")
    two = Note("second", "</template></script><img src=x onerror=alert(1)>\r\nHTN 🙂 é & more")
    spans = [Span(two.text.index("HTN"), two.text.index("HTN") + 5)]
    sources = {"human": [mark(one, CODES[0], [Span(0, 4)], "human"), mark(two, CODES[2], spans, "human")], "mention": []}
    path = write_page(tmp_path / "page.html", [one, two], sources)
    for address, note, code, marked in [("", one, "E11.22", "T2DM"), ("#2", two, "I10", "HTN 🙂"), ("#junk", one, "E11.22", "T2DM")]:
        command = [CHROMIUM, *QUIET.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri() + address]
        dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
        stage = re.search(r"<main>(.*?)</main>", dom, re.DOTALL)[1]
        assert f'value="{code}"' in stage and f">{marked}</mark>" in stage
        assert Reader(stage.replace("\r", "&#13;")).texts == [note.text] * 2
        assert f"Note {1 + (note is two)} of 2</output>" in dom and "<img" not in dom


def test_marks_are_nested_deepest_first():
    html = marked_text("abcdef", strokes({0: [Span(0, 4)], 1: [Span(2, 6)]}), ["A", "B"])
    assert re.findall(r'class="(.*?)"', html) == ["c0 l0 s", "c1 l1 s", "c0 l0", "c1 l1"]
    assert 'title="B and A"' in html
