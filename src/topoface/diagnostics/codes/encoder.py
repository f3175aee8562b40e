"""The part of ``topoface codes report`` on the encoder: vectors of one at chance are worse than random ones."""

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.codes.build import RANDOM
from topoface.codes.encoders import STORED, encoder_digest, open_image_encoder
from topoface.codes.table import CodeTable
from topoface.diagnostics.opening import progress_bar
from topoface.diagnostics.page import Section
from topoface.diagnostics.page import Table as PageTable
from topoface.errors import UserError
from topoface.evaluation import Verification, open_protocol, verify


def judge_encoder(table: CodeTable, pairs: str, encoder: str | None) -> Verification:
    """Judge the encoder that the code vectors come from on verification pairs.

    Args:
        table: remembers its encoder.
        pairs: what ``evaluation.pairs`` takes.
        encoder: where the encoder lies now; None looks where it was.

    Raises:
        UserError: there is none, it only left embeddings, it is another one, or the pairs cannot be read.
    """
    made_by, path = str(table.meta.get("encoder", RANDOM)), encoder
    path = path or made_by
    if made_by == RANDOM:
        raise UserError("has vectors that no encoder made", str(table.path), "leave out --pairs")
    if path.endswith(STORED):
        raise UserError(
            "holds embeddings of the training faces, and pairs need the encoder itself",
            path,
            "name it with --encoder",
        )
    if not made_by.endswith(STORED) and encoder_digest(path) != table.meta["encoder_sha256"]:
        raise UserError(f"is not the encoder that {table.path} was made with", path, "give that one")
    encode = open_image_encoder(path, fingerprint="")

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = encode(
            torch.from_numpy(faces).permute(0, 3, 1, 2), torch.arange(len(faces))
        ).numpy()
        wanted = table.meta["encoder_dimension"]
        if rows.shape[1] != wanted:
            what = f"gives {rows.shape[1]} dimensions, the table's encoder gave {wanted}"
            raise UserError(what, path, "give the encoder that the table was made with")
        return rows

    protocol = open_protocol(pairs)
    with progress_bar("images") as bar:
        task = bar.add_task(protocol.name, total=len(protocol.images))
        return verify(
            embed, protocol, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )


def encoder_words(judged: Verification) -> str:
    """What it reached, in a sentence."""
    accuracy, area = judged.accuracy, judged.auc
    words = (
        f"The encoder tells one person from two in {accuracy.value:.1%} of the pairs of {judged.name} (95 % interval {accuracy.low:.1%} to "
        f"{accuracy.high:.1%})"
    )
    return words + (": no better than chance." if area.low <= 0.5 else ".")


def encoder_section(judged: Verification) -> Section:
    """Of the page."""
    figures = [("accuracy", judged.accuracy), ("area under the ROC", judged.auc)]
    figures += [(f"TAR at FAR {point.target:g}", point.tar) for point in judged.tar]
    text = (
        "Code vectors are as good as the encoder: those of one at chance are worse than random ones, because they make likes of people who are "
        "not. These are pairs of people, so the figures compare with those of the models that learn from the vectors."
    )
    return Section(
        title="How good the encoder is",
        text=f"{text}\n\n{encoder_words(judged)}",
        table=PageTable(
            header=["figure", "%", "95 % interval"],
            rows=[
                (
                    name,
                    f"{figure.value:.2%}".rstrip("%"),
                    f"{100 * figure.low:.2f} to {100 * figure.high:.2f}",
                )
                for name, figure in figures
            ],
            caption=" ".join(judged.warnings),
        ),
    )
