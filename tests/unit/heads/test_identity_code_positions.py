"""The code head position by position: each has its own margin and scale, on the cosine or on the angle; and the codes it was given stay what they were."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.code_tables import CodesOf
from tests.oracles import identity_codes as oracle
from topoface.codes.table import open_table
from topoface.errors import UserError
from topoface.heads import IdentityCode
from topoface.recipe import Component
from topoface.recipe.components import build

Z = oracle.unit(oracle.fixture(3, 4))
W = oracle.fixture(6, 4, 0.7, 1.3, 0.19)


def test_the_fixture_by_position() -> None:
    """Oracle 13, first row."""
    losses = [float(x) for x in oracle.classifier_losses(Z[0], W.split(3), [0, 2], 10.0, 0.2)]
    assert losses == pytest.approx([0.309760973561, 0.009576887167], abs=1e-10)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("kind", ["cosface", "arcface"])
@torch.no_grad()
def test_every_position_has_its_own_margin_and_scale(tmp_path: Path, kind: Any, shifted: bool) -> None:
    codes = CodesOf(folder=tmp_path / "t", identities=20, alphabets=(3, 5, 4), dimension=8)
    margins, scales = (0.05, 0.2, 0.4), (6.0, 12.0, 9.0)
    head = IdentityCode(
        8,
        20,
        table=str(tmp_path / "t"),
        margin_kind=kind,
        margin=list(margins),
        scale=list(scales),
        token_weight=1.0,
    ).double()
    head.connect(codes.source)
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 19, 7, 7, 12])
    shift = torch.linspace(0, 0.25, 6, dtype=torch.float64) if shifted else torch.zeros(6)
    stats = head(z, labels, shift=shift if shifted else None)
    tokens = codes.table.tokens(codes.table.rows_of(codes.source.names, "test"))[labels.numpy()]
    for i, code in enumerate(tokens.tolist()):
        total, likelihood = 0.0, 1.0
        for j, (token, centers) in enumerate(zip(code, head.weight.split((3, 5, 4)), strict=True)):
            cosines = [float(z[i] @ w / z[i].norm() / w.norm()) for w in centers]
            own, m = cosines[token], margins[j] + float(shift[i])
            angle = math.acos(own) + m
            assert angle < math.pi, "else the continuation of ArcFace would matter"
            logits = [scales[j] * c for c in cosines]
            logits[token] = scales[j] * (math.cos(angle) if kind == "arcface" else own - m)
            p = math.exp(logits[token]) / sum(math.exp(value) for value in logits)
            total, likelihood = total - math.log(p), likelihood * p
        assert float(stats.loss[i]) == pytest.approx(total, abs=1e-12)
        assert float(stats.target_probability[i]) == pytest.approx(likelihood, rel=1e-11)


def test_extra_mass_of_nothing_changes_nothing(tmp_path: Path) -> None:
    """Oracle 14, of the head."""
    codes = CodesOf(folder=tmp_path / "t")
    head = IdentityCode(8, 5, table=str(tmp_path / "t"), token_weight=1.0).double()
    head.connect(codes.source)
    z, labels = oracle.fixture(3, 8), torch.arange(3)
    nothing = torch.tensor(-torch.inf, dtype=torch.float64)
    plain, joined = head(z, labels), head(z, labels, extra=nothing)
    torch.testing.assert_close(joined.loss, plain.loss, rtol=0, atol=1e-14)
    assert joined.extra_probability is not None
    assert joined.extra_probability.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["codes", "uids"])
@pytest.mark.parametrize("component", ["IdentityCode", "Composed"])
def test_codes_that_have_changed_on_disk_are_refused_before_the_first_step(
    tmp_path: Path, component: str, name: str
) -> None:
    """One other token is a mislabelled identity, and of the same size: only its digest tells."""
    CodesOf(folder=tmp_path / "t")
    args = {"table": str(tmp_path / "t")}
    build(Component(class_path=component, init_args=args), "head", 8, 5, seed=0)
    file = tmp_path / "t" / f"{name}.npy"
    whole = bytearray(file.read_bytes())
    whole[-1] = (whole[-1] + 1) % 3 if name == "codes" else whole[-1] + 1
    file.write_bytes(whole)
    open_table(tmp_path / "t")  # sizes are right
    with pytest.raises(UserError, match=rf"head\.init_args\.table: is .*{name}\.npy has changed since"):
        build(Component(class_path=component, init_args=args), "head", 8, 5, seed=0)
