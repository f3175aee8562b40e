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
