"""Judging inside a run: the protocols of the recipe, the saved model, the files that later tools read."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from topoface.errors import UserError
from topoface.evaluation import PairProtocol, Verification, open_protocol, verify
from topoface.evaluation.features import weights_digest
from topoface.evaluation.report.page import ModelEntry, ReportInput, TopologySnapshot, write_report
from topoface.files import write_text
from topoface.functional.alignment import structure_report
from topoface.functional.distances import pixel_distances, pixel_squared_distances, squared_distances
from topoface.functional.persistence import h0_deaths
from topoface.models import EmbeddingModel, save
from topoface.recipe import Recipe
from topoface.recipe.files import dump_recipe
from topoface.training.run import Run, build_fresh_model, versions

TOPOLOGY_IMAGES = 128


def report_is_possible() -> bool:
    """Whether the packages that draw report.html are installed (extra ``report``)."""
    return find_spec("matplotlib") is not None and find_spec("jinja2") is not None


class Judge:
    """Opens the recipe's protocols at once, so that a wrong path shows before training and not after it."""

    def __init__(self, recipe: Recipe) -> None:
        self.config = recipe.evaluation
        self.protocols: list[PairProtocol] = [open_protocol(uri) for uri in self.config.pairs]
        names = [protocol.name for protocol in self.protocols]
        if len(set(names)) < len(names):
            raise UserError(
                f"two protocols are called {max(names, key=names.count)!r}",
                "evaluation.pairs",
                "give each once; files of one name need folders of different names",
            )

    def is_due(self, run: Run) -> bool:
        """Whether this step ends a stretch of ``evaluation.every_epochs``; the end of the run is judged anyway."""
        if self.config.every_epochs is None or not self.protocols or run.step in (0, run.total_steps):
            return False
        every = max(1, round(self.config.every_epochs * run.steps_per_epoch))
        return run.step % every == 0

    def interim(self, run: Run) -> dict[str, dict[str, float]]:
        """Figures without intervals, by protocol."""
        return {
            protocol.name: verify(run.model.embed, protocol, flip=self.config.flip, bootstrap=0).summary()
            for protocol in self.protocols
        }

    def finish(self, run: Run, run_dir: Path) -> ModelEntry:
        """Save the model, judge it, and write evaluation.json, scores/ and report.html; returns what a report shows."""
        model_dir = run_dir / "model"
        save(run.model, model_dir, extra={"trained": run.identity(), "versions": versions()})
        results = [
            verify(
                run.model.embed,
                protocol,
                flip=self.config.flip,
                bootstrap=self.config.bootstrap,
                model=f"weights {weights_digest(run.model)[:16]}",
            )
            for protocol in self.protocols
        ]
        for result in results:
            self._save_scores(run_dir, result)
        summary = {
            "steps": run.step,
            "identity": run.identity(),
            "versions": versions(),
            "protocols": [result.to_json() for result in results],
        }
        write_text(run_dir / "evaluation.json", json.dumps(summary, indent=1))
        entry = ModelEntry(
            name=run_dir.name,
            verifications=results,
            metrics=run_dir / "metrics.jsonl",
            topology=self._topology(run),
            settings=dump_recipe(run.recipe),
            facts={
                "parameters": f"{sum(p.numel() for p in run.model.parameters()) / 1e6:.2f} M",
                "steps": f"{run.step:,} of {run.recipe.training.batch_size} images",
            },
        )
        if report_is_possible():
            data = {name: str(value) for name, value in run.identity()["data"].items()}
            content = ReportInput(
                title=run_dir.name, models=[entry], data={"training faces": run.source.uri, **data}
            )
            write_report(run_dir / "report.html", content)
        return entry

    def _save_scores(self, run_dir: Path, result: Verification) -> None:
        """One score a pair, so that two runs can be compared pair by pair later."""
        folder = run_dir / "scores"
        folder.mkdir(exist_ok=True)
        protocol = result.protocol
        np.savez_compressed(
            folder / f"{result.name}.npz",
            scores=result.scores,
            same=protocol.same,
            folds=protocol.folds,
            identities=protocol.identities[protocol.pairs],
        )

    def _topology(self, run: Run) -> list[TopologySnapshot]:
        """H0 of input and latent space before and after training, on the same held-out images where there are any."""
        images = self._topology_images(run)
        return [
            topology_snapshot("before training", build_fresh_model(run.recipe), images),
            topology_snapshot("after training", run.model, images),
        ]

    def _topology_images(self, run: Run) -> np.ndarray:
        if self.protocols:
            held_out = self.protocols[0].images
            positions = np.unique(np.linspace(0, len(held_out) - 1, TOPOLOGY_IMAGES).astype(int))
            return np.stack([held_out[int(i)] for i in positions])
        positions = np.unique(np.linspace(0, len(run.source) - 1, TOPOLOGY_IMAGES).astype(int))
        return np.stack([run.source[int(i)][0] for i in positions])


def topology_snapshot(label: str, model: EmbeddingModel, images: np.ndarray) -> TopologySnapshot:
    """Sorted H0 deaths of pixels and embeddings of uint8 ``[n, 112, 112, 3]``, and how alike the two trees are."""
    pixels = torch.from_numpy(images)
    source = pixel_distances(pixel_squared_distances(pixels), images[0].size)
    latents = torch.from_numpy(model.embed(images))
    report = structure_report(source, latents)
    return TopologySnapshot(
        label=label,
        source_deaths=h0_deaths(source).numpy(),
        latent_deaths=h0_deaths(squared_distances(latents)).sqrt().numpy(),
        overlap=report.overlap,
        chance_overlap=report.chance_overlap,
    )
