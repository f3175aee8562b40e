"""Exact search: the gallery entries most similar to each probe, found by fast products that may err and settled by exact ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.functional.compiled import compiled
from topoface.functional.distances import int8_product_is_exact

_PROBES, _ENTRIES = 512, 8192  # of a tile of the product; no result depends on them
_CHUNK = 64  # products looked at together

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """Rows to be searched, and the same in eight bits where the processor multiplies those faster.

    Attributes:
        rows: float32 ``[g, D]``, none longer than 1.
        eight: int8 ``[g, D]``, or None.
        scale: float32 ``[g]``: ``scale * eight`` is nearly ``rows``.
        miss: float32 ``[g]``: the length of the difference, at most.
    """

    rows: Rows
    eight: NDArray[np.int8] | None
    scale: Rows
    miss: Rows


def prepare(gallery: NDArray[Any]) -> Gallery:
    """Round a gallery to eight bits, once for many searches; a quarter more memory, and half the time of each search.

    Without such instructions, or where a table is too small for them, it stays as it is.

    Args:
        gallery: float32 ``[g, D]``, unit rows (or zeros).

    Raises:
        ValueError: rows longer than 1.
    """
    rows = unit_table(gallery)
    if min(rows.shape, default=0) < 2 or not int8_product_is_exact("cpu"):
        return _plain(rows)
    return Gallery(rows=rows, **_in_eight_bits(rows))


def most_similar(
    probes: NDArray[Any], gallery: NDArray[Any] | Gallery, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``k`` gallery entries most similar to each probe, exactly: what sorting all cosines would give.

    A product of tiles, in float32 or in eight bits, finds candidates: all that could be among the ``k`` best given how far it
    can err, which is known (`product_error`; the lengths of what rounding to eight bits leaves out). They alone are computed
    again, in float64, so that no answer depends on precision, tiles, threads or library.

    Args:
        probes: float32 ``[p, D]``, unit rows (or zeros).
        gallery: float32 ``[g, D]``, unit rows (or zeros); or what `prepare` made of it.
        k: at least 1; all entries where there are fewer.

    Returns:
        ``(positions, cosines)``, ``[p, min(k, g)]``, best first; of equal ones the lower position first.

    Raises:
        ValueError: rows longer than 1, tables of two widths, an empty gallery, or ``k`` below 1.
    """
    left = unit_table(probes)
    right = gallery if isinstance(gallery, Gallery) else _plain(unit_table(gallery))
    k = min(k, len(right.rows))
    if k < 1 or left.shape[1] != right.rows.shape[1]:
        raise ValueError(
            f"k of {k}, probes {left.shape} and gallery {right.rows.shape}; give k >= 1 and tables of one width"
        )
    found = [_most_similar(left[at : at + _PROBES], right, k) for at in range(0, len(left), _PROBES)]
    positions = np.concatenate([np.empty((0, k), np.int64), *(part[0] for part in found)])
    return positions, np.concatenate([np.empty((0, k)), *(part[1] for part in found)])


def product_error(dimension: int) -> float:
    """Bound of what a float32 product of unit rows errs by, in whatever order it adds (Higham: gamma_D, with room)."""
    return float(1.01 * (dimension + 2) * 2.0**-24)


def unit_table(rows: NDArray[Any]) -> NDArray[np.float32]:
    """The rows as a contiguous float32 table, if none is longer than 1. ValueError otherwise."""
    table = np.ascontiguousarray(rows, dtype=np.float32)
    for at in range(0, len(table), 1 << 14):
        part = table[at : at + (1 << 14)]
        if not np.einsum("nd,nd->n", part, part).max(initial=0.0) < 1 + 1e-5:  # NaN is refused too
            raise ValueError("rows must be finite and no longer than 1; normalise them first")
    return table


def exact_cosines(
    rows: NDArray[np.float32], columns: NDArray[np.float32], i: NDArray[Any], j: NDArray[Any]
) -> NDArray[np.float64]:
    """Inner products of ``rows[i]`` and ``columns[j]`` summed in float64, ``[m]``: right to 1e-15, whatever the order."""
    loops = compiled(_exact_loops, exact_loop)
    if loops is not None:
        products: NDArray[np.float64] = loops(rows, columns, i, j)
        return products
    step = 1 << 12
    parts = [
        np.einsum("md,md->m", rows[i[at : at + step]].astype(np.float64), columns[j[at : at + step]])
        for at in range(0, len(i), step)
    ]
    return np.concatenate([np.empty(0), *parts])


