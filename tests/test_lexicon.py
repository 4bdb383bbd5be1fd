"Every source gives names as they are written, under the codes they belong to, and says where it cannot be read."

import gzip
import random
import re

import pytest

from icdrat.codes import category, icd
from icdrat.data.exchange import BadLine, BrokenFile, MissingFile
from icdrat.rationale.mention.index import coded, entries, heads, index_names, names_of, part, readings, resolve
from icdrat.rationale.mention.lexicon import (
    SOURCES,
    EmptySource,
    UnknownSource,
    abbreviation_lexicon,
    fewest,
    kept,
    lexicons,
    names,
    source_file,
)
from icdrat.rationale.mention.linker import Linker, find, lexicon, term_of
from icdrat.rationale.mention.vocabulary import (
    doid_names,
    expansions,
    snomed_ids,
    snomed_names,
    table,
    umls_ids,
    umls_names,
)
from icdrat.types import BadInput, Note

INDEX = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.index><version>2025</version><title>INDEX</title>
<letter><title>A</title>
<mainTerm><title>Abasia <nemod>(-astasia) (hysterical)</nemod></title><code>F44.4</code></mainTerm>
<mainTerm><title>Abdominalgia</title><see>Pain, abdominal</see></mainTerm>
<mainTerm><title>Adhesions, adhesive <nemod>(postinfective)</nemod></title><code>K66.0</code>
  <term level="1"><title>joint</title><see>Ankylosis, joint</see>
     <term level="2"><title>temporomandibular</title><code>M26.61-</code></term></term></mainTerm>
<mainTerm><title>Ankylosis <nemod>(fibrous) (osseous)</nemod> joint</title><code>M24.60</code></mainTerm>
<mainTerm><title>Arthropathy</title>
  <term level="1"><title>Charcot's</title><see>Arthropathy, neuropathic</see></term>
  <term level="1"><title>neuropathic <nemod>(Charcot)</nemod></title><code>M14.60</code></term>
  <term level="1"><title>in</title>
     <term level="2"><title>syringomyelia</title><seeAlso>subcategory M14.6-</seeAlso></term></term></mainTerm>
<mainTerm><title>Round</title><see>About</see></mainTerm><mainTerm><title>About</title><see>Round</see></mainTerm></letter>
<letter><title>D</title>
<mainTerm><title>Disease, diseased</title><seeAlso>Syndrome</seeAlso>
  <term level="1"><title>lung</title><code>J98.4</code>
     <term level="2"><title>obstructive <nemod>(chronic)</nemod></title><code>J44.9</code>
    <term level="3"><title>with</title>
     <term level="4"><title>bronchitis, asthma or emphysema</title><code>J44.89</code></term></term>
    <term level="3"><title>specified NEC</title><code>J44.81</code></term></term></term>
  <term level="1"><title>intestine, intestinal</title><code>K63.9</code>
     <term level="2"><title>due to syphilis</title><code>A52.74</code></term></term></mainTerm></letter>
<letter><title>P</title>
<mainTerm><title>Pain <nemod>(s)</nemod></title><seeAlso>Painful</seeAlso><code>R52</code>
  <term level="1"><title>abdominal</title><code>R10.9</code></term>
   <term level="1"><title>foot</title><see>Pain, limb, lower</see></term>
  <term level="1"><title>limb</title><code>M79.609</code>
     <term level="2"><title>lower</title><code>M79.60-</code></term></term>
  <term level="1"><title>gone</title><code>Q00.99</code></term></mainTerm></letter>
