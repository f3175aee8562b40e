"""Two gloo processes against one with the whole batch, and one process against torch's own BatchNorm."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from topoface.models import build_model
from topoface.models.batchnorm import synchronise_batchnorm

WORKER = """
import sys
import torch
import torch.distributed as dist
from tests.unit.models.test_batchnorm import SPLITS, batch, network, outcome
from topoface.errors import UserError
from topoface.models.batchnorm import synchronise_batchnorm

store, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
images, targets = batch()
results = {}
for name, rows in SPLITS.items():
    model = synchronise_batchnorm(network())
    results[name] = outcome(model, images[rows[rank]], targets[rows[rank]])
try:
    synchronise_batchnorm(torch.nn.BatchNorm1d(3))(torch.ones(1 - rank, 3))
except UserError as error:
    results["one value"] = str(error)
torch.save(results, f"{store}.{rank}")
dist.destroy_process_group()
"""

SPLITS = {
    "even": (slice(0, 4), slice(4, 8)),
    "uneven": (slice(0, 7), slice(7, 8)),
    "one has none": (slice(0, 8), slice(8, 8)),
}


def network() -> nn.Module:
    """A tiny IResNet, then a normalisation without scale and with cumulative statistics; all in float64."""
    model = build_model("iresnet_tiny", dimension=6, trainable_scale=True)
    return nn.Sequential(model, nn.BatchNorm1d(6, affine=False, momentum=None)).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images far from zero mean, so that a variance by E[x^2] - E[x]^2 would show."""
    random = torch.Generator().manual_seed(0)
    images = 200 + torch.randn((8, 3, 112, 112), generator=random, dtype=torch.float64)
    return images, torch.randn((8, 6), generator=random, dtype=torch.float64)


def outcome(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of two training steps and one evaluation, gradients summed over both steps, final statistics."""
    images = images.clone().requires_grad_()
    result = {}
    for step in (0, 1):
        result[f"output {step}"] = model.train()(images)
        (result[f"output {step}"] * targets).square().sum().backward()
    result["output eval"] = model.eval()(images)
    result |= {f"gradient {key}": value.grad for key, value in model.named_parameters()}
    result |= {f"state {key}": value for key, value in model.state_dict().items()}
    result["input gradient"] = images.grad
    return {key: value.detach() for key, value in result.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw, for every split."""
    store = tmp_path_factory.mktemp("gloo") / "store"
    commands = [[sys.executable, "-c", WORKER, str(store), str(rank)] for rank in (0, 1)]
    workers = [subprocess.Popen(command, cwd=Path(__file__).parents[3]) for command in commands]
    try:
        assert [worker.wait(timeout=100) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [torch.load(f"{store}.{rank}", weights_only=True) for rank in (0, 1)]


@pytest.mark.dist
@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_equal_one_with_the_whole_batch(split: str, ranks: list[dict[str, Any]]) -> None:
    for key, expected in outcome(network(), *batch()).items():
        values = [rank[split][key] for rank in ranks]
        if key.startswith(("output", "input")):
            combined = torch.cat(values)
        elif key.startswith("gradient"):
            combined = values[0] + values[1]
        else:
            assert torch.equal(values[0], values[1]), key
            combined = values[0]
        difference = float((combined - expected).abs().max())
        assert difference <= 1e-10 * max(1, float(expected.abs().max())), (key, difference)


@pytest.mark.dist
def test_one_value_per_channel_is_refused_by_every_process(ranks: list[dict[str, Any]]) -> None:
    assert ["train on 2 images or more" in rank["one value"] for rank in ranks] == [True, True]


def test_without_other_processes_nothing_changes_by_a_bit() -> None:
    model = network()
    plain, ours = outcome(copy.deepcopy(model), *batch()), outcome(synchronise_batchnorm(model), *batch())
    assert plain.keys() == ours.keys()
    for key, value in plain.items():
        assert torch.equal(value, ours[key]), key


def test_parameters_are_taken_over_as_the_same_objects() -> None:
    model = network()
    parameters, modes = (
        dict(model.named_parameters()),
        {k: m.training for k, m in model.eval().named_modules()},
    )
    replaced = synchronise_batchnorm(model)
    assert replaced is model
    assert not any(type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) for module in model.modules())
    assert {key: id(value) for key, value in model.named_parameters()} == {
        k: id(v) for k, v in parameters.items()
    }
    assert {key: module.training for key, module in model.named_modules()} == modes
