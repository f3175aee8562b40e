"""Where samples lie among the centers, whole, in blocks and in shards (oracles 6, 15 and 16 of jlcc.md)."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import centers as oracle
from tests.unit.functional.test_center_memory import (
    G_LABELS,
    LABELS,
    F,
    G,
    after_f,
    close,
    empty,
    shards_of_g,
)
from topoface.functional import center_look
from topoface.functional.center_look import ABSENT, look, nearest_of, own_cosines, present
from topoface.functional.center_losses import contrast_loss, silhouette_level
from topoface.functional.center_memory import CenterMemory, update_memory
from topoface.functional.directions import unit_rows

TAU = 0.1


def test_own_and_nearest_other_center() -> None:
    got = look(F, LABELS, after_f())
    close(got.stated, [0.929762108, 0.929762108, 1, 0.895170091, 0.895170091, 1], 1e-8)
    close(got.other, [-0.111864222, 0.587424024, 0.272427016, 0.665460217, 0.578134228, 0.158212471], 1e-8)
    assert 3 not in got.index.tolist()


def test_ties_go_to_the_lowest_class_and_an_unseen_identity_has_no_own_center() -> None:
    memory = empty(6, 2)
    up, right = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    update_memory(memory, torch.cat([up, right, right, up]), torch.tensor([4, 3, 1, 0]), beta=0.9, step=0)
    got = look(torch.cat([right, up, right]), torch.tensor([0, 4, 2]), memory)
    assert got.index.tolist() == [1, 0, 1]
    assert got.stated.isnan().tolist() == [False, False, True]
    nothing = look(right, torch.tensor([0]), empty(6, 2))
    assert (nothing.other.tolist(), nothing.index.tolist()) == ([-1.0], [-1])
    alone = empty(6, 2)
    update_memory(alone, right, torch.tensor([2]), beta=0.9, step=0)
    assert look(right, torch.tensor([2]), alone).index.tolist() == [-1]


def some_memory(classes: int, unseen: int, dtype: torch.dtype = torch.float64) -> CenterMemory:
    rng = np.random.default_rng(classes)
    rows = torch.from_numpy(oracle.unit(rng.normal(size=(classes, 8)))).to(dtype)
    memory = empty(classes, 8, dtype=dtype)
    who = torch.from_numpy(rng.permutation(classes)[: classes - unseen].copy())
    update_memory(memory, rows[who], who, beta=0.9, step=3)
    return memory


def plainly(rows: Tensor, labels: Tensor, memory: CenterMemory) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, b, n and log-mass from all cosines at once, with torch's own gradient."""
    cosines = rows @ memory.directions.T
    own = cosines.gather(1, labels[:, None])[:, 0]
    rest = cosines.masked_fill(~memory.negatives, -torch.inf).scatter(1, labels[:, None], -torch.inf)
    other, index = rest.detach().max(1)
    return own, other, index, (rest / TAU).logsumexp(1)


