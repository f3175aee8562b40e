"""What is said of two models: no clear difference of a handful of pairs, no interval where a figure has none."""

import numpy as np
import pytest

from topoface.cli.figures import _differences
from topoface.evaluation import compare
from topoface.evaluation.embedding import FAILED_IMPOSTOR, PairScores
from topoface.evaluation.figures import Figure, differences
from topoface.evaluation.operating_points import pair_figures
from topoface.evaluation.pairs.protocol import build_protocol
from topoface.evaluation.pairs.verification import judge

N = 1500  # people, each in a genuine pair and on either side of an impostor pair


class Names:
    names = tuple(f"image {i}" for i in range(2 * N))

    def __len__(self):
        return 2 * N


@pytest.fixture(scope="module")
def protocol():
    who = np.arange(N)
    pairs = np.r_[np.stack([who, who + N], 1), np.stack([who, (who + 1) % N + N], 1)]
    return build_protocol(
        name="p",
        uri="x",
        images=Names(),
        pairs=pairs,
        same=np.arange(2 * N) < N,
        folds=np.arange(2 * N) % 10,
        people=[*range(N)] * 2,
        stamps=[],
    )


def judged(protocol, missed=0, bootstrap=60):
    """A model without an error but for some genuine pairs that it misses."""
    rng = np.random.default_rng(1)
    scores = np.r_[rng.uniform(0.6, 0.9, N), rng.uniform(-0.3, 0.3, N)]
    scores[:missed] = -0.29 - 1e-3 * np.arange(missed)
    whole = PairScores(scores=scores, failed=np.zeros(2 * N, bool), failures=())
    return judge(whole, protocol, flip=False, bootstrap=bootstrap)


def clear(found):
    return [name for name, d in found.items() if d.low > 0 or d.high < 0]


@pytest.fixture(scope="module")
def perfect(protocol):
    return judged(protocol)


@pytest.mark.parametrize("missed", [1, 3, 5])
def test_a_handful_of_pairs_is_no_clear_difference(protocol, perfect, missed):
    found = compare(judged(protocol, missed), perfect)
    assert clear(found) == []
    assert found["accuracy"].low < found["accuracy"].value < 0 <= found["accuracy"].high
    assert _differences(found) == "nothing that chance alone cannot explain"


def test_many_pairs_are_one_and_how_many_figures_were_looked_at_is_said(protocol, perfect):
    found = compare(judged(protocol, 30), perfect)
    assert {"accuracy", "auc", "eer", "tar@0.1", "tar@0.01"} == set(clear(found))
    assert _differences(found).endswith("5 of 5 figures looked at, each with its own 95 % interval")


def test_what_has_no_interval_of_its_own_gets_none_in_a_difference(protocol, perfect):
    found = compare(judged(protocol, 30), perfect)
    # A cost of fewer than ten false accepts, and a TAR that rests on one.
    assert np.isnan(found["min_dcf"].low)
    assert np.isnan(found["tar@0.001"].low)
    named = {"min_dcf": Figure(0.2)}
    assert np.isnan(differences(named, named, {"min_dcf": (0.0, 0.0)}, {})["min_dcf"].low)


def test_shares_of_which_nothing_else_is_known_need_six_trials():
    figure = Figure(0.9, 0.8, 1.0)
    for missed, expected in ((5, False), (6, True)):
        other = Figure(0.9 + missed / 1000, 0.8, 1.0)
        sure = -missed / 1000, -missed / 1000
        found = differences({"a": figure}, {"a": other}, {"a": sure}, {"a": 1000})["a"]
        assert (found.high < 0) == expected


def test_without_bootstrap_plain_differences_stand_and_nothing_is_drawn(protocol, monkeypatch):
    monkeypatch.setattr("topoface.evaluation.pairs.comparing.paired_intervals", None)
    found = compare(judged(protocol, 30, bootstrap=0), judged(protocol, bootstrap=0))
    assert np.isnan([d.low for d in found.values()]).all()
    text = _differences(found)
    assert text.startswith("accuracy -1.00; ")
    assert "min_dcf (no points, a cost) +0.0200" in text
    assert text.endswith("no interval")


def test_a_difference_is_of_as_many_replicates_as_the_models_have(protocol, monkeypatch):
    import topoface.evaluation.pairs.comparing as module

    asked = []
    drawn = module.paired_intervals
    monkeypatch.setattr(
        module, "paired_intervals", lambda *a, **k: asked.append(k["replicates"]) or drawn(*a, **k)
    )
    compare(judged(protocol, bootstrap=7), judged(protocol, bootstrap=7))
    assert asked == [7]


def test_failures_that_use_up_a_far_are_said_and_not_false_accepts_that_nobody_sees(protocol):
    rng = np.random.default_rng(0)
    scores = np.r_[rng.uniform(0.6, 0.9, N), rng.uniform(-0.3, 0.3, N)]
    failed = np.arange(2 * N) >= 2 * N - 2
    scores[failed] = FAILED_IMPOSTOR
    result = judge(PairScores(scores=scores, failed=failed, failures=()), protocol, flip=False, bootstrap=0)
    tenth, hundredth, thousandth = result.tar
    assert (thousandth.tar.value, thousandth.false_accepts) == (0.0, 0)
    assert thousandth.warning.startswith(
        "TAR at FAR 0.001 is what failures alone leave: 2 impostor pairs with an image that could not be judged count as "
        "accepted, and 1 may be."
    )
    assert (tenth.warning, hundredth.tar.value) == ("", 1.0)
    templates = pair_figures(*(scores[kind].astype(np.float32) for kind in (protocol.same, ~protocol.same)))
    assert templates.tar[2].warning == thousandth.warning
