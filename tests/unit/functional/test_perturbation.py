"""Random structure perturbation: each operation against a pixel-by-pixel one, and what must stay untouched."""

from itertools import permutations

import numpy as np
import pytest
import torch

from tests.oracles import perturbation as oracle
from topoface.errors import UserError
from topoface.functional import perturbation
from topoface.functional.draws import SampleDraws, generator
from topoface.functional.perturbation import (
    DRAWS,
    MILD_RANGES,
    OPERATIONS,
    RELEASE_RANGES,
    PerturbationRanges,
    colour_jitter,
    erase,
    erase_boxes,
    gaussian_blur,
    grey,
    perturb_structure,
)


def pictures(k=4, height=14, width=11, seed=0):
    """Float64 images with some greys and some pure colours among the pixels."""
    x = torch.from_numpy(np.random.default_rng(seed).random((k, 3, height, width)))
    x[:, :, 0, 0] = 0.3
    x[:, :, 0, 1] = 0
    x[:, :, 0, 2] = torch.tensor([1.0, 0, 0])
    x[:, :, 0, 3] = torch.tensor([0.2, 0.9, 0.9])
    return x


def bytes_of(n, *, size=(12, 10), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, *size), dtype=np.uint8))


def uniform(n, seed=0):
    return generator(seed, "rsp test").random((n, DRAWS))


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=tolerance)


def test_blur_equals_the_sum_over_neighbours():
    images, sigma = pictures(), torch.tensor([0.1, 0.7, 2, 5], dtype=torch.float64)
    for image, s, found in zip(images, sigma, gaussian_blur(images, sigma), strict=True):
        close(found, oracle.blur(image.numpy(), float(s)))


def test_the_blur_of_an_impulse_is_nine_high_and_five_wide():
    impulse = torch.zeros(1, 3, 21, 21)
    impulse[:, :, 10, 10] = 1
    found = gaussian_blur(impulse, torch.tensor([5.0]))[0]
    rows, columns = (found[0] > 0).nonzero(as_tuple=True)
    assert (rows.unique().tolist(), columns.unique().tolist()) == (list(range(6, 15)), list(range(8, 13)))
    assert found.sum((1, 2)).tolist() == pytest.approx([1, 1, 1])


def test_grey_equals_its_formula():
    images = pictures()
    for image, found in zip(images, grey(images), strict=True):
        close(found, oracle.grey(image.numpy()))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]])
def test_jitter_equals_the_changes_one_by_one(order):
    images = pictures()
    factors = torch.from_numpy(np.random.default_rng(1).random((4, 4)) * [2, 2, 2, 0.5])
    factors[1, 3] *= -1
    orders = np.array([order, order[::-1], order[2:] + order[:2], order])
    found = colour_jitter(images, factors, orders)
    for row in range(4):
        close(found[row], oracle.jitter(images[row].numpy(), factors[row].tolist(), orders[row].tolist()))


@pytest.mark.parametrize(
    ("factors", "before", "after"),
    [
        ([0.5, 1, 1, 0], [0.8, 0.8, 0.8], [0.4, 0.4, 0.4]),
        ([1, 1, 1, 1 / 3], [1, 0, 0], [0, 1, 0]),
        ([1, 1, 1, -1 / 3], [1, 0, 0], [0, 0, 1]),
        ([1, 1, 1, 3 + 1 / 6], [1, 0, 0], [1, 1, 0]),
        ([1, 1, 1, -2], [0.5, 0.2, 0.7], [0.5, 0.2, 0.7]),
        ([1, 1, 0, 0], [0.5, 0.2, 0.7], [0.34665] * 3),
        ([1, 0, 1, 0], [0.5, 0.2, 0.7], [0.34665] * 3),
        ([1, 1, 1, 0], [0.5, 0.2, 0.7], [0.5, 0.2, 0.7]),
        ([3, 1, 1, 0], [0.5, 0.2, 0.7], [1, 0.6, 1]),
    ],
)
def test_jitter_examples(factors, before, after):
    image = torch.tensor(before, dtype=torch.float32)[None, :, None, None].expand(1, 3, 2, 2)
    found = colour_jitter(image, torch.tensor([factors], dtype=torch.float32), np.array([[0, 1, 2, 3]]))
    assert found[0, :, 1, 1].tolist() == pytest.approx(after, abs=1e-6)


