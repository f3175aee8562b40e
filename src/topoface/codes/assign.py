"""Points to clusters of limited room: nearly optimal and fast (section 4.2 of our reading of GIF), or optimal.

Everything works on a batch of nodes of equal size at a time, since a tree of codes has very many small ones. The loops are
compiled where numba is there; the arrays beside them give the same.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.functional.compiled import compiled

Costs = NDArray[np.float32]
Integers = NDArray[np.int64]
ROUNDS = 40
DECAY = 0.93
PRICED_ROWS = 512
"""Rows for each cluster that prices are found on: more would not move them, and regret settles what is left."""


def split_sizes(members: int, children: int, wanted: Integers) -> Integers:
    """Room ``[B, children]`` for equal shares: sizes differ by one at most, the larger ones where ``wanted [B, children]`` is larger."""
    rank = np.argsort(np.argsort(-wanted, axis=1, kind="stable"), axis=1)
    return members // children + (rank < members % children)


def assign_balanced(costs: Costs, *, loops: bool = True) -> Integers:
    """Cheap shares of equal size: cluster ``[B, m]`` of each point, each cluster with m/K points rounded down or up.

    Prices make crowded clusters dear until demand meets room. Then points come by falling regret (second best less best), and each
    takes the cheapest cluster that still has room. On random costs the total is within 1 % of the optimum.

    Args:
        costs: ``[B, m, K]`` of B separate problems, m >= K.
        loops: whether compiled loops may do it.
    """
    _, m, k = costs.shape
    wanted = np.stack([np.bincount(best, minlength=k) for best in costs.argmin(2)])
    room = split_sizes(m, k, wanted)
    priced = costs + _find_prices(costs, room, loops)[:, None]
    chosen = np.empty(costs.shape[:2], np.int64)
    ((compiled(_regret_loops) if loops else None) or _regret_arrays)(priced, room, chosen)
    return chosen


def even_prices(costs: Costs, *, loops: bool = True) -> NDArray[np.float32]:
    """What to add to each cluster's costs ``[K]`` so that points ``[n, K]`` that choose freely spread over all of them."""
    n, k = costs.shape
    prices: NDArray[np.float32] = _find_prices(costs[None], np.full((1, k), n / k), loops)[0]
    return prices


def assign_exactly(costs: Costs, *, loops: bool = True) -> Integers:
    """Cheapest choice ``[B, m]`` of a different cluster for every point.

    Args:
        costs: ``[B, m, K]``, m <= K.
        loops: whether compiled loops may do it.
    """
    function: Callable[..., Any] = (compiled(_exact_loops) if loops else None) or _exact_arrays
    chosen = np.empty(costs.shape[:2], np.int64)
    function(costs.astype(np.float64), chosen)
    return chosen


# --- prices, then regret -----------------------------------------------------------------------------------


def _find_prices(costs: Costs, room: NDArray[np.floating] | Integers, loops: bool) -> NDArray[np.float32]:
    """Prices ``[B, K]`` at which demand comes nearest to the room ``[B, K]``."""
    _, m, k = costs.shape
    rows = np.linspace(0, m - 1, min(m, PRICED_ROWS * k)).astype(np.int64)
    step = costs[:, rows].std(axis=(1, 2), dtype=np.float64).astype(np.float32)
    target = room * (len(rows) / m)
    prices = np.zeros((len(costs), k), np.float32)
    ((compiled(_price_loops) if loops else None) or _price_arrays)(costs, target, rows, step, prices)
    return prices


def _price_loops(
    costs: Costs, target: NDArray[np.float64], rows: Integers, step: Costs, kept: NDArray[np.float32]
) -> None:
    nodes, _, k = costs.shape
    for node in range(nodes):
        prices = np.zeros(k, np.float32)
        least = np.inf
        for _ in range(ROUNDS):
            count = np.zeros(k, np.int64)
            for row in rows:
                best, at = np.float32(np.inf), 0
                for c in range(k):
                    value = costs[node, row, c] + prices[c]
                    if value < best:
                        best, at = value, c
                count[at] += 1
            overflow = 0.0
            for c in range(k):
                overflow += max(count[c] - target[node, c], 0)
            if overflow < least:
                least = overflow
                kept[node] = prices
            if overflow < 1:
                break
            for c in range(k):
                excess = (count[c] - target[node, c]) / target[node, c]
                prices[c] += np.float32(step[node] * min(max(excess, -1), 1) / 2)
            step[node] *= np.float32(DECAY)


def _price_arrays(
    costs: Costs, target: NDArray[np.float64], rows: Integers, step: Costs, kept: NDArray[np.float32]
) -> None:
    k = costs.shape[2]
    for node, table in enumerate(costs):
        prices, least, sample = np.zeros(k, np.float32), np.inf, table[rows]
        for _ in range(ROUNDS):
            count = np.bincount((sample + prices).argmin(1), minlength=k)
            overflow = float(np.maximum(count - target[node], 0).sum())
            if overflow < least:
                least, kept[node] = overflow, prices
            if overflow < 1:
                break
            excess = np.clip((count - target[node]) / target[node], -1, 1)
            prices = prices + (step[node] * excess / 2).astype(np.float32)
            step[node] *= np.float32(DECAY)


