"""Row statistics of a class softmax that stay right when a sample is almost certain."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def rest_of(logits: Tensor, labels: Tensor) -> Tensor:
    """``logits`` ``[n, C]`` with each row's own class at -inf."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def negative_log_likelihood(target: Tensor, rest_log_mass: Tensor, extra: Tensor | None = None) -> Tensor:
    """Cross entropy ``[n]`` from the target logit and the log-mass of all other classes.

    log(1 + exp(rest - target)) instead of logsumexp(all) - target: the latter cancels for a trained sample
    (at a loss of 1e-6 float32 cross entropy is wrong by a quarter, its gradient by an eighth).

    Args:
        target: ``[n]`` logit of the label, with margin and scale.
        rest_log_mass: ``[n]`` log-sum-exp of the other logits.
        extra: ``[n]`` or scalar log-mass that joins the denominator.
    """
    if extra is not None:
        rest_log_mass = torch.logaddexp(rest_log_mass, extra.expand_as(rest_log_mass))
    # not torch's softplus, which is linear from 20 on: 2e-9 off in float64
    return -logsigmoid(target - rest_log_mass)


def entropy_of(target: Tensor, rest_log_mass: Tensor, rest_entropy: Tensor, num_classes: int) -> Tensor:
    """Entropy ``[n]`` in nats of the softmax over the target and the rest.

    With q the probability of the rest: H(q, 1-q) + q * (entropy within the rest). No epsilon and no
    cancellation at either end.

    Args:
        target: ``[n]``.
        rest_log_mass: ``[n]`` log-sum-exp of the other logits.
        rest_entropy: ``[n]`` entropy of the other classes among themselves.
        num_classes: C, for the upper bound log C.
    """
    margin = (rest_log_mass - target).clamp(min=-1e4)  # there may be no rest at all
    q = margin.sigmoid()
    # -p log p and -q log q by logsigmoid; where q underflows to 0, log q is finite and the product is 0
    binary = -(q * logsigmoid(margin) + (1 - q) * logsigmoid(-margin))
    return (binary + q * rest_entropy).clamp(0, math.log(num_classes))


def row_entropy(logits: Tensor, rest: Tensor, rest_log_mass: Tensor, target: Tensor) -> Tensor:
    """Entropy ``[n]`` from what the loss has computed already; a single class has entropy 0.

    The masked slot of ``rest`` has weight exp(-inf) = 0, so it may be multiplied with the finite ``logits``.
    """
    num_classes = logits.shape[1]
    if num_classes == 1:
        return torch.zeros_like(target)
    weights = (rest - rest_log_mass[:, None]).exp()
    # measured from the log-mass: the logits themselves, times their weights, would cancel
    rest_entropy = (weights * (rest_log_mass[:, None] - logits)).sum(1)
    return entropy_of(target, rest_log_mass, rest_entropy, num_classes)
