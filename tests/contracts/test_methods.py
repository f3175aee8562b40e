"""What every method promises, with every head; presets are members of their own."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.code_tables import CodesOf, named_source
from tests.facts import run_facts
from topoface import heads
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws
from topoface.methods import Method, RunFacts
from topoface.methods.method import with_hook
from topoface.recipe import SHORT_NAMES, Component
from topoface.recipe.components import build, presets_of, resolve
from topoface.training.step import Hooks, forward_step

CLASSES = {name: resolve(name, "test") for name in SHORT_NAMES}
METHODS = [
    (name, preset)
    for name, cls in CLASSES.items()
    if issubclass(cls, Method)
    for preset in (None, *presets_of(cls))
]
HEADS = [name for name, cls in CLASSES.items() if issubclass(cls, heads.Softmax)]
FACTS = run_facts(num_classes=5, embedding_dim=8, steps_per_epoch=4.0, trainable_embedding_scale=True)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> CodesOf:
    """Where recipes look for a table, so that methods that need one are built like the others."""
    return CodesOf(folder=tmp_path_factory.mktemp("contracts") / "codes")


@pytest.fixture(autouse=True)
def _beside_the_codes(codes: CodesOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(codes.folder.parent)


def make(name: str, preset: str | None = None, facts: RunFacts = FACTS) -> Method:
    method = build(Component(class_path=name, preset=preset), "methods.0", facts)
    assert isinstance(method, Method)
    if hasattr(method, "connect"):
        method.connect(named_source(5))
    return method


def step(
    methods: list[Method], head: torch.nn.Module, *, number: int = 3, size: int = 10
) -> tuple[Any, Tensor]:
    """One step with a linear model; returns its output and the gradient of the model."""
    rng = np.random.default_rng(number)
    images = torch.from_numpy(rng.integers(0, 256, (size, 3, 112, 112), dtype=np.uint8))
    batch = Batch(
        images=images,
        labels=torch.from_numpy(rng.integers(0, 5, size)),
        indices=torch.arange(size),
        draws=SampleDraws(seed=0, step=number, global_size=size, start=0, stop=size),
    )
    if hasattr(head, "prepare"):
        batch.extras.update(head.prepare(batch))
    for method in with_hook(methods, "prepare"):
        batch.extras.update(method.prepare(batch))
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 48))).float().requires_grad_()

    def model(view: Tensor) -> Tensor:
        return (torch.nn.functional.avg_pool2d(view.float() / 255, 28).flatten(1) - 0.5) @ weight.T

    before = images.clone()
    hooks = Hooks.of(torch.nn.ModuleList(methods))
    output = forward_step(model, head, hooks, batch)
    output.total.backward()
    for method in hooks.update:
        method.update([output.state])
    assert torch.equal(images, before), "a method changed the clean batch"
    assert weight.grad is not None
    return output, weight.grad


@pytest.mark.parametrize(("name", "preset"), METHODS)
@pytest.mark.parametrize("head", HEADS)
def test_every_method_trains_with_every_head(name: str, preset: str | None, head: str) -> None:
    built = CLASSES[head](8, 5, scale=16.0)
    output, gradient = step([make(name, preset)], built)
    assert output.total.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert all(term.ndim == 0 and term.dtype == torch.float32 for term in output.terms.values())


@pytest.mark.parametrize(("name", "preset"), METHODS)
def test_the_state_of_every_method_survives_saving(name: str, preset: str | None) -> None:
    first, second = make(name, preset), make(name, preset)
    head = heads.ArcFace(8, 5, scale=16.0)
    step([first], head, number=0)
    second.load_state_dict(first.state_dict())
    one, two = (step([method], head, number=7)[0].total for method in (first, second))
    assert torch.equal(one, two)


@pytest.mark.parametrize(("name", "preset"), METHODS)
def test_every_method_is_a_pure_function_of_step_and_state(name: str, preset: str | None) -> None:
    before = torch.random.get_rng_state()
    totals = [step([make(name, preset)], heads.ArcFace(8, 5))[0].total for _ in range(2)]
    assert torch.equal(*totals)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("name", "preset"), METHODS)
def test_log_values_are_finite_numbers(name: str, preset: str | None) -> None:
    method = make(name, preset)
    step([method], heads.ArcFace(8, 5), number=0)
    values = {key: torch.as_tensor(value).double() for key, value in method.log_values().items()}
    assert values
    assert all(value.isfinite().all() and value.ndim <= 1 for value in values.values()), values


PAIRS = list(itertools.combinations(sorted({name for name, _ in METHODS}), 2))


@pytest.mark.parametrize("names", [*PAIRS, tuple(sorted({name for name, _ in METHODS}))], ids="+".join)
@pytest.mark.parametrize("head_name", HEADS)
def test_methods_compose_with_each_other_and_every_head(names: tuple[str, ...], head_name: str) -> None:
    """Finite terms and gradients, every term under its own name, and class statistics as without the others."""
    head = CLASSES[head_name](8, 5)
    facts = dataclasses.replace(FACTS, logit_scale=head.scale, margin_room=head.margin_room)
    if head_name == "Softmax" and "JLCC" in names:
        with pytest.raises(UserError, match="no margin to shift"):
            build(Component(class_path="JLCC"), "methods.0", facts)
        return
    methods = [make(name, facts=facts) for name in names]
    for number in (3, 40):  # before and after JLCC's start
        output, gradient = step(methods, CLASSES[head_name](8, 5), number=number)
        assert gradient.isfinite().all()
        assert all(term.isfinite() for term in output.terms.values())
    owners = {name.partition("/")[0] for name in output.terms} - {"class", "regulariser"}
    assert owners <= set(names)
    if "JLCC" not in names:  # which moves the margins on purpose
        plain, _ = step(
            [methods[names.index("TopoFR")]] if "TopoFR" in names else [], CLASSES[head_name](8, 5), number=40
        )
        assert torch.equal(output.state.stats.entropy, plain.state.stats.entropy)


def test_hooks_that_a_method_does_not_override_are_never_called() -> None:
    class Quiet(Method):
        """Overrides nothing."""

    hooks = Hooks.of(torch.nn.ModuleList([Quiet(FACTS)]))
    assert not any(
        getattr(hooks, name)
        for name in (
            "perturb",
            "margin_shift",
            "negatives",
            "sample_weight",
            "penalties",
            "update",
            "logging",
        )
    )


def test_weights_and_penalties_of_several_methods_combine() -> None:
    class Doubling(Method):
        def sample_weight(self, stats: heads.ClassStatistics) -> Tensor:
            return torch.full_like(stats.loss, 2.0)

    class Tripling(Method):
        def sample_weight(self, stats: heads.ClassStatistics) -> Tensor:
            return torch.full_like(stats.loss, 3.0)

    class Adding(Method):
        def penalties(self, state: Any) -> dict[str, Tensor]:
            return {"extra": state.embeddings.square().mean()}

        def negatives(self, embeddings: Tensor, batch: Batch) -> Tensor:
            return torch.tensor(3.0)

    head = heads.ArcFace(8, 5, scale=16.0)
    output, _ = step([Doubling(FACTS), Tripling(FACTS), Adding(FACTS)], head)
    assert output.terms.keys() == {"class", "Adding/extra"}
    torch.testing.assert_close(output.terms["class"], 6 * output.state.stats.loss.mean())
    plain, _ = step([], head)
    assert (output.state.stats.loss > plain.state.stats.loss).all()


def test_something_else_in_the_list_of_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="is not a topoface"):
        Hooks.of(torch.nn.ModuleList([torch.nn.Identity()]))
