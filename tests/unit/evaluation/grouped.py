"""Judged protocols without pictures: names, people, scores."""

import numpy as np

from topoface.evaluation.embedding import PairScores
from topoface.evaluation.pairs.protocol import build_protocol
from topoface.evaluation.pairs.verification import judge


class Named:
    """Images of which only the names are asked for."""

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        raise AssertionError(f"image {i} was read")


def protocol_of(names, people, pairs, folds=2):
    """Pairs ``[m, 2]`` of named images; genuine where the people are one."""
    pairs, people = np.array(pairs), np.array(people)
    same = people[pairs[:, 0]] == people[pairs[:, 1]]
    fold = np.empty(len(pairs), dtype=np.int64)
    for kind in (same, ~same):
        fold[kind] = np.arange(kind.sum()) % folds
    return build_protocol(
        name="planted", uri="planted", images=Named(list(names)), pairs=pairs, same=same, folds=fold,
        people=list(people), stamps=list(names),
    )  # fmt: skip


def judged(protocol, scores, bootstrap=60):
    found = PairScores(
        scores=np.asarray(scores, dtype=np.float64), failed=np.zeros(len(scores), np.bool_), failures=()
    )
    return judge(found, protocol, flip=False, bootstrap=bootstrap)


def crowd(groups, each=6, pictures=3, seed=0):
    """Names, people, pairs of people of each group; every two images are a pair."""
    people = [f"{group}{i}" for group in groups for i in range(each)]
    names = [f"{person}/{person}_{k}.jpg" for person in people for k in range(pictures)]
    who = [person for person in people for _ in range(pictures)]
    pairs = np.stack(np.triu_indices(len(names), 1), axis=1)
    return names, who, np.random.default_rng(seed).permutation(pairs)
