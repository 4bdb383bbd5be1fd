"""Notes a second, in training and in reading, against a plain PyTorch loop over the same network.

    python benchmarks/coders.py --architectures caml plm_icd

The plain loop takes the notes in the order given (for training: shuffled), eight at a time, fills each eight to the
longest of them and, for PLM-ICD, teaches every layer, as the published code does. Ours puts notes of similar length
together, reads each different block of tokens once, and leaves the lower layers of PLM-ICD as they are unless told
otherwise; both are shown. The notes are synthetic discharge summaries, one to `--longest` of them end to end, so that
lengths vary as in a hospital. Seconds are the processor's, one thread. The probabilities of the two ways of reading
are compared. Results go to benchmarks/results/coders.csv and .md.
"""

import argparse
import math
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from icdrat.coder.network import LabelAttentionCoder, pad_batch
from icdrat.coder.recipe import recipe
from icdrat.coder.training import begun, deterministic, epoch
from icdrat.data.corpus import build, code_matrix
from icdrat.data.synth import synthesise

RESULTS = Path(__file__).resolve().parent / "results"


def notes_of_many_lengths(n, longest, seed=0):
    "A corpus whose notes are one or more synthetic summaries end to end; most are short, a few are long"
    rng, made = np.random.default_rng(seed), synthesise(n * 3, progress=False)
    rows, left = [], list(made.notes)
    for i in range(n):
        taken = [left.pop() for _ in range(min(len(left) - (n - i - 1), 1 + int(rng.exponential(1.5)), longest))]
        rows.append(
            dict(
                note_id=f"n{i}",
                text="\n".join(t.text for t in taken),
                codes=list(dict.fromkeys(c for t in taken for c in made.codes[t.id])),
                split="train",
            )
        )
    return build("lengths", rows)


def seconds(f):
    started = process_time()
    out = f()
    return out, process_time() - started


def fresh(corpus, codes, chosen):
    "A run before its first step, all codes a little known"
    run = begun(corpus, code_matrix(corpus, codes), codes, chosen)
    run.wrapped, run.optimiser = run.accelerator.prepare(run.network, run.optimiser)
    return run


def plain_epoch(network, reader, rows, truth, lr, size=8, seed=0):
    "The loop that everybody writes"
    optimiser = torch.optim.AdamW(network.parameters(), lr)
    network.train()
    order = np.random.default_rng(seed).permutation(len(rows))
    for i in range(0, len(rows), size):
        some = order[i : i + size]
        ids, real = pad_batch([rows[k] for k in some], reader.pad, reader.mask, network.block or 1)
        logits, _ = network(ids, real, None)
        F.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth[some]).to(logits.dtype)).backward()
        optimiser.step()
        optimiser.zero_grad()


@torch.no_grad()
def plain_reading(network, reader, texts, size=8):
    "Probabilities, eight notes at a time as they come"
    network.eval()
    rows = [reader.encode(t)[0] for t in texts]
    batches = [
        pad_batch(rows[i : i + size], reader.pad, reader.mask, network.block or 1) for i in range(0, len(rows), size)
    ]
    return torch.cat([network(ids, real, None)[0].sigmoid() for ids, real in batches]).numpy()


def measured(architecture, corpus, codes):
    "Rows of the table for one architecture"
    texts, truth = [n.text for n in corpus.notes], code_matrix(corpus, codes)
    plain = fresh(corpus, codes, recipe(architecture, **(dict(frozen=0) if architecture == "plm_icd" else {})))
    lengths = [len(r) for r in plain.material.rows]
    about = dict(architecture=architecture, notes=len(texts), tokens=int(np.median(lengths)), longest=max(lengths))
    _, slow = seconds(lambda: plain_epoch(plain.network, plain.reader, plain.material.rows, truth, 1e-4))
    ways = (
        {"as it comes": {}}
        if architecture != "plm_icd"
        else {"three layers left as they are": {}, "every layer taught": dict(frozen=0)}
    )
    for name, changes in ways.items():
        run = fresh(corpus, codes, recipe(architecture, **changes))
        with deterministic(1), tqdm(disable=True) as bar:
            _, fast = seconds(lambda: epoch(run, bar))
        yield dict(
            what=f"training, {name}", **about, plain=len(texts) / slow, icdrat=len(texts) / fast, times=slow / fast
        )
    there, slow = seconds(lambda: plain_reading(plain.network, plain.reader, texts))
    coder = LabelAttentionCoder(plain.network, plain.reader, codes)
    here, fast = seconds(lambda: coder(texts))
    yield dict(
        what="reading",
        **about,
        plain=len(texts) / slow,
        icdrat=len(texts) / fast,
        times=slow / fast,
        apart=float(np.abs(here - there).max()),
    )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--architectures", nargs="+", default=["caml", "multirescnn", "laat", "plm_icd"])
    p.add_argument("--notes", type=int, default=64)
    p.add_argument("--longest", type=int, default=8, help="summaries in the longest note")
    p.add_argument("--codes", type=int, default=50)
    args = p.parse_args()
    torch.set_num_threads(1)
    corpus = notes_of_many_lengths(args.notes, args.longest)
    codes = sorted({c for cs in corpus.codes.values() for c in cs})[: args.codes]
    found = []
    for a in args.architectures:
        for row in measured(a, corpus, codes):
            print(row, flush=True)
            found.append(row)
    table = pd.DataFrame(found)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "coders.csv", index=False)
    forms = dict(plain="{:.2f}", icdrat="{:.2f}", times="{:.2f}", apart="{:.0e}")
    rows = [
        table.columns,
        ["---"] * len(table.columns),
        *(
            [forms[c].format(v) if c in forms and not math.isnan(v) else "" if v != v else str(v) for c, v in r.items()]
            for r in table.to_dict("records")
        ),
    ]
    (RESULTS / "coders.md").write_text(
        "# Notes for each second of the processor\n\n"
        + "\n".join("| " + " | ".join(map(str, r)) + " |" for r in rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
