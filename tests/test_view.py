"Laws of the view: the text survives, nothing is loaded, nothing is said that is not so; and a real browser agrees."

import json
import re
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import CHROMIUM, QUIET, Browser

from icdrat.codes import icd
from icdrat.data.corpus import RepeatedNote
from icdrat.evaluation.plausibility.counts import character_counts
from icdrat.text import char_mask, mark, merge_spans, words
from icdrat.show.marks import (
    Column,
    NoteNotGiven,
    NothingToShow,
    TwoExplanations,
    agreement,
    disagreement,
    evidence,
    marked_text,
    places,
    segments,
    shades,
    sides,
    strokes,
    views,
)
from icdrat.show.looks import METHODS, NEUTRAL, colours, contrast, mixed
from icdrat.show.page import page, worst, write_page
from icdrat.types import LEVELS, Explanation, Note, Rationale, Span, SpanOutsideNote
from icdrat.show.view import LICENCE, show, sheet, style, verdict

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
    return notes, {
        s: [r for n in notes for r in random_rationales(rng, n, s)] for s in ("human", "mention", "attention")
    }


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


class Kinds(HTMLParser):
    "The text, and for each of its characters the classes of the span around it"

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.text, self.classes, self.now = "", [], set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.now = set(dict(attrs)["class"].split()) if tag == "span" else self.now

    def handle_endtag(self, tag):
        self.now = set() if tag == "span" else self.now

    def handle_data(self, data):
        self.text += data
        self.classes += [self.now] * len(data)


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


def random_column(rng, note, source="x", levels=LEVELS):
    "Some evidence of one source at several levels"
    rationales = [replace(r, level=str(rng.choice(levels))) for r in random_rationales(rng, note, source)]
    return evidence([note], {source: rationales})[note.id][source]


def drawn_in(column):
    return strokes({(k, level): spans for k, c in enumerate(CODES) for level, spans in column.spans.get(c, {}).items()})


@pytest.mark.parametrize("seed", range(40))
def test_no_two_lines_of_one_lane_overlap_and_none_lies_deeper_than_it_must(seed):
    rng = np.random.default_rng(seed)
    drawn = drawn_in(random_column(rng, random_note(rng)))
    for a in drawn:
        across = [b for b in drawn if b is not a and b.start < a.end and a.start < b.end]
        assert a.lane not in {b.lane for b in across}
        assert set(range(a.lane)) <= {b.lane for b in across if LEVELS.index(b.level) <= LEVELS.index(a.level)}, (
            "a higher lane was free"
        )


def test_mentions_lie_closest_to_the_words_longer_lines_first_and_touching_lines_share_a_lane():
    m, s = "mention", "sentence"
    assert [
        (x.code, x.lane) for x in sorted(strokes({(0, m): [Span(0, 2)], (1, m): [Span(0, 4)]}), key=lambda x: x.lane)
    ] == [(1, 0), (0, 1)]
    assert [x.lane for x in strokes({(0, m): [Span(0, 2)], (1, m): [Span(2, 4)]})] == [0, 0]
    assert {x.level: x.lane for x in strokes({(0, s): [Span(0, 9)], (0, m): [Span(4, 6)]})} == {m: 0, s: 1}


@pytest.mark.parametrize("seed", range(40))
def test_segments_tile_the_note(seed):
    rng = np.random.default_rng(seed)
    note = random_note(rng)
    cut = segments(len(note), drawn_in(random_column(rng, note)))
    assert [a for a, _, _ in cut] == [0, *(b for _, b, _ in cut[:-1])] and cut[-1][1] == len(note)
    assert all(a < b for a, b, _ in cut)


def test_an_empty_note_can_be_shown():
    assert Reader(page([Note("n1", "")], {"human": []})).texts == ["", ""]


