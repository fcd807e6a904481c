"""The container way, right by construction: no engine runs where this project is built."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.broker.container import image
from streamer.settings import load_settings

ROOT = Path(__file__).parents[2]
OURS = ("topics", "users", "items", "sample", "bootstrap")


def _services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    return services


def _mounted_files() -> Iterator[Path]:
    for service in _services().values():
        for volume in service.get("volumes", []):
            source = str(volume).split(":", maxsplit=1)[0]
            if source.startswith("./"):
                yield ROOT / source


@pytest.mark.parametrize("name", OURS)
def test_every_setting_that_compose_makes_is_a_real_one(name: str) -> None:
    """A misspelt variable would be refused at start, so it is refused here."""
    environment = _services()[name]["environment"]
    assert set(environment) == {key for key in environment if key.startswith("FACTORS_")}
    settings = load_settings(None, environment)
    assert settings.kafka.bootstrap_servers == "kafka:9092"


def test_the_workers_answer_inside_the_container_where_prometheus_asks() -> None:
    """HTTP listens on all addresses there, at the port that is scraped; none is published."""
    scrape = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"][0]
    (target,) = scrape["dns_sd_configs"]
    assert target["names"] == ["users", "items"]
    for name in target["names"]:
        worker = _services()[name]
        http = load_settings(None, worker["environment"]).http
        assert (http.host, http.port) == ("0.0.0.0", target["port"])  # noqa: S104
        assert "ports" not in worker
        assert worker["command"][-2:] == ["--role", name]


def test_what_is_started_by_default_is_the_core() -> None:
    """Monitoring, the topic browser and the sample model are asked for by name."""
    services = _services()
    assert {name for name in services if "profiles" not in services[name]} == {
        "kafka",
        "topics",
        "users",
        "items",
    }
    assert {p for s in services.values() for p in s.get("profiles", [])} == {"bootstrap", "monitoring", "ui"}


def test_services_wait_for_services_that_exist() -> None:
    """Each name in `depends_on` is a service, and one that must be healthy has a check of its health."""
    services = _services()
    for service in services.values():
        needs = service.get("depends_on", {})
        assert set(needs) <= set(services)
        if isinstance(needs, dict):
            healthy = [name for name, need in needs.items() if need["condition"] == "service_healthy"]
            assert all("healthcheck" in services[name] for name in healthy)


def test_nothing_is_published_beyond_this_machine() -> None:
    """Each published port is bound to the loopback."""
    ports = [port for service in _services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_broker_is_the_version_that_the_tests_run_on() -> None:
    """One version of Kafka, whether from jars, by testcontainers or by compose."""
    kafka = _services()["kafka"]
    assert kafka["image"] == image()
    assert kafka["environment"]["KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE"] == "LogAppendTime"
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_what_is_mounted_and_copied_is_there() -> None:
    """A missing file would be mounted as an empty folder; a missing one to copy would fail the build."""
    assert all(path.exists() for path in _mounted_files())
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, flags=re.MULTILINE)
        for source in line.split()
    ]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").split() if line.startswith("!")}
    assert copied
    assert set(copied) == kept
    assert all((ROOT / source).exists() for source in copied)
    assert re.search(r"^USER 10001", dockerfile, flags=re.MULTILINE)


def test_docker_itself_takes_the_file() -> None:
    """Where the client has compose, it checks the file in full."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode:
        pytest.skip("no docker compose on this machine")
    command = [docker, "compose", "--profile", "*", "config", "--quiet"]
    checked = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_dashboard_reads_only_metrics_of_ours() -> None:
    """Each query names `factors_` metrics and the provisioned data source."""
    dashboard = json.loads((ROOT / "ops/grafana/dashboards/workers.json").read_text("utf-8"))
    source = yaml.safe_load((ROOT / "ops/grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))[
        "datasources"
    ][0]
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        assert all(re.search(r"\bfactors_[a-z_]+", target["expr"]) for target in panel["targets"])
