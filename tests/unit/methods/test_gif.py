"""GIF: its terms are the formulas, its log tells which term has a say, and what is off changes nothing."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.code_tables import CodesOf
from tests.facts import run_facts
from tests.oracles import identity_codes as oracle
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws
from topoface.heads import Composed, CosFace, IdentityCode
from topoface.methods import GIF, Method
from topoface.recipe import Component
from topoface.recipe.components import build, presets_of
from topoface.training.step import Hooks, forward_step

LABELS = torch.tensor([0, 4, 4, 2])
EMBEDDINGS = oracle.fixture(4, 8).float()


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CodesOf:
    """In the folder that recipes look for."""
    monkeypatch.chdir(tmp_path)
    return CodesOf(folder=Path("codes"))


def make(codes: CodesOf, preset: str | None = None, **settings: Any) -> GIF:
    method = build(Component(class_path="GIF", preset=preset, init_args=settings), "methods.0", run_facts())
    assert isinstance(method, GIF)
    method.connect(codes.source)
    return method


def step(
    methods: list[Method], head: torch.nn.Module, *, number: int = 0, size: int = 4
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Terms of one step from given embeddings, and the gradient at them."""
    batch = Batch(
        images=torch.zeros(size, 3, 112, 112, dtype=torch.uint8),
        labels=LABELS,
        indices=torch.arange(size),
        draws=SampleDraws(seed=0, step=number, global_size=size, start=0, stop=size),
    )
    for module in (head, *methods):
        if hasattr(module, "prepare"):
            batch.extras.update(module.prepare(batch))
    points = EMBEDDINGS.clone().requires_grad_()
    output = forward_step(lambda _: points * 1.0, head, Hooks.of(torch.nn.ModuleList(methods)), batch)
    output.total.backward()
    assert points.grad is not None
    return output.terms, points.grad


def own_vectors(codes: CodesOf) -> Tensor:
    rows = codes.table.rows_of([codes.source.names[label] for label in LABELS], "test")
    return torch.from_numpy(codes.table.unit_vectors(rows))


@pytest.mark.parametrize("form", ["paper", "cosine"])
def test_regression_beside_a_dense_head(codes: CodesOf, form: str) -> None:
    method = make(codes, regression={"weight": 4.0, "form": form})
    terms, gradient = step([method], CosFace(8, 5))
    plain, without = step([], CosFace(8, 5))
    assert torch.equal(terms["class"], plain["class"])
    z = EMBEDDINGS.clone().requires_grad_()
    c = torch.nn.functional.cosine_similarity(z, own_vectors(codes))
    loss = 4.0 * ((c - 1).square() / 2 if form == "paper" else 1 - c).mean()
    torch.testing.assert_close(terms["GIF/regression"], loss)
    (expected,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient - without, expected, rtol=1e-4, atol=1e-6)
    values = method.log_values()
    torch.testing.assert_close(values["code_cosine"], c.mean().detach())
    torch.testing.assert_close(values["gradient_regression"], expected.norm())
    torch.testing.assert_close(values["gradient_rest"], without.norm())


@pytest.mark.parametrize("preset", ["ours", "frozen_all", "frozen_sampled", "frozen_local"])
def test_the_softmax_term_is_the_head_composed(codes: CodesOf, preset: str) -> None:
    method = make(codes, preset, softmax={"scale": 8.0, "margin": 0.1, "negatives": 2, "weight": 3.0})
    terms, gradient = step([method], CosFace(8, 5), number=7)
    _, without = step([], CosFace(8, 5), number=7)
    assert terms.keys() == {"class", "GIF/softmax"}
    settings = dict(Composed.PRESETS[preset]) | {"scale": 8.0, "margin": 0.1, "negatives": 2}
    head = Composed(8, 5, **settings)
    head.connect(codes.source)
    alone, expected = step([], head, number=7)
    torch.testing.assert_close(terms["GIF/softmax"], 3 * alone["class"])
    torch.testing.assert_close(gradient - without, 3 * expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.log_values()["gradient_softmax"], (3 * expected).norm())


def test_watching_changes_nothing(codes: CodesOf) -> None:
    method = make(codes, "watch")
    terms, gradient = step([method], CosFace(8, 5))
    plain, without = step([], CosFace(8, 5))
    assert terms.keys() == plain.keys()
    assert torch.equal(gradient, without)
    assert method.log_values().keys() == {"code_cosine"}


@pytest.mark.parametrize("preset", sorted(presets_of(GIF)))
def test_every_preset_trains_beside_a_code_head(codes: CodesOf, preset: str) -> None:
    """A head and a method that both read the table do not mix up what they prepared."""
    head = IdentityCode(8, 5, token_weight=1.0)
    head.connect(codes.source)
    terms, gradient = step([make(codes, preset)], head)
    assert all(term.isfinite() for term in terms.values())
    assert gradient.isfinite().all()
    torch.testing.assert_close(terms["class"], step([], head)[0]["class"])


def test_presets_with_the_head_s_names_have_its_settings() -> None:
    for name, settings in Composed.PRESETS.items():
        term = dict(presets_of(GIF)[name]["softmax"])
        assert term.pop("weight") == 1.0
        assert term == settings


def test_the_rows_of_the_term_are_trained_by_the_method(codes: CodesOf) -> None:
    method = make(codes, "ours")
    assert [name for name, _ in method.named_parameters()] == ["softmax.rows"]
    assert not list(make(codes, "paper").parameters())


def test_what_is_given_must_fit_the_run(codes: CodesOf) -> None:
    with pytest.raises(
        UserError, match=r"methods\.0\.init_args\.table: is 'codes'.*8 numbers and embeddings 16"
    ):
        build(Component(class_path="GIF"), "methods.0", run_facts(embedding_dim=16))
    with pytest.raises(UserError, match=r"methods\.0\.init_args\.table: is 'nowhere'.*topoface codes build"):
        make(codes, table="nowhere")
    with pytest.raises(UserError, match=r"regression\.weight"):
        make(codes, regression={"weight": -1.0})
    many = dataclasses.replace(run_facts(), num_classes=200_000)
    with pytest.raises(UserError, match="negatives"):
        build(Component(class_path="GIF", preset="frozen_all"), "methods.0", many)


def test_a_run_does_not_go_on_with_other_codes(codes: CodesOf) -> None:
    CodesOf(folder=Path("others"), seed=1)
    state = make(codes).state_dict()
    make(codes).load_state_dict(state)
    with pytest.raises(UserError, match="is not the table"):
        make(codes, table="others").load_state_dict(state)
