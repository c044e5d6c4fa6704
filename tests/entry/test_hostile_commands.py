"""Every command that opens a stranger's run: whatever its config holds, nothing runs; a refusal is one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import cycle
from pathlib import Path

import pytest
import torch
import yaml

from dit.entry import explain
from tests.hostile import attacks, replaced, watched
from tests.sampling.test_hostile_checkpoints import config, weights

PLACES = ("net.norm", "text", "path", "prediction", "levels", "sampling.solver", "data.val", "optim", "preview")
RUNS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess", "pty.", "pickle", "socket.")
SMALL = ("experiment=demo", "net.width=24", "net.depth=2", "net.heads=2", "text.width=16", "net.text_width=16")
TRAIN = ("train.py", *SMALL, "logger=none", "trainer.accelerator=cpu", "data.num_workers=0")
COMMANDS = {
    "sampled": ("sample.py", "ckpt=runs/bad", "prompt=a", "device=cpu"),
    "evaluated": ("scripts/evaluate.py", "ckpt=runs/bad", "device=cpu"),
    "converted": ("scripts/convert_weights.py", "runs/bad", "out"),
    "gone on with": (*TRAIN, "name=bad"),
    "first weights": (*TRAIN, "name=mine", "init_from=runs/bad", "show=true"),
}
TAKES_NO_CONFIG = "first weights"


@pytest.mark.parametrize("opened", COMMANDS)
def test_nothing_of_a_strangers_run_runs(
    opened: str, command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = attacks(tmp_path / "sentinel")
    chosen = zip(PLACES, cycle(["resolver", "functions that compose", "function that writes"]), strict=False)
    own = {**config(), "lora": None, "name": "bad"}
    hostile = reduce(lambda node, at: replaced(node, at[0], every[at[1]]), chosen, own)
    run = tmp_path / "runs" / "bad"
    (run / "checkpoints").mkdir(parents=True)
    content = {"state_dict": weights(), "ema": {}, "config": hostile, "global_step": 3, "rng": [0]}
    torch.save(content, run / "checkpoints" / "last.ckpt")
    (run / "config.yaml").write_text(yaml.safe_dump(hostile))
    said = ""
    with watched() as seen:
        try:
            command(*COMMANDS[opened])
        except SystemExit as end:
            assert end.code == 2
            said = capsys.readouterr().err
        except Exception as error:
            said = f"error: {explain(error)}\n"
    assert not [each for each in seen if each.startswith(RUNS)], seen
    assert not (tmp_path / "sentinel").exists()
    if opened == TAKES_NO_CONFIG:
        assert said == ""
    else:
        assert said.count("error: ") == 1 and said.count("\n") == 1 and "bad" in said, said
