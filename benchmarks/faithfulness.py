"""What faithfulness costs: the perturbation engine against one question at a time, on the same coder.

    python benchmarks/faithfulness.py --tokens 500 2000 6000 --codes 3

The protocol is that of EMC (Edin et al. 2024): fifty steps of two words from the top of a ranking and fifty from its
end, for each code its own ranking, words masked. Two coders, PLM-ICD on MiniLM under a random head and CAML with
random numbers, and a trained PLM-ICD where `--coder` names one, read one synthetic note of each length. Rankings are
the coder's attention, and by chance; those by chance are the worst case, since each step changes words in two
different places. `emc and control` adds the twenty random rankings that stand beside the explanations.

One at a time is the same coder without blocks, windows and memory: one call of the network for every question of
every code. These calls are strictly additive, so some of them are timed and the time is scaled; `asked` says how many
of how many. The numbers of those that were asked both ways are compared. Seconds are those of the processor, of one
thread: the machine may be busy.
"""

import argparse
import platform
import sys
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))
from explainers import random_minilm, synthetic_note

from icdrat.coder.base import load_coder, word_vocabulary
from icdrat.coder.convolutional import CamlNetwork
from icdrat.coder.network import LabelAttentionCoder
from icdrat.data.synth import synthesise
from icdrat.evaluation.faithfulness.curves import word_scores
from icdrat.evaluation.faithfulness.emc import emc_inquiry, stepwise_masks
from icdrat.evaluation.faithfulness.engine import Interview, together
from icdrat.evaluation.faithfulness.inquiry import mean_inquiry
from icdrat.rationale.attribution.explain import explain
from icdrat.text import mask_to_spans, readable
from icdrat.types import Code


def random_caml(n_codes):
    "CAML of the published sizes with random numbers, and the words of synthetic notes"
    reader, rng = word_vocabulary([n.text for n in synthesise(100, progress=False).notes]), np.random.default_rng(0)
    network = CamlNetwork(len(reader), n_codes, filters=50, width=9)
    for p in network.requires_grad_(False).parameters():
        p.copy_(torch.from_numpy(rng.normal(0, 0.2, tuple(p.shape))))
    return LabelAttentionCoder(network, reader, [Code("icd10cm", f"A{i // 10:02}.{i % 10}") for i in range(n_codes)])


def without_blocks(coder):
    "The same coder, asked for whole notes only"
    plain = LabelAttentionCoder(coder.network, coder.reader, coder.codes, coder.threshold, **coder.how)
    plain.blocks = None
    return plain


def timed(f):
    start = process_time()
    out = f()
    return out, process_time() - start


def fresh(coder):
    return coder.to("cpu")  # with an empty memory


def rankings(coder, note, offsets, codes, n_methods, by):
    "For each code, as many rankings as there are methods"
    rng = np.random.default_rng(0)
    if by == "attention":
        found = explain(coder, [note], {note.id: codes}, "attention", progress=False)
        return {e.code: [word_scores(e, offsets)] for e in found}
    return {c: [rng.random(len(offsets)) for _ in range(n_methods)] for c in codes}


def engine(coder, note, ranked, n_random=0):
    "Seconds of the engine, its numbers, and how many answers were wanted and asked for"
    codes = list(ranked)
    interview = Interview(fresh(coder), note, [coder.codes.index(c) for c in codes])
    plan = [(emc_inquiry(s), codes.index(c)) for c in codes for s in ranked[c]]
    if n_random:
        draws = np.random.default_rng(1).random((n_random, len(readable(note.text))))
        plan += [(mean_inquiry(emc_inquiry(s) for s in draws), codes.index(c)) for c in codes]
    found, seconds = timed(lambda: together(plan, interview))
    return found, seconds, interview


def one_at_a_time(coder, note, scores, column, n_asked):
    "Seconds of a question, and answers to a few questions spread over the steps"
    plain, offsets = without_blocks(coder), readable(note.text)
    masks = np.concatenate([stepwise_masks(scores), stepwise_masks(scores, best_first=False)])
    masks = masks[np.linspace(1, len(masks) - 1, n_asked).astype(int)]
    ask = lambda m: plain([note.text], [mask_to_spans(m, offsets)])[0, column]
    ask(masks[0])
    found, seconds = timed(lambda: np.array([ask(m) for m in masks]))
    return masks, found, seconds / n_asked


def measured(name, coder, n_tokens, codes, n_asked, by, n_random=0):
    "One row: seconds for one note and code, both ways"
    note = synthetic_note(coder, n_tokens)
    offsets, ranked = readable(note.text), rankings(coder, note, readable(note.text), codes, 1, by)
    seconds = np.median(
        [engine(coder, note, ranked, n_random)[1] for _ in range(5 if n_asked > 10 else 1)]
    )  # a few milliseconds want to be measured more than once
    masks, slow, each = one_at_a_time(coder, note, ranked[codes[0]][0], coder.codes.index(codes[0]), n_asked)
    quick = Interview(fresh(coder), note, [coder.codes.index(codes[0])])(masks)[:, 0]
    n_questions = 100 * (1 + n_random) + 1
    ours, theirs = seconds / len(codes), each * n_questions
    found = dict(
        coder=name,
        tokens=len(coder.reader.read(note.text)[0]),
        words=len(offsets),
        protocol="emc and control" if n_random else "emc",
        ranking=by,
        codes=len(codes),
        engine=ours,
        one_at_a_time=theirs,
        times=theirs / ours,
        apart=np.abs(quick - slow).max(),
        asked=f"{n_asked} of {n_questions}",
    )
    print(found, flush=True)
    return found


