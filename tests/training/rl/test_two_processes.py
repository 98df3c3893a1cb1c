"""The example on two processes, under both launchers, against one process that holds the whole batch."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "data_parallel.py"
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"],
}  # fmt: skip


def one_process():
    spec = importlib.util.spec_from_file_location("data_parallel", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.learn(0, 1, micro_batches=1)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_and_micro_batches_choose_and_learn_as_one(launcher, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", *LAUNCHERS[launcher], port, str(EXAMPLE), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HARTLEY_KERNELS": "reference"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found.pop("processes") == 2
    expected = one_process()
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        exact = {} if name == "STEER" else {"abs": 0}
        for update, wanted in zip(found[name]["chosen"], want["chosen"], strict=True):
            for got, row in zip(update, wanted, strict=True):
                assert got == pytest.approx(row, **exact)
        assert found[name]["coefficients"] == pytest.approx(want["coefficients"], rel=1e-5)
        assert found[name]["weights"] == pytest.approx(want["weights"], abs=1e-5)
        assert any(1.0 in row for rows in want["chosen"] for row in rows), "nothing was chosen: the test says nothing"