def exact_loop(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Inner product of two float32 vectors in float64, as a loop to compile."""
    total = 0.0
    for d in range(len(a)):
        total += np.float64(a[d]) * np.float64(b[d])
    return total


def _exact_loops(
    rows: NDArray[np.float32], columns: NDArray[np.float32], i: NDArray[Any], j: NDArray[Any]
) -> NDArray[np.float64]:
    products = np.empty(len(i))
    for m in range(len(i)):
        products[m] = exact_loop(rows[i[m]], columns[j[m]])
    return products


def _plain(rows: Rows) -> Gallery:
    return Gallery(
        rows=rows, eight=None, scale=np.ones(len(rows), np.float32), miss=np.zeros(len(rows), np.float32)
    )


def _in_eight_bits(rows: Rows) -> dict[str, NDArray[Any]]:
    eight = np.empty(rows.shape, np.int8)
    scale, miss = np.empty((2, len(rows)), np.float32)
    for at in range(0, len(rows), 1 << 12):
        part = rows[at : at + (1 << 12)]
        step = np.maximum(np.abs(part).max(axis=1), np.float32(1e-30)) / np.float32(127)
        near = np.rint(part / step[:, None])
        rest = part - near * step[:, None]
        eight[at : at + len(part)], scale[at : at + len(part)] = near, step
        miss[at : at + len(part)] = 1.0001 * np.sqrt(np.einsum("nd,nd->n", rest, rest)) + 1e-6
    return {"eight": eight, "scale": scale, "miss": miss}


def _most_similar(probes: Rows, gallery: Gallery, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """`most_similar` for one tile of probes: keep whatever may reach the k-th best so far."""
    asked = _plain(probes)
    if gallery.eight is not None and len(probes) > 1:
        asked = Gallery(rows=probes, **_in_eight_bits(probes))
    error = product_error(probes.shape[1]) if asked.eight is None else 1e-6
    best = np.full(
        (len(probes), k), -np.inf, np.float32
    )  # the k best of what cosines are at least, ascending
    row, entry, most = np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32)
    size = min(_ENTRIES, len(gallery.rows))
    rows, columns = np.empty((2, len(probes) * size), np.int32)
    upper = np.empty(len(probes) * size, np.float32)
    sift = compiled(_sift_loops) or _sift_arrays
    start = 0
    while start < len(gallery.rows):
        stop = min(start + size, len(gallery.rows))
        if len(gallery.rows) - stop == 1 and size > 1:
            stop -= 1  # torch's eight-bit product takes no single column
        tile = slice(start, stop)
        if asked.eight is None or gallery.eight is None:
            product: NDArray[Any] = probes @ gallery.rows[tile].T
            scale, miss = _ONES[: stop - start], _ZEROS[: stop - start]
        else:
            left, right = torch.from_numpy(asked.eight), torch.from_numpy(gallery.eight[tile])
            product = torch._int_mm(left, right.T).numpy()
            scale, miss = gallery.scale[tile], gallery.miss[tile]
        n = sift(product, asked.scale, asked.miss, scale, miss, error, best, rows, columns, upper, _CHUNK)
        row, most = np.append(row, rows[:n]), np.append(most, upper[:n])
        entry = np.append(entry, columns[:n].astype(np.int64) + start)
        if len(row) > 64 * k * len(probes) or stop == len(gallery.rows):
            near = most >= best[row, 0]
            row, entry, most = row[near], entry[near], most[near]
        start = stop
    cosines = exact_cosines(probes, gallery.rows, row, entry)
    order = np.lexsort((entry, -cosines, row))
    starts = np.searchsorted(row[order], np.arange(len(probes)))
    chosen = order[starts[:, None] + np.arange(k)]
    return entry[chosen], cosines[chosen]


_ONES, _ZEROS = np.ones(_ENTRIES, np.float32), np.zeros(_ENTRIES, np.float32)


def _sift_arrays(
    product: NDArray[Any],
    scale_p: Rows,
    miss_p: Rows,
    scale_g: Rows,
    miss_g: Rows,
    error: float,
    best: Rows,
    rows: NDArray[np.int32],
    columns: NDArray[np.int32],
    upper: Rows,
    chunk: int,  # noqa: ARG001
) -> int:
    """`_sift_loops` where nothing can be compiled."""
    value = product * scale_g * scale_p[:, None]
    slack = np.float32(error) + miss_g * (1 + miss_p[:, None]) * np.float32(1.0001) + miss_p[:, None]
    known = np.concatenate([best, value - slack], axis=1)
    best[:] = np.sort(
        np.partition(known, known.shape[1] - best.shape[1], axis=1)[:, -best.shape[1] :], axis=1
    )
    at_most = value + slack
    row, column = np.nonzero(at_most >= best[:, :1])
    rows[: len(row)], columns[: len(row)], upper[: len(row)] = row, column, at_most[row, column]
    return len(row)


def _sift_loops(
    product: NDArray[Any],
    scale_p: Rows,
    miss_p: Rows,
    scale_g: Rows,
    miss_g: Rows,
    error: float,
    best: Rows,
    rows: NDArray[np.int32],
    columns: NDArray[np.int32],
    upper: Rows,
    chunk: int,
) -> int:
    """Which entries of a tile may be among the best of their row; raises ``best``, fills rows, columns and upper bounds."""
    n, k = 0, best.shape[1]
    for r in range(product.shape[0]):
        own = best[r]
        scale, miss = scale_p[r], miss_p[r]
        wide = np.float32(1.0001) * (np.float32(1.0) + miss)
        flat = np.float32(error) + miss
        for start in range(0, product.shape[1], chunk):
            line, steps = product[r, start : start + chunk], scale_g[start : start + chunk]
            misses = miss_g[start : start + chunk]
            bar, hits = own[0] - flat, np.int32(0)
            for c in range(len(line)):
                hits += np.int32(np.float32(line[c]) * (steps[c] * scale) + misses[c] * wide >= bar)
            if hits == 0:
                continue
            for c in range(len(line)):
                value = np.float32(line[c]) * (steps[c] * scale)
                slack = flat + misses[c] * wide
                if value + slack < own[0]:
                    continue
                rows[n], columns[n], upper[n] = r, start + c, value + slack
                n += 1
                at_least, place = value - slack, 0
                if at_least > own[0]:
                    while place + 1 < k and own[place + 1] < at_least:
                        own[place] = own[place + 1]
                        place += 1
                    own[place] = at_least
    return n
