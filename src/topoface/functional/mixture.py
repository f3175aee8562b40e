"""Which samples are hard: a half-normal plus uniform mixture over the entropies of their class predictions.

TopoFR (arXiv 2410.10587, eq. 5-7) models the entropy of a sample as

    p(E) = pi 2 N(E; 0, Sigma) + (1 - pi) / Omega    on [0, Omega],

the half-normal being the easy samples. The paper mirrors the entropies with random signs and fits the symmetric
density; the signs cancel, so the half-line is fitted directly, which needs none and does not depend on the order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.functional.compiled import compiled, in_memory
from topoface.functional.mixture_loops import WEIGHT_MARGIN, em_loops, exponentials

FITS = ("ml", "moments", "eq7", "release")
SUPPORTS = ("batch", "logC")


@dataclass(frozen=True, kw_only=True)
class MixtureFit:
    """A fitted mixture and what it says about each sample.

    Attributes:
        hardness: ``[n]`` in [0, 1], the probability of the uniform part; keeps the graph of the entropies,
            with the parameters held fixed (not for ``release``).
        weight: scalar pi, share of the easy half-normal; detached like the other two.
        variance: scalar Sigma, its variance in nats^2 (of the standardised entropies for ``release``).
        upper: scalar Omega, the upper end of the uniform in nats (likewise).
    """

    hardness: Tensor
    weight: Tensor
    variance: Tensor
    upper: Tensor


def hardness(entropy: Tensor) -> Tensor:
    """How likely each sample is hard, by TopoFR's default fit: `fit_mixture` with ``ml`` and the batch's support.

    Args:
        entropy: float ``[n]``, nats, not negative.

    Returns:
        ``[n]`` in [0, 1], increasing in the entropy.
    """
    return fit_mixture(entropy).hardness if len(entropy) else entropy


def fit_mixture(
    entropy: Tensor,
    *,
    fit: str = "ml",
    support: str = "batch",
    num_classes: int | None = None,
    iterations: int = 50,
    floor: float = 1e-2,
) -> MixtureFit:
    """Fit the mixture by expectation maximisation.

    ``ml``, ``moments`` and ``eq7`` take a fixed number of iterations on the device of the entropies and never
    wait for it; on the CPU they are compiled where numba is there. They differ in the upper end: ``ml`` leaves it at the
    support, where the likelihood is maximal, so that EM is monotone; ``moments`` matches the second moment of a uniform on [-Omega, Omega]; ``eq7`` is the
    printed equation 7, which divides by the easy mass and thereby returns Omega(moments) / sqrt(pi).
    ``release`` transcribes the released code, for comparison only; see `_fit_release`.

    Args:
        entropy: float ``[n]``, n >= 1, nats, not negative; half types are cast to float32.
        fit: one of the above.
        support: where Omega starts: ``batch`` at the largest entropy, ``logC`` at log(num_classes).
        num_classes: needed for ``logC``.
        iterations: of EM; 20 are too few near the transition from "all hard" to "some easy" (error 0.5), 50 give 2e-5.
        floor: nats, the standard deviation below which an entropy is never hard; keeps "hard" absolute. 0 fits without.

    Raises:
        ValueError: for an unknown name, an empty or not one-dimensional batch, ``logC`` without classes.
    """
    for value, allowed in ((fit, FITS), (support, SUPPORTS)):
        if value not in allowed:
            raise ValueError(f"unknown name {value!r}; allowed are {', '.join(allowed)}")
    if entropy.dim() != 1 or not len(entropy):
        raise ValueError(f"expected entropies [n] of at least one sample, got {tuple(entropy.shape)}")
    if fit == "release":
        return _fit_release(entropy)
    if support == "logC" and num_classes is None:
        raise ValueError("support 'logC' needs num_classes")
    entropy = entropy.to(torch.promote_types(entropy.dtype, torch.float32))
    start = math.log(num_classes) if support == "logC" and num_classes is not None else math.nan
    loops = _compiled_em() if in_memory(entropy) else None
    if loops is None:
        weight, variance, upper = _em(entropy, fit, start, iterations, floor)
        hardness = posterior(entropy, weight, variance, upper)
    else:
        values = entropy.detach().contiguous().numpy()
        fitted = torch.from_numpy(loops(values, FITS.index(fit), start, iterations, floor)).to(entropy.dtype)
        weight, variance, upper = fitted[:3].unbind()
        hardness = fitted[3:]
        if entropy.requires_grad and torch.is_grad_enabled():
            hardness = posterior(entropy, weight, variance, upper)
    return MixtureFit(hardness=hardness, weight=weight, variance=variance, upper=upper)


def _em(
    entropy: Tensor, fit: str, support: float, iterations: int, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Expectation maximisation in tensor operations, which no host waits for: weight, variance, upper end."""
    with torch.no_grad():
        squares = entropy.square()
        start = entropy.max() if math.isnan(support) else squares.new_tensor(support)
        weight, variance = squares.new_tensor(0.5), squares.mean().clamp_min(floor**2)
        upper = start.clamp_min(10 * floor)
        for _ in range(iterations):
            log_odds = _log_odds(squares, weight, variance, upper)
            easy = torch.sigmoid(-log_odds)
            mass = easy.sum()
            variance = ((easy @ squares) / _positive(mass)).clamp_min(floor**2)
            if fit != "ml":
                hard = torch.sigmoid(log_odds)
                # eq. 7 divides by (1 - pi) sum(1 - h), which is pi sum(h), where the moment of the hard part has sum(h)
                share = mass / len(entropy) if fit == "eq7" else 1
                upper = (3 * (hard @ squares) / _positive(hard.sum() * share)).sqrt().clamp_min(10 * floor)
            weight = (mass / len(entropy)).clamp(WEIGHT_MARGIN, 1 - WEIGHT_MARGIN)
    return weight, variance, upper


