"""One chunk, side by side with peers: ferret's faithfulness and explainers, captum's explainers, and ours.

    python benchmarks/peers.py --tokens 300 2000 6000

Peers live in an environment of their own, which this script makes (`--env`, under the ignored `runs/`): it sees the
packages of the Python that runs the script, so torch and transformers are the same, and adds `ferret-xai`. Everything
is then measured in one process, on one classifier of the size of MiniLM (6 layers, 384 wide) with random numbers and
15 labels, saved by `save_pretrained`. ferret reads a note whole and cannot cut it, so beyond 512 tokens the classifier
has 8,192 positions, for us too: a note is one chunk throughout, where blocks save nothing.

A note is made of words that are one piece each, so that ferret's tokens are our words and the numbers must be equal.
The scores that are judged are drawn by chance, and never all above zero: where every word is removed ferret reads
nothing and we read one hidden word. Seconds are those of the processor, of one thread; the two sides take turns and
the median is given. What takes minutes is measured in part and scaled where the work is strictly additive, and the
column `scaled` says how: versions with one word left out, and labels, each of which is a call by itself for a peer.
Numbers of the two sides that should be equal may differ by `TOLERANCE`; where they differ by more, the run stops.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from statistics import median
from time import process_time

ROOT = Path(__file__).parent.parent
FERRET = "ferret-xai==0.4.1"
TOLERANCE = dict(numbers=1e-5, scores=1e-4)  # of faithfulness; of explanations, as a share of the largest score
LABELS = "A00.0 A00.1 A01.1 A01.2 A02.0 A02.1 E11.9 I10 I50.9 J45.909 K21.9 N17.9 R11.0 R11.10 R52".split()


def environment(folder):
    "The Python of the peers' environment; made when it is not there"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "project.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
        install = [python, "-m", "pip", "install", "-q", FERRET, "-c", ROOT / "constraints.txt"]
        subprocess.run(install, check=True)
        (folder / "ready").write_text(FERRET)
    return python


def made(folder, n_positions):
    "A classifier of the size of MiniLM with random numbers, as anybody would save it"
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from icdrat.coder.plm import encoder_folder, quiet

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder("minilm"))
    tokenizer.model_max_length = n_positions
    sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    named = dict(id2label=dict(enumerate(LABELS)), problem_type="single_label_classification")
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=n_positions, initializer_range=0.1, **sizes, **named
    )
    torch.manual_seed(0)
    with quiet():
        BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = BertForSequenceClassification.from_pretrained(folder).eval()
    return model, tokenizer


def words_of(tokenizer, n):
    "Words of synthetic notes that are one piece each, with which a note has n tokens"
    from icdrat.data.synth import synthesise

    found = (w for note in synthesise(n // 40 + 20, progress=False).notes for w in note.text.lower().split())
    words = [w for w in found if w.isalpha() and len(tokenizer.tokenize(w)) == 1][: n - 2]
    return " ".join(words)


class Bench:
    "One note of one length, for both sides"

    def __init__(self, folder, n_tokens, keep=lambda rows: None):
        import numpy as np

        from icdrat.coder.classifier import classifier
        from icdrat.text import readable
        from icdrat.types import Note

        self.n_tokens, self.rows, self.keep = n_tokens, [], keep
        self.model, self.tokenizer = made(folder, 512 if n_tokens <= 512 else 8192)
        self.text = words_of(self.tokenizer, n_tokens)
        self.note, self.offsets = Note("synthetic", self.text), readable(self.text)
        self.single, self.multi = (classifier(folder, answers=a) for a in ("softmax", "sigmoid"))
        if not len(self.offsets) == len(self.single.reader.read(self.text)[0]) == n_tokens - 2:
            raise SystemExit(f"no note of {n_tokens} tokens whose words are one piece each")
        self.scores = np.random.default_rng(0).normal(size=len(self.offsets))
        for warm in (
            self.single,
            self.multi,
            lambda texts: self.model(**self.tokenizer(texts[0], return_tensors="pt")),
        ):
            warm([self.text[:300]])  # the first call of a network takes longer

    def row(self, what, peer, ours, theirs, apart, repeats=1, times=1, scaled="", labels=1, our_times=None):
        "Both sides in turns; `times` is what the measured part of the peer is multiplied with, `our_times` ours"
        seconds = [], []
        for i in range(repeats):
            found = [None, None]
            for k in (0, 1) if i % 2 == 0 else (1, 0):
                start = process_time()
                found[k] = (ours, theirs)[k]()
                seconds[k].append(process_time() - start)
        mine, other = median(seconds[0]) * (our_times or times), median(seconds[1]) * times
        named = dict(what=what, peer=peer, tokens=self.n_tokens, labels=labels)
        numbers = dict(ours=mine, theirs=other, times=other / mine, apart=apart(*found), repeats=repeats)
        self.rows.append(named | numbers | dict(scaled=scaled))
        print(self.rows[-1], flush=True)
        self.keep(self.rows)  # after each, since the next may take minutes
        allowed = TOLERANCE["numbers" if "aopc" in what or "tau" in what else "scores"]
        if numbers["apart"] > allowed:
            raise SystemExit(f"{what} by {peer}: {numbers['apart']:.1e} apart, where {allowed} is allowed")


def faithfulness(b, repeats, some):
    "ferret's three numbers of one explanation, and of `some` versions with one word left out where all are too many"
    import numpy as np
    from ferret.evaluators import faithfulness_measures as measures
    from ferret.explainers.explanation import Explanation

    from icdrat.evaluation.faithfulness.engine import Interview, ranking_inquiries, together

    tokens = b.tokenizer.convert_ids_to_tokens(b.tokenizer(b.text)["input_ids"])
    said = Explanation(b.text, tokens, np.r_[0, b.scores, 0], "by chance", 0)
    areas = [
        getattr(measures, f"AOPC_{q}_Evaluation")(b.model, b.tokenizer) for q in ("Comprehensiveness", "Sufficiency")
    ]
    tau, n = measures.TauLOO_Evaluation(b.model, b.tokenizer), len(b.scores)

    def engine(definition, levels=None):
        inquiries = [(i, 0) for i in ranking_inquiries(b.scores, 0.5, [definition], levels)]
        return together(inquiries, Interview(b.single.to("cpu"), b.note, [0], "delete"))[0]

    names = [f"ferret_deciles/aopc_{q}" for q in ("comprehensiveness", "sufficiency")]
    by_ferret = lambda evaluators: np.array([e.compute_evaluation(said, 0).score for e in evaluators])
    apart = lambda ours, theirs: float(np.abs(np.subtract(ours, theirs)).max())
    b.row(
        "aopc_compr and aopc_suff",
        "ferret",
        lambda: list(engine("ferret_deciles").values()),
        lambda: by_ferret(areas),
        apart,
        repeats,
    )
    if some is None:
        three = lambda found: [found[k] for k in (*names, "ferret/taucorr_loo")]
        by_us, by_them = lambda: three(engine("ferret", levels=[])), lambda: by_ferret([*areas, tau])
        b.row("both and taucorr_loo", "ferret", by_us, by_them, apart)
        return
    ids = b.tokenizer(b.text)["input_ids"][1:-1]
    without = [b.tokenizer.decode(ids[:i] + ids[i + 1 :]) for i in range(some)]

    def by_us():
        return Interview(b.single.to("cpu"), b.note, [0], "delete")(np.eye(n, dtype=bool)[:some])[:, 0]

    def by_them():
        return tau.helper._forward(without, output_hidden_states=False)[1].softmax(-1)[:, 0].numpy()

    b.row("taucorr_loo", "ferret", by_us, by_them, apart, 1, n / some, f"versions, from {some} of {n}")


def explainers(b, repeats, steps, versions, by_captum, many):
    "Gradients and samples, for one label and for more of them"
    import numpy as np
    from ferret.explainers.gradient import GradientExplainer, IntegratedGradientExplainer
    from ferret.explainers.lime import LIMEExplainer

    from icdrat.rationale.attribution.explain import explain

    codes = b.multi.codes
    scores = lambda found: np.stack([np.asarray(e.scores) for e in found])
    share = lambda ours, theirs: float(np.abs(ours[:1] - theirs).max() / np.abs(theirs).max())
    no_number = lambda ours, theirs: float("nan")  # draws or baselines are others

    def asked(name, n, by="icdrat", **options):
        coder = b.multi.to("cpu")
        if name == "integrated_gradients":
            coder.reader.mask = b.tokenizer.pad_token_id  # ferret's baseline
        try:
            return scores(explain(coder, [b.note], {b.note.id: codes[:n]}, name, progress=False, by=by, **options))
        finally:
            coder.reader.mask = b.tokenizer.mask_token_id

    def both(name, peer, theirs, apart, title=None, **options):
        "Ours for one label and for `many`; the peer for one, and scaled"
        for n in {1, many}:
            note, turns = (f"labels, from 1 of {n}", 1) if n > 1 else ("", repeats)
            ours = lambda n=n: asked(name, n, **options)
            b.row(title or name, peer, ours, theirs, apart, turns, n, note, n, our_times=1)

    gradient = GradientExplainer(b.model, b.tokenizer)
    both("input_x_gradient", "ferret", lambda: gradient(b.text, 0).scores[None, 1:-1], share, reduce="sum")
    if steps:
        given, title = dict(call_args=dict(n_steps=steps)), f"integrated_gradients, {steps} steps"
        along = IntegratedGradientExplainer(b.model, b.tokenizer)
        by_ferret = lambda: along(b.text, 0, **given).scores[None, 1:-1]
        both("integrated_gradients", "ferret", by_ferret, share, title, n_steps=steps)
        if by_captum:
            by = lambda: asked("integrated_gradients", 1, "captum", n_steps=steps)
            both("integrated_gradients", "captum", by, share, title, n_steps=steps)
    sampled = LIMEExplainer(b.model, b.tokenizer)
    title, draw = f"lime, {versions} versions", dict(most=versions)
    by_ferret = lambda: sampled(b.text, 0, call_args=dict(num_samples=versions)).scores  # it empties what it is given
    both("lime", "ferret", by_ferret, no_number, title, **draw)
    for name in ("lime", "kernel_shap") if by_captum else ():
        by = lambda name=name: asked(name, 1, "captum", most=versions)
        both(name, "captum", by, share, f"{name}, {versions} versions", **draw)


# repeats; versions with one word left out, None: all; steps and versions of explainers; captum's samples too; labels
SIZES = {
    300: (3, None, 6, 50, True, len(LABELS)),
    2000: (1, 6, 2, 6, True, len(LABELS)),
    6000: (1, 2, 0, 3, False, 1),
}


def inside(args):
    "What runs in the peers' environment"
    import torch

    torch.set_num_threads(1)
    for n in args.tokens:
        repeats, some, *rest = SIZES[min(SIZES, key=lambda size: abs(size - n))]
        with tempfile.TemporaryDirectory() as folder:
            b = Bench(folder, n, lambda rows: written(rows, args.out))
            if "faithfulness" in args.parts:
                faithfulness(b, repeats, some)
            if "explainers" in args.parts:
                explainers(b, repeats, *rest)


def written(rows, out):
    "The table as CSV and as Markdown, beside whatever else was measured"
    from importlib.metadata import version

    import pandas as pd

    table, file = pd.DataFrame(rows), out / "peers.csv"
    out.mkdir(parents=True, exist_ok=True)
    if file.exists():
        before = pd.read_csv(file, keep_default_na=False, na_values=dict(apart=[""]))
        key = ["tokens", "what", "peer", "labels"]
        again = before.set_index(key).index.isin(table.set_index(key).index)
        table = pd.concat([before[~again], table]).sort_values("tokens", kind="stable")
    table.to_csv(file, index=False, float_format="%.4g")
    known = ", ".join(f"{name} {version(name)}" for name in ("ferret-xai", "captum", "torch", "transformers"))
    forms = dict(ours="{:.3g}", theirs="{:.3g}", times="{:.2f}", apart="{:.0e}")
    shown = table.astype(object)
    for name, form in forms.items():
        shown[name] = [form.format(v) if pd.notna(v) else "" for v in table[name]]
    lines = [
        "# Seconds of the processor for one note of one chunk",
        "",
        f"{known}; a BERT classifier of 6 layers, 384 wide, random numbers, {len(LABELS)} labels; one thread. "
        f"Equal numbers may differ by {TOLERANCE['numbers']}, equal scores by {TOLERANCE['scores']}. "
        "`times`: the peer over icdrat. `apart`: the largest difference of two numbers of faithfulness, or of two "
        "scores as a share of the largest; empty where the peer draws other versions. `labels`: explained in one call "
        "by us, one call each by the peer.",
        "",
        "| " + " | ".join(shown.columns) + " |",
        "|" + " --- |" * len(shown.columns),
        *("| " + " | ".join(map(str, r)) + " |" for r in shown.values),
    ]
    (out / "peers.md").write_text("\n".join(lines) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokens", type=int, nargs="+", default=list(SIZES), help="lengths of the notes")
    parts = ["faithfulness", "explainers"]
    p.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what is measured")
    p.add_argument("--env", type=Path, default=ROOT / "runs" / "peers", help="where the peers are installed")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    p.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.inside:
        return inside(args)
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    again = [environment(args.env.resolve()), Path(__file__).resolve(), "--inside", *sys.argv[1:]]
    return subprocess.run(again, env=os.environ | one | dict(TOKENIZERS_PARALLELISM="false")).returncode


if __name__ == "__main__":
    sys.exit(main())
