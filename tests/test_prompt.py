"What a model is asked, word for word, and what can be read out of its answers."

import json
import time

import numpy as np
import pytest
from misbehaving import GOOD, NOTE, TEXT, A, B, llm  # noqa: F401  `llm` is used by other files

from icdrat.codes import icd
from icdrat.data.corpus import build
from icdrat.data.exchange import BrokenFile
from icdrat.data.vignettes import vignettes
from icdrat.rationale.mention.lexicon import NotTraining
from icdrat.rationale.llm.prompt import (
    CHOICES,
    LEAST,
    PROMPTS,
    Answer,
    BadPrompt,
    Manner,
    NoRoom,
    Quote,
    candidates,
    choose,
    described,
    described_below,
    examples,
    guideline,
    load_prompt,
    marked_names,
    meaning,
    mended,
    messages,
    parse,
    pieces,
    questions,
    schema,
    spoken,
    windows,
)
from icdrat.text import sentences, words
from icdrat.types import LEVELS, BadInput, Code, Note, Rationale, Span

TRAIN = vignettes().split("train")


# ---- prompt files ----


@pytest.mark.parametrize("path", sorted(PROMPTS.glob("*.txt")), ids=lambda p: p.stem)
def test_a_prompt_of_the_package_asks_at_every_level_in_both_languages(path):
    prompt = load_prompt(path.stem)
    for language in ("en", "es"):
        told = [
            messages(Note("n", "x y", language=language), [A], Span(0, 3), Manner(prompt, level))[0]["content"]
            for level in LEVELS
        ]
        assert len(set(told)) == 3 and all("{" not in t.replace('{"', "") and "JSON" in t for t in told)
        assert ("cita" in told[0]) == (language == "es")


def test_a_prompt_s_hash_changes_with_every_character_and_not_with_the_system(tmp_path):
    text = (PROMPTS / "quotes.txt").read_text(encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "b.txt").write_text(text.replace("clinical coder", "clinical Coder"), encoding="utf-8")
    assert (
        load_prompt(tmp_path / "a.txt").sha256 == load_prompt("quotes").sha256 != load_prompt(tmp_path / "b.txt").sha256
    )


@pytest.mark.parametrize(
    "change, match",
    [
        (("version: 1", "versions: 1"), "no version"),
        (("[context en]", "[contexts en]"), "no part .context en."),
        (("{form}", "form"), "system en.*form"),
        (("<note>\n{note}", "<note>"), "user en.*note"),
    ],
)
def test_a_slip_in_a_prompt_is_named(change, match, tmp_path):
    (tmp_path / "mine.txt").write_text(
        (PROMPTS / "quotes.txt").read_text(encoding="utf-8").replace(*change), encoding="utf-8"
    )
    with pytest.raises(BadPrompt, match=match):
        load_prompt(tmp_path / "mine.txt")


# ---- the parts that are shown ----


@pytest.mark.parametrize("seed", range(20))
def test_pieces_cover_the_note_overlap_and_fit(seed):
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("ab. \n\n.Aé"), size=rng.integers(1, 400)))
    size = int(rng.integers(20, 90))
    overlap = int(rng.integers(0, size))
    parts = pieces(text, size, overlap)
    assert parts[0].start == 0 and parts[-1].end == len(text) and all(len(p) <= size for p in parts)
    begins = {int(s) for s, _ in words(text)}
    assert all(
        a.start < b.start <= a.end < b.end
        and (b.start in begins and b.start > a.end - overlap or b.start == a.end - overlap)
        for a, b in zip(parts, parts[1:])
    )


def test_evidence_shorter_than_the_overlap_is_whole_in_some_piece():
    text = TRAIN.notes[0].text
    parts = pieces(text, 700, 150)
    for start in words(text)[:, 0].tolist():
        assert any(p.start <= start and min(start + 150, len(text)) <= p.end for p in parts)


def test_pieces_end_with_sentences():
    text = TRAIN.notes[1].text
    ends = set(sentences(text)[:, 1].tolist())
    assert all(p.end in ends for p in pieces(text, 900, 100)[:-1])


