"""Prepare a made MIMIC-IV of any size, beside a plain pandas version of the same work: seconds, notes a second, peak
memory.

    python benchmarks/mimic.py /a/folder/with/room --percent 1 10 100 --pandas 1 10

The files have the published schema and invented words. Each job runs in a process of its own, whose largest resident
size is reported (pages of mapped files count). Results go to benchmarks/results/mimic.csv and .md; what was made is
removed after use.
"""

import argparse
import gzip
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

NOTES, PATIENTS, UNWRITTEN, SHARE_10 = (
    331_794,
    146_000,
    99_500,
    0.37,
)  # as in MIMIC-IV 2.2: notes, their patients, admissions without a note, ICD-10's share
RESULTS = Path(__file__).resolve().parent / "results"
DAYS = "2150-01-01 00:00:00,2150-01-02 00:00:00"


def pool(rng, n=20_000):
    "Sentences of invented words, spelt as they stand inside a quoted field"
    syllables = [a + b for a in "bcdfghlmnprstv" for b in "aeiou"]
    words = np.array(["".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(6000)])
    common = 1 / np.arange(10, 6010)
    common /= common.sum()
    ends = np.array([".\n", ". ", ": ___\n", ", ", ".\r\n", ' ""so"" ', " é\n"])
    lengths, tails, numbers = (
        rng.integers(4, 16, n),
        rng.choice(ends, n, p=[0.35, 0.35, 0.1, 0.16, 0.01, 0.02, 0.01]),
        rng.integers(1, 9999, n),
    )
    drawn = np.split(rng.choice(words, lengths.sum(), p=common), lengths.cumsum()[:-1])
    return [" ".join(d) + (f" {k}" if k % 3 == 0 else "") + t for d, k, t in zip(drawn, numbers, tails)]


def packed(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.CompressedOutputStream(str(path), "gzip") as f:
        pa.csv.write_csv(table, f)


def code_names():
    "Invented codes: 9,000 of ICD-9 and 17,000 of ICD-10, undotted"
    nine = (
        [f"{i:05d}" for i in range(1000, 9000)] + [f"V{i:04d}" for i in range(500)] + [f"E{i:04d}" for i in range(500)]
    )
    ten = [f"{'ABCDEFGHIJKLMNRSTZ'[i % 18]}{i // 18 % 100:02d}{i // 1800 or ''}" for i in range(17_000)]
    return np.array(nine), np.array(ten)


def make(folder, percent, seed=0):
    "The files of one size"
    rng, n_notes, n_patients = (
        np.random.default_rng(seed),
        round(NOTES * percent / 100),
        round(PATIENTS * percent / 100),
    )
    n = n_notes + round(UNWRITTEN * percent / 100)
    patient = np.sort(np.concatenate([np.arange(n_patients), rng.integers(0, n_patients, n - n_patients)])) + 10_000_000
    hadm = rng.permutation(10_000_000)[:n] + 20_000_000
    ten = rng.random(n) < SHARE_10
    n_codes = np.clip(rng.lognormal(2.267, 0.6, n).astype(int), 1, 39)  # 4.7 million diagnoses at full size
    at = np.repeat(np.arange(n), n_codes)
    nine_names, ten_names = code_names()
    rank = (rng.pareto(0.7, len(at)) * 12).astype(np.int64)
    value = np.where(ten[at], ten_names[rank % len(ten_names)], nine_names[rank % len(nine_names)])
    seq = np.arange(len(at)) - np.repeat(n_codes.cumsum() - n_codes, n_codes) + 1
    packed(folder / "hosp/admissions.csv.gz", pa.table(dict(subject_id=patient, hadm_id=hadm)))
    version = np.where(ten, 10, 9)
    packed(
        folder / "hosp/diagnoses_icd.csv.gz",
        pa.table(dict(subject_id=patient[at], hadm_id=hadm[at], seq_num=seq, icd_code=value, icd_version=version[at])),
    )
    names = [(v, 9, f"Title of {v}") for v in nine_names] + [(v, 10, f"Title of {v}") for v in ten_names]
    packed(
        folder / "hosp/d_icd_diagnoses.csv.gz",
        pa.table(dict(zip(("icd_code", "icd_version", "long_title"), zip(*names)))),
    )
    written = np.sort(rng.permutation(n)[:n_notes])
    sentences, n_sentences = pool(rng), np.clip(rng.normal(128, 45, n_notes).astype(int), 10, 700)
    (folder / "note").mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "note/discharge.csv.gz", "wb", 1) as f:
        f.write(b"note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n")
        for k, (i, m) in enumerate(zip(written.tolist(), n_sentences.tolist())):
            text = "".join([sentences[j] for j in rng.integers(0, len(sentences), m).tolist()])
            f.write(f"{patient[i]}-DS-{k},{patient[i]},{hadm[i]},DS,{k},{DAYS},".encode() + f'"{text}"\n'.encode())
    return dict(diagnosis_rows=len(at), packed_mb=sum(p.stat().st_size for p in folder.rglob("*.gz")) >> 20)