</ICD10CM.index>"""


@pytest.fixture
def index(tmp_path):
    (tmp_path / "index.xml").write_text(INDEX, encoding="utf-8")
    return tmp_path / "index.xml"


@pytest.mark.parametrize(
    "name, code",
    [
        ("abasia", "F44.4"),  # without what is not essential
        ("hysterical abasia", "F44.4"),  # and with it
        ("abdominalgia", "R10.9"),  # see
        ("adhesive", "K66.0"),  # an adjective
        ("joint adhesions", "M24.60"),  # see, at a subterm
        ("temporomandibular joint adhesions", "M26.61"),  # a code with a dash, read backwards
        ("adhesions of the temporomandibular joint", "M26.61"),  # of the
        ("ankylosis joint", "M24.60"),  # words after the brackets
        ("charcot's arthropathy", "M14.60"),  # see, within its own main term
        ("arthropathy in syringomyelia", "M14.6"),  # a subcategory, and a joining word alone on its line
        ("obstructive lung disease", "J44.9"),
        ("obstructive lung disease with asthma", "J44.89"),  # with, and alternatives
        ("diseased intestine", "K63.9"),  # forms of a main term and of a subterm
        ("intestinal disease", "K63.9"),
        ("intestinal disease due to syphilis", "A52.74"),
        ("foot pain", "M79.60"),  # see, over two levels
        ("lower limb pain", "M79.60"),
    ],
)
def test_every_construct_of_the_index_gives_names_in_reading_order(index, name, code):
    made = lexicon("index", index_names(index))
    assert icd(code) in made.terms[term_of(name)]


def test_what_names_nothing_or_leads_nowhere_gives_no_name(index):
    found, counts = coded(entries(index))
    assert counts == dict(own=15, see=5, see_nowhere=3, unlisted=1, neither=3), (
        "about and round lead to each other, disease to a syndrome that is not there"
    )
    spoken = " ".join(n for e, _ in found for n in names_of(e)).lower()
    assert not re.search(r"specified|gone|round|nec\b", spoken)
    assert all(n == " ".join(n.split()) for e, _ in found for n in names_of(e)), "no name has loose blanks"


@pytest.mark.parametrize("seed", range(20))
def test_a_reading_has_the_words_of_its_path_and_no_others(seed):
    rng = random.Random(seed)
    path = (
        "Fracture, traumatic",
        *rng.sample(["wrist", "lower end", "closed", "due to fall", "with", "nerve injury"], 3),
    )
    allowed = set(term_of(" ".join(path).replace(",", "")))
    for r in readings(path):
        assert set(term_of(r)) <= allowed and "fracture" in term_of(r)


def test_heads_and_parts_of_titles():
    assert heads("Tuberculosis, tubercular, tuberculous") == (("Tuberculosis", "tubercular", "tuberculous"), ())
    assert heads("Contracture, hip NEC") == (("Contracture",), ("hip",))
    assert (
        part("with") == ("join", ("with",))
        and part("unspecified site") == ("blank", ())
        and part("without")[0] == "join"
    )
    assert part("in mucoviscidosis")[0] == "after" and part("intestine")[0] == "before", "in is a word, not two letters"
    assert resolve("condition", {}) is None


def test_an_index_that_cannot_be_read_says_why(tmp_path):
    for text, error, what in [
        (INDEX[:700], BrokenFile, "line 11"),
        ("<ICD10CM.tabular/>", BrokenFile, "tabular list"),
        ("<i><letter><mainTerm><title>Pain</title><term/></mainTerm></letter></i>", BrokenFile, "under Pain"),
    ]:
        (tmp_path / "x.xml").write_text(text)
        with pytest.raises(error, match=what):
            entries(tmp_path / "x.xml")
    with pytest.raises(MissingFile, match="CDC"):
        entries(tmp_path / "none.xml")


def mrconso(*rows):
    blank = dict(CUI="C1", LAT="ENG", SAB="MSH", CODE="D1", STR="x", SUPPRESS="N")
    columns = "CUI LAT TS LUI STT SUI ISPREF AUI SAUI SCUI SDUI SAB TTY CODE STR SRL SUPPRESS CVF".split()
    return "".join("|".join({**blank, **r}.get(c, "") for c in columns) + "|\n" for r in rows)


def test_names_of_one_concept_of_the_umls_share_its_codes(tmp_path):
    file = tmp_path / "MRCONSO.RRF"
    file.write_text(
        mrconso(
            dict(STR="Gouty attack"),  # before its code is known
            dict(SAB="ICD10CM", CODE="M10.9", STR="Gout, unspecified"),
            dict(STR='3" gout'),  # a quotation mark is an inch
            dict(STR="Gota", LAT="SPA"),
            dict(STR="old name", SUPPRESS="O"),
            dict(CUI="C2", STR="Aspirin"),
            dict(CUI="C3", SAB="ICD10CM", CODE="Z99.Z9", STR="gone"),
        )
    )
    assert umls_ids(file) == {"C1": (icd("M10.9"),)}
    assert [n for n, _ in umls_names(file)] == ["Gouty attack", "Gout, unspecified", '3" gout']
    assert [n for n, _ in umls_names(file, "es")] == ["Gota"]
    assert list(umls_names(file, "xx")) == []
    file.write_text(mrconso({}) + "C1|ENG|cut off\n")
    with pytest.raises(BadLine, match="line 2: 3 columns instead of 19"):
        umls_ids(file)


SNOMED = "id\tactive\treferencedComponentId\treferencedComponentName\tmapRule\tmapTarget\n"


def test_only_unconditional_active_maps_of_snomed_count(tmp_path):
    rows = [
        "1\t1\t38\tHypertensive disorder\tTRUE\tI10",
        "2\t0\t38\tHypertensive disorder\tTRUE\tI11.9",
        "3\t1\t40\tGout in childhood\tIFA 445518008 | Age |\tM10.9",
        "4\t1\t40\tGout in childhood\tOTHERWISE TRUE\tM10.00",
        "5\t1\t41\tFracture\tTRUE\tS62.10?",
        "6\t1\t42\tNothing\tTRUE\t",
    ]
    (tmp_path / "map.tsv").write_text(SNOMED + "\r\n".join(rows) + "\r\n")
    assert snomed_ids(tmp_path / "map.tsv") == {"38": (icd("I10"),), "40": (icd("M10.00"),), "41": (icd("S62.10"),)}
    assert [n for n, _ in snomed_names(tmp_path / "map.tsv")] == [
        "Hypertensive disorder",
        "Gout in childhood",
        "Fracture",
    ]
    with pytest.raises(BrokenFile, match="line 1: no column 'mapRule'"):
        (tmp_path / "map.tsv").write_text(SNOMED.replace("mapRule", "rule"))
        snomed_ids(tmp_path / "map.tsv")


def test_a_table_that_cannot_be_read_names_file_and_line(tmp_path):
    whole = "icd10cm\tdoid\tlang\tscope\ttext\nI10\tD\ten\tLABEL\thigh\n"
    packed = gzip.compress(whole.encode())
    (tmp_path / "whole.tsv.gz").write_bytes(packed)
    assert list(doid_names(tmp_path / "whole.tsv.gz")) == [("high", icd("I10"))]
    (tmp_path / "bom.tsv").write_bytes(b"\xef\xbb\xbf" + whole.encode())
    assert len(list(doid_names(tmp_path / "bom.tsv"))) == 1
    for name, data, error, what in [
        ("cut.tsv.gz", packed[:-9], BrokenFile, "cut off"),
        ("not.tsv.gz", b"text", BrokenFile, "damaged"),
        ("short.tsv", (whole + "I10\tD\n").encode(), BadLine, "line 3: 2 columns instead of 5"),
        ("latin.tsv", whole.encode() + "I10\tD\ten\tLABEL\tMénière\n".encode("latin-1"), BrokenFile, "UTF-8"),
        ("other.tsv", b"a,b\n1,2\n", BrokenFile, "no column 'icd10cm'"),
        ("empty.tsv", b"", BrokenFile, "no column"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error, match=what) as caught:
            list(doid_names(tmp_path / name))
        assert name in str(caught.value) and "Ménière" not in str(caught.value)
    with pytest.raises(MissingFile, match="a folder"):
        list(table(tmp_path, ("x",)))


def test_an_abbreviation_counts_all_its_meanings_and_matches_as_it_is_spelt(tmp_path):
    (tmp_path / "a.tsv").write_text(
        "short\tlong\nALL\tacute leukemia\nALL\tanterolateral ligament\nGOUT \tgout\nall\tgout\nqd\tevery day\n"
    )
    known = lexicon("known", [("acute leukemia", icd("C95.00")), ("gout", icd("M10.9"))])
    made = abbreviation_lexicon(expansions(tmp_path / "a.tsv"), [known])
    assert made.spelled == {("all",): {"ALL", "all"}, ("gout",): {"GOUT"}} and made.meanings[("all",)] == 3
    found = find([Note("n", "Gout, GOUT, All, ALL")], Linker(made), progress=False)
    assert [(m.span.start, str(m.code), m.meanings) for m in found] == [
        (6, "M10.9", 1),
        (17, "C95.00", 3),
        (17, "M10.9", 3),
    ]


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_a_name_of_many_codes_names_their_category(n):
    codes = [icd(f"E11.{d}") for d in ("0", "1", "2", "3", "4", "5", "6", "8", "9")][:n]
    assert fewest(codes) == (tuple(codes) if n <= 3 else (category(codes[0]),))


def test_the_sources_are_switchable_and_keep_their_names(tmp_path, index, monkeypatch):
    monkeypatch.setenv("ICDRAT_DATA", str(tmp_path))
    for folder in ("icd10cm", "terms", "umls", "snomed"):
        (tmp_path / folder).mkdir()
    index.rename(tmp_path / "icd10cm/icd10cm_index_2025.xml")
    (tmp_path / "terms/icd10cm_doid_synonyms.tsv").write_text(
        "icd10cm\tdoid\tlang\tscope\ttext\nR10.9\tD\ten\tEXACT\ttummy ache\nR10.9\tD\tes\tEXACT\tdolor de tripa\n"
    )
    (tmp_path / "terms/clinical_abbreviations.tsv").write_text("short\tlong\nTA\ttummy ache\nABD\tabdominal pain\n")
    (tmp_path / "umls/MRCONSO.RRF").write_text(
        mrconso(dict(STR="Bellyache"), dict(SAB="ICD10CM", CODE="R10.9", STR="Abdominal pain"))
    )
    (tmp_path / "snomed/tls_Icd10cmHumanReadableMap_US1.tsv").write_text(
        SNOMED + "1\t1\t21522001\tAbdominal pain\tTRUE\tR10.9\n"
    )
    note = Note("n", "Bellyache; TA; tummy ache; abdominalgia; abdominal pain")
    said = {}
    for used in (
        ["umls"],
        ["snomed"],
        ["doid"],
        ["index"],
        ["abbreviations", "doid"],
        ["umls", "snomed", "doid", "index", "abbreviations"],
    ):
        made = lexicons(used, keep=tmp_path / "kept")
        assert [l.name for l in made] == [f"mention_{s}" for s in used]
        said[tuple(used)] = [
            (note.text[m.span.start : m.span.end], m.sources) for m in find([note], Linker(made), progress=False)
        ]
    assert said["umls",] == [("Bellyache", ("mention_umls",)), ("abdominal pain", ("mention_umls",))]
    assert said["doid",] == [("tummy ache", ("mention_doid",))] and said["index",][0][0] == "abdominalgia"
    assert said["abbreviations", "doid"] == [("TA", ("mention_abbreviations",)), ("tummy ache", ("mention_doid",))]
    everything = list(said.values())[-1]
    assert len(everything) == 5 and everything[-1][1] == ("mention_umls", "mention_snomed", "mention_index")
    assert ("dolor", "tripa") in {
        tuple(w for w in t if w != "de") for t in lexicons(["doid"], language="es", keep=tmp_path / "kept")[0].terms
    }


def test_a_source_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("ICDRAT_DATA", raising=False)
    with pytest.raises(MissingFile, match="ICDRAT_DATA is not set"):
        lexicons(["index"])
    with pytest.raises(MissingFile, match="leave the source out"):
        source_file("index", tmp_path)
    with pytest.raises(UnknownSource, match=", ".join(SOURCES)):
        lexicons(["tabular", "icd11"])
    with pytest.raises(BadInput, match="split"):
        lexicons(["training"])
    (tmp_path / "terms").mkdir()
    (tmp_path / "terms/icd10cm_doid_synonyms.tsv").write_text("icd10cm\tlang\ttext\nI10\ten\thigh\n")
    with pytest.raises(EmptySource, match="language 'fr'"):
        lexicons(["doid"], tmp_path, "fr", keep=tmp_path / "kept")


def test_what_is_kept_is_what_was_made_and_is_made_again_when_anything_changes(tmp_path):
    file = tmp_path / "input.txt"
    file.write_text("one")
    rng, calls = random.Random(0), []

    def make():
        calls.append(1)
        return lexicon(
            "odd",
            [
                (f"{rng.choice(['Ménière', 'a_b', 'x²', '🙂 gout', '% of'])} w{i}", icd(rng.choice(["I10", "E11.9"])))
                for i in range(200)
            ],
        )

    first = kept(make, "odd", [file], tmp_path / "kept")
    again = kept(make, "odd", [file], tmp_path / "kept")
    assert (
        len(calls) == 1
        and again.terms == first.terms
        and list(again.terms) == list(first.terms)
        and again.name == "odd"
    )
    stored = tmp_path / "kept" / "odd.txt"
    assert stored.stat().st_mode & 0o077 == 0
    for spoil in (
        lambda: file.write_text("two"),
        lambda: stored.write_bytes(stored.read_bytes()[:-1]),
        lambda: stored.write_bytes(stored.read_bytes()[:2000]),
        lambda: stored.write_text(""),
        lambda: stored.unlink(),
    ):
        before = len(calls)
        spoil()
        kept(make, "odd", [file], tmp_path / "kept")
        kept(make, "odd", [file], tmp_path / "kept")
        assert len(calls) == before + 1
    assert kept(make, "odd", [file], tmp_path / "input.txt" / "no place").name == "odd", (
        "a place that cannot be written costs time only"
    )


@pytest.fixture(scope="module")
def keep(tmp_path_factory):
    "Where the large lexicons are kept during these tests"
    return tmp_path_factory.mktemp("kept")


def test_the_tabular_list_is_named_by_its_own_entries_first(keep):
    [whole] = lexicons(["tabular"], keep=keep)
    assert whole.terms[("hypertension",)] == (icd("I10"),), "not I1A, other hypertension"
    assert whole.terms[term_of("chest pain")] == (icd("R07.9"),)
    by_name = [[category(c) for c in cs if len(c.value) > 3] for cs in list(whole.terms.values())[::50]]
    assert all(cs.count(c) <= 3 for cs in by_name for c in set(cs))
    assert names("Other specified anemias") == ["anemias"]


def test_the_index_adds_to_the_tabular_list_on_case_reports(data_folder, keep):
    from icdrat.data.codiesp import SILVER, codiesp, silver
    from icdrat.data.corpus import head, to_level

    corpus = to_level(head(codiesp(data_folder, language="en"), 60), 3)
    full = head(codiesp(data_folder, language="en"), 60)
    gold = [
        (r.note_id, category(r.code), s) for r in silver(full, data_folder / "codiesp" / SILVER)[0] for s in r.spans
    ]
    made = lexicons(["tabular", "index"], data_folder, keep=keep)
    assert len(made[1]) > 200_000

    def recall(parts):
        found = {}
        for m in find(corpus.notes, Linker(parts), link="category", progress=False):
            found.setdefault((m.note_id, m.code), []).append(m.span)
        return sum(any(s.start < f.end and f.start < s.end for f in found.get((i, c), ())) for i, c, s in gold) / len(
            gold
        )

    alone, index_alone, both = recall(made[:1]), recall(made[1:]), recall(made)
    assert 0.3 < alone < index_alone < both and both > alone + 0.1
