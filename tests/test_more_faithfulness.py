"Scores that are added up, and methods that are run again: oracles, and what must hold whatever the numbers."

from functools import partial

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from test_networks import CODES, random_coder, random_text

from icdrat.data.corpus import build
from icdrat.evaluation.cards import card, cards
from icdrat.evaluation.faithfulness.additive import (
    TooFewSets,
    infidelity,
    infidelity_inquiry,
    random_sets,
    sensitivity_inquiry,
    sensitivity_n,
)
from icdrat.evaluation.faithfulness.engine import DEFINITIONS
from icdrat.evaluation.faithfulness.inquiry import ask, concluded
from icdrat.evaluation.faithfulness.sanity import (
    NotExplained,
    UnknownLayer,
    cascade,
    labels_check,
    layers,
    max_sensitivity,
    most_moved,
    randomised,
    rank_agreement,
    shuffled_codes,
    weights_check,
)
from icdrat.evaluation.faithfulness.stream import all_faithfulness
from icdrat.rationale.attribution.explain import explain
from icdrat.text import blank, mask_to_spans, readable
from icdrat.types import OPERATORS, Explanation, Note

METRICS = ("yeh/infidelity", "yeh/infidelity_scaled", "ancona/sensitivity_n")
GRADIENT = partial(explain, method="input_x_gradient", progress=False)


def some_note(seed, n=20):
    return Note(f"n{seed}", random_text(np.random.default_rng(seed), n))


def lengths(coder, notes, codes_of):
    "A method that never asks the coder"
    places = {n.id: readable(n.text) for n in notes}
    return [
        Explanation(n.id, c, places[n.id], np.diff(places[n.id])[:, 0] * 1.0, "length")
        for n in notes
        for c in codes_of[n.id]
    ]


def both(scores, sets, answer):
    return concluded(infidelity_inquiry(scores, sets.any), answer) | concluded(
        sensitivity_inquiry(scores, sets.sized), answer
    )


# scores that are added up


@pytest.mark.parametrize("scaled", [False, True])
def test_infidelity_is_captums_on_a_network(scaled):
    "Captum perturbs the presence of words; the network reads the note without the words that are not there"
    coder, note = random_coder("caml", 0), some_note(0)
    n = len(readable(note.text))
    sets, scores = random_sets(n, 30, 1, note.id), np.random.default_rng(2).normal(size=n)

    def there(x):
        return torch.from_numpy(ask(coder, note, list(x.numpy() < 0.5))[:, 1])

    def hide(x):
        hidden = torch.from_numpy(sets.any * 1.0)
        return hidden, x - hidden

    whole = torch.ones(1, n, dtype=torch.float64)
    said = torch.from_numpy(scores)[None]
    theirs = captum_infidelity(there, hide, whole, said, n_perturb_samples=30, normalize=scaled)
    found = concluded(infidelity_inquiry(scores, sets.any), lambda m: ask(coder, note, list(m))[:, 1])
    assert found[METRICS[scaled]] == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_times_input_of_a_sum_is_right_about_every_set(seed):
    "For a coder that is a sum of worths the gradient in the presence of a word, times presence, is its worth"
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 40))
    presence = torch.ones(n, dtype=torch.float64)
    worth = torch.from_numpy(rng.normal(0, 1 / n, n))
    x = presence.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((x * worth).sum(), x)
    scores, sets = (gradient * presence).numpy(), random_sets(n, 40, seed)
    found = both(scores, sets, lambda masks: 0.5 + ~masks @ worth.numpy())
    assert [found[m] for m in METRICS] == pytest.approx([0, 0, 1], abs=1e-9)
    shifted = both(3 * scores + 1, sets, lambda masks: 0.5 + ~masks @ worth.numpy())
    assert shifted[METRICS[2]] == pytest.approx(1) and shifted[METRICS[0]] > 0.1
    turned = both(-scores, sets, lambda masks: 0.5 + ~masks @ worth.numpy())
    assert [turned[m] for m in METRICS[1:]] == pytest.approx([0, -1], abs=1e-9)


