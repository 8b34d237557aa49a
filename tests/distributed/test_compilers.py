"""`execution.compile = 'auto'` in two real processes."""

import re

import pytest

from tests.distributed import compilers
from tests.distributed.launching import finish, torchrun


@pytest.mark.distributed
def test_a_compiler_that_fails_in_one_process_leaves_all_of_them_eager():
    code, output = finish(torchrun("--nproc-per-node", 2, compilers.__file__))
    assert code == 0, output
    found = {(int(rank), name): (modes, chosen) for rank, name, modes, chosen in
             re.findall(r"rank (\d), (.*): (.*); (\w+)", output)}
    for name, case in compilers.CASES.items():
        assert found[0, name] == found[1, name]
        modes, chosen = found[0, name]
        assert modes == ("no, default" if case.broken_rank < 0 else "no")
        assert chosen in modes
