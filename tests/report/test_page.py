"""The page as a file: whole, safe, within its size; and the command that makes it."""

import json
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dit.entry import one_line_errors
from dit.report import page
from dit.report.assemble import Report, assemble
from dit.report.figures import write_figures
from dit.report.sections import sections
from dit.report.words import interval, number, quantity, span
from dit.scores import Measure
from dit.statistics import Estimate
from scripts.report import default_out, main
from tests.report.fake import make_measures, make_previews, make_run

HOSTILE = """</script><script>hacked=1</script><img src=x onerror='hacked=1'>"&{{data}}{{"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds and another run, with curves, measures and videos."""
    root = tmp_path_factory.mktemp("runs")
    made = []
    for name, seed, lr in (("base-seed.0", 0, 0.01), ("base-seed.1", 1, 0.01), ("fast", 0, 0.1)):
        values = {"val/loss": [4 + seed, 3, 2, 1 + lr], "train/loss": [900, 50, 3, 1 + lr]}
        run = make_run(root / name, values, seed=seed, optim__lr=lr)
        make_previews(run, 20, 80 + 60 * seed)
        make_previews(run, 40, 90 + 60 * seed)
        make_measures(run, 0.5 + lr)
        made.append(run)
    return made


@pytest.fixture(scope="module")
def report(folders: list[Path]) -> Report:
    return assemble(folders, videos=24, say=lambda line: pytest.fail(line))


def test_errors_by_level_and_frame_are_a_heat_map(tmp_path: Path) -> None:
    """Each run's last step, of all clips and of each shape, raw weights too; shades grow with the error."""
    lines = ["step,name,value"]
    for step, factor in ((10, 9.0), (20, 1.0)):
        for group, more in (("val", 1.0), ("val_raw", 2.0)):
            for shape in ("", "_shape_1x32x32"):
                for level, error in ((0.9, 0.4), (0.1, 0.01)):
                    for frame in (1, 0):
                        name = f"{group}/x0_error_level_{level}_frame_{frame:02d}{shape}"
                        lines.append(f"{step},{name},{factor * more * error * (1 + frame)}")
    lines += ["20,val/x0_error_level_0.5_frame_00,nan", "20,val_raw/eps_error_level_0.1,3.0", "damaged", "30,cut"]
    run = make_run(tmp_path / "a", {"val/loss": [4, 3, 2, 1], "world/all": [0, 0, 0.5, 1]})
    (run / "details.csv").write_text("\n".join(lines))
    other = make_run(tmp_path / "b", {"val/loss": [4, 3, 2, 1]})
    made = assemble([run, other], videos=0, say=pytest.fail)
    averaged, of_shape, raw, _ = made.runs[0].levels
    assert (averaged.step, averaged.weights, averaged.shape) == (20, "averaged weights", "")
    assert (averaged.levels, averaged.frames) == ([0.1, 0.9], [0, 1])
    assert averaged.errors == [[0.01, 0.02], [0.4, 0.8]] and raw.errors == [[0.02, 0.04], [0.8, 1.6]]
    assert of_shape.shape == "1x32x32" and made.runs[1].levels == ()
    assert "world/all" in made.opened
    html = sections(made)["levels"]
    cells = re.findall(r'<td class="h(\d)" title="([\d.]+)">', html)
    assert len(cells) == 16
    in_order = sorted((float(error), int(shade)) for shade, error in cells)
    assert [shade for _, shade in in_order] == sorted(shade for _, shade in in_order)
    assert in_order[0] == (0.01, 0) and in_order[-1] == (1.6, 9)
    assert sections(assemble([other], videos=0, say=pytest.fail))["levels"] == ""