def test_a_window_holds_its_candidate_and_no_more_sentences_than_asked():
    for note in TRAIN.notes:
        for code in TRAIN.codes[note.id]:
            found = windows(note.text, described(code), 4, 3)
            places = sentences(note.text)
            assert len(found) <= 3 and all(
                ((places[:, 0] >= w.start) & (places[:, 1] <= w.end)).sum() == 4 for w in found
            )
            weights = candidates(note.text, described(code))
            assert bool(found) == bool(weights.any())
            if found:
                best = sentences(note.text)[weights.argmax()].tolist()
                assert any(w.start <= best[0] and best[1] <= w.end for w in found)


def test_a_rarer_word_counts_more():
    text = "Pain in the chest. Pain in the knee. Pain. Nothing."
    weights = candidates(text, ["chest pain"])
    assert weights[0] == pytest.approx(4 / 3) and weights[1] == weights[2] == pytest.approx(1 / 3) and weights[3] == 0
    assert not candidates(text, ["in the", "unspecified"]).any()


def test_marked_names_come_from_training_notes_only():
    with pytest.raises(NotTraining):
        marked_names(vignettes())
    assert "HTN" in marked_names(TRAIN)(icd("I10"))


def test_a_code_outside_the_list_borrows_the_name_of_its_category():
    assert (
        meaning(Code("icd10cm", "I10.99")) == meaning(icd("I10"))
        and meaning(Code("icd10cm", "QQQ")) == "QQQ"
        and meaning(Code("cpt", "99213")) == "99213"
    )
    assert questions(NOTE, [Code("icd10cm", "R04.99")], Manner(one_code=True, window=2))


# ---- worked examples ----


@pytest.mark.parametrize("how", CHOICES)
@pytest.mark.parametrize("one_code, window", [(False, 0), (True, 6)])
def test_no_example_comes_from_the_note_that_is_asked_about(how, one_code, window):
    pool = examples(TRAIN, one_code=one_code, window=window)
    for note in TRAIN.notes[:3]:
        shots = choose(pool, 5, how, note, TRAIN.codes[note.id][:1], Span(0, 300))
        assert len(shots) == 5 and all(s.note.id != note.id for s in shots)


def test_notes_of_other_splits_give_no_examples():
    with pytest.raises(NotTraining, match="test"):
        examples(vignettes())


def test_an_example_is_answered_as_an_annotator_would():
    pool = examples(TRAIN, one_code=True, window=6, empty=True)
    for shot in pool:
        asked = messages(NOTE, [A], Span(0, 10), Manner(one_code=True, pool=pool, n_shots=1), [shot])
        said = json.loads(asked[2]["content"])["quotes"]
        assert all(q in shot.text and q in asked[1]["content"] for q in said)
        assert bool(said) == bool(shot.evidence[0].spans)
    levels = [sum(len(s.quotes(r)) for s in examples(TRAIN, level) for r in s.evidence) for level in LEVELS]
    assert all(levels)


def test_examples_by_code_share_it_and_by_likeness_are_near():
    pool = examples(TRAIN, one_code=True, window=6)
    some = next(s for s in pool if sum(s.codes == t.codes for t in pool) > 2)
    near = choose(pool, 2, "code", NOTE, some.codes, Span(0, 10))
    assert all(s.codes == some.codes for s in near)
    copy = Note("copy", pool[7].text)
    assert choose(pool, 3, "similar", copy, [A], Span(0, len(copy)))[-1] == pool[7]


def test_shots_without_a_pool_are_refused():
    with pytest.raises(BadInput, match="pool=examples"):
        Manner(n_shots=2)


# ---- questions ----


