"""Heads that read in the loader, with every method: what the methods see is what they see of a dense head."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.code_tables import CodesOf
from tests.contracts.test_methods import FACTS, step
from topoface.errors import UserError
from topoface.recipe import Component
from topoface.recipe.components import build

HEADS: dict[str, dict[str, Any]] = {
    "IdentityCode": {"token_weight": 1.0},
    "Composed": {"negatives": 3, "neighbours": 1},
    "PartialFC": {"rate": 0.5},
}
METHODS: dict[str, dict[str, Any]] = {
    "TopoFR": {},
    "UNPG": {},
    "JLCC": {"align": {"weight": 0.0}},
    "GIF": {"softmax": {"weight": 1.0}},
}


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CodesOf:
    monkeypatch.chdir(tmp_path)
    return CodesOf(folder=Path("codes"))


def connected(part: Any, codes: CodesOf) -> Any:
    if hasattr(part, "connect"):
        part.connect(codes.source)
    return part


def make(head: str, names: tuple[str, ...], codes: CodesOf) -> tuple[Any, list[Any]]:
    built = build(Component(class_path=head, init_args=HEADS[head]), "head", 8, 5, seed=0)
    facts = dataclasses.replace(
        FACTS,
        logit_scale=built.scale,
        margin_room=built.margin_room,
        has_class_centers=getattr(built, "has_class_centers", False),
    )
    methods = [
        build(Component(class_path=n, init_args=METHODS[n]), f"methods.{i}", facts)
        for i, n in enumerate(names)
    ]
    return connected(built, codes), [connected(method, codes) for method in methods]


@pytest.mark.parametrize("names", [*((name,) for name in METHODS), tuple(METHODS)], ids="+".join)
@pytest.mark.parametrize("head", HEADS)
def test_every_method_trains_with_every_head_that_reads_in_the_loader(
    head: str, names: tuple[str, ...], codes: CodesOf
) -> None:
    built, methods = make(head, names, codes)
    for number in (0, 40):  # before and after JLCC's start
        output, gradient = step(methods, built, number=number)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        assert all(term.isfinite() and term.dtype == torch.float32 for term in output.terms.values())
    values = {k: torch.as_tensor(v) for method in methods for k, v in method.log_values().items()}
    assert not [name for name, value in values.items() if not value.isfinite().all()]
    if "UNPG" in names:
        assert output.state.stats.extra_probability is not None


@pytest.mark.parametrize("names", [("GIF", "TopoFR"), ("TopoFR", "GIF")], ids="+".join)
def test_the_order_of_methods_that_look_at_gradients_does_not_matter(
    names: tuple[str, ...], codes: CodesOf
) -> None:
    built, methods = make("IdentityCode", names, codes)
    step(methods, built, number=0)  # TopoFR measures
    lengths = {k: v for method in methods for k, v in method.log_values().items() if k.startswith("gradient")}
    assert all(lengths[f"gradient_{term}"] > 0 for term in ("regression", "softmax", "rest"))


@pytest.mark.parametrize("head", ["IdentityCode", "Composed"])
def test_aligning_is_refused_where_there_are_no_class_centers(head: str, codes: CodesOf) -> None:
    built, _ = make(head, (), codes)
    assert built(torch.ones(1, 8), torch.tensor([0])).class_centers is None
    facts = dataclasses.replace(
        FACTS, margin_room=0.5, has_class_centers=getattr(built, "has_class_centers", False)
    )
    with pytest.raises(UserError, match="no class centers"):
        build(Component(class_path="JLCC"), "methods.0", facts)


def test_aligning_moves_the_centers_of_a_sampled_head(codes: CodesOf) -> None:
    built, _ = make("PartialFC", (), codes)
    facts = dataclasses.replace(FACTS, margin_room=built.margin_room, has_class_centers=True)
    jlcc = build(Component(class_path="JLCC"), "methods.0", facts)
    for number in (0, 40):
        built.begin_step(0.1)
        output, _ = step([jlcc], built, number=number)
    assert output.terms["JLCC/align"].isfinite()
    before = built.weight.detach().clone()
    assert built.own_gradient_norm().isfinite()
    built.end_step()
    assert built.weight.isfinite().all()
    assert not torch.equal(before, built.weight)
