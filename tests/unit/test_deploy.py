"""What is deployed: the image, the compose file, the alerts and the dashboard agree with each other and with the program."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import yaml

from router.errors import ALL as ALL_ERRORS
from router.metrics_families import FAMILIES
from router.settings import load_snapshot

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
PROMETHEUS: Final = DEPLOY / "prometheus"
_METRIC: Final = re.compile(r"\b((?:faregate|gen_ai|process|python)_[a-z_]+?)(?:_bucket|_sum|_count)?\b(?=[{\[) ]|$)")


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE: Final[dict[str, Any]] = load_yaml(DEPLOY / "compose.yaml")
ALERTS: Final[list[dict[str, Any]]] = [rule for group in load_yaml(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
DASHBOARD: Final[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "overview.json").read_text(encoding="utf-8"))
PANELS: Final[list[dict[str, Any]]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def build_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard_build", DEPLOY / "grafana" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def metrics_in(query: str) -> set[str]:
    return set(_METRIC.findall(query))


def test_the_dashboard_is_the_one_that_its_source_makes() -> None:
    """Whoever edits the JSON by hand loses it at the next build."""
    assert build_module().build() == (DEPLOY / "grafana" / "overview.json").read_text(encoding="utf-8")


def test_a_dashboard_that_is_out_of_date_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` is what a gate runs."""
    module = build_module()
    monkeypatch.setattr(module, "FILE", tmp_path / "overview.json")
    monkeypatch.setattr("sys.argv", ["build.py", "--check"])
    assert module.main() == 1
    monkeypatch.setattr("sys.argv", ["build.py"])
    assert module.main() == 0
    monkeypatch.setattr("sys.argv", ["build.py", "--check"])
    assert module.main() == 0


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_panels_ask_for_metrics_that_exist(panel: dict[str, Any]) -> None:
    """A renamed metric leaves an empty panel, and nobody knows whether that is good news."""
    for target in panel["targets"]:
        used = metrics_in(target["expr"])
        assert used
        assert used <= set(FAMILIES)


def test_an_outage_of_the_store_can_be_followed_and_its_panels_are_not_empty_before() -> None:
    """How long advances last decides what to do next; where none are configured, 0 is the true answer."""
    wanted = {"faregate_store_up", "faregate_store_advances_usd", "faregate_store_open_usd", "faregate_store_away_calls_total"}
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    assert wanted <= set[str]().union(*map(metrics_in, queries))
    seldom = wanted - {"faregate_store_up"}
    assert all(query.endswith(" or vector(0)") for query in queries if metrics_in(query) & seldom)


def test_panels_do_not_lie_on_each_other() -> None:
    """Grafana moves overlapping panels about; the order of the source would be lost."""
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_alerts_ask_for_metrics_and_codes_that_exist(rule: dict[str, Any]) -> None:
    """An alert on a name that nobody writes never fires."""
    used = metrics_in(rule["expr"])
    assert used <= set(FAMILIES)
    assert used or rule["expr"].startswith("up{")
    assert set(re.findall(r'code="(\w+)"', rule["expr"])) <= {spec.code for spec in ALL_ERRORS}
    assert set(rule["annotations"]) == {"summary", "action"}
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_alert_has_a_test_that_makes_it_fire() -> None:
    """An untested alert is found to be wrong on the night on which it was needed."""
    tests = [test for name in ("alerts_test.yml", "alerts_slow_test.yml") for test in load_yaml(PROMETHEUS / name)["tests"]]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize(
    "command",
    [
        ("test", "rules", "alerts_test.yml", "alerts_slow_test.yml"),
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
    ],
)
def test_promtool_accepts(command: tuple[str, ...]) -> None:
    """Prometheus' own tool runs the tests of the alerts and reads the configuration."""
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_are_pinned_by_version() -> None:
    """`latest` is another program every week."""
    for name, service in COMPOSE["services"].items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", service["image"]), name


def test_services_run_with_as_little_as_they_need() -> None:
    """What a stranger starts with one command must not open his machine."""
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_redis_keeps_the_books() -> None:
    """With another eviction policy a full Redis silently forgets what was spent; Faregate refuses to start on it."""
    command = COMPOSE["services"]["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--appendonly"], options["--appendfsync"]) == ("yes", "everysec")
    assert "redis:/data" in COMPOSE["services"]["redis"]["volumes"]


def test_every_mounted_file_exists_and_every_volume_is_declared() -> None:
    """Docker makes a directory where a mounted file is missing, and the service fails in a way hard to read."""
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_what_is_served_is_a_configuration_without_errors_or_warnings() -> None:
    """It is the first file that somebody who starts the composition edits."""
    environment = COMPOSE["services"]["faregate"]["environment"]
    values = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in environment.items()}
    snapshot = load_snapshot(str(DEPLOY / "router.yaml"), environ=values)
    assert snapshot.warnings == ()
    assert snapshot.server.store == values["REDIS_URL"]
    assert snapshot.server.baseline is not None
    (_, target) = load_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"][0].split(":")
    assert int(target) == snapshot.server.port


def test_a_container_is_given_the_time_to_drain() -> None:
    """Killed earlier, it leaves holds that are charged as guesses."""
    environment = {"REDIS_URL": "redis://redis", "FAREGATE_KEY": "k" * 20}
    snapshot = load_snapshot(str(DEPLOY / "router.yaml"), environ=environment)
    assert int(COMPOSE["services"]["faregate"]["stop_grace_period"].removesuffix("s")) > snapshot.server.drain_seconds


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [(word, rest) for line in text.splitlines() if line and not line.startswith("#") for word, _, rest in [line.partition(" ")]]


def test_the_image_runs_without_root_and_installs_by_hash() -> None:
    """The two promises that a scanner of images checks first."""
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[-1])
    installs = [part for word, rest in instructions() if word == "RUN" for part in rest.split("&&") if "pip install" in part]
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)
    assert any(word == "HEALTHCHECK" for word, _ in instructions())


def test_the_health_check_of_the_image_asks_no_proxy_and_needs_a_200() -> None:
    """Docker hands its own proxies to every container; through them loopback is another machine, and restarts follow."""
    (check,) = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    program = json.loads(check.partition("CMD ")[2])[2]
    for status, ends_with in ((200, 0), (503, 1)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            environment = {"http_proxy": "http://127.0.0.1:1", "PATH": os.environ["PATH"]}
            asking = subprocess.Popen(
                [sys.executable, "-S", "-c", program.replace("4000", str(port)).replace("timeout=2", "timeout=20")], env=environment
            )
            server.settimeout(20)
            client, _ = server.accept()
            with client:
                assert client.recv(1000).startswith(b"GET /livez ")
                client.sendall(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
            assert asking.wait(timeout=20) == ends_with


def test_the_image_is_built_from_what_the_build_can_see() -> None:
    """`.dockerignore` hides everything but what it lists."""
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source.partition("/")[0] in seen


def test_grafana_finds_its_data_source_and_dashboard() -> None:
    """The paths of three files have to agree."""
    services = COMPOSE["services"]
    (provider,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "faregate.yaml")["providers"]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/overview.json" in mounted
    (source,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    interval = load_yaml(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
