"""Every HTTP response carries the id of its request."""

import re


def test_a_well_formed_id_comes_back_and_another_is_made_in_place_of_a_malformed_one(server):
    with server.client() as client:
        kept = client.get("/health/live", headers={"x-request-id": "trace-7.a_B"})
        replaced = client.get("/health/live", headers={"x-request-id": "not well formed"})
        refused = client.post("/embed", headers={"x-request-id": "mine"}, content=b"")
        made = {client.get("/nowhere").headers["x-request-id"] for _ in range(3)}
    assert kept.headers["x-request-id"] == "trace-7.a_B"
    assert re.fullmatch("[0-9a-f]{32}", replaced.headers["x-request-id"])
    assert refused.status_code == 415
    assert refused.headers["x-request-id"] == "mine"
    assert len(made) == 3
