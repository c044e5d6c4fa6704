"""The worlds of configs/data/dataset: the same bytes on every machine, and in any order."""

import pytest
from test_world import digest
from world_settings import PRESETS, preset

from data.worlds.load import load, names

# As in test_world.py: a change here breaks every published number.
GOLDEN = {
    ("physics", 0): "32117dcca326bc0507f93edfd10c6735",
    ("physics", 1): "c6d161735126626c479aa3b1f7e374bd",
    ("physics", 2): "da98e4295d385720dbc79fb768b437f2",
    ("physics", 17): "61d184b079c891aeb932c3d3566f99be",
    ("occlusion", 0): "849dae8c1b2453c504cc788c2adcae45",
    ("occlusion", 1): "98173eee965080151588d08c60ed6f69",
    ("occlusion", 2): "5e27809a999e6a47b9db8ae7fc962ae1",
    ("occlusion", 17): "6c5955b9f867e2161b180c9cd8a3fe08",
    ("containers", 0): "5137d21fa744d373e0fe4d2c1c2dc590",
    ("containers", 1): "271321f047e8d79f7f1636d886867cef",
    ("containers", 2): "44644497b3beca76668b7c811aa071b8",
    ("containers", 17): "67134efe4d1f2462b9648536c9d29f11",
    ("camera", 0): "53a305a1cdddfa6dbd6c846fe72cfacc",
    ("camera", 1): "95991264a5237e1dabffde47e11eeadb",
    ("camera", 2): "58bf5b50113be620072adeff327f43f7",
    ("camera", 17): "048b09bf93fa908a9ab2ff4e1de94ba8",
    ("steered", 0): "f8c17eae4a94fd416046dc7bc4792a3a",
    ("steered", 1): "bef8c9471d39187b5116da1c3c543e6c",
    ("steered", 2): "0b5ce85ebf011692ffa677d0b1cb80fd",
    ("steered", 17): "0791e36496d26a3302d37e1b9ca0fd52",
    ("full", 0): "ccd962373257eb91982fe819eab79a37",
    ("full", 1): "f66bba2685252b1c168eeccf892adf07",
    ("full", 2): "dbf20383b79763db26da3e2937c8e2c1",
    ("full", 17): "67b16361925bed564162885c8d235df4",
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_same_bytes_on_every_machine(name: str) -> None:
    world = preset(name)
    found = {index: digest(world, index) for index in (17, 2, 1, 0)}
    assert found == {index: GOLDEN[name, index] for index in found}


def test_worlds_are_found_by_their_names() -> None:
    assert {f"world_{name}" for name in PRESETS} | {"world", "demo_world", "world_tiny"} == set(names())
    with pytest.raises(ValueError, match="there is no world physics; there are demo_world, world"):
        load("physics")
    with pytest.raises(ValueError, match="there is no world _world"):
        load("_world")
