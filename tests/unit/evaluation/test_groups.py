"""Error rates by group: equal to the definitions, planted differences found, nothing claimed where nothing is known."""

import json

import numpy as np
import pytest

from tests.oracles.group_errors import errors_by_group
from tests.unit.evaluation.faces import embed
from tests.unit.evaluation.grouped import crowd, judged, protocol_of
from topoface.data.drawing.traits import Person, sample
from topoface.errors import UserError
from topoface.evaluation import open_protocol, verify
from topoface.evaluation.groups.attributes import group_pairs, read_attributes
from topoface.evaluation.groups.comparing import beside
from topoface.evaluation.groups.figures import difference_in_words, spread_in_words
from topoface.evaluation.groups.intersections import with_intersections
from topoface.evaluation.groups.judging import groupings_of, judge_groups
from topoface.evaluation.pairs.verification import FARS
from topoface.evaluation.report.page import ModelEntry, ReportInput, write_report
from topoface.functional.draws import generator


def attributes(tmp_path, rows, header="person,group"):
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]) + "\n")
    return read_attributes(tmp_path / "a.csv")


def judgement(tmp_path, groups="ab", *, each=6, harder=0.0, wolves=0.0, bootstrap=60, seed=0, order=None):
    """People of each group, everyone met with everyone; the last group is harder in either way."""
    names, who, pairs = crowd(groups, each, seed=seed)
    people = sorted(set(who))
    protocol = protocol_of(names, who, pairs if order is None else pairs[order])
    group = np.array([person[0] for person in who])
    left, right = group[protocol.pairs].T
    noise = generator(seed, "noise").normal(0, 1, (len(names), len(names)))
    noise = (noise + noise.T)[tuple(protocol.pairs.T)] / np.sqrt(2)
    hard = (left == groups[-1]) & (right == groups[-1])
    scores = noise / 4 + np.where(protocol.same, 1 - harder * hard, wolves * hard)
    table = attributes(tmp_path, [f"{person},{person[0]}" for person in people])
    result = judged(protocol, scores, bootstrap)
    return result, judge_groups(result, group_pairs(table, protocol), bootstrap=bootstrap), (left, right)


def test_counts_and_threshold_are_those_of_the_definitions(tmp_path):
    result, found, groups = judgement(tmp_path, "abc", harder=0.5, wolves=0.3, bootstrap=0)
    for table, far in zip(found.attributes[0].tables, FARS, strict=True):
        wanted = errors_by_group(
            result.scores.tolist(), result.protocol.same.tolist(), list(zip(*groups, strict=True)), far
        )
        assert len(table.map) == 6
        for cell in table.map:
            counts = wanted[frozenset(cell.groups)]
            assert (cell.fmr.errors, cell.fmr.pairs) == counts[:2]
            assert (cell.fnmr.errors, cell.fnmr.pairs) == counts[2:]
            assert cell.fmr.rate.value == counts[0] / counts[1]
        assert (
            sum(cell.fmr.errors for cell in table.map) / sum(cell.fmr.pairs for cell in table.map)
            == table.fmr
        )
        assert table.fmr <= far
        ratio = table.spreads["fmr"].ratio.value
        rates = [cell.fmr.rate.value for cell in table.rows]
        assert [cell.name for cell in table.rows] == ["a", "b", "c"]
        if min(rates) > 0:
            assert ratio == pytest.approx(max(rates) / np.prod(rates) ** (1 / 3))
        else:
            assert np.isnan(ratio)


def test_a_planted_group_is_found_worst_and_its_differences_are_clear(tmp_path):
    _, found, _ = judgement(tmp_path, "abc", each=12, harder=0.6, wolves=0.3, bootstrap=200)
    table = found.attributes[0].tables[0]
    for rate in ("fmr", "fnmr"):
        spread = table.spreads[rate]
        assert spread.worst.name == "c"
        assert spread.compared == 3
        assert {(d.first, d.second) for d in spread.differences} == {("c", "a"), ("c", "b")}
        assert all(
            d.of_many and 0 < d.points.low <= d.points.value <= d.points.high for d in spread.differences
        )
        words = spread_in_words(spread)
        assert "worst is c" in words
        assert "c over a by" in words
    assert table.spreads["fmr"].ratio.low > 1
    worst = table.spreads["fmr"].worst.fmr.rate
    assert worst.low < worst.value < worst.high


