"""Drawn faces: training data and verification pairs that need no download and hurt nobody's privacy."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import FACE_SHAPE, Pixels, store_face
from topoface.data.drawing.picture import picture
from topoface.data.drawing.traits import Person, Shot, sample
from topoface.data.source import SYNTHETIC, Source, content_hash, spread
from topoface.errors import UserError
from topoface.functional.draws import generator

CACHE_BYTES = 512 * 2**20


def draw_face(seed: int, identity: int, image: int) -> Pixels:
    """One picture of one person who does not exist.

    Who it is shows in the geometry of head, eyes, brows, nose and mouth, in hair and in skin. Pictures of one
    person differ in pose, expression, light, background, blur, noise, small errors of alignment, how the hair is
    worn, and in glasses, hats, scarfs and masks, so that colours and pixels alone tell persons apart hardly
    better than chance.

    Args:
        seed: of the whole population.
        identity: who; any whole number from 0.
        image: which picture of them; any whole number from 0.

    Returns:
        uint8 RGB ``[112, 112, 3]``, aligned to the ArcFace template but for a small error. The same arguments
        give the same bytes in any order, thread and process (of one build of NumPy).
    """
    who = sample(Person, generator(seed, "identity", identity))
    rng = generator(seed, "image", identity, image)
    return picture(who, sample(Shot, rng), rng)


class SyntheticSource(Source):
    """Faces by ``draw_face``, each drawn when first read and then kept in memory while all fit in 512 MiB.

    The fingerprint covers the arguments and the pixels of five pictures.

    Args:
        identities: number of persons, two or more.
        images_per_identity: pictures of each; sample ``i`` shows person ``i // images_per_identity``.
        seed: of the whole population.
        first_identity: where in the population to begin: ranges that do not overlap share nobody.

    Raises:
        UserError: fewer than two identities or one image, or a negative seed or first identity.
    """

    def __init__(
        self, identities: int, images_per_identity: int, *, seed: int = 0, first_identity: int = 0
    ) -> None:
        self.uri = (
            f"{SYNTHETIC}?identities={identities}&images={images_per_identity}"
            f"&seed={seed}&first={first_identity}"
        )
        if identities < 2:
            noun = "identity" if identities == 1 else "identities"
            raise UserError(f"only {identities} {noun}", self.uri, "give two or more")
        if images_per_identity < 1:
            raise UserError(f"{images_per_identity} images of each identity", self.uri, "give one or more")
        if seed < 0 or first_identity < 0:
            raise UserError("seed or first identity is negative", self.uri, "give whole numbers from 0")
        self.images_per_identity, self.seed, self.first_identity = images_per_identity, seed, first_identity
        self._identities = identities
        self._labels = np.repeat(np.arange(identities, dtype=np.int64), images_per_identity)
        # Memory that nobody has written to yet costs nothing. Two threads may draw the same face at the same
        # time: both write the same bytes, and only then say so.
        keeps = len(self) * math.prod(FACE_SHAPE) <= CACHE_BYTES
        self._drawn = np.zeros(len(self), dtype=np.bool_) if keeps else None
        self._faces = np.empty((len(self) if keeps else 0, *FACE_SHAPE), dtype=np.uint8)

    @property
    def identities(self) -> int:
        """Number of persons."""
        return self._identities

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[len(self)]``, ascending."""
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        """Seed and number in the population: ``"0-17"``."""
        return [f"{self.seed}-{self.first_identity + k}" for k in range(self.identities)]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        i = range(len(self))[i]
        return self._face(i).copy(), int(self._labels[i])

    def read_into(self, i: int, out: Pixels, *, mirror: bool = False) -> None:
        """Copy face ``i`` into ``out``, uint8 ``[112, 112, 3]``, mirrored left to right if asked."""
        store_face(self._face(range(len(self))[i]), out, self.describe(i), mirror=mirror)

    def describe(self, i: int) -> str:
        """The identity's number in the population, and the image's."""
        person, image = divmod(range(len(self))[i], self.images_per_identity)
        return f"{self.uri} identity {self.first_identity + person} image {image}"

    def fingerprint(self) -> str:
        """32 hex digits that follow the arguments and what is drawn."""
        return content_hash([self.uri.encode(), *(self._face(i).tobytes() for i in spread(len(self), 5))])

    def _face(self, i: int) -> Pixels:
        """Face ``i``, which nobody else may write to."""
        if self._drawn is not None and self._drawn[i]:
            kept: Pixels = self._faces[i]
            return kept
        person, image = divmod(i, self.images_per_identity)
        face = draw_face(self.seed, self.first_identity + person, image)
        if self._drawn is not None:
            self._faces[i] = face
            self._drawn[i] = True
        return face


def synthetic_pairs(
    source: Source, pairs_per_fold: int = 300, folds: int = 10, *, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Verification pairs over drawn faces; no identity is in two folds, no pair occurs twice.

    Args:
        source: a ``SyntheticSource``.
        pairs_per_fold: the first half of them (rounded down) is genuine, the rest impostor.
        folds: number of folds; each takes an equal share of the identities.
        seed: of the choice of pairs.

    Returns:
        Positions in ``source``, int64 ``[m, 2]``; same person, bool ``[m]``; fold, int64 ``[m]``.

    Raises:
        UserError: there are not so many different pairs, or it is another kind of source.
    """
    if not isinstance(source, SyntheticSource):
        raise UserError("is no synthetic source", source.uri, f"give a URI that starts with {SYNTHETIC}")
    per_person = source.images_per_identity
    first, second = np.triu_indices(per_person, 1)
    genuine = pairs_per_fold // 2
    impostor = pairs_per_fold - genuine
    pairs = []
    for fold, people in enumerate(np.array_split(np.arange(source.identities), folds)):
        one, other = np.triu_indices(len(people), 1)
        if genuine > len(people) * len(first) or impostor > len(one) * per_person**2:
            raise UserError(
                f"{pairs_per_fold} pairs a fold cannot be made of {len(people)} identities "
                f"with {per_person} images each",
                source.uri,
                "ask for fewer pairs or folds, or for more identities or images",
            )
        rng = generator(seed, "pairs", fold)
        who, which = np.divmod(
            rng.choice(len(people) * len(first), genuine, replace=False), max(len(first), 1)
        )
        base = people[who] * per_person
        pairs.append(np.stack([base + first[which], base + second[which]], axis=1))
        who, which = np.divmod(rng.choice(len(one) * per_person**2, impostor, replace=False), per_person**2)
        left, right = np.divmod(which, per_person)
        pairs.append(
            np.stack([people[one[who]] * per_person + left, people[other[who]] * per_person + right], axis=1)
        )
    same = np.tile(np.arange(pairs_per_fold) < genuine, folds)
    return np.concatenate(pairs), same, np.repeat(np.arange(folds, dtype=np.int64), pairs_per_fold)
