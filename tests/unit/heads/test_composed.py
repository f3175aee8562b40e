"""The softmax over code vectors: the fixture's numbers, the dense softmax it stands for, and who counts as a negative."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.code_tables import CodesOf, NamedSource
from tests.oracles import identity_codes as oracle
from topoface.codes.table import write_table
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws
from topoface.functional.identity_codes import nearest_others
from topoface.heads import Composed, StatisticsRequest
from topoface.recipe import Component
from topoface.recipe.components import build

Z = oracle.unit(oracle.fixture(3, 4))
LABELS = torch.arange(3)


def batch_of(labels: Tensor, step: int = 0) -> Batch:
    n = len(labels)
    return Batch(
        images=torch.zeros(n, 3, 112, 112, dtype=torch.uint8),
        labels=labels,
        indices=torch.arange(n),
        draws=SampleDraws(seed=0, step=step, global_size=n, start=0, stop=n),
    )


def make(codes: CodesOf, **settings: Any) -> Composed:
    settings = {"scale": 10.0, "margin": 0.2, **settings}
    head = Composed(codes.dimension, codes.identities, table=str(codes.folder), **settings).double()
    head.connect(codes.source)
    return head


def vectors_by_label(codes: CodesOf) -> Tensor:
    rows = codes.table.rows_of(codes.source.names, "test")
    return oracle.unit(torch.from_numpy(codes.table.unit_vectors(rows)).double())


@pytest.fixture
def codes(tmp_path: Path) -> CodesOf:
    return CodesOf(folder=tmp_path / "t", identities=40, alphabets=(4, 4, 4), dimension=16)


def test_the_fixture(tmp_path: Path) -> None:
    """To what float16 vectors leave of it: the formula itself is held to 1e-10 in test_identity_codes."""
    h = oracle.unit(oracle.fixture(5, 4, 0.5, 1.1, 0.41))
    tokens = np.array([[0, 0], [1, 2], [2, 1], [0, 2], [1, 1]])
    names = NamedSource(list("abcde"))
    write_table(tmp_path / "t", codes=tokens, alphabets=(3, 3), uids=names.names, vectors=h.numpy())
    head = Composed(4, 5, table=str(tmp_path / "t"), scale=10.0, margin=0.2).double()
    head.connect(names)
    assert head.rows is not None
    head.rows.data = 0.3 * oracle.fixture(6, 4, 0.7, 1.3, 0.19).flatten()
    losses = head(Z, LABELS).loss.detach()
    assert losses.tolist() == pytest.approx([0.596668210282, 11.948763037239, 15.141348868748], rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [{"centers": "frozen", "negatives": None}, {"negatives": None}, {"negatives": 0, "neighbours": 39}],
)
def test_with_everybody_it_is_the_dense_softmax(codes: CodesOf, settings: dict[str, Any]) -> None:
    head = make(codes, **settings)
    labels = torch.tensor([0, 7, 7, 39, 21])
    z = oracle.fixture(5, 16).requires_grad_()
    stats = head(z, labels)
    logits = 10 * torch.nn.functional.normalize(z) @ vectors_by_label(codes).T
    logits = logits - 2 * torch.nn.functional.one_hot(labels, 40)
    dense = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(stats.loss, dense, rtol=0, atol=1e-12)
    for got, expected in zip(
        torch.autograd.grad(stats.loss.sum(), z), torch.autograd.grad(dense.sum(), z), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    p = logits.detach().softmax(1)
    torch.testing.assert_close(stats.entropy, -(p * p.log()).sum(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        stats.target_probability, p.gather(1, labels[:, None])[:, 0], rtol=0, atol=1e-12
    )


def test_each_identity_counts_once_and_one_s_own_never(codes: CodesOf) -> None:
    """Batch, drawn and neighbours overlap; the negatives are the union without the own identity."""
    head = make(codes, negatives=12, neighbours=5)
    labels = torch.tensor([3, 3, 8, 30])
    extras = head.prepare(batch_of(labels, step=4))
    z = oracle.fixture(4, 16)
    losses = head(z, labels, extras=extras).loss.detach()
    h = vectors_by_label(codes)
    shared = set(labels.tolist()) | set(extras["other_labels"].tolist())
    assert len(set(extras["other_labels"].tolist())) == 12
    for i in range(4):
        near = set(extras["near_labels"][i].tolist())
        others = sorted((shared | near) - {int(labels[i])})
        rows = torch.cat([h[labels[i], None], h[others]])
        assert float(losses[i]) == pytest.approx(oracle.centers_loss(z[i], rows, 0, 10.0, 0.2), abs=1e-12)


def test_who_is_drawn_depends_on_seed_and_step_alone(codes: CodesOf) -> None:
    head = make(codes, negatives=12)
    one, again, later = (
        head.prepare(batch_of(labels, step)) for labels, step in ((LABELS, 3), (LABELS + 5, 3), (LABELS, 4))
    )
    assert torch.equal(one["other_labels"], again["other_labels"])
    assert not torch.equal(one["other_labels"], later["other_labels"])
    assert one["other_vectors"].dtype == torch.float32


def test_the_rows_are_all_that_is_trained_and_no_weight_decay_finds_them(codes: CodesOf) -> None:
    head = make(codes)
    assert {name: p.shape for name, p in head.named_parameters()} == {"rows": (12 * 16,)}
    assert not list(make(codes, centers="frozen").parameters())
    head(oracle.fixture(3, 16), LABELS).loss.sum().backward()
    assert head.rows is not None
    assert head.rows.grad is not None
    assert head.rows.grad.abs().sum() > 0


@pytest.mark.parametrize("centers", ["composed", "books"])
def test_gradient_of_the_rows_equals_finite_differences(codes: CodesOf, centers: Any) -> None:
    head = make(codes, centers=centers, negatives=6, neighbours=3, scale=4.0)
    assert head.rows is not None
    start = head.rows.detach() + 0.1 * torch.randn(
        192, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    extras = dict(head.prepare(batch_of(LABELS)))

    def loss(points: Tensor, rows: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"rows": rows}, (points, LABELS), {"extras": extras}).loss

    z = oracle.fixture(3, 16).requires_grad_()
    assert torch.autograd.gradcheck(loss, (z, start.requires_grad_()))


def test_books_start_from_the_table_s_and_need_no_vectors(codes: CodesOf, tmp_path: Path) -> None:
    write_table(
        tmp_path / "no_vectors",
        codes=codes.table.codes,
        alphabets=(4, 4, 4),
        uids=list(codes.table.uids),
        books=codes.table.books,
    )
    head = Composed(16, 40, table=str(tmp_path / "no_vectors"), centers="books", negatives=10)
    head.connect(codes.source)
    assert codes.table.books is not None
    assert head.rows is not None
    assert torch.equal(head.rows.view(12, 16), torch.from_numpy(np.array(codes.table.books)))
    assert head(torch.ones(3, 16), LABELS).loss.isfinite().all()
    with pytest.raises(UserError, match="no code vectors"):
        Composed(16, 40, table=str(tmp_path / "no_vectors"))


def test_shift_extra_and_statistics_are_those_of_every_head(codes: CodesOf) -> None:
    head = make(codes, negatives=None)
    z = oracle.fixture(3, 16).requires_grad_()
    plain = head(z, LABELS)
    shift = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    shifted = head(z, LABELS, shift=shift).loss
    assert torch.equal(shifted[0], plain.loss[0])
    assert (shifted[1:] > plain.loss[1:]).all()
    u = torch.tensor(3.0, dtype=torch.float64)
    joined = head(z, LABELS, extra=u)
    torch.testing.assert_close(joined.extra_probability, (1 - (plain.loss - joined.loss).exp()).detach())
    assert torch.equal(joined.entropy, plain.entropy)
    assert not plain.entropy.requires_grad
    assert head(z, LABELS, request=StatisticsRequest(differentiable=True)).entropy.requires_grad
    unmargined = head(z, LABELS, request=StatisticsRequest(margin=False))
    assert (unmargined.target_probability > plain.target_probability).all()
    assert (head.scale, head.margin_room) == (10.0, 0.2)


def test_half_embeddings_give_the_float32_loss_of_the_same_numbers(codes: CodesOf) -> None:
    head = make(codes, negatives=9, neighbours=2).float()
    half = oracle.fixture(3, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        stats = head(half, LABELS)
    assert stats.loss.dtype == torch.float32
    assert torch.equal(stats.loss, head(half.float(), LABELS).loss)


def test_a_batch_of_one_identity_without_negatives_has_no_loss(codes: CodesOf) -> None:
    head = make(codes, negatives=0)
    z = oracle.fixture(2, 16).requires_grad_()
    stats = head(z, torch.zeros(2, dtype=torch.int64))
    stats.loss.sum().backward()
    assert stats.loss.tolist() == [0, 0]
    assert stats.entropy.tolist() == [0, 0]
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"table": "nowhere"}, "head.init_args.table: is 'nowhere'.*topoface codes build"),
        ({"scale": 0.0}, "head.init_args.scale"),
        ({"margin": -0.1}, "head.init_args.margin"),
        ({"negatives": -1}, "head.init_args.negatives"),
        ({"neighbours": -1}, "head.init_args.neighbours"),
    ],
)
def test_impossible_settings_are_refused(codes: CodesOf, settings: dict[str, Any], message: str) -> None:
    component = Component(class_path="Composed", init_args={"table": str(codes.folder), **settings})
    with pytest.raises(UserError, match=message):
        build(component, "head", 16, 40, seed=0)


def test_a_table_of_another_width_or_all_of_too_many_identities_is_refused(codes: CodesOf) -> None:
    with pytest.raises(UserError, match="16 numbers and embeddings 8"):
        Composed(8, 40, table=str(codes.folder))
    with pytest.raises(UserError, match="negatives"):
        Composed(16, 200_000, table=str(codes.folder), negatives=None)


def test_neighbours_are_found_without_all_code_vectors_in_memory(tmp_path: Path) -> None:
    """The arrays read from the table stay below half of them at any time, and what is found is what a copy of all gives."""
    codes = CodesOf(folder=tmp_path / "t", identities=20_000, alphabets=(64, 400), dimension=512)
    head = Composed(512, 20_000, table=str(codes.folder), centers="frozen", neighbours=4)
    tracemalloc.start()
    try:
        head.connect(codes.source)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    vectors = torch.from_numpy(codes.table.unit_vectors(head.codes.rows(torch.arange(20_000))))
    assert most < vectors.nbytes / 2
    tokens = torch.from_numpy(codes.table.tokens(head.codes.rows(torch.arange(20_000)))[:, 0])
    assert head._nearest is not None
    assert torch.equal(head._nearest.long(), nearest_others(vectors.__getitem__, tokens, 4))