def test_equal_groups_are_not_called_different(tmp_path):
    told = [
        judgement(tmp_path, "abcd", harder=0.0, seed=seed, bootstrap=100)[1].attributes[0].tables[0]
        for seed in range(8)
    ]
    assert sum(any(d.of_many for d in t.spreads["fmr"].differences) for t in told) <= 1
    assert all(t.spreads["fmr"].ratio.low == 1 for t in told if np.isfinite(t.spreads["fmr"].ratio.low))


def test_the_order_of_pairs_and_of_groups_changes_nothing(tmp_path):
    plain = judgement(tmp_path, "ab", harder=0.4)[1].to_json()
    order = np.random.default_rng(3).permutation(36 * 35 // 2)
    # Which fold a pair is in does not matter here, nor in which order the file names people.
    assert judgement(tmp_path, "ab", harder=0.4, order=order)[1].to_json() == plain


def test_groups_without_pairs_or_with_few_are_named(tmp_path):
    names = [f"{person}/{k}.jpg" for person in ("a1", "a2", "a3", "b1", "c1") for k in (1, 2)]
    who = [name[:2] for name in names]
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)] + [(6, 7), (0, 6), (1, 7), (0, 8)]
    protocol = protocol_of(names, who, pairs)
    table = attributes(tmp_path, [f"{person},{person[0]}" for person in sorted(set(who))])
    result = judged(protocol, np.linspace(0, 1, len(pairs)))
    found = judge_groups(result, group_pairs(table, protocol), bootstrap=50).attributes[0].tables[0]
    a, b, c = found.rows
    assert (a.fmr.pairs, b.fmr.pairs, c.fmr.pairs, c.fnmr.pairs) == (12, 0, 0, 0)
    assert np.isnan(b.fmr.rate.value)
    assert found.spreads["fmr"].worst is None
    assert spread_in_words(found.spreads["fmr"]) == "there are no two groups to compare."
    said = " ".join(found.warnings)
    assert "No impostor pair: b, c;" in said
    assert "No genuine pair: c;" in said
    assert "FMR 0.1 is resolved by 100 impostor pairs of a group; fewer have: a." in said
    assert [cell.fmr.pairs for cell in found.map if cell.groups == ("a", "b")] == [2]


def test_one_group_alone_is_a_row_and_nothing_to_compare(tmp_path):
    _, found, _ = judgement(tmp_path, "a", each=8)
    table = found.attributes[0].tables[0]
    assert [cell.name for cell in table.rows] == ["a"]
    assert table.rows[0].fmr.rate.value == table.fmr
    assert table.rows[0].fnmr.rate.value == table.fnmr
    assert table.map == ()
    assert table.spreads["fmr"].compared == 0


def test_a_group_without_an_error_has_an_interval_and_leaves_the_ratio_undefined(tmp_path):
    _, found, _ = judgement(tmp_path, "ab", harder=0.9, each=10, bootstrap=100)
    table = found.attributes[0].tables[1]
    a, b = table.rows
    assert a.fnmr.errors == 0 < b.fnmr.errors
    assert a.fnmr.rate.low == 0 < a.fnmr.rate.high
    assert a.fnmr.rate.high >= 3.84 / (a.fnmr.pairs + 3.85)  # Wilson's
    spread = table.spreads["fnmr"]
    assert np.isnan(spread.ratio.value)
    assert "not defined, since a group made no error" in spread_in_words(spread)
    assert [d.first for d in spread.differences] == ["b"]


def test_images_of_one_person_in_two_groups_make_a_row_of_both(tmp_path):
    names, who, pairs = crowd("a", 6, pictures=4)
    protocol = protocol_of(names, who, pairs)
    table = attributes(tmp_path, [f"{n},{'side' if n[-5] in '23' else 'front'}" for n in names], "image,pose")
    side = np.array([n[-5] in "23" for n in names])[protocol.pairs]
    scores = np.random.default_rng(0).normal(protocol.same - 0.8 * side[:, 0] * protocol.same, 0.2)
    found = judge_groups(judged(protocol, scores), group_pairs(table, protocol), bootstrap=50)
    rows = found.attributes[0].tables[0].rows
    assert [cell.name for cell in rows] == ["front", "side", "front × side"]
    assert [cell.fnmr.pairs for cell in rows] == [6, 6, 24]


