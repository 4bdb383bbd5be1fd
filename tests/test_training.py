"Laws of training: the same twice, alone or shared, killed or not; mistakes are named before the first step."

import json
import math
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from icdrat.coder import training
from icdrat.coder.base import MASK, PAD, UnknownArchitecture, WordVocabulary, load_coder, pad_batch, word_vocabulary
from icdrat.coder.network import LabelAttention, LabelAttentionCoder, LabelNetwork, network
from icdrat.coder.recipe import RECIPES, BadRecipe, Recipe, rate, recipe, with_gaps
from icdrat.coder.scores import micro_curve, tune_threshold
from icdrat.coder.start import (
    BadGuide,
    CodeWithoutNotes,
    NothingToValidate,
    SharedNotes,
    evidence,
    positive_weights,
    shuffled_batches,
    word_vectors,
)
from icdrat.coder.training import (
    BrokenCheckpoint,
    Diverged,
    GuideWithoutLoss,
    OtherTraining,
    accelerated,
    fingerprint,
    goes_on,
    learning_curves,
    parts,
    train,
    validation_scores,
)
from icdrat.data.corpus import EmptyCorpus, build, code_matrix
from icdrat.data.exchange import ForeignFolder
from icdrat.text import mark, spans_to_mask
from icdrat.types import Code, CodeNotInVocabulary, Note, Rationale, Span, SpanOutsideNote

ROOT = Path(__file__).resolve().parents[1]
CODES = [Code("icd10cm", c) for c in ("E11", "I10", "J45")]
LEXICON = [f"w{i}" for i in range(20)]
CUES = dict(zip(CODES, ("t2dm", "htn", "asthma")))
SMALL = recipe("caml", epochs=4, width=3, word_dropout=0.2, embedding=12, filters=8, min_count=1, lr=0.01)


@network("bag")
class Bag(LabelNetwork):
    "Words by themselves, with a dropout that draws on torch's generator"

    reader = WordVocabulary

    def __init__(self, n_words, n_codes, size=12, drop=0.0, dtype="float32"):
        super().__init__()
        self.hyperparameters, self.drop = dict(size=size, drop=drop, dtype=dtype), nn.Dropout(drop)
        self.embedding = nn.Parameter(torch.zeros(n_words, size, dtype=getattr(torch, dtype)))
        self.head = LabelAttention(size, n_codes, dtype=dtype)

    def embed(self, ids):
        return self.embedding[ids]

    def encode(self, x, real):
        return self.drop(x) * real[..., None]

    def begin(self, rng, rates, vectors=None):
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.from_numpy(rng.normal(0, 0.3, tuple(p.shape))))


BAG = Recipe("bag", epochs=4, lr=0.05, warmup=0.1, schedule="linear", clip=1.0, min_count=1, window=0)


def toy(n, split, seed, restricted=False):
    rng, rows, gold = np.random.default_rng(seed), [], []
    for i in range(n):
        words, has = list(rng.choice(LEXICON, rng.integers(8, 20))), [c for c in CODES if rng.random() < 0.4]
        for c in has:
            words.insert(rng.integers(len(words)), CUES[c])
        note = Note(f"{split}{i}", " ".join(words))
        rows.append(dict(note_id=note.id, text=note.text, codes=has, split=split))
        gold += [mark(note, c, [Span(k := note.text.index(CUES[c]), k + len(CUES[c]))], "planted") for c in has]
    return build("toy", rows, gold, restricted=restricted)


NOTES, HELD_OUT = toy(61, "train", 0), toy(20, "validation", 1)
TEXTS = [n.text for n in HELD_OUT.notes]


def cross_entropy(scores, evidence):
    return -(evidence * scores.log_softmax(-1)).sum(1).mean()


def taught(plan, *guide, **where):
    return train(NOTES, HELD_OUT, CODES, plan, *guide, progress=False, **where)


def numbers(log):
    return log.drop(columns="seconds")


@pytest.fixture(scope="module")
def trained():
    return taught(SMALL)


# the same twice