def _compiled_em() -> Callable[..., NDArray[np.float64]] | None:
    """`em_loops` compiled; None where numba is absent."""
    return compiled(em_loops, exponentials, fused=True)


def update_mixture(
    entropy: Tensor, state: Tensor, *, memory: float = 0.9, iterations: int = 5, floor: float = 1e-2
) -> tuple[MixtureFit, Tensor]:
    """One batch of the online fit: running sums in place of a fit of the batch alone.

    Args:
        entropy: float ``[n]``, n >= 1, nats, not negative.
        state: ``[3]``: easy share, mean easy square, upper end, as returned before; NaN at the start.
        memory: how much of the state a batch leaves.
        iterations: of EM per batch.
        floor: as in `fit_mixture`.

    Returns:
        The fit and the new state, detached.
    """
    entropy = entropy.to(torch.promote_types(entropy.dtype, torch.float32))
    with torch.no_grad():
        # the first batch has no state yet and is fitted alone, which costs little; a branch would wait for the device
        first = fit_mixture(entropy, floor=floor)
        alone = torch.stack([first.weight, first.weight * first.variance, first.upper])
        fresh = state.isnan().any()
        before = torch.where(fresh, alone, state.to(entropy))
        squares = entropy.square()
        upper = torch.maximum(memory * before[2] + (1 - memory) * entropy.max(), entropy.max())
        upper = upper.clamp_min(10 * floor)
        sums = before[:2]
        for _ in range(iterations):
            weight = sums[0].clamp(WEIGHT_MARGIN, 1 - WEIGHT_MARGIN)
            variance = (sums[1] / _positive(sums[0])).clamp_min(floor**2)
            easy = torch.sigmoid(-_log_odds(squares, weight, variance, upper))
            batch = torch.stack([easy.mean(), (easy * squares).mean()])
            sums = memory * before[:2] + (1 - memory) * batch
        weight = sums[0].clamp(WEIGHT_MARGIN, 1 - WEIGHT_MARGIN)
        variance = (sums[1] / _positive(sums[0])).clamp_min(floor**2)
    fit = MixtureFit(
        hardness=posterior(entropy, weight, variance, upper), weight=weight, variance=variance, upper=upper
    )
    return fit, torch.cat([sums, upper[None]])


def posterior(entropy: Tensor, weight: Tensor, variance: Tensor, upper: Tensor) -> Tensor:
    """The probability of the uniform part at given parameters; differentiable, in log space throughout.

    Args:
        entropy: float ``[n]``, nats.
        weight: scalar pi in (0, 1).
        variance: scalar Sigma > 0, nats^2.
        upper: scalar Omega > 0, nats.

    Returns:
        ``[n]`` in [0, 1], increasing in the entropy.
    """
    return torch.sigmoid(_log_odds(entropy.square(), weight, variance, upper))


def _log_odds(squares: Tensor, weight: Tensor, variance: Tensor, upper: Tensor) -> Tensor:
    """Log of uniform over half-normal mass for each squared entropy."""
    at_zero = (1 - weight) / (weight * upper) * (variance * (math.pi / 2)).sqrt()
    return at_zero.log() + squares / (2 * variance)


def _positive(total: Tensor) -> Tensor:
    """A divisor that underflow cannot make 0."""
    return total.clamp_min(torch.finfo(total.dtype).tiny)


def _fit_release(entropy: Tensor) -> MixtureFit:
    """The fit of the released code (modelscope/facechain, face_module/TopoFR), in float64 on the host.

    It negates every other entropy, standardises the result *including its mean* (so that a sample's hardness
    depends on the order of the batch), starts from a uniform density of 0.2 and pi = 0.1, adds 1e-3 to the
    variance in the density only, caps pi at 0.5, takes 3 C2 - C1^2 for the squared half-width of the
    uniform and stops on a "log-likelihood" without the log. Where that half-width is tiny (and where it has no
    root, which gives NaN there) the density is 0.001. The hardness is that of the last E-step.
    """
    signed = entropy.detach().double().cpu().numpy().copy()
    signed[::2] *= -1
    spread = signed.std()
    x = (signed - signed.mean()) / (spread if spread > 0 else 1.0)
    squares = x**2
    weight, variance, density, previous = 0.1, squares.mean(), 0.2, 0.0
    easy = np.zeros_like(x)
    for _ in range(1000):
        wide = variance + 1e-3
        normal = np.exp(-squares / (2 * wide)) / math.sqrt(2 * math.pi * wide)
        easy = normal * weight / (normal * weight + (1 - weight) * density)
        mass = easy.sum()
        variance = (easy * squares).sum() / mass
        weight = min(mass / len(x), 0.5)
        hard = (1 - easy) / (1 - weight + 1e-10)
        width = 3 * (hard * squares).sum() / mass - ((hard * x).sum() / mass) ** 2
        density = 0.001 if width < 0.001 else 1 / (2 * math.sqrt(width) + 1e-10)
        likelihood = (weight * normal + (1 - weight) * density).sum()
        if abs(likelihood - previous) < 1e-10:
            break
        previous = likelihood

    def like_entropy(value: object) -> Tensor:
        return torch.as_tensor(
            value, dtype=torch.promote_types(entropy.dtype, torch.float32), device=entropy.device
        )

    return MixtureFit(
        hardness=like_entropy(1 - easy),
        weight=like_entropy(weight),
        variance=like_entropy(variance),
        upper=like_entropy(1 / (2 * density)),
    )
