"""What benchmarks count by themselves; what they time is not tested."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

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
