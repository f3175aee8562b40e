"""The code head: the fixture's numbers, one loop of classifiers, nothing that grows with the identities, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.code_tables import CodesOf, NamedSource
from tests.facts import run_facts
from tests.oracles import identity_codes as oracle
from topoface.codes.table import write_table
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws
from topoface.functional.prefix_tree import PrefixTree, beam_search
from topoface.heads import IdentityCode, StatisticsRequest
from topoface.methods import JLCC, UNPG
from topoface.recipe import Component
from topoface.recipe.components import build

Z = oracle.unit(oracle.fixture(3, 4))
W = oracle.fixture(6, 4, 0.7, 1.3, 0.19)
CODES = np.array([[0, 2], [1, 1], [2, 0]])
NAMES = NamedSource(["a", "b", "c"])
LABELS = torch.arange(3)
EXACT = 1e-10


def fixture_head(folder: Path, **settings: Any) -> IdentityCode:
    write_table(folder / "t", codes=CODES, alphabets=(3, 3), uids=NAMES.names)
    settings = {"scale": 10.0, "margin": 0.2, "token_weight": 1.0, **settings}
    head = IdentityCode(4, 3, table=str(folder / "t"), **settings).double()
    head.weight.data = W.clone()
    head.connect(NAMES)
    return head


def random_head(folder: Path, *, dim: int = 8, **settings: Any) -> tuple[IdentityCode, CodesOf]:
    codes = CodesOf(folder=folder / "t", identities=20, alphabets=(3, 5, 4), dimension=dim)
    head = IdentityCode(dim, 20, table=str(folder / "t"), **settings).double()
    head.connect(codes.source)
    return head, codes


def test_statistics_of_the_fixture(tmp_path: Path) -> None:
    head = fixture_head(tmp_path)
    z = oracle.fixture(3, 4).requires_grad_()
    stats = head(z, LABELS)
    assert stats.loss.tolist() == pytest.approx([0.319337860728, 20.820860615843, 28.031900741272], abs=EXACT)
    assert stats.target_probability[0].item() == pytest.approx(0.726630008085, abs=EXACT)
    assert stats.entropy.tolist() == pytest.approx(
        [0.634110681553, 0.001075157464, 0.688830421900], abs=EXACT
    )
    expected = [0.656673443775, -0.049059793733, -0.597078332173]
    assert stats.target_cosine.tolist() == pytest.approx(expected, abs=EXACT)
    stats.loss.mean().backward()
    assert z.grad is not None
    assert z.grad.norm().item() == pytest.approx(6.610613393530, abs=EXACT)
    plain = head(Z, LABELS, request=StatisticsRequest(margin=False))
    assert plain.target_probability[0].item() == pytest.approx(0.951921805254, abs=EXACT)
    assert plain.entropy.tolist() == pytest.approx(
        [0.199136566811, 0.006285078998, 0.689779947045], abs=EXACT
    )
    rooted = fixture_head(tmp_path / "again", per_token=True)(Z, LABELS)
    torch.testing.assert_close(rooted.target_probability, stats.target_probability.sqrt())


def test_shift_and_extra_mass_of_the_fixture(tmp_path: Path) -> None:
    head = fixture_head(tmp_path)
    plain = head(Z, LABELS)
    u = torch.tensor(5.0, dtype=torch.float64)
    joined = head(Z, LABELS, extra=u)
    expected = [0.330916404206, 20.820880221850, 28.032733513397]
    assert joined.loss.tolist() == pytest.approx(expected, abs=EXACT)
    assert torch.equal(joined.entropy, plain.entropy)
    assert torch.equal(joined.target_log_probability, plain.target_log_probability)
    shares = 1 - (plain.loss - joined.loss).exp()
    torch.testing.assert_close(joined.extra_probability, shares.detach())
    shift = torch.full((3,), 0.1, dtype=torch.float64)
    shifted = head(Z, LABELS, shift=shift).loss
    expected = [0.712450512686, 22.820798014136, 30.031890339426]
    assert shifted.tolist() == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("weight", ["mean", 0.5])
def test_extra_mass_is_refused_where_the_loss_is_no_single_softmax(tmp_path: Path, weight: Any) -> None:
    head = fixture_head(tmp_path, token_weight=weight)
    assert head.scale is None
    with pytest.raises(UserError, match="token_weight"):
        head(Z, LABELS, extra=torch.tensor(5.0))
    facts = run_facts()
    object.__setattr__(facts, "logit_scale", head.scale)
    with pytest.raises(UserError, match="scale"):  # UNPG sees that before the first step
        build(Component(class_path="UNPG"), "methods.0", facts)


def test_unpg_gets_the_scale_of_the_joint_softmax(tmp_path: Path) -> None:
    head = fixture_head(tmp_path, scale=[10.0, 4.0])
    assert head.scale == 14.0
    facts = run_facts()
    object.__setattr__(facts, "logit_scale", head.scale)
    assert UNPG(facts).scale == 14.0


def test_jlcc_gets_the_room_of_the_position_that_leaves_least(tmp_path: Path) -> None:
    assert fixture_head(tmp_path, margin=[0.2, 0.1]).margin_room == 0.1
    room = fixture_head(tmp_path / "b", margin_kind="arcface", margin=[0.5, 1.5]).margin_room
    assert room == pytest.approx(np.pi / 2 - 1.5)
    facts = run_facts()
    object.__setattr__(facts, "has_class_centers", getattr(IdentityCode, "has_class_centers", False))
    with pytest.raises(UserError, match="no class centers"):
        JLCC(facts)


def test_lambda_weighs_the_tokens_alike(tmp_path: Path) -> None:
    one, mean = (fixture_head(tmp_path / str(w), token_weight=w)(Z, LABELS) for w in (1.0, "mean"))
    torch.testing.assert_close(one.loss, 2 * mean.loss)
    assert torch.equal(one.entropy, mean.entropy)


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("projection", ["none", "linear", "mlp"])
@pytest.mark.parametrize("kind", ["cosface", "arcface"])
@torch.no_grad()
def test_ragged_projected_and_conditioned_heads_equal_a_loop_of_classifiers(
    tmp_path: Path, projection: Any, prefix: bool, kind: Any
) -> None:
    head, codes = random_head(
        tmp_path,
        projection=projection,
        prefix_conditioned=prefix,
        margin_kind=kind,
        margin=0.0,
        token_weight=1.0,
    )
    g = torch.Generator().manual_seed(0)
    if head.prefixes is not None:
        head.prefixes.data = torch.randn(head.prefixes.shape, generator=g, dtype=torch.float64)
    z = torch.randn(6, 8, generator=g, dtype=torch.float64)
    labels = torch.tensor([0, 3, 19, 7, 7, 12])
    losses = head(z, labels).loss
    tokens = codes.table.tokens(codes.table.rows_of(codes.source.names, "test"))[labels.numpy()]
    firsts = (0, 3, 8)
    for i, code in enumerate(tokens.tolist()):
        total = 0.0
        for j, token in enumerate(code):
            query = z[i].clone()
            if head.prefixes is not None:
                for earlier in range(j):
                    query = query + head.prefixes[firsts[earlier] + code[earlier]]
            for layer, projection_of in enumerate(head.projections):
                query = (query if layer == 0 else query.clamp(min=0)) @ projection_of[j]
            centers = head.weight[firsts[j] : firsts[j] + (3, 5, 4)[j]]
            total += float(oracle.classifier_losses(query, [centers], [token], head.scales[j])[0])
        assert float(losses[i]) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("settings", [{}, {"projection": "mlp", "prefix_conditioned": True}])
def test_gradients_equal_finite_differences(tmp_path: Path, settings: dict[str, Any]) -> None:
    head, _ = random_head(tmp_path, dim=3, scale=4.0, margin_kind="arcface", margin=0.3, **settings)
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    values = {name: p.detach().clone().requires_grad_() for name, p in head.named_parameters()}

    def loss(points: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(values, parameters, strict=True))
        return torch.func.functional_call(head, named, (points, torch.tensor([0, 5, 9, 9]))).loss

    assert torch.autograd.gradcheck(loss, (z, *values.values()))


def test_a_conditioned_head_is_a_chain_rule_over_all_codes(tmp_path: Path) -> None:
    every = np.array(oracle.all_codes((3, 3, 3)))
    names = [f"{i:02d}" for i in range(27)]
    write_table(tmp_path / "t", codes=every, alphabets=(3, 3, 3), uids=names)
    head = IdentityCode(6, 27, table=str(tmp_path / "t"), prefix_conditioned=True, margin=0.0).double()
    head.connect(NamedSource(names))
    assert head.prefixes is not None
    z = oracle.fixture(2, 6)

    def likelihoods() -> torch.Tensor:
        return torch.stack([head(z, torch.full((2,), c)).target_probability for c in range(27)], 1)

    unconditioned = likelihoods()
    torch.testing.assert_close(unconditioned.sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-14)
    head.prefixes.data = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = likelihoods()
    torch.testing.assert_close(found.sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-14)
    logits = [head.logits(z, torch.tensor([code, code])) for code in ([0, 0, 1], [1, 0, 1])]
    assert (logits[0][:, 2] - logits[1][:, 2]).abs().max() > 1e-3  # one token, two prefixes
    rows, scores = beam_search(head.next_token(z), PrefixTree.of(torch.from_numpy(every)), 27, 2)
    assert torch.equal(rows[:, 0], found.argmax(1))
    torch.testing.assert_close(scores.exp(), found.sort(1, descending=True).values, rtol=0, atol=1e-13)


def test_the_beam_finds_what_the_head_was_told(tmp_path: Path) -> None:
    head, codes = random_head(tmp_path, dim=64)
    tokens = codes.table.codes.astype(np.int64) + np.array([0, 3, 8])
    z = torch.nn.functional.normalize(head.weight.detach())[torch.from_numpy(tokens)].sum(1)
    rows, _ = beam_search(
        head.next_token(z), PrefixTree.of(torch.from_numpy(codes.table.codes.astype(np.int64))), 5, 20
    )
    assert torch.equal(rows[:, 0], torch.arange(20))


@pytest.mark.parametrize("classes", [10**4, 10**7])
def test_nothing_that_is_trained_or_saved_grows_with_the_identities(tmp_path: Path, classes: int) -> None:
    """The head does not ask how many there are: a table of few rows stands for one of 10^7."""
    CodesOf(folder=tmp_path / "t", identities=100, alphabets=(256, 256, 256), dimension=4)
    head = IdentityCode(512, classes, table=str(tmp_path / "t"))
    assert {name: p.numel() for name, p in head.named_parameters()} == {"weight": 393_216}
    assert sum(t.numel() for t in head.state_dict().values()) == 393_216 + 32  # the table's digest
    assert sum(t.numel() for t in head.buffers()) < 3000


def test_what_the_loader_prepares_is_what_the_head_reads_itself(tmp_path: Path) -> None:
    head, _ = random_head(tmp_path)
    labels = torch.tensor([4, 4, 11])
    batch = Batch(
        images=torch.zeros(3, 3, 112, 112, dtype=torch.uint8),
        labels=labels,
        indices=labels,
        draws=SampleDraws(seed=0, step=0, global_size=3, start=0, stop=3),
    )
    z = oracle.fixture(3, 8)
    assert torch.equal(head(z, labels).loss, head(z, labels, extras=head.prepare(batch)).loss)


def test_codes_follow_the_names_and_not_the_numbers_of_the_labels(tmp_path: Path) -> None:
    head, codes = random_head(tmp_path)
    z = oracle.fixture(1, 8).expand(20, -1)
    losses = head(z, torch.arange(20)).loss
    head.connect(NamedSource(codes.source.names[::-1]))
    assert torch.equal(head(z, torch.arange(20).flip(0)).loss, losses)


def test_half_embeddings_give_the_float32_loss_of_the_same_numbers(tmp_path: Path) -> None:
    head, _ = random_head(tmp_path, projection="linear")
    head.float()
    half = oracle.fixture(3, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        stats = head(half, torch.arange(3))
    assert stats.loss.dtype == torch.float32
    assert torch.equal(stats.loss, head(half.float(), torch.arange(3)).loss)


def test_statistics_are_detached_unless_asked_for(tmp_path: Path) -> None:
    head, _ = random_head(tmp_path)
    z = oracle.fixture(3, 8).requires_grad_()
    stats = head(z, torch.arange(3))
    assert stats.loss.requires_grad
    assert not any(
        s.requires_grad for s in (stats.entropy, stats.target_log_probability, stats.target_cosine)
    )
    wanted = head(z, torch.arange(3), request=StatisticsRequest(differentiable=True))
    assert wanted.entropy.requires_grad
    assert torch.equal(wanted.entropy, stats.entropy)
    released = head(z, torch.arange(3), request=StatisticsRequest(log_epsilon=1e-5))
    torch.testing.assert_close(released.entropy, stats.entropy, rtol=0, atol=1e-3)
    assert not torch.equal(released.entropy, stats.entropy)


def test_a_run_does_not_go_on_with_other_codes(tmp_path: Path) -> None:
    head, _ = random_head(tmp_path)
    CodesOf(folder=tmp_path / "other", identities=20, alphabets=(3, 5, 4), seed=1)
    other = IdentityCode(8, 20, table=str(tmp_path / "other"))
    head.load_state_dict(head.state_dict())
    with pytest.raises(UserError, match="is not the table that the run began with"):
        other.load_state_dict(head.state_dict())


def test_the_start_is_a_function_of_the_seed(tmp_path: Path) -> None:
    CodesOf(folder=tmp_path / "t")
    a, b, c = (IdentityCode(8, 5, seed=s, table=str(tmp_path / "t"), projection="mlp") for s in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.weight, c.weight)
    assert not torch.equal(a.projections[0], a.projections[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"table": "nowhere"}, "head.init_args.table: is 'nowhere'.*topoface codes build"),
        ({"margin": [0.1]}, "head.init_args.margin"),
        ({"margin": -0.1}, "head.init_args.margin"),
        ({"margin_kind": "arcface", "margin": 3.2}, "head.init_args.margin"),
        ({"scale": [1.0, 0.0]}, "head.init_args.scale"),
        ({"token_weight": -1.0}, "head.init_args.token_weight"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    CodesOf(folder=tmp_path / "t")
    component = Component(class_path="IdentityCode", init_args={"table": str(tmp_path / "t"), **settings})
    with pytest.raises(UserError, match=message):
        build(component, "head", 8, 5, seed=0)


@pytest.mark.parametrize("setting", ["scale", "margin", "token_weight"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_no_finite_number_is_refused_from_python_too(
    tmp_path: Path, setting: str, value: float
) -> None:
    CodesOf(folder=tmp_path / "t")
    given: dict[str, Any] = {setting: value}
    with pytest.raises(UserError, match=f"^{setting}: is {value}; give"):
        IdentityCode(8, 5, table=str(tmp_path / "t"), **given)


def test_a_recipe_can_give_each_position_its_own_margin_and_scale(tmp_path: Path) -> None:
    CodesOf(folder=tmp_path / "t")
    given = {"table": str(tmp_path / "t"), "margin": [0.1, 0.2], "scale": [8.0, 9.0], "token_weight": 0.25}
    head = build(Component(class_path="IdentityCode", preset="paper", init_args=given), "head", 8, 5, seed=0)
    assert (head.margins, head.scales, head.token_weight, len(head.projections)) == (
        (0.1, 0.2),
        (8.0, 9.0),
        0.25,
        2,
    )
    ours = build(
        Component(class_path="IdentityCode", init_args={"table": str(tmp_path / "t")}), "head", 8, 5, seed=0
    )
    assert (ours.margins, ours.scales, ours.token_weight) == ((0.1, 0.1), (16.0, 16.0), 0.5)


def test_numbers_name_nobody_in_other_faces(tmp_path: Path) -> None:
    """Label 7 of one RecordIO file is not label 7 of another; the name of a folder is, also if it is a number."""
    for case, names, built_from, refused in (
        ("numbers", ["0", "1", "2"], "others", True),
        ("same", ["0", "1", "2"], "of the test", False),
        ("folders", ["0000045", "0000099", "0000107"], "others", False),
        ("names", ["ann", "bob", "eve"], "others", False),
    ):
        folder = tmp_path / case
        write_table(folder, codes=CODES, alphabets=(3, 3), uids=names, meta={"fingerprint": built_from})
        head = IdentityCode(4, 3, table=str(folder))
        if refused:
            with pytest.raises(UserError, match="built from other faces"):
                head.connect(NamedSource(names))
        else:
            head.connect(NamedSource(names))


def test_part_of_a_source_has_the_codes_of_the_whole(tmp_path: Path) -> None:
    names = ["0", "1", "2"]
    part = NamedSource(["0", "2"])
    part.fingerprint = lambda: "of the part"  # type: ignore[method-assign]
    for built_from, refused in (("of the test", False), ("others", True)):
        folder = tmp_path / built_from
        write_table(folder, codes=CODES, alphabets=(3, 3), uids=names, meta={"fingerprint": built_from})
        head = IdentityCode(4, 2, table=str(folder))
        part.source = NamedSource(names)  # type: ignore[attr-defined]
        if refused:
            with pytest.raises(UserError, match="built from other faces"):
                head.connect(part)
        else:
            head.connect(part)


def test_an_identity_without_a_code_is_named(tmp_path: Path) -> None:
    CodesOf(folder=tmp_path / "t")
    head = IdentityCode(8, 5, table=str(tmp_path / "t"))
    with pytest.raises(UserError, match="'somebody' has no code"):
        head.connect(NamedSource(["000000001", "somebody"]))
    with pytest.raises(UserError, match="connect"):
        head(torch.ones(1, 8), torch.zeros(1, dtype=torch.int64))
