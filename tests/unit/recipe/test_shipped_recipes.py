"""Every recipe that ships loads and builds; the published ones say what topofr.md section 7 says."""

from pathlib import Path

import pytest
import torch

from tests.code_tables import CodesOf, named_source
from tests.facts import run_facts
from topoface.methods import TopoFR
from topoface.models import build_model
from topoface.recipe.components import build, check_recipe
from topoface.recipe.files import dump_recipe, load_recipe, shipped_recipes

TRAINABLE = list(shipped_recipes())

# data, network: weight decay, epochs of the release, alpha of the paper
PUBLISHED = {
    ("ms1mv2", "r50"): (5e-4, 30, 0.1),
    ("ms1mv2", "r100"): (5e-4, 25, 0.05),
    ("ms1mv2", "r200"): (5e-4, 30, 0.05),
    ("glint360k", "r50"): (1e-4, 25, 0.1),
    ("glint360k", "r100"): (1e-4, 25, 0.05),
    ("glint360k", "r200"): (1e-4, 30, 0.05),
}


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_shipped_recipe_loads_builds_and_survives_a_round_trip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(name)
    check_recipe(recipe)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe))
    assert load_recipe(copy) == recipe
    facts = run_facts(
        num_classes=5,
        embedding_dim=recipe.model.dimension,
        steps_per_epoch=10.0,
        trainable_embedding_scale=recipe.model.trainable_scale,
    )
    monkeypatch.chdir(tmp_path)
    tables = {part.init_args.get("table") for part in (recipe.head, *recipe.methods)} - {None}
    codes = [CodesOf(folder=Path(table), dimension=recipe.model.dimension) for table in tables]
    head = build(recipe.head, "head", recipe.model.dimension, 5, seed=recipe.training.seed)
    methods = [build(method, f"methods.{i}", facts) for i, method in enumerate(recipe.methods)]
    for module in (head, *methods):
        if hasattr(module, "connect"):
            module.connect(codes[0].source if codes else named_source(5))
    stats = head(torch.ones(2, recipe.model.dimension), torch.tensor([0, 4]))
    assert stats.loss.isfinite().all()
    assert len(methods) == len(recipe.methods)


@pytest.mark.parametrize("network", sorted({load_recipe(name).model.name for name in TRAINABLE}))
def test_the_backbones_of_the_recipes_exist(network: str) -> None:
    model = build_model(network)
    assert sum(p.numel() for p in model.parameters()) > 1e5


@pytest.mark.parametrize(("data", "network"), PUBLISHED)
@pytest.mark.parametrize("preset", ["paper", "release"])
def test_published_settings_are_those_of_the_table(data: str, network: str, preset: str) -> None:
    recipe = load_recipe(f"published/topofr_{data}_{network}_{preset}")
    decay, epochs, alpha = PUBLISHED[data, network]
    assert recipe.model.name == f"iresnet{network[1:]}"
    assert (recipe.model.dimension, recipe.model.trainable_scale) == (512, True)
    assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (
        0.1,
        0.9,
        decay,
    )
    assert (recipe.schedule.name, recipe.schedule.power, recipe.schedule.warmup_epochs) == (
        "polynomial",
        2.0,
        0.0,
    )
    assert (recipe.training.batch_size, recipe.training.epochs, recipe.training.seed) == (512, epochs, 2048)
    assert recipe.optimizer.clip_norm == 5.0
    assert recipe.optimizer.clip_head == (preset == "release")
    facts = run_facts(num_classes=5, embedding_dim=512, steps_per_epoch=10.0, trainable_embedding_scale=True)
    method = build(recipe.methods[0], "methods.0", facts)
    assert isinstance(method, TopoFR)
    assert method.isa.alpha == (alpha if preset == "paper" else 0.1)
    assert (method.isa.form, method.isa.reduction) == (
        ("paired", "sum") if preset == "paper" else ("sorted", "batch")
    )
    assert (method.isa.norm, method.isa.latent) == ("pixel_range", "raw")
    head = build(recipe.head, "head", 8, 5, seed=0)
    assert (head.scale, head.m) == (64.0, 0.5)
    assert head.continuation == ("linear" if preset == "paper" else "insightface")
