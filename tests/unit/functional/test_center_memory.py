"""The center memory and what it says of identities (oracles 1-5, 13 and 14 of jlcc.md)."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import centers as oracle
from topoface.functional.center_look import look
from topoface.functional.center_memory import (
    CenterMemory,
    blend_into,
    cohesion,
    corrected_similarity,
    leave_one_out,
    update_memory,
)
from topoface.functional.directions import unit_rows

F = torch.tensor(oracle.unit(oracle.fixture(6, 4)))
LABELS = torch.tensor([0, 0, 1, 2, 2, 4])
G = torch.tensor(oracle.unit(oracle.fixture(30, 6)))
G_LABELS = torch.tensor([(3 * i // 2) % 11 for i in range(30)])


def empty(classes: int, dims: int, first_class: int = 0, dtype: torch.dtype = torch.float64) -> CenterMemory:
    return CenterMemory(
        directions=torch.zeros(classes, dims, dtype=dtype),
        lengths=torch.zeros(classes, dtype=dtype),
        psi=torch.zeros(classes, dtype=dtype),
        visits=torch.zeros(classes, dtype=torch.int64),
        last_step=torch.zeros(classes, dtype=torch.int64),
        first_class=first_class,
    )


def after_f(beta: float = 0.9, rolls: tuple[int, ...] = (0,)) -> CenterMemory:
    memory = empty(5, 4)
    for step, roll in enumerate(rolls):
        update_memory(memory, F.roll(roll, 0), LABELS, beta=beta, step=step)
    return memory


def close(got: Tensor, expected: list[float], tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=tolerance)


def test_the_first_update() -> None:
    memory = after_f()
    close(memory.lengths, [0.929762107676, 1, 0.895170090761, 0, 1])
    close(memory.psi, [0.5, 1, 0.5, 0, 1])
    close(memory.directions[0], [0.6614673, 0.269323034, -0.519917595, -0.46862758], 1e-8)
    assert memory.visits.tolist() == [1, 1, 1, 0, 1]
    assert torch.equal(memory.directions[3], torch.zeros(4, dtype=torch.float64))


def test_cohesion_of_two_samples_is_their_similarity_and_one_sample_has_none() -> None:
    got = cohesion(after_f())
    close(got[[0, 2]], [0.728915153741, 0.602658982784])
    assert got.isnan().tolist() == [False, True, False, True, True]


def test_a_permuted_batch_gives_the_same_centers_and_the_same_bits_by_global_position() -> None:
    expected = after_f()
    for seed in range(5):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(6))
        free, fixed = empty(5, 4), empty(5, 4)
        update_memory(free, F[order], LABELS[order], beta=0.9, step=0)
        update_memory(fixed, F[order], LABELS[order], beta=0.9, step=0, order=order)
        torch.testing.assert_close(free.means, expected.means, rtol=0, atol=1e-15)
        assert torch.equal(fixed.directions, expected.directions)
        assert torch.equal(fixed.lengths, expected.lengths)


def test_the_sequential_rule_depends_on_the_order() -> None:
    def sequential(rows: Tensor) -> Tensor:
        center = rows[0]
        for row in rows[1:]:
            center = unit_rows((0.9 * center + 0.1 * row)[None])[0]
        return center

    # forward and backward from the same start
    start, samples = F[:1], F[1:6]
    difference = sequential(torch.cat([start, samples])) - sequential(torch.cat([start, samples.flip(0)]))
    assert float(difference.norm()) == pytest.approx(0.0780, abs=5e-5)


def test_the_mean_is_plain_until_beta_takes_over() -> None:
    memory = after_f(rolls=(0, 1, 2))
    six = torch.stack([F.roll(roll, 0)[i] for roll in (0, 1, 2) for i in (0, 1)])
    torch.testing.assert_close(memory.means[0], six.mean(0), rtol=0, atol=1e-14)
    assert float(memory.psi[0]) == pytest.approx(1 / 6, abs=1e-14)
    assert memory.visits.tolist() == [3, 3, 3, 0, 3]
    assert memory.last_step.tolist() == [2, 2, 2, 0, 2]


def test_beta_one_half() -> None:
    memory = after_f(beta=0.5, rolls=(0, 1, 2))
    close(memory.means[0], [-0.144131370211, 0.009357535621, 0.243518138169, -0.260501643663])
    close(memory.psi, [0.1875, 0.375, 0.1875, 0, 0.375])


def test_many_random_updates_equal_the_dictionary_of_means() -> None:
    rng = np.random.default_rng(0)
    memory, naive = empty(7, 4), oracle.Memory()
    for step in range(30):
        rows, labels = oracle.unit(rng.normal(size=(9, 4))), rng.integers(0, 6, 9)
        update_memory(memory, torch.from_numpy(rows), torch.from_numpy(labels), beta=0.8, step=step)
        naive.update(rows, labels.tolist(), 0.8)
    for k, mean in naive.r.items():
        close(memory.means[k], mean.tolist(), 1e-14)
        assert float(memory.psi[k]) == pytest.approx(naive.psi[k], rel=1e-14)
    rows, labels = oracle.unit(rng.normal(size=(20, 4))), rng.integers(0, 7, 20)
    got = look(torch.from_numpy(rows), torch.from_numpy(labels), memory)
    for i in range(20):
        a, b, n = naive.nearest(rows[i], int(labels[i]))
        np.testing.assert_allclose([float(got.stated[i]), float(got.other[i])], [a, b], atol=1e-14)
        assert int(got.index[i]) == n


@pytest.mark.parametrize(
    ("updates", "per_update", "beta"), [(1, 2, 0.9), (5, 1, 0.9), (30, 1, 0.9), (20, 2, 0.5)]
)
def test_cohesion_is_unbiased_and_the_squared_length_is_not(
    updates: int, per_update: int, beta: float
) -> None:
    rng = np.random.default_rng(updates)
    direction = np.zeros(16)
    direction[0] = 1.0

    def samples(*shape: int) -> np.ndarray:
        rows = direction + 0.24 * rng.normal(size=(*shape, 16))
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    truth = float((samples(3000).mean(0) ** 2).sum())
    memory = empty(400, 16)  # each class is one repetition
    for step in range(updates):
        rows = samples(400, per_update).reshape(-1, 16)
        labels = np.repeat(np.arange(400), per_update)
        update_memory(memory, torch.from_numpy(rows), torch.from_numpy(labels), beta=beta, step=step)
    psi = float(memory.psi[0])
    assert 0.03 < psi <= 0.5
    assert abs(float(cohesion(memory).mean()) - truth) < 0.02
    bias = float((memory.lengths**2).mean()) - truth
    assert bias == pytest.approx(psi * (1 - truth), abs=0.015)
    if psi > 0.05:
        assert bias > 0.02


def test_leaving_a_sample_out_leaves_its_partner() -> None:
    memory = after_f()
    own = look(F, LABELS, memory).stated
    got = leave_one_out(own, memory.lengths[LABELS], memory.psi[LABELS])
    close(got[[0, 1, 3, 4]], [0.728915153741, 0.728915153741, 0.602658982784, 0.602658982784])
    assert got[[2, 5]].isnan().all()


def test_leaving_one_out_of_many_in_float32_equals_removing_it() -> None:
    rng = np.random.default_rng(3)
    rows = torch.tensor(oracle.unit(rng.normal(size=(10, 8)) + 1), dtype=torch.float32)
    labels = torch.zeros(10, dtype=torch.int64)
    memory = empty(1, 8, dtype=torch.float32)
    update_memory(memory, rows, labels, beta=0.9, step=0)
    got = leave_one_out(look(rows, labels, memory).stated, memory.lengths[labels], memory.psi[labels])
    rest = (rows.sum(0, keepdim=True) - rows) / 9
    torch.testing.assert_close(got, (rows * unit_rows(rest)).sum(1), rtol=0, atol=5e-7)


def test_similarity_of_two_identities_freed_of_noise() -> None:
    memory = after_f()
    first, second = torch.tensor([0]), torch.tensor([2])
    assert float(memory.means[0] @ memory.means[2]) == pytest.approx(-0.677604438563, abs=1e-10)
    cross = F[:2] @ F[3:5].T
    assert float(cross.mean()) == pytest.approx(-0.677604438563, abs=1e-10)
    close(corrected_similarity(memory, first, second), [-1.022355494742])
    assert float(memory.directions[0] @ memory.directions[2]) == pytest.approx(-0.814139519107, abs=1e-10)
    assert corrected_similarity(memory, torch.tensor([0, 3]), torch.tensor([1, 3])).isnan().all()


def test_two_halves_of_one_identity_have_similarity_one() -> None:
    rng = np.random.default_rng(1)
    people, images = 100, 6
    who = rng.normal(size=(people, 16))
    rows = oracle.unit(np.repeat(who, 2 * images, 0) + 0.6 * rng.normal(size=(people * 2 * images, 16)))
    labels = np.repeat(np.arange(2 * people), images)  # person p is classes 2p and 2p + 1
    memory = empty(2 * people, 16)
    update_memory(memory, torch.from_numpy(rows), torch.from_numpy(labels), beta=0.9, step=0)
    even = torch.arange(0, 2 * people, 2)
    gamma = corrected_similarity(memory, even, even + 1)
    raw = (memory.directions[even] * memory.directions[even + 1]).sum(1)
    assert float(gamma.mean()) == pytest.approx(1, abs=0.05)
    assert float(raw.mean()) < float(gamma.mean()) - 0.02


def shards_of_g(cuts: list[int]) -> list[CenterMemory]:
    bounds = list(zip([0, *cuts], [*cuts, 11], strict=True))
    shards = [empty(stop - start, 6, start) for start, stop in bounds]
    for step in range(3):
        for shard in shards:
            update_memory(shard, G.roll(step, 0), G_LABELS, beta=0.5, step=step)
    return shards


def test_a_shard_without_a_row_of_its_own_stays_as_it_is() -> None:
    shard = empty(3, 4, first_class=2)
    update_memory(shard, F, LABELS, beta=0.9, step=0)
    before = shard.means.clone(), shard.visits.clone()
    update_memory(shard, F[:3], LABELS[:3], beta=0.9, step=1)
    assert torch.equal(shard.means, before[0])
    assert torch.equal(shard.visits, before[1])
    assert shard.last_step.tolist() == [0, 0, 0]


def test_rows_that_do_not_count_leave_their_center() -> None:
    all_but_one, without = empty(5, 4), empty(5, 4)
    counted = torch.tensor([True, False, True, True, True, False])
    update_memory(all_but_one, F, LABELS, beta=0.9, step=0, counted=counted)
    update_memory(without, F[counted], LABELS[counted], beta=0.9, step=0)
    for name in ("directions", "lengths", "psi", "visits"):
        assert torch.equal(getattr(all_but_one, name), getattr(without, name)), name
    assert all_but_one.visits.tolist() == [1, 1, 1, 0, 0]


def test_a_range_of_no_class_takes_everything_and_keeps_nothing() -> None:
    update_memory(empty(0, 4, first_class=5), F, LABELS, beta=0.9, step=0)
    blend_into(torch.zeros(0), torch.ones(6), LABELS, kept=0.5, first_class=5)


def test_a_running_mean_by_class_takes_its_first_value_whole_and_passes_over_nan() -> None:
    table = torch.full((4,), torch.nan, dtype=torch.float64)
    values = torch.tensor([1.0, 3.0, torch.nan, 5.0], dtype=torch.float64)
    blend_into(table, values, torch.tensor([1, 1, 2, 3]), kept=0.8)
    np.testing.assert_array_equal(table.numpy(), [np.nan, 2, np.nan, 5])
    blend_into(table, values, torch.tensor([1, 0, 1, 2]), kept=0.8)
    np.testing.assert_allclose(table.numpy(), [3, 0.8 * 2 + 0.2 * 1, 5, 5])
    before = table.clone()
    blend_into(table, torch.full((2,), torch.nan).double(), torch.tensor([0, 1]), kept=0.8)
    assert torch.equal(table, before)
