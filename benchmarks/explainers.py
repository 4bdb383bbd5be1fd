"""What an explanation costs: every explainer of `icdrat.rationale` against captum called once for each code.

    python benchmarks/explainers.py --tokens 2000 6000 --codes 15

One coder (PLM-ICD on MiniLM, or a saved one), one synthetic note of each length. Both ways use the same number of
threads. Where doing all of the slow way would take days, less of it is done and the time is scaled, and only where
the work is strictly additive: captum's codes (each call is the same work) and its versions of a note (each version is
encoded whole and by itself, so the encoding of a version is timed and multiplied; the fit at the end is left out of
captum's time, in captum's favour). The column `scaled` says what was. Numbers are compared on the codes that captum
was asked for; where its versions were scaled, both ways are run in full on the first words of the note, and compared
there. Seconds are the processor's, so that other programs count little.

Memory is the largest resident size of a process of its own, less what it held before the explainer began: all codes
in one call for us, one code for captum, with few points and few versions, since neither way keeps more than one group
of them at a time.
"""

import argparse
import multiprocessing
import platform
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch

from icdrat.coder.base import load_coder
from icdrat.coder.network import LabelAttentionCoder
from icdrat.data.synth import synthesise
from icdrat.rationale.attribution.explain import explain, read_note
from icdrat.rationale.attribution.perturbation import n_versions
from icdrat.rationale.attribution.reference import FromWords, apart
from icdrat.types import Code, Note

GRADIENTS = dict(
    input_x_gradient={}, attingrad={}, integrated_gradients={}, gradient_shap={}, deeplift=dict(rule="gradient")
)
ASKING = ("occlusion", "lime", "kernel_shap")
ALONE = ("attention", "attention_rollout", "attgrad", "random")  # captum has no such thing


def random_minilm(n_codes, sharpness):
    "PLM-ICD on MiniLM under a random head; `sharpness` multiplies its queries, so that attention falls on few tokens"
    from icdrat.coder.plm import PlmNetwork

    network, reader = PlmNetwork.fresh([], n_codes)
    network.begin(np.random.default_rng(0), np.full(n_codes, 0.1))
    network.head.query.data *= sharpness
    return LabelAttentionCoder(network, reader, [Code("icd10cm", f"A{i // 10:02}.{i % 10}") for i in range(n_codes)])


