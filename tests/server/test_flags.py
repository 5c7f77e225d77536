"""Flags of tritonserver that a user adds to `serve`."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.served import served
from support.serving import DOUBLE, DOUBLE_CONFIG, parse, triton_of, write_model

from builder.server import FlagError, Server
from builder.server.flags import OWNED, help_text, models_to_load, read_flags

ROOT = Path(__file__).parents[2]


def read(*flags: str) -> list[str]:
    return read_flags(flags, header="admin-key", folder=Path("/here"))


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        ([], []),
        (["--log-verbose=1", "--id", "a b"], ["--log-verbose=1", "--id=a b"]),
        (["--id=--x"], ["--id=--x"]),
        (["--model-load-thread-count", "-1"], ["--model-load-thread-count=-1"]),
        (["--disable-auto-complete-config"], ["--disable-auto-complete-config"]),
        (["--grpc-server-cert=a"], ["--grpc-server-cert=/here/a"]),
        (["--grpc-server-key", "/b"], ["--grpc-server-key=/b"]),
        (["--trace-config", "triton,file=t.json"], ["--trace-config=triton,file=/here/t.json"]),
        (["--trace-config=level=TIMESTAMPS"], ["--trace-config=level=TIMESTAMPS"]),
        (["--http-header-forward-pattern=x-.*"], ["--http-header-forward-pattern=x-.*"]),
        (["--backend-config=python,shm-default-byte-size=1"], ["--backend-config=python,shm-default-byte-size=1"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_flag_is_passed_on_with_its_value_and_paths_stay_those_of_the_user(
    given: list[str], read_as: list[str]
) -> None:
    assert read(*given) == read_as


@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        (["model_repository"], "'model_repository' is not a flag", "behind --"),
        (["-v"], "'-v' is not a flag", "behind --"),
        (["--"], "no flag --", "serve -- --help"),
        (["--log-verbos=1"], "no flag --log-verbos", "use --log-verbose"),
        (["--http-p=80"], "no flag --http-p", "--http-port"),
        (["--id"], "--id has no value", "--id=VALUE"),
        (["--id", "--log-verbose=1"], "--id has no value", "--id=VALUE"),
        (["--disable-auto-complete-config=true"], "takes no value", "write --disable-auto-complete-config"),
        (["--log-verbose=1", "2"], "'2' is not a flag", "behind --"),
        (["--backend-config=python,shm-region-prefix-name=x"], "shared memory itself", "leave --backend-config"),
        (["--id=$HIDDEN_OPTION_0"], "serve uses itself", "another value"),
    ],
    ids=str,
)
def test_what_is_no_flag_is_refused_with_what_to_write(given: list[str], what: str, fix: str) -> None:
    with pytest.raises(FlagError) as caught:
        read(*given)
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("flag", sorted(OWNED))
@pytest.mark.parametrize("value", ["=true", None])
def test_a_flag_that_serve_sets_or_that_opens_what_it_closes_is_refused(flag: str, value: str | None) -> None:
    given = [flag, "0.0.0.0"] if value is None else [flag + value]
    with pytest.raises(FlagError, match=re.escape(f"serve sets {flag} itself")):
        read(*given)


def test_every_flag_for_addresses_keys_and_repositories_is_one_that_serve_sets() -> None:
    """A newer Triton may have more: this fails then, and somebody decides."""
    words = r"-address$|-port$|restricted|allow-(http|grpc|metrics)|^--model-(store|repo|control)|sage|vert"
    found = {flag for flag in re.findall(r"^  (--[a-z0-9-]+)", help_text(), re.MULTILINE) if re.search(words, flag)}
    assert len(found) >= 20
    assert found <= set(OWNED)


@pytest.mark.parametrize("front", ["http", "grpc"])
@pytest.mark.parametrize("pattern", [".*", "ADMIN", "^admin-key$|x", "(unclosed", "triton-grpc", "-k"])
def test_no_pattern_hands_the_admin_key_to_the_models(front: str, pattern: str) -> None:
    with pytest.raises(FlagError, match="carries the admin key"):
        read(f"--{front}-header-forward-pattern={pattern}")


def test_models_to_load_are_those_that_the_flags_name() -> None:
    assert models_to_load(read("--load-model=a", "--load-model", "b", "--id=--load-model=c")) == ["a", "b"]


# ---- with a real Triton


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name in ("double", "other"):
        write_model(root, name, DOUBLE_CONFIG, parse(DOUBLE))
    return root


@pytest.mark.slow
def test_flags_take_effect_and_the_key_stays_hidden(repository: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-key-to-look-for")
    key.chmod(0o600)
    flags = ["--id=mine", "--load-model", "double", "--log-format=ISO8601", "--cache-config=local,size=1048576"]
    with served(repository, tmp_path, "--admin-key-file", str(key), "--", *flags) as running:
        assert running.ask("/v2")["name"] == "mine"
        assert running.double(1, 2) == [2, 4]
        assert "successfully loaded 'other'" not in running.printed
        arguments = Path(f"/proc/{triton_of(running.process.pid)}/cmdline").read_bytes()
        assert b"--id=mine" in arguments
        assert b"a-key-to-look-for" not in arguments
        running.process.send_signal(signal.SIGINT)
        running.ends_with(0)


@pytest.mark.slow
def test_a_value_that_triton_refuses_ends_serve_with_what_triton_says(repository: Path) -> None:
    ports = [part for front in ("http", "grpc", "metrics") for part in (f"--{front}-port", "0")]
    command = [sys.executable, "-m", "builder", "serve", "--repository", str(repository), *ports]
    ended = subprocess.run([*command, "--", "--log-info=maybe"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 6
    assert 'Bad option: "--log-info": invalid value for bool option: maybe\n' in ended.stderr


@pytest.mark.slow
def test_a_server_in_a_program_takes_flags_too(repository: Path) -> None:
    with pytest.raises(FlagError):
        Server.start(repository, flags=["--http-port=1"])
    with pytest.raises(FlagError, match="explicit mode only"):
        Server.start(repository, flags=["--load-model=double"])
    with Server.start(
        repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        model_control_mode="explicit",
        load_models=["*"],
        flags=["--load-model=double"],
    ) as server:
        server.ensure_running()
        assert server.unserved == ()
