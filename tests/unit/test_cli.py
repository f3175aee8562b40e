"""The command line: quick help, one-line mistakes, and exit codes that scripts can trust."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import topoface
from topoface import cli
from topoface.errors import UserError
from topoface.recipe import Recipe
from topoface.recipe.schema import flatten, options_of

RECIPE = "data: {train: faces}\nhead: ArcFace\n"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small recipe in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("# What it is for\n" + RECIPE)
    return tmp_path / "mine.yaml"


def topoface_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "topoface", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["study", "--help"], ["recipes"]]
)
def test_help_needs_neither_torch_nor_numpy(arguments: list[str]) -> None:
    code = (
        "import sys; from topoface.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "[]\n"
    assert done.stdout


def test_the_help_of_train_lists_every_field_with_type_default_and_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    options = list(flatten(options_of(Recipe).values()))
    assert [option.path for option in options if f"  {option.path}: " not in text] == []
    assert [option.path for option in options if not option.text] == []
    assert "  optimizer.lr: float = 0.1\n      Peak learning rate." in text
    assert '  optimizer.name: sgd | adamw = "sgd"' in text
    assert "  data.train: str (required)" in text
    assert "head.init_args.margin=0.4" in text


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"topoface {topoface.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "topoface: the following arguments are required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "topoface train: the following arguments are required: RECIPE"),
        (["train", "none.yaml"], "none.yaml: there is no such recipe"),
        (["train", "mine.yaml", "optimizer.lrr=1"], "optimizer.lrr=1: unknown key; did you mean optimizer.lr?"),
        (["train", "mine.yaml", "--optimizer.lr=x"], 'optimizer.lr=x: found "x" where float is expected'),
        (["train", "mine.yaml", "--resum"], "--resum: not an override"),
        (["train", "mine.yaml", "--quiet", "batch_size=1"], "batch_size=1: unknown key; did you mean training.batch_size?"),
        (["train", "mine.yaml", "head=ArcFase"], "head=ArcFase: head.class_path: there is no class 'ArcFase'; did you mean ArcFace?"),
        (["train", "mine.yaml", "head.init_args.margn=1"], "head.init_args.margn=1: unknown key; did you mean head.init_args.margin?"),
        (["train", "mine.yaml", "methods=[TopoFR, TopoFP]"], "methods.1.class_path: there is no class 'TopoFP'"),
        (["train", "mine.yaml"], "faces"),
        (["evaluate", "model"], "the following arguments are required: PROTOCOL"),
        (["evaluate", "model", "lfw", "--bootstrap", "-1"], "--bootstrap: is -1; give 0"),
        (["evaluate", "model", "lfw", "--bootstrap", "x"], "argument --bootstrap: invalid int value: 'x'"),
        (["evaluate", "model", "lfw", "--flip"], "topoface evaluate: unknown argument --flip; see topoface evaluate --help"),
        (["recipes", "show"], "topoface recipes show: NAME is missing"),
        (["recipes", "show", "nothing"], "nothing: there is no such recipe"),
        (["recipes", "help", "Nothing"], "Nothing: there is no class 'Nothing'; known: ArcFace"),
        (["data", "info", "nowhere"], "nowhere"),
        (["study", "none.yaml"], "none.yaml: cannot be read (No such file or directory)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("topoface: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_process_shows_no_traceback_and_no_usage(recipe: Path) -> None:
    done = topoface_process("train", str(recipe), "optimizer.lr=fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        'topoface: error: optimizer.lr=fast: found "fast" where float is expected; the default is 0.1\n'
    )
    assert [path.name for path in recipe.parent.iterdir()] == ["mine.yaml"]  # nothing half-written


class Result:
    """What train gives back."""

    judged: None = None

    evaluations: list[Any] = []  # noqa: RUF012

    def __init__(self, interrupted: bool) -> None:
        self.interrupted = interrupted


def test_train_passes_on_recipe_folder_and_switches(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Recipe, dict[str, Any]]] = []

    def train(given: Recipe, **options: Any) -> Result:
        calls.append((given, options))
        return Result(interrupted=len(calls) == 2)

    monkeypatch.setattr("topoface.training.train", train)
    # Overrides may stand anywhere and begin with --.
    assert (
        cli.main(
            ["train", "mine.yaml", "training.seed=3", "--quiet", "--optimizer.lr=0.5", "methods=[TopoFR]"]
        )
        == 0
    )
    given, options = calls[0]
    assert (given.training.seed, given.optimizer.lr, given.methods[0].class_path) == (3, 0.5, "TopoFR")
    usual = {"accept_changes": False, "timeout_s": 600.0}
    assert options == {"run_dir": Path("runs/mine"), "resume": False, "quiet": True, **usual}
    assert (
        cli.main(["train", "mine.yaml", "--run-dir", "there", "--resume"]) == 130
    )  # stopped by CTRL-C, and saved
    assert calls[1][1] == {"run_dir": Path("there"), "resume": True, "quiet": False, **usual}


def test_what_training_refuses_names_the_file_or_override(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: Any, **__: Any) -> Result:
        raise UserError("is 'cuda' but no GPU is usable here", "training.device", "use training.device=cpu")

    monkeypatch.setattr("topoface.training.train", train)
    assert cli.main(["train", "mine.yaml", "training.device=cuda"]) == 2
    assert "error: training.device=cuda: is 'cuda' but no GPU is usable here; use" in capsys.readouterr().err
    (recipe.parent / "mine.yaml").write_text(RECIPE + "training: {device: cuda}")
    assert cli.main(["train", "mine.yaml"]) == 2
    assert "error: mine.yaml: training.device: is 'cuda' but" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_exit_code_130(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: Any, **__: Any) -> Result:
        raise KeyboardInterrupt

    monkeypatch.setattr("topoface.training.train", train)
    assert cli.main(["train", "mine.yaml"]) == 130
    assert capsys.readouterr().err == "topoface: interrupted\n"


def test_ctrl_c_while_the_command_is_imported_is_one_line_too() -> None:
    code = (
        "import sys\n"
        "class Slow:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'topoface.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from topoface.__main__ import run\n"
        "sys.exit(run())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "topoface: interrupted\n")


def test_what_users_name_is_printed_as_they_named_it(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from topoface.cli.output import image_progress, plain_console

    table = Table(title="p[old]")
    table.add_column("[/age]")
    table.add_row("[/]")
    plain_console().print(table)
    said = capsys.readouterr().out
    assert all(name in said for name in ("p[old]", "[/age]", "│ [/] "))
    with image_progress() as bar:
        bar.add_task("[/]", total=1)


def test_a_probability_that_rounds_to_certainty_is_printed() -> None:
    from topoface.cli.compare import _probability

    assert [_probability(p) for p in (0.0, 0.25, 1.0)] == ["0.00000000 %", "25.0 %", "100.00000000 %"]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)  # as if head had read its lines and gone
    command = [sys.executable, "-m", "topoface", "recipes"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_recipes_are_listed_with_their_first_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "topoface.recipe.files.shipped_recipes", lambda: {"mine": recipe, "sub/other": recipe}
    )
    assert cli.main(["recipes"]) == 0
    assert capsys.readouterr().out == "mine       What it is for\nsub/other  What it is for\n"
    assert cli.main(["recipes", "show", "mine"]) == 0
    assert capsys.readouterr().out == "data:\n  train: faces\nhead:\n  class_path: ArcFace\n"


def test_the_arguments_of_a_class_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "help", "TopoFR"]) == 0
    text = capsys.readouterr().out
    assert (
        '  isa.form: paired | sorted | wasserstein1 | bottleneck | random = "paired"\n      What is compared'
        in text
    )
    assert "presets: ours, mild, paper, release" in text


def test_a_class_beside_the_recipe_is_found(recipe: Path) -> None:
    (recipe.parent / "my_head_here.py").write_text(
        "from topoface.heads import CosFace\n"
        "class MyHead(CosFace):\n"
        "    def __init__(self, embedding_dim, num_classes, *, extra: int = 3, **kwargs):\n"
        "        super().__init__(embedding_dim, num_classes, **kwargs)\n"
    )
    code = "import sys; from topoface.cli import main; sys.path.remove(''); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "recipes", "help", "my_head_here.MyHead"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=recipe.parent, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  extra: int = 3\n" in done.stdout
    assert "  margin: float = 0.4\n" in done.stdout


def test_data_info_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "info", "synthetic:?identities=3&images=4"]) == 0
    assert "identities    3\n" in capsys.readouterr().out


def test_evaluate_prints_figures_and_writes_json_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from topoface.models import build_model, save

    save(build_model("iresnet_tiny", dimension=16, seed=0), tmp_path / "model")
    protocol = "synthetic:?identities=20&images=2&pairs=20"
    files = ["--json", str(tmp_path / "out.json"), "--report", str(tmp_path / "out.html")]
    assert cli.main(["evaluate", str(tmp_path / "model"), protocol, "--bootstrap", "10", *files]) == 0
    said = capsys.readouterr()
    assert "accuracy" in said.out
    assert "tar@0.01" in said.out
    assert (tmp_path / "out.json").read_text().startswith("[")
    assert "<html" in (tmp_path / "out.html").read_text()
    missing = str(tmp_path / "none" / "out.json")
    assert (
        cli.main(["evaluate", str(tmp_path / "model"), protocol, "--bootstrap", "0", "--json", missing]) == 2
    )
    assert f"{missing}: is in no folder that exists" in capsys.readouterr().err
