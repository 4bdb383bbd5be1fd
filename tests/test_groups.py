"Groups, seeds and many comparisons: the same numbers as by filtering and looping."

import numpy as np
import pandas as pd
import pytest

from icdrat.codes import chapter, chapter_title
from icdrat.data.codiesp import all_negated, codiesp, negated
from icdrat.data.corpus import UnknownNote
from icdrat.data.vignettes import vignettes
from icdrat.evaluation.cards import COUNTS
from icdrat.evaluation.aggregate import (
    BadTable,
    UnknownMethod,
    benjamini_hochberg,
    difference,
    differences,
    intervals,
    per_note_sums,
    summarise_counts,
    summarise_means,
)
from icdrat.evaluation.plausibility.definitions import all_plausibility, measure, summarise_plausibility
from icdrat.evaluation.groups import (
    ASSERTED,
    BEFORE_HEADINGS,
    DENIED,
    FEW,
    NOWHERE,
    OTHER,
    PARTLY,
    SECTIONS,
    NoGroup,
    by_group,
    code_bands,
    code_chapters,
    denial,
    evidence_sections,
    few_together,
    note_lengths,
    sections,
)
from icdrat.evaluation.seeds import UnequalSeeds, over_seeds, with_spread
from icdrat.bootstrap import interval, mean
from icdrat.text import words
from icdrat.types import BadInput, Code, Rationale, Span
from test_aggregate import count_table, long_table
from test_definitions import corpus


@pytest.mark.parametrize("of", ["code", "note_id", "pair"])
@pytest.mark.parametrize("make, summarise", [(count_table, summarise_counts), (long_table, summarise_means)])
def test_a_group_is_what_is_left_when_the_rest_is_filtered_away(make, summarise, of):
    table = make(0)
    keys = list(zip(table.note_id, table.code)) if of == "pair" else table[of].tolist()
    groups = {k: f"g{i % 3}" for i, k in enumerate(sorted(set(keys)))}
    found = by_group(table, groups, of, summarise, n_draws=50)
    for name in ("g0", "g1", "g2"):
        alone = summarise(table[[groups[k] == name for k in keys]], n_draws=50)
        ours = found[found.group == name].drop(columns="group").reset_index(drop=True)
        pd.testing.assert_frame_equal(ours, alone, check_dtype=False)


def test_groups_reach_every_definition():
    notes, gold, predicted, _ = corpus(0)
    table = all_plausibility(notes, gold, predicted, per_level=True, progress=False)
    groups = {n.id: "first" if i < 3 else "last" for i, n in enumerate(notes)}
    by = ("method", "level", "predicted_level")
    found = by_group(table, groups, "note_id", summarise_plausibility, by, n_draws=20)
    first = summarise_plausibility(table[table.note_id.isin(["n0", "n1", "n2"])], 20)
    ours = found[found.group == "first"].drop(columns="group").reset_index(drop=True)
    pd.testing.assert_frame_equal(
        ours.sort_values([*by, "metric"], ignore_index=True),
        first.sort_values([*by, "metric"], ignore_index=True),
        check_dtype=False,
    )


def test_a_row_without_a_group_is_refused_or_named():
    table = count_table(0)
    with pytest.raises(NoGroup, match="have no group"):
        by_group(table, {"C0": "a"})
    assert by_group(table, {"C0": "a"}, rest="others", n_draws=5).group.cat.categories.tolist() == ["a", "others"]
    with pytest.raises(BadInput, match="chapter"):
        by_group(table, {}, of="chapter")


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("", [BEFORE_HEADINGS]),
        ("HPI: x\nPMH:\ny", ["History of Present Illness", "Past Medical History"]),
        ("a\n  ALLERGIES : none", [BEFORE_HEADINGS, "Allergies"]),
        ("see HPI: x", [BEFORE_HEADINGS]),
    ],
)
def test_a_heading_begins_a_line_and_ends_with_a_colon(text, wanted):
    assert [name for *_, name in sections(text)] == wanted