@pytest.mark.parametrize("level", ["any", "mention"])
@pytest.mark.parametrize("seed", range(40))
def test_agreement_is_the_character_definition_of_plausibility(seed, level):
    rng = np.random.default_rng(seed)
    note = random_note(rng)
    ours, first = random_column(rng, note), random_column(rng, note)
    rows = [
        np.array([(k, s.start, s.end) for k, c in enumerate(CODES) for s in places(side, c, level)], int).reshape(-1, 3)
        for side in (first, ours)
    ]
    hits, n_ours, _, n_first = character_counts(*rows, len(CODES)).sum(0)
    assert agreement(ours, first, CODES, len(note), level) == (hits, n_ours, n_first)
    far = disagreement(ours, first, CODES, len(note), level)
    assert far == (pytest.approx(1 - 2 * hits / (n_ours + n_first)) if n_ours + n_first and ours.spans else None)


@pytest.mark.parametrize("seed", range(40))
def test_every_character_says_who_marks_it_for_each_code_and_level(seed):
    rng = np.random.default_rng(seed)
    note = random_note(rng)
    ours, first = random_column(rng, note), random_column(rng, note, levels=LEVELS[:2])
    levels = views(dict(a=ours, b=first))
    html = marked_text(note.text, drawn_in(ours), [c.value for c in CODES], (), sides(ours, first, CODES, levels))
    reader = Kinds(html)
    for level in levels:
        masks = {
            k: (char_mask(places(ours, c, level), len(note)), char_mask(places(first, c, level), len(note)))
            for k, c in enumerate(CODES)
        }
        for i, classes in enumerate(reader.classes):
            for k, (a, b) in masks.items():
                kind = "y" if a[i] and b[i] else "p" if a[i] else "q" if b[i] else ""
                assert {c for c in classes if c[1:] == f"{k}{level[0]}"} == (
                    {f"{kind}{k}{level[0]}"} if kind else set()
                )
            a, b = ([m[w][i] for m in masks.values()] for w in (0, 1))
            kind = (
                "y"
                if any(x and y for x, y in zip(a, b))
                else "x"
                if any(a) and any(b)
                else "p"
                if any(a)
                else "q"
                if any(b)
                else ""
            )
            assert {c for c in classes if c[1:] == f"A{level[0]}"} == ({f"{kind}A{level[0]}"} if kind else set())
    assert len(reader.classes) == len(note)


@pytest.mark.parametrize("seed", range(20))
def test_a_shade_is_a_fifth_of_the_highest_score_and_the_number_travels_along(seed):
    rng = np.random.default_rng(seed)
    note = Note("n1", "abc defg hi. " * 20)
    scores = rng.normal(size=len(words(note.text))) * 10.0 ** rng.integers(-6, 6)
    shaded = shades({0: Explanation("n1", CODES[0], words(note.text), scores, "x")})
    step = {(s.start, s.end): s.step for s in shaded}
    for (a, b), score in zip(words(note.text), scores):
        assert abs(step.get((a, b), 0) - 5 * max(score, 0) / scores.max()) <= 0.5 + 1e-9
    html = marked_text(note.text, [], ["E11.22"], shaded)
    assert set(re.findall(r'title="E11.22 scored (.*?)"', html)) == {f"{s.score:.3g}" for s in shaded}
    assert Kinds(html).text == note.text


def test_a_source_agrees_perfectly_with_itself():
    spans = Column({CODES[0]: {"mention": [Span(0, 3), Span(5, 9)]}})
    assert verdict(CODES[:1], spans, spans, "human", 10) == (
        "2 places, 7 characters",
        "7 characters shared with human, character F1 1.00",
    )


@pytest.mark.parametrize(
    "ours, first, said",
    [
        ({}, {}, ("No rationale given", "human marked nothing either")),
        ({CODES[0]: []}, {}, ("Asked, and marked nothing", "human marked nothing either")),
        ({}, {CODES[0]: [Span(0, 1)]}, ("No rationale given", "human marked 1 character")),
        ({CODES[0]: [Span(0, 1)]}, {}, ("1 place, 1 character", "human marked nothing")),
        (
            {CODES[0]: [Span(0, 2)]},
            {CODES[0]: [Span(2, 4)]},
            ("1 place, 2 characters", "0 characters shared with human, character F1 0.00"),
        ),
    ],
)
def test_silence_is_said_in_words_and_never_as_a_number(ours, first, said):
    ours, first = (Column({c: {"mention": spans} for c, spans in by_code.items()}) for by_code in (ours, first))
    assert verdict(CODES[:1], ours, first, "human", 10) == said


