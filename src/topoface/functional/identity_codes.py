"""Formulas of identity codes (GIF, arXiv 2505.03012): softmaxes over tokens, class centers from code vectors, regression to them.

A code has L tokens, the j-th from an alphabet of K_j. Tensors of all positions have a last axis of max K_j slots; those that a smaller
alphabet lacks are ``ABSENT``. No training step here costs more where there are more identities.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, logsigmoid

from topoface.functional.center_losses import first_of_each
from topoface.functional.directions import unit_rows
from topoface.functional.softmax import entropy_of, negative_log_likelihood

RegressionForm = Literal["paper", "cosine"]
ABSENT = -1e9
"""Logit of what takes no part in a softmax: unlike -inf it may be multiplied with its weight, which is exactly 0."""

# --- token softmaxes ---------------------------------------------------------------------------------------


def token_slots(alphabets: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where the tokens of all positions stand in one long row of ``sum K_j``.

    Returns:
        Columns int64 ``[L, max K]`` (0 where a position has no such token), and which slots have one, bool ``[L, max K]``.
    """
    sizes = torch.tensor(alphabets)
    token = torch.arange(int(sizes.max()))
    present = token < sizes[:, None]
    columns = first_columns(alphabets)[:, None] + token
    return columns.where(present, 0), present


def first_columns(alphabets: Sequence[int]) -> Tensor:
    """int64 ``[L]``: column of token 0 of each position."""
    return torch.tensor([0, *alphabets[:-1]]).cumsum(0)


def by_position(columns: Tensor, slots: Tensor) -> Tensor:
    """``[n, sum K_j]`` as ``[n, L, max K]``: a view where all alphabets are equal; slots without a token hold anything."""
    length, most = slots.shape
    if columns.shape[1] == length * most:
        return columns.reshape(-1, length, most)
    return columns[:, slots.flatten()].view(-1, length, most)


def other_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    """Logits ``[n, L, K]`` with each row's own tokens ``[n, L]`` at ``ABSENT``."""
    return logits.scatter(2, tokens[..., None], ABSENT)


