"""The job files in examples/: what their schedulers and launchers would make of them."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from torch.distributed.run import get_args_parser
from typer.main import get_command

from daybreak import cli

EXAMPLES = Path(__file__).parents[1] / "examples"
DIRECTIVES = {  # long options of sbatch, as its manual lists them
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "open-mode",
}  # fmt: skip


def launched(arguments: list[str]) -> tuple[Any, list[str]]:
    """torchrun's options, and the words after `-m daybreak`, each read by its own parser."""
    launch = get_args_parser().parse_args(arguments)
    assert launch.module
    assert launch.training_script == "daybreak"
    verb, *words = launch.training_script_args
    with get_command(cli.app).commands[verb].make_context(verb, [*words], resilient_parsing=False):
        return launch, words


def test_slurm_runs_one_launcher_a_node(tmp_path: Path) -> None:
    """Under a scheduler that only notes what it is asked to run, with more nodes than a pipe takes at once."""
    for name, body in (("scontrol", "seq -f node%g 7 40000"), ("srun", 'printf "%s\\n" "$@" > words')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NAME": "daybreak", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "41"}
    env = os.environ | given | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", EXAMPLES / "slurm.sh"], cwd=tmp_path, env=env, check=True)
    torchrun, *arguments = (tmp_path / "words").read_text().splitlines()
    assert torchrun.endswith("torchrun")
    launch, words = launched(arguments)
    assert (launch.nnodes, launch.nproc_per_node, launch.rdzv_endpoint, launch.rdzv_id) == (
        "2",
        "8",
        "node7:29400",
        "41",
    )
    assert "--out" in words  # where a restart looks for the run


def test_slurm_asks_for_what_it_uses() -> None:
    text = (EXAMPLES / "slurm.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert asked.keys() <= DIRECTIVES
    assert asked["ntasks-per-node"] == "1"  # torchrun starts the others
    assert f"--nproc-per-node {asked['gpus-per-node']} " in text


@pytest.fixture
def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))


def test_kubernetes_takes_the_manifests(manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    manifests[1]["spec"]["completion"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests[1], "1.34", strict=True)


def test_the_pods_find_each_other(manifests: list[dict[str, Any]]) -> None:
    service, job = manifests
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    launch, words = launched(container["args"])
    assert container["command"] == ["torchrun"]
    assert int(launch.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(launch.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    name, port = launch.rdzv_endpoint.split(":")
    assert name == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert port == "29400"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    out = next(word.removeprefix("--out=") for word in words if word.startswith("--out="))
    assert any(out.startswith(mount["mountPath"]) for mount in container["volumeMounts"])


def test_the_job_files_are_shown_in_the_docs() -> None:
    page = (EXAMPLES.parent / "docs" / "scale.md").read_text()
    assert {name for name in ("slurm.sh", "kubernetes.yaml") if f"`examples/{name}`" in page} == {
        "slurm.sh",
        "kubernetes.yaml",
    }
    lines = re.findall(r"^torchrun ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        launched(shlex.split(line.replace("\\\n", " ")))