def test_scaled_infidelity_is_never_worse_and_never_over_one():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        said, lost = rng.normal(size=30) * 10 ** rng.uniform(-2, 2), rng.uniform(-1, 1, 30)
        scaled = infidelity(said, lost, scaled=True)
        assert 0 <= scaled <= min(infidelity(said, lost), np.mean(lost**2)) + 1e-12
        assert infidelity(7 * said, lost, scaled=True) == pytest.approx(scaled)
    assert infidelity(0 * said, lost, scaled=True) == pytest.approx(np.mean(lost**2))


def test_a_correlation_needs_two_values_on_both_sides():
    assert np.isnan(sensitivity_n(np.ones(5) * 0.3, np.arange(5.0)))
    assert np.isnan(sensitivity_n(np.arange(5.0), 0.5 + np.array([0, 1e-16, 0, -1e-16, 0])))
    assert sensitivity_n(1e-12 * np.arange(5.0), np.arange(5.0) / 9) == pytest.approx(1)


@pytest.mark.parametrize("n", [0, 1, 2, 9, 200])
def test_sets_have_the_size_they_say(n):
    sets = random_sets(n, 25, 3, "n1")
    assert sets.any.shape == (25, n) and (not n or (1 <= sets.any.sum(1)).all())
    for size, masks in sets.sized.items():
        assert 0 < size < n and masks.shape == (25, n) and (masks.sum(1) == size).all()
    with pytest.raises(TooFewSets, match="at least 2"):
        random_sets(n, 1)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_engine_gives_the_numbers_of_one_question_a_call(operator):
    coder, note = random_coder("caml", 1), some_note(1, 14)
    places, rng = readable(note.text), np.random.default_rng(0)
    soft = [Explanation(note.id, c, places, rng.normal(size=len(places)), "a") for c in CODES]
    options = dict(operators=[operator], over="gold", n_random=2, seed=4, progress=False, n_sets=8)
    table = all_faithfulness(coder, [note], [], soft, {note.id: CODES}, ["yeh", "ancona"], **options)
    value = table.set_index(["code", "method", "metric"])["value"]
    sets = random_sets(len(places), 8, 4, note.id)
    assert set(table["metric"]) == {f"{m}@{operator}" for m in METRICS} and set(table["method"]) == {"a", "random"}
    for k, (code, e) in enumerate(zip(CODES, soft)):

        def alone(masks):
            return np.array([coder([note.text], [mask_to_spans(m, places)], operator)[0, k] for m in masks])

        for metric, number in both(np.asarray(e.scores), sets, alone).items():
            assert value[code.value, "a", f"{metric}@{operator}"] == pytest.approx(number, abs=1e-9)
    other = all_faithfulness(coder, [note], [], soft, {note.id: CODES}, ["yeh"], **(options | dict(seed=5))).set_index(
        ["code", "method", "metric"]
    )["value"]
    assert (other != value[other.index]).all()


# methods that are run again


def test_most_moved_is_captums():
    rng = np.random.default_rng(0)
    before, after, hidden = rng.normal(size=9), rng.normal(size=(6, 9)), rng.random((6, 9)) < 0.3

    def said(x):
        "Captum hands the note over in a tuple, and its versions in a tensor"
        return (torch.from_numpy(before[None] if isinstance(x, tuple) else np.where(hidden, before, after)),)

    whole = torch.ones(1, 9, dtype=torch.float64)
    theirs = sensitivity_max(said, whole, lambda x: torch.from_numpy(~hidden * 1.0), n_perturb_samples=6)
    assert most_moved(before, after, hidden) == pytest.approx(theirs.item(), abs=1e-5)


def test_a_method_that_does_not_move_has_no_sensitivity_and_one_that_moves_has():
    coder, notes = random_coder("caml", 0), [some_note(s) for s in range(2)]
    codes_of = {n.id: CODES for n in notes}
    assert set(max_sensitivity(coder, notes, codes_of, lengths)["value"]) == {0.0}
    table = max_sensitivity(coder, notes, codes_of, GRADIENT, n_versions=4)
    assert (table["value"] > 0).all() and len(table) == 6
    places = readable(notes[0].text)
    ((_, hidden),) = random_sets(len(places), 4, 0, notes[0].id, (0.05,)).sized.items()

    def scores(text):
        (e,) = GRADIENT(coder, [Note("x", text)], {"x": [CODES[2]]})
        at = {tuple(o): s for o, s in zip(e.offsets.tolist(), e.scores)}
        return np.array([at.get(tuple(o), 0.0) for o in places.tolist()])

    first = scores(notes[0].text)
    away = [np.linalg.norm((scores(blank(notes[0].text, mask_to_spans(m, places))) - first)[~m]) for m in hidden]
    assert table["value"][2] == pytest.approx(max(away) / np.linalg.norm(first))


