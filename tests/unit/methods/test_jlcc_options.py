"""What JLCC can do besides: levels by clusters, copied centers, a guard, old centers, centers within the batch."""

from typing import Any

import pytest
import torch

from tests.oracles import centers as oracle
from tests.unit.methods.test_jlcc import (
    CLASSES,
    FACES,
    FACTS,
    NOW,
    OFF,
    TRUE,
    Trained,
    indices_of,
    make_batch,
    preset,
    same,
)
from topoface.functional.directions import unit_rows
from topoface.methods.jlcc import JLCC
from topoface.methods.jlcc_memory import View
from topoface.methods.jlcc_settings import Aligning, ClusterMargin, Contrast


def test_the_level_by_clusters_is_that_of_all_visited_images_at_the_end_of_the_epoch() -> None:
    method = JLCC(FACTS, margin=ClusterMargin(hard="bcubed"), **NOW)
    trained = Trained([method])
    for step in range(8):
        before = method.bcubed_level.clone()
        trained.take(1)
        if step % 2 == 0:  # two steps an epoch
            assert torch.equal(method.bcubed_level.nan_to_num(-1), before.nan_to_num(-1))
            continue
        visited = (method.assigned >= 0).nonzero()[:, 0]
        clusters, labels = method.assigned[visited].tolist(), TRUE[visited].tolist()
        precision, recall = oracle.bcubed(clusters, labels)
        expected = [1 - 2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
        assert method.bcubed_level[visited].tolist() == pytest.approx(expected, abs=1e-6)
        assert (~method.bcubed_level.isnan()).sum() == len(visited)
    batch = make_batch(8, indices_of(8))
    method.margin_shift(trained.faces[batch.indices], batch)
    assert torch.equal(
        method._views[0].level.nan_to_num(-1), method.bcubed_level[batch.indices].nan_to_num(-1)
    )


def test_after_a_thousand_reassignments_the_levels_are_those_of_a_count_by_hand() -> None:
    """Oracle 19: nothing is counted up and down, so a count is never off, whatever went before."""
    method = JLCC(FACTS, margin=ClusterMargin(hard="bcubed"))
    random = torch.Generator().manual_seed(19)
    last: dict[int, tuple[int, int]] = {}
    for number in range(1000):
        image, label, cluster = (
            int(torch.randint(most, (), generator=random)) for most in (FACTS.num_images, CLASSES, CLASSES)
        )
        label, _ = last.get(image, (label, 0))  # an image keeps its label
        last[image] = label, cluster
        one = torch.tensor([0.5])
        view = View(
            rows=unit_rows(torch.ones(1, FACTS.embedding_dim)),
            labels=torch.tensor([label]),
            indices=torch.tensor([image]),
            own=one if cluster == label else one - 1,
            other=one - 0.5,
            nearest=torch.tensor([cluster]),
            level=one,
            shift=one,
        )
        method.remember(view, number, guarding=False)
        if number % 250 == 249:
            method.regroup()
            images = sorted(last)
            labels, clusters = (list(column) for column in zip(*(last[i] for i in images), strict=True))
            precision, recall = oracle.bcubed(clusters, labels)
            expected = [1 - 2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
            assert method.bcubed_level[images].tolist() == pytest.approx(expected, abs=1e-6)


def test_copying_turns_class_centers_at_the_ends_of_epochs_and_leaves_their_lengths() -> None:
    method = JLCC(
        FACTS, **{**OFF, "align": Aligning(form="copy", weight=0.25)}, start_epochs=2.0, ramp_epochs=0.0
    )
    trained, plain = Trained([method]).take(5), Trained().take(5)
    assert same(trained, plain)  # the first epoch after its start ends with step 5
    trained.take(1)
    plain.take(1)
    assert torch.equal(trained.faces, plain.faces)
    seen = method.memory.seen
    before, after = plain.head.weight.detach(), trained.head.weight.detach()
    expected = unit_rows(0.75 * unit_rows(before) + 0.25 * method.directions)
    torch.testing.assert_close(after[seen], (expected * before.norm(dim=1, keepdim=True))[seen])
    assert torch.equal(after[~seen], before[~seen])
    assert not torch.equal(after[seen], before[seen])
    assert trained.forward(indices_of(6)).terms.keys() == {"class"}


def guarded(share: float) -> tuple[JLCC, JLCC]:
    """With the guard and without: after a step whose first sample is nearer to another center, as that share of its identity was."""
    methods = [
        JLCC(FACTS, **OFF, watch=True, guard=guard, start_epochs=3.0, ramp_epochs=0.0)
        for guard in (True, False)
    ]
    for method in methods:
        Trained([method]).take(6)
        if method.guard:
            method.class_nearer.fill_(share)
        trained = Trained([method], first_step=6)
        trained.faces = FACES.clone()
        first = int(indices_of(6)[0])
        trained.faces[first] = method.directions[(int(TRUE[first]) + 1) % (CLASSES - 1)]
        with torch.no_grad():
            method.update([trained.forward(indices_of(6)).state])
    return methods[0], methods[1]


def test_the_guard_keeps_samples_that_are_nearer_to_another_center_out_of_their_own() -> None:
    with_guard, without = guarded(0.0)
    assert with_guard.kept_out is not None
    assert with_guard.kept_out[0]
    label = int(TRUE[indices_of(6)[0]])
    others = [k for k in range(CLASSES) if k not in TRUE[indices_of(6)][with_guard.kept_out.numpy()]]
    assert not torch.equal(with_guard.directions[label], without.directions[label])
    assert torch.equal(with_guard.directions[others], without.directions[others])
    assert torch.equal(with_guard.scores.nan_to_num(-1), without.scores.nan_to_num(-1))
    logged = with_guard.log_values()
    assert float(logged["guarded_share"]) == pytest.approx(float(with_guard.kept_out.float().mean()))
    assert "guarded_share" not in without.log_values()


def test_the_guard_leaves_an_identity_alone_whose_samples_are_mostly_nearer_to_another() -> None:
    with_guard, without = guarded(0.9)
    assert with_guard.kept_out is not None
    assert not with_guard.kept_out.any()
    assert torch.equal(with_guard.directions, without.directions)
    assert float(with_guard.log_values()["unguarded_identities"]) > 0


def test_the_guard_rests_before_the_ramp() -> None:
    method = JLCC(FACTS, **OFF, watch=True, guard=True, start_epochs=50.0)
    Trained([method]).take(6)
    assert method.kept_out is None
    assert method.class_nearer.isnan().all()


def test_centers_that_have_not_moved_for_long_are_no_negatives() -> None:
    def contrast(**changes: Any) -> float:
        method = JLCC(FACTS, margin=ClusterMargin(delta=0.0), align=Aligning(weight=0.0), **NOW, **changes)
        trained = Trained([method]).take(6)
        method.last_step[0] = 1  # 2.5 epochs before
        others = torch.from_numpy((TRUE[indices_of(6)] != 0).nonzero()[0])
        return float(trained.forward(indices_of(6)[others]).terms["JLCC/contrast"].detach())

    assert contrast(max_age=2.0) < contrast(max_age=3.0) == contrast()


def test_the_log_says_how_old_centers_are() -> None:
    method = preset("watch")
    Trained([method]).take(6)
    method.last_step.copy_(torch.tensor([5, 5, 5, 3, 5, 1, 0]))  # the last is unseen
    assert torch.as_tensor(method.log_values()["center_age"]).tolist() == [0.0, 1.0, 1.0]
    assert torch.as_tensor(method.ages(5)).tolist() == [0.0, 2.0, 2.0]


def test_contrast_within_the_batch_reaches_the_other_images_of_an_identity() -> None:
    method = JLCC(FACTS, **{**OFF, "contrast": Contrast(source="batch")}, **NOW)
    trained = Trained([method]).take(6)
    indices = torch.tensor([0, *(TRUE[0] == TRUE).nonzero()[0][1:3], int((TRUE[0] != TRUE).argmax())])
    output = trained.forward(indices)
    memory = JLCC(FACTS, **{**OFF, "contrast": Contrast()}, **NOW)
    memory.load_state_dict(method.state_dict())
    plain = Trained([memory], first_step=6)
    plain.faces, plain.head = trained.faces, trained.head
    got, otherwise = (one.terms["JLCC/contrast"].detach() for one in (output, plain.forward(indices)))
    assert float(got) != float(otherwise)
    rows = unit_rows(trained.faces[indices].detach())
    expected = []
    for i, row in enumerate(rows):
        center = unit_rows(rows[[j for j in range(3) if j != i]].mean(0)[None])[0] if i < 3 else None
        label = int(TRUE[indices[i]])
        own = row @ (method.directions[label] if center is None else center)
        others = [row @ method.directions[k] for k in range(CLASSES - 1) if k != label]
        expected.append(torch.stack([own, *others]).div(0.1).logsumexp(0) - own / 0.1)
    assert float(got) == pytest.approx(0.3 * float(torch.stack(expected).mean()), rel=1e-4)