def test_codes_without_evidence_are_named_with_the_silent_sources():
    note = Note("n1", "T2DM")
    html = page(
        [note], {"human": [mark(note, CODES[0], [Span(0, 4)], "human")], "mention": []}, codes={"n1": CODES[:2]}
    )
    assert re.search(r"E11\.22</b>[^<]*<em>nothing from mention</em>", html)
    assert re.search(r"N18\.32</b>[^<]*<em>nothing from any source</em>", html)


def test_a_code_of_the_note_comes_first_and_a_code_of_a_source_is_added():
    note = Note("n1", "T2DM")
    html = page([note], {"human": [mark(note, CODES[2], [Span(0, 4)], "human")]}, codes={"n1": [CODES[3], CODES[1]]})
    values = [a["value"] for tag, a in Reader(html).tags if tag == "input" and a.get("name") == "code"]
    assert values == ["", "J44.1", "N18.32", "I10"] * 2


def test_levels_can_be_chosen_of_a_source_that_has_several_and_are_joined_for_any():
    note = Note("n1", "T2DM, on metformin.")
    both = [mark(note, CODES[0], [Span(0, 4)], "human"), mark(note, CODES[0], [Span(2, 19)], "human", "sentence")]
    found = evidence([note], {"human": both, "mention": both[:1]})["n1"]
    assert views(found) == ["any", "mention", "sentence"] and views({"mention": found["mention"]}) == ["any"]
    assert places(found["human"], CODES[0]) == [Span(0, 19)] and places(found["human"], CODES[0], "sentence") == [
        Span(2, 19)
    ]
    assert places(found["mention"], CODES[0], "sentence") == [Span(0, 4)], "a source of one level is shown whole"
    html = show(note, {"human": both, "mention": both[:1]}, level="sentence").data
    assert (
        'class="v-sentence" checked' in html
        and re.search(r"w-sentence\">1 place, 17 characters", html)
        and re.search(r"w-mention\">1 place, 4 characters", html)
    )


def test_scores_and_spans_of_one_source_share_a_column():
    note = Note("n1", "T2DM, on metformin.")
    soft = Explanation("n1", CODES[0], words(note.text), np.array([0.5, 0, 0.01, 0.2, 0]), "model")
    html = show(
        note,
        {
            "human": [mark(note, CODES[0], [Span(0, 4)], "human")],
            "model": [mark(note, CODES[0], [Span(9, 18)], "model"), soft],
        },
    ).data
    assert 'title="E11.22 scored 0.5"' in html and 'title="E11.22 scored 0.2"' in html and "scored 0.01" not in html
    assert Reader(html).texts == [note.text] * 2
    with pytest.raises(TwoExplanations):
        show(note, {"model": [soft, replace(soft, method="other")]})


def test_the_worst_notes_come_first_at_the_level_that_is_asked_for():
    notes = [Note(f"n{i}", "T2DM, on metformin.") for i in range(3)]
    human = [mark(n, CODES[0], [Span(0, 4)], "human") for n in notes] + [
        mark(n, CODES[0], [Span(0, 19)], "human", "sentence") for n in notes
    ]
    model = [
        mark(notes[0], CODES[0], [Span(0, 4)], "m"),
        mark(notes[1], CODES[0], [Span(9, 18)], "m"),
        mark(notes[2], CODES[0], [Span(0, 19)], "m"),
    ]
    sources = {"human": human, "m": model}
    assert [n.id for n in worst(notes, sources, 2, "mention")] == ["n1", "n2"] and [
        n.id for n in worst(notes, sources, 1, "sentence")
    ] == ["n0"]
    entries = [json.loads(unescape(e)) for e in re.findall(r'data-entry="(.*?)"', page(notes, sources))]
    assert [e["far"]["m"]["mention"][0] for e in entries] == [0, 1, pytest.approx(1 - 8 / 23, abs=1e-3)]


