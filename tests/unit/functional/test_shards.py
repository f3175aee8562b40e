"""Sharded equals dense (oracle 26 of topofr.md): statistics, weights, gradients to the local class centers."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from topoface.functional.blocked_softmax import class_part
from topoface.functional.damage import damage_score
from topoface.functional.mixture import fit_mixture, posterior
from topoface.functional.shards import join_shards
from topoface.functional.softmax import entropy_of, negative_log_likelihood

SPLITS = [[1000], [500, 500], [1, 998, 1], [250] * 4, [0, 1000], [333, 333, 334]]
n, D, C, SCALE = 16, 12, 1000, 40.0


def setting() -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(4)
    embeddings = torch.from_numpy(rng.normal(size=(n, D)))
    centers = torch.from_numpy(rng.normal(size=(C, D)))
    labels = torch.from_numpy(rng.integers(0, C, n))
    labels[:3] = torch.tensor([0, 999, 500])
    # one sample that is almost certain, one that is wrong
    embeddings[4] = centers[labels[4]]
    embeddings[5] = -centers[labels[5]]
    return normalize(embeddings), centers, labels


def dense(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    log_p = logits.log_softmax(1)
    return log_p.gather(1, labels[:, None])[:, 0], -(log_p.exp() * log_p).sum(1)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_statistics_weights_and_gradients_of_shards_are_those_of_the_dense_softmax(split: list[int]) -> None:
    embeddings, centers, labels = setting()
    whole = centers.clone().requires_grad_()
    log_p, entropy = dense(SCALE * embeddings @ normalize(whole).T, labels)
    weight = damage_score(fit_mixture(entropy.detach()).hardness, log_p.detach())
    (weight * -log_p).mean().backward()

    shards = [part.clone().requires_grad_() for part in centers.split(split)]
    starts = np.cumsum([0, *split])
    parts = []
    for shard, start in zip(shards, starts, strict=False):
        local = labels - int(start)
        own = local.where((local >= 0) & (local < len(shard)), -1)
        parts.append(class_part(embeddings, shard, own, SCALE))
    joined = join_shards(parts)
    joined_log_p = -negative_log_likelihood(joined.own, joined.log_mass)
    joined_entropy = entropy_of(joined.own, joined.log_mass, joined.entropy, C)
    torch.testing.assert_close(joined_log_p, log_p, rtol=1e-12, atol=1e-12)
    # the plain sum of the dense side has lost some digits of an entropy of 1e-8
    torch.testing.assert_close(joined_entropy, entropy, rtol=1e-10, atol=1e-11)
    joined_weight = damage_score(fit_mixture(joined_entropy.detach()).hardness, joined_log_p.detach())
    torch.testing.assert_close(joined_weight, weight, rtol=1e-8, atol=1e-12)
    (joined_weight * -joined_log_p).mean().backward()
    assert whole.grad is not None
    for shard, expected in zip(shards, whole.grad.split(split), strict=True):
        got = torch.zeros_like(shard) if shard.grad is None else shard.grad
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-14)


def test_the_mixture_from_summed_parts_is_that_of_the_gathered_entropies() -> None:
    entropy = torch.from_numpy(np.random.default_rng(1).exponential(0.4, 90))
    gathered = fit_mixture(entropy, floor=1e-2)
    weight, variance = torch.tensor(0.5, dtype=torch.float64), entropy.square().mean().clamp(min=1e-4)
    upper = entropy.max().clamp(min=0.1)
    for _ in range(50):
        easy = [1 - posterior(part, weight, variance, upper) for part in entropy.split([20, 0, 70])]
        mass = sum(part.sum() for part in easy)
        squares = sum(
            (e * part.square()).sum() for e, part in zip(easy, entropy.split([20, 0, 70]), strict=True)
        )
        weight, variance = (mass / 90).clamp(1e-3, 1 - 1e-3), (squares / mass).clamp(min=1e-4)
    torch.testing.assert_close(torch.stack([weight, variance, upper]), torch.stack([gathered.weight, gathered.variance, gathered.upper]), rtol=1e-10, atol=1e-12)  # fmt: skip
