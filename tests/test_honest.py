"Laws of the losses for honest explanations: off is as before; each asks what it says, of every network, in any parts."

from dataclasses import replace

import numpy as np
import pytest
import torch

from encoder import tiny_encoder
from test_training import LAUNCH, ROOT, child

from icdrat.coder import training
from icdrat.coder.base import MASK
from icdrat.coder.honest import (
    adversarial,
    answered,
    embedded,
    honest_loss,
    masked_change,
    needed,
    one_of_each,
    retain_remove,
    steepness,
    worst,
)
from icdrat.coder.recipe import HONEST, BadRecipe, recipe
from icdrat.coder.training import NothingToAsk, OtherTraining, begun, drawn, fingerprint, part, train
from icdrat.data.corpus import build, code_matrix
from icdrat.learning.objectives import objective
from icdrat.text import find_quote, mark
from icdrat.types import Code, Note

CODES = [Code("icd10cm", c) for c in ("E11", "I10", "J45")]
CUES = dict(zip(CODES, ("t2dm", "htn", "asthma")))
SIZES = dict(
    caml=dict(embedding=6, filters=5),
    multirescnn=dict(embedding=6, filters=5),
    laat=dict(embedding=6, size=4, projection=4),
    evidence=dict(embedding=6, filters=5),
    plm_icd=dict(encoder=tiny_encoder(), chunk=16, projection=4, frozen=0),
)


def toy(n, split, seed):
    rng, rows, gold = np.random.default_rng(seed), [], []
    for i in range(n):
        words = [f"w{k}" for k in rng.integers(20, size=rng.integers(6, 14))]
        has = [c for c in CODES if rng.random() < 0.5]
        for c in has:
            words.insert(rng.integers(len(words)), CUES[c])
        note = Note(f"{split}{i}", " ".join(words))
        rows.append(dict(note_id=note.id, text=note.text, codes=has, split=split))
        gold += [mark(note, c, find_quote(note.text, CUES[c]), "planted") for c in has]
    return build("toy", rows, gold)


NOTES, HELD_OUT = toy(24, "train", 0), toy(10, "validation", 1)
TEXTS = [n.text for n in HELD_OUT.notes]


def plan_of(architecture, **more):
    return recipe(architecture, epochs=2, min_count=1, dtype="float64", **SIZES[architecture], **more)


def guide_of(architecture):
    return NOTES.gold, objective(None, architecture == "evidence"), 0.1


def taught(plan, *guide, **where):
    return train(NOTES, HELD_OUT, CODES, plan, *(guide or guide_of(plan.architecture)), progress=False, **where)


def run_of(architecture, **more):
    learned = code_matrix(NOTES, CODES)
    run = begun(NOTES, learned, CODES, plan_of(architecture, **more), *guide_of(architecture))
    run.network.train()
    return run


@pytest.fixture(params=SIZES)
def architecture(request):
    return request.param


def at(architecture, **more):
    "A run, one of its batches and what the network makes of that"
    run = run_of(architecture, **more)
    batch = drawn(run, list(range(7)))
    known = () if batch.known is None else (batch.known,)
    return run.network, batch, run.network(batch.ids, batch.real, batch.kept, *known)[0]


def given(network, batch):
    x = embedded(network, batch.ids, batch.kept, batch.known)
    return network, x, batch.real, batch.truth.to(x.dtype)


# off


def test_nothing_is_asked_unless_a_recipe_says_so(architecture):
    run = run_of(architecture)
    assert run.recipe.honest == "no" and run.honest is None and drawn(run, [0, 1]).lessons == ()
    plain, log = taught(plan_of(architecture))
    other = plan_of(architecture, honest_weight=7.0, honest_size=3.0, honest_steps=9)
    np.testing.assert_array_equal(taught(other)[0](TEXTS), plain(TEXTS))
    assert "honest_loss" not in log


@pytest.mark.parametrize("name", [n for n in HONEST if n != "retain_remove"])  # that one draws a lesson
def test_a_weight_of_nothing_measures_and_changes_nothing(name):
    plain, measured = (taught(plan_of("caml", **more)) for more in ({}, dict(honest=name, honest_weight=0.0)))
    np.testing.assert_array_equal(measured[0](TEXTS), plain[0](TEXTS))
    assert (measured[1]["honest_loss"] >= 0).all()


WRONG = dict(honest="fgsm"), dict(honest=[1]), dict(honest_weight=-1), dict(honest_steps=0), dict(honest_size="a")


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_wish_is_refused_in_one_line(mistake):
    with pytest.raises(BadRecipe) as refused:
        recipe("caml", **mistake)
    assert "\n" not in str(refused.value)