@pytest.mark.parametrize(("classes", "unseen"), [(40, 0), (700, 3), (1100, 500)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_equal_all_cosines_at_once(
    classes: int, unseen: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(center_look, "_BLOCK", 1)  # 256 classes at a time
    rng = np.random.default_rng(1)
    memory = some_memory(classes, unseen, dtype)
    labels = torch.from_numpy(rng.choice(memory.seen.nonzero()[:, 0].numpy(), 33))
    raw = [torch.from_numpy(rng.normal(size=(33, 8))).to(dtype)] * 2
    raws = [rows.clone().requires_grad_() for rows in raw]
    got = look(unit_rows(raws[0]), labels, memory, TAU)
    own, other, index, mass = plainly(unit_rows(raws[1]), labels, memory)
    exact = 1e-13 if dtype == torch.float64 else 3e-6
    assert got.log_mass is not None
    assert torch.equal(got.index, index)
    torch.testing.assert_close((got.own, got.other, got.log_mass), (own, other, mass), rtol=0, atol=exact)
    weights = torch.from_numpy(rng.normal(size=(2, 33))).to(dtype)
    for a, m in ((got.own, got.log_mass), (own, mass)):
        (weights[0] * a + weights[1] * m).sum().backward()
    assert raws[0].grad is not None
    torch.testing.assert_close(raws[0].grad, raws[1].grad, rtol=0, atol=30 * exact)


def test_a_tie_over_two_blocks_goes_to_the_lowest_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(center_look, "_BLOCK", 1)
    memory = empty(900, 2)
    right = torch.tensor([[1.0, 0.0]]).double()
    who = torch.tensor([700, 290, 850])
    update_memory(memory, right.expand(3, 2), who, beta=0.9, step=0)
    assert look(right.expand(2, 2), torch.tensor([1, 290]), memory).index.tolist() == [290, 700]


def test_only_what_is_asked_for_has_a_gradient_and_own_cosines_are_those_of_the_look() -> None:
    rows = F.clone().requires_grad_()
    memory = after_f()
    labels = torch.cat([LABELS[:5], torch.tensor([3])])  # 3 is unseen
    got = look(rows, labels, memory)
    assert got.log_mass is None
    assert got.own.requires_grad
    assert not got.other.requires_grad
    torch.testing.assert_close(own_cosines(rows, labels, memory), got.own, rtol=0, atol=1e-15)
    assert present(got.own).tolist() == [True] * 5 + [False]
    assert float(got.own[5].detach()) == ABSENT
    with torch.no_grad():
        assert not look(rows, LABELS, memory, TAU).own.requires_grad


def test_centers_that_are_too_old_are_no_negatives_but_keep_their_own_samples() -> None:
    fresh, old = torch.arange(0, 20), torch.arange(20, 40)
    memory = empty(40, 8)
    rows = torch.from_numpy(oracle.unit(np.random.default_rng(0).normal(size=(40, 8))))
    update_memory(memory, rows[20:], old, beta=0.9, step=4)
    update_memory(memory, rows[:20], fresh, beta=0.9, step=5)
    aged = CenterMemory(**{**vars(memory), "oldest": 5})
    labels = torch.arange(40)
    every, some = look(rows, labels, memory, TAU), look(rows, labels, aged, TAU)
    assert int(every.index.max()) >= 20
    assert int(some.index.max()) < 20
    assert torch.equal(some.own, every.own)
    assert every.log_mass is not None
    assert some.log_mass is not None
    assert (some.log_mass < every.log_mass).all()
    half = look(
        rows[:20],
        fresh,
        CenterMemory(
            **{
                name: table[:20]
                for name, table in vars(memory).items()
                if name not in ("first_class", "oldest")
            }
        ),
        TAU,
    )
    torch.testing.assert_close(some.log_mass[:20], half.log_mass, rtol=0, atol=1e-14)


def test_a_range_of_no_class_sees_nothing_and_keeps_the_graph() -> None:
    rows = F.clone().requires_grad_()
    got = look(rows, LABELS, empty(0, 4, first_class=5), TAU)
    assert got.log_mass is not None
    assert (got.own == 0).all()
    assert (got.other == -1).all()
    assert (got.index == -1).all()
    assert (got.log_mass == -torch.inf).all()
    (gradient,) = torch.autograd.grad(got.own.sum() + got.log_mass.exp().sum(), rows)
    assert gradient.abs().sum() == 0


def test_fixture_g() -> None:
    (memory,) = shards_of_g([])
    sizes = torch.bincount(G_LABELS)
    close(memory.psi, torch.where(sizes == 3, 0.125, 0.1875).tolist(), 1e-14)
    assert float(memory.lengths[0]) == pytest.approx(0.372536485625, abs=1e-10)
    near = look(G, G_LABELS, memory, TAU)
    assert float(near.own.mean()) == pytest.approx(0.222221737153, abs=1e-10)
    assert float(near.other.mean()) == pytest.approx(0.785703099937, abs=1e-10)
    level = silhouette_level(near.stated, near.other)
    assert float(level.mean()) == pytest.approx(0.824725553558, abs=1e-10)
    assert near.log_mass is not None
    assert float(contrast_loss(near.own, near.log_mass, TAU)) == pytest.approx(6.138125448035, abs=1e-9)


@pytest.mark.parametrize("cuts", [[4], [3, 8], [1, 2], [4, 8, 11]])
def test_shards_equal_one_memory_bit_for_bit(cuts: list[int]) -> None:
    """Real processes are in tests/distributed."""
    (whole,) = shards_of_g([])
    shards = shards_of_g(cuts)
    for name in ("directions", "lengths", "psi", "visits", "last_step"):
        assert torch.equal(torch.cat([getattr(shard, name) for shard in shards]), getattr(whole, name)), name

    rows = [G.clone().requires_grad_() for _ in range(2)]
    expected = look(rows[0], G_LABELS, whole, TAU)
    parts = [look(rows[1], G_LABELS, shard, TAU) for shard in shards]
    order = np.random.default_rng(0).permutation(len(parts))
    other, index = nearest_of(
        *(torch.stack([getattr(parts[i], name) for i in order]) for name in ("other", "index"))
    )
    own = torch.stack([part.own for part in parts]).sum(0)
    masses = [part.log_mass for part in parts if part.log_mass is not None]
    assert expected.log_mass is not None
    assert torch.equal(index, expected.index)
    torch.testing.assert_close((own, other), (expected.own, expected.other), rtol=0, atol=1e-14)
    loss = contrast_loss(expected.own, expected.log_mass, TAU)
    sharded = contrast_loss(own, torch.stack(masses).logsumexp(0), TAU)
    torch.testing.assert_close(sharded, loss, rtol=0, atol=1e-14)
    gradients = [torch.autograd.grad(one, row)[0] for one, row in ((loss, rows[0]), (sharded, rows[1]))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-14)
