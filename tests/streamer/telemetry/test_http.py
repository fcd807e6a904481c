"""The worker's port, asked over a real socket."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from streamer.errors import ConfigError
from streamer.telemetry.health import Health
from streamer.telemetry.http import Server, start_http
from streamer.telemetry.metrics import Metrics


@pytest.fixture
def health() -> Health:
    return Health(["users"])


@pytest.fixture
async def server(health: Health) -> AsyncIterator[Server]:
    started = await start_http("127.0.0.1", 0, Metrics(), health)
    yield started
    await started.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        yield session


async def test_readyz_is_503_with_a_reason_until_ready(client: aiohttp.ClientSession, health: Health) -> None:
    """The status is for machines, the reason and the percentage are for people."""
    health.model("m1")
    health.partition("users", 0, "restoring", 0.42)
    async with client.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {
            "ready": False,
            "reason": "of 1 partitions: 1 restoring",
            "restore_percent": 42.0,
        }
    health.partition("users", 0, "ready")
    async with client.get("/readyz") as response:
        assert response.status == 200
        assert (await response.json())["restore_percent"] == 100.0


async def test_livez_does_not_wait_for_ready(client: aiohttp.ClientSession) -> None:
    """A restoring worker is alive: restarting it would only start the restore again."""
    async with client.get("/livez") as response:
        assert response.status == 200
        assert (await response.json())["live"] is True


async def test_metrics_in_the_text_format(client: aiohttp.ClientSession) -> None:
    """Prometheus reads the content type before the body."""
    async with client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "# TYPE factors_events_total counter" in await response.text()


async def test_info(client: aiohttp.ClientSession, health: Health) -> None:
    """Version, model and partitions."""
    health.model("m7")
    async with client.get("/info") as response:
        about = await response.json()
    assert about["model_version"] == "m7"
    assert {"version", "python", "started_at", "roles", "partitions"} <= set(about)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/table"), ("GET", "/metrics/x"), ("POST", "/metrics"), ("DELETE", "/info")],
)
async def test_nothing_else_answers(client: aiohttp.ClientSession, method: str, path: str) -> None:
    """Unknown paths, and known ones with another method, are 404."""
    async with client.request(method, path) as response:
        assert response.status == 404


async def test_a_taken_port_is_a_configuration_mistake(server: Server) -> None:
    """The message has the key, the number, and the way out."""
    with pytest.raises(ConfigError, match=rf"http\.port = {server.port} cannot be had: address already in use"):
        await start_http("127.0.0.1", server.port, Metrics(), Health([]))