def test_marks_that_are_not_there_cannot_be_asked_about():
    with pytest.raises(NothingToAsk, match="guide"):
        taught(plan_of("caml", honest="retain_remove"), (), None, 0.0)


# every network


@pytest.mark.parametrize("name", HONEST)
def test_every_network_learns_by_it_and_in_parts_the_same(architecture, name):
    plan = plan_of(architecture, honest=name, honest_weight=0.5)
    whole, apart = (taught(replace(plan, accumulate=k)) for k in (1, 3))
    np.testing.assert_allclose(apart[0](TEXTS), whole[0](TEXTS), atol=1e-9, rtol=0)
    np.testing.assert_allclose(apart[1]["honest_loss"], whole[1]["honest_loss"], rtol=1e-9)
    assert np.isfinite(whole[1]["honest_loss"]).all() and (whole[1]["honest_loss"] > 0).all()
    assert not np.allclose(whole[0](TEXTS), taught(plan_of(architecture))[0](TEXTS), atol=1e-9, rtol=0)


def test_reading_in_two_parts_is_reading(architecture):
    network, batch, logits = at(architecture)
    x = embedded(network, batch.ids, batch.kept, batch.known)
    torch.testing.assert_close(answered(network, x, batch.real), logits)


# the gradient


def test_the_gradient_of_the_penalty_is_its_finite_difference(architecture):
    network, batch, _ = at(architecture)
    network.eval()
    torch.manual_seed(0)
    steepness(*given(network, batch)).sum().backward()
    slopes = [(p, p.grad.clone()) for p in network.parameters() if p.grad is not None]
    rng = [torch.randn_like(p) for p, _ in slopes]
    foreseen = sum((g * d).sum().item() for (_, g), d in zip(slopes, rng))
    found = []
    for step in (-1e-5, 1e-5):
        with torch.no_grad():
            for (p, _), d in zip(slopes, rng):
                p += step * d
        found.append(steepness(*given(network, batch)).sum().item())
        with torch.no_grad():
            for (p, _), d in zip(slopes, rng):
                p -= step * d
    assert (found[1] - found[0]) / 2e-5 == pytest.approx(foreseen, rel=1e-4, abs=1e-9)


# the ball


@pytest.mark.parametrize("radius, steps", [(0.1, 1), (0.1, 3), (1.0, 5), (0.0, 2)])
def test_the_worst_place_is_in_the_ball_and_not_on_filling(architecture, radius, steps):
    network, batch, _ = at(architecture)
    args = given(network, batch)
    delta, x = worst(*args, radius, steps), args[1].detach()
    n = x.shape[-1] - (network.n_codes if network.marks else 0)
    size = torch.stack([v[r][:, :n].square().mean().sqrt() for v, r in zip(x, batch.real)])
    assert (delta.abs() <= radius * size[:, None, None] * (1 + 1e-12)).all()
    assert not delta[~batch.real].any() and not delta[..., n:].any() and bool(delta.any()) == bool(radius)
    assert network.training


def test_the_worst_place_is_worse(architecture):
    network, batch, _ = at(architecture)
    network.eval()
    args = given(network, batch)
    assert (adversarial(*args, 0.2, 3) >= adversarial(*args, 0.0, 1)).all()


# what is hidden


@pytest.mark.parametrize("price", [0.0, 0.5, 5.0, 1e6])
def test_a_mask_hides_nothing_but_words(architecture, price):
    network, batch, _ = at(architecture)
    x = embedded(network, batch.ids, batch.kept, batch.known)
    blank = embedded(network, batch.ids.masked_fill(batch.solid, MASK), batch.kept, batch.known)
    left = needed(network, x, blank, batch.real, batch.solid, price, 5)
    assert left[~batch.solid].all() and network.training
    assert price or not left[batch.solid].any()


def test_special_tokens_and_filling_are_never_hidden_in_a_step():
    network, batch, logits = at("plm_icd")
    seen, read = [], network.embed
    network.embed = lambda ids: seen.append(ids) or read(ids)
    run = run_of("plm_icd")
    masked_change(network, batch, logits, run.reader.mask, 0.0, 2)
    first, hidden, last = seen
    assert torch.equal(first, batch.ids) and torch.equal(hidden, last)
    assert ((hidden == run.reader.mask) == (batch.solid | (batch.ids == run.reader.mask))).all()
    assert not batch.solid[:, 0].any() and not (batch.solid & ~batch.real).any()