def ours(folder, to, systems):
    "This library, with the seconds of each stage"
    start = time.perf_counter()
    from icdrat.data import mimic

    seconds = dict(imports=round(time.perf_counter() - start, 2))

    def timed(name):
        inner = getattr(mimic, name)

        def outer(*a, **k):
            start = time.perf_counter()
            try:
                return inner(*a, **k)
            finally:
                seconds[name.strip("_")] = round(seconds.get(name.strip("_"), 0) + time.perf_counter() - start, 2)

        setattr(mimic, name, outer)

    for name in ("assigned", "titles", "spool", "sift", "stratify", "_write"):
        timed(name)
    counts = mimic.mimiciv(folder, to, systems=systems)
    last = counts.set_index("step").loc["has a code left"]
    return dict(kept=int(last["notes"]), codes=int(last.distinct_codes), stages=seconds)


def plain(folder, to, systems):
    "What one would write in an afternoon: everything in memory, patients split at random"
    versions = {"icd10cm": 10, "icd9cm": 9}
    notes = pd.read_csv(folder / "note/discharge.csv.gz", keep_default_na=False, na_values={"hadm_id": [""]})
    billed = pd.read_csv(folder / "hosp/diagnoses_icd.csv.gz", dtype=dict(icd_code=str))
    billed = billed[billed.icd_version.isin([versions[s] for s in systems])].sort_values(["hadm_id", "seq_num"])

    def dot(c, v):
        cut = 4 if v == 9 and c[0] == "E" else 3
        return c if len(c) <= cut else c[:cut] + "." + c[cut:]

    billed["code"] = [f"{v}:{dot(c, v)}" for c, v in zip(billed.icd_code, billed.icd_version)]
    billed = billed.drop_duplicates(["hadm_id", "code"])
    notes = (
        notes[(notes.text.str.strip() != "") & (notes.note_type == "DS")]
        .sort_values("note_seq")
        .drop_duplicates("hadm_id", keep="last")
    )
    billed = billed[billed.hadm_id.isin(notes.hadm_id)]
    billed = billed[billed.code.map(billed.code.value_counts()) >= 10]
    notes = notes.merge(billed.groupby("hadm_id").code.agg(list).rename("codes"), on="hadm_id")
    patients = np.random.default_rng(0).permutation(notes.subject_id.unique())
    split = pd.Series(np.searchsorted([0.75, 0.85], (np.arange(len(patients)) + 0.5) / len(patients)), patients)
    notes["split"] = notes.subject_id.map(split)
    to.mkdir(parents=True)
    notes.sort_values(["split", "note_id"])[["note_id", "text", "codes", "split"]].reset_index(drop=True).to_feather(
        to / "notes.feather", compression="uncompressed"
    )
    return dict(kept=len(notes), codes=int(billed.code.nunique()))


def same(one, other):
    "Do the two hold the same notes, texts and codes?"
    from icdrat.data.exchange import load_corpus

    corpus, frame = load_corpus(one), pd.read_feather(other / "notes.feather").set_index("note_id")
    version = dict(icd10cm="10", icd9cm="9")
    return (
        len(corpus) == len(frame)
        and all(n.text == frame.text[n.id] for n in corpus.notes)
        and all(
            [f"{version[c.system]}:{c.value}" for c in cs] == list(frame.codes[i]) for i, cs in corpus.codes.items()
        )
    )


