"""Ask the small model and keep what it said, in the two ways of `icdrat.rationale.llm.record`.

    make llm                                       # in another terminal
    python llm/record.py vignettes few_shot        # the test vignettes: answers
    python llm/record.py codiesp_en zero_shot      # 106 notes of CodiEsp dev in English, from ICDRAT_DATA: offsets

An hour or two on two cores. Answers are kept under runs/record the moment they arrive; a run that was stopped goes on
where it was.
"""

import argparse
import gzip
from pathlib import Path

from icdrat.data.codiesp import article, codiesp, with_silver
from icdrat.data.corpus import carve, codes_among, head, to_level, vocabulary
from icdrat.data.exchange import whole_file
from icdrat.data.vignettes import vignettes
from icdrat.rationale.llm.record import FIRST, RECORDS, TEACHER, WAYS, keep_record, record_file, teacher_manner
from icdrat.rationale.llm.server import facts, quoted
from icdrat.rationale.llm.store import Store, read_answers, write_answers


def asked(name):
    "The notes, the codes that are asked about, and the training notes"
    if name == "vignettes":
        notes = head(vignettes().split("test"), FIRST[name])
        return notes, notes.codes, vignettes().split("train")
    corpus = to_level(with_silver(codiesp(language="en")), 3)  # as experiment 1 prepares it
    known = vocabulary(corpus.split("train"), 10)
    corpus = carve(corpus, 0.2, 0, article)
    notes = head(corpus.split("test"), FIRST[name])
    return notes, codes_among(notes, known), corpus.split("train")


def known(store, way):
    "What is on record already is not asked again"
    file = RECORDS / f"vignettes.{way}.answers.jsonl.gz"
    for question in read_answers(file) if file.is_file() else ():
        if question.reply.key not in store:
            store.put(question.reply)


def packed(file):
    "The same file with gzip, and the same bytes each time"
    with whole_file(f"{file}.gz") as part:
        part.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    file.unlink()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", choices=["vignettes", "codiesp_en"])
    p.add_argument("way", choices=list(WAYS))
    p.add_argument("--store", type=Path, default=Path("runs/record"))
    told = p.parse_args()
    notes, codes, train = asked(told.corpus)
    manner = teacher_manner(told.way, train)
    with Store(told.store / f"{told.corpus}.answers") as store:
        if told.corpus == "vignettes":
            known(store, told.way)
        found = quoted(notes.notes, codes, TEACHER, manner, store, concurrency=1, source=f"llm_{told.way}")
    print(found.grounding)
    if n := found.grounding.unanswered:
        raise SystemExit(
            f"{n} codes have no answer yet, nothing is written; the same command goes on from here. {found.trouble}"
        )
    about = facts(found, TEACHER, manner)
    RECORDS.mkdir(exist_ok=True)
    keep_record(RECORDS, told.corpus, told.way, found, about)
    if told.corpus == "vignettes":  # their answers may be kept too, and the offsets follow from them
        answers = RECORDS / f"vignettes.{told.way}.answers.jsonl"
        write_answers(answers, found.asked, notes.notes, **about)
        packed(answers)
        record_file("vignettes", told.way, "offsets").unlink()


if __name__ == "__main__":
    main()
