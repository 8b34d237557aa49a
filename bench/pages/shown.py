"""What all parts of one document are made of. No torch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from bench.judging.step_times import noise_of_machines
from bench.records.machines import Machine
from bench.records.rows import Results
from bench.records.side_records import Pairs, Turns


@dataclass(frozen=True, eq=False)
class Shown:
    results: Results
    names: Mapping[Machine, str]
    """M1, M2 ...: of every machine that the document names."""
    drawn: Collection[str] = ()
    """The figures there are, by their files."""
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The verdicts that rest on an experiment, by its name."""

    @property
    def noise(self) -> Mapping[Machine, Pairs]:
        """Between two runs, of the machines that were calibrated."""
        return noise_of_machines(self.results)

    def turns_of(self, experiment: str) -> list[Turns]:
        """Its cells timed in turns."""
        return [side for side in self.results.sides if isinstance(side, Turns) and side.experiment == experiment]