def log_probability_and_entropy(
    target: Tensor, rest: Tensor, log_epsilon: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of the label and entropy in nats of softmaxes whose own logit stands apart, ``[...]`` each.

    Args:
        target: own logit ``[...]``.
        rest: other logits ``[..., m]``; ``ABSENT`` ones have no mass.
        log_epsilon: added inside the logarithm of the entropy, as the TopoFR release does; 0 is exact.
    """
    log_mass = rest.logsumexp(-1)
    log_probability = -negative_log_likelihood(target, log_mass)
    if log_epsilon:
        full = torch.cat([target[..., None], rest], -1).softmax(-1)
        return log_probability, -(full * (full + log_epsilon).log()).sum(-1)
    weights = (rest - log_mass[..., None]).exp()
    within = (weights * (log_mass[..., None] - rest)).sum(-1)
    return log_probability, entropy_of(target, log_mass, within, rest.shape[-1] + 1)


def joined_loss(losses: Tensor, target: Tensor, extra: Tensor) -> Tensor:
    """Loss ``[n]`` of the one softmax that L token softmaxes are together, with more log-mass in its denominator.

    The product of the token softmaxes is a softmax over all codes; its log-denominator is the sum of theirs. The extra
    mass counts as one more code.

    Args:
        losses: ``[n, L]``, negative log-likelihood of each token.
        target: ``[n, L]``, logit of each token with margin and scale.
        extra: ``[n]`` or a scalar.
    """
    return losses.sum(1) - logsigmoid(joint_log_mass(losses, target) - extra)


def joint_log_mass(losses: Tensor, target: Tensor) -> Tensor:
    """``[n]``: log of the sum over all codes of the exponential of their logit; arguments as in :func:`joined_loss`."""
    return (losses + target).sum(1)


def default_scale(alphabet: int) -> float:
    """Scale of a softmax over so many tokens.

    64 would stop to teach: with ten tokens it gives a probability of 0.999 at a lead of 0.14 already (arXiv 1801.09414 has the bound).
    """
    return next((scale for most, scale in ((20, 16.0), (64, 20.0), (256, 24.0)) if alphabet <= most), 32.0)


# --- class centers and negatives from code vectors -----------------------------------------------------------


def composed_centers(
    vectors: Tensor | None, tokens: Tensor | None, rows: Tensor | None, first: Tensor
) -> Tensor:
    """Unit class centers ``[m, D]``: norm(h + sum_j U_j[c_j]); without rows the code vectors, without vectors the rows alone.

    Args:
        vectors: h, ``[m, D]``, or None.
        tokens: int64 ``[m, L]``; read where there are rows.
        rows: U of all positions one below the other, ``[sum K_j, D]``, or None.
        first: from :func:`first_columns`.
    """
    if rows is None:
        assert vectors is not None
        return unit_rows(vectors)
    assert tokens is not None
    # a bag and not rows[tokens].sum: that would write [m, L, D]
    total = embedding_bag(tokens + first, rows, mode="sum")
    return unit_rows(total if vectors is None else vectors + total)


def other_identities(logits: Tensor, identities: Tensor, labels: Tensor) -> Tensor:
    """Logits ``[n, m]`` with each row's own identity, and all but the first column of any identity, at ``ABSENT``.

    Args:
        logits: to the centers of ``identities`` int64 ``[m]``, which may name one more than once.
        identities: of the columns.
        labels: int64 ``[n]``.
    """
    counted = first_of_each(identities) & (identities != labels[:, None])
    return logits.where(counted, ABSENT)


def nearest_others(
    vectors: Callable[[Tensor], Tensor],
    groups: Tensor,
    count: int,
    *,
    reach: int = 8,
    duplicate: float = 0.98,
) -> Tensor:
    """The ``count`` identities nearest to each one, int64 ``[C, count]``, -1 where there are fewer.

    Searched among the members of the nearest groups (by the mean of their members) only: with G groups of equal size, C * reach / G products
    an identity, and no more vectors in memory at once than these groups have. Vectors of a cosine above ``duplicate`` are left out: that is
    what one person under two labels looks like.

    Args:
        vectors: reads the unit vectors ``[m, D]`` of identities int64 ``[m]``.
        groups: int64 ``[C]``, e.g. the first tokens.
        count: neighbours of each.
        reach: number of groups searched, the own one included.
        duplicate: cosine.
    """
    names, groups = torch.unique(groups, return_inverse=True)
    members = [(groups == g).nonzero()[:, 0] for g in range(len(names))]
    means = unit_rows(torch.stack([vectors(m).mean(0) for m in members]))
    found = torch.full((len(groups), count), -1)
    for group, own in enumerate(members):
        near = (means @ means[group]).topk(min(reach, len(names))).indices
        near = torch.cat([near[near != group][: reach - 1], torch.tensor([group])])
        candidates = torch.cat([members[int(g)] for g in near])
        theirs = vectors(candidates)
        for part in torch.split(own, 4096):
            cosines = vectors(part) @ theirs.T
            cosines.masked_fill_((candidates == part[:, None]) | (cosines > duplicate), -torch.inf)
            best, at = cosines.topk(min(count, len(candidates)))
            found[part, : at.shape[1]] = candidates[at].where(best.isfinite(), -1)
    return found


# --- regression ----------------------------------------------------------------------------------------------


def regression_loss(cosine: Tensor, form: RegressionForm) -> Tensor:
    """Pull of an embedding to its code vector, elementwise, from the cosine c between them.

    ``paper``: (c - 1)^2 / 2, whose pull fades at c = 0.9 already; ``cosine``: 1 - c, which pulls ten times longer.
    """
    if form == "paper":
        return (cosine - 1).square() / 2
    return 1 - cosine
