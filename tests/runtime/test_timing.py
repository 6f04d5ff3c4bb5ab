"""Interleaved rounds and the GPU's frequency."""

from __future__ import annotations

from workbench.runtime.frequency import frequency_of, megahertz
from workbench.runtime.nvml import same_gpu
from workbench.runtime.rounds import STEADY_READINGS, interleave, settle


class Counted:
    """A candidate that writes down when it is asked."""

    def __init__(self, name: str, log: list[str], span: float = 1e-3, warm: float = 0.1):
        self.name, self.log, self.span, self.warm = name, log, span, warm

    def busy(self, seconds: float) -> None:
        self.log.append(f"{self.name} warm")

    def sample(self) -> float:
        self.log.append(self.name)
        return float(len(self.log))


def test_candidates_take_turns_each_warm_before_its_sample():
    log: list[str] = []
    found = interleave([Counted("a", log), Counted("b", log)], 2)
    assert log == ["a warm", "a", "b warm", "b"] * 2
    assert found == [[(2.0, None), (6.0, None)], [(4.0, None), (8.0, None)]]


def test_what_is_slow_takes_fewer_rounds_and_warms_itself():
    log: list[str] = []
    found = interleave([Counted("a", log), Counted("slow", log, span=0.4)], 5)
    assert [len(samples) for samples in found] == [5, 3] and "slow warm" not in log


def test_the_first_candidate_waits_for_a_steady_frequency():
    readings = [345.0, 900.0, 1500.0, 1980.0, 1975.0, 1980.0, 1980.0, 1980.0]
    log: list[str] = []
    ((sample,),) = interleave([Counted("a", log)], 1, iter(readings).__next__)
    assert log == ["a warm"] * 6 + ["a warm", "a"] and sample[1] == 1980.0
    drifting = iter(float(100 * step) for step in range(1, 1000))
    assert not settle(Counted("a", []), drifting.__next__)
    assert not settle(Counted("a", []), lambda: None)
    assert STEADY_READINGS == 3


def test_frequencies_are_read_from_nvidia_smi():
    table = "NVIDIA A100, 1410\nNVIDIA H200, 1980\n"
    assert (megahertz(table, "NVIDIA H200"), megahertz(table, "NVIDIA L4")) == (1980.0, None)
    assert megahertz("NVIDIA H200, [N/A]", "NVIDIA H200") is None
    assert same_gpu("NVIDIA H200", "H200") and not same_gpu("NVIDIA H200", "NVIDIA H100")
    assert frequency_of("llvmpipe (LLVM 15.0.6, 256 bits)") is None