def test_sections_cover_every_character_once():
    for note in vignettes().notes:
        found = sections(note.text)
        assert found[0][0] == 0 and found[-1][1] == len(note.text)
        assert all(a[1] == b[0] for a, b in zip(found, found[1:]))


def test_the_section_of_a_pair_is_the_one_with_most_of_its_characters():
    vignette = vignettes()
    found = evidence_sections(vignette.gold, vignette.notes)
    texts = {n.id: n.text for n in vignette.notes}
    assert set(found.values()) <= {BEFORE_HEADINGS, NOWHERE, *SECTIONS}
    for pair in list(found)[::37]:
        inside = {}
        for start, end, name in sections(texts[pair[0]]):
            here = sum(
                len(set(range(s.start, s.end)) & set(range(start, end)))
                for r in vignette.gold
                if (r.note_id, str(r.code)) == pair
                for s in r.spans
            )
            inside[name] = inside.get(name, 0) + here
        assert (inside.get(found[pair], 0) == max(inside.values())) if any(inside.values()) else found[pair] == NOWHERE
    with pytest.raises(UnknownNote):
        evidence_sections([Rationale("m", Code("icd10cm", "I10"), (Span(0, 1),), "human")], [])


def test_bands_chapters_and_lengths_hold_every_key_in_order():
    vignette = vignettes()
    train = vignette.split("train")
    codes = sorted({c for cs in vignette.codes.values() for c in cs})
    learned = code_bands(codes, train, (1, 3))
    n = {str(c): sum(c in cs for cs in train.codes.values()) for c in codes}
    assert set(learned) == set(n) and all(
        learned[c] == ("0" if k == 0 else "1-1" if k == 1 else "2-3" if k <= 3 else ">3") for c, k in n.items()
    )
    assert [*dict.fromkeys(learned.values())] == [b for b in ("0", "1-1", "2-3", ">3") if b in learned.values()]
    by_chapter = code_chapters(codes)
    order = sorted({chapter(c) for c in codes}, key=int)
    assert set(by_chapter) == set(n) and [*dict.fromkeys(by_chapter.values())] == [chapter_title(k) for k in order]
    assert not any(name.isdigit() for name in by_chapter.values()), "a chapter is known by its name"
    lengths = note_lengths(vignette.notes, (700, 800))
    assert all((lengths[t.id] == "1-700") == (len(words(t.text)) <= 700) for t in vignette.notes)


@pytest.mark.parametrize("seed", range(20))
def test_groups_with_few_pairs_stand_together_and_no_pair_is_lost(seed):
    rng = np.random.default_rng(seed)
    groups = {f"c{i}": f"g{rng.integers(8)}" for i in range(25)}
    pairs = {k: int(rng.integers(0, 6)) for k in groups}
    found = few_together(groups, pairs, 10)
    assert set(found) == set(groups)
    size = {g: sum(pairs[k] for k in groups if groups[k] == g) for g in groups.values()}
    assert all((found[k] == groups[k]) == (size[groups[k]] >= 10) for k in groups)
    left = sum(pairs[k] for k, g in found.items() if g.startswith(OTHER))
    names = {g for g in found.values() if g.startswith(OTHER)}
    assert names <= {f"{OTHER} {FEW}" if left < 10 else OTHER}
    assert not names or list(found.values())[-1] in names, "they come last"


def test_denied_evidence_is_parted_as_the_corpus_says(data_folder):
    spanish = codiesp(data_folder)
    found = denial(spanish)
    assert set(found) == {(r.note_id, str(r.code)) for r in spanish.gold}
    denied, some = {(i, str(c)) for i, c in all_negated(spanish)}, {(r.note_id, str(r.code)) for r in negated(spanish)}
    assert {p for p, k in found.items() if k == DENIED} == denied
    assert {p for p, k in found.items() if k == PARTLY} == some - denied and ASSERTED in found.values()


# all groups at once


