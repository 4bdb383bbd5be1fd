"Entities of other programs become mentions at the same places, or are refused."

from types import SimpleNamespace as Made

import pytest

from icdrat.codes import icd
from icdrat.rationale.mention.linker import as_rationales
from icdrat.rationale.mention.pipelines import OtherText, codes_for, from_medcat, from_spacy
from icdrat.types import BadInput, Note

NOTE = Note("n", "🙂 Gout? No gout. Ménière disease")
IDS = {"C0018099": (icd("M10.9"),), "C0025281": (icd("H81.09"), icd("H81.0"))}


def entity(start, end, **more):
    return Made(**{**dict(start_char=start, end_char=end, ent_id_="", kb_id_="", label_="X", _=Made()), **more})


def spacy_doc(*entities, text=NOTE.text):
    return Made(text=text, ents=entities)


def test_an_entity_without_a_known_identifier_is_no_mention():
    assert from_spacy(spacy_doc(entity(2, 6), entity(2, 6, kb_id_="C9999999"), entity(2, 6, _=None)), NOTE, IDS) == []
    assert codes_for("", IDS) == codes_for("C0018099x", IDS) == ()


@pytest.mark.parametrize(
    "more",
    [
        dict(kb_id_="C0018099"),
        dict(ent_id_="M10.9"),
        dict(_=Made(kb_ents=[("C0018099", 0.9)])),
        dict(_=Made(cui="C0018099")),
        dict(_=Made(umls_ents=[Made(cui="C0018099", similarity=0.9)])),
    ],
)
def test_an_identifier_is_found_wherever_a_pipeline_puts_it(more):
    [m] = from_spacy(spacy_doc(entity(2, 6, **more)), NOTE, IDS, "theirs")
    assert (m.note_id, m.code, m.sources, NOTE.text[m.span.start : m.span.end], m.context) == (
        "n",
        icd("M10.9"),
        ("theirs",),
        "Gout",
        (),
    )


def test_the_best_candidate_counts_and_ties_are_meanings():
    best = entity(18, 33, _=Made(kb_ents=[("C0018099", 0.8), ("C0025281", 0.9), ("other", 1.0)]))
    assert [(str(m.code), m.meanings) for m in from_spacy(spacy_doc(best), NOTE, IDS)] == [("H81.09", 2), ("H81.0", 2)]
    tied = entity(18, 33, _=Made(kb_ents=[("C0018099", 0.9), ("C0025281", 0.9)]))
    assert len(from_spacy(spacy_doc(tied), NOTE, IDS)) == 3
    assert from_spacy(spacy_doc(best), NOTE, IDS, least=0.95) == []


@pytest.mark.parametrize(
    "attribute, flag",
    [
        ("negex", "negated"),
        ("is_negated", "negated"),
        ("is_family", "family"),
        ("is_hypothetical", "hypothetical"),
        ("is_historical", "historical"),
    ],
)
def test_the_context_of_a_pipeline_is_kept(attribute, flag):
    [m] = from_spacy(spacy_doc(entity(11, 15, kb_id_="C0018099", _=Made(**{attribute: True}))), NOTE, IDS)
    assert m.context == (flag,)


def medcat(**more):
    return dict(entities={7: {**dict(start=2, end=6, cui="C0018099", acc=0.9, meta_anns={}), **more}})


def test_medcat_answers_with_codes_of_its_own_or_ours():
    assert [str(m.code) for m in from_medcat(medcat(icd10=["I10"]), NOTE, IDS)] == ["M10.9"], "our table comes first"
    assert [str(m.code) for m in from_medcat(medcat(icd10=["I10", "E14"]), NOTE, {})] == ["I10"], (
        "a code that is not ICD-10-CM is passed over"
    )
    assert [str(m.code) for m in from_medcat(medcat(cui="38", icd10=[dict(chapter="I10", name="x")]), NOTE, {})] == [
        "I10"
    ]
    assert from_medcat(medcat(), NOTE, IDS, least=0.95) == []
    said = dict(Presence=dict(value="False"), Time=dict(name="Time", value="Past"), Subject=dict(value="Patient"))
    assert from_medcat(medcat(meta_anns=said), NOTE, IDS)[0].context == ("negated", "historical")


def test_another_text_is_refused_without_quoting_it():
    for call in (
        lambda: from_spacy(spacy_doc(text=NOTE.text + " "), NOTE, IDS),
        lambda: from_medcat(medcat(end=99), NOTE, IDS),
        lambda: from_medcat(medcat(source_value="Pain"), NOTE, IDS),
    ):
        with pytest.raises(OtherText, match="^n: ") as caught:
            call()
        assert "Gout" not in str(caught.value)
    with pytest.raises(BadInput, match="get_entities"):
        from_medcat(dict(), NOTE, IDS)


def test_a_real_spacy_pipeline_gives_the_same_places():
    spacy = pytest.importorskip("spacy", reason="spaCy is an extra: pip install 'icdrat[spacy]'")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler", config=dict(phrase_matcher_attr="LOWER"))
    ruler.add_patterns(
        [
            dict(label="DISEASE", pattern="gout", id="C0018099"),
            dict(label="DISEASE", pattern="ménière disease", id="C0025281"),
        ]
    )
    found = from_spacy(nlp(NOTE.text), NOTE, IDS)
    assert [NOTE.text[m.span.start : m.span.end] for m in found] == [
        "Gout",
        "gout",
        "Ménière disease",
        "Ménière disease",
    ]
    [gout, *_] = as_rationales(found, [NOTE], "spacy")
    assert (gout.source, len(gout)) == ("spacy", 2)