def synthetic_note(coder, n_tokens):
    "Discharge summaries of `icdrat.data.synth`, one after the other, cut at this length"
    text = "\n".join(n.text for n in synthesise(n_tokens // 100 + 1, progress=False).notes)
    ids, places, word = read_note(coder, text)
    if len(ids) < n_tokens:
        raise SystemExit(f"no note of {n_tokens} tokens: the reader stopped at {len(ids)}")
    return Note(f"synthetic, {n_tokens} tokens", text[: places[word[: n_tokens - 1].max(), 1]])


def timed(f):
    start = process_time()
    out = f()
    return out, process_time() - start


def made(args):
    "The coder that is measured"
    torch.set_num_threads(args.threads)
    return load_coder(args.coder) if args.coder else random_minilm(args.codes, args.sharpness)


def held(most=False):
    "Resident size of this process in MB, now or at most since `forget` (Linux)"
    (line,) = (
        s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM:" if most else "VmRSS:")
    )
    return int(line.split()[1]) / 1024


def forget():
    "Begin to watch the largest resident size from here"
    Path("/proc/self/clear_refs").write_text("5")


FEW = dict(integrated_gradients=dict(n_steps=2), lime=dict(most=50), kernel_shap=dict(most=50))


def peak(job):
    "MB that one explainer needs for one note, in a process of its own"
    args, n_tokens, name, by = job
    coder = made(args)
    note, codes = synthetic_note(coder, n_tokens), coder.codes[: args.codes if by == "icdrat" else 1]
    options = dict(FEW.get(name, {}))
    if by == "icdrat" and name == "deeplift":
        options = GRADIENTS[name]
    ask(coder, Note("warm", note.text[:300]), codes[:1], "input_x_gradient")
    forget()
    before = held()
    ask(coder, note, codes, name, by=by, **options)
    return held(most=True) - before


def peaks(args, n_tokens):
    "Memory of both ways, explainer by explainer"
    spawn = multiprocessing.get_context("spawn")
    for name in args.methods:
        row = dict(explainer=name, tokens=n_tokens)
        for by in ("icdrat", "captum"):
            if by == "captum" and name in (*ALONE, "occlusion"):
                continue
            with spawn.Pool(1) as pool:
                (row[by],) = pool.map(peak, [(args, n_tokens, name, by)])
        print(row, flush=True)
        yield row


def ask(coder, note, codes, name, by="icdrat", **options):
    return explain(coder, [note], {note.id: codes}, name, progress=False, by=by, **options)


def gradient(coder, note, codes, name, few, n_steps):
    "Ours for all codes, captum for a few of them"
    steps = dict(n_steps=n_steps) if name == "integrated_gradients" else {}
    ours, seconds = timed(lambda: ask(coder, note, codes, name, **GRADIENTS[name], **steps))
    theirs, slow = timed(lambda: ask(coder, note, codes[:few], name, by="captum", **steps))
    return (
        ours,
        seconds / len(codes),
        slow / few,
        apart(ours[:few], theirs),
        f"codes, from {few}" if few < len(codes) else "",
    )


def perturbation(coder, note, codes, name, few, most, n_words):
    "Ours for all codes; captum's time from the encoding of whole versions; numbers on the first words of the note"
    options = {} if name == "occlusion" else dict(most=most)
    ours, seconds = timed(lambda: ask(coder, note, codes, name, **options))
    question = FromWords(coder, note.text, list(range(few)))
    versions = len(question) + 1 if name == "occlusion" else n_versions(len(question), 3, most)
    keep = torch.from_numpy(np.random.default_rng(0).random((4, len(question))) < 0.5)
    question(keep[:1])
    _, some = timed(lambda: [question(k[None]) for k in keep])
    beginning = Note(note.id, note.text[: question.places[min(n_words, len(question)) - 1, 1]])
    both = [ask(coder, beginning, codes[:few], name, by=by) for by in ("icdrat", "captum")]
    return (
        ours,
        seconds / len(codes),
        some / len(keep) * versions,
        apart(*both, least=1),
        f"versions, from {len(keep)} of {versions}",
    )


def rows(coder, n_tokens, codes, args):
    "One row for each explainer"
    note = synthetic_note(coder, n_tokens)
    length = dict(
        tokens=len(read_note(coder, note.text)[0]), words=len(coder.reader.places(note.text)), codes=len(codes)
    )
    ask(coder, Note("warm", note.text[:300]), codes, "input_x_gradient")
    for name in args.methods:
        if name in ALONE:
            _, seconds = timed(lambda: ask(coder, note, codes, name))
            found = dict(ours=seconds / len(codes))
        else:
            one = (
                gradient(coder, note, codes, name, args.few, args.steps)
                if name in GRADIENTS
                else perturbation(coder, note, codes, name, args.few, args.most, args.words)
            )
            _, ours, captum, differ, scaled = one
            found = dict(ours=ours, captum=captum, times=captum / ours, apart=differ, scaled=scaled)
        print(name, found, flush=True)
        yield dict(explainer=name, **length, **found)
    if "deeplift" in args.methods:
        _, seconds = timed(lambda: ask(coder, note, codes, "deeplift"))
        yield dict(
            explainer="deeplift, rescale rule",
            **length,
            ours=seconds / len(codes),
            scaled="captum has no rule for this network",
        )


def markdown(table, forms):
    "A table as Markdown, numbers in these forms"
    shown = table.astype(object)
    for c, f in forms.items():
        shown[c] = [f.format(v) if pd.notna(v) else "" for v in table[c]]
    rows = [shown.columns, ["---"] * len(shown.columns), *shown.values]
    return ["| " + " | ".join("" if pd.isna(v) else str(v) for v in r) + " |" for r in rows]


def written(table, memory, args, coder):
    "The tables as CSV and as Markdown, with what they were made on"
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "explainers.csv", index=False)
    lines = [
        "# Seconds of the processor for one note and code",
        "",
        (
            f"{coder!r}; sharpness {args.sharpness}; {args.threads} thread{'s' * (args.threads > 1)} "
            f"of {platform.processor() or platform.machine()}; torch {torch.__version__}; "
        )(
            f"integrated gradients with {args.steps} points; LIME and KernelSHAP with at most "
            f"{args.most} versions. `times`: captum over icdrat. `apart`: largest difference of two "
            f"scores, as a share of the largest."
        ),
        "",
        *markdown(table, dict(ours="{:.3g}", captum="{:.3g}", times="{:.1f}", apart="{:.0e}")),
    ]
    if len(memory):
        memory.to_csv(args.out / "explainers_memory.csv", index=False)
        lines += [
            "",
            "# MB that an explainer adds",
            "",
            f"All {args.codes} codes in one call for icdrat, one code for captum.",
            "",
            *markdown(memory, dict(icdrat="{:.0f}", captum="{:.0f}")),
        ]
    (args.out / "explainers.md").write_text("\n".join(lines) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--coder", help="folder of a saved coder; PLM-ICD on MiniLM under a random head when not given")
    p.add_argument("--tokens", type=int, nargs="+", default=[2000, 6000], help="lengths of the notes")
    p.add_argument("--codes", type=int, default=15, help="codes that are explained")
    p.add_argument("--few", type=int, default=2, help="codes that captum is asked for")
    p.add_argument("--steps", type=int, default=50, help="points of integrated gradients")
    p.add_argument("--most", type=int, default=1000, help="versions of a note for LIME and KernelSHAP")
    p.add_argument("--words", type=int, default=40, help="words of the beginning on which perturbation is compared")
    p.add_argument("--sharpness", type=float, default=1.0, help="multiplies the queries of the random head")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--memory", type=int, nargs="*", default=[], help="lengths at which memory is measured")
    p.add_argument("--methods", nargs="+", default=[*ALONE, *GRADIENTS, *ASKING])
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args()
    coder = made(args)
    memory = pd.DataFrame(
        [r for n in args.memory for r in peaks(args, n)], columns=["explainer", "tokens", "icdrat", "captum"]
    )
    columns, found = ["explainer", "tokens", "words", "codes", "ours", "captum", "times", "apart", "scaled"], []
    for n in args.tokens:
        for row in rows(coder, n, coder.codes[: args.codes], args):
            found.append(row)
            written(
                pd.DataFrame(found, columns=columns), memory, args, coder
            )  # after each, since the next may take hours
    print(pd.DataFrame(found, columns=columns).to_string(index=False))


if __name__ == "__main__":
    main()
