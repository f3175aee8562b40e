"""What a template protocol is: which images make up which templates, which are compared, and which are searched for."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.images import Images

Positions = NDArray[np.int32]


class StampedImages(Images, Protocol):
    """Images that can say whether they changed."""

    def stamps(self) -> list[str]:
        """A string for each that changes when its content does, as far as can be told without reading it."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """Probes searched in one gallery.

    Attributes:
        name: of the gallery, for tables.
        gallery: int32 ``[g]``, positions in ``TemplateProtocol.template_ids``.
        gallery_people: int64 ``[g]``.
        probes: int32 ``[p]``, positions in ``TemplateProtocol.template_ids``.
        probe_people: int64 ``[p]``; a probe whose person is not in the gallery is one that should find nobody.
        distractors: int32 ``[d]``, positions in ``TemplateProtocol.template_ids``, which join the gallery: of people who are
            neither in it nor searched for.
        in_turn: the probes are the gallery, too: each other probe of a person in turn is the only mate among the distractors.
    """

    name: str
    gallery: Positions
    gallery_people: NDArray[np.int64]
    probes: Positions
    probe_people: NDArray[np.int64]
    distractors: Positions = field(default_factory=lambda: np.empty(0, np.int32))
    in_turn: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateProtocol:
    """Templates of images, compared in pairs (1:1) and searched in galleries (1:N).

    Attributes:
        name: short, for tables.
        uri: what it was opened from.
        images: the ``n`` images in the order of the list, aligned when read; features on disk have a row for each.
        template_ids: int64 ``[t]``, ascending.
        templates: int64 ``[n]``, the template of each image, out of ``template_ids``.
        media: int64 ``[n]``, the medium of each image.
        detector: float64 ``[n]``, how sure the face detector was; or None where no file says.
        pairs: int32 ``[m, 2]``, positions in ``template_ids``; ``m`` is 0 without a 1:1 list.
        same: bool ``[m]``.
        people: int64 ``[t]``, who is in each template, from 0: what the bootstrap draws. Templates of one person are those that
            genuine pairs link or that the galleries say show one.
        searches: one a gallery.
        alignment: how images become 112 x 112, for the record.
        fingerprint: 32 hex digits over the lists.
    """

    name: str
    uri: str
    images: StampedImages
    template_ids: NDArray[np.int64]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]
    detector: NDArray[np.float64] | None
    pairs: Positions
    same: NDArray[np.bool_]
    people: NDArray[np.int64]
    searches: tuple[Search, ...]
    alignment: str
    fingerprint: str

    def stamps(self) -> list[str]:
        """What changes when the images, or how they are aligned, do. UserError where an image is missing."""
        return [self.alignment, self.fingerprint, *self.images.stamps()]