def test_training_twice_gives_the_same_bits_whatever_ran_before(trained):
    torch.manual_seed(3)
    torch.rand(10)
    np.random.seed(4)
    state = torch.random.get_rng_state()
    coder, log = taught(SMALL)
    np.testing.assert_array_equal(coder(TEXTS), trained[0](TEXTS))
    assert numbers(log).equals(numbers(trained[1])) and coder.threshold == trained[0].threshold
    assert torch.equal(state, torch.random.get_rng_state()) and not torch.are_deterministic_algorithms_enabled()


def test_dropout_inside_a_network_is_drawn_from_the_recipes_seed():
    plan = replace(BAG, hyperparameters=dict(drop=0.5))
    answers = []
    for seed in (0, 0, 1):
        torch.rand(seed + len(answers))
        answers.append(taught(replace(plan, seed=seed))[0](TEXTS))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.allclose(answers[0], answers[2])
    assert not np.allclose(answers[0], taught(BAG)[0](TEXTS)), "dropout was off"


def test_another_seed_gives_another_coder(trained):
    assert not np.allclose(taught(replace(SMALL, seed=1))[0](TEXTS), trained[0](TEXTS))


def test_double_precision_is_the_same_training():
    single, double = (taught(replace(SMALL, epochs=1, dtype=d))[0](TEXTS) for d in ("float32", "float64"))
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=1e-3)


def test_half_precision_learns_too_and_leaves_a_coder_in_single_precision():
    coder, log = taught(replace(SMALL, precision="bf16"))
    plain, _ = taught(SMALL)
    assert coder(TEXTS).dtype == np.float32 and log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert 0 < np.abs(coder(TEXTS) - plain(TEXTS)).max() < 0.1
    np.testing.assert_array_equal(taught(replace(SMALL, precision="bf16"))[0](TEXTS), coder(TEXTS))
    assert accelerated().mixed_precision == "no"


# which epoch is kept


def test_the_kept_coder_is_that_of_the_first_best_epoch(trained):
    coder, log = trained
    truth = code_matrix(HELD_OUT, CODES)
    assert micro_curve(coder(TEXTS), truth)[1].max() == log["micro_f1"].max()
    assert coder.threshold == tune_threshold(coder(TEXTS), truth) == log.loc[log["micro_f1"].idxmax(), "threshold"]
    assert log["epoch"].tolist() == [1, 2, 3, 4] and log["loss"].is_monotonic_decreasing
    assert log.columns.tolist() == "epoch step loss guide_loss lr micro_f1 macro_f1 map threshold seconds".split()
    assert log["step"].tolist() == [8, 16, 24, 32]


def test_epochs_after_the_best_one_change_nothing_and_patience_leaves_them_out():
    plan = replace(SMALL, epochs=14, lr=0.02)
    coder, log = taught(plan)
    best = int(log["micro_f1"].idxmax())
    assert best < 11 and (log["micro_f1"][best + 1 :] == log["micro_f1"][best]).any(), (
        "the toy has a first best epoch and a later one as good"
    )
    for stopped, n in ((replace(plan, epochs=best + 1), best + 1), (replace(plan, patience=2), None)):
        shorter, short_log = taught(stopped)
        if n is None:
            waits = [goes_on(log["micro_f1"].tolist()[:k], stopped) for k in range(15)]
            n = waits.index(False)
            assert n < 14
        assert len(short_log) == n and numbers(short_log).equals(numbers(log[:n]))
    np.testing.assert_array_equal(taught(replace(plan, epochs=best + 1))[0](TEXTS), coder(TEXTS))


@pytest.mark.parametrize(
    "scores, patience, goes",
    [
        ([], 1, True),
        ([0.5], 1, True),
        ([0.5, 0.5], 1, False),
        ([0.5, 0.4, 0.6], 2, True),
        ([0.5, 0.4, 0.5], 2, False),
        ([0.5] * 9, 0, True),
        ([0.5] * 10, 0, False),
    ],
)
def test_it_waits_as_long_as_patience_says_for_a_better_score(scores, patience, goes):
    assert goes_on(scores, Recipe(epochs=10, patience=patience)) == goes


