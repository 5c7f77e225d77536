"""compose.yaml, the images and the dashboard, checked by their own tools and on the real server."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from ruamel.yaml import YAML
from support import bare_triton
from support.artifacts import scale
from support.bare_triton import BareTriton
from support.reserved import unused_address
from support.serving import eventually, grpc_inputs
from tritonclient.utils import InferenceServerException

from builder.deployment import Address, LiveServer, deploy
from builder.publishing import install
from builder.repository import Repository
from builder.server import AdminAccess

ROOT = Path(__file__).parents[1]
CONTAINERS = ROOT / "containers"
DASHBOARD = CONTAINERS / "grafana" / "dashboards" / "triton.json"
ADMIN_KEY = "open-sesame"

DIGEST_NOT_KNOWN = "nvcr.io/nvidia/tritonserver:26.10-py3"
"""No second place confirms a digest of it."""

ONLY_WITH_A_GPU = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
}
"""Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md"""


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


COMPOSE: dict[str, Any] = read_yaml(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service} | {"triton"}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


@pytest.fixture(autouse=True)
def python_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the images, `python` is the one that has the package."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian has it)")
    return found


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=60)


# ---- the file


def test_the_file_is_valid_by_the_compose_specifications_schema() -> None:
    schema = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")

    done = run(*schema, "compose.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_compose_resolves_it_with_and_without_an_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WORK_DIR", raising=False)
    monkeypatch.delenv("CONTAINER_USER", raising=False)
    plain = resolve()["triton"]
    monkeypatch.setenv("WORK_DIR", str(tmp_path))
    monkeypatch.setenv("CONTAINER_USER", "1234:1234")
    given = resolve()["triton"]

    assert (plain["user"], given["user"]) == ("1000:1000", "1234:1234")
    assert plain["volumes"][0]["source"] == str(ROOT / "model_repository")
    assert given["volumes"][0]["source"] == str(tmp_path / "model_repository")
    assert plain["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def resolve() -> dict[str, Any]:
    profiles = sorted({profile for service in SERVICES.values() for profile in service["profiles"]})
    done = run(tool("docker-compose"), *(word for profile in profiles for word in ("--profile", profile)), "config")
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = YAML(typ="safe").load(done.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    return services


def test_the_profile_without_a_gpu_asks_for_none() -> None:
    chosen = [service for service in SERVICES.values() if "cpu" in service["profiles"]]

    assert len(chosen) == 3
    assert all("deploy" not in service for service in chosen)
    assert all("nvcr" not in service["image"] for service in chosen)


@each_service
def test_ports_are_published_only_on_the_loopback_interface(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@each_service
def test_a_service_has_no_more_rights_than_it_needs(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_no_service_of_ours_runs_as_root(name: str) -> None:
    assert SERVICES[name]["user"] == "${CONTAINER_USER:-1000:1000}"


def base_images() -> set[str]:
    """The images of others that ours are made from."""
    lines = [line for file in CONTAINERS.glob("*.Dockerfile") for line in file.read_text().splitlines()]
    return {line.split()[1] for line in lines if line.startswith("FROM ")}


def unpinned(images: set[str]) -> set[str]:
    """Return the images without both a version and a digest, which alone says which bytes are meant."""
    return {image for image in images if not re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", image)}


def test_every_image_of_others_is_pinned_by_its_version_and_its_digest_where_that_is_known() -> None:
    served = {service["image"] for service in SERVICES.values() if "build" not in service}
    assert unpinned(served | base_images()) == {DIGEST_NOT_KNOWN}
    assert DIGEST_NOT_KNOWN in (ROOT / "docs" / "deployment.md").read_text()


def test_an_image_that_is_not_pinned_is_found() -> None:
    digest = f"@sha256:{'0' * 64}"
    bad = {"grafana/grafana", "grafana/grafana:latest", "grafana/grafana:12.1.1", f"a/b:latest{digest}", f"a/b{digest}"}
    assert unpinned(bad | {f"a/b:1.2{digest}"}) == bad


def test_what_serves_mounts_the_repository_read_only_and_what_publishes_its_parent() -> None:
    for name in ("triton", "triton-cpu", "locust-master", "locust-worker"):
        (models,) = SERVICES[name]["volumes"]
        assert models["target"] == "/work/model_repository"
        assert models["source"] == "${WORK_DIR:-.}/model_repository"
        assert models["read_only"] is True
    for name in ("builder", "builder-cpu"):
        (work,) = SERVICES[name]["volumes"]
        assert (work["source"], work["target"]) == ("${WORK_DIR:-.}", "/work")
        assert "read_only" not in work


def test_locusts_page_and_master_can_be_reached_from_outside_their_container() -> None:
    assert {"--web-host=0.0.0.0", "--master-bind-host=0.0.0.0"} <= {*SERVICES["locust-master"]["command"]}


def test_locusts_page_answers_to_no_host_name_that_somebody_else_could_point_to_it() -> None:
    assert "--web-allowed-hosts=locust-master" in SERVICES["locust-master"]["command"]


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = [
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) and volume.startswith("./")
    ]
    assert len(mounted) == 3
    assert all((ROOT / path).exists() for path in mounted)


def test_the_servers_and_what_deploys_to_them_get_the_key_and_nothing_else_does() -> None:
    given = {name for name, service in SERVICES.items() if "TRITON_ADMIN_KEY" in service.get("environment", {})}
    assert given == {"triton", "triton-cpu", "builder", "builder-cpu"}
    assert {SERVICES[name]["environment"]["TRITON_ADMIN_KEY"] for name in given} == {"${TRITON_ADMIN_KEY:-}"}
    command = " ".join(word for service in SERVICES.values() for word in service.get("command", []))
    assert "{TRITON_ADMIN_KEY" not in command.replace("$${TRITON_ADMIN_KEY", "")  # only a container's shell expands it


# ---- the images


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def is_in_the_context(path: str) -> bool:
    """Whether .dockerignore lets a path at the top through."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    verdicts = [p.startswith("!") for p in patterns if fnmatch(path, p.removeprefix("!").removeprefix("**/"))]
    return not verdicts or verdicts[-1]


