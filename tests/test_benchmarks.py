"""What benchmarks count by themselves; what they time is not tested."""

import pathlib
import sys

import numpy as np

from jaxpt.losses import look

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

import neighbor_reads  # noqa: E402
import weak_scaling  # noqa: E402


PROGRAM = """
  %all-reduce = (f32[], f32[8]{0}, /*index=2*/s32[2,3]{1,0}) all-reduce(%a, %b, %c), channel_id=1
  ROOT %x.1 = bf16[4,16]{1,0} all-gather(%d), dimensions={0}
  %y = f32[9]{0} fusion(%all-reduce), kind=kLoop, calls=%all-gather.2
"""


def test_bytes_of_collectives_are_read_from_a_program():
    found = weak_scaling.bytes_of_collectives(PROGRAM)
    assert found == {
        "all-reduce": 4 + 32 + 24,
        "all-gather": 128,
        "all-to-all": 0,
        "reduce-scatter": 0,
        "collective-permute": 0,
    }


LOOPS = """
%fused (p.0: f32[8,1024], p.1: f32[2,1024]) -> f32[8,1024] {
  %p.0 = f32[8,1024]{1,0} parameter(0)
  %p.1 = f32[2,1024]{1,0} parameter(1)
  ROOT %update = f32[8,1024]{1,0} dynamic-update-slice(%p.0, %p.1, %i, %i)
}
%body (t: (f32[8,1024])) -> (f32[8,1024]) {
  %s = f32[8,1024]{1,0:T(8,128)} get-tuple-element(%t), index=0
  %sum = f32[8]{0} reduce(%s, %zero), dimensions={1}, to_apply=%add
}
%until_three (t: (s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}
%until_done (t: (pred[8])) -> pred[] {
  ROOT %any = pred[] fusion(%done), kind=kLoop, calls=%or
}
ENTRY %main (q: f32[2,1024], z: f32[1024,128]) -> f32[8] {
  %q = f32[2,1024]{1,0} parameter(0)
  %z = f32[1024,128]{1,0} parameter(1)
  %product = f32[8,1024]{1,0} fusion(%s.0, %q), kind=kLoop, calls=%fused
  %copy = f32[1024,128]{0,1} copy(%z)
  %fixed = (f32[8,1024]) while(%t), condition=%until_three, body=%body
  %free = (f32[8,1024]) while(%t), condition=%until_done, body=%body
}
"""


def test_reads_are_counted_as_often_as_loops_run_and_slices_as_slices():
    row = 4 * 1024
    reads, writes, keys_read, keys_written = neighbor_reads.Program(LOOPS, lambda _: 5).traffic()
    small = 4 * 8  # the sums
    assert writes == 2 * row + (3 + 5) * small
    assert reads == 2 * row + (3 + 5) * 8 * row
    assert keys_read == keys_written == 4 * 1024 * 128


def test_the_sketch_finds_the_neighbours_of_look():
    queries, keys = neighbor_reads.features("clusters", 8, 300)
    labels = np.random.default_rng(0).integers(4, size=308)
    arrays = queries, keys, labels[:8], labels[8:]
    expected, stats = look(*arrays, k=20, no_positive="drop")
    losses, (missing, purity) = neighbor_reads.sketch(*arrays, 20)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert missing.mean() == stats.no_positive and np.isclose(purity.mean(), stats.purity)