def test_the_monitor_chooses_the_epoch():
    for monitor in ("micro_f1", "macro_f1", "map"):
        coder, log = taught(replace(SMALL, epochs=8, monitor=monitor))
        scores = validation_scores(coder(TEXTS), code_matrix(HELD_OUT, CODES))
        assert scores[monitor] == log[monitor].max() and coder.threshold == scores["threshold"]


# steps


@pytest.mark.parametrize("n_steps, warmup", [(10, 0.0), (10, 0.3), (7, 1.0), (1, 0.0), (100, 0.01)])
def test_the_step_size_grows_and_shrinks_in_equal_steps_and_is_never_nothing(n_steps, warmup):
    warm = round(warmup * n_steps)
    for schedule in ("constant", "linear"):
        rates = np.array([rate(s, n_steps, Recipe(warmup=warmup, schedule=schedule)) for s in range(n_steps)])
        assert (rates > 0).all() and rates.max() == 1
        np.testing.assert_allclose(rates[:warm], np.arange(1, warm + 1) / max(warm, 1))
        rest = rates[warm:]
        np.testing.assert_allclose(
            rest, 1 if schedule == "constant" else np.arange(len(rest), 0, -1) / max(len(rest), 1)
        )


def test_the_log_has_the_step_size_of_each_epochs_last_step():
    _, log = taught(BAG)
    np.testing.assert_allclose(log["lr"], [0.05 * rate(s - 1, 32, BAG) for s in log["step"]])


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_taken_once_by_one_process(seed):
    rng = np.random.default_rng(seed)
    rows, n, pieces = rng.integers(1, 30), int(rng.integers(1, 6)), int(rng.integers(1, 5))
    taken = [[i for s in parts(rows, p, n, pieces) for i in range(rows)[s]] for p in range(n)]
    assert sorted(sum(taken, [])) == list(range(rows))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert all(len(parts(rows, p, n, pieces)) <= pieces for p in range(n))


@pytest.mark.parametrize("plan", [SMALL, BAG], ids=["caml", "bag"])
def test_a_step_taken_in_parts_is_the_same_step(plan):
    whole, apart = (
        taught(replace(plan, dtype="float64", accumulate=n), NOTES.gold, cross_entropy, 0.3) for n in (1, 3)
    )
    np.testing.assert_allclose(apart[0](TEXTS), whole[0](TEXTS), atol=1e-9)
    pd.testing.assert_frame_equal(numbers(apart[1]), numbers(whole[1]), atol=1e-9)


def test_clipping_shortens_long_gradients_only():
    free, loose, tight = (taught(replace(BAG, clip=c, epochs=1))[0](TEXTS) for c in (0.0, 1e6, 1e-6))
    np.testing.assert_array_equal(free, loose)
    assert not np.allclose(free, tight)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_what_is_learned_about_neighbours_is_forgotten_at_the_rate_of_the_recipe(decay):
    kernel = taught(replace(SMALL, epochs=1, hyperparameters=SMALL.hyperparameters | dict(neighbour_decay=decay)))[
        0
    ].network.kernel
    assert kernel[:, :, 1].any() and bool(kernel[:, :, [0, 2]].any()) == (decay == 0)


def test_words_are_hidden_at_their_rate_and_filling_and_marks_never():
    ids, real = pad_batch([np.full(n, 5) for n in (10, 500, 1000)])
    solid = real.clone()
    solid[:, 0] = False
    hidden, kept = with_gaps(ids, solid, MASK, 4, Recipe(word_dropout=0.3, dropout=0.5), np.random.default_rng(0))
    assert ((hidden == PAD) == ~real).all() and (hidden[:, 0] == 5).all()
    assert (hidden == MASK).sum() / solid.sum() == pytest.approx(0.3, abs=0.05)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert with_gaps(ids, solid, MASK, 4, Recipe(dropout=0.0), np.random.default_rng(0))[1] is None


