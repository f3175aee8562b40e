"""The loader: what is in a batch depends on (source, order, seed, step, rank) alone, and nothing is left behind."""

import gc
import itertools
import threading
import time

import numpy as np
import pytest
import torch

from tests.unit.data.recfile import encoded, face, plain_records, write_folder, write_rec
from topoface.data import Batch, IdentityBalancedOrder, Loader, UniformOrder, open_source
from topoface.data.loader import BufferPool
from topoface.errors import UserError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source(write_rec(tmp_path_factory.mktemp("faces"), plain_records(5, 6), declared=5))


def make(source, **options) -> Loader:
    return Loader(source, UniformOrder(len(source), 8, 1), **{"seed": 1, **options})


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.labels, second.labels)
        and torch.equal(first.indices, second.indices)
        and first.draws == second.draws
    )


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("topoface-loader")]


def test_a_batch_holds_the_images_of_its_order_flipped_or_not(source) -> None:
    loader, flips = make(source), 0
    for step, batch in enumerate(loader.batches(0, 30)):
        assert np.array_equal(batch.indices, loader.order.indices(step))
        assert np.array_equal(batch.labels, source.labels[batch.indices])
        for image, i in zip(batch.images.permute(0, 2, 3, 1).numpy(), batch.indices.tolist(), strict=True):
            plain = source[i][0]
            flipped = np.array_equal(image, plain[:, ::-1])
            assert flipped or np.array_equal(image, plain)
            flips += flipped
    assert 85 <= flips <= 155  # 240 coins: 120 +- 7.7, 4.5 sigma


def test_without_flip_images_are_as_stored(source) -> None:
    batch = make(source, flip=False).batch(0)
    stored = np.stack([source[i][0] for i in batch.indices.tolist()])
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), stored)


def test_images_are_uint8_channels_last_views(source) -> None:
    batch = make(source).batch(0)
    assert (batch.images.shape, batch.images.dtype) == ((8, 3, 112, 112), torch.uint8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert batch.extras == {}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_order_and_pixels_do_not_depend_on_the_thread_count(source, threads) -> None:
    expected = [make(source).batch(step) for step in range(3, 15)]
    batches = list(make(source, threads=threads).batches(3, 15))
    assert len(batches) == 12
    assert all(map(same, batches, expected))


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (4, 1), (1, 2), (2, 2), (1, 8)])
def test_shares_of_ranks_and_micro_batches_make_up_the_batch_of_one_process(source, world_size, accumulation):
    whole = make(source).batch(5)
    ranks = [
        make(source, rank=rank, world_size=world_size, accumulation=accumulation).batches(5, 6)
        for rank in range(world_size)
    ]
    shares = list(itertools.chain(*zip(*ranks, strict=True)))
    assert len(shares) == world_size * accumulation
    for name in ("images", "labels", "indices"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))
    drawn = np.concatenate([share.draws.uniform("noise", 2) for share in shares])
    assert np.array_equal(drawn, whole.draws.uniform("noise", 2))


def test_a_batch_that_does_not_divide_is_refused(source) -> None:
    message = r"is 8, which 3 processes x 2 micro-batches do not divide; choose a multiple of 6"
    with pytest.raises(UserError, match=message):
        make(source, world_size=3, accumulation=2)


def test_a_balanced_order_plugs_in(source) -> None:
    loader = Loader(source, IdentityBalancedOrder(source.labels, 4, 2, 0), seed=0)
    batch = next(loader.batches(0, 1))
    assert len(set(batch.labels[::2].tolist())) == 4
    assert torch.equal(batch.labels[::2], batch.labels[1::2])