JOBS = dict(
    make=lambda folder, to, percent, systems: make(folder, percent),
    icdrat=lambda folder, to, percent, systems: ours(folder, to, systems),
    pandas=lambda folder, to, percent, systems: plain(folder, to, systems),
)


def child(job, folder, to, percent, systems):
    "Run a job in a process of its own"
    load = os.getloadavg()[0]
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            str(folder),
            "--job",
            job,
            "--to",
            str(to),
            "--percent",
            str(percent),
            "--systems",
            *systems,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        return dict(job=job, percent=percent, systems="+".join(systems), failed=done.returncode)
    return dict(
        job=job,
        percent=percent,
        systems="+".join(systems),
        **json.loads(done.stdout.splitlines()[-1]),
        load_before=round(load, 1),
    )


def report(rows):
    "Write the table, for machines and for people"
    RESULTS.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(RESULTS / "mimic.csv", index=False)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    with open(RESULTS / "mimic.md", "w") as f:
        f.write(
            f"{os.cpu_count()} cores, {memory} GB memory, "
            f"Python {platform.python_version()}, pyarrow {pa.__version__}, pandas {pd.__version__}. "
            f"100 % is {NOTES:,} notes of about 10,000 characters.\n\n"
        )
        said = dict(
            diagnosis_rows="diagnosis rows",
            packed_mb="packed MB",
            notes_per_second="notes/s",
            peak_mb="peak MB",
            load_before="load before",
            kept="notes kept",
            same="same as pandas",
        )
        shown = frame.rename(columns=said).convert_dtypes()
        shown["stages"] = [
            ", ".join(f"{k} {v:.1f}" for k, v in x.items()) if isinstance(x, dict) else None
            for x in frame.get("stages", [None] * len(frame))
        ]
        f.write("| " + " | ".join(shown.columns) + " |\n|" + "---|" * len(shown.columns) + "\n")
        for row in shown.itertuples(index=False):
            f.write(
                "| "
                + " | ".join("" if pd.isna(v) else f"{v:,}" if isinstance(v, int) and v > 9999 else str(v) for v in row)
                + " |\n"
            )


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", type=Path)
    cli.add_argument("--percent", type=float, nargs="+", default=[1, 10])
    cli.add_argument("--pandas", type=float, nargs="*", default=[1, 10], help="sizes at which pandas is run as well")
    cli.add_argument(
        "--systems", nargs="+", default=None, help="of the codes; otherwise ICD-10-CM alone, then with ICD-9-CM"
    )
    cli.add_argument("--job", choices=JOBS)
    cli.add_argument("--to", type=Path)
    a = cli.parse_args()
    if a.job:
        start = time.perf_counter()
        facts = JOBS[a.job](a.folder, a.to, a.percent[0], a.systems)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        return print(
            json.dumps(
                dict(
                    seconds=round(seconds, 1),
                    notes_per_second=round(NOTES * a.percent[0] / 100 / seconds),
                    peak_mb=peak,
                    **facts,
                )
            )
        )
    rows = []
    for percent in a.percent:
        made = a.folder / f"made{percent:g}"
        rows.append(child("make", made, made, percent, ["icd10cm"]))
        for systems in [a.systems] if a.systems else (["icd10cm"], ["icd10cm", "icd9cm"]):
            to = [a.folder / "icdrat", a.folder / "pandas"]
            rows.append(child("icdrat", made, to[0], percent, systems))
            if percent in a.pandas:
                rows.append(child("pandas", made, to[1], percent, systems))
                if percent <= 10 and not rows[-1].get("failed"):
                    rows[-1]["same"] = same(*to)
            for folder in to:
                shutil.rmtree(folder, ignore_errors=True)
            report(rows)
        shutil.rmtree(made)
    print((RESULTS / "mimic.md").read_text())


if __name__ == "__main__":
    main()
