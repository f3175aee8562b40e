"""The tree of all prefixes of the codes that identities have, and what token probabilities mean on it.

Token probabilities are independent given an embedding, so three distributions over identities exist: ``product`` (some of its mass lies on codes that
nobody has), ``tree`` (each token among those that exist under its prefix) and ``global`` (the product, normalised over the real codes).
For diagnostics: all but the beam and the estimate cost O(identities) a sample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NextToken = Callable[[Tensor], Tensor]
"""Log-probabilities ``[n, w, K]`` of the next token after prefixes int64 ``[n, w, j]``."""


@dataclass(frozen=True, kw_only=True)
class PrefixTree:
    """Prefixes of each length in lexicographic order, so that the children of a node are neighbours.

    Attributes:
        tokens: of each length 1..L: last token of each prefix, int64 ``[m_j]``.
        parents: the prefix before it, a position in the level above, int64 ``[m_j]``.
        first: of each length 0..L-1: where the children of each node begin in the next level, and one past the last,
            int64 ``[m_j + 1]``.
        owners: row of the code table of each full code, int64 ``[C]``.
    """

    tokens: tuple[Tensor, ...]
    parents: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    owners: Tensor

    @staticmethod
    def of(codes: Tensor) -> "PrefixTree":
        """The tree of codes int64 ``[C, L]``, all different."""
        owners = torch.arange(len(codes))
        for token in reversed(codes.unbind(1)):
            owners = owners[token[owners].argsort(stable=True)]
        ordered = codes[owners]
        tokens, parents, first = [], [], []
        above = torch.zeros(len(codes), dtype=torch.int64)  # node of each code in the level above
        count = 1
        for token in ordered.unbind(1):
            new = torch.ones_like(token, dtype=torch.bool)
            new[1:] = (token[1:] != token[:-1]) | (above[1:] != above[:-1])
            tokens.append(token[new])
            parents.append(above[new])
            first.append(torch.searchsorted(above[new], torch.arange(count + 1)))
            above = new.cumsum(0) - 1
            count = int(above[-1]) + 1
        return PrefixTree(tokens=tuple(tokens), parents=tuple(parents), first=tuple(first), owners=owners)

    def to_table(self, leaves: Tensor) -> Tensor:
        """``[n, C]`` by position in the tree as ``[n, C]`` by row of the table."""
        return torch.empty_like(leaves).index_copy_(1, self.owners, leaves)


def product_log_likelihood(log_p: Tensor, tree: PrefixTree) -> Tensor:
    """Log of the product of token probabilities ``[n, C]``, by table row, from log-probabilities ``[n, L, K]``."""
    return tree.to_table(_leaf_sums([log_p[:, j, t] for j, t in enumerate(tree.tokens)], tree))


def tree_log_likelihood(log_p: Tensor, tree: PrefixTree) -> Tensor:
    """Log-likelihood ``[n, C]`` by table row, each token among those that exist under its prefix; sums to 1."""
    return tree.to_table(_leaf_sums(_conditionals(log_p, tree), tree))


def global_log_likelihood(log_p: Tensor, tree: PrefixTree) -> Tensor:
    """Log-likelihood ``[n, C]`` by table row of the softmax over additive class centers; sums to 1."""
    return product_log_likelihood(log_p, tree).log_softmax(1)


def global_entropy(log_p: Tensor, tree: PrefixTree) -> Tensor:
    """Entropy ``[n]`` in nats of :func:`global_log_likelihood`."""
    log_likelihood = global_log_likelihood(log_p, tree)
    return -(log_likelihood.exp() * log_likelihood).sum(1)


def tree_entropy(log_p: Tensor, tree: PrefixTree) -> Tensor:
    """Entropy ``[n]`` in nats of :func:`tree_log_likelihood`: the entropies of all nodes, each by how likely it is met."""
    total = log_p.new_zeros(len(log_p))
    reached = log_p.new_zeros(len(log_p), 1)
    for conditional, parents in zip(_conditionals(log_p, tree), tree.parents, strict=True):
        below = reached[:, parents] + conditional
        total = total - (below.exp() * conditional).sum(1)
        reached = below
    return total


def estimated_tree_entropy(log_p: Tensor, tree: PrefixTree, uniform: Tensor) -> Tensor:
    """Unbiased estimate ``[n]`` of :func:`tree_entropy` in O(L K): the entropies of the nodes on a path drawn from the model.

    Args:
        log_p: ``[n, L, K]``.
        tree: of the codes.
        uniform: ``[n, L]``, independent and uniform in [0, 1).
    """
    total = log_p.new_zeros(len(log_p))
    node = torch.zeros(len(log_p), dtype=torch.int64)
    for j in range(log_p.shape[1]):
        children, there = _children(tree, j, node, log_p.shape[2])
        scores = log_p[:, j].gather(1, tree.tokens[j][children]).where(there, -torch.inf)
        log_q = scores.log_softmax(1)
        q = log_q.exp()
        total = total - (q * log_q.where(there, 0.0)).sum(1)
        drawn = (q.cumsum(1) <= uniform[:, j, None]).sum(1)
        node = children.gather(1, drawn.minimum(there.sum(1) - 1)[:, None])[:, 0]
    return total


def beam_search(next_token: NextToken, tree: PrefixTree, width: int, samples: int) -> tuple[Tensor, Tensor]:
    """The most likely identities by a search over prefixes that exist; exact from a width of the widest level on.

    Args:
        next_token: the model, asked for one position after the other; :func:`independent` where prefixes do not matter.
        tree: of the codes.
        width: prefixes kept at each position; ties go to the earlier in token order.
        samples: n.

    Returns:
        Table rows int64 ``[n, w]``, most likely first, and the log of the product of their token probabilities ``[n, w]``; w is
        the width, or C where there are fewer identities.
    """
    nodes = torch.zeros(samples, 1, dtype=torch.int64)
    prefixes = torch.zeros(samples, 1, 0, dtype=torch.int64)
    scores: Tensor | None = None
    for j in range(len(tree.tokens)):
        log_p = next_token(prefixes)
        tokens = log_p.shape[2]
        children, there = _children(tree, j, nodes.flatten(), tokens)
        children, there = (each.view(samples, -1, tokens) for each in (children, there))
        last = tree.tokens[j][children]
        found = log_p.gather(2, last)
        found = (found if scores is None else found + scores[..., None]).where(there, -torch.inf).flatten(1)
        kept = min(width, len(tree.tokens[j]))  # never more than the children: every prefix has one
        # a stable sort of children in lexicographic order breaks ties by token; then back into that order
        best = found.argsort(dim=1, descending=True, stable=True)[:, :kept].sort(1).values
        scores = found.gather(1, best)
        nodes = children.flatten(1).gather(1, best)
        grown = torch.cat([prefixes[:, :, None].expand(-1, -1, tokens, -1), last[..., None]], -1).flatten(
            1, 2
        )
        prefixes = grown.gather(1, best[..., None].expand(-1, -1, j + 1))
    assert scores is not None
    order = scores.argsort(dim=1, descending=True, stable=True)
    return tree.owners[nodes.gather(1, order)], scores.gather(1, order)


def independent(log_p: Tensor) -> NextToken:
    """The model of token log-probabilities ``[n, L, K]`` that do not depend on the prefix."""

    def next_token(prefixes: Tensor) -> Tensor:
        return log_p[:, prefixes.shape[2], None].expand(-1, prefixes.shape[1], -1)

    return next_token


def _children(tree: PrefixTree, level: int, nodes: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Positions ``[n, most]`` in the next level of the children of nodes ``[n]``, and which of them are any."""
    first = tree.first[level]
    positions = first[nodes][:, None] + torch.arange(most)
    there = positions < first[nodes + 1][:, None]
    return positions.clamp(max=len(tree.tokens[level]) - 1), there


def _conditionals(log_p: Tensor, tree: PrefixTree) -> list[Tensor]:
    """Of each level, log-probability ``[n, m_j]`` of each node given its parent, among its siblings."""
    result = []
    for j, (tokens, parents) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        scores = log_p[:, j, tokens]
        index = parents.expand(len(log_p), -1)
        shape = (len(log_p), len(tree.first[j]) - 1)
        top = scores.new_full(shape, -torch.inf).scatter_reduce(1, index, scores, "amax")
        mass = scores.new_zeros(shape).index_add(1, parents, (scores - top[:, parents]).exp())
        result.append(scores - (top + mass.log())[:, parents])
    return result


def _leaf_sums(levels: list[Tensor], tree: PrefixTree) -> Tensor:
    """``[n, C]`` in tree order: the sum of the levels' values ``[n, m_j]`` along the path to each leaf."""
    total = levels[0]
    for values, parents in zip(levels[1:], tree.parents[1:], strict=True):
        total = total[:, parents] + values
    return total
