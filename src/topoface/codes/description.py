"""A table of codes in lines of text."""

import math

import numpy as np
from numpy.typing import NDArray

from topoface.codes.table import CodeTable

MOST_LISTED = 8
_KIND_TEXTS = {
    "rq": "residual quantisation: a token means the same under every prefix",
    "aligned": "balanced tree, labels matched to one code book a level",
    "axis": "balanced tree, labels along each node's first axis",
    "arbitrary": "balanced tree, labels drawn for each node (the published kind)",
    "shuffled": "a balanced tree's codes dealt out at random (a control)",
    "random": "drawn digits (a control)",
    "rs": "Reed-Solomon: any two codes differ in nearly all positions (a control)",
    "numeric": "digits of the row (a control)",
}


def describe(table: CodeTable) -> list[tuple[str, str]]:
    """Names and texts of what it holds."""
    meta, codes = table.meta, math.prod(table.alphabets)
    kind = str(meta.get("kind", "unknown"))
    lines = [
        ("table", f"{table.path} ({table.digest[:16]})"),
        ("identities", f"{table.num_identities:,}" + _images(meta)),
        (
            "codes",
            f"{shape_text(table.alphabets)}: {sum(table.alphabets):,} tokens, "
            f"{codes:,} codes, {codes / table.num_identities:.3g} for each identity",
        ),
        ("tokeniser", f"{kind}, {_KIND_TEXTS[kind]}" if kind in _KIND_TEXTS else kind),
        ("tokens unused", _listed([f"{(use == 0).sum()} of {len(use)}" for use in token_use(table)])),
        (
            "most frequent",
            _listed([f"{use.max() / use.mean():.2f}" for use in token_use(table)]) + " times the mean",
        ),
    ]
    if table.vectors is not None:
        encoder, alpha = meta.get("encoder", "unknown"), meta.get("alpha")
        treated = {None: "not centered", 0: "centered"}.get(alpha, f"alpha {alpha}")
        made = "drawn at random" if encoder == "random" else f"{treated}, from {encoder}"
        lines.append(("code vectors", f"{table.vectors.shape[1]} dimensions, {made}"))
    if "space" in meta:
        space = meta["space"]
        lines.append(
            (
                "cosines",
                f"mean {round(space['mean_cosine'], 3) + 0:.3f}, nearest {space['nearest_cosine']:.3f}, largest {space['largest_cosine']:.3f}",
            )
        )
        lines.append(
            (
                "spread",
                f"potential {space['potential']:.3f} (evenly: {space['least_potential']:.3f}), effective rank "
                f"{space['effective_rank']:.0f}, {space['duplicates']} duplicates",
            )
        )
    if "treatment" in meta:
        kept, travel = meta["treatment"]["kept_neighbours"], meta["treatment"]["travel"]
        turned = "" if travel is None else f", turned by {math.degrees(travel):.0f} degrees on average"
        lines.append(
            ("beside the means", f"{kept:.0%} of the ten nearest are those of the encoder's means{turned}")
        )
    if meta.get("kappa") is not None:
        lines.append(("kappa", f"{meta['kappa']:.2f} images until a mean is half signal"))
    if "explained" in meta:
        shares = _listed([f"{share:.0%}" for share in meta["explained"]])
        lines.append(("books", f"the first tokens tell {shares} of the vectors' variance"))
    return lines


def shape_text(alphabets: tuple[int, ...]) -> str:
    """``"13 x 3"``, or all alphabets where they differ."""
    if len(set(alphabets)) == 1:
        return f"{alphabets[0]} x {len(alphabets)}"
    return ", ".join(map(str, alphabets))


def token_use(table: CodeTable) -> list[NDArray[np.int64]]:
    """Identities ``[K_j]`` of each token, for each position."""
    return [np.bincount(table.codes[:, j], minlength=k) for j, k in enumerate(table.alphabets)]


def _listed(texts: list[str]) -> str:
    """One for each position; of many, those at both ends."""
    shown = texts if len(texts) <= MOST_LISTED else [*texts[:4], "..", *texts[-2:]]
    return ", ".join(shown)


def _images(meta: object) -> str:
    images = meta.get("images") if isinstance(meta, dict) else None
    return f", {images:,} images of them looked at" if images else ""