@pytest.mark.parametrize("dockerfile", sorted(CONTAINERS.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_an_image_copies_what_is_there_and_ends_without_root(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    copied = [source for step, arguments in steps if step == "COPY" for source in arguments.split()[:-1]]

    assert {"builder", "loadtest", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert all((ROOT / source).exists() and is_in_the_context(source) for source in copied)
    assert not is_in_the_context("model_repository")
    assert [arguments for step, arguments in steps if step == "USER"][-1] == "1000"


def test_plans_are_built_in_the_image_that_serves_them() -> None:
    base = dict(instructions(CONTAINERS / "gpu.Dockerfile"))["FROM"]

    assert base == SERVICES["triton"]["image"]
    assert SERVICES["builder"]["build"]["dockerfile"] == "containers/gpu.Dockerfile"


# ---- the server's command line and health checks, on the embedded server


def command_of(service: Mapping[str, Any]) -> list[str]:
    """The command as Compose hands it to the container, the repository where the test has it."""
    command = [word.replace("$$", "$") for word in service["command"]]
    return [word.replace("/work/model_repository", bare_triton.REPOSITORY) for word in command]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("compose") / "models")
    install(repository, "scale", scale(2.0))
    return repository


@pytest.fixture(scope="module")
def triton(repository: Repository) -> Iterator[BareTriton]:
    """Service `triton`, command and all."""
    environment = {"TRITON_ADMIN_KEY": ADMIN_KEY}
    with bare_triton.running(command_of(SERVICES["triton"]), repository=repository.root, environment=environment) as up:
        yield up


def ask(server: BareTriton) -> None:
    """One request of every row, and one that does not fit the model."""
    inputs = {key.removeprefix("input:"): rows for key, rows in scale().reference.items() if key.startswith("input:")}
    inputs["n"] = inputs["n"][:, np.newaxis]
    inputs["s"] = inputs["s"].astype(object)
    with grpc.InferenceServerClient(server.grpc_address) as client:
        client.infer("scale", grpc_inputs(inputs))
        with pytest.raises(InferenceServerException):
            client.infer("scale", grpc_inputs({"x": inputs["x"]}))


@pytest.mark.slow
def test_the_servers_command_line_serves_the_repository(triton: BareTriton) -> None:
    ask(triton)


@pytest.mark.slow
def test_the_admin_interface_takes_its_key_over_grpc_and_http(triton: BareTriton, repository: Repository) -> None:
    index = f"http://{triton.http_address}/v2/repository/index"

    def post(**headers: str) -> int:
        request = urllib.request.Request(index, b"{}", headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert post() == 403
    assert post(**{"admin-key": ADMIN_KEY}) == 200
    with LiveServer(Address.parse(triton.grpc_address), admin=AdminAccess(ADMIN_KEY)) as live:
        assert deploy(repository, "scale", live, watch_s=1).servers[0].before == (1,)


@pytest.mark.slow
def test_without_a_key_nobody_is_admin(repository: Repository) -> None:
    with (
        bare_triton.running(command_of(SERVICES["triton"]), repository=repository.root) as server,
        grpc.InferenceServerClient(server.grpc_address) as client,
    ):
        for headers in (None, {"triton-grpc-protocol-admin-key": ""}):
            with pytest.raises(InferenceServerException, match="restricted"):
                client.load_model("scale", headers=headers)
        assert client.is_model_ready("scale")


@pytest.mark.slow
def test_a_broken_model_does_not_stop_others_and_shows_in_the_health_check(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale(2.0))
    install(repository, "broken", scale(2.0))
    (repository.root / "broken" / "1" / "model.onnx").write_bytes(b"?")
    command = command_of(SERVICES["triton"])

    with bare_triton.running(command, repository=repository.root, wait_until="live") as server:
        with grpc.InferenceServerClient(server.grpc_address) as client:
            assert eventually(partial(client.is_model_ready, "scale"))
        ask(server)
        assert health("triton", server.http_address) != 0


def health(service: str, address: str) -> int:
    """The exit code of a service's health check, pointed at another address."""
    check = SERVICES[service]["healthcheck"]["test"]
    tool(check.split()[0])
    return run("sh", "-c", re.sub(r"127\.0\.0\.1:\d+", address, check)).returncode


@pytest.mark.slow
@pytest.mark.parametrize("service", ["triton", "triton-cpu"])
def test_a_health_check_passes_only_when_the_server_is_ready(service: str, triton: BareTriton) -> None:
    assert health(service, triton.http_address) == 0
    with unused_address() as address:
        assert health(service, address) != 0


# ---- Prometheus and Grafana


def queries() -> dict[str, str]:
    """Every PromQL expression of the dashboard by its panel, with what Grafana fills in."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    found |= {entry["name"]: entry["expr"] for entry in dashboard["annotations"]["list"]}
    return {name: text.replace("$model", ".*").replace("$__rate_interval", "10s") for name, text in found.items()}


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"nv_\w+", text))


@pytest.mark.slow
def test_the_dashboard_asks_for_metrics_that_the_server_has(triton: BareTriton) -> None:
    ask(triton)
    with urllib.request.urlopen(f"http://{triton.metrics_address}/metrics", timeout=60) as answer:
        exposed = metrics_in(answer.read().decode())

    used = {metric for query in queries().values() for metric in metrics_in(query)}

    assert len(used) > 15
    assert used - exposed == ONLY_WITH_A_GPU


def test_the_dashboard_and_its_provisioning_use_the_same_names() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    provisioning = CONTAINERS / "grafana" / "provisioning"
    (source,) = read_yaml(provisioning / "datasources" / "prometheus.yml")["datasources"]
    (provider,) = read_yaml(provisioning / "dashboards" / "dashboards.yml")["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]

    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert mounts["./containers/grafana/dashboards"] == provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    assert source["url"] == "http://prometheus:9090"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert not [(a["title"], b["title"]) for a in panels for b in panels if a is not b and overlap(a, b)]


def overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    one, two = a["gridPos"], b["gridPos"]
    beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
    below = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
    return not (beside or below)


def test_prometheus_takes_its_configuration() -> None:
    done = run(tool("promtool"), "check", "config", CONTAINERS / "prometheus.yml")

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_query_of_the_dashboard_gives_an_answer_in_a_real_prometheus(triton: BareTriton, tmp_path: Path) -> None:
    text = (CONTAINERS / "prometheus.yml").read_text()
    faster = text.replace("triton:8002", triton.metrics_address).replace("5s", "1s").replace("4s", "1s")
    assert faster != text
    (tmp_path / "prometheus.yml").write_text(faster)
    command = [tool("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}"]
    command.append(f"--storage.tsdb.path={tmp_path / 'data'}")
    with (
        unused_address() as address,
        subprocess.Popen(
            [*command, f"--web.listen-address={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process,
    ):
        try:
            wait_until_ready(address)
            unanswered = wait_for_answers(address, triton, list(queries().items()))
        finally:
            process.terminate()

    assert {name for name, query in unanswered if not metrics_in(query) & ONLY_WITH_A_GPU} == set()


def wait_until_ready(address: str) -> None:
    """Wait until Prometheus has opened its storage; until then it answers every query with 503."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=60):
                return
        except OSError as error:  # no connection yet, or 503, whose HTTPError is an OSError
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def wait_for_answers(address: str, server: BareTriton, asked: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Keep the server busy for a while; return the queries that Prometheus never had an answer to."""
    deadline = time.monotonic() + 200
    while asked and time.monotonic() < deadline:
        ask(server)
        time.sleep(0.2)
        asked = [(name, query) for name, query in asked if not has_answer(address, query)]
        if all(metrics_in(query) & ONLY_WITH_A_GPU for _, query in asked):
            break
    return asked


def has_answer(address: str, query: str) -> bool:
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bool(json.load(answer)["data"]["result"])
    except urllib.error.HTTPError as error:
        with error:
            pytest.fail(f"{query}: {error.read().decode()}")
