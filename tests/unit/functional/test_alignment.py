"""Structure alignment: the worked examples, the closed-form gradient, invariances, edge cases, the report."""

import math

import numpy as np
import pytest
import torch

from tests.oracles import topology as oracle
from topoface.functional import distances, lengths, spanning_tree
from topoface.functional.alignment import (
    FORMS,
    LATENTS,
    NORMS,
    REDUCTIONS,
    random_trees,
    structure_loss,
    structure_report,
)
from topoface.functional.distances import pixel_distances, pixel_squared_distances
from topoface.functional.draws import generator
from topoface.functional.persistence import h0_edges

LINE = [0.0, 1, 3, 7]
RECTANGLE = [(0.0, 0), (3, 0), (3, 4), (0, 4)]
ORACLE_FORMS = ("paired", "sorted", "wasserstein1")
PAIRS = [
    ("raw", "none"),
    ("raw", "mean_edge"),
    ("sphere", "pixel_range"),
    ("sphere", "mean_edge"),
    ("raw", "max"),
]


def column(values):
    points = torch.tensor(values, dtype=torch.float64)
    return points[:, None] if points.dim() == 1 else points


def matrix(points):
    points = column(points) if isinstance(points, list) else points
    return (points[:, None] - points).norm(dim=-1)


def cloud(n=12, width=5, seed=0):
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(source, latents, **options):
    latents = latents.clone().requires_grad_()
    loss = structure_loss(source, latents, **options)
    loss.backward()
    return loss.detach(), latents.grad


@pytest.mark.parametrize(
    ("source", "latents", "form", "loss", "gradient"),
    [
        (LINE, [0.0, 3, 4, 6], "sorted", 1, [2, -2, 0, 0]),
        (LINE, [0.0, 3, 4, 6], "paired", 9, [-4, 6, 2, -4]),
        (LINE, [0.0, 4, 6, 7], "sorted", 0, [0, 0, 0, 0]),  # the blind spot: no alignment, no loss
        (LINE, [0.0, 4, 6, 7], "paired", 18, [-6, 6, 6, -6]),
        (LINE, [3.0, 0, 7, 1], "sorted", 0, [0, 0, 0, 0]),
        (LINE, [3.0, 0, 7, 1], "paired", 42, [-4, -2, 8, -2]),
        (RECTANGLE, [(0.0, 0), (1, 0), (1, 2), (0, 2)], "sorted", 12, [[4, 4], [-4, 0], [-4, 0], [4, -4]]),
        (RECTANGLE, [(0.0, 0), (1, 0), (1, 2), (0, 2)], "paired", 12, [[4, 4], [-4, 0], [-4, 0], [4, -4]]),
        (LINE, [5.0, 5, 5, 5], "sorted", 21, [0, 0, 0, 0]),
        (LINE, [5.0, 5, 5, 5], "paired", 40, [0, 0, 0, 0]),
    ],
)
def test_worked_examples(source, latents, form, loss, gradient):
    found, slope = value_and_gradient(matrix(source), column(latents), form=form)
    assert found == loss
    torch.testing.assert_close(slope, column([[float(x) for x in np.atleast_1d(row)] for row in gradient]))


@pytest.mark.parametrize("form", ORACLE_FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("latent", "norm"), PAIRS)
def test_value_and_gradient_equal_autograd_through_full_matrices(form, reduction, latent, norm):
    names = {"form": form, "norm": norm, "latent": latent, "reduction": reduction}
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    found, gradient = value_and_gradient(source, latents, **names)
    latents.requires_grad_()
    expected = oracle.alignment(source, latents, **names)
    (slope,) = torch.autograd.grad(expected, latents)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", [*ORACLE_FORMS, "bottleneck"])
@pytest.mark.parametrize(("latent", "norm"), PAIRS)
def test_gradcheck(form, latent, norm):
    source, latents = matrix(cloud(8, seed=3)), cloud(8, 3, seed=4).requires_grad_()

    def loss(z):
        return structure_loss(source, z, form=form, norm=norm, latent=latent, reduction="batch")

    assert torch.autograd.gradcheck(loss, latents)


@pytest.mark.parametrize(("form", "power"), [("sorted", 2), ("wasserstein1", 1)])
def test_sorted_forms_are_the_cheapest_assignment_of_the_bars(form, power):
    source, latents = matrix(cloud(6, seed=5)), cloud(6, seed=6)
    lengths = [[float(d[e]) for e in oracle.kruskal(d.numpy())] for d in (source, matrix(latents))]
    expected = oracle.wasserstein_by_assignment(*lengths, power)
    assert float(structure_loss(source, latents, form=form)) == pytest.approx(expected, rel=1e-12)


