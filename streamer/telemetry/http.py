"""The worker's one port: `/metrics`, `/livez`, `/readyz` and `/info`; everything else is 404."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from streamer.errors import ConfigError
from streamer.telemetry.health import Health
from streamer.telemetry.metrics import Metrics, code_version

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Server:
    """A listening port; `port` is the one that was taken where 0 was asked for."""

    host: str
    port: int
    runner: web.AppRunner

    async def stop(self) -> None:
        """Close the port and its connections."""
        await self.runner.cleanup()


async def start_http(host: str, port: int, metrics: Metrics, health: Health) -> Server:
    """Listen on the running loop.

    Raises:
        ConfigError: the address cannot be had.
    """
    runner = web.AppRunner(_application(metrics, health), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as problem:
        await runner.cleanup()
        why = os.strerror(problem.errno).lower() if problem.errno else str(problem)
        raise ConfigError(
            f"http.host = {host}, http.port = {port} cannot be had: {why}; "
            "http.port = 0 takes a free one (FACTORS_HTTP__PORT)"
        ) from problem
    taken: int = runner.addresses[0][1]
    log.info("http_listening", host=host, port=taken)
    return Server(host, taken, runner)


def _application(metrics: Metrics, health: Health) -> web.Application:
    started = time.time()

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.scrape(), headers={"Content-Type": _METRICS_TYPE})

    async def livez(_: web.Request) -> web.Response:
        verdict = health.live()
        return _json({"live": verdict.good, "reason": verdict.reason}, good=verdict.good)

    async def readyz(_: web.Request) -> web.Response:
        verdict = health.ready()
        body = {"ready": verdict.good, "reason": verdict.reason, "restore_percent": verdict.percent}
        return _json(body, good=verdict.good)

    async def info(_: web.Request) -> web.Response:
        about = {"version": code_version(), "python": platform.python_version(), "started_at": round(started)}
        return _json(about | health.describe())

    async def nothing(_: web.Request) -> web.Response:
        return web.json_response({"error": "not found"}, status=404)

    application = web.Application(client_max_size=1024)
    handlers: dict[str, Handler] = {
        "/metrics": scrape,
        "/livez": livez,
        "/readyz": readyz,
        "/info": info,
    }
    for path, handler in handlers.items():
        application.router.add_get(path, handler)
    # Taken last: unknown paths, and known ones with another method.
    application.router.add_route("*", "/{rest:.*}", nothing)
    return application


def _json(body: dict[str, Any], *, good: bool = True) -> web.Response:
    return web.json_response(body, status=200 if good else 503, headers={"Cache-Control": "no-store"})