@pytest.mark.parametrize("seed", range(10))
def test_nothing_can_be_loaded(seed):
    notes, sources = random_case(seed)
    html = page(notes, sources, title="<script src=x>")
    for tag, attrs in Reader(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "a")
        assert not {"src", "href", "action", "srcset", "style", "formaction"} & set(attrs) and not [
            a for a in attrs if a.startswith("on")
        ]
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|WebSocket|import\(", html)
    assert [t for t, _ in Reader(html).tags].count("script") == 1
    assert "default-src 'none'" in html


def test_names_are_escaped_everywhere():
    note = Note('"><i>', "text", corpus="<u>", language='"><s>')
    html = page([note], {'<b class="x">': [mark(note, CODES[0], [Span(0, 4)], "x")]}, title="</title><em>")
    tags = [tag for tag, _ in Reader(html).tags]
    assert not {"i", "u", "s"} & set(tags) and '<b class="x">' not in html and "<em>" not in html.split("<body>")[0]


def test_every_rule_of_the_style_stays_inside_the_panel():
    for selector in re.findall(r"(?:^|[}{])\s*([^{}]+)\{", style(20, ["any", *LEVELS], soft=True)):
        if not selector.strip().startswith("@"):
            assert all(".icdrat" in part for part in re.split(r",(?![^(]*\))", selector)), selector


def test_twenty_codes_look_different_in_colour_or_line_up_to_the_eighteenth():
    looks = re.findall(r"\.c\d+ \{ (--ink.*?) \}", style(20))
    assert len(set(looks)) == 18 and looks[18] == looks[0]


# ---- what can be read, on light and on dark ----

COLOUR = r"light-dark\((#\w{6}),\s*(#\w{6})\)"


def declared(css, name, scheme):
    "The colour that a rule or a variable has in a scheme: 0 light, 1 dark"
    return re.search(rf"(?<![\w-]){name}: {COLOUR}", css)[scheme + 1]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_letter_and_every_line_of_a_panel_stands_out(scheme):
    css = style(18, ["any", *LEVELS], soft=True)
    panel = re.search(r"\.icdrat \{.*?\}", css, re.S)[0]
    text, quiet, ground, wash = (declared(panel, f"--{v}", scheme) for v in ("text", "quiet", "ground", "wash"))
    around = declared(panel, "background", scheme)
    for letters in (text, quiet):
        assert min(contrast(letters, g) for g in (ground, wash, around)) >= 4.5
    inks = {m[scheme + 1] for m in re.finditer(rf"--ink: {COLOUR}", css)}
    shares = {int(m) for m in re.findall(r"(?:--tint:|color-mix\(in srgb, var\(--ink\)) (\d+)%", css)}
    assert len(inks) == 6 and {20, 36} <= shares
    for ink in inks:
        assert contrast(ink, ground) >= 3, f"the line {ink} under a mark (WCAG 1.4.11)"
        for share in shares:
            tinted = mixed(ink, ground, share / 100)
            assert contrast(text, tinted) >= 4.5, f"letters on {share} % of {ink} (WCAG 1.4.3)"
            assert contrast(text, mixed(ink, tinted, 0.2)) >= 4.5 or share > 22, "two marks over each other"
    assert ".icdrat .key span { color: var(--text) }" in css, "the legend has the letters of the text"
    for mix in re.finditer(rf"color-mix\(in srgb, {COLOUR} (\d+)%", css):
        for behind in (ground, wash):
            assert contrast(text, mixed(mix[scheme + 1], behind, int(mix[3]) / 100)) >= 4.5
    lines = [m[scheme + 1] for m in re.finditer(rf"(?:dashed|wavy|solid|double) {COLOUR}", css)]
    assert len(lines) >= 4 and min(contrast(line, ground) for line in lines) >= 3


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["page.css", "marks.css"])
def test_every_rule_with_a_ground_and_a_colour_can_be_read(name, scheme):
    css, text = sheet(name), declared(sheet("panel.css"), "--text", scheme)
    body = declared(sheet("page.css"), "background", scheme)
    for rule in re.findall(r"\{([^{}]*)\}", css):
        colour, ground = (re.search(rf"(?<![\w-]){what}: {COLOUR}", rule) for what in ("color", "background"))
        if colour or ground:
            pair = colour[scheme + 1] if colour else text, ground[scheme + 1] if ground else body
            assert contrast(*pair) >= 4.5, rule


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_a_column_has_the_colour_of_its_source_and_it_can_be_seen(scheme):
    css = sheet("panel.css")
    assert "border-top: 4px solid var(--source" in css
    for method, printed in METHODS.items():
        assert contrast(colours(method)[scheme], declared(css, "--wash", scheme)) >= 3
        shown = show(Note("n", "a b"), {printed: [], "x": [Rationale("n", CODES[0], (), "x")]}).data
        [hue] = re.findall(r'<section class="first ?(\w*)"', shown)
        rule = f".icdrat .{hue} {{ --source: light-dark({','.join(colours(method))}) }}"
        assert rule in shown if hue else colours(method) == NEUTRAL