def test_bottleneck_is_that_of_the_diagrams_and_never_divided():
    source, latents = matrix(cloud(5, seed=5)), cloud(5, seed=6)
    lengths = [[float(d[e]) for e in oracle.kruskal(d.numpy())] for d in (source, matrix(latents))]
    for reduction in REDUCTIONS:
        found = structure_loss(source, latents, form="bottleneck", reduction=reduction)
        assert float(found) == pytest.approx(oracle.bottleneck_by_search(*lengths), rel=1e-12)


@pytest.mark.parametrize("names", PAIRS)
@pytest.mark.parametrize("form", ORACLE_FORMS)
def test_permuting_the_samples_permutes_the_gradient(form, names):
    options = {"form": form, "latent": names[0], "norm": names[1]}
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(latents)))
    loss, gradient = value_and_gradient(source, latents, **options)
    moved, slope = value_and_gradient(source[order][:, order], latents[order], **options)
    torch.testing.assert_close(moved, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(slope, gradient[order], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("norm", ["none", "mean_edge", "max"])
@pytest.mark.parametrize("form", ORACLE_FORMS)
def test_moving_the_latents_rotates_the_gradient_whose_rows_sum_to_zero(form, norm):
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    rotation, _ = torch.linalg.qr(cloud(5, 5, seed=9))
    loss, gradient = value_and_gradient(source, latents, form=form, norm=norm)
    moved, slope = value_and_gradient(source, latents @ rotation + 3, form=form, norm=norm)
    torch.testing.assert_close(moved, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, gradient @ rotation, rtol=1e-10, atol=1e-12)
    assert gradient.sum(0).abs().max() < 1e-13


@pytest.mark.parametrize("form", ORACLE_FORMS)
def test_mean_edge_ignores_both_scales_and_cannot_be_met_by_shrinking(form):
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    loss, gradient = value_and_gradient(source, latents, form=form, norm="mean_edge")
    for scaled in (
        structure_loss(source, 3 * latents, form=form, norm="mean_edge"),
        structure_loss(3 * source, latents, form=form, norm="mean_edge"),
    ):
        torch.testing.assert_close(scaled, loss, rtol=1e-13, atol=0)
    assert (gradient * latents).sum().abs() < 1e-13


@pytest.mark.parametrize("norm", ["pixel_range", "mean_edge"])
def test_sphere_ignores_the_length_of_every_row(norm):
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    stretch = torch.linspace(0.1, 9, len(latents), dtype=torch.float64)[:, None]
    loss, gradient = value_and_gradient(source, latents, norm=norm, latent="sphere")
    torch.testing.assert_close(structure_loss(source, stretch * latents, norm=norm, latent="sphere"), loss)
    assert (gradient * latents).sum(1).abs().max() < 1e-13


def test_learned_is_raw_for_the_caller_who_has_divided():
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    assert structure_loss(source, latents, latent="learned") == structure_loss(source, latents)


def test_the_released_code_is_sorted_raw_batch_in_the_range_of_pixels():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8))
    latents = cloud(20, 32).float().requires_grad_()
    source = pixel_distances(pixel_squared_distances(images), images[0].numel())
    found = structure_loss(source, latents, form="sorted", norm="pixel_range", reduction="batch")
    (gradient,) = torch.autograd.grad(found, latents)
    x = (images.double() / 127.5 - 1).flatten(1)
    z = latents.detach().double().requires_grad_()
    a = [((x[i] - x[j]) ** 2).sum().sqrt() for i, j in oracle.kruskal(matrix(x).numpy())]
    b = [((z[i] - z[j]) ** 2).sum().sqrt() for i, j in oracle.kruskal(matrix(z.detach()).numpy())]
    expected = sum((q - p / (2 * math.sqrt(images[0].numel()))) ** 2 for p, q in zip(a, b, strict=True)) / 20
    (slope,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("latent", "norm"), PAIRS)
@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_give_zero_with_a_zero_gradient(form, latent, norm, n):
    options = {"form": form, "latent": latent, "norm": norm, "reduction": "edges"}
    loss, gradient = value_and_gradient(torch.zeros(n, n), cloud(n, 4).float(), **options)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("form", ["paired", "sorted"])
