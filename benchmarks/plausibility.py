"""Count a hundred thousand (note, code) pairs under every definition of plausibility, beside a plain loop over pairs.

    python benchmarks/plausibility.py --pairs 100000 --loop 2000

Pairs have a few gold and predicted spans in a note of some hundred words, and a score for each word. The loops are
written as the published code is: sets of tokens for each key (ERASER, CodiEsp, the anatomy of evidence), sorted lists
and scikit-learn for each row (EMC, ERASER's areas). They see the first `--loop` pairs, their time is scaled to all,
and their counts must be the same. Seconds are those of the processor. Last, all definitions go through
`all_plausibility` from rationales to the table, words of the notes included. Results go to
benchmarks/results/plausibility.csv and .md.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd

from icdrat.evaluation.plausibility.anatomy import match_classes, tokens_of
from icdrat.evaluation.plausibility.codiesp import reference_counts
from icdrat.evaluation.plausibility.definitions import HARD, all_plausibility, score_numbers, summarise_plausibility
from icdrat.evaluation.plausibility.emc import scored
from icdrat.evaluation.plausibility.mdace import MATCHINGS
from icdrat.evaluation.plausibility.counts import (
    eraser_iou_counts,
    one_to_one_counts,
    soft_scores,
    span_counts,
    unit_counts,
)
from icdrat.types import Code, Note, Rationale, Span

RESULTS = Path(__file__).resolve().parent / "results"


def spent(work):
    "What it made, and seconds of the processor"
    start = time.process_time()
    made = work()
    return made, time.process_time() - start


def spans(n_pairs, rng):
    "Up to four short spans a pair"
    start = np.sort(rng.integers(0, 120, (n_pairs, 4)), 1) * 5
    table = np.stack(
        [np.repeat(np.arange(n_pairs), 4), start.ravel(), start.ravel() + rng.integers(1, 5, n_pairs * 4)], 1
    )
    return np.unique(table[rng.random(len(table)) < 0.7], axis=0)


def by_key(table, n):
    "Spans of each key as a list of pairs"
    lists = [[] for _ in range(n)]
    for k, s, e in table.tolist():
        if k < n:
            lists[k].append((s, e))
    return lists


def loop_tokens(gold, predicted):
    out = []
    for g, p in zip(gold, predicted):
        a, b = ({t for s, e in side for t in range(s, e)} for side in (g, p))
        out.append((len(a & b), len(b), len(a & b), len(a)))
    return out


def loop_spans(gold, predicted):
    return [(len(set(g) & set(p)), len(set(p)), len(set(g) & set(p)), len(set(g))) for g, p in zip(gold, predicted)]


def loop_iou(gold, predicted, threshold=0.5):
    out = []
    for g, p in zip(gold, predicted):
        hits = 0
        for s, e in set(p):
            best = 0.0
            for t, f in set(g):
                a, b = set(range(s, e)), set(range(t, f))
                best = max(best, len(a & b) / len(a | b) if a | b else 0)
            hits += best >= threshold
        out.append((hits, len(set(p)), hits, len(set(g))))
    return out


def loop_references(gold, predicted):
    out = []
    for g, p in zip(gold, predicted):
        hit = any(0 <= s - t <= 10 and 0 <= f - e <= 10 for s, e in g for t, f in p)
        out.append((hit, bool(p), hit, bool(g)))
    return out


def loop_classes(gold, predicted):
    out = []
    for g, p in zip(gold, predicted):
        a, b = ([t for s, e in side for t in range(s, e)] for side in (g, p))
        a, b = sorted(set(a)), sorted(set(b))
        if not b:
            out.append(0)
        elif a == b:
            out.append(1)
        elif not set(a) & set(b):
            out.append(4)
        else:
            runs = []
            for t in a:
                runs.append([t]) if not runs or t != runs[-1][-1] + 1 else runs[-1].append(t)
            near = all(any(r[0] - 10 <= t <= r[-1] + 10 for r in runs) for t in b)
            out.append(2 if near and all(any(r[0] <= t <= r[-1] for t in b) for r in runs) else 3)
    return out


def loop_areas(scores, gold):
    "ERASER's areas and EMC's first k, row by row"
    areas, hits = [], []
    for s, g in zip(scores, gold):
        truth = np.zeros(len(s), bool)
        truth[g] = True
        areas.append(soft_scores(s, truth))
        order = np.argsort(s, kind="stable")
        hits.append([len(set(order[-k:].tolist()) & set(g.tolist())) for k in (1, 5, 10, 50, 100)])
    return np.array(areas), np.array(hits)


def rationales(n_pairs, rng, codes=10):
    "Notes of invented words, gold and predicted rationales"
    vocabulary = np.array(
        ["pt", "with", "fever", "and", "chronic", "renal", "failure", ",", "on", "metformin", ".", "left", "pain"]
    )
    notes, gold, predicted = [], [], []
    names = [Code("icd10cm", f"E{10 + i}.9") for i in range(codes)]
    for i in range(n_pairs // codes):
        text = " ".join(rng.choice(vocabulary, 600))
        notes.append(Note(f"n{i:06}", text))
        for code in names:
            start = np.sort(rng.choice(len(text) // 30, 6, replace=False)) * 30
            places = [Span(int(s), int(s + n)) for s, n in zip(start, rng.integers(3, 28, 6))]
            gold.append(Rationale(notes[-1].id, code, places[:4], "human"))
            predicted.append(Rationale(notes[-1].id, code, places[2:], "toy"))
    return notes, gold, predicted


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--loop", type=int, default=2000, help="pairs that the loops see")
    parser.add_argument("--words", type=int, default=100, help="scored words of a pair")
    parser.add_argument("--soft", type=int, default=100_000, help="pairs with scores")
    args = parser.parse_args()
    rng, n, m = np.random.default_rng(0), args.pairs, args.loop
    gold = spans(n, rng)
    predicted = np.unique(np.concatenate([gold[rng.random(len(gold)) < 0.4], spans(n, rng)]), axis=0)
    slow_gold, slow_predicted = by_key(gold, m), by_key(predicted, m)
    rows = []

    def measure(what, ours, loop, same, pairs=n):
        made, fast = spent(ours)
        plain, slow = spent(loop) if loop else (None, np.nan)
        assert loop is None or same(made, plain), what
        rows.append(
            dict(
                definitions=what,
                pairs=pairs,
                seconds=round(fast, 2),
                loop_seconds=round(slow * pairs / m, 1),
                ratio=round(slow * pairs / m / fast, 1),
            )
        )
        print(rows[-1], flush=True)
        return made

    equal = lambda a, b: np.array_equal(a[:m], b)
    measure(
        "characters or words",
        lambda: unit_counts(gold, predicted, n),
        lambda: loop_tokens(slow_gold, slow_predicted),
        equal,
    )
    measure(
        "exact spans", lambda: span_counts(gold, predicted, n), lambda: loop_spans(slow_gold, slow_predicted), equal
    )
    measure(
        "ERASER's IoU",
        lambda: eraser_iou_counts(gold, predicted, n),
        lambda: loop_iou(slow_gold, slow_predicted),
        equal,
    )
    measure("one to one, IoU of one half", lambda: one_to_one_counts(gold, predicted, n), None, None)
    measure("one to one, any overlap", lambda: one_to_one_counts(gold, predicted, n, threshold=0.0), None, None)
    measure(
        "CodiEsp's references",
        lambda: reference_counts(gold, predicted, n),
        lambda: loop_references(slow_gold, slow_predicted),
        equal,
    )
    measure(
        "the anatomy's classes",
        lambda: match_classes(tokens_of(gold), tokens_of(predicted), n),
        lambda: loop_classes(slow_gold, slow_predicted),
        equal,
    )
    hard = sum(r["seconds"] for r in rows)
    scores = list(rng.dirichlet(np.full(args.words, 0.3), args.soft))
    marked = [rng.choice(args.words, 4, replace=False) for _ in range(args.soft)]
    laid = scored(scores, marked)

    def soft_same(numbers, plain):
        areas, hits = plain
        ours = np.stack([numbers[f"eraser/{q}"][:m, 0] for q in ("auprc", "average_precision", "roc_auc")], 1)
        return np.allclose(ours, areas, atol=1e-9) and all(
            np.array_equal(numbers[f"emc/@{k}"][:m, 0], h) for k, h in zip((1, 5, 10, 50, 100), hits.T)
        )

    measure(
        "areas of ERASER, everything of EMC",
        lambda: score_numbers(laid, laid.scores, 0.05),
        lambda: loop_areas(scores[:m], marked[:m]),
        soft_same,
        args.soft,
    )
    total = hard + rows[-1]["seconds"]
    notes, gold, predicted = rationales(n, rng)
    table, seconds = spent(
        lambda: all_plausibility(
            notes, gold, predicted, definitions=[d for d in HARD if d not in MATCHINGS], progress=False
        )
    )
    summary, more = spent(lambda: summarise_plausibility(table))
    facts = (
        f"{n:,} pairs under all definitions that need no text: {total:.1f} seconds of the processor, "
        f"{hard:.1f} of them for spans. From rationales to the table, with {len(notes):,} notes cut "
        f"into words: {seconds:.1f}; {len(summary)} values with intervals of 2,000 draws from its "
        f"{len(table):,} rows: {more:.1f}."
    )
    frame = pd.DataFrame(rows)
    frame.to_csv(RESULTS / "plausibility.csv", index=False)
    lines = [
        "| " + " | ".join(map(str, r)) + " |"
        for r in [
            frame.columns.str.replace("_", " "),
            ["---"] * len(frame.columns),
            *frame.astype(object).where(frame.notna(), "").values,
        ]
    ]
    head = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}. {facts}"
    (RESULTS / "plausibility.md").write_text(head + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(head)


if __name__ == "__main__":
    main()