def test_a_panel_follows_the_theme_of_its_host():
    css = sheet("panel.css")
    for theme, scheme in (("true", "light"), ("false", "dark")):
        assert re.search(
            rf'\[data-jp-theme-light="{theme}"\], \.quarto-{scheme}\) \.icdrat \{{ color-scheme: {scheme} \}}', css
        )


def test_what_is_counted_is_said_with_its_unit():
    note = Note("n", "one two three")
    ours, first = (mark(note, CODES[0], [Span(0, e)], s) for s, e in (("ours", 3), ("first", 7)))
    said = show(note, dict(first=[first], ours=[ours])).data
    assert "3 characters shared with first, character F1" in said and "Characters marked by" in said
    scored = Explanation("n", CODES[0], words(note.text), np.array([0.2, 0.1, 0.0]), "attention")
    assert "of the score on words that first marked" in show(note, dict(first=[first], attention=[scored])).data


def test_a_restricted_note_carries_a_warning_and_its_file_is_private(tmp_path):
    note = Note("n1", "T2DM")
    secret, sources = replace(note, id="n2", restricted=True), {"human": []}
    free = write_page(tmp_path / "free.html", [note], sources)
    closed = write_page(tmp_path / "deep" / "closed.html", [note, secret], sources)
    assert closed.stat().st_mode & 0o777 == 0o600 != free.stat().st_mode & 0o777
    assert f"This page {LICENCE}" in closed.read_text(encoding="utf-8") and LICENCE not in free.read_text(
        encoding="utf-8"
    )
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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: install it to test the page in a browser")
def test_a_browser_shows_the_note_that_the_address_names_without_any_network(tmp_path):
    one = Note("first", "T2DM 🙂, on metformin.")
    two = Note("second", "</template></script><img src=x onerror=alert(1)>\r\nHTN 🙂 é & more")
    spans = [Span(two.text.index("HTN"), two.text.index("HTN") + 5)]
    sources = {
        "human": [mark(one, CODES[0], [Span(0, 4)], "human"), mark(two, CODES[2], spans, "human")],
        "mention": [],
    }
    path = write_page(tmp_path / "page.html", [one, two], sources)
    for address, note, code, marked in [
        ("", one, "E11.22", "T2DM"),
        ("#2", two, "I10", "HTN 🙂"),
        ("#junk", one, "E11.22", "T2DM"),
    ]:
        command = [
            CHROMIUM,
            *QUIET.split(),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri() + address,
        ]
        dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
        stage = re.search(r"<main.*?>(.*?)</main>", dom, re.DOTALL)[1]
        assert f'value="{code}"' in stage and re.search(f"<mark[^>]*>{marked}</mark>", stage)
        assert Reader(stage.replace("\r", "&#13;")).texts == [note.text] * 2
        assert f"Note {1 + (note is two)} of 2</output>" in dom and "<img" not in dom


