"""How far genuine and impostor scores lie apart, and whether one way of scoring is better than another beyond chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import Replicates, identity_counts
from topoface.functional.draws import generator

Floats = NDArray[np.float64]
REPLICATES = 1000
ERROR = 0.01  # share of sound set-ups in which a whole search may blame something by chance


