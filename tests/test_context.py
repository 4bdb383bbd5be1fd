"What a note denies, tells of others, fears or remembers is flagged, and nothing else is."

import random

import pytest

from icdrat.codes import icd
from icdrat.data.codiesp import denied_after, denied_before
from icdrat.data.vignettes import traps, vignettes
from icdrat.rationale.mention.context import CONTEXTS, NoTriggers, family_sections, flags, in_context, triggers, without
from icdrat.rationale.mention.linker import Linker, Mention, find, lexicon
from icdrat.types import BadInput, Note, Span

GOUT = icd("M10.9")


def turned(sentence, words="gout", language="en"):
    at = sentence.index(words)
    return flags(sentence, at, at + len(words), language)


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ("No gout.", ("negated",)),
        ("Patient denies fever, chills, gout or rash", ("negated",)),
        ("Denies fever but has gout", ()),
        ("No fever; gout", ()),
        ("Gout: no fever, gout", ("negated",)),
        ("gout was ruled out", ("negated",)),
        ("gout has not been ruled out", ()),
        ("gout: none", ("negated",)),
        ("gout is unlikely", ("negated",)),
        ("No change in gout", ()),
        ("NO\nEVIDENCE OF gout", ("negated",)),
        ("doesn’t have gout", ("negated",)),
        ("noted gout", ()),
        ("Mother had gout", ("family",)),
        ("Gout runs: gout in her mother", ("family",)),
        ("return if gout", ("hypothetical",)),
        ("at risk for gout", ("hypothetical",)),
        ("gout prophylaxis", ("hypothetical",)),
        ("h/o gout", ("historical",)),
        ("s/p gout", ("historical",)),
        ("History of asthma, now with gout", ()),
        ("history of present illness: gout", ()),
        ("gout in the past", ("historical",)),
        ("No family history of gout", ("negated", "family")),
        ("gout", ()),
        ("gout free", ("negated",)),
    ],
)
def test_what_the_words_around_a_mention_say(sentence, expected):
    assert turned(sentence) == expected


@pytest.mark.parametrize("seed", range(40))
def test_words_that_trigger_nothing_change_nothing(seed):
    rng = random.Random(seed)
    fill = " ".join(rng.choices("ankle red warm since noon given colchicine improved".split(), k=rng.randint(0, 12)))
    assert turned(f"{fill} gout {fill}") == ()
    assert "negated" in turned(f"no {' '.join(fill.split()[:5])} gout {fill}")


def test_reach_ends():
    assert turned("No " + "word " * 20 + "gout") == ("negated",) and turned("No " + "word " * 21 + "gout") == ()
    assert (
        turned("gout " + "word " * 6 + "ruled out") == ("negated",)
        and turned("gout " + "word " * 7 + "ruled out") == ()
    )


def test_places_of_triggers_are_characters_of_the_sentence():
    said = "Früher: denies ﬁever, history\n of gout"
    assert [said[s:e] for s, e, _ in triggers(said)] == ["denies", "history\n of"]
    with pytest.raises(NoTriggers, match="en, es"):
        triggers(said, "de")


SPANISH = [
    "No presenta {}",
    "Sin fiebre ni {}",
    "{} negativa",
    "Presenta {}",
    "Niega {} y tos",
    "Acude por {}, sin tos",
]


@pytest.mark.parametrize("sentence", SPANISH)
def test_spanish_negation_is_the_rule_of_codiesp(sentence):
    sentence = sentence.format("gota")
    at = sentence.index("gota")
    assert ("negated" in flags(sentence, at, at + 4, "es")) == (
        denied_before(sentence, at, at + 4) or denied_after(sentence, at, at + 4)
    )


def test_a_family_section_is_about_the_family_to_its_end():
    text = "HISTORY: gout\n\nFamily History:\nFather: gout at 40.\nSister well. gout.\n\nSocial History:\ngout"
    note = Note("n", text)
    found = in_context([note], find([note], Linker(lexicon("toy", [("gout", GOUT)])), progress=False))
    assert ["family" in m.context for m in found] == [False, True, True, False]
    assert [text[s:e].splitlines()[0] for s, e in family_sections(text)] == ["Family History:"]


@pytest.mark.parametrize("seed", range(10))
def test_flagging_keeps_every_mention_and_its_place(seed):
    rng = random.Random(seed)
    notes = [
        Note(f"n{i}", ". ".join(rng.choices(["No gout", "gout", "Mother had gout", "if gout", "   ", "\n\n"], k=12)))
        for i in range(4)
    ]
    found = find(notes, Linker(lexicon("toy", [("gout", GOUT)])), progress=False)
    rng.shuffle(found)
    seen = in_context(notes[::-1], found)
    assert [m._replace(context=()) for m in seen] == found
    assert without(seen, ()) == seen and len(without(seen, CONTEXTS)) == sum(not m.context for m in seen)


def test_errors_name_the_note_and_the_choices():
    with pytest.raises(BadInput, match="^n: "):
        in_context([], [Mention("n", Span(0, 1), GOUT, ("toy",))])
    with pytest.raises(BadInput, match="negated, family, hypothetical, historical"):
        without([], ["possible"])


def test_most_traps_of_the_vignettes_are_flagged_and_little_evidence_is():
    notes = vignettes().notes
    words = lexicon(
        "toy",
        [
            (w, GOUT)
            for w in (
                "diabetes pneumonia stroke cancer sepsis fever pain dvt pe mi fracture infection bleeding "
                "seizure heart failure abscess tumor"
            ).split()
        ],
    )
    found = {}
    for m in in_context(notes, find(notes, Linker(words), progress=False)):
        found.setdefault(m.note_id, []).append(m)

    def inside(note_id, spans):
        return [m for m in found.get(note_id, []) if any(s.start < m.span.end and m.span.start < s.end for s in spans)]

    denied = [
        bool(set(m.context) - {"historical"})
        for t in traps()
        if t.kind in ("negated", "family", "ruled_out")
        for m in inside(t.note_id, t.spans)
    ]
    wrong = [
        bool(set(m.context) - {"historical"})
        for r in vignettes().gold
        if r.level == "mention"
        for m in inside(r.note_id, r.spans)
    ]
    assert len(denied) > 40 and sum(denied) / len(denied) > 0.85
    assert len(wrong) > 100 and sum(wrong) / len(wrong) < 0.05