def growth(name, coder, args):
    "How the engine's cost grows with tokens, codes and methods"
    for tokens, n_codes, n_methods in args.growth:
        note, codes = synthetic_note(coder, tokens), coder.codes[:n_codes]
        ranked = rankings(coder, note, readable(note.text), codes, n_methods, "chance")
        _, seconds, interview = engine(coder, note, ranked)
        found = dict(
            coder=name,
            tokens=tokens,
            codes=n_codes,
            methods=n_methods,
            seconds=seconds,
            wanted=interview.n_wanted,
            asked=interview.n_asked,
            seconds_per_ranking=seconds / n_codes / n_methods,
        )
        print(found, flush=True)
        yield found


def as_markdown(table, **formats):
    shown = table.copy()
    for c, f in formats.items():
        shown[c] = [f.format(v) for v in table[c]]
    rows = [shown.columns, ["---"] * len(shown.columns), *shown.itertuples(index=False)]
    return "".join("| " + " | ".join(map(str, r)) + " |\n" for r in rows)


def drawn(table, folder):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(8, 2.4), layout="constrained")
    fixed = dict(tokens=("codes", "methods"), codes=("tokens", "methods"), methods=("tokens", "codes"))
    for ax, (x, others) in zip(axes, fixed.items()):
        for name, t in table.groupby("coder"):
            base = {o: t[o].mode()[0] for o in others}
            few = t[np.logical_and.reduce([t[o] == b for o, b in base.items()])].sort_values(x)
            ax.plot(few[x], few["seconds"] / few["seconds"].iloc[0], "o-", ms=3, label=name)
        ax.set(xlabel=x, ylim=(0, None))
    axes[0].set_ylabel("seconds, first point = 1")
    axes[0].legend(fontsize=7)
    fig.savefig(folder / "faithfulness_growth.svg")


def written(table, grown, out):
    "The tables as CSV and as Markdown, and the figure"
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "faithfulness.csv", index=False)
    grown.to_csv(out / "faithfulness_growth.csv", index=False)
    drawn(grown, out)
    about = (
        f"One thread of {platform.processor() or platform.machine()}, torch {torch.__version__}. "
        f"Seconds of the processor for one note and code; `times` is their ratio; `apart` the largest "
        f"difference of two probabilities that were asked both ways; `asked` how many of the "
        f"questions one at a time were really asked."
    )
    text = f"# The engine against one question at a time\n\n{about}\n\n" + as_markdown(
        table, engine="{:.3g}", one_at_a_time="{:.3g}", times="{:.1f}", apart="{:.0e}"
    )
    text += "\n# How the cost grows\n\nThe engine alone, rankings by chance.\n\n" + as_markdown(
        grown, seconds="{:.3g}", seconds_per_ranking="{:.3g}"
    )
    (out / "faithfulness.md").write_text(text)
    return text


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokens", type=int, nargs="+", default=[500, 2000, 6000], help="lengths of the notes")
    p.add_argument("--codes", type=int, default=3, help="codes of a note")
    p.add_argument("--known", type=int, default=50, help="codes that the coders know")
    p.add_argument(
        "--asked", type=int, nargs=2, default=[5, 50], help="questions asked one at a time of PLM-ICD and of CAML"
    )
    p.add_argument("--random", type=int, default=20, help="random rankings in the control")
    p.add_argument(
        "--control", type=int, nargs="*", default=[], help="lengths at which PLM-ICD is measured with its control too"
    )
    p.add_argument(
        "--sharpness",
        type=float,
        default=1.0,
        help="multiplies the queries of the random head, so that attention falls on few tokens",
    )
    p.add_argument("--coder", type=Path, help="a folder with a trained PLM-ICD, which is measured as well")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args()
    args.growth = sorted(
        {(t, 1, 1) for t in (500, 1000, 2000)} | {(500, c, 1) for c in (2, 4)} | {(500, 1, m) for m in (2, 4)}
    )
    torch.set_num_threads(1)
    rows, grown = [], []
    coders = [
        ("caml", random_caml(args.known), args.asked[1]),
        ("plm_icd", random_minilm(args.known, args.sharpness), args.asked[0]),
    ]
    if args.coder:
        coders.append(("plm_icd, trained", load_coder(args.coder), args.asked[0]))
    for name, coder, n_asked in coders:
        codes = coder.codes[: args.codes]
        engine(
            coder,
            synthetic_note(coder, 200),
            {codes[0]: [np.arange(len(readable(synthetic_note(coder, 200).text)), 0.0, -1)]},
        )  # warm
        for n in args.tokens:
            rows += [measured(name, coder, n, codes, n_asked, by) for by in ("attention", "chance")]
            if name == "caml" or n in args.control:
                rows.append(measured(name, coder, n, codes, n_asked, "attention", args.random))
        if name != "plm_icd, trained":
            grown += growth(name, coder, args)
    text = written(pd.DataFrame(rows), pd.DataFrame(grown), args.out)
    print(text)


if __name__ == "__main__":
    main()
