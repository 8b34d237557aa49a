"""Which records stand for others."""

from msgspec.structs import replace

from bench.record import Environment, SpeedRecord
from bench.records.identity import newest

HERE = Environment(host="a", device="cpu", cpu="A CPU", num_cpus=2, num_threads=1, libraries={"torch": "2.14"})
FAILED = SpeedRecord(experiment="e", speed_key="1", cell={"model": {"name": "cnn"}}, environment=HERE, status="oom",
                     started_at="2026-01-01T00:00:00+00:00")
MENDED = replace(FAILED, speed_key="2", status="ok", started_at="2026-01-02T00:00:00+00:00",
                 environment=replace(HERE, libraries={"torch": "2.15"}))


def test_a_failed_timing_ends_with_a_later_one_of_its_cell_by_a_newer_torch():
    assert newest([FAILED, MENDED]) == [MENDED]


def test_a_failed_timing_stays_beside_whatever_does_not_take_its_place():
    others = [replace(MENDED, started_at="2025-01-01T00:00:00+00:00"), replace(MENDED, repeat=1),
              replace(MENDED, cell={"model": {"name": "network1"}}), replace(MENDED, status="error"),
              replace(MENDED, environment=replace(HERE, host="b")),
              replace(MENDED, environment=replace(HERE, device="A GPU"))]
    for other in others:
        assert {one.speed_key for one in newest([FAILED, other])} == {"1", "2"}, other