class Parts(HTMLParser):
    """Every tag of a page with its attributes, and the text of its scripts by their id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = (dict(attrs).get("id") or "script") if tag == "script" else ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self.scripts[self._within] = self.scripts.get(self._within, "") + data
        else:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def test_the_page_holds_all_that_it_shows(report: Report, tmp_path: Path) -> None:
    size = page.write(tmp_path / "r.html", report, 20_000_000, pytest.fail)
    text = (tmp_path / "r.html").read_text()
    made = Parts(text)
    assert size == len(text.encode()) < 2_000_000
    addresses = [
        value for _, attrs in made.tags for key, value in attrs.items() if key in ("src", "href", "action", "poster")
    ]
    assert addresses and all(value is not None and value.startswith("#") for value in addresses), "nothing is fetched"
    wanted = {attrs["data-clip"] for tag, attrs in made.tags if tag == "video"}
    assert set(json.loads(made.scripts["clips"])) == wanted and len(wanted) == 18
    curves = json.loads(made.scripts["data"])
    assert curves["groups"] == ["base", "fast"] and curves["members"] == [[0, 1], [2]]
    loss = next(each for each in curves["curves"] if each["metric"] == "val/loss")
    assert [line["run"] for line in loss["lines"]] == [None, 0, 1, 2] and loss["lines"][0]["value"] == [4.5, 3, 2, 1.01]
    said = " ".join(made.words)
    for word in (
        "base-seed.1",
        "optim.lr",
        "speed error (px/frame)",
        "Over training: fast",
        "a red circle moves right",
    ):
        assert word in said
    assert "{{" not in text


def test_what_runs_say_stays_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {HOSTILE.replace(",", ""): [1, 2, 3, 4]}, data__train=HOSTILE)
    other = make_run(tmp_path / "other", {"a": [1, 2, 3, 4]}, data__train="plain")
    (run / "history.jsonl").write_text(json.dumps({"event": "start", "command": HOSTILE, "commit": HOSTILE}) + "\n")
    make_previews(run, 10, prompts=[HOSTILE])
    file = make_measures(run)
    content = json.loads(file.read_text())
    content["metrics"] = {HOSTILE: {HOSTILE: 1.0}}
    content["clips"] = {HOSTILE: [{"file": clip.name, "reasons": [HOSTILE]} for clip in file.parent.glob("*.mp4")]}
    file.write_text(json.dumps(content))
    text = page.page(assemble([run, other], videos=9, say=pytest.fail), {}, live=False)
    made = Parts(text)
    assert sorted(tag for tag, _ in made.tags if tag in ("script", "img")) == ["script"] * 3
    assert not [key for _, attrs in made.tags for key in attrs if key.startswith("on")]
    assert " ".join(made.words).count("hacked=1") > 5, "it is there, as text"
    assert json.loads(made.scripts["data"])["curves"][0]["metric"] == HOSTILE


def test_only_the_page_s_own_script_may_run(report: Report) -> None:
    text = page.page(report, {}, live=False)
    policy = next(attrs["content"] for tag, attrs in Parts(text).tags if attrs.get("http-equiv"))
    assert (
        policy is not None and "unsafe" not in policy and "default-src 'none'" in policy and "connect-src" not in policy
    )
    script = Parts(text).scripts["script"]
    assert page._hash(script) in policy


def test_the_page_stays_below_its_size(report: Report, tmp_path: Path) -> None:
    said: list[str] = []
    bare = len(page.page(report, {}, live=False).encode())
    assert page.write(tmp_path / "r.html", report, bare + 12_000, said.append) <= bare + 12_000
    assert len(said) == 1 and re.match(r"\d+ of 18 videos have no room on the page", said[0])
    with pytest.raises(ValueError, match="without a video, more than max_mb=0.001"):
        page.write(tmp_path / "s.html", report, 1000, said.append)
    assert not (tmp_path / "s.html").exists()


def test_something_else_is_not_overwritten(report: Report, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>my notes</html>")
    with pytest.raises(ValueError, match="no page of scripts/report.py; move it away"):
        page.write(mine, report, 10**7, pytest.fail)
    assert mine.read_text() == "<html>my notes</html>"
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        page.check(tmp_path)
    again = tmp_path / "again.html"
    page.write(again, report, 10**7, pytest.fail)
    page.write(again, report, 10**7, pytest.fail)


def test_the_command_makes_what_it_can_and_says_what_it_cannot(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    asked = [*map(str, folders), "--out", str(out), "--videos", "6"]
    assert main([*asked, "--figures", str(tmp_path / "f")]) == 0 and (tmp_path / "f" / "measures.pdf").is_file()
    printed = capsys.readouterr()
    assert f"{out}: 3 runs in 2 groups," in printed.out and "note" not in printed.err
    assert main([*asked, str(tmp_path / "nowhere"), "--metrics", "val/loss,what"]) == 1
    printed = capsys.readouterr()
    notes = [line for line in printed.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and "nowhere is not there" in notes[0] and "no run has a metric what" in notes[1]
    assert f"{out}: 3 runs" in printed.out


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "the following arguments are required: runs"),
        (["RUN", "--what"], "unrecognized arguments: --what"),
        (["RUN", "--videos", "-1"], "--videos -1 must be at least 0"),
        (["RUN", "--max-mb", "nan"], "--max-mb nan must be from 0.5 to 1000"),
        (["RUN", "--port", "99999", "--watch"], "--port 99999 is none"),
        (["RUN", "--out", "RUN"], "is a folder; name a file in it"),
        (["RUN/none"], "none is not there, so it is left out"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, one_line_errors():
        main([each.replace("RUN", str(folders[0])) for each in arguments])
    errors = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(errors) == 1 and errors[0].startswith("error: ") and said in errors[0]


def test_a_page_that_followed_runs_is_written_when_it_is_stopped(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is no mistake: the exit code is 0, and the file is what a call without --watch writes."""

    def stopped(server: ThreadingHTTPServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", stopped)
    out = tmp_path / "page.html"
    assert main([str(folders[0]), "--watch", "--port", "0", "--videos", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"http://127.0.0.1:\d+/ follows the runs; Ctrl-C ends it and writes the page", printed)
    assert 'data-mode="file"' in out.read_text()


def test_where_the_page_goes_unless_said(folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = folders[0].parent
    assert default_out(folders[:1]) == folders[0] / "report.html"
    assert default_out([parent]) == default_out(folders) == parent / "report.html"
    assert default_out([folders[0], tmp_path]) == Path("report.html")


def test_figures_are_drawn_of_the_same_numbers(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    written = write_figures(tmp_path / "a", report)
    assert {path.name for path in written} == {
        *(f"{name}.{kind}" for name in ("val-loss", "train-loss", "measures") for kind in ("svg", "pdf")),
        "curves.csv",
    }
    for path in written:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        elif path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
    rows = (tmp_path / "a" / "curves.csv").read_text().splitlines()
    assert "val/loss,base,,10.0,4.5," in "\n".join(rows) and "val/loss,fast,fast,40.0,1.1,,,1.0" in rows
    one = replace(report, opened=["val/loss"], measures=[])
    assert {path.name for path in write_figures(tmp_path / "b", one)} == {"val-loss.svg", "val-loss.pdf", "curves.csv"}
    write_figures(tmp_path / "c", one, "seen/tokens")
    for kind in ("svg", "pdf"):
        first, again, along = ((tmp_path / folder / f"val-loss.{kind}").read_bytes() for folder in "abc")
        assert first == again != along, "the same figure is the same bytes"
    with pytest.raises(ValueError, match="axis=hours is none; there are step, seen/tokens"):
        write_figures(tmp_path / "d", report, "hours")


def test_numbers_as_one_reads_them() -> None:
    assert [number(x) for x in (0.08093, 12345, 1.2e-5, 0.0, 3.14159)] == [
        "0.08093",
        "12,345",
        "1.200e-05",
        "0",
        "3.142",
    ]
    assert [span(x) for x in (0.25, 59, 439, 7260, 90000)] == ["0.25 s", "59 s", "7 min 19 s", "2 h 1 min", "1 d 1 h"]
    assert [quantity(0.969, "share"), quantity(2.05e6, "tokens"), quantity(2.49e13, "FLOP")] == [
        "96.9 %",
        "2.05 M",
        "24.9 TFLOP",
    ]
    assert interval(Estimate(0.97, 0.893, 1.02, 3), "share") == "[89, 100]"
    assert interval(Estimate(0.5, 0.4, 0.6, 3), "") == "± 0.10" and interval(Estimate(1.0), "") == ""


def test_the_best_mean_is_bold_and_no_other(report: Report) -> None:
    html = sections(report)["measures"]
    assert re.findall(r"<b>([^<]+)</b>", html) == ["60.0 %"], "speed errors are equal, so none is the best"
    assert report.measures[0].kinds["shape"] == Measure("shape", "share", True)


def test_a_row_says_of_how_many_seeds_it_is(folders: list[Path], tmp_path: Path) -> None:
    """Also where some runs of a group are not measured yet."""
    late = make_run(tmp_path / "base-seed.2", {"val/loss": [4, 3, 2, 1]}, seed=2)
    made = sections(assemble([*folders, late], videos=0, say=pytest.fail))
    assert re.findall(r">([^<]* seeds)<", made["outcomes"] + made["measures"]) == ["3 seeds", "2 of 3 seeds"]


def test_an_interrupted_write_leaves_the_old_page(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.html"
    page.write(out, report, 10**7, pytest.fail)
    before = out.read_bytes()

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        page.write(out, report, 10**7, pytest.fail)
    assert out.read_bytes() == before and sys.getsizeof(before) > 1000 and len(list(tmp_path.iterdir())) == 1
