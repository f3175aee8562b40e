"""The main job in minutes on drawn faces: train ArcFace and TopoFR, judge both on people neither has seen."""

from pathlib import Path

from rich.console import Console

from topoface.errors import UserError
from topoface.evaluation import compare
from topoface.evaluation.report.page import ReportInput, write_report
from topoface.recipe.files import load_recipe
from topoface.training import RunResult, train
from topoface.training.judging import report_is_possible

TRAINING_FACES = "synthetic:?identities=160&images=10&seed=0"
UNSEEN_FACES = "synthetic:?identities=200&images=6&seed=0&first=100000&pairs=3000"
OVERRIDES = (
    f"data.train={TRAINING_FACES}",
    f'evaluation.pairs=["{UNSEEN_FACES}"]',
    "training.epochs=9",
    "training.batch_size=64",
)
MODELS = {"ArcFace": "arcface_small", "TopoFR": "topofr_small"}
OWN_FILES = {*MODELS, "report.html"}


def run_demo(folder: Path) -> bool:
    """Train the small recipes of ArcFace and TopoFR on drawn faces, and compare them.

    Args:
        folder: gets a run directory for each model and report.html about both; a demo that was stopped there goes on.

    Returns:
        False if CTRL-C stopped it.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= OWN_FILES):
        raise UserError("holds something else", str(folder), "give a new --folder")
    console = Console()
    runs: dict[str, RunResult] = {}
    for name, recipe in MODELS.items():
        console.rule(f"{name} ({len(runs) + 1} of {len(MODELS)})")
        run_dir = folder / name
        runs[name] = train(load_recipe(recipe, OVERRIDES), run_dir=run_dir, resume=run_dir.exists())
        if runs[name].interrupted:
            console.print("run the same command again to go on")
            return False
    if report_is_possible():
        entries = [run.judged for run in runs.values() if run.judged is not None]
        content = ReportInput(
            title="topoface demo",
            models=entries,
            data={"training faces": TRAINING_FACES, "unseen faces": UNSEEN_FACES},
            command="topoface demo",
        )
        write_report(folder / "report.html", content)
    _explain(console, runs, folder)
    return True


def _explain(console: Console, runs: dict[str, RunResult], folder: Path) -> None:
    """Say what the figures are, and what they are not."""
    console.rule("what came out")
    for name, run in runs.items():
        (verification,) = run.evaluations
        figure = verification.accuracy
        console.print(
            f"{name:8s} tells same from different in {figure.value:.1%} of 3,000 pairs of 200 unseen people "
            f"(95 % interval {figure.low:.1%} to {figure.high:.1%}); guessing gives 50 %.",
            highlight=False,
        )
    (arcface,), (topofr,) = (run.evaluations for run in runs.values())
    difference = compare(topofr, arcface)["accuracy"]
    verdict = "is real on these people" if difference.low > 0 or difference.high < 0 else "could be chance"
    console.print(
        f"The difference, {100 * difference.value:+.1f} points ({100 * difference.low:+.1f} to "
        f"{100 * difference.high:+.1f}), {verdict}. One seed on drawn faces: "
        "this shows that everything runs, not which method is better.",
        highlight=False,
    )
    for what, path in (("report", folder / "report.html"), ("model", folder / "TopoFR" / "model")):
        if path.exists():
            console.print(f"{what}: {path}", highlight=False, soft_wrap=True)
    console.print("next: topoface train topofr_small data.train=FOLDER_OF_IDENTITY_FOLDERS", highlight=False)