def test_erase_fills_its_rectangle_and_nothing_else():
    boxes = [[0, 0, 3, 2], [5, 4, 9, 7], [2, 3, 0, 0], [13, 10, 1, 1]]
    for image, box in zip(pictures(), boxes, strict=True):
        expected = oracle.erase(image.numpy(), *box, fill=0.25)
        erase(image, box, 0.25)
        close(image, expected, tolerance=0)


def test_erase_boxes_are_the_first_try_that_fits():
    rng = np.random.default_rng(2)
    for height, width in ((112, 112), (40, 90), (3, 3)):
        corner, tries = rng.random((300, 2)), rng.random((300, 10, 2))
        for box, c, t in zip(
            erase_boxes(corner, tries, height=height, width=width), corner, tries, strict=True
        ):
            expected = oracle.erase_box(c, t, height, width)
            assert tuple(box[2:]) == (0, 0) if expected is None else tuple(box) == expected


def test_erase_boxes_lie_inside_and_cover_the_share_of_the_release():
    rng = np.random.default_rng(3)
    corner, tries = rng.random((20_000, 2)), rng.random((20_000, 10, 2))
    corner[:2] = [[0, 0], [np.nextafter(1, 0)] * 2]
    top, left, tall, wide = erase_boxes(corner, tries, height=112, width=112).T
    assert min(top.min(), left.min()) == 0
    assert max((top + tall).max(), (left + wide).max()) == 112
    assert (tall * wide / 112**2).mean() == pytest.approx(0.175, abs=0.005)


def test_a_rectangle_that_never_fits_erases_nothing():
    tries = np.full((1, 10, 2), 0.999999)
    wide = PerturbationRanges(erase_area=(0.9, 1.0))
    assert erase_boxes(np.full((1, 2), 0.5), tries, height=50, width=50, ranges=wide)[0, 2:].tolist() == [
        0,
        0,
    ]


def test_probability_zero_is_an_exact_copy_in_new_memory():
    images = bytes_of(20)
    view, operation = perturb_structure(images, uniform(20), probability=0)
    assert torch.equal(view, images.float())
    assert view.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
    assert operation.tolist() == [-1] * 20


def test_probability_one_touches_every_image():
    images = bytes_of(60)
    view, operation = perturb_structure(images, uniform(60), probability=1)
    assert operation.min() >= 0
    assert (view != images).flatten(1).any(1).all()


def test_every_order_of_the_jitter_is_followed():
    orders = np.array(list(permutations(range(4))))
    images = pictures(len(orders), 4, 5)
    factors = torch.from_numpy(np.random.default_rng(4).random((len(orders), 4)) * [2, 2, 2, 1])
    found = colour_jitter(images, factors, orders)
    for row, order in enumerate(orders.tolist()):
        close(found[row], oracle.jitter(images[row].numpy(), factors[row].tolist(), order))


def test_the_hue_turns_right_from_everywhere_on_the_circle():
    levels = np.linspace(0, 1, 6)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=0).reshape(1, 3, 6, 36)
    turns = np.linspace(-1.3, 1.3, 27)
    images = torch.from_numpy(colours).repeat(len(turns), 1, 1, 1)
    factors = torch.ones(len(turns), 4, dtype=torch.float64)
    factors[:, 3] = torch.from_numpy(turns)
    found = colour_jitter(images, factors, np.tile(np.arange(4), (len(turns), 1)))
    for image, turn in zip(found, turns, strict=True):
        close(image, oracle.hue(colours[0], turn))


def test_neither_layout_nor_dtype_of_the_images_matters():
    images, draws = bytes_of(60), uniform(60)
    first, last = torch.contiguous_format, torch.channels_last
    forms = [x.contiguous(memory_format=form) for x in (images, images.float()) for form in (first, last)]
    expected, *others = (perturb_structure(form, draws, probability=1)[0] for form in forms)
    for other in others:
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-4)
    assert torch.equal(forms[2], images)
    assert torch.equal(forms[3], images)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_clean_images_are_never_changed_and_untouched_rows_are_exact(layout):
    images = bytes_of(200).contiguous(memory_format=layout)
    before = images.clone()
    view, operation = perturb_structure(images, uniform(200), probability=0.5)
    assert torch.equal(images, before)
    assert view.dtype == torch.float32
    assert view.min() >= 0
    assert view.max() <= 255.0001
    still = operation < 0
    assert torch.equal(view[still], images[still].float())
    assert 60 < still.sum() < 140