def test_marks_are_nested_deepest_first():
    html = marked_text("abcdef", strokes({(0, "mention"): [Span(0, 4)], (1, "mention"): [Span(2, 6)]}), ["A", "B"])
    assert re.findall(r'class="(.*?)"', html) == [
        "c0 l0 mention s",
        "c1 l1 mention s",
        "c0 l0 mention",
        "c1 l1 mention",
    ]
    assert 'title="B and A"' in html


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH: install it to test the page in a browser")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def opened(browser, tmp_path):
    "Three notes; of mention and attention the second is worst, and only the third has I10"
    texts = ["T2DM 🙂 on metformin.", "T2DM here. HTN there.", "HTN, and T2DM."]
    notes = [Note(f"note {i}", t) for i, t in enumerate(texts)]
    at = lambda n, quote: [Span(n.text.index(quote), n.text.index(quote) + len(quote))]  # noqa: E731
    human = (
        [mark(n, CODES[0], at(n, "T2DM"), "human") for n in notes]
        + [mark(n, CODES[0], [Span(0, len(n))], "human", "sentence") for n in notes]
        + [mark(notes[2], CODES[2], at(notes[2], "HTN"), "human")]
    )
    mention = [
        mark(notes[0], CODES[0], at(notes[0], "T2DM 🙂"), "mention"),
        mark(notes[1], CODES[0], at(notes[1], "there"), "mention"),
        mark(notes[2], CODES[0], at(notes[2], "T2DM"), "mention"),
    ]
    soft = [
        Explanation(n.id, CODES[0], words(n.text), np.linspace(1, 0.1, len(words(n.text))), "attention") for n in notes
    ]
    browser.complaints.clear()
    browser.call("Page.navigate", url="about:blank")
    browser.open(write_page(tmp_path / "page.html", notes, {"human": human, "mention": mention, "attention": soft}))
    return browser


def shown(browser):
    return browser("document.querySelector('main h2').firstChild.textContent.trim()"), browser(
        "document.querySelector('nav output').textContent"
    )


def visible(browser, selector):
    "The texts of what a selector finds and a reader sees"
    return browser(
        f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent).map(e => e.textContent)"
    )


def test_keys_turn_the_notes_and_walk_from_place_to_place(opened):
    assert shown(opened) == ("note 0", "Note 1 of 3")
    opened.press("n", "ArrowRight", "n")
    assert shown(opened) == ("note 2", "Note 3 of 3")
    opened.press("p", "ArrowLeft", "p")
    assert shown(opened) == ("note 0", "Note 1 of 3")
    opened.press("j", "j", "j", "k", "k", "j", "j")
    focused = opened(
        (
            "[document.activeElement.tagName, document.activeElement.textContent, "
            "document.activeElement.title, getComputedStyle(document.activeElement).outlineStyle]"
        )
    )
    assert focused == ["MARK", "T2DM", "E11.22", "solid"]  # its first segment: human ends there
    opened.press("j")
    assert opened("document.activeElement.title").startswith("E11.22 scored") and opened(
        "getComputedStyle(document.activeElement, '::after').content"
    ).startswith('"E11.22 scored')
    assert opened.complaints == []


def test_tab_reaches_every_control(opened):
    reached = set()
    for _ in range(25):
        opened.press("Tab")
        reached.add(
            opened(
                (
                    "document.activeElement.name || document.activeElement.className || "
                    "document.activeElement.closest('nav, .list, li')?.tagName || "
                    "document.activeElement.tagName"
                )
            )
        )
    assert {"code", "level", "mode"} <= reached
    focusable = opened(
        (
            "[...document.querySelectorAll('button, select, input, summary')].filter(e => "
            "e.offsetParent && !e.disabled && e.tabIndex < 0).length"
        )
    )
    assert focusable == 0


