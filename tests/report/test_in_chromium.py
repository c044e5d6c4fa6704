"""The page in a browser: no error, no question to the network, every video plays, curves answer to what is pressed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dit.report import page
from dit.report.assemble import assemble
from dit.report.live import Live, server
from tests.report.chromium import Chromium, program
from tests.report.fake import make_measures, make_previews, make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]

# Plays each video until two different frames were shown, and says what stands in its middle: [key, red, width].
PLAYED = """(async () => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const made = [];
  for (const video of document.querySelectorAll("video[data-clip]")) {
    video.scrollIntoView({ block: "center" });
    await new Promise((done, fail) => {
      video.addEventListener("error", () => fail(new Error(`${video.dataset.clip}: ${video.error?.message}`)));
      const shown = new Set();
      const frame = (_, about) => {
        shown.add(about.mediaTime);
        if (shown.size < 2) return video.requestVideoFrameCallback(frame);
        canvas.drawImage(video, 0, 0, 8, 8);
        made.push([video.dataset.clip, canvas.getImageData(4, 4, 1, 1).data[0], video.videoWidth]);
        done();
      };
      video.requestVideoFrameCallback(frame);
    });
  }
  return made;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


def test_four_runs_and_their_videos(browser: Chromium, tmp_path: Path) -> None:
    """Each video shows what its file shows: their reds are those of their places."""
    runs = []
    for place, (name, seed, lr) in enumerate((("a0", 0, 0.1), ("a1", 1, 0.1), ("a2", 2, 0.1), ("b", 0, 0.2))):
        values = {"val/loss": [4 + seed, 3, 2, 1 + lr], "train/loss": [900, 50, 3, 1 + lr]}
        run = make_run(tmp_path / name, values, seed=seed, optim__lr=lr)
        for step in (10, 40):
            make_previews(run, step, 60 + 40 * place + step // 2, prompts=["one", "two", "<b>three</b>"])
        make_measures(run, 0.5 + lr)
        runs.append(run)
    report = assemble(runs, videos=64, say=pytest.fail)
    page.write(tmp_path / "page.html", report, 20_000_000, pytest.fail)
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("document.documentElement.dataset.ready === '1'")

    played = browser.run(PLAYED)
    clips = page.shown_clips(report)
    assert {key for key, *_ in played} == set(clips) and len(clips) == 32
    for key, red, width in played:
        clip = clips[key]
        wanted = 200 if clip.step == 40 and not clip.preview else None
        if wanted is None:
            place = ("a0", "a1", "a2", "b").index(clip.file.parents[2].name)
            wanted = 60 + 40 * place + (clip.step or 0) // 2 + 10 * int(clip.seed)
        assert abs(red - wanted) <= 6 and width == clip.width, (clip, red, width)
    assert browser.wrong == [] and browser.run("window.hacked === undefined")
    assert all(address.startswith(("file:", "blob:", "data:")) for address in browser.asked), browser.asked


@pytest.fixture
def curves(browser: Chromium, tmp_path: Path) -> Chromium:
    """A page of two groups, one of three seeds, open."""
    runs = [
        make_run(tmp_path / name, {"val/loss": [9 + seed, 5, 3 + seed, 2]}, seed=seed, optim__lr=lr)
        for name, seed, lr in (("a0", 0, 0.1), ("a1", 1, 0.1), ("a2", 2, 0.1), ("b", 0, 0.2))
    ]
    page.write(tmp_path / "page.html", assemble(runs, videos=9, say=pytest.fail), 10**7, pytest.fail)
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("document.documentElement.dataset.ready === '1'")
    return browser


def count(browser: Chromium, what: str) -> int:
    found = browser.run(f"document.querySelectorAll({what!r}).length")
    assert isinstance(found, int)
    return found


def test_curves_answer(curves: Chromium) -> None:
    paths = {kind: count(curves, f".chart path.{kind}") for kind in ("mean", "band", "seed", "run")}
    assert paths == {"mean": 1, "band": 1, "seed": 3, "run": 1}
    curves.run("document.querySelector('#seeds').click()")
    assert curves.run("document.querySelector('nav a[href=\"#videos\"]').hidden"), "there are none"
    assert count(curves, ".chart path.seed") == 0 and count(curves, ".chart path.mean") == 1
    curves.run("document.querySelector('#legend button').click()")
    assert count(curves, ".chart path") == 1 and count(curves, ".chart path.run") == 1
    before = curves.run("document.querySelector('.chart path').getAttribute('d')")
    ticks = curves.run("[...document.querySelectorAll('.chart text')].map((t) => t.textContent)")
    curves.run("document.querySelector('#along').value = 'seen/tokens';"
               "document.querySelector('#along').dispatchEvent(new Event('change'))")  # fmt: skip
    assert curves.run("document.querySelector('.chart path').getAttribute('d')") == before, "tokens are 100 a step"
    assert curves.run("[...document.querySelectorAll('.chart text')].map((t) => t.textContent)") != ticks
    curves.run("document.querySelector('#scale').value = 'log';"
               "document.querySelector('#scale').dispatchEvent(new Event('change'))")  # fmt: skip
    assert curves.run("document.querySelector('.chart path').getAttribute('d')") != before
    assert curves.wrong == []


def test_the_pointer_reads_mean_and_interval(curves: Chromium) -> None:
    curves.run("document.querySelector('.chart').scrollIntoView({ block: 'center' })")
    x, y = curves.run("(() => { const box = document.querySelector('.chart svg').getBoundingClientRect();"
                      " return [box.left + box.width * 0.98, box.top + 60]; })()")  # fmt: skip
    curves.move(x - 20, y)
    curves.move(x, y)
    curves.wait("!document.querySelector('.tip').hidden")
    said = curves.run("document.querySelector('.tip').innerText")
    assert "step 40" in said and "a: 2 [2, 2], 3 seeds" in said and "b: 2" in said


def test_a_live_page_follows_a_run(browser: Chromium, tmp_path: Path) -> None:
    """It shows what comes: a row, another preview, another run; and says when nobody answers any more."""
    run = make_run(tmp_path / "run", {"train/loss": [4, 3, 2, 1]})
    live = Live(lambda: assemble([tmp_path], videos=32, say=lambda line: None), 0.1, time.monotonic)
    with server(live, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            browser.open(f"http://127.0.0.1:{made.server_address[1]}/")
            browser.wait("document.querySelectorAll('.chart path').length === 1")
            assert browser.run("document.querySelector('#videos').hidden")
            with (run / "metrics.csv").open("a") as file:
                file.write("50,0.5,5000,100\n")
            browser.wait("data.curves[0].lines[0].value.at(-1) === 0.5")
            make_previews(run, 50, 120)
            browser.wait("document.querySelectorAll('video[data-clip]').length === 2")
            reds = [red for _, red, *_ in browser.run(PLAYED)]
            assert abs(reds[0] - 120) <= 6 and abs(reds[1] - 130) <= 6
            assert not browser.run("document.querySelector('#videos').hidden")
            make_run(tmp_path / "second", {"train/loss": [5, 4, 3, 2]}, optim__lr=3)
            browser.wait("document.querySelectorAll('.chart path').length === 2")
            assert count(browser, "#differences td code") == 2
            assert browser.wrong == []
        finally:
            made.shutdown()
            thread.join()
    browser.wait("document.querySelector('#status.lost') !== null")
    assert browser.run("document.querySelectorAll('.chart path').length === 2"), "what was seen stays"


def test_a_video_that_cannot_be_shown_leaves_the_page_whole(browser: Chromium, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"train/loss": [4, 3, 2, 1]})
    make_previews(run, 10)
    report = assemble([run], videos=9, say=pytest.fail)
    first, second = page.encoded(report, 10**7, pytest.fail).items()
    (tmp_path / "page.html").write_text(page.page(report, {first[0]: b"spoiled", second[0]: second[1]}, live=False))
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("document.querySelectorAll('video.broken').length === 1")
    browser.wait("[...document.querySelectorAll('video:not(.broken)')].every((v) => v.currentTime > 0)")
    assert count(browser, "video") == 2
