"""The server of a page that follows runs: what it answers, to whom, and that it waits for a run that is to come."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dit.report.assemble import assemble
from dit.report.live import Live, server
from tests.report.fake import make_previews, make_run


@contextmanager
def serving(live: Live) -> Iterator[int]:
    with server(live, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made.server_address[1]
        finally:
            made.shutdown()
            thread.join()


def ask(port: int, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def following(*runs: Path, every: float = 0.0) -> Live:
    clock = iter(range(10**6))
    return Live(lambda: assemble(runs, videos=9, say=lambda line: None), every, lambda: float(next(clock)))


def test_it_waits_for_a_run_and_then_follows_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with serving(following(run)) as port:
        status, body, _ = ask(port, "/")
        assert status == 200 and b"There is no run yet" in body and b"refresh" in body and b"is not there" in body
        assert json.loads(ask(port, "/state")[1])["stamp"] == ""
        make_run(run, {"train/loss": [4, 3, 2, 1]})
        first = json.loads(ask(port, "/state")[1])
        assert first["data"]["curves"][0]["lines"][0]["value"] == [4, 3, 2, 1]
        assert b'data-mode="live"' in ask(port, "/")[1]
        with (run / "metrics.csv").open("a") as file:
            file.write("50,0.5,5000,100\n60,0.2")  # the last row is being written
        second = json.loads(ask(port, f"/state?seen={first['stamp']}")[1])
        assert second["data"]["curves"][0]["lines"][0]["value"] == [4, 3, 2, 1, 0.5]
        (run / "config.yaml").unlink()  # a folder that is moved away costs nothing of what was seen
        assert json.loads(ask(port, "/state")[1])["data"]["curves"][0]["lines"][0]["value"][-1] == 0.5


def test_an_unchanged_state_is_its_stamp_alone(tmp_path: Path) -> None:
    live = following(make_run(tmp_path / "run", {"train/loss": [4, 3, 2, 1]}), every=100.0)
    state = live.state("")
    assert live.state(state["stamp"]) == {"stamp": state["stamp"]}


def test_videos_come_whole_and_in_parts_and_nothing_else_does(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"train/loss": [4, 3, 2, 1]})
    make_previews(run, 10)
    live = following(run)
    with serving(live) as port:
        ask(port, "/")
        name = next(iter(live._clips))
        status, whole, about = ask(port, f"/clip/{name}")
        assert (status, about["Content-Type"], whole[:4]) == (200, "video/webm", b"\x1aE\xdf\xa3")
        status, part, about = ask(port, f"/clip/{name}", Range="bytes=10-19")
        assert (status, part, about["Content-Range"]) == (206, whole[10:20], f"bytes 10-19/{len(whole)}")
        assert ask(port, f"/clip/{name}", Range="bytes=100-")[1] == whole[100:]
        for path in (
            "/clip/none",
            "/../config.yaml",
            "/config.yaml",
            "/clip/../../run/config.yaml",
            "/clip//etc/passwd",
        ):
            assert ask(port, path)[0] == 404


def test_a_page_of_another_site_hears_nothing(tmp_path: Path) -> None:
    with serving(following(make_run(tmp_path / "run", {"secret": [1, 2, 3, 4]}))) as port:
        for path in ("/", "/state"):
            status, body, _ = ask(port, path, Host="evil.example")
            assert status == 403 and b"secret" not in body
        assert ask(port, "/", Host=f"localhost:{port}")[0] == 200


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with (
        serving(following(tmp_path)) as port,
        pytest.raises(ValueError, match=f"port={port} cannot be listened on: .*; choose another port, 0 for any"),
    ):
        server(following(tmp_path), "127.0.0.1", port)