def test_every_code_is_asked_about_whatever_the_switches():
    note, codes = TRAIN.notes[0], TRAIN.codes[TRAIN.notes[0].id]
    pool = examples(TRAIN, one_code=True, window=4)
    for manner in (
        Manner(),
        Manner(one_code=True),
        Manner(window=6),
        Manner(one_code=True, window=6, pool=pool, n_shots=2),
        Manner(load_prompt("numbered"), "sentence", True, 3),
    ):
        asked = questions(note, codes, manner, 8000)
        assert {c for q in asked for c in q.codes} == set(codes)
        assert all(sum(len(m["content"]) for m in q.messages) <= 8000 for q in asked)
        if not manner.prompt.numbered:
            assert all(note.text[q.piece.start : q.piece.end] in q.messages[-1]["content"] for q in asked)
        assert [(q.piece.start, q.piece.end) for q in asked] == sorted((q.piece.start, q.piece.end) for q in asked)


def test_questions_share_their_beginning_up_to_the_codes():
    "What a server's prefix cache lives on"
    note, codes = TRAIN.notes[0], TRAIN.codes[TRAIN.notes[0].id]
    first, second = (q.messages for q in questions(note, codes[:2], Manner(one_code=True)))
    common = next(i for i, (x, y) in enumerate(zip(first[-1]["content"], second[-1]["content"])) if x != y)
    assert first[:-1] == second[:-1] and common > len(note.text)
    turned = [
        q.messages[-1]["content"] for q in questions(note, codes[:2], Manner(load_prompt("codes_first"), one_code=True))
    ]
    assert next(i for i, (x, y) in enumerate(zip(*turned)) if x != y) < 100


def test_a_long_note_is_shown_whole_in_pieces():
    text = " ".join(f"Sentence number {i} is here." for i in range(3000))
    asked = questions(Note("long", text), [A, B], room=10_000)
    assert asked[0].piece.start == 0 and asked[-1].piece.end == len(text)
    assert all(b.piece.start < a.piece.end for a, b in zip(asked, asked[1:]))


def test_too_little_room_is_named_with_its_remedy():
    with pytest.raises(NoRoom, match="^n1: .*fewer or shorter examples"):
        questions(NOTE, [A], room=LEAST)


def test_skipping_asks_only_where_there_is_a_candidate():
    assert {c for q in questions(NOTE, [A, B], Manner(one_code=True, window=2, fallback=False)) for c in q.codes} == {B}


def test_names_below_a_category_are_looked_for_only_where_its_own_find_nothing():
    around = Manner(one_code=True, window=1, fallback=False)
    chest, angina = (
        Note("n", "He slept well. Ischemic chest pain at night."),
        Note("n", "Angina pectoris last year. He slept well. Ischemic chest pain at night."),
    )
    shown = [[n.text[q.piece.start : q.piece.end] for q in questions(n, [icd("I20")], around)] for n in (chest, angina)]
    assert shown == [["Ischemic chest pain at night."], ["Angina pectoris last year."]]
    assert not questions(chest, [icd("I20.2")], around), (
        "refractory angina has no codes below, and no word of its own here"
    )
    assert (
        described_below(icd("I10"))
        == described_below(Code("icd9cm", "413"))
        == described_below(Code("icd10cm", "I20.77"))
        == ()
    )


def test_the_schema_allows_the_form_and_nothing_else():
    held = schema([A, B], False)
    item = held["properties"]["rationales"]["items"]
    assert (
        item["properties"]["code"]["enum"] == [A.value, B.value]
        and item["additionalProperties"] is held["additionalProperties"] is False
    )
    assert schema([A], True, n_sentences=3)["properties"]["quotes"]["items"]["properties"]["sentence"]["enum"] == [
        1,
        2,
        3,
    ]


def test_a_corpus_without_marks_gives_no_examples():
    bare = build("bare", [dict(note_id="a", text="x", codes=[A], split="train")], [Rationale("a", A, (), "human")])
    with pytest.raises(BadInput, match="no gold rationale at level 'mention'"):
        examples(bare)


# ---- answers ----


def quotes(answer, codes=(A, B)):
    return {code: [q.words for q in qs] for code, qs in parse(answer, codes).items}


