"""The report: one page, no network, nothing unescaped, under 2 MB; in a real browser it fits a phone."""

import json
import re
import shutil
import sys

import numpy as np
import pytest

from tests.unit.evaluation.faces import embed, lfw_folder
from topoface.errors import UserError
from topoface.evaluation import open_protocol, verify
from topoface.evaluation.report.page import ModelEntry, ReportInput, TopologySnapshot, write_report

SNAPSHOT = TopologySnapshot(
    label="before training",
    source_deaths=np.linspace(1, 2, 31),
    latent_deaths=np.linspace(0.1, 0.4, 31),
    overlap=0.25,
    chance_overlap=0.06,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    protocol = open_protocol(lfw_folder(tmp_path_factory.mktemp("data") / "lfw", noise=90))
    rows = [
        {"step": s, "loss": 9 / (s + 1), "loss/class": 8 / (s + 1), "loss/alignment": 1 / (s + 1), "lr": 0.1}
        for s in range(200)
    ]
    rows += [{"step": s, "evaluation": {"lfw": {"accuracy": 0.5 + s / 1000}}} for s in (100, 199)]
    return [
        ModelEntry(
            name="TopoFR <b>&",
            verifications=[verify(embed, protocol, bootstrap=50)],
            metrics=rows,
            topology=[SNAPSHOT],
            settings="head: <script>alert(1)</script>",
            facts={"parameters": "1.1 M"},
        ),
        ModelEntry(name="Plain", verifications=[verify(lambda x: embed(x)[:, :9], protocol, bootstrap=50)]),
    ]


@pytest.fixture(scope="module")
def page(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "report.html"
    write_report(
        path, ReportInput(title="A <title>", models=models, data={"faces": "none"}, command="topoface demo")
    )
    return path


def test_the_page_is_one_file_without_network_or_script(page):
    text = page.read_text()
    assert page.stat().st_size < 500_000
    assert [p.name for p in page.parent.iterdir()] == ["report.html"]
    assert "<script" not in text
    assert "<title>A &lt;title&gt;</title>" in text
    assert "TopoFR &lt;b&gt;&amp;" in text
    namespaces = ("http://www.w3.org/", "http://purl.org/", "http://creativecommons.org/")
    assert all(url.startswith(namespaces) for url in re.findall(r"https?://[^\s\"'<]+", text))
    assert not re.search(r"\b(src|href)=\"(?!data:|#)", text.replace("xlink:", ""))


def test_the_page_says_what_was_reached_and_how_sure_that_is(page, models):
    text = " ".join(page.read_text().split())
    result = models[0].verifications[0]
    assert f"{100 * result.accuracy.value:.1f} %" in text
    assert f"95 % interval {100 * result.accuracy.low:.1f} to {100 * result.accuracy.high:.1f}" in text
    assert re.search(r"points (better|worse) \(interval", text)
    assert "This page shows real faces" in text
    assert "25.0 % of the tree edges are shared" in text
    assert "rests on 0 false accepts" in text
    for words in (
        "ROC",
        "Loss of the logged steps",
        "The term “alignment”",
        "Accuracy while training",
        "head: &lt;script",
    ):
        assert words in text
    faces = len(result.worst_accepts[:6] + result.worst_rejects[:6])
    assert text.count("data:image/jpeg;base64,") >= 2 * faces > 0


def test_the_same_input_gives_the_same_page(page, models, tmp_path):
    again = tmp_path / "report.html"
    write_report(
        again, ReportInput(title="A <title>", models=models, data={"faces": "none"}, command="topoface demo")
    )
    assert again.read_bytes() == page.read_bytes()


def test_a_report_without_anything_still_reads(tmp_path):
    write_report(tmp_path / "r.html", ReportInput(title="Nothing", models=[ModelEntry(name="untrained")]))
    text = (tmp_path / "r.html").read_text()
    assert "No verification protocol was judged" in text
    assert "This page shows real faces" not in text


@pytest.mark.parametrize("name", ["m$_$.onnx", "_m.onnx"])
def test_names_of_models_are_neither_formulas_nor_left_out_of_legends(name):
    from topoface.evaluation.report import plots

    line = np.arange(3.0), np.arange(3.0)
    drawn = plots.line_plot({name: line}, {name: "#000000"}, "loss")
    assert name in drawn


def test_figures_without_bootstrap_show_no_interval(models, tmp_path):
    protocol = models[0].verifications[0].protocol
    result = verify(embed, protocol, bootstrap=0)
    entries = [ModelEntry(name=name, verifications=[result]) for name in ("m", "other")]
    write_report(tmp_path / "r.html", ReportInput(title="T", models=entries))
    text = (tmp_path / "r.html").read_text()
    assert "The band is" not in text
    assert "points better (no interval)." in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower().split('<h2 id="meaning"')[0].replace(
        "finance", ""
    )


def test_metrics_are_read_from_the_runs_file_even_if_its_last_line_is_half(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        "\n".join(json.dumps({"step": s, "loss": 1.0}) for s in range(5)) + '\n{"step": 5, "lo'
    )
    model = ModelEntry(name="m", metrics=metrics)
    write_report(tmp_path / "r.html", ReportInput(title="T", models=[model]))
    assert "Loss of the logged steps" in (tmp_path / "r.html").read_text()
    metrics.write_text('{"step": 5, "lo\n{"step": 1}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:1: is no JSON"):
        write_report(tmp_path / "r.html", ReportInput(title="T", models=[model]))
    for damage in (b"\xff\xfe\n{}\n", b"[1]\n{}\n", b"{}\n{}\n"):
        metrics.write_bytes(damage)
        with pytest.raises(UserError, match=r"metrics.jsonl:1: is no JSON object with a step"):
            write_report(tmp_path / "r.html", ReportInput(title="T", models=[model]))
    metrics.unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be read"):
        write_report(tmp_path / "r.html", ReportInput(title="T", models=[model]))


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_an_absent_extra_says_how_to_install_it(package, models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'topoface\[report\]'"):
        write_report(tmp_path / "r.html", ReportInput(title="T", models=models))
    assert not list(tmp_path.iterdir())


def test_the_page_fits_a_phone_in_a_real_browser(page):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        for width in (390, 1280):
            view = browser.new_page(viewport={"width": width, "height": 800})
            complaints, requests = [], []
            view.on("console", lambda message: complaints.append(message.text))  # noqa: B023
            view.on("request", lambda request: requests.append(request.url))  # noqa: B023
            view.goto(page.as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") == width
            assert view.evaluate("[...document.images].every(i => i.naturalWidth == 112)")
            assert complaints == []
            assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
        browser.close()
