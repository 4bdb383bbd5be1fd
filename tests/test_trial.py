"Over notes and seeds is over notes where there is one seed; a trial is counted once, and never taken for another."

import numpy as np
import pandas as pd
import pytest

from icdrat.data.corpus import to_level, vocabulary
from icdrat.data.synth import synthesise
from icdrat.evaluation.aggregate import difference, summarise_counts, summarise_means
from icdrat.evaluation.cards import COUNTS
from icdrat.evaluation.seeds import UnequalSeeds, difference_over_seeds, summarise_seeds
from icdrat.learning.student import NoLesson
from icdrat.learning.trial import Bench, Training, Trial, joined, kept_trial, teacher_marks, trained, trial_key


def count_table(seeds=(0, 1, 2), methods=("a", "b"), n_notes=9):
    "Hits and totals for each method, note and seed, hits never above totals"
    rng, rows = np.random.default_rng(5), []
    for s in seeds:
        for m in methods:
            for i in range(n_notes):
                n_pred, n_gold = rng.integers(1, 9, 2)
                hits = rng.integers(0, min(n_pred, n_gold) + 1)
                rows.append((f"n{i}", "C", m, "token", hits, n_pred, hits, n_gold, s))
    return pd.DataFrame(rows, columns=["note_id", "code", "method", "definition", *COUNTS, "seed"])


def numbers(table, *more):
    return table[["value", "low", "high", *more]].to_numpy(float)


def test_one_seed_is_the_bootstrap_over_notes():
    one = count_table(seeds=[4])
    plain = summarise_counts(one.drop(columns="seed"), 300)
    np.testing.assert_allclose(numbers(summarise_seeds(one, 300)), numbers(plain))
    ours = difference_over_seeds(one, "a", "b", "token/f1", 300, 500)
    theirs = difference(one.drop(columns="seed"), "a", "b", "token/f1", 300, 500)
    np.testing.assert_allclose(numbers(ours, "p_notes"), numbers(theirs, "p"))
    values = one.assign(metric="m", value=one.hits_pred.astype(float)).drop(columns=["definition", *COUNTS])
    means = summarise_means(values.drop(columns="seed"), 300)
    np.testing.assert_allclose(numbers(summarise_seeds(values, 300)), numbers(means))


def test_the_value_is_the_mean_over_seeds_and_their_names_do_not_matter():
    table = count_table()
    each = [summarise_counts(g.drop(columns="seed"), 10).value for _, g in table.groupby("seed")]
    np.testing.assert_allclose(summarise_seeds(table, 50).value, np.mean(each, 0))
    renamed = table.assign(seed=table.seed * 10 + 7)
    np.testing.assert_allclose(numbers(summarise_seeds(renamed, 50)), numbers(summarise_seeds(table, 50)))


def test_a_difference_turned_round_is_its_opposite():
    table = count_table()
    ab, ba = (difference_over_seeds(table, x, y, "token/f1", 200, 200).iloc[0] for x, y in ("ab", "ba"))
    np.testing.assert_allclose([ab.value, ab.low, ab.high], [-ba.value, -ba.high, -ba.low])
    assert ab.p == ba.p


def test_what_has_one_run_meets_every_run_of_the_other_and_other_seeds_are_refused():
    table = count_table()
    once = table[(table.method == "a") | (table.seed == 0)]
    assert difference_over_seeds(once, "a", "b", "token/f1", 50, 50).n_seeds.item() == 3
    with pytest.raises(UnequalSeeds):
        difference_over_seeds(table[(table.method == "a") | (table.seed > 0)], "a", "b", "token/f1", 50, 50)


@pytest.fixture(scope="module")
def bench():
    corpus = to_level(synthesise(20, progress=False), 3)
    return Bench(corpus, vocabulary(corpus.split("train"), 4), 2)


def test_everything_that_a_trial_depends_on_changes_its_key(bench):
    marks = tuple(teacher_marks("human", bench))
    plain = Training("caml", "human", marks)
    others = [
        plain._replace(marks=marks[1:]),
        plain._replace(seed=1),
        plain._replace(times=0.5),
        plain._replace(by="margin_ranking"),
        plain._replace(student="extractor"),
        plain._replace(plan=(("epochs", 2),)),
    ]
    keys = [trial_key(t, bench) for t in (plain, *others)] + [trial_key(plain, bench, "lime")]
    keys.append(trial_key(plain, Bench(bench.corpus, bench.codes[1:], 2)))
    assert len(set(keys)) == len(keys) and trial_key(plain, bench) == keys[0]


def test_a_trial_comes_back_from_its_file_as_it_was(tmp_path):
    counts = count_table(seeds=[0]).drop(columns="seed").assign(cut="")
    values = pd.DataFrame([dict(method="a", cut="", note_id="n", code="", metric="m", value=0.5)])
    first, second = (kept_trial(tmp_path / "x.parquet", lambda: Trial(counts, values)) for _ in range(2))
    for a, b, made in zip(first, second, (counts, values)):
        pd.testing.assert_frame_equal(a, b)
        assert len(a) == len(made) and not a.drop(columns=["code"]).isna().any().any()
    assert set(joined([first, second], seed=3).counts.seed) == {3}


def test_a_teacher_marks_codes_of_its_notes_and_an_extractor_without_lessons_is_refused(bench):
    marks = teacher_marks("mention_tabular", bench)
    assert all(r.code in bench.asked[r.note_id] and r.source == "mention_tabular" for r in marks)
    with pytest.raises(NoLesson):
        trained(Training("extractor"), bench)