@pytest.mark.parametrize("seed", range(8))
def test_every_note_is_in_exactly_one_batch(seed):
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(1, 90)), int(rng.integers(1, 12))
    batches = shuffled_batches(rng.integers(0, 400, n), size, rng)
    assert (
        sorted(i for b in batches for i in b) == list(range(n))
        and len(batches) == math.ceil(n / size)
        and max(map(len, batches)) <= size
    )


# rare codes


def test_balance_gives_presence_and_absence_the_same_weight():
    truth = np.random.default_rng(0).random((50, 4)) < [0.5, 0.2, 0.1, 1.0]
    n, w = truth.sum(0), positive_weights(truth, 1.0)
    np.testing.assert_allclose((w * n)[:3], (50 - n)[:3])
    assert w[3] == 1 / 50
    np.testing.assert_allclose(positive_weights(truth, 0.5) ** 2, w)


def test_balance_raises_what_is_rare():
    plain, balanced = (taught(replace(SMALL, epochs=1, balance=b))[0](TEXTS).mean() for b in (0.0, 1.0))
    assert balanced > plain
    np.testing.assert_array_equal(
        taught(replace(SMALL, epochs=1, balance=0.0))[0](TEXTS), taught(replace(SMALL, epochs=1))[0](TEXTS)
    )


# what a run starts from


def test_words_in_the_same_company_start_close_to_each_other():
    rng = np.random.default_rng(0)
    rows = [
        np.array([rng.choice(pair), *rng.choice(near, 6)])
        for pair, near in (((3, 4), (5, 6, 7)), ((8, 9), (10, 11, 12)))
        for _ in range(60)
    ]
    v = word_vectors(rows, 14, 4, window=5)
    near = lambda a, b: v[a] @ v[b] / np.linalg.norm(v[a]) / np.linalg.norm(v[b])
    assert near(3, 4) > 0.8 > 0.2 > near(3, 8)
    assert not v[:3].any() and not v[13].any()


def test_padding_has_no_embedding_after_training(trained):
    assert not trained[0].network.embedding[PAD].any()


def test_a_trained_coder_survives_its_folder(trained, tmp_path):
    trained[0].save_pretrained(tmp_path / "coder")
    np.testing.assert_array_equal(load_coder(tmp_path / "coder")(TEXTS), trained[0](TEXTS))


def test_a_note_without_words_can_be_trained_on():
    rows = [dict(note_id="e", text=" . ", codes=[CODES[0]], split="train")] + [
        dict(note_id=i, text=NOTES.note(i).text, codes=cs, split="train") for i, cs in NOTES.codes.items()
    ]
    _, log = train(build("gap", rows), HELD_OUT, CODES, replace(SMALL, epochs=1), progress=False)
    assert np.isfinite(log["loss"]).all()


# the guide


def test_a_guide_moves_the_attention_to_its_words():
    share = lambda c: np.mean(
        [
            a[0][spans_to_mask(r.spans, o)].sum()
            for r in HELD_OUT.gold
            if r.code == CODES[0]
            for o, a in c.attention([HELD_OUT.note(r.note_id).text])
        ]
    )
    unguided, silent = (taught(SMALL, *guide) for guide in ((), (NOTES.gold, cross_entropy, 0.0)))
    guided = taught(SMALL, NOTES.gold, cross_entropy, 1.0)
    np.testing.assert_array_equal(silent[0](TEXTS), unguided[0](TEXTS))
    assert share(guided[0]) > share(unguided[0]) + 0.1
    assert (
        np.isfinite(guided[1]["guide_loss"]).all()
        and guided[1]["guide_loss"].iloc[-1] < silent[1]["guide_loss"].iloc[-1]
    )


def test_the_guide_sees_attention_and_evidence_that_sum_to_one_without_the_filling():
    seen = []

    def look(scores, evidence):
        seen.append((scores.detach().softmax(-1), evidence))
        return cross_entropy(scores, evidence)

    wide = [replace(r, spans=(Span(0, r.spans[-1].end),)) for r in NOTES.gold]
    taught(replace(SMALL, epochs=1), wide, look, 0.1)
    assert sum(len(e) for _, e in seen) == len(NOTES.gold)
    for attention, marked in seen:
        torch.testing.assert_close(attention.sum(1), torch.ones(len(attention)))
        torch.testing.assert_close(marked.sum(1), torch.ones(len(marked)))