@pytest.mark.parametrize("name", ["caml", "plm_icd"])
def test_weights_drawn_anew_change_the_ranking_and_nothing_else(name):
    coder, notes = random_coder(name, 0), [some_note(s) for s in range(2)]
    codes_of, texts = {n.id: CODES for n in notes}, [n.text for n in notes]
    before = coder(texts)
    other = randomised(coder)
    np.testing.assert_array_equal(coder(texts), before)
    assert np.abs(other(texts) - before).max() > 1e-3
    for (_, p), (_, q) in zip(coder.network.named_parameters(), other.network.named_parameters()):
        assert p.shape == q.shape and (p.numel() < 30 or q.std().item() == pytest.approx(p.std().item(), rel=0.7))
    table = weights_check(coder, notes, codes_of, GRADIENT, n_random=2)
    assert (table["value"] < 0.999).all() and table["value"].between(-1, 1).all()
    assert (weights_check(coder, notes, codes_of, lengths, n_random=1)["value"] == 1).all()
    assert (labels_check(coder, coder, notes, codes_of, GRADIENT)["value"] > 1 - 1e-9).all()
    assert (labels_check(coder, other, notes, codes_of, GRADIENT)["value"] < 0.999).all()


def test_a_cascade_goes_from_the_head_to_the_embeddings():
    coder, note = random_coder("plm_icd", 0), some_note(0)
    names = layers(coder.network)
    assert names[0] == "head" and names[-1] == "encoder.embeddings" and "encoder.encoder.layer.1" in names
    with pytest.raises(UnknownLayer, match="head"):
        randomised(coder, ["tail"])
    coder = random_coder("caml", 0)
    table = cascade(coder, [note], {note.id: CODES}, GRADIENT)
    whole = weights_check(coder, [note], {note.id: CODES}, GRADIENT, n_random=1)
    last = table[table["layer"] == layers(coder.network)[-1]]
    np.testing.assert_allclose(last["value"], whole["value"])
    np.testing.assert_array_equal(
        randomised(coder, ["head"])([note.text]) == coder([note.text]), np.zeros((1, len(CODES)), bool)
    )


def test_signs_count_only_where_they_are_asked_for():
    a = np.array([0.1, -0.9, 0.5, 0.0])
    assert [rank_agreement(a, -a), rank_agreement(a, -a, signed=True)] == pytest.approx([1, -1])
    assert np.isnan(rank_agreement(a, np.ones(4))) and np.isnan(rank_agreement(a[:0], a[:0]))


def test_shuffled_codes_are_as_frequent_and_belong_to_others():
    rows = [dict(note_id=f"n{i}", text="w", codes=CODES[: 1 + i % 3], split="train") for i in range(12)]
    corpus = build("toy", rows)
    other = shuffled_codes(corpus, 1)
    assert sorted(map(str, other.codes.values())) == sorted(map(str, corpus.codes.values()))
    assert other.codes != corpus.codes and [n.text for n in other.notes] == [n.text for n in corpus.notes]


def test_a_pair_that_a_method_leaves_out_is_named():
    with pytest.raises(NotExplained, match="n0, E11"):
        max_sensitivity(random_coder("caml", 0), [some_note(0)], {"n0": CODES}, lambda *_: [])


def test_what_needs_more_than_scores_has_cards_of_its_own():
    assert {"yeh", "ancona"} <= set(DEFINITIONS)
    assert set(cards("method").name) == {"yeh/max_sensitivity"} | {
        f"adebayo/{c}{s}" for c in ("weights", "labels") for s in ("", "_signed")
    }
    assert all(card(f"{m}@{o}").family == "faithfulness" for m in METRICS for o in OPERATORS)
