"""Searches straight from their definitions, one probe and one entry at a time: fused galleries, distractors, mates in turn.

Templates are unit vectors by label; ``roles`` says who each shows and what it is for.
"""

import math
from fractions import Fraction

from tests.oracles import templates


def lists(vectors, roles, fusion, distractors):
    """For each search: the score of the mate (None without one) and of everybody else, each person or distractor once."""
    gallery = [t for t in roles if roles[t][1] == "gallery"]
    probes = [t for t in roles if roles[t][1] == "probe"]
    found = []
    for probe in probes:
        own = roles[probe][0]
        strangers = [dot(vectors[probe], vectors[t]) for t in distractors]
        if not gallery:  # each other template of the person in turn
            mates = [t for t in probes if roles[t][0] == own and t != probe]
            found += [(own, dot(vectors[probe], vectors[t]), strangers) for t in mates]
            if not mates:
                found.append((own, None, strangers))
            continue
        people = {roles[t][0] for t in gallery}
        score = {p: fused(vectors, probe, [t for t in gallery if roles[t][0] == p], fusion) for p in people}
        others = [score[p] for p in people if p != own]
        found.append((own, score.get(own), others + strangers))
    return found


def fused(vectors, probe, entries, fusion):
    """The score of one person with several templates."""
    scores = [dot(vectors[probe], vectors[t]) for t in entries]
    return max(scores) if fusion == "max" else sum(scores) / len(scores)


def dot(a, b):
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def rank_share(found, rank):
    """Of the mated searches, those in which fewer than ``rank`` others score at least what the mate does."""
    mated = [(mate, others) for _, mate, others in found if mate is not None]
    hits = [sum(s >= mate for s in others) < rank for mate, others in mated]
    return Fraction(sum(hits), len(hits))


def fnir(found, fpir):
    """The smallest share of missed mates that any bar leaves while strangers' searches pass it no more often than asked."""
    alarms = [max(others, default=-math.inf) for _, mate, others in found if mate is None]
    mates = [mate for _, mate, _ in found if mate is not None]
    bars = [-math.inf, *alarms]
    fit = [bar for bar in bars if Fraction(sum(a > bar for a in alarms), len(alarms)) <= fpir]
    return min(Fraction(sum(m <= bar for m in mates), len(mates)) for bar in fit)


def pooled(rows, listed):
    """Unit vectors by template; ``listed``: template and medium of each row."""
    labels, media = zip(*listed, strict=True)
    return templates.pool(rows, media, labels)