def test_the_logged_loss_of_the_guide_is_a_mean_over_all_pairs():
    for n in (1, 3):
        _, log = taught(replace(SMALL, epochs=1, accumulate=n), NOTES.gold, lambda a, e: a.sum() * 0 + 2, 0.1)
        assert log["guide_loss"][0] == pytest.approx(2)


def test_a_rationale_without_words_guides_nothing():
    nowhere = [Rationale(r.note_id, r.code, (), "nobody") for r in NOTES.gold]
    plain, guided = taught(replace(SMALL, epochs=1)), taught(replace(SMALL, epochs=1), nowhere, cross_entropy, 1.0)
    np.testing.assert_array_equal(guided[0](TEXTS), plain[0](TEXTS))


def test_tokens_that_stand_for_no_character_are_never_evidence():
    words = word_vocabulary([n.text for n in NOTES.notes])

    class Marked:
        "Every word between two tokens without a place"

        def read(self, text):
            ids, places = words.read(text)
            around = np.repeat(places[:, :1], 2, 1)
            return np.repeat(ids, 2), np.stack([around, places], 1).reshape(-1, 2)

    whole = [replace(r, spans=(Span(0, len(NOTES.note(r.note_id).text)),)) for r in NOTES.gold]
    for pairs in evidence(whole, NOTES, CODES, Marked()).values():
        for _, tokens in pairs:
            assert not tokens[::2].any() and (tokens[1::2] == 2 / len(tokens)).all()


# mistakes


@pytest.mark.parametrize(
    "change",
    [
        dict(epochs=0),
        dict(epochs=2.5),
        dict(lr=0.0),
        dict(dropout=1.0),
        dict(word_dropout=-0.1),
        dict(dtype="float16"),
        dict(window=-1),
        dict(warmup=2.0),
        dict(schedule="cosine"),
        dict(monitor="accuracy"),
        dict(precision="fp8"),
        dict(balance=1.5),
        dict(patience=-1),
        dict(accumulate=0),
        dict(batch_size="all"),
        dict(lr=float("nan")),
    ],
)
def test_a_recipe_out_of_range_is_refused(change):
    with pytest.raises(BadRecipe, match=next(iter(change))):
        Recipe(**change)


def test_a_recipe_for_something_unknown_is_refused():
    with pytest.raises(BadRecipe, match="multirescnn"):
        recipe("gru")
    with pytest.raises(BadRecipe, match="epoch"):
        taught(recipe("caml", epoch=3))
    with pytest.raises(UnknownArchitecture, match="caml"):
        taught(Recipe("gru"))
    with pytest.raises(BadRecipe, match="float32"):
        Recipe(dtype="float64", precision="bf16")


def test_changes_of_a_recipe_go_where_they_belong():
    plan = recipe("plm_icd", lr=1e-3, encoder="mine", hyperparameters=dict(length=512))
    assert (plan.lr, plan.clip, plan.hyperparameters) == (
        1e-3,
        RECIPES["plm_icd"].clip,
        RECIPES["plm_icd"].hyperparameters | dict(encoder="mine", length=512),
    )
    assert RECIPES["plm_icd"].hyperparameters["encoder"] == "minilm"


def test_what_cannot_be_trained_is_refused_by_name():
    with pytest.raises(CodeWithoutNotes, match="A41"):
        train(NOTES, HELD_OUT, [*CODES, Code("icd10cm", "A41")], SMALL)
    with pytest.raises(SharedNotes, match="train0"):
        train(NOTES, NOTES, CODES, SMALL)
    with pytest.raises(NothingToValidate, match="same level"):
        train(NOTES, build("bare", [dict(note_id="v", text="w1", codes=[], split="validation")]), CODES, SMALL)
    with pytest.raises(NothingToValidate):
        train(NOTES, HELD_OUT, [], SMALL)
    with pytest.raises(EmptyCorpus):
        train(build("none", []), HELD_OUT, CODES, SMALL)


