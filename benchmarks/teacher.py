"""What each switch of a small teacher is worth: plausibility and grounding on the vignettes, one switch changed at a
time.

    make llm                                     # in another terminal
    . llm/env.sh
    python benchmarks/teacher.py runs/teacher --split validation

Answers are kept under the folder named, so a run that was stopped goes on; run again, it asks nothing. The teacher is
tuned on the validation notes. Token F1 is that of `icdrat.evaluation.plausibility.counts` against the mentions of the
annotators, with a 95 % interval from a bootstrap over notes; the difference to the whole set of switches is paired
over the same notes. Results go to benchmarks/results/teacher.csv and .md.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from icdrat.data.corpus import head
from icdrat.data.vignettes import vignettes
from icdrat.evaluation.aggregate import difference, summarise_counts
from icdrat.evaluation.plausibility.counts import plausibility
from icdrat.rationale.llm.prompt import Manner, examples, load_prompt, marked_names
from icdrat.rationale.llm.record import teacher_manner
from icdrat.rationale.llm.server import facts, quoted, server
from icdrat.rationale.llm.store import Store, write_answers, write_record

RESULTS = Path(__file__).resolve().parent / "results"
ALL = "all switches"


def ways(train):
    "The small teacher with all its switches, each of them taken back, and the plain question that a large model gets"
    best = teacher_manner("few_shot", train)
    return {
        ALL: (best, {}),
        "any words": (replace(best, copied=0), {}),
        "whole note": (replace(best, window=0, copied=0), {}),  # the examples keep their windows, or nothing fits
        "no examples": (replace(best, n_shots=0), {}),
        "examples by code": (replace(best, choose="code"), {}),
        "examples by likeness": (replace(best, choose="similar"), {}),
        "examples without evidence too": (
            replace(best, pool=examples(train, one_code=True, window=6, empty=True), n_shots=4),
            {},
        ),
        "all codes at once": (Manner(load_prompt("quotes"), window=6), {}),
        "names from training notes": (replace(best, names_of=marked_names(train)), {}),
        "whole note without a candidate": (replace(best, fallback=True), {}),
        "numbered sentences": (replace(best, prompt=load_prompt("numbered"), copied=0), {}),
        "codes before the note": (replace(best, prompt=load_prompt("codes_first")), {}),
        "no schema": (best, dict(format="none")),
        "only where it was read": (best, dict(everywhere=False)),
        "plain": (Manner(load_prompt("quotes")), {}),
    }


def main():
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("folder", type=Path, help="where answers and records are kept")
    ask.add_argument("--split", default="validation")
    ask.add_argument("--notes", type=int, default=0, help="the first notes only; 0: all")
    ask.add_argument("--only", nargs="*", help="these ways only")
    ask.add_argument("--concurrency", type=int, default=1)
    ask.add_argument("--offline", action="store_true", help="count what is in the store")
    told = ask.parse_args()
    corpus = vignettes()
    asked = head(corpus.split(told.split), told.notes) if told.notes else corpus.split(told.split)
    gold = [r for r in asked.gold if r.level == "mention"]
    rows, counts = [], []
    with Store(told.folder / "answers") as store:
        for name, (manner, options) in ways(corpus.split("train")).items():
            if told.only and name not in told.only:
                continue
            there = server(**{k: v for k, v in options.items() if k != "everywhere"})
            found = quoted(
                asked.notes,
                asked.codes,
                there,
                manner,
                store,
                concurrency=told.concurrency,
                offline=told.offline,
                source=name,
                everywhere=options.get("everywhere", True),
            )
            known, stem = facts(found, there, manner), name.replace(" ", "_").replace(",", "")
            write_record(told.folder / f"{stem}.offsets.jsonl", found.rationales, **known)
            write_answers(told.folder / f"{stem}.answers.jsonl", found.asked, asked.notes, **known)
            g = found.grounding
            rows.append(
                dict(
                    way=name,
                    grounding=g.rate,
                    quotes=g.quotes,
                    exact=g.exact,
                    normalised=g.normalised,
                    fuzzy=g.fuzzy,
                    ungrounded=g.ungrounded,
                    without_evidence=g.without_evidence,
                    unanswered=g.unanswered,
                    invented=g.invented,
                    malformed=g.malformed,
                    questions=g.questions,
                    tokens_read=g.prompt_tokens,
                    tokens_written=g.completion_tokens,
                    seconds=g.seconds,
                )
            )
            counts.append(plausibility(asked.notes, gold, found.rationales))
            print(f"{name}: {g}", flush=True)
    table = pd.concat(counts)
    scores = summarise_counts(table)
    for metric in ("token/precision", "token/recall", "token/f1"):
        chosen = scores[scores.metric == metric].set_index("method")
        for row in rows:
            s = chosen.loc[row["way"]]
            row |= {metric: s.value, f"{metric} low": s.low, f"{metric} high": s.high}
    if any(r["way"] == ALL for r in rows):
        for row in rows:
            if row["way"] != ALL:
                d = difference(table, row["way"], ALL, "token/f1").iloc[0]
                row |= {"difference": d["value"], "difference low": d["low"], "difference high": d["high"]}
    RESULTS.mkdir(exist_ok=True)
    made = pd.DataFrame(rows).round(4)
    made.to_csv(RESULTS / "teacher.csv", index=False)
    lines = [
        "| way | token F1 | difference | grounding | quotes | without evidence | seconds a question |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in made.itertuples(index=False):
        r = dict(zip(made.columns, r))
        change = (
            f"{r['difference']:+.3f} [{r['difference low']:+.3f}, {r['difference high']:+.3f}]"
            if r.get("difference") == r.get("difference") and "difference" in r
            else ""
        )
        lines.append(
            (
                f"| {r['way']} | {r['token/f1']:.3f} [{r['token/f1 low']:.3f}, "
                f"{r['token/f1 high']:.3f}] | {change} | {r['grounding']:.0%} | {r['quotes']} | "
                f"{r['without_evidence']} | {r['seconds'] / max(1, r['questions']):.1f} |"
            )
        )
    (RESULTS / "teacher.md").write_text(
        f"{len(asked)} {told.split} vignettes, {len(gold)} pairs, model {there.model}\n\n" + "\n".join(lines) + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
