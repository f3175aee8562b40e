"""TopoFR as a method: its switches, presets, refusals and state (oracles 27-30 and 34 of topofr.md)."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.facts import run_facts
from tests.oracles.topofr import release_step
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.alignment import structure_loss
from topoface.functional.draws import SampleDraws
from topoface.functional.persistence import h0_edges
from topoface.functional.source_spaces import normalised_luminance
from topoface.heads import ArcFace, ClassStatistics
from topoface.methods import StepState, TopoFR
from topoface.methods import topofr as module
from topoface.methods.topofr_settings import Alignment, Damage, Perturbation
from topoface.models.encoder import write_embeddings
from topoface.recipe import Component
from topoface.recipe.components import build
from topoface.training.step import Hooks, forward_step

FACTS = run_facts(num_classes=7, embedding_dim=8, steps_per_epoch=10.0, trainable_embedding_scale=True)
n = 12


def make_batch(method: TopoFR | None = None, step: int = 0) -> Batch:
    rng = np.random.default_rng(5)
    batch = Batch(
        images=torch.from_numpy(rng.integers(0, 256, (n, 3, 112, 112), dtype=np.uint8)),
        labels=torch.from_numpy(rng.integers(0, 7, n)),
        indices=torch.arange(n),
        draws=SampleDraws(seed=1, step=step, global_size=n, start=0, stop=n),
    )
    return dataclasses.replace(batch, extras=dict(method.prepare(batch))) if method else batch


def embed(images: Tensor) -> Tensor:
    """A fixed linear model of the mean colours of 16 blocks, so that views matter."""
    cells = torch.nn.functional.avg_pool2d(images.float() / 255, 28).flatten(1)
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(cells.shape[1], 8))).float()
    return (cells - 0.5) @ weight


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(8))

    def forward(self, images: Tensor) -> Tensor:
        return embed(images) * self.gain


def run_step(method: TopoFR | None, step: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Terms of one step and the gradient of the model."""
    model, head = Model(), ArcFace(8, 7, scale=16.0)
    methods = torch.nn.ModuleList([method] if method else [])
    output = forward_step(model, head, Hooks.of(methods), make_batch(method, step))
    output.total.backward()
    assert model.gain.grad is not None
    return output.terms, model.gain.grad


OFF: dict[str, Any] = {
    "rsp": Perturbation(xi=0.0),
    "isa": Alignment(alpha_mode="fixed", alpha=0.0),
    "sde": Damage(uncertainty=False, focal="off"),
}


def test_all_switches_off_is_arcface_bit_for_bit_and_draws_and_builds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a part that is off was used")

    method = TopoFR(FACTS, **OFF)
    for name in ("perturb_structure", "h0_edges", "structure_loss", "fit_mixture", "damage_score"):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(SampleDraws, "uniform", never)
    plain_terms, plain_gradient = run_step(None)
    terms, gradient = run_step(method)
    assert terms.keys() == plain_terms.keys()
    assert torch.equal(terms["class"], plain_terms["class"])
    assert torch.equal(gradient, plain_gradient)


