"""Slow, obvious Gaussian-uniform mixture and damage weights, in plain Python floats, from the specification."""

import math


def densities(e, pi, sigma, omega):
    """Mass of the half-normal and of the uniform at an entropy."""
    easy = pi * 2 / math.sqrt(2 * math.pi * sigma) * math.exp(-(e**2) / (2 * sigma))
    return easy, (1 - pi) / omega


def hardness(e, pi, sigma, omega):
    easy, hard = densities(e, pi, sigma, omega)
    return hard / (easy + hard)


def step(entropies, pi, sigma, omega, fit):
    """One E-step and M-step without floors: (pi, sigma, omega)."""
    h = [hardness(e, pi, sigma, omega) for e in entropies]
    n = len(h)
    easy = sum(1 - x for x in h)
    new_pi = easy / n
    sigma = sum((1 - x) * e**2 for x, e in zip(h, entropies, strict=True)) / easy
    second = sum(x * e**2 for x, e in zip(h, entropies, strict=True))
    if fit == "moments":
        omega = math.sqrt(3 * second / sum(h))
    if fit == "eq7":
        omega = math.sqrt(3 * (1 / (1 - new_pi)) * second / easy)
    return new_pi, sigma, omega


def em(entropies, fit, iterations, omega=None):
    """(pi, sigma, omega) after so many iterations from pi = 1/2, sigma = mean E^2, omega = max E."""
    pi, sigma = 0.5, sum(e**2 for e in entropies) / len(entropies)
    omega = max(entropies) if omega is None else omega
    for _ in range(iterations):
        pi, sigma, omega = step(entropies, pi, sigma, omega, fit)
    return pi, sigma, omega


def log_likelihood(entropies, pi, sigma, omega):
    return sum(math.log(sum(densities(e, pi, sigma, omega))) for e in entropies)


def damage(h, p, temperature=1.0):
    return (1 + h) ** temperature * (1 - p)


def release_hardness(entropies):
    """The released EM, one sample after another: signed, standardised, pi at most 0.5, no log in its stopping rule."""
    signed = [(-1 if k % 2 == 0 else 1) * float(e) for k, e in enumerate(entropies)]
    mean = sum(signed) / len(signed)
    spread = math.sqrt(sum((s - mean) ** 2 for s in signed) / len(signed))
    x = [(s - mean) / spread for s in signed]
    pi, sigma, uniform, before = 0.1, sum(v * v for v in x) / len(x), 0.2, 0.0
    easy = []
    for _ in range(1000):
        normal = [
            math.exp(-v * v / (2 * (sigma + 1e-3))) / math.sqrt(2 * math.pi * (sigma + 1e-3)) for v in x
        ]
        easy = [pi * g / (pi * g + (1 - pi) * uniform) for g in normal]
        sigma = sum(e * v * v for e, v in zip(easy, x, strict=True)) / sum(easy)
        pi = min(sum(easy) / len(x), 0.5)
        hard = [(1 - e) / (1 - pi) for e in easy]
        c1 = sum(h * v for h, v in zip(hard, x, strict=True)) / sum(easy)
        c2 = sum(h * v * v for h, v in zip(hard, x, strict=True)) / sum(easy)
        width = 3 * c2 - c1 * c1
        uniform = 0.001 if width < 0.001 else 1 / (2 * math.sqrt(width))
        now = sum(pi * g + (1 - pi) * uniform for g in normal)
        if abs(now - before) < 1e-10:
            break
        before = now
    return [1 - e for e in easy]