def test_what_is_left_of_a_note_without_a_word_is_the_note():
    network, batch, logits = at("caml", dropout=0.0)
    bare = batch._replace(solid=torch.zeros_like(batch.solid))
    assert masked_change(network, bare, logits, MASK, 1.0, 3).abs().max() < 1e-12


# marked words


def test_without_lessons_there_is_nothing_to_retain_or_remove():
    network, batch, logits = at("caml", honest="retain_remove")
    assert batch.lessons and len(retain_remove(network, batch._replace(lessons=[]), logits, MASK, 1.0)) == 0
    plan = recipe("caml", honest="retain_remove")
    assert honest_loss(network, batch._replace(lessons=[]), logits, plan, MASK) == 0


def test_all_words_marked_retain_the_code_and_none_remove_nothing():
    network, batch, _ = at("caml", honest="retain_remove", dropout=0.0)
    logits = network(batch.ids, batch.real)[0]
    for share, margin in ((1.0, 0.0), (0.0, 0.0)):
        lessons = [(r, c, np.full(len(e), share)) for r, c, e in batch.lessons]
        loss = retain_remove(network, batch._replace(lessons=lessons), logits, MASK, margin)
        rows, columns, _ = zip(*lessons)
        blank = network(torch.where(batch.solid, MASK, batch.ids), batch.real)[0]
        gap = torch.nn.functional.logsigmoid(logits) - torch.nn.functional.logsigmoid(blank)
        gap = gap[list(rows), list(columns)]
        torch.testing.assert_close(loss, (-gap if share else gap).clamp(min=0))


def test_one_lesson_of_each_note_is_drawn_and_every_one_can_be():
    pairs = [(0, 0, 1), (0, 1, 2), (2, 1, 3)]
    drawn_ = [one_of_each(pairs, np.random.default_rng(s)) for s in range(20)]
    assert all([p[0] for p in d] == [0, 2] for d in drawn_) and {d[0][1] for d in drawn_} == {0, 1}


def test_lessons_stay_with_their_notes_in_parts():
    _, batch, _ = at("caml", honest="retain_remove")
    parts = [part(batch, slice(k, None, 2)) for k in (0, 1)]
    again = [(2 * r + k, c, e.tolist()) for k, p in enumerate(parts) for r, c, e in p.lessons]
    assert sorted(again) == sorted((r, c, e.tolist()) for r, c, e in batch.lessons)


# killed, and the same


@pytest.mark.parametrize("name", HONEST)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    plan = plan_of("evidence", honest=name)
    whole, log = taught(plan)
    learn = training.step

    def stop(run, batch):
        if run.step == 4:
            raise KeyboardInterrupt
        return learn(run, batch)

    monkeypatch.setattr(training, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        taught(plan, folder=tmp_path / "run", checkpoint_every=0)
    monkeypatch.setattr(training, "step", learn)
    resumed, resumed_log = taught(plan, folder=tmp_path / "run")
    np.testing.assert_array_equal(resumed(TEXTS), whole(TEXTS))
    assert resumed_log.drop(columns="seconds").equals(log.drop(columns="seconds"))
    with pytest.raises(OtherTraining, match="honest"):
        taught(replace(plan, honest="no"), folder=tmp_path / "run")


OTHER = dict(honest="igr", honest_weight=2.0, honest_size=2.0, honest_steps=5)


@pytest.mark.parametrize("field, value", OTHER.items())
def test_a_fingerprint_knows_what_was_asked(field, value):
    plan = plan_of("caml", honest="pgd")
    a, b = (fingerprint(NOTES, HELD_OUT, CODES, p) for p in (plan, replace(plan, **{field: value})))
    assert [k for k in a if a[k] != b[k]] == ["recipe"]


# shared


TOGETHER = """
import os, sys
sys.path.insert(0, {tests!r})
import numpy as np
import test_honest as t
for name in t.HONEST:
    coder, _ = t.taught(t.plan_of('caml', honest=name, batch_size=7, accumulate=2))
    np.save(f'{folder}/{{name}}{{os.environ["RANK"]}}.npy', coder(t.TEXTS))
"""


def test_two_processes_learn_what_one_would(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TOGETHER.format(tests=str(ROOT / "tests"), folder=str(tmp_path)))
    done = child(script, *LAUNCH, ACCELERATE_USE_CPU="1")
    assert done.returncode == 0, done.stderr[-3000:]
    for name in HONEST:
        one, _ = taught(plan_of("caml", honest=name, batch_size=7, accumulate=2))
        for rank in (0, 1):
            np.testing.assert_allclose(np.load(tmp_path / f"{name}{rank}.npy"), one(TEXTS), atol=1e-9, rtol=0)
