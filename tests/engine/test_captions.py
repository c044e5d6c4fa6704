"""What is known of captions before the first step, and of a text encoder whose size has changed since a run began."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from data.batch import CaptionedClips
from dit.config.build import build
from dit.engine import captions, rundir
from dit.text.bytes import ByteEncoder
from tests.engine import runs
from tests.engine.told import Told


@pytest.fixture
def encoder() -> ByteEncoder:
    return ByteEncoder(width=8, depth=0, heads=1, max_bytes=10, ngrams=[], buckets=1)


def test_long_captions_are_counted_before_the_first_step(
    encoder: ByteEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    captions.report_long(Told("x" * 10, "", "ü" * 5), encoder)
    captions.report_long(Told("x" * 11), None)
    captions.report_long([1, 2], encoder)
    assert not caplog.records
    captions.report_long(Told("short", "x" * 11, "ü" * 9), encoder)
    (said,) = caplog.records
    assert said.getMessage().startswith("2 of 3 captions are longer than the text encoder reads")
    assert "the longest has 18 bytes" in said.getMessage()


def test_prompts_of_previews_are_captions_spread_over_the_clips() -> None:
    assert captions.some(Told(*(f"clip {i // 2}" for i in range(40)))) == ["clip 0", "clip 5", "clip 10", "clip 15"]
    assert captions.some(Told("", "a cat", "")) == ["a cat"]
    assert captions.some(Told("", "")) == [""]
    with pytest.raises(ValueError, match="preview.prompts=null"):
        captions.some([1, 2])


def test_a_world_is_no_list_of_captions() -> None:
    """It is asked for none: whatever has `captions` is taken for a list that knows them without decoding."""
    world = runs.config()["data"]["train"]
    assert not isinstance(build(world), CaptionedClips)


def test_a_run_keeps_the_length_of_prompts_that_it_began_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The default has grown since: the same command goes on, with weights of the size that its checkpoint holds."""
    text = {"_target_": "dit.text.bytes.ByteEncoder", "width": 8, "max_bytes": 511}
    now = {"text": text, "seed": 0}
    assert rundir.as_begun(tmp_path, now) is now
    (tmp_path / rundir.CONFIG).write_text(yaml.safe_dump({"text": {**text, "max_bytes": 127}, "seed": 0}))
    kept = rundir.as_begun(tmp_path, now)
    assert kept == {"text": {**text, "max_bytes": 127}, "seed": 0} and now["text"]["max_bytes"] == 511
    assert rundir.differences(rundir.config_of(tmp_path) or {}, kept) == []
    assert "keeps text.max_bytes=127" in caplog.text
    assert rundir.as_begun(tmp_path, {"text": None})["text"] is None
    (tmp_path / rundir.CONFIG).write_text("- no\n- mapping\n")
    with pytest.raises(ValueError, match="config.yaml holds no mapping"):
        rundir.as_begun(tmp_path, now)


def test_a_longer_table_of_positions_reads_short_prompts_as_before(encoder: ByteEncoder) -> None:
    longer = ByteEncoder(width=8, depth=0, heads=1, max_bytes=20, ngrams=[], buckets=1)
    weights = encoder.state_dict()
    longer.load_state_dict({**weights, "position": torch.cat([weights["position"], longer.position[11:]])})
    assert torch.equal(longer(["a cat"])["text"], encoder(["a cat"])["text"])
