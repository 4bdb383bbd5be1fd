"A student follows its teacher, and without one is the plain coder."

import numpy as np
import pandas as pd
import pytest

from icdrat.codes import icd
from icdrat.coder.recipe import recipe
from icdrat.data.corpus import build
from icdrat.learning.student import NoLesson, lessons, train_student
from icdrat.learning.teachers import lesson_table
from icdrat.text import find_quote, mark

CODES = [icd("E11.9"), icd("I10")]
CUE = {CODES[0]: "metformin", CODES[1]: "lisinopril"}
SHADOW = {CODES[0]: "clinic", CODES[1]: "ward"}
RECIPE = recipe("caml", epochs=30, embedding=12, filters=12, width=1, min_count=1)


@pytest.fixture(scope="module")
def corpus():
    rng, rows = np.random.default_rng(0), []
    for i in range(80):
        codes = [c for c in CODES if rng.random() < 0.6] or [CODES[i % 2]]
        words = [f"w{k}" for k in rng.integers(0, 20, 10)]
        for c in codes:
            for w in (CUE[c], SHADOW[c]):
                words.insert(rng.integers(len(words)), w)
        rows.append(
            dict(note_id=f"n{i}", text=" ".join(words), codes=codes, split="validation" if i % 4 == 0 else "train")
        )
    return build("toy", rows)


def taught(corpus, word_of):
    return [
        mark(corpus.note(i), c, find_quote(corpus.note(i).text, word_of[c]), "teacher")
        for i, cs in corpus.codes.items()
        for c in cs
    ]


def attention_on(coder, corpus, word_of):
    "Mean attention on the taught word, over validation pairs"
    on = []
    for i, cs in corpus.split("validation").codes.items():
        text = corpus.note(i).text
        [(offsets, weights)] = coder.attention([text])
        on += [weights[CODES.index(c)][[text[s:e] == word_of[c] for s, e in offsets]].sum() for c in cs]
    return np.mean(on)


def test_attention_goes_where_the_teacher_points_whichever_word_that_is(corpus):
    to_cue, _ = train_student(corpus, CODES, taught(corpus, CUE), 1.0, RECIPE, progress=False)
    to_shadow, _ = train_student(corpus, CODES, taught(corpus, SHADOW), 1.0, RECIPE, progress=False)
    for word_of, followed, ignored in ((CUE, to_cue, to_shadow), (SHADOW, to_shadow, to_cue)):
        assert attention_on(followed, corpus, word_of) > 2 * attention_on(ignored, corpus, word_of)


def test_without_a_teacher_or_with_weight_zero_it_is_the_plain_coder(corpus):
    texts = [n.text for n in corpus.notes[:10]]
    plain, _ = train_student(corpus, CODES, recipe=RECIPE, progress=False)
    weightless, _ = train_student(corpus, CODES, taught(corpus, CUE), 0.0, RECIPE, progress=False)
    np.testing.assert_allclose(plain(texts), weightless(texts), atol=1e-6)


def test_marks_on_validation_notes_and_on_other_codes_teach_nothing(corpus):
    marks = taught(corpus, CUE)
    kept = lessons(marks, corpus, CODES[:1])
    assert {r.code for r in kept} == {CODES[0]}
    assert not {r.note_id for r in kept} & set(corpus.split("validation").codes)
    with pytest.raises(NoLesson, match="level"):
        lessons(marks, corpus, [icd("E11")])


@pytest.mark.parametrize("architecture", ["caml", "evidence"])
def test_a_lesson_counts_for_its_weight(corpus, architecture):
    "Two teachers who contradict each other: the one that is trusted is followed"
    plan = recipe(architecture, epochs=12, embedding=12, filters=12, min_count=1, schedule="constant")
    one = lesson_table(taught(corpus, CUE), corpus)
    rare = set(one.note_id.unique()[::4])  # here the teacher points at the other word
    other = lesson_table([r for r in taught(corpus, SHADOW) if r.note_id in rare], corpus)
    table = pd.concat([one[~one.note_id.isin(rare)], other], ignore_index=True)

    def marked(trusted, doubted):
        weight = np.where(table.note_id.isin(rare), doubted, trusted)
        coder, _ = train_student(corpus, CODES, table.assign(weight=weight), 1.0, plan, progress=False)
        return attention_on(coder, corpus, CUE), attention_on(coder, corpus, SHADOW)

    (cue, shadow), (cue_doubted, shadow_doubted) = marked(1.0, 0.01), marked(0.01, 1.0)
    assert cue > shadow and cue > cue_doubted and shadow < shadow_doubted


def test_weights_of_one_are_no_weights(corpus):
    texts, table = [n.text for n in corpus.notes[:10]], lesson_table(taught(corpus, CUE), corpus)
    plan = recipe("caml", epochs=2, embedding=12, filters=12, width=1, min_count=1)
    plain, _ = train_student(corpus, CODES, taught(corpus, CUE), 1.0, plan, progress=False)
    weighed, _ = train_student(corpus, CODES, table, 1.0, plan, progress=False)
    np.testing.assert_array_equal(plain(texts), weighed(texts))
