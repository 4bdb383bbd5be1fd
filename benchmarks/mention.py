"""Find the names of ICD-10-CM in a text, beside spaCy's PhraseMatcher on the same work: seconds to build, MB a second,
and whether the two agree.

    python benchmarks/mention.py /path/to/ICDRAT_DATA --keep /an/empty/folder

The text is the English CodiEsp, read several times; the names are those of the tabular list, the alphabetic index,
the Disease Ontology and abbreviations. spaCy is given the names as our keys, and the text as our keys parted by
blanks, so that both match the same words; its own tokeniser's time on the raw text is measured apart. One process
does everything, so the ratio is of one run. Results go to benchmarks/results/mention.csv and .md. Where spaCy is in
another environment, run this with that one's Python and PYTHONPATH at the project.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import pandas as pd

from icdrat.codes import icd
from icdrat.data.codiesp import codiesp
from icdrat.rationale.mention.context import in_context
from icdrat.rationale.mention.lexicon import lexicons
from icdrat.rationale.mention.linker import Lexicon, Linker, find, keys
from icdrat.types import Note

RESULTS = Path(__file__).resolve().parent / "results"


class Clock:
    "Seconds on the wall and of this process, row by row"

    def __init__(self):
        self.rows = []

    def __call__(self, what, work, mb=None, **facts):
        wall, cpu = time.perf_counter(), time.process_time()
        made = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rates = {} if mb is None else dict(mb_per_second=round(mb / wall, 2), mb_per_cpu_second=round(mb / cpu, 2))
        self.rows.append(
            dict(
                step=what,
                wall_seconds=round(wall, 2),
                cpu_seconds=round(cpu, 2),
                **rates,
                **{k: f(made) if callable(f) else f for k, f in facts.items()},
            )
        )
        print(self.rows[-1], flush=True)
        return made


def ours(notes, linker):
    return find(notes, linker, progress=False)


def spacy_matches(docs, matcher):
    "The longest matches from left to right, as our linker takes them"
    found = []
    for doc in docs:
        best = {}
        for _, s, e in matcher(doc):
            best[s] = max(e, best.get(s, 0))
        after = 0
        for s in sorted(best):
            if s >= after:
                found.append((doc.user_data["id"], s, best[s]))
                after = best[s]
    return found


def in_words(notes, found):
    "Our mentions as the words that spaCy saw: note, first word, one past the last"
    rows = set()
    by_note = {}
    for m in found:
        by_note.setdefault(m.note_id, set()).add(m.span)
    for n in notes:
        places = keys(n.text)[1].tolist()
        first, last = {s: i for i, (s, _) in enumerate(places)}, {e: i + 1 for i, (_, e) in enumerate(places)}
        rows |= {(n.id, first[s.start], last[s.end]) for s in by_note.get(n.id, ())}
    return rows


def beside_spacy(clock, notes, terms, mb, found):
    "The same names and words through PhraseMatcher"
    import spacy
    from spacy.matcher import PhraseMatcher
    from spacy.tokens import Doc

    nlp = spacy.blank("en")

    def build():
        matcher = PhraseMatcher(nlp.vocab)
        matcher.add("name", [Doc(nlp.vocab, words=list(t)) for t in terms])
        return matcher

    def tokenised():
        docs = []
        for n in notes:
            docs.append(Doc(nlp.vocab, words=keys(n.text)[0]))
            docs[-1].user_data["id"] = n.id
        return docs

    matcher = clock("spaCy: build PhraseMatcher", build, terms=len(terms))
    clock("spaCy: its own tokeniser, raw text", lambda: [nlp.make_doc(n.text) for n in notes], mb)
    docs = clock("spaCy: our keys as Doc", tokenised, mb)
    matched = clock("spaCy: PhraseMatcher, longest matches", lambda: spacy_matches(docs, matcher), mb, places=len)
    same = set(matched) == in_words(notes, found)
    rows = {r["step"]: r for r in clock.rows}
    seconds = (
        rows["spaCy: its own tokeniser, raw text"]["cpu_seconds"]
        + rows["spaCy: PhraseMatcher, longest matches"]["cpu_seconds"]
    )
    return dict(
        spacy=spacy.__version__, same_places=same, ratio=round(seconds / rows["find, places only"]["cpu_seconds"], 2)
    )


def report(rows, facts):
    "For machines and for people"
    frame = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "mention.csv", index=False, lineterminator="\n")
    with open(RESULTS / "mention.md", "w") as f:
        f.write(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}. "
            + " ".join(f"{k}: {v}." for k, v in facts.items())
            + "\n\n"
        )
        shown = frame.astype(object).where(frame.notna(), "")
        f.write("| " + " | ".join(c.replace("_", " ") for c in shown) + " |\n|" + "---|" * len(shown.columns) + "\n")
        for row in shown.itertuples(index=False):
            f.write(
                "| "
                + " | ".join(f"{int(v):,}" if isinstance(v, float) and v == int(v) and v > 99 else str(v) for v in row)
                + " |\n"
            )
    print((RESULTS / "mention.md").read_text())


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("data", type=Path, help="the folder that ICDRAT_DATA names")
    cli.add_argument("--sources", nargs="+", default=["tabular", "index", "doid", "abbreviations"])
    cli.add_argument("--repeat", type=int, default=3, help="how often the corpus is read")
    cli.add_argument(
        "--keep", type=Path, default=None, help="an empty folder, to measure building; by default the usual cache"
    )
    a = cli.parse_args()
    os.environ["ICDRAT_DATA"] = str(a.data)
    clock, corpus = Clock(), list(codiesp(language="en").notes)
    notes = [Note(f"{n.id}/{i}", n.text) for i in range(a.repeat) for n in corpus]
    mb = sum(len(n.text.encode()) for n in notes) / 1e6
    if a.keep:
        clock("lexicons, first time", lambda: lexicons(a.sources, keep=a.keep), terms=lambda ls: sum(map(len, ls)))
    made = clock("lexicons, kept", lambda: lexicons(a.sources, keep=a.keep), terms=lambda ls: sum(map(len, ls)))
    linker = clock("linker", lambda: Linker(made))
    found = clock(
        "find, every code",
        lambda: ours(notes, linker),
        mb,
        mentions=len,
        places=lambda f: len({(m.note_id, m.span) for m in f}),
    )
    clock("in_context", lambda: in_context(notes, found), mb)
    names = list(dict.fromkeys(t for l in made if not l.spelled for t in l.terms))
    index = Linker([l for l in made if l.name == "mention_index"] or made)
    clock("find, the index alone", lambda: ours(notes, index), mb, mentions=len)
    one = Linker(Lexicon("places", dict.fromkeys(names, (icd("R69"),))))
    places = clock("find, places only", lambda: ours(notes, one), mb, places=len)
    facts = dict(text=f"{mb:.1f} MB, English CodiEsp {a.repeat} times")
    try:
        facts |= beside_spacy(clock, notes, names, mb, places)
    except ImportError:
        facts |= dict(spacy="not installed")
    report(clock.rows, facts)


if __name__ == "__main__":
    main()