def test_a_guide_from_elsewhere_is_refused_by_name():
    for guide, codes, error, message in [
        (HELD_OUT.gold, CODES, BadGuide, "not trained on"),
        (NOTES.gold, CODES[1:], CodeNotInVocabulary, "same level"),
        (
            [Rationale(i, c, (Span(0, 1),), "x") for i, cs in NOTES.codes.items() for c in set(CODES) - set(cs)][:1],
            CODES,
            BadGuide,
            "does not have",
        ),
        ([Rationale(r.note_id, r.code, (Span(0, 9999),), "x") for r in NOTES.gold[:1]], CODES, SpanOutsideNote, "9999"),
    ]:
        with pytest.raises(error, match=message):
            train(NOTES, HELD_OUT, codes, SMALL, guide, cross_entropy, 1.0)
    with pytest.raises(GuideWithoutLoss):
        taught(SMALL, NOTES.gold)


def test_a_loss_that_is_not_a_number_ends_the_training_before_it_is_learned():
    with pytest.raises(Diverged, match="guide_weight"):
        taught(SMALL, NOTES.gold, lambda a, e: a.sum() * float("nan"), 1.0)
    assert not torch.are_deterministic_algorithms_enabled()


# killed


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "plan", [SMALL, replace(BAG, hyperparameters=dict(drop=0.3), patience=2)], ids=["caml", "bag with dropout"]
)
@pytest.mark.parametrize("steps", [0, 3, 8, 17, 31, 32])
def test_a_run_that_stopped_anywhere_goes_on_to_the_same_bits(plan, steps, tmp_path, monkeypatch):
    whole, log = taught(plan, NOTES.gold, cross_entropy, 0.3)
    learn, conclude = training.step, training.conclude

    def stop(run, *rest):
        if run.step == steps:
            raise Killed
        return learn(run, *rest)

    def stop_at_the_end(run, *rest):
        if run.step == 32 == steps:
            raise Killed
        return conclude(run, *rest)

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(training, "step", stop)
        m.setattr(training, "conclude", stop_at_the_end)
        taught(plan, NOTES.gold, cross_entropy, 0.3, folder=tmp_path / "run", checkpoint_every=0)
    again, second_log = taught(plan, NOTES.gold, cross_entropy, 0.3, folder=tmp_path / "run")
    np.testing.assert_array_equal(again(TEXTS), whole(TEXTS))
    assert numbers(second_log).equals(numbers(log)) and again.threshold == whole.threshold


def test_a_run_that_is_over_is_over(trained, tmp_path, monkeypatch):
    taught(SMALL, folder=tmp_path)
    monkeypatch.setattr(training, "epoch", None)
    coder, log = taught(SMALL, folder=tmp_path)
    np.testing.assert_array_equal(coder(TEXTS), trained[0](TEXTS))
    assert numbers(log).equals(numbers(trained[1]))


