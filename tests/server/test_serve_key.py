"""`serve` with keys of its own and of the user, and `deploy` that finds or is given them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc
from support.artifacts import scale
from support.serving import processes_of, triton_of
from tritonclient.utils import InferenceServerException

from builder.publishing import install
from builder.repository import Repository

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GIVEN = "given by the user"


@dataclass(frozen=True, slots=True)
class Serving:
    """A `python -m builder serve` that is ready: its process, what it printed about the key, and its gRPC address."""

    process: "subprocess.Popen[str]"
    header: str
    key_file: Path
    grpc_address: str

    @property
    def key(self) -> str:
        return str(json.loads(self.key_file.read_text())["key"])

    def command_lines(self) -> str:
        """The arguments of the command, of its Triton and of all processes of that."""
        own = Path(f"/proc/{self.process.pid}/cmdline").read_text()
        return own + "\n".join(" ".join(command) for command in processes_of(triton_of(self.process.pid)).values())

    def is_loaded_with(self, headers: Mapping[str, str]) -> bool:
        with tritonclient.grpc.InferenceServerClient(self.grpc_address) as client:
            try:
                client.load_model("scale", headers=headers)
            except InferenceServerException as error:
                if "restricted" not in str(error):
                    raise
                return False
        return True


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale(2.0))
    return repository


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TRITON_ADMIN_KEY"} | dict(variables)


@contextmanager
def serve(repository: Repository, *options: object, **variables: str) -> Iterator[Serving]:
    ports = [part for front in ("http", "grpc", "metrics") for part in (f"--{front}-port", "0")]
    command = [sys.executable, "-m", "builder", "serve", "--repository", str(repository.root), *ports]
    process = subprocess.Popen(
        [*command, *map(str, options)], cwd=ROOT, env=environment_with(variables), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        printed = ""
        while not re.search(r"^serve .*\n", printed, re.MULTILINE):
            line = process.stderr.readline()
            assert line, printed
            printed += line
        key = re.search(r"^admin +header (\S+), key in (.+)$", printed, re.MULTILINE)
        address = re.search(r"^serve .*gRPC (\S+),", printed, re.MULTILINE)
        assert key, printed
        assert address, printed
        yield Serving(process, key[1], Path(key[2]), address[1])
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert not Path(key[2]).exists()


def deploy(
    repository: Repository, address: str, *options: object, **variables: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "builder", "deploy", "scale", "--repository", str(repository.root)]
    return subprocess.run(
        [*command, "--server", address, *map(str, options)],
        cwd=ROOT,
        env=environment_with(variables),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_random_key_is_found_by_deploy_and_is_on_no_command_line(repository: Repository) -> None:
    with serve(repository) as serving:
        assert serving.key not in serving.command_lines()
        assert serving.key_file.stat().st_mode & 0o777 == 0o600
        assert not serving.is_loaded_with({})
        assert serving.is_loaded_with({"triton-grpc-protocol-admin-key": serving.key})
        for host in ("127.0.0.1", "localhost"):
            done = deploy(repository, serving.grpc_address.replace("127.0.0.1", host))
            assert done.returncode == 0, done.stderr
            assert serving.key not in done.stdout + done.stderr


def test_a_key_of_the_environment_is_taken_by_serve_and_by_deploy(repository: Repository) -> None:
    with serve(repository, "--admin-header", "X-Admin", TRITON_ADMIN_KEY=GIVEN) as serving:
        assert (serving.header, serving.key) == ("x-admin", GIVEN)
        assert GIVEN not in serving.command_lines()
        assert serving.is_loaded_with({"triton-grpc-protocol-x-admin": GIVEN})
        assert not serving.is_loaded_with({"triton-grpc-protocol-admin-key": GIVEN})
        assert deploy(repository, serving.grpc_address).returncode == 0
        named = ("--admin-header", "triton-grpc-protocol-x-admin")
        assert deploy(repository, serving.grpc_address, *named, TRITON_ADMIN_KEY=GIVEN).returncode == 0
        refused = deploy(repository, serving.grpc_address, TRITON_ADMIN_KEY=GIVEN)
        assert refused.returncode == 6
        assert refused.stderr.splitlines()[-1].endswith("and give --admin-header x-admin")


def test_a_key_in_a_file_is_taken_by_serve_and_by_deploy(repository: Repository, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{GIVEN}\n")
    file.chmod(0o600)
    with serve(repository, "--admin-key-file", file, TRITON_ADMIN_KEY="not this one") as serving:
        assert serving.key == GIVEN
        assert deploy(repository, serving.grpc_address, "--admin-key-file", file).returncode == 0
        wrong = deploy(repository, serving.grpc_address, TRITON_ADMIN_KEY="not this one")
        assert (wrong.returncode, "with this admin key" in wrong.stderr) == (6, True)
        assert "not this one" not in wrong.stderr


def test_serve_does_not_start_if_its_key_could_be_read_by_others(repository: Repository, tmp_path: Path) -> None:
    taken = tmp_path / f"triton-repository-builder-{os.geteuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    command = [sys.executable, "-m", "builder", "serve", "--repository", str(repository.root), "--http-port", "0"]
    ended = subprocess.run(
        [*command, "--grpc-port", "0", "--metrics-port", "0"],
        cwd=ROOT,
        env=environment_with({"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": ""}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 6
    assert ended.stderr.startswith(f"error: {taken}: the admin key cannot be left here for other commands: others may")
    assert ended.stderr.splitlines()[-1].startswith("fix: set XDG_RUNTIME_DIR")