def test_a_choice_changes_marks_and_words_and_stays_with_the_next_note(opened):
    border = "getComputedStyle(document.querySelector('main .graded mark.sentence')).borderBottomColor"
    assert (
        visible(opened, "main section.first .say") == ["1 place, 20 charactersReference for the others"]
        and opened(border) != "rgba(0, 0, 0, 0)"
    )
    opened("document.querySelector('main .v-mention').click()")
    opened("document.querySelector('main .k0').click()")
    assert (
        visible(opened, "main section.first .say") == ["1 place, 4 charactersReference for the others"]
        and opened(border) == "rgba(0, 0, 0, 0)"
    )
    assert opened("getComputedStyle(document.querySelector('main .s0_5')).backgroundColor") != opened(
        "getComputedStyle(document.querySelector('main .s0_1')).backgroundColor"
    )
    opened("document.querySelector('main .agree').click()")
    lines = [
        opened(
            (
                f"getComputedStyle(document.querySelector('main section[data-source=mention] "
                f".{kind}0m')).textDecorationStyle"
            )
        )
        for kind in "yp"
    ]
    assert (
        lines == ["solid", "wavy"]
        and opened(
            "getComputedStyle(document.querySelector('main section[data-source=mention] mark')).borderBottomColor"
        )
        == "rgba(0, 0, 0, 0)"
    )
    opened.press("n")
    assert shown(opened)[0] == "note 1" and opened(
        "['code', 'level', 'mode'].map(n => document.querySelector(`main input[name=${n}]:checked`).value)"
    ) == ["E11.22", "v-mention", "agree"]
    assert (
        opened("getComputedStyle(document.querySelector('main section[data-source=mention] .q0m')).borderTopStyle")
        == "dashed"
    )
    opened.press("Escape")
    assert opened("document.querySelector('main input[name=code]:checked').value") == "" and opened.complaints == []


def test_the_list_is_narrowed_to_a_code_and_a_source_and_put_with_the_worst_first(opened):
    pick = lambda what, value: opened(
        (
            f"(() => "
            f"{{ const s = document.querySelectorAll('.list select')[{what}]; "
            f"s.value = {json.dumps(value)}; s.onchange() }})()"
        )
    )  # noqa: E731
    opened("document.querySelector('.list [type=checkbox]').click()")
    pick(1, "mention")
    opened("document.querySelector('main .v-mention').click()")
    assert [t.split(" disagreement")[0] for t in visible(opened, ".list li")] == ["note 1", "note 2", "note 0"]
    assert visible(opened, "main section h3") == ["human", "mention"]
    pick(0, "I10")
    assert (
        visible(opened, ".list li") == ["note 2 disagreement 1.00"]
        and opened("document.querySelector('main input[name=code]:checked').value") == "I10"
    )
    opened.press("n", "p")
    assert shown(opened) == ("note 2", "Note 1 of 1") and opened.complaints == []


def test_the_page_of_hundreds_of_notes_opens_and_turns_at_once(browser, tmp_path):
    rng = np.random.default_rng(0)
    text = " ".join(rng.choice(["patient", "with", "sepsis", "on", "day", "three"], size=400))
    notes = [Note(f"n{i}", text) for i in range(300)]
    sources = {
        s: [
            Rationale(n.id, c, [Span(i * 7 + k, i * 7 + k + 20)], s)
            for i, n in enumerate(notes)
            for k, c in enumerate(CODES)
        ]
        for s in "abcd"
    }
    browser.open(write_page(tmp_path / "page.html", notes, sources))
    assert shown(browser) == ("n0", "Note 1 of 300") and browser("document.querySelectorAll('main mark').length") < 200
    browser.press(*"nnnn")
    assert shown(browser) == ("n4", "Note 5 of 300") and browser.complaints == []