def _regret_loops(costs: Costs, room: Integers, chosen: Integers) -> None:
    nodes, m, k = costs.shape
    for node in range(nodes):
        regret = np.empty(m, np.float32)
        for row in range(m):
            best, second = np.float32(np.inf), np.float32(np.inf)
            for c in range(k):
                value = costs[node, row, c]
                if value < best:
                    best, second = value, best
                elif value < second:
                    second = value
            regret[row] = best - second
        left = room[node].copy()
        for row in np.argsort(regret, kind="mergesort"):
            best, at = np.float32(np.inf), -1
            for c in range(k):
                if left[c] > 0 and (at < 0 or costs[node, row, c] < best):
                    best, at = costs[node, row, c], c
            left[at] -= 1
            chosen[node, row] = at


def _regret_arrays(costs: Costs, room: Integers, chosen: Integers) -> None:
    for node, table in enumerate(costs):
        chosen[node] = _by_regret(table, room[node])


def _by_regret(costs: Costs, room: Integers) -> Integers:
    """One point after the other by falling regret, all at once.

    Every point asks for its cheapest cluster, a cluster keeps those of largest regret that it has room for, the others ask
    for their next. All clusters rank points alike, so the end is that of points choosing one by one in that order.
    """
    m, k = costs.shape
    two = np.partition(costs, 1, axis=1)[:, :2] if k > 1 else np.zeros((m, 2), np.float32)
    rank = np.empty(m, np.int64)
    rank[np.argsort(two[:, 0] - two[:, 1], kind="stable")] = np.arange(m)
    asked = np.zeros(m, np.int64)
    preference = np.argsort(costs, axis=1, kind="stable")
    while True:
        choice = preference[np.arange(m), asked]
        order = np.lexsort((rank, choice))
        first = np.searchsorted(choice[order], np.arange(k))
        place = np.arange(m) - first[choice[order]]
        refused = order[place >= room[choice[order]]]
        if not len(refused):
            return choice
        asked[refused] += 1


# --- shortest augmenting paths -----------------------------------------------------------------------------


def _exact_loops(costs: NDArray[np.float64], chosen: Integers) -> None:
    nodes, m, k = costs.shape
    for node in range(nodes):
        table = costs[node]
        row_price, column_price = np.zeros(m + 1), np.zeros(k + 1)
        owner, before = np.zeros(k + 1, np.int64), np.zeros(k + 1, np.int64)  # 1-based; 0 stands for none
        for row in range(1, m + 1):
            owner[0], column = row, 0
            distance, visited = np.full(k + 1, np.inf), np.zeros(k + 1, np.bool_)
            while True:
                visited[column] = True
                current, shortest, following = owner[column], np.inf, 0
                for c in range(1, k + 1):
                    if not visited[c]:
                        value = table[current - 1, c - 1] - row_price[current] - column_price[c]
                        if value < distance[c]:
                            distance[c], before[c] = value, column
                        if distance[c] < shortest:
                            shortest, following = distance[c], c
                for c in range(k + 1):
                    if visited[c]:
                        row_price[owner[c]] += shortest
                        column_price[c] -= shortest
                    else:
                        distance[c] -= shortest
                column = following
                if owner[column] == 0:
                    break
            while column:
                owner[column] = owner[before[column]]
                column = before[column]
        for c in range(1, k + 1):
            if owner[c]:
                chosen[node, owner[c] - 1] = c - 1


def _exact_arrays(costs: NDArray[np.float64], chosen: Integers) -> None:
    m, k = costs.shape[1:]
    for node, table in enumerate(costs):
        row_price, column_price = np.zeros(m), np.zeros(k)
        owner = np.full(k, -1)
        for row in range(m):
            distance, before = np.full(k, np.inf), np.full(k, -1)
            visited = np.zeros(k, np.bool_)
            column, current = -1, row
            path = [row]  # rows whose price rises with the way
            while True:
                value = table[current] - row_price[current] - column_price
                nearer = ~visited & (value < distance)
                distance[nearer], before[nearer] = value[nearer], column
                following = int(np.where(visited, np.inf, distance).argmin())
                shortest = distance[following]
                row_price[path] += shortest
                column_price[visited] -= shortest
                distance[~visited] -= shortest
                column = following
                if owner[column] < 0:
                    break
                visited[column] = True
                current = int(owner[column])
                path.append(current)
            while column >= 0:
                origin = int(before[column])
                owner[column] = owner[origin] if origin >= 0 else row
                column = origin
        taken = np.flatnonzero(owner >= 0)
        chosen[node, owner[taken]] = taken