@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("batch", 2), ("edges", 1)])
def test_two_samples_have_one_edge(form, reduction, divisor):
    found = structure_loss(matrix([0.0, 5]), column([1.0, 3]), form=form, reduction=reduction)
    assert found == (2 - 5) ** 2 / divisor


@pytest.mark.parametrize("form", FORMS[:-1])
@pytest.mark.parametrize(("latent", "norm"), [*PAIRS, ("sphere", "max")])
def test_duplicates_have_a_finite_loss_and_gradient(form, latent, norm):
    for latents in (torch.ones(6, 3), torch.zeros(6, 3), torch.eye(3).repeat(2, 1)):
        loss, gradient = value_and_gradient(matrix(cloud(6)), latents, form=form, latent=latent, norm=norm)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        zeros, slope = value_and_gradient(torch.zeros(6, 6), latents, form=form, latent=latent, norm=norm)
        assert zeros.isfinite()
        assert slope.isfinite().all()


@pytest.mark.parametrize("form", FORMS[:-1])
@pytest.mark.parametrize(
    ("latent", "norm"), [*PAIRS, ("sphere", "none"), ("sphere", "max"), ("learned", "pixel_range")]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loops_equal_tensor_operations(form, latent, norm, dtype, tolerance, monkeypatch):
    source, latents = matrix(cloud(40, seed=1)), cloud(40, seed=2).to(dtype)
    names = {"form": form, "latent": latent, "norm": norm, "reduction": "edges"}
    loss, gradient = value_and_gradient(source, latents, **names)
    for module in (distances, lengths, spanning_tree):
        monkeypatch.setattr(module, "compiled", lambda *loops: None)
    other, slope = value_and_gradient(source, latents, **names)
    torch.testing.assert_close(loss, other, rtol=tolerance, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=tolerance * float(slope.abs().max()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("form", FORMS[:-1])
def test_nan_or_infinity_is_never_masked(bad, form):
    latents = cloud()
    latents[3, 1] = bad
    assert not structure_loss(matrix(cloud(seed=1)), latents, form=form).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_float32_loss_of_the_cast_latents(dtype):
    source = matrix(cloud(seed=1))  # float64: must not promote the loss
    latents = cloud(seed=2).to(dtype)
    names = {"norm": "mean_edge", "latent": "sphere"}
    with torch.autocast("cpu", torch.bfloat16):
        found, gradient = value_and_gradient(source, latents, **names)
    assert found.dtype == torch.float32
    assert gradient.dtype == dtype
    assert found == structure_loss(source, latents.float(), **names)


def test_float64_latents_keep_float64_with_a_float32_source():
    assert structure_loss(matrix(cloud(seed=1)).float(), cloud(seed=2)).dtype == torch.float64


def test_latents_and_trees_in_any_layout_serve():
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    names = {"norm": "mean_edge", "latent": "sphere"}
    edges = h0_edges(source).T.contiguous().T
    loss, gradient = value_and_gradient(source, latents, **names)
    other, slope = value_and_gradient(source.T, latents.T.contiguous().T, source_edges=edges, **names)
    assert other == loss
    assert torch.equal(slope, gradient)


def test_a_tree_from_the_loader_changes_nothing_and_saves_the_source_tree():
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    edges = h0_edges(source)
    assert structure_loss(source, latents, source_edges=edges) == structure_loss(source, latents)
    other = structure_loss(source, latents, source_edges=h0_edges(-source), form="sorted")
    assert other != structure_loss(source, latents, form="sorted")


def test_random_is_paired_along_the_edges_given():
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    trees = random_trees(generator(0, "random trees").random((12, 2)))
    for edges in trees:
        assert oracle.spans([tuple(e) for e in edges.tolist()], 12)
        assert (edges[:, 0] < edges[:, 1]).all()
    found = structure_loss(source, latents, form="random", random_edges=trees)
    plain = matrix(latents)
    expected = sum((plain[i, j] - source[i, j]) ** 2 for i, j in torch.cat(trees)) / 2
    torch.testing.assert_close(found, expected)
    real = (h0_edges(source), h0_edges(plain))
    assert structure_loss(source, latents, form="random", random_edges=real) == structure_loss(
        source, latents
    )
    with pytest.raises(ValueError, match="random_edges"):
        structure_loss(source, latents, form="random")


@pytest.mark.parametrize(
    ("field", "allowed"), [("form", FORMS), ("norm", NORMS), ("latent", LATENTS), ("reduction", REDUCTIONS)]
)
def test_unknown_names_are_refused_with_the_allowed_ones(field, allowed):
    with pytest.raises(ValueError, match=f"'nonsense'.*{', '.join(allowed)}"):
        structure_loss(torch.zeros(3, 3), torch.zeros(3, 2), **{field: "nonsense"})


def test_shapes_that_do_not_fit_are_refused():
    for source, latents in ((torch.zeros(3, 3), torch.zeros(4, 2)), (torch.zeros(3, 3), torch.zeros(3))):
        with pytest.raises(ValueError, match=r"\[n, n\]"):
            structure_loss(source, latents)


def test_the_report_agrees_with_its_parts():
    points, latents = cloud(20, seed=1), cloud(20, seed=2)
    source, plain = matrix(points), matrix(latents)
    labels = torch.arange(20) % 4
    report = structure_report(source, latents, norm="mean_edge", latent="raw", labels=labels)
    tree_x, tree_z = (oracle.kruskal(d.numpy()) for d in (source, plain))
    a, b = ([float(d[e]) for e in tree] for d, tree in ((source, tree_x), (plain, tree_z)))
    assert report.paired == pytest.approx(
        float(structure_loss(source, latents, norm="mean_edge", reduction="edges"))
    )
    assert report.sorted == pytest.approx(
        float(structure_loss(source, latents, form="sorted", norm="mean_edge", reduction="edges"))
    )
    assert report.mean_source_edge == pytest.approx(np.mean(a))
    assert report.mean_latent_edge == pytest.approx(np.mean(b))
    assert report.scale_ratio == pytest.approx(np.mean(b) / np.mean(a))
    assert report.overlap == len(set(tree_x) & set(tree_z)) / 19
    assert report.chance_overlap == 0.1
    assert report.same_identity_edges == np.mean([i % 4 == j % 4 for i, j in tree_z])
    upper = np.triu_indices(20, 1)
    assert report.spearman == pytest.approx(oracle.spearman(source.numpy()[upper], plain.numpy()[upper]))
    assert report.bottleneck == pytest.approx(
        float(structure_loss(source, latents, form="bottleneck", norm="mean_edge"))
    )


def test_the_report_of_a_perfect_copy():
    points = cloud(10)
    report = structure_report(matrix(points), 7 * points, latent="raw")
    assert report.paired == pytest.approx(0, abs=1e-25)
    assert report.overlap == 1
    assert report.scale_ratio == pytest.approx(7)
    assert report.spearman == pytest.approx(1)
    assert report.same_identity_edges is None
    with pytest.raises(ValueError, match="two points"):
        structure_report(torch.zeros(1, 1), torch.zeros(1, 2))


def test_ranks_of_ties_are_averaged():
    points, latents = column([0.0, 1, 2, 3, 5]), column([0.0, 2, 2, 3, 9])
    upper = np.triu_indices(5, 1)
    expected = oracle.spearman(matrix(points).numpy()[upper], matrix(latents).numpy()[upper])
    assert structure_report(matrix(points), latents, latent="raw").spearman == pytest.approx(expected)


def test_the_shortest_edges_alone_by_hand():
    """Of three edges the shorter two: (0,1), (1,2) of the source and (1,2), (2,3) of the latents."""
    latents = column([0.0, 3, 4, 6])
    assert structure_loss(matrix(LINE), latents, shortest_share=0.5) == (4 + 1 + 1 + 4) / 2
    assert structure_loss(matrix(LINE), latents, shortest_share=0.5, reduction="edges") == 2.5
    assert structure_loss(matrix(LINE), latents, shortest_share=0.01) == ((3 - 1) ** 2 + (1 - 2) ** 2) / 2


def test_scales_are_those_of_the_whole_trees_when_few_edges_are_compared():
    source, latents = matrix(cloud(seed=1)), cloud(seed=2)
    some = {"norm": "mean_edge", "latent": "sphere", "shortest_share": 0.3}
    one = structure_loss(source, latents, **some)
    torch.testing.assert_close(structure_loss(3 * source, 7 * latents, **some), one)
    points = latents.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: structure_loss(source, z, **some), points)


@pytest.mark.parametrize(
    ("share", "form"), [(0.0, "paired"), (1.5, "paired"), (0.5, "sorted"), (0.5, "random")]
)
def test_shares_that_mean_nothing_are_refused(share, form):
    with pytest.raises(ValueError, match="shortest_share"):
        structure_loss(matrix(LINE), column([0.0, 3, 4, 6]), form=form, shortest_share=share)
