"""The difference between the forms: the sorted loss is met with no alignment at all, the paired one only by aligning."""

import pytest
import torch

from topoface.functional.alignment import structure_loss
from topoface.functional.distances import squared_distances
from topoface.functional.persistence import h0_edges, tree_overlap


@pytest.mark.parametrize(("form", "low", "high"), [("sorted", 0.0, 0.1), ("paired", 0.95, 1.0)])
def test_only_the_paired_form_aligns_free_points(form, low, high):
    generator = torch.Generator().manual_seed(0)
    source = torch.cdist(*(2 * [torch.rand(100, 20, generator=generator)]))
    source = source / source.max() / 2
    edges = h0_edges(source)
    latents = (0.5 * torch.randn(100, 64, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        loss = structure_loss(source, latents, form=form, reduction="batch", source_edges=edges)
        loss.backward()
        optimizer.step()
    assert loss < 1e-10
    assert low <= tree_overlap(edges, h0_edges(squared_distances(latents)), 100) <= high