@pytest.mark.parametrize(
    "wrap",
    [
        "ANSWER",
        "```json\nANSWER\n```",
        "```\nANSWER```",
        "Of course! ANSWER I hope {this} helps.",
        "{} or rather ANSWER",
        "\n\nANSWER\n",
        "<think>{hm}</think>ANSWER",
        '{"note": 1} ANSWER',
    ],
)
def test_fences_and_chatter_around_an_answer_do_no_harm(wrap):
    assert parse(wrap.replace("ANSWER", GOOD)) == parse(GOOD)
    assert quotes(GOOD) == {"E11.9": ["T2DM"], "r042": ["HEMOPTYSIS"]}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "",
        "no evidence",
        "[] or perhaps not",
        "null",
        "{}",
        '{"rationales": {}}',
        '{"rationales": ["T2DM"]}',
        '{"rationales": [{"code": "E11.9"}]}',
        '{"rationales": [{"code": "E11.9", "quotes": [1]}]}',
        '{"rationales": [{"quotes": []}]}',
        '{"quotes": ["T2DM"]}',
        '{"quotes": 3}',
        "{" * 3000,
        '{"a":' * 3000,
        "[" * 3000,
        '{"quotes": [' * 3000,
    ],
)
def test_a_malformed_answer_is_said_to_be_and_never_a_crash(answer):
    read = parse(answer, (A, B))
    assert read.malformed and not any(qs for _, qs in read.items)


@pytest.mark.parametrize(
    "answer", ["[]", "```json\n[ ]\n```", '{"codes": []}', 'So: {"a": [], "b": []}', '{"x": {"y": []}}']
)
def test_nothing_by_any_name_is_an_honest_answer_and_takes_nothing_from_another(answer):
    assert parse(answer, (A, B)) == Answer()
    if answer[0] == "{":
        assert parse(f"{GOOD} {answer}", (A, B)) == parse(f"{answer} {GOOD}", (A, B)) == parse(GOOD)


def test_items_under_any_name_are_items():
    items = json.dumps(json.loads(GOOD)["rationales"])
    assert parse(f'{{"evidence": {items}}}', (A, B)) == parse(f'{{"a": 1, "b": {items}}}', (A, B)) == parse(GOOD)