# section 8 of topofr.md: which of RSP, ISA, mixture and focal factor each variant uses
VARIANTS = {
    "ArcFace": (OFF, set()),
    "R": ({**OFF, "rsp": Perturbation()}, {"perturb_structure"}),
    "A": ({**OFF, "isa": Alignment()}, {"structure_loss"}),
    "P": ({**OFF, "rsp": Perturbation(), "isa": Alignment()}, {"perturb_structure", "structure_loss"}),
    "F": (
        {"sde": Damage(uncertainty=False)},
        {"perturb_structure", "structure_loss", "damage_score"},
    ),
    "G": (
        {"sde": Damage(focal="off")},
        {"perturb_structure", "structure_loss", "damage_score", "fit_mixture"},
    ),
    "all": ({}, {"perturb_structure", "structure_loss", "damage_score", "fit_mixture"}),
    "B": (
        {"isa": Alignment(form="bottleneck")},
        {"perturb_structure", "structure_loss", "damage_score", "fit_mixture"},
    ),
    "W": (
        {"isa": Alignment(form="wasserstein1")},
        {"perturb_structure", "structure_loss", "damage_score", "fit_mixture"},
    ),
    "random": (
        {"isa": Alignment(form="random")},
        {"perturb_structure", "structure_loss", "damage_score", "fit_mixture"},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_uses_exactly_its_parts(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, expected = VARIANTS[variant]
    used: set[str] = set()

    def spy(name: str) -> None:
        original = getattr(module, name)

        def watched(*args: object, **kwargs: object) -> object:
            used.add(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    for name in ("perturb_structure", "structure_loss", "fit_mixture", "damage_score"):
        spy(name)
    terms, gradient = run_step(TopoFR(FACTS, **settings), step=20)
    assert used == expected
    assert gradient.isfinite().all()
    assert ("TopoFR/alignment" in terms) == ("structure_loss" in expected)


def test_the_clean_batch_is_never_changed() -> None:
    batch = make_batch()
    before = batch.images.clone()
    view = TopoFR(FACTS, rsp=Perturbation(xi=1.0)).perturb(batch.images, batch.draws)
    assert torch.equal(batch.images, before)
    assert not torch.equal(view, before.float())


def test_release_preset_equals_a_naive_transcription_of_the_released_formulas() -> None:
    facts = dataclasses.replace(FACTS)
    component = Component(class_path="TopoFR", preset="release", init_args={"rsp": {"xi": 0.0}})
    method = build(component, "methods.0", facts)
    head = ArcFace(8, 7, scale=16.0, continuation="insightface")
    batch = make_batch(method)
    embeddings = embed(batch.images).requires_grad_()
    output = forward_step(lambda _: embeddings, head, Hooks.of(torch.nn.ModuleList([method])), batch)
    expected, alignment = release_step(
        batch.images.double() / 127.5 - 1, embeddings.detach().double(), head.weight.detach().double(),
        batch.labels, scale=16.0, margin=0.5, alpha=0.1,
    )  # fmt: skip
    assert output.terms["class"].item() == pytest.approx(expected, rel=1e-5)
    assert output.terms["TopoFR/alignment"].item() == pytest.approx(alignment, rel=1e-5)


@pytest.mark.parametrize("gradient", ["none", "focal", "full"])
def test_gradient_through_omega_has_the_multipliers_of_section_5_3(gradient: str) -> None:
    logits = torch.from_numpy(np.random.default_rng(2).normal(scale=2.0, size=(n, 7))).requires_grad_()
    labels = torch.from_numpy(np.random.default_rng(3).integers(0, 7, n))
    log_p = logits.log_softmax(1)
    own = log_p.gather(1, labels[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(1)
    attached = gradient != "none"
    stats = ClassStatistics(
        loss=-own,
        target_log_probability=own if attached else own.detach(),
        entropy=entropy if attached else entropy.detach(),
        target_cosine=own.detach(),
    )
    method = TopoFR(FACTS, sde=Damage(gradient=gradient))  # type: ignore[arg-type]
    weight = method.sample_weight(stats)
    assert weight is not None
    (got,) = torch.autograd.grad((weight * stats.loss).sum(), logits)

    with torch.no_grad():
        p, h = own.exp(), module.fit_mixture(entropy).hardness
        _, variance, _ = method.mixture
        one_hot = torch.nn.functional.one_hot(labels, 7).double()
        pull = log_p.exp() - one_hot
        factor = 1 - p if gradient == "none" else (1 - p) - p * own
        expected = ((1 + h) * factor)[:, None] * pull
        if gradient == "full":
            slope = h * (1 - h) * entropy / variance
            spread = -log_p.exp() * (log_p + entropy[:, None])
            expected += ((1 - p) * -own * slope)[:, None] * spread
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_ratio_mode_gives_the_alignment_its_share_of_the_gradient() -> None:
    method = TopoFR(FACTS, isa=Alignment(ratio=0.2, warmup_epochs=0.0))
    head, batch = ArcFace(8, 7, scale=16.0), make_batch(method)
    embeddings = embed(batch.images).requires_grad_()
    output = forward_step(lambda _: embeddings, head, Hooks.of(torch.nn.ModuleList([method])), batch)
    norms = [
        torch.autograd.grad(output.terms[name], embeddings, retain_graph=True)[0].norm()
        for name in ("TopoFR/alignment", "class")
    ]
    assert norms[0] / norms[1] == pytest.approx(0.2, rel=1e-5)


def test_warm_up_rises_linearly_over_its_epochs() -> None:
    method = TopoFR(FACTS, isa=Alignment(alpha_mode="fixed", alpha=0.4, warmup_epochs=2.0))
    alphas = [float(method._alpha(step)) for step in (0, 5, 10, 20, 50)]
    assert alphas == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.4])


def test_lag_weighs_with_the_mixture_of_the_step_before() -> None:
    first, second = (torch.from_numpy(np.random.default_rng(s).exponential(size=n)) for s in (1, 2))

    def stats(entropy: Tensor) -> ClassStatistics:
        zeros = torch.zeros(n, dtype=torch.float64)
        return ClassStatistics(loss=zeros, target_log_probability=zeros, entropy=entropy, target_cosine=zeros)

    lagged = TopoFR(FACTS, sde=Damage(lag=1, focal="off"))
    lagged.sample_weight(stats(first))
    fit = module.fit_mixture(first)
    expected = 1 + module.posterior(second, fit.weight, fit.variance, fit.upper)
    torch.testing.assert_close(lagged.sample_weight(stats(second)), expected)


def test_cap_and_mean_normalisation_bound_the_weights() -> None:
    entropy = torch.linspace(0, 3, n, dtype=torch.float64)
    log_p = torch.linspace(-4, -0.01, n, dtype=torch.float64)
    stats = ClassStatistics(loss=-log_p, target_log_probability=log_p, entropy=entropy, target_cosine=log_p)
    capped = TopoFR(FACTS, sde=Damage(cap=0.7)).sample_weight(stats)
    assert capped is not None
    assert capped.max() == 0.7
    normalised = TopoFR(FACTS, sde=Damage(normalise="mean")).sample_weight(stats)
    assert normalised is not None
    assert normalised.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({"rsp": {"xi": 1.5}}, "rsp.xi: is 1.5"),
        ({"rsp": {"operations": []}}, "rsp.operations"),
        ({"rsp": {"ranges": {"erase_area": [-1, -0.5]}}}, "erase_area"),
        ({"isa": {"ratio": -1.0}}, "isa.ratio: is -1"),
        ({"isa": {"alpha": float("nan")}}, "isa.alpha: is nan"),
        ({"isa": {"latent": "raw", "norm": "none"}}, "model.trainable_scale=true"),
        ({"isa": {"latent": "learned"}}, "has no scale to learn"),
        ({"sde": {"focal": "gate", "gradient": "focal"}}, "use gradient none"),
        ({"sde": {"focal": "off", "gradient": "focal"}}, "use gradient none"),
        ({"sde": {"fit": "release", "lag": 1}}, "no lag"),
        ({"sde": {"fit": "online", "support": "logC"}}, "no support logC"),
        ({"sde": {"cap": -1.0}}, "sde.cap: is -1"),
        ({"sde": {"iterations": 0}}, "sde.iterations: is 0"),
    ],
)
def test_impossible_settings_are_refused_when_built(init_args: dict[str, Any], message: str) -> None:
    facts = dataclasses.replace(FACTS, trainable_embedding_scale=False)
    with pytest.raises(UserError, match=message) as caught:
        build(Component(class_path="TopoFR", init_args=init_args), "methods.0", facts)
    assert str(caught.value).startswith("methods.0.init_args")


@pytest.mark.parametrize("mode", ["fixed", "ratio"])
def test_alpha_zero_switches_the_alignment_off_in_both_modes(mode: str) -> None:
    method = TopoFR(FACTS, isa=Alignment(alpha=0.0, alpha_mode=mode))  # type: ignore[arg-type]
    terms, _ = run_step(method)
    assert terms.keys() == {"class"}


def test_no_gradient_passes_the_weight_unless_asked_for_whatever_the_head_attaches() -> None:
    log_p = torch.full((n,), -1.0, requires_grad=True)
    stats = ClassStatistics(
        loss=-log_p, target_log_probability=log_p, entropy=-log_p, target_cosine=log_p.detach()
    )
    weight = TopoFR(FACTS).sample_weight(stats)
    assert weight is not None
    assert not weight.requires_grad
    focal = TopoFR(FACTS, sde=Damage(gradient="focal")).sample_weight(stats)
    assert focal is not None
    assert focal.requires_grad


def test_the_online_fit_starts_from_a_batch_and_then_remembers() -> None:
    rng = np.random.default_rng(0)
    planted = np.where(
        rng.random((60, 256)) < 0.8, np.abs(rng.normal(0, 0.2, (60, 256))), rng.uniform(0, 3, (60, 256))
    )
    state = torch.full((3,), torch.nan, dtype=torch.float64)
    for row in planted:
        fit, state = module.update_mixture(torch.from_numpy(row), state)
    whole = module.fit_mixture(torch.from_numpy(planted.reshape(-1)))
    assert fit.weight == pytest.approx(float(whole.weight), abs=0.05)
    assert fit.variance == pytest.approx(float(whole.variance), rel=0.2)
    method = TopoFR(FACTS, sde=Damage(fit="online"))
    terms, _ = run_step(method)
    assert terms["class"].isfinite()
    assert not method.mixture.isnan().any()


def test_the_log_names_the_hardest_samples() -> None:
    method = TopoFR(FACTS)
    run_step(method)
    values = method.log_values()
    indices, labels = values["hardest_indices"], values["hardest_labels"]
    assert isinstance(indices, Tensor)
    assert isinstance(labels, Tensor)
    assert torch.equal(make_batch().labels[indices], labels)


def test_the_learned_scale_is_a_parameter_that_the_alignment_moves() -> None:
    method = TopoFR(FACTS, isa=Alignment(latent="learned", norm="pixel_range", warmup_epochs=0.0))
    run_step(method)
    assert method.log_scale.grad is not None
    assert method.log_scale.grad != 0


def test_prepared_and_computed_source_structures_agree() -> None:
    method = TopoFR(FACTS)
    with_extras, without = make_batch(method), make_batch()
    embeddings = embed(with_extras.images)
    state = {
        "embeddings": embeddings,
        "class_loss": embeddings.sum() * 0,
        "step": 20,
        "stats": ArcFace(8, 7)(embeddings, with_extras.labels),
    }
    for batch in (with_extras, without):
        distances, edges = method._source(StepState(batch=batch, **state))  # type: ignore[arg-type]
        assert torch.equal(distances, with_extras.extras["topofr_distances"])
        assert torch.equal(edges, with_extras.extras["topofr_edges"])


@pytest.mark.parametrize("size", [1, 2])
def test_tiny_batches_do_not_crash(size: int) -> None:
    method = TopoFR(FACTS, isa=Alignment(warmup_epochs=0.0))
    whole = make_batch()
    batch = Batch(
        images=whole.images[:size],
        labels=whole.labels[:size],
        indices=whole.indices[:size],
        draws=SampleDraws(seed=1, step=0, global_size=size, start=0, stop=size),
    )
    batch = dataclasses.replace(batch, extras=dict(method.prepare(batch)))
    output = forward_step(Model(), ArcFace(8, 7), Hooks.of(torch.nn.ModuleList([method])), batch)
    output.total.backward()
    assert output.total.isfinite()


@pytest.mark.parametrize("init_args", [{}, {"rsp": {"xi": 0.1}}])
def test_a_preset_without_and_with_further_arguments_is_applied(init_args: dict[str, Any]) -> None:
    method = build(Component(class_path="TopoFR", preset="release", init_args=init_args), "methods.0", FACTS)
    assert (method.isa.form, method.isa.reduction, method.isa.latent) == ("sorted", "batch", "raw")
    assert (method.sde.fit, method.sde.focal) == ("release", "gate")
    assert method.rsp.xi == init_args.get("rsp", {}).get("xi", 0.2)


def structure_of(points: Tensor) -> Tensor:
    return (points[:, None] - points).double().norm(dim=2)


@pytest.mark.parametrize(
    ("source", "points"),
    [
        ("low_resolution", lambda images: torch.nn.functional.avg_pool2d(images.double(), 7).flatten(1)),
        ("luminance", lambda images: normalised_luminance(images)),
    ],
)
def test_the_source_space_is_the_one_asked_for(source: str, points: Any) -> None:
    method = TopoFR(FACTS, isa=Alignment(source=source))  # type: ignore[arg-type]
    batch = make_batch(method)
    torch.testing.assert_close(
        batch.extras["topofr_distances"].double(), structure_of(points(batch.images)), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(batch.extras["topofr_edges"], h0_edges(structure_of(points(batch.images))))


def test_an_encoder_is_the_source_space_and_is_not_saved(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(FACTS.num_images, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    path = tmp_path / "rows.safetensors"
    write_embeddings(path, rows, fingerprint=FACTS.source_fingerprint)
    method = TopoFR(FACTS, isa=Alignment(source="encoder", encoder=str(path)))
    batch = make_batch(method)
    expected = structure_of(torch.from_numpy(rows[:n]))
    torch.testing.assert_close(batch.extras["topofr_distances"].double(), expected, rtol=1e-5, atol=1e-6)
    assert method.state_dict().keys() == TopoFR(FACTS).state_dict().keys()
    terms, gradient = run_step(method, step=20)
    assert float(terms["TopoFR/alignment"].detach()) > 0
    assert gradient.isfinite().all()


def test_a_teacher_follows_the_model_at_its_own_pace_and_is_not_trained() -> None:
    facts = run_facts(num_classes=7)
    method = TopoFR(facts, isa=Alignment(source="teacher", teacher_memory=0.75))
    before = {name: value.clone() for name, value in facts.model.state_dict().items()}
    with torch.no_grad():
        for parameter in facts.model.parameters():
            parameter.add_(1.0)
    for buffer in facts.model.buffers():
        buffer.fill_(3)
    method.update([])
    for name, now in facts.model.state_dict().items():
        taught = method.state_dict()[f"_teacher.{name}"]
        expected = 0.75 * before[name] + 0.25 * now if now.is_floating_point() else now
        torch.testing.assert_close(taught, expected, msg=name)
    assert not any(parameter.requires_grad for parameter in method.parameters())
    gradient = run_step(method, step=20)[1]
    assert gradient.isfinite().all()


def test_a_teacher_that_equals_the_model_sees_its_structure() -> None:
    facts = run_facts(num_classes=7)
    method = TopoFR(
        facts,
        isa=Alignment(source="teacher", alpha_mode="fixed", warmup_epochs=0.0),
        rsp=Perturbation(xi=0.0),
    )
    batch = make_batch()
    embeddings = facts.model.eval()(batch.images)
    head = ArcFace(8, 7, scale=16.0)
    stats = head(embeddings, batch.labels, None, None, method.statistics_request())
    state = StepState(batch=batch, embeddings=embeddings, stats=stats, class_loss=stats.loss.mean(), step=1)
    assert method.penalties(state)["alignment"].item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"source": "luminance", "norm": "pixel_range"}, "use mean_edge or max"),
        ({"source": "teacher", "view": "perturbed"}, "made from view clean"),
        ({"source": "encoder"}, "name one with source encoder"),
        ({"encoder": "model/"}, "only there"),
        ({"shortest_share": 0.0}, "a share in"),
        ({"shortest_share": 0.5, "form": "sorted"}, "use paired"),
        ({"source": "teacher", "teacher_memory": 1.0}, "a share in"),
    ],
)
def test_sources_that_cannot_work_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Alignment(**settings)


def test_the_log_tells_shrinking_from_alignment() -> None:
    """Raw embeddings of half the size halve the scale ratio and leave the overlap."""
    logged = []
    for size in (1.0, 0.5):
        method = TopoFR(FACTS)
        model = Model()
        model.gain.data *= size
        batch = make_batch(method, 20)
        output = forward_step(
            model, ArcFace(8, 7, scale=16.0), Hooks.of(torch.nn.ModuleList([method])), batch
        )
        assert output.terms
        logged.append(method.log_values())
    assert logged[1]["scale_ratio"] == pytest.approx(logged[0]["scale_ratio"] / 2, rel=1e-5)
    assert logged[1]["mean_source_edge"] == logged[0]["mean_source_edge"]
    assert logged[1]["tree_overlap"] == logged[0]["tree_overlap"]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_the_share_of_edges_reaches_the_loss(share: float) -> None:
    method = TopoFR(
        FACTS, isa=Alignment(shortest_share=share, alpha_mode="fixed", alpha=1.0, warmup_epochs=0.0)
    )
    batch = make_batch(method, 20)
    output = forward_step(Model(), ArcFace(8, 7, scale=16.0), Hooks.of(torch.nn.ModuleList([method])), batch)
    expected = structure_loss(
        batch.extras["topofr_distances"],
        output.state.embeddings,
        norm="mean_edge",
        latent="sphere",
        reduction="edges",
        shortest_share=share,
        source_edges=batch.extras["topofr_edges"],
    )
    assert output.terms["TopoFR/alignment"].item() == pytest.approx(expected.item(), rel=1e-6)
    if share < 1:
        whole = TopoFR(FACTS, isa=Alignment(alpha_mode="fixed", alpha=1.0, warmup_epochs=0.0))
        other = forward_step(
            Model(), ArcFace(8, 7, scale=16.0), Hooks.of(torch.nn.ModuleList([whole])), batch
        )
        assert abs(other.terms["TopoFR/alignment"].item() - expected.item()) > 1e-3
