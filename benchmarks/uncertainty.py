"""Intervals for many methods at once, beside the plain way: resample notes and average again.

    python benchmarks/uncertainty.py --notes 10000 --methods 20 --draws 2000 --loop 20

Values of every method on every note, and counts of one definition. The plain loop draws notes with replacement and
computes the statistic of each method again, `--loop` times, scaled to all draws; it is given the same resamples, so
what it computes must be the same. A second row asks group after group, as one would with `icdrat.bootstrap.interval`.
Seconds are those of the processor, those of drawing the resamples included in both. Results go to
benchmarks/results/uncertainty.csv and .md.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd

from icdrat.bootstrap import bootstrap_weights, interval, mean
from icdrat.evaluation.cards import COUNTS
from icdrat.evaluation.aggregate import MICRO, differences, summarise_counts, summarise_means

RESULTS = Path(__file__).resolve().parent / "results"


def spent(work):
    "What it made, and seconds of the processor"
    bootstrap_weights.cache_clear()
    start = time.process_time()
    made = work()
    return made, time.process_time() - start


def tables(n_notes, n_methods, rng):
    notes, methods = (
        np.array([f"{letter}{i:05}" for i in range(n)]) for letter, n in (("n", n_notes), ("m", n_methods))
    )
    values = pd.DataFrame(
        dict(
            note_id=np.tile(notes, n_methods),
            code="I10",
            method=np.repeat(methods, n_notes),
            metric="toy",
            value=rng.random(n_notes * n_methods),
        )
    )
    n_pred, n_gold = rng.integers(1, 9, (2, len(values)))
    hits = rng.integers(0, np.minimum(n_pred, n_gold) + 1)
    counts = values[["note_id", "code", "method"]].assign(
        definition="eraser/token", **dict(zip(COUNTS, (hits, n_pred, hits, n_gold)))
    )
    return values, counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notes", type=int, default=10_000)
    parser.add_argument("--methods", type=int, default=20)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--loop", type=int, default=20, help="draws that the plain loop makes")
    args = parser.parse_args()
    values, counts = tables(args.notes, args.methods, np.random.default_rng(0))
    wide = values.pivot(index="note_id", columns="method", values="value")
    sums = {m: t[list(COUNTS)].to_numpy(float) for m, t in counts.sort_values("note_id").groupby("method")}

    def looped():
        weights = bootstrap_weights(args.notes, args.draws)[: args.loop]
        start, out = time.process_time(), []
        for w in weights:
            drawn = np.repeat(np.arange(args.notes), w)
            out.append([wide[m].iloc[drawn].mean() for m in wide])
        return np.array(out), (time.process_time() - start) * args.draws / args.loop

    def grouped():
        return {m: interval(np.stack([v, np.ones(len(v))], 1), mean, args.draws) for m, v in wide.items()}

    def plainly():
        weights = bootstrap_weights(args.notes, args.draws)
        return {m: [np.percentile(f(weights @ s), [2.5, 97.5]) for f in MICRO.values()] for m, s in sums.items()}

    rows = []
    draws, slow = looped()
    (found, fast), (apart, alone) = spent(lambda: summarise_means(values, args.draws)), spent(grouped)
    drawn = bootstrap_weights(args.notes, args.draws)[: args.loop] @ wide.to_numpy() / args.notes
    assert np.allclose(draws, drawn) and np.allclose(found[["value", "low", "high"]], list(apart.values()))
    rows.append(dict(what="means", seconds=fast, plain="resample and average again", plain_seconds=slow))
    rows.append(dict(what="means", seconds=fast, plain="one method after another", plain_seconds=alone))
    (found, fast), (apart, alone) = spent(lambda: summarise_counts(counts, args.draws)), spent(plainly)
    assert np.allclose(found[["low", "high"]], np.concatenate(list(apart.values())))
    rows.append(
        dict(
            what="precision, recall, F1",
            seconds=fast,
            plain="one method and statistic after another",
            plain_seconds=alone,
        )
    )
    found, fast = spent(
        lambda: differences(values, "m00000", ["toy"], methods=["m00001", "m00002"], n_draws=args.draws)
    )
    rows.append(dict(what="2 differences, 10,000 swaps each", seconds=fast, plain="", plain_seconds=np.nan))
    frame = pd.DataFrame(rows)
    frame["ratio"] = (frame.plain_seconds / frame.seconds).round(1)
    frame[["seconds", "plain_seconds"]] = frame[["seconds", "plain_seconds"]].round(2)
    frame.to_csv(RESULTS / "uncertainty.csv", index=False)
    lines = [
        "| " + " | ".join(map(str, r)) + " |"
        for r in [
            frame.columns.str.replace("_", " "),
            ["---"] * len(frame.columns),
            *frame.astype(object).where(frame.notna(), "").values,
        ]
    ]
    _, weights = spent(lambda: bootstrap_weights(args.notes, args.draws))
    head = (
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}. "
        f"{args.draws:,} draws, {args.notes:,} notes, {args.methods} methods; {weights:.2f} seconds "
        f"of each are the drawing of the resamples."
    )
    (RESULTS / "uncertainty.md").write_text(head + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(head, *lines, sep="\n")


if __name__ == "__main__":
    main()