def test_all_groups_at_once_are_each_group_alone():
    table = long_table(3, methods=("a", "b", "c"))
    table = table[(table.method != "c") | (table.note_id < "n06")]  # fewer notes, other resamples
    found = summarise_means(table, 100).set_index("method")
    for method, rows in table.groupby("method"):
        sums = rows.assign(n=1.0).groupby("note_id")[["value", "n"]].sum().to_numpy()
        np.testing.assert_allclose(
            found.loc[method, ["value", "low", "high"]].astype(float), interval(sums, mean, 100), rtol=1e-12
        )


def test_what_each_note_adds_is_a_sum_over_its_rows():
    table = count_table(1)
    group = np.random.default_rng(0).integers(0, 4, len(table))
    sums = per_note_sums(table, group, table[list(COUNTS)].to_numpy(float), 4)
    for g in range(4):
        np.testing.assert_array_equal(sums[g], table[group == g].groupby("note_id")[list(COUNTS)].sum().to_numpy(float))
    assert np.isnan(intervals([np.zeros((0, 2))], [dict(m=mean)])[0]["m"]).all()


# many comparisons


def test_every_method_is_compared_and_the_p_values_adjusted_together():
    table = long_table(0, methods=("a", "b", "c"))
    found = differences(table, "b", ["toy"], n_draws=50, n_swaps=200)
    assert found.method_a.tolist() == ["a", "c"] and set(found.method_b) == {"b"}
    for row in found.itertuples():
        alone = difference(table, row.method_a, "b", "toy", n_draws=50, n_swaps=200).loc[0]
        assert (row.value, row.low, row.high, row.p) == (alone.value, alone.low, alone.high, alone.p)
    np.testing.assert_array_equal(found.p_adjusted, benjamini_hochberg(found.p.to_numpy()))
    assert len(differences(table, "b", ["toy"], methods=["a"], n_draws=5, n_swaps=5)) == 1
    with pytest.raises(UnknownMethod, match="no other method"):
        differences(table[table.method == "b"], "b", ["toy"])


@pytest.mark.parametrize(
    "metric", ["mdace/token_f1", "eraser/iou_f1_macro", "anatomy/exact", "emc/auprc", "eraser/auprc", "character/iou"]
)
def test_a_difference_under_any_definition_is_that_of_the_summary(metric):
    notes, gold, predicted, explained = corpus(0)
    table = all_plausibility(notes, gold, predicted, explained, progress=False)
    found = summarise_plausibility(table, 10).query("metric == @metric").set_index("method").value
    row = difference(table, "perfect", "chance", metric, n_draws=10, n_swaps=10, measure=measure).loc[0]
    assert row.value == pytest.approx(found["perfect"] - found["chance"])


# seeds


@pytest.mark.parametrize("n", [1, 2, 5])
def test_spread_is_the_sample_deviation_over_seeds(n):
    rng = np.random.default_rng(n)
    table = pd.DataFrame(
        [(m, "x", s, rng.random()) for m in "ab" for s in rng.permutation(n)],
        columns=["method", "metric", "seed", "value"],
    )
    found = over_seeds(table).set_index("method")
    for m in "ab":
        values = table[table.method == m].value
        assert found.loc[m, "mean"] == pytest.approx(values.mean())
        assert np.isnan(found.loc[m, "sd"]) if n == 1 else found.loc[m, "sd"] == pytest.approx(np.std(values, ddof=1))
        assert found.loc[m, "seeds"] == " ".join(map(str, range(n)))


def test_unequal_seeds_and_repeated_runs_are_refused():
    table = pd.DataFrame(
        [("a", "x", 0, 0.1), ("a", "x", 1, 0.2), ("b", "x", 0, 0.3)], columns=["method", "metric", "seed", "value"]
    )
    with pytest.raises(UnequalSeeds):
        over_seeds(table)
    with pytest.raises(BadTable, match="twice"):
        over_seeds(pd.concat([table, table]))
    assert with_spread(0.5, 0.01, 2) == "0.50 ± 0.01"
