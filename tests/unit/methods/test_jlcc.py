"""JLCC as a method: its switches, schedule, state and refusals (oracles 12, 19, 21 and 22 of jlcc.md)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.facts import run_facts
from tests.oracles import centers as oracle
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws
from topoface.heads import ArcFace
from topoface.methods import jlcc as module
from topoface.methods.jlcc import JLCC
from topoface.methods.jlcc_settings import PRESETS, Aligning, ClusterMargin, Contrast
from topoface.methods.method import Method, StepState
from topoface.recipe.components import arguments, options_of
from topoface.training.step import Hooks, StepOutput, forward_step

CLASSES, IMAGES, n = 7, 100, 12
FACTS = run_facts(num_classes=CLASSES, embedding_dim=8, steps_per_epoch=2.0)  # 100 images
RNG = np.random.default_rng(3)
WHO = RNG.normal(size=(CLASSES, 8))
TRUE = RNG.integers(0, CLASSES - 1, IMAGES)  # the last identity has no image
FACES = torch.from_numpy(WHO[TRUE] + 0.8 * RNG.normal(size=(IMAGES, 8))).float()
OFF: dict[str, Any] = {
    "margin": ClusterMargin(delta=0.0),
    "contrast": Contrast(weight=0.0),
    "align": Aligning(weight=0.0),
}
NOW: dict[str, Any] = {"start_epochs": 1.0, "ramp_epochs": 0.0}


def preset(name: str, **changes: Any) -> JLCC:
    values = arguments(options_of(JLCC, positional=1), PRESETS[name], "test", [])
    return JLCC(FACTS, **{**values, **changes})


def make_batch(step: int, indices: Tensor, start: int = 0, size: int = n) -> Batch:
    return Batch(
        images=torch.zeros(len(indices), 3, 112, 112, dtype=torch.uint8),
        labels=torch.from_numpy(TRUE)[indices],
        indices=indices,
        draws=SampleDraws(seed=1, step=step, global_size=size, start=start, stop=start + len(indices)),
    )


def indices_of(step: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(100 + step).integers(0, IMAGES, n))


class Trained:
    """A table of embeddings and a head, trained together for a few steps with a method."""

    def __init__(self, methods: Sequence[Method] = (), first_step: int = 0) -> None:
        self.faces = FACES.clone().requires_grad_()
        self.head = ArcFace(8, CLASSES, scale=8.0)
        self.hooks = Hooks.of(torch.nn.ModuleList(methods))
        self.step = first_step
        self.losses: list[Tensor] = []

    def forward(self, indices: Tensor, start: int = 0, size: int = n) -> StepOutput:
        batch = make_batch(self.step, indices, start, size)
        return forward_step(lambda _: self.faces[indices], self.head, self.hooks, batch)

    def take(self, steps: int, parts: int = 1) -> "Trained":
        parameters = [self.faces, *self.head.parameters()]
        for _ in range(steps):
            outputs = []
            for part, indices in enumerate(indices_of(self.step).chunk(parts)):
                outputs.append(self.forward(indices, start=part * len(indices)))
                (outputs[-1].total / parts).backward()
            with torch.no_grad():
                for parameter in parameters:
                    assert parameter.grad is not None
                    assert parameter.grad.isfinite().all()
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
                for method in self.hooks.update:
                    method.update([output.state for output in outputs])
            self.losses.append(outputs[-1].total.detach())
            self.step += 1
        return self


def same(one: Trained, two: Trained) -> bool:
    return torch.equal(one.faces, two.faces) and torch.equal(one.head.weight, two.head.weight)


def test_all_weights_zero_is_arcface_bit_for_bit_and_does_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a part that is off was used")

    for name in ("look", "gather_rows", "gather_for_all", "generator"):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(JLCC, "remember", never)
    method = JLCC(FACTS, **OFF)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert same(Trained([method]).take(12), Trained().take(12))
    assert all(
        value.equal(before[name]) or value.isnan().all() for name, value in method.state_dict().items()
    )


def test_watching_trains_like_arcface_bit_for_bit_and_fills_the_memory() -> None:
    method = preset("watch", start_epochs=1.0)
    assert same(Trained([method]).take(12), Trained().take(12))
    assert method.memory.seen.tolist() == [True] * (CLASSES - 1) + [False]
    seen = torch.cat([indices_of(step) for step in range(1, 12)]).unique()  # in step 0 there is no center
    assert (method.assigned >= 0).nonzero()[:, 0].tolist() == seen.tolist()


def test_the_ramp() -> None:
    method = JLCC(FACTS)
    got = [method._ramp(int(epoch * FACTS.steps_per_epoch)) for epoch in (0, 1, 2, 2.5, 3, 4, 9)]
    assert got == [0, 0, 0, 0.25, 0.5, 1, 1]
    assert [JLCC(FACTS, **NOW)._ramp(step) for step in (0, 1, 2, 3)] == [0, 0, 1, 1]


def test_before_its_start_the_loss_is_that_of_arcface_bit_for_bit() -> None:
    plain, ours = Trained(), Trained([JLCC(FACTS)])
    assert same(ours.take(5), plain.take(5))  # step 4 has weight 0 still
    assert all(torch.equal(*losses) for losses in zip(ours.losses, plain.losses, strict=True))
    assert not same(ours.take(1), plain.take(1))


def test_before_its_start_the_head_gets_no_shift_at_all() -> None:
    method = JLCC(FACTS)
    for step, shifted in ((3, False), (5, True)):
        batch = make_batch(step, indices_of(step))
        assert (method.margin_shift(FACES[batch.indices], batch) is not None) == shifted


PARTS = {
    "all": ({"class", "JLCC/contrast", "JLCC/align"}, True),
    "margin": ({"class"}, True),
    "margin_hard": ({"class"}, True),
    "contrast": ({"class", "JLCC/contrast"}, False),
    "align": ({"class", "JLCC/align"}, False),
    "watch": ({"class"}, False),
}


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_has_exactly_its_parts(name: str) -> None:
    method = preset(name, **NOW)
    trained = Trained([method]).take(6)
    output = trained.forward(indices_of(6))
    plain = Trained()
    plain.faces, plain.head = trained.faces, trained.head
    terms, shifted = PARTS[name]
    assert output.terms.keys() == terms
    assert torch.equal(output.terms["class"], plain.forward(indices_of(6)).terms["class"]) != shifted
    assert all(float(output.terms[term].detach()) > 0 for term in terms)


@pytest.mark.parametrize("direction", ["easy", "hard"])
def test_the_shift_is_bounded_and_goes_the_asked_way(direction: Any) -> None:
    method = JLCC(FACTS, margin=ClusterMargin(delta=0.07, direction=direction), **NOW)
    trained = Trained([method]).take(8)
    batch = make_batch(8, indices_of(8))
    shift = method.margin_shift(trained.faces[batch.indices], batch)
    assert shift is not None
    assert not shift.requires_grad
    assert float(shift.abs().max()) <= 0.07 + 1e-8
    level = method._views[0].level
    correlation = float(torch.corrcoef(torch.stack([shift, level]))[0, 1])
    assert correlation < -0.9 if direction == "easy" else correlation > 0.9


@pytest.mark.parametrize("hard", ["silhouette", "center", "zscore", "posterior", "bcubed"])
@pytest.mark.parametrize("level", ["sample", "class", "both"])
def test_every_hard_level_trains_without_nan(hard: Any, level: Any) -> None:
    method = JLCC(FACTS, margin=ClusterMargin(hard=hard, level=level), **NOW)
    trained = Trained([method]).take(8)
    assert not same(trained, Trained([JLCC(FACTS, margin=ClusterMargin(delta=0), **NOW)]).take(8))
    assert all(torch.as_tensor(value).isfinite().all() for value in method.log_values().values())
    logged = method.log_values()
    assert 0 < logged["level_mean"] < 1
    assert logged["ramp"] == 1
    assert -1 <= logged["class_center_cosine"] <= 1


def test_an_identity_that_is_unseen_has_margin_m0_and_no_contrast() -> None:
    method = JLCC(FACTS, **NOW)
    trained = Trained([method]).take(6)
    batch = make_batch(6, indices_of(6))
    labels = batch.labels.clone()
    labels[0] = CLASSES - 1
    batch = replace(batch, labels=labels)
    rows = trained.faces[batch.indices].detach().requires_grad_()
    shift = method.margin_shift(rows, batch)
    assert shift is not None
    assert float(shift[0]) == 0
    assert (shift[1:] != 0).all()
    stats = trained.head(rows, labels, shift)
    state = StepState(batch=batch, embeddings=rows, stats=stats, class_loss=stats.loss.mean(), step=6)
    (gradient,) = torch.autograd.grad(method.penalties(state)["contrast"], rows)
    assert gradient[0].abs().sum() == 0
    assert (gradient[1:].abs().sum(1) > 0).all()
    method.update([state])
    assert method.memory.seen.all()


def test_a_sample_never_meets_its_own_embedding_of_the_step() -> None:
    one, two = JLCC(FACTS, **NOW), JLCC(FACTS, **NOW)
    states = []
    for method in (one, two):
        trained = Trained([method]).take(6)
        states.append(trained.forward(indices_of(6)).state)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 8))).float()
    two._views[0] = replace(two._views[0], rows=module.unit_rows(noise))
    with torch.no_grad():
        one.update([states[0]])
        two.update([states[1]])
    for name in ("own_mean", "other_mean", "level_mean", "margin_shift_mean"):
        assert torch.equal(torch.as_tensor(one.log_values()[name]), torch.as_tensor(two.log_values()[name]))
    assert torch.equal(one.scores.nan_to_num(-1), two.scores.nan_to_num(-1))
    assert not torch.equal(one.directions, two.directions)


@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_visit_the_memory_once_a_step(parts: int) -> None:
    whole, split = preset("watch"), preset("watch")
    for method, count in ((whole, 1), (split, parts)):
        for step in range(4):
            trained = Trained([method], first_step=step)
            states = [
                trained.forward(indices, start=part * len(indices)).state
                for part, indices in enumerate(indices_of(step).chunk(count))
            ]
            with torch.no_grad():
                method.update(states)
    for name, value in whole.state_dict().items():
        other = split.state_dict()[name]
        if value.is_floating_point():  # products of other shapes may round otherwise
            torch.testing.assert_close(other, value, rtol=0, atol=1e-6, equal_nan=True, msg=name)
        else:
            assert torch.equal(other, value), name
    assert torch.equal(split.directions, whole.directions)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() -> None:
    settings: dict[str, Any] = {**NOW, "margin": ClusterMargin(hard="zscore", level="both")}
    through = Trained([JLCC(FACTS, **settings)]).take(9)
    first = JLCC(FACTS, **settings)
    before = Trained([first]).take(5)
    second = JLCC(FACTS, **settings)
    second.load_state_dict(first.state_dict())
    after = Trained([second], first_step=5)
    after.faces, after.head = before.faces, before.head
    assert same(after.take(4), through)


@pytest.mark.parametrize("form", ["cosine", "nce"])
def test_aligning_moves_only_the_class_centers_of_the_batch_toward_their_clusters(form: Any) -> None:
    method = JLCC(FACTS, **{**OFF, "align": Aligning(form=form)}, **NOW)
    trained = Trained([method]).take(6)
    output = trained.forward(indices_of(6))
    (by_weight, by_faces) = torch.autograd.grad(
        output.terms["JLCC/align"], [trained.head.weight, trained.faces], allow_unused=True
    )
    assert by_faces is None
    moved = by_weight.abs().sum(1) > 0
    assert set(moved.nonzero()[:, 0].tolist()) == set(TRUE[indices_of(6)].tolist())

    def cosine(weight: Tensor) -> Tensor:
        return (module.unit_rows(weight) * method.directions).sum(1)

    weight = trained.head.weight.detach()
    if form == "cosine":
        assert (cosine(weight - 1e-3 * by_weight) > cosine(weight))[moved].all()


def test_sampled_contrast_is_a_function_of_the_step_and_meets_the_full_one_at_share_one() -> None:
    def contrast_at(step: int, **settings: Any) -> float:
        method = JLCC(FACTS, **{**OFF, "contrast": Contrast(**settings)}, **NOW)
        Trained([method]).take(6)
        trained = Trained([method], first_step=step)
        torch.manual_seed(step)  # no global generator is read
        return float(trained.forward(torch.tensor([0, 1])).terms["JLCC/contrast"].detach())

    full = contrast_at(6)
    assert contrast_at(6, scope="sampled", share=1.0) == pytest.approx(full, rel=1e-5)
    some = [contrast_at(step, scope="sampled", share=0.2) for step in range(6, 12)]
    assert some == [contrast_at(step, scope="sampled", share=0.2) for step in range(6, 12)]
    assert len(set(some)) > 1


def test_figures_by_identity_and_by_image_are_running_means_over_visits() -> None:
    method = preset("watch")
    own_mean: dict[int, float] = {}
    own_square: dict[int, float] = {}
    scores: dict[int, float] = {}

    def blend(table: dict[int, float], key: int, values: list[float], kept: float) -> None:
        mean = sum(values) / len(values)
        table[key] = kept * table[key] + (1 - kept) * mean if key in table else mean

    for step in range(6):
        trained = Trained([method], first_step=step)
        state = trained.forward(indices_of(step)).state
        near = method._views[0]
        samples = list(zip(near.own.tolist(), near.other.tolist(), state.batch.labels.tolist(), strict=True))
        for k in {label for a, _, label in samples if not math.isnan(a)}:
            blend(own_mean, k, [a for a, _, label in samples if label == k], 0.8)
            blend(own_square, k, [a * a for a, _, label in samples if label == k], 0.8)
        for i in set(state.batch.indices.tolist()):
            levels = [
                oracle.silhouette(a, b)
                for (a, b, _), index in zip(samples, state.batch.indices.tolist(), strict=True)
                if index == i and not math.isnan(a)
            ]
            if levels:
                blend(scores, i, levels, 0.7)
        with torch.no_grad():
            method.update([state])
    for table, expected in (
        (method.class_own, own_mean), (method.class_own_square, own_square), (method.scores, scores)
    ):  # fmt: skip
        got = {k: float(value) for k, value in enumerate(table) if not value.isnan()}
        assert got == pytest.approx(expected, abs=1e-6)


def test_the_table_of_nearest_centers_holds_the_last_answer_of_each_image() -> None:
    method = preset("watch")
    expected: dict[int, int] = {}
    rng = np.random.default_rng(5)
    faces, step = FACES.clone(), 0
    while step < 1000 // n + 1:
        indices = torch.from_numpy(rng.permutation(IMAGES)[:n])
        faces[indices] += torch.from_numpy(0.5 * rng.normal(size=(n, 8))).float()
        rows = oracle.unit(faces[indices].double().numpy())
        for i, row in zip(indices.tolist(), rows, strict=True):
            cosines = method.directions.double().numpy() @ row
            cosines[~method.memory.seen.numpy()] = -2
            expected[i] = int(cosines.argmax()) if method.memory.seen.any() else -1
        trained = Trained([method], first_step=step)
        trained.faces = faces
        with torch.no_grad():
            method.update([trained.forward(indices).state])
        step += 1
    assert method.assigned.tolist() == [expected.get(i, -1) for i in range(IMAGES)]
    assert method.assigned.dtype == torch.int32


def test_a_wrong_label_has_the_highest_score() -> None:
    method = preset("watch")
    wrong = 17
    trained = Trained([method])
    trained.faces.data[wrong] = FACES[((TRUE[wrong] + 1) % 6 == TRUE).nonzero()[0][0]] * 1.1
    for step in range(20):
        trained.step = step
        indices = torch.from_numpy(np.random.default_rng(step).permutation(IMAGES)[:50])
        with torch.no_grad():
            method.update([trained.forward(indices, size=50).state])
    assert float(method.scores[wrong]) >= float(method.scores.nan_to_num(0).topk(3).values[-1])
    assert float(method.scores[wrong]) > 0.5
    assert int(method.assigned[wrong]) == (TRUE[wrong] + 1) % 6


def test_the_memory_stays_float32_in_bfloat16_and_under_autocast() -> None:
    method = JLCC(FACTS, **NOW)
    assert method.to(torch.bfloat16) is method
    assert {value.dtype for value in method.buffers() if value.is_floating_point()} == {torch.float32}
    plain = JLCC(FACTS, **NOW)
    for one in (method, plain):
        Trained([one]).take(4)
    trained = Trained(first_step=4)
    batch = make_batch(4, indices_of(4))
    shifts, terms = [], []
    for one, low in ((method, True), (plain, False)):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            rows = trained.faces[batch.indices]
            shifts.append(one.margin_shift(rows, batch))
            stats = trained.head(rows, batch.labels)
            state = StepState(batch=batch, embeddings=rows, stats=stats, class_loss=stats.loss.mean(), step=4)
            terms.append(one.penalties(state))
            one.update([state])
    assert torch.equal(*shifts)
    assert all(torch.equal(terms[0][name], terms[1][name]) for name in ("contrast", "align"))
    assert torch.equal(method.directions, plain.directions)
    assert method.double().directions.dtype == torch.float64


SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "guard, aged, batch": {"guard": True, "max_age": 2.0, "contrast": Contrast(source="batch")},
    "sampled, nce": {"contrast": Contrast(scope="sampled"), "align": Aligning(form="nce")},
    "zscore, both": {"margin": ClusterMargin(hard="zscore", level="both")},
    "posterior, class": {"margin": ClusterMargin(hard="posterior", level="class")},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_step_reads_no_value_back_from_its_device(settings: dict[str, Any]) -> None:
    method, head = JLCC(FACTS, **settings, **NOW), ArcFace(8, CLASSES)
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = torch.empty(n, 8, requires_grad=True)
        hooks = Hooks.of(torch.nn.ModuleList([method]))
        batch = make_batch(3, torch.arange(n))
        output = forward_step(lambda _: rows, head, hooks, batch)
        output.total.backward()
        with torch.no_grad():
            method.update([output.state])
    assert output.terms.keys() == {"class", "JLCC/contrast", "JLCC/align"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: JLCC(FACTS, beta=1.0), "beta: is 1.0"),
        (lambda: JLCC(FACTS, start_epochs=0.5), "a center needs a look at each image"),
        (lambda: JLCC(FACTS, ramp_epochs=-1.0), "ramp_epochs: is -1"),
        (lambda: JLCC(FACTS, ramp_epochs=math.nan), "ramp_epochs: is nan"),
        (lambda: JLCC(FACTS, max_age=0.5), "max_age: is 0.5"),
        (lambda: Aligning(form="copy", weight=2.0), "form copy mixes in that share"),
        (lambda: ClusterMargin(delta=-0.1), "delta: is -0.1"),
        (lambda: ClusterMargin(delta=math.nan), "delta: is nan"),
        (lambda: Contrast(weight=-1.0), "weight: is -1"),
        (lambda: Contrast(temperature=0.0), "temperature: is 0"),
        (lambda: Contrast(share=0.0), "share: is 0"),
        (lambda: Aligning(weight=math.inf), "weight: is inf"),
        (lambda: Aligning(temperature=-1.0), "temperature: is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_a_head_without_class_centers_is_refused_for_aligning_in_the_first_step() -> None:
    method = JLCC(FACTS)
    trained = Trained([method])
    output = Trained().forward(indices_of(0)).state
    bare = replace(output, stats=replace(output.stats, class_centers=None))
    method.margin_shift(bare.embeddings, bare.batch)
    with pytest.raises(UserError, match="no learned class centers"):
        method.penalties(bare)
    assert trained.hooks.penalties == [method]
    without = JLCC(FACTS, align=Aligning(weight=0.0))
    without.margin_shift(bare.embeddings, bare.batch)
    assert without.penalties(bare) == {}