def test_frequencies():
    n = 20_480
    _, operation = perturb_structure(bytes_of(n, size=(10, 6)), uniform(n))
    share = (operation[:, None] == torch.arange(-1, 4)).double().mean(0)
    assert share.tolist() == pytest.approx([0.8, 0.05, 0.05, 0.05, 0.05], abs=0.005)


def test_each_image_gets_what_its_own_numbers_say():
    images, draws = bytes_of(80), uniform(80)
    view, operation = perturb_structure(images, draws, probability=0.9)
    assert set(operation.tolist()) == {-1, 0, 1, 2, 3}
    for row in range(80):
        alone, code = perturb_structure(images[row : row + 1], draws[row : row + 1], probability=0.9)
        assert code[0] == operation[row]
        torch.testing.assert_close(alone[0], view[row], rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_whole_equals_the_oracle_on_the_same_numbers(layout):
    images = bytes_of(40, size=(16, 12)).contiguous(memory_format=layout)
    draws = uniform(40, seed=5)
    view, operation = perturb_structure(images, draws, probability=1)
    low, high = np.array(
        [RELEASE_RANGES.brightness, RELEASE_RANGES.contrast, RELEASE_RANGES.saturation, RELEASE_RANGES.hue]
    ).T
    for image, u, found, code in zip(images, draws, view, operation, strict=True):
        x = image.double().numpy() / 255
        expected = {
            "blur": lambda x, u: oracle.blur(x, 0.1 + 4.9 * u[2]),
            "grey": lambda x, u: oracle.grey(x),
            "jitter": lambda x, u: oracle.jitter(x, low + (high - low) * u[3:7], np.argsort(u[7:11])),
            "erase": lambda x, u: oracle.erase(x, *oracle.erase_box(u[11:13], u[13:].reshape(-1, 2), 16, 12)),
        }[OPERATIONS[code]](x, u)
        close(found.double() / 255, expected, tolerance=1e-6)


@pytest.mark.parametrize("name", ["blur", "grey", "jitter"])
@pytest.mark.parametrize(("size", "seed"), [((112, 112), 0), ((17, 9), 1), ((5, 31), 2)])
def test_loops_equal_tensor_operations(name, size, seed, monkeypatch):
    images = bytes_of(40, size=size, seed=seed)
    images[:3] = torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None, None]
    images[3] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    images = images.contiguous(memory_format=torch.channels_last)
    for ranges in (RELEASE_RANGES, PerturbationRanges(brightness=(0.2, 3), saturation=(0, 4), hue=(-2, 2))):
        views = []
        with monkeypatch.context() as patch:
            for _ in ("loops", "tensors"):
                views.append(
                    perturb_structure(
                        images, uniform(40, seed), probability=0.8, operations=(name,), ranges=ranges
                    )[0]
                )
                patch.setattr(perturbation, "compiled", lambda *loops: None)
        torch.testing.assert_close(*views, rtol=0, atol=1e-3)  # of 255: float32 roundings


def test_an_image_smaller_than_the_blur_is_refused_and_nothing_else_is_read():
    images = bytes_of(3, size=(4, 9)).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError):
        perturb_structure(images, uniform(3), probability=1, operations=("blur",))


def test_a_choice_of_operations_uses_no_other():
    _, operation = perturb_structure(
        bytes_of(50), uniform(50), probability=1, operations=("erase", "grey"), ranges=MILD_RANGES
    )
    assert set(operation.tolist()) == {OPERATIONS.index("grey"), OPERATIONS.index("erase")}


def test_two_processes_perturb_as_one():
    images = bytes_of(30)
    parts = [
        SampleDraws(seed=1, step=4, global_size=30, start=a, stop=b).uniform("rsp", DRAWS)
        for a, b in ((0, 30), (0, 17), (17, 30))
    ]
    whole, low, high = (
        perturb_structure(x, draws, probability=0.5)[1]
        for x, draws in zip((images, images[:17], images[17:]), parts, strict=True)
    )
    assert torch.equal(torch.cat([low, high]), whole)


def test_an_empty_batch_stays_empty():
    view, operation = perturb_structure(bytes_of(0), uniform(0))
    assert view.shape == (0, 3, 12, 10)
    assert operation.shape == (0,)


@pytest.mark.parametrize(
    "wrong", [{"hue": (0.3, -0.1)}, {"blur_sigma": (0.0, 5.0)}, {"erase_aspect": 0.0}, {"erase_aspect": 2.0}]
)
def test_impossible_ranges_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PerturbationRanges(**wrong)
