"""What a real server cannot easily be brought to do: a bug in a handler."""

import asyncio

import httpx

from service.config import Settings
from service.core import Core
from service.rest.app import create_app


def test_an_unexpected_failure_is_a_500_in_the_common_form_and_counted_as_one(monkeypatch):
    async def scenario():
        core = Core(Settings())
        monkeypatch.setattr(core, "info", lambda: 1 / 0)
        transport = httpx.ASGITransport(create_app(core))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.get("/info", headers={"x-request-id": "mine"})
            not_ready = await client.get("/health/ready")
        await core.drain()
        return response, not_ready, core.metrics.render().decode()

    response, not_ready, metrics = asyncio.run(scenario())
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "internal_error"
    assert response.headers["x-request-id"] == "mine"
    assert 'fcs_requests_total{code="500",route="/info"} 1.0' in metrics
    assert not_ready.status_code == 503
    assert "loading" in not_ready.json()["error"]["message"]
    assert 'fcs_requests_total{code="503",route="/health/ready"} 1.0' in metrics
    assert 'fcs_rejections_total{reason="unavailable"} 0.0' in metrics  # a probe asks for no work


def test_what_is_documented_is_what_is_answered():
    """What schemathesis found once (`make fuzz`): content types and statuses of three routes."""
    paths = create_app(Core(Settings())).openapi()["paths"]
    assert set(paths["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    assert "404" in paths["/v1/models/{name}"]["get"]["responses"]
    stream = paths["/embed/stream"]["post"]["responses"]
    assert set(stream["200"]["content"]) == {"text/event-stream"}
    assert set(stream["422"]["content"]) == {"application/json"}