def test_a_kept_batch_never_changes(source) -> None:
    kept, copies = [], []
    for step, batch in enumerate(make(source).batches(0, 40)):
        if step % 3 == 0:
            # Keep it in different disguises: the batch, one row of it, a NumPy view, a storage.
            disguise = (
                batch.images,
                batch.images[2:3],
                batch.images.numpy()[1],
                batch.images.view(-1, 3, 112, 112),
            )
            kept.append(disguise[step // 3 % 4])
            copies.append(torch.as_tensor(kept[-1]).clone())
        del batch
    assert all(torch.equal(torch.as_tensor(view), copy) for view, copy in zip(kept, copies, strict=True))


def test_buffers_of_dropped_batches_are_used_again(source) -> None:
    loader = make(source)
    addresses = {batch.images.data_ptr() for batch in loader.batches(0, 60)}
    assert len(addresses) <= 2 * loader.threads + 3  # in flight, in the consumer's hand, in the making


def test_a_buffer_comes_back_only_with_the_last_view() -> None:
    pool = BufferPool((2, 3))
    buffer, storage = pool.take()
    address = buffer.ctypes.data
    tensor = torch.from_numpy(storage)
    view, array = tensor[1:], tensor.numpy()[:1]
    del buffer, storage, tensor
    assert pool.take()[0].ctypes.data != address
    del view
    assert pool.take()[0].ctypes.data != address
    del array
    gc.collect()
    assert address in [pool.take()[0].ctypes.data for _ in range(4)]


def test_an_unreadable_image_surfaces_at_its_step_by_name(tmp_path) -> None:
    write_folder(tmp_path, 4, 8)
    (tmp_path / "person_2" / "3.jpg").write_bytes(b"\xff\xd8\xff")
    loader = make(open_source(tmp_path))
    bad = next(step for step in range(4) if 19 in loader.order.indices(step))
    batches = loader.batches(0, 4)
    assert len(list(itertools.islice(batches, bad))) == bad
    with pytest.raises(UserError, match=r"person_2/3\.jpg: cannot be decoded"):
        next(batches)
    assert ours() == []


def test_a_face_of_another_size_surfaces_by_name_and_size(tmp_path) -> None:
    write_folder(tmp_path)
    (tmp_path / "person_2" / "3.jpg").write_bytes(encoded(face(1, side=80)))
    assert open_source(tmp_path)[11][0].shape == (80, 80, 3)
    with pytest.raises(UserError, match=r"person_2/3\.jpg: the image is 80 x 80 pixels, .*112 x 112; align"):
        list(make(open_source(tmp_path)).batches(0, 5))


@pytest.mark.parametrize("ending", ["close", "drop", "raise", "exhaust", "interrupt"])
def test_no_thread_outlives_the_iterator(source, ending) -> None:
    before = threading.active_count()
    batches = make(source).batches(0, 1000 if ending != "exhaust" else 3)
    next(batches)
    assert 1 <= len(ours()) <= 2
    match ending:
        case "close":
            batches.close()
        case "drop":
            del batches
        case "exhaust":
            assert len(list(batches)) == 2
        case "raise" | "interrupt":
            kind = RuntimeError if ending == "raise" else KeyboardInterrupt
            with pytest.raises(kind):
                batches.throw(kind())
    gc.collect()
    assert threading.active_count() == before
    assert ours() == []


def test_no_more_than_a_few_batches_are_made_in_advance(source) -> None:
    made = []
    batches = make(source, prepare=[lambda batch: made.append(1) or {}]).batches(0, 100)
    next(batches)
    time.sleep(0.3)
    assert len(made) <= 4
    batches.close()


def test_prepared_arrays_travel_with_their_batch(source) -> None:
    def mean(batch: Batch) -> dict[str, torch.Tensor]:
        assert threading.current_thread().name.startswith("topoface-loader")
        assert not torch.is_grad_enabled()
        return {"mean": batch.images.float().mean((1, 2, 3))}

    for batch in make(source, prepare=[mean, lambda batch: {"twice": batch.labels * 2}]).batches(0, 5):
        assert torch.equal(batch.extras["mean"], batch.images.float().mean((1, 2, 3)))
        assert torch.equal(batch.extras["twice"], batch.labels * 2)


def test_two_prepared_arrays_of_one_name_are_refused(source) -> None:
    loader = make(source, prepare=[lambda batch: {"code": batch.labels}] * 2)
    with pytest.raises(UserError, match="two methods prepare an array 'code'"):
        next(loader.batches(0, 1))


def test_the_memory_of_numpy_labels_is_not_shared_with_the_source(source) -> None:
    batch = make(source).batch(0)
    batch.labels.fill_(99)
    assert source.labels.max() == 4
