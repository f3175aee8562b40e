"""What the specifications measured on vectors instead of faces: planted label noise is found, and a detached virtual class collapses."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import toy as toys
from topoface.functional.center_losses import zscore_level
from topoface.functional.center_memory import running
from topoface.functional.clustering import agreement
from topoface.functional.directions import unit_rows
from topoface.methods import JLCC, UNPG
from topoface.methods.jlcc_settings import Aligning, ClusterMargin, Contrast
from topoface.methods.method import StepState

OFF = {
    "margin": ClusterMargin(delta=0.0),
    "contrast": Contrast(weight=0.0),
    "align": Aligning(weight=0.0),
    "watch": True,
}


def auc(scores: np.ndarray, wrong: np.ndarray) -> float:
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    for value in np.unique(scores[wrong]):  # ties share their rank
        same = scores == value
        ranks[same] = ranks[same].mean()
    many = wrong.sum()
    return float((ranks[wrong].sum() - many * (many + 1) / 2) / (many * (~wrong).sum()))


def with_noise(toy: toys.Toy, rng: np.random.Generator) -> np.ndarray:
    """10 % of the labels wrong, half of them that of the most similar other identity."""
    labels = toy.who.copy()
    wrong = rng.choice(len(labels), len(labels) // 10, replace=False)
    similarity = toy.z @ toy.z.T - 3 * np.eye(len(toy.z))
    half = len(wrong) // 2
    labels[wrong[:half]] = similarity.argmax(1)[toy.who[wrong[:half]]]
    labels[wrong[half:]] = (toy.who[wrong[half:]] + rng.integers(1, len(toy.z), len(wrong) - half)) % len(
        toy.z
    )
    return labels


@pytest.mark.slow
def test_silhouettes_collected_early_find_wrong_labels_and_clusters_say_nothing_once_they_are_memorised() -> (
    None
):
    toy = toys.draw(families=1000, images=12)
    labels = with_noise(toy, np.random.default_rng(5))
    wrong = labels != toy.who
    facts = toys.facts(len(labels), len(toy.z))
    method = JLCC(facts, beta=0.8, **OFF)
    epoch = facts.steps_per_epoch
    by_zscore = torch.full((len(labels),), torch.nan)
    early: dict[str, float] = {}

    def look(step: int, state: StepState) -> None:
        view = method._views[0]
        level = zscore_level(view.own, method.class_own[view.labels], method.class_own_square[view.labels])
        by_zscore[view.indices] = running(by_zscore[view.indices], level, 0.7)
        if step == round(6 * epoch):
            early.update(silhouette=score(method.scores), zscore=score(by_zscore))
            early["bcubed"] = auc(1 - agreement(method.assigned.numpy(), labels).bcubed_f, wrong)

    def score(levels: Tensor) -> float:
        return auc(levels.numpy(), wrong)

    toys.train(toy, labels, [method], steps=round(20 * epoch) + 1, schedule=1000, look=look)
    late = auc(1 - agreement(method.assigned.numpy(), labels).bcubed_f, wrong)
    assert early["silhouette"] >= 0.98
    assert early["silhouette"] >= early["zscore"]
    assert early["bcubed"] > 0.9
    assert abs(late - 0.5) < 0.05


class Detached(UNPG):
    """Takes the gradient from the pairs."""

    def negatives(self, embeddings: Tensor, batch: object) -> Tensor | None:
        found = super().negatives(embeddings, batch)  # type: ignore[arg-type]
        return None if found is None else found.detach()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "low", "high"), [(UNPG, -1.0, 0.05), (Detached, 0.2, 1.0)])
def test_a_virtual_class_whose_pairs_get_no_gradient_lets_impostors_grow_alike(
    method: type[UNPG], low: float, high: float
) -> None:
    toy = toys.draw(families=40, images=20)
    net = toys.train(
        toy, toy.who, [method(toys.facts(len(toy.who), len(toy.z)), filter="none")], steps=1200, schedule=1200
    )
    with torch.no_grad():
        rows = unit_rows(net(toy.strangers))
    cosines = (rows @ rows.T).numpy()
    impostor = float(cosines[toy.stranger[:, None] != toy.stranger].mean())
    assert low < impostor < high
