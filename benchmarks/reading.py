"""Read a million lines of rationales, and score them, beside the readers of another checkout.

    python benchmarks/reading.py --lines 1000000 --gold 100000 --before /path/to/an/older/checkout

Invented notes of 150 words with twenty codes each; a prediction has two spans. `read` makes rationales of all lines and
checks them against their notes; `evaluate` is the whole command `icdrat evaluate plausibility`. Each runs in a process
of its own: seconds are those of the processor, MB the most that the process held. With `--before`, the same files go
through another checkout of the project; both must give equal rationales and equal scores. Results go to
benchmarks/results/reading.csv and .md.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
WORDS = (
    "pt with fever and chronic renal failure , on metformin . left pain denies cough started lasix 40 mg daily".split()
)
CODES = 20  # of a note


def write(folder, n_lines, n_gold):
    "Notes, predictions for all of their codes, and gold for the first of them"
    from icdrat.codes import _categories

    rng, codes = random.Random(0), list(dict.fromkeys(_categories()))[:200]
    with (
        open(folder / "notes.jsonl", "w") as notes,
        open(folder / "pred.jsonl", "w") as pred,
        open(folder / "gold.jsonl", "w") as gold,
    ):
        for i in range(n_lines // CODES):
            id, text, mine = f"n{i:06}", " ".join(rng.choices(WORDS, k=150)), rng.sample(codes, CODES)
            notes.write(json.dumps(dict(note_id=id, text=text, codes=mine, split="test", corpus="toy")) + "\n")
            for code in mine:
                places = [[30 * a, 30 * a + rng.randint(3, 28)] for a in sorted(rng.sample(range(len(text) // 30), 3))]
                pred.write(json.dumps(dict(note_id=id, code=code, spans=places[:2], source="toy")) + "\n")
                if i < n_gold // CODES:
                    gold.write(json.dumps(dict(note_id=id, code=code, spans=places[1:], source="human")) + "\n")


def read(folder):
    "All rationales of the predictions, as one checksum"
    from icdrat.data.exchange import read_notes
    from icdrat.data.foreign import foreign_rationales

    found = foreign_rationales(folder / "pred.jsonl", read_notes(folder / "notes.jsonl")).rationales
    said = hashlib.sha1()
    for r in found:
        said.update(f"{r.note_id} {r.code} {[(s.start, s.end) for s in r.spans]} {r.source} {r.level}\n".encode())
    return said.hexdigest()


def evaluate(folder):
    "All scores, as the command writes them"
    from icdrat.cli.app import run_command
    import icdrat.cli.evaluate  # noqa: F401  its commands join the application

    files = [word for name in ("notes", "gold", "pred") for word in (f"--{name}", folder / f"{name}.jsonl")]
    run_command("evaluate plausibility", *files, "--out", folder / "scores.json")
    return json.loads((folder / "scores.json").read_text())["scores"]


def apart(work, folder, checkout):
    "What a piece of work gives in a process of its own, its seconds of the processor and its MB"
    at = dict(os.environ, PYTHONPATH=str(checkout), OMP_NUM_THREADS="1")
    words = [sys.executable, __file__, "--work", work, "--folder", folder]
    done = subprocess.run(words, env=at, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--gold", type=int, default=100_000, help="lines of the expert's file")
    parser.add_argument("--before", type=Path, help="another checkout of the project")
    parser.add_argument("--work", choices=["read", "evaluate"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        made = dict(read=read, evaluate=evaluate)[args.work](args.folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([made, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write(folder, args.lines, args.gold)
        for work in ("read", "evaluate"):
            made, seconds, megabytes = apart(work, folder, ROOT)
            row = dict(work=work, lines=args.lines, seconds=round(seconds, 1), MB=round(megabytes))
            if args.before:
                same, slow, more = apart(work, folder, args.before.resolve())
                assert made == same, f"{work}: the two checkouts do not agree"
                row |= dict(before_seconds=round(slow, 1), before_MB=round(more), ratio=round(slow / seconds, 1))
            rows.append(row)
            print(row, flush=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(RESULTS / "reading.csv", index=False)
    cells = [frame.columns.str.replace("_", " "), ["---"] * len(frame.columns), *frame.astype(str).values]
    head = (
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}. "
        f"{args.lines:,} lines of predictions on {args.lines // CODES:,} notes, {args.gold:,} lines of gold; "
        "starting Python is counted."
    )
    table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)
    (RESULTS / "reading.md").write_text(f"{head}\n\n{table}\n", encoding="utf-8")
    print(head)


if __name__ == "__main__":
    main()