# a process of its own: with the tests' corpus and plans, and a death at a chosen moment
CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import numpy as np, torch
import test_training as t
from icdrat.coder import training
def die(): os.kill(os.getpid(), signal.SIGKILL)
"""
MID_EPOCH = """
learn = training.step
training.step = lambda run, batch: die() if run.step == 13 else learn(run, batch)
"""
MID_WRITE = """
save = torch.save
def half(state, file):
    save(state, file)
    if '"step": 13' in state['standing']: os.truncate(file, os.path.getsize(file)//2); die()
torch.save = half
"""
RUN = "t.taught(t.SMALL, folder={folder!r}, checkpoint_every=0)\n"


def child(script, *launch, **env):
    return subprocess.run(
        [sys.executable, *launch, script],
        env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") | env,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    "moment", [MID_EPOCH, MID_WRITE], ids=["in the middle of an epoch", "while it wrote a checkpoint"]
)
def test_a_killed_process_costs_nothing_but_time(moment, trained, tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "run"
    script.write_text(CHILD.format(tests=str(ROOT / "tests")) + moment + RUN.format(folder=str(folder)))
    assert child(script).returncode == -signal.SIGKILL
    left = [f.name for f in folder.iterdir() if f.name.startswith(".part")]
    assert len(left) == (moment is MID_WRITE)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert json.loads(state["standing"])["step"] == (13 if moment is MID_EPOCH else 12)
    coder, log = taught(SMALL, folder=folder)
    np.testing.assert_array_equal(coder(TEXTS), trained[0](TEXTS))
    assert numbers(log).equals(numbers(trained[1]))
    assert sorted(f.name for f in folder.iterdir()) == ["checkpoint.pt", "training.json"]


# what a folder belongs to


def test_another_training_is_refused_with_what_differs(tmp_path):
    taught(replace(SMALL, epochs=1), folder=tmp_path / "run")
    other = toy(61, "train", 5)
    for notes, held_out, codes, plan, guide, named in [
        (NOTES, HELD_OUT, CODES, replace(SMALL, epochs=2), (), r"epochs \(1 there, 2 now\)"),
        (NOTES, HELD_OUT, CODES[::-1], replace(SMALL, epochs=1), (), "codes"),
        (other, HELD_OUT, CODES, replace(SMALL, epochs=1), (), "training"),
        (NOTES, toy(20, "validation", 6), CODES, replace(SMALL, epochs=1), (), "validation"),
        (NOTES, HELD_OUT, CODES, replace(SMALL, epochs=1), (NOTES.gold, cross_entropy, 1.0), "guide"),
    ]:
        with pytest.raises(OtherTraining, match=rf"differs in {named}; name another folder"):
            train(notes, held_out, codes, plan, *guide, folder=tmp_path / "run", progress=False)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ForeignFolder, match="training.json"):
        taught(SMALL, folder=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_half_a_checkpoint_is_refused(tmp_path):
    taught(replace(SMALL, epochs=1), folder=tmp_path)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for share in (0, 0.1, 0.5, 0.99):
        (tmp_path / "checkpoint.pt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BrokenCheckpoint, match="remove it"):
            taught(replace(SMALL, epochs=1), folder=tmp_path)


def test_the_folder_of_restricted_notes_is_private_and_says_no_word_of_them(tmp_path):
    secret = toy(61, "train", 0, restricted=True)
    old = os.umask(0o022)
    try:
        train(secret, HELD_OUT, CODES, replace(SMALL, epochs=1), folder=tmp_path / "run", progress=False)
    finally:
        os.umask(old)
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in [tmp_path / "run", *(tmp_path / "run").iterdir()]}
    assert modes["run"] == 0o700 and modes["checkpoint.pt"] == modes["training.json"] == 0o600
    assert (tmp_path / "run" / ".gitignore").read_text() == "*\n"
    assert not any(w in (tmp_path / "run" / "training.json").read_text() for w in ("t2dm", "htn", "w7"))


def test_a_fingerprint_sees_every_character():
    first = fingerprint(NOTES, HELD_OUT, CODES, SMALL)
    rows = [
        dict(note_id=n.id, text=n.text + (" " if n.id == "train9" else ""), codes=NOTES.codes[n.id], split="train")
        for n in NOTES.notes
    ]
    assert first == fingerprint(toy(61, "train", 0), HELD_OUT, CODES, SMALL)
    assert first["training"] != fingerprint(build("toy", rows), HELD_OUT, CODES, SMALL)["training"]


def test_a_fingerprint_sees_where_a_rationale_stands():
    mark = NOTES.gold[0]
    elsewhere = replace(mark, spans=(Span(0, len(mark.spans[0])),))  # as many characters
    assert elsewhere.spans != mark.spans
    first, second = (fingerprint(NOTES, HELD_OUT, CODES, SMALL, [r]) for r in (mark, elsewhere))
    assert [k for k in first if first[k] != second[k]] == ["guide"]


# shared

LAUNCH = [
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
]
SHARED = {
    name: replace(plan, dtype="float64", batch_size=20, accumulate=2, balance=0.5)
    for name, plan in dict(caml=SMALL, bag=BAG).items()
}  # 61 notes: the last batch has one
TOGETHER = """
from dataclasses import replace
for name, plan in t.SHARED.items():
    coder, log = t.taught(plan, t.NOTES.gold, t.cross_entropy, .3, folder=f'{folder}/{{name}}')
    np.save(f'{folder}/{{name}}{{int(os.environ["RANK"])}}.npy', coder(t.TEXTS))
    try: t.taught(replace(plan, seed=1), t.NOTES.gold, t.cross_entropy, .3, folder=f'{folder}/{{name}}')
    except t.OtherTraining as e: open(f'{folder}/refused{{os.environ["RANK"]}}.txt', 'w').write(str(e))
"""


def test_two_processes_learn_what_one_would(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(CHILD.format(tests=str(ROOT / "tests")) + TOGETHER.format(folder=str(tmp_path)))
    done = child(script, *LAUNCH, ACCELERATE_USE_CPU="1")
    assert done.returncode == 0, done.stderr[-3000:]
    for name, plan in SHARED.items():
        coder, log = taught(plan, NOTES.gold, cross_entropy, 0.3)
        first, second = (np.load(tmp_path / f"{name}{k}.npy") for k in (0, 1))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, coder(TEXTS), atol=1e-9, rtol=0)
        shared, shared_log = taught(plan, NOTES.gold, cross_entropy, 0.3, folder=tmp_path / name)  # is over already
        np.testing.assert_array_equal(shared(TEXTS), first)
        pd.testing.assert_frame_equal(numbers(shared_log), numbers(log), atol=1e-9, rtol=0)
    refused = [(tmp_path / f"refused{k}.txt").read_text() for k in (0, 1)]
    assert refused[0] == refused[1] and "seed (0 there, 1 now)" in refused[0]


BOTH = """
if {die!r}: training.step = lambda run, batch, learn=training.step: die() if run.step == 7 else learn(run, batch)
coder, log = t.taught(t.SHARED['caml'], folder={folder!r}, checkpoint_every=0)
np.save(f'{folder}/../answers{{int(os.environ["RANK"])}}.npy', coder(t.TEXTS))
"""


def test_two_killed_processes_go_on_to_the_same_numbers(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "run"
    for die in (True, False):
        script.write_text(CHILD.format(tests=str(ROOT / "tests")) + BOTH.format(die=die, folder=str(folder)))
        done = child(script, *LAUNCH, ACCELERATE_USE_CPU="1")
        assert bool(done.returncode) == die, done.stderr[-3000:]
        assert json.loads(torch.load(folder / "checkpoint.pt", weights_only=True)["standing"])["step"] == (
            7 if die else SHARED["caml"].epochs * 4
        )
    one, _ = taught(SHARED["caml"])
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(tmp_path / f"answers{rank}.npy"), one(TEXTS), atol=1e-9, rtol=0)


# the picture


def test_learning_curves_mark_the_epoch_that_was_kept(trained):
    log = trained[1]
    for monitor in ("micro_f1", "map"):
        left, right = learning_curves(log, monitor).axes
        marked = [line for ax in (left, right) for line in ax.lines if line.get_label() == "epoch kept"]
        assert [line.get_xdata()[0] for line in marked] == [log["epoch"][log[monitor].idxmax()]] * 2
        assert [line.get_label() for line in left.lines] == ["loss", "epoch kept"]
        np.testing.assert_array_equal(right.lines[0].get_ydata(), log["micro_f1"])


def test_any_network_makes_a_coder_of_the_one_kind():
    coder, log = taught(replace(BAG, epochs=8))
    assert isinstance(coder, LabelAttentionCoder) and coder.network.architecture == "bag"
    assert not any(p.requires_grad for p in coder.network.parameters()) and not coder.network.training
    assert log["micro_f1"].max() > 0.9