@pytest.mark.parametrize(
    "end", [', "T2DM"' * 400, ', "T2DM"' * 400 + ', "T2', ': ,, "x" {"a": 1' * 30, ', "a": [' * 60]
)
def test_an_answer_that_breaks_off_in_disorder_is_never_whole(end):
    whole = json.dumps({"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, {"code": "R04.2", "quotes": ["x"]}]})
    read = parse(whole[:-3] + end, (A, B))
    assert not read.whole and dict(read.items)["E11.9"] == (Quote("T2DM"),)
    assert all(quotes for _, quotes in read.items), "a code that was lost is not one without evidence"


def test_what_is_in_form_survives_what_is_not():
    mixed = parse(
        '{"rationales": [{"code": "E11.9", "quotes": ["T2DM", 7]}, "?", {"code": "R04.2", "quotes": "blood"}]}'
    )
    assert mixed.malformed and [(c, len(q)) for c, q in mixed.items] == [("E11.9", 1), ("R04.2", 1)]


@pytest.mark.parametrize("end", range(1, len(GOOD)))
def test_an_answer_cut_anywhere_gives_what_was_whole_and_nothing_else(end):
    read, whole = parse(GOOD[:end], (A, B)), quotes(GOOD)
    assert read.cut or read.malformed
    assert all(q.words in whole[code] for code, qs in read.items for q in qs)
    if end > GOOD.index('"T2DM"') + 5:
        assert read.cut and not read.malformed and quotes(GOOD[:end])["E11.9"] == ["T2DM"]


def test_a_cut_string_with_escapes_is_mended_or_left():
    text = json.dumps({"quotes": ['say "ah"', "C:\\", "ünï\u2028"]})
    for end in range(1, len(text) + 1):
        found, _, lost = mended(text[:end])
        assert lost == (end < len(text))
        assert found is None or found == {} or set(found.get("quotes", [])) <= {'say "ah"', "C:\\", "ünï\u2028"}
    assert mended(text) == (json.loads(text), len(text), False)


def test_the_short_form_is_for_one_code():
    assert parse('{"quotes": ["T2DM", {"quote": "x", "sentence": 2}]}', [A]) == Answer(
        (("E11.9", (Quote("T2DM"), Quote("x", 2))),)
    )
    assert parse('{"quotes": "T2DM"}', [A]).items == (("E11.9", (Quote("T2DM"),)),)


def test_items_without_their_list_are_found_one_by_one():
    items = json.loads(GOOD)["rationales"]
    assert parse(json.dumps(items)) == parse("\n".join(map(json.dumps, items))) == parse(GOOD)


@pytest.mark.parametrize(
    "answer",
    [
        "<think>ANOTHER is a draft</think>ANSWER",
        "ANOTHER, no.\n</think>\nANSWER",
        "<thinking>\nANOTHER\n</thinking>\n```json\nANSWER\n```",
        "[THINK]ANOTHER[/THINK]ANSWER",
        "<|channel|>analysis<|message|>ANOTHER<|end|><|start|>assistant<|channel|>final<|message|>ANSWER",
        "ANSWER<think>ANOTHER",
        "First ANOTHER. Then rather: ANSWER",
        'The form is {"rationales": [{"code": "CODE", "quotes": ["words of the note"]}]}. ANOTHER ANSWER',
        'ANSWER The form was {"quotes": ["words of the note"]}.',
        '{"answer": ANSWER}',
    ],
)
def test_drafts_and_reasoning_are_not_the_answer(answer):
    other = json.dumps({"rationales": [{"code": "E11.9", "quotes": ["draft"]}, {"code": "R04.2", "quotes": []}]})
    final = json.dumps({"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, {"code": "R04.2", "quotes": ["x"]}]})
    assert parse(answer.replace("ANSWER", final).replace("ANOTHER", other), (A, B)) == parse(final)


def test_of_two_answers_the_last_counts_and_others_add_what_they_alone_speak_of():
    one, two = (
        '{"rationales": [{"code": "E11.9", "quotes": ["a"]}]}',
        '{"rationales": [{"code": "R04.2", "quotes": ["b"]}]}',
    )
    assert quotes(f"{one} {two}") == quotes(f"{one}\n{two}\n{two}") == {"E11.9": ["a"], "R04.2": ["b"]}
    assert quotes(f'{one} no: {{"rationales": []}}') == {} and parse(f'{one} {{"rationales": []}}').whole
    assert quotes('{"quotes": ["a"]} no: {"quotes": ["b"]}', [A]) == {"E11.9": ["b"]}
    cut = parse(one + ' final: {"rationales": [{"code": "E11.9", "quo', (A, B))
    assert cut.cut and dict(cut.items) == {"E11.9": (Quote("a"),)}


@pytest.mark.parametrize(
    "inside, words",
    [
        ('"A1c was\n9.2"', "A1c was\n9.2"),
        ('"A1c\twas"', "A1c\twas"),
        (r'"100\% O2"', "100% O2"),
        (r'"C:\x"', r"C:\x"),
        ('"the "sugar" sickness"', 'the "sugar" sickness'),
        ('"a 5" wound"', 'a 5" wound'),
        ('"said "ah", then left"', 'said "ah", then left'),
        ('"5 feet 7"",', '5 feet 7"'),
    ],
)
def test_a_slip_in_a_string_loses_nothing(inside, words):
    read = parse(f'{{"rationales": [{{"code": "E11.9", "quotes": [{inside}]}}, {{"code": "R04.2", "quotes": ["x"]}}]}}')
    assert read.whole and read.items == (("E11.9", (Quote(words),)), ("R04.2", (Quote("x"),)))
    cut = parse(f'{{"rationales": [{{"code": "E11.9", "quotes": [{inside}]}}, {{"code": "R04.2", "quotes": ["x')
    assert cut.cut and cut.items[0] == ("E11.9", (Quote(words),))


@pytest.mark.parametrize(
    "answer",
    [
        '{"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, ...]}',
        '{"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, {"code": "R04.2", "evidence": ["x"]}]}',
        '{"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, {"code": "R04.2", "quotes": null}]}',
        '{"rationales": [{"code": "E11.9", "quotes": ["T2DM"]}, {"code": "R04.2", "quotes": [1]}]}',
    ],
)
def test_what_is_lost_is_counted_as_malformed(answer):
    read = parse(answer, (A, B))
    assert read.malformed and not read.cut and [c for c, _ in read.items] == ["E11.9"]


def test_a_key_that_stands_twice_loses_no_quote():
    one, two = '[{"code": "E11.9", "quotes": ["a"]}]', '[{"code": "R04.2", "quotes": ["b"]}]'
    assert quotes(f'{{"rationales": {one}, "rationales": {two}}}') == {"E11.9": ["a"], "R04.2": ["b"]}
    assert parse('{"rationales": [{"code": "E11.9", "quotes": ["a"], "code": "R04.2", "quotes": ["b"]}]}').malformed


def test_reading_takes_no_longer_than_a_moment_for_any_rubbish():
    start = time.perf_counter()
    for rubbish in ('{"code": "', "<think>", '{"quotes": ["', '{"rationales": ', 'a "b" ', "{'"):
        parse(rubbish * 20_000, [A])
        spoken(rubbish * 20_000)
    assert time.perf_counter() - start < 30


# ---- what counts as evidence ----


@pytest.mark.parametrize(
    "language, denies, counts",
    [
        ("en", "Words that deny", "also where the note denies it"),
        ("es", "Las palabras que niegan", "donde el texto la niega"),
    ],
)
@pytest.mark.parametrize("name", ["quotes_2", "numbered_2", "codes_first_2"])
def test_a_corpus_that_marks_denials_is_asked_for_them(name, language, denies, counts):
    def told(corpus, **switches):
        note = Note("n", "x y", corpus, language)
        return messages(note, [A], Span(0, 3), Manner(load_prompt(name), **switches))[0]["content"]

    for corpus in ("codiesp", "codiesp_en"):
        assert counts in told(corpus) and denies not in told(corpus)
    for corpus in ("mimic", "vignettes", ""):
        assert denies in told(corpus) and counts not in told(corpus)
    assert told("codiesp", guideline="usual") == told("mimic") and told("mimic", guideline="codiesp") == told("codiesp")
    assert load_prompt(name).version == "2"


def test_a_guideline_that_is_not_there_is_named():
    with pytest.raises(BadPrompt, match="quotes 2 has no guideline 'mdace'; there are codiesp, usual"):
        Manner(guideline="mdace")
    with pytest.raises(BadPrompt, match="there is none in it"):
        Manner(load_prompt("quotes"), guideline="usual")
    assert guideline(load_prompt("quotes"), "codiesp") == ""


def test_the_first_version_of_every_prompt_is_what_it_was():
    hashes = {name: load_prompt(name).sha256[:12] for name in ("quotes", "codes_first", "numbered")}
    assert hashes == dict(quotes="9de13e5f21cd", codes_first="99fd8163bf33", numbered="40171a1be3b2")


@pytest.mark.parametrize("before, after", [(b"\xef\xbb\xbf", b""), (b"", b"")])
def test_a_prompt_of_ones_own_is_the_same_however_it_was_saved(tmp_path, before, after):
    whole = (PROMPTS / "quotes_2.txt").read_bytes()
    (tmp_path / "mine.txt").write_bytes(before + whole.replace(b"\n", b"\r\n") + after)
    mine, ours = load_prompt(tmp_path / "mine.txt"), load_prompt("quotes_2")
    assert (mine.parts, mine.sha256) == (ours.parts, ours.sha256)
    (tmp_path / "mine.txt").write_bytes(whole + b"# caf\xe9\n")
    with pytest.raises(BrokenFile, match=f"mine.txt: not UTF-8 at byte {len(whole) + 5}"):
        load_prompt(tmp_path / "mine.txt")


@pytest.mark.parametrize("name", ["window", "places", "n_shots", "copied"])
def test_less_than_nothing_is_refused(name):
    with pytest.raises(BadInput, match=f"{name} -1: it is a whole number from 0"):
        Manner(**{name: -1}, pool=examples(TRAIN))