def test_pairs_without_a_value_are_counted(tmp_path):
    names, who, pairs = crowd("ab", 4)
    protocol = protocol_of(names, who, pairs)
    table = attributes(tmp_path, [f"{person},{person[0]}" for person in sorted(set(who))[1:]])
    result = judged(protocol, np.random.default_rng(0).normal(protocol.same, 0.5), 0)
    found = judge_groups(result, groupings_of(protocol, table), bootstrap=0)
    first = protocol.identities[protocol.pairs] == 0
    assert found.attributes[0].ungrouped == (
        int((protocol.same & first.any(1)).sum()),
        int((~protocol.same & first.any(1)).sum()),
    )
    assert any("3 images of 24 have no group" in note for note in found.notes)
    assert np.isnan(found.attributes[0].tables[0].rows[0].fmr.rate.low)


def test_the_threshold_shown_lets_at_least_ten_impostor_pairs_through(tmp_path):
    assert FARS[judgement(tmp_path, "ab", each=6, bootstrap=0)[1].shown] == 0.1
    assert FARS[judgement(tmp_path, "ab", each=10, bootstrap=0)[1].shown] == 0.01


def test_all_of_it_can_be_written_as_json(tmp_path):
    text = json.dumps(judgement(tmp_path, "ab", harder=0.9)[1].to_json(), allow_nan=False)
    table = json.loads(text)["attributes"][0]["tables"][0]
    assert set(table["rows"][0]["fmr"]) == {"rate", "errors", "pairs"}
    assert set(table["spreads"]) == {"fmr", "fnmr"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn people, grouped by the traits they were drawn from."""
    folder = tmp_path_factory.mktemp("drawn")
    protocol = open_protocol("synthetic:?identities=40&images=2&seed=3&first=200&pairs=80")
    who = {i: sample(Person, generator(3, "identity", i)) for i in range(200, 240)}
    rows = [f"{i},{'dark' if p.skin_tone > 0.5 else 'light'},{p.nose_length:.2f}" for i, p in who.items()]
    return protocol, attributes(folder, [*rows, "999,dark,20"], "person,skin,nose")


def test_traits_of_drawn_people_give_groups_and_a_report(drawn, tmp_path):
    protocol, table = drawn
    result = verify(embed, protocol, flip=False, bootstrap=30)
    found = judge_groups(result, groupings_of(protocol, table), bootstrap=30)
    assert [a.name for a in found.attributes] == ["skin", "nose"]
    assert any("'999'" in note for note in found.notes)
    assert {c.name for c in found.attributes[0].tables[0].rows} == {"dark", "light"}
    models = [ModelEntry(name=name, verifications=[result], groups=[found]) for name in ("one <b>", "two")]
    write_report(tmp_path / "r.html", ReportInput(title="Groups", models=models))
    page = " ".join((tmp_path / "r.html").read_text().split())
    for words in ("Groups: synthetic", "By skin, FMR of all pairs at most", "A group is a label that somebody gave",
                  "False matches between groups, one &lt;b&gt;", "At other thresholds", "does to a rate and to the threshold"):  # fmt: skip
        assert words in page
    assert "<b>&" not in page
    assert "one <b>" not in page


def test_a_file_about_others_is_refused(drawn, tmp_path):
    with pytest.raises(UserError, match="names no person of synthetic"):
        groupings_of(drawn[0], attributes(tmp_path, ["1,x"]))


def twice_judged(tmp_path, *, worse=0.0, bootstrap=60, seed=0):
    """Two models on the same pairs; the second is worse on pairs of the last group. People also have a letter for odd and even."""
    names, who, pairs = crowd("abc", 10, seed=seed)
    protocol = protocol_of(names, who, pairs)
    last = np.array([person[0] == "c" for person in who])[protocol.pairs].all(axis=1)
    noise = generator(seed, "noise").normal(0, 1, (3, len(pairs)))
    people = sorted(set(who))
    rows = [f"{person},{person[0]},{'xy'[int(person[1:]) % 2]}" for person in people]
    groupings = group_pairs(attributes(tmp_path, rows, "person,group,half"), protocol)
    found = []
    for k in (0, 1):
        scores = (noise[0] + 0.3 * noise[k + 1]) / 3 + protocol.same - worse * k * (last & protocol.same)
        result = judged(protocol, scores, bootstrap)
        found.append((result, judge_groups(result, groupings, bootstrap=bootstrap)))
    return found[0], found[1], groupings


def test_models_differ_where_one_is_worse_and_nowhere_else(tmp_path):
    first, second, groupings = twice_judged(tmp_path, worse=0.5, bootstrap=200)
    found = beside(first, second, groupings, intervals=True)
    rows = {row.name: row for row in found.attributes[0].beside}
    tables = [judgement.attributes[0].tables[found.shown] for _, judgement in (first, second)]
    for cells in zip(*(table.rows for table in tables), strict=True):
        for rate in ("fmr", "fnmr"):
            one, two = (getattr(cell, rate).rate.value for cell in cells)
            assert getattr(rows[cells[0].name], rate).value == one - two
    assert rows["c"].fnmr.high < -0.1
    assert all(rows[name].fnmr.low < 0 < rows[name].fnmr.high for name in "ab")
    assert "c " in difference_in_words(found.attributes[0], "fnmr")
    assert difference_in_words(first[1].attributes[0], "fnmr") == ""
    entries = [
        ModelEntry(name="one", verifications=[], groups=[first[1]]),
        ModelEntry(name="two", verifications=[], groups=[found]),
    ]
    write_report(tmp_path / "r.html", ReportInput(title="t", models=entries))
    page = (tmp_path / "r.html").read_text()
    assert "one minus two, in points" in page
    assert f"<strong>{100 * rows['c'].fnmr.value:+.3g}</strong>".replace("-", "−") in page
    assert f"<td>{100 * rows['a'].fnmr.value:+.3g}<small>".replace("-", "−") in page


def test_a_model_beside_itself_differs_by_nothing(tmp_path):
    first, _, groupings = twice_judged(tmp_path)
    for attribute in beside(first, first, groupings, intervals=True).attributes:
        for row in attribute.beside:
            assert row.fmr.value == row.fnmr.value == 0
            assert row.fnmr.low <= 0 <= row.fnmr.high
        assert difference_in_words(attribute, "fmr").startswith("nothing that chance alone cannot explain")


def test_joined_attributes_are_groups_of_both_at_once(tmp_path):
    first, _, groupings = twice_judged(tmp_path)
    joined = with_intersections(groupings, [("group", "half")])
    both = joined.groupings[-1]
    assert both.name == "group and half"
    assert both.labels == ("a + x", "a + y", "b + x", "b + y", "c + x", "c + y")
    group, half, sides = (grouping.sides for grouping in joined.groupings)
    np.testing.assert_array_equal(sides, group * 2 + half)
    found = judge_groups(first[0], joined, bootstrap=0)
    one, _, two = (attribute.tables[0] for attribute in found.attributes)
    for label in "abc":
        cells = [cell for cell in two.map if all(name.startswith(label) for name in cell.groups)]
        whole = next(cell for cell in one.rows if cell.name == label)
        assert sum(cell.fmr.errors for cell in cells) == whole.fmr.errors
        assert sum(cell.fnmr.pairs for cell in cells) == whole.fnmr.pairs


def test_what_is_unknown_in_one_attribute_is_in_no_joined_group(tmp_path):
    names, who, pairs = crowd("ab", 4)
    rows = [f"{person},{person[0]},{'' if person == 'a0' else 'x'}" for person in sorted(set(who))]
    protocol = protocol_of(names, who, pairs)
    found = with_intersections(
        group_pairs(attributes(tmp_path, rows, "person,group,half"), protocol), [("half", "group")]
    )
    unknown = np.array([person == "a0" for person in who])[protocol.pairs]
    np.testing.assert_array_equal(found.groupings[-1].sides < 0, unknown)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("group",), "--by group: names one attribute"),
        (("group", "group"), "--by group,group: names one attribute"),
        (("group", "hair"), "no attribute 'hair'; name some of: group, half"),
    ],
)
def test_attributes_that_cannot_be_joined_are_refused(tmp_path, names, message):
    _, _, groupings = twice_judged(tmp_path, bootstrap=0)
    with pytest.raises(UserError, match=message):
        with_intersections(groupings, [names])
