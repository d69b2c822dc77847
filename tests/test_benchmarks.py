"""What benchmarks count by themselves; what they time is not tested."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

import plan  # noqa: E402


def test_the_plan_counts_resnet_50_as_everybody_does():
    net = plan.network(224, 128)
    assert net["flops"] == pytest.approx(2 * 4.1e9, rel=0.02)  # 4.1 billion multiply-adds
    projector = 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128
    assert net["parameters"] == 23_508_032 + projector  # torchvision's without its classifier
    # Of four times the pixels four times, but for the projector.
    assert plan.network(448, 128)["flops"] == pytest.approx(4 * net["flops"], rel=0.01)


def test_the_plan_of_one_chip_has_no_links_and_of_many_the_same_work():
    one, many = plan.step(1), plan.step(256)
    assert one["links"] == one["reduced"] == one["exchanged"] == 0
    assert many["arithmetic"] == one["arithmetic"] and many["traffic"] == one["traffic"]
    assert many["images"] < 256 * one["images"]
    # LOOK's products by hand: 64 · 256 queries, 1,281,167 / 256 keys each chip.
    hand = 6 * 2 * 64 * 1_281_167 * 128 / (0.5 * 197e12)
    assert many["search"] >= hand * 0.999


PROGRAM = """
  %all-reduce = (f32[], f32[8]{0}, /*index=2*/s32[2,3]{1,0}) all-reduce(%a, %b, %c), channel_id=1
  ROOT %x.1 = bf16[4,16]{1,0} all-gather(%d), dimensions={0}
  %y = f32[9]{0} fusion(%all-reduce), kind=kLoop, calls=%all-gather.2
"""


def test_bytes_of_collectives_are_read_from_a_program(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # which the module sets, for a process of its own
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    import weak_scaling
    found = weak_scaling.bytes_of_collectives(PROGRAM)
    assert found == {"all-reduce": 4 + 32 + 24, "all-gather": 128, "all-to-all": 0,
                     "reduce-scatter": 0, "collective-permute": 0}
