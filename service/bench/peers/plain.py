"""A plain FastAPI endpoint: every request loops over its own samples, in a pool of threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from service.bench.peers.sampler import PATH, Arrangement, Sampler, configured


def create_app(arrangement: Arrangement) -> FastAPI:
    """As many requests compute at a time as there are workers; the others wait."""
    sampler = Sampler(arrangement)
    pool = ThreadPoolExecutor(arrangement.workers)
    app = FastAPI()

    @app.post(PATH)
    async def embed(request: Request) -> Response:
        ask = orjson.loads(await request.body())
        loop = asyncio.get_running_loop()
        (answer,) = await loop.run_in_executor(pool, sampler.answer, [ask])
        return Response(orjson.dumps(answer), media_type="application/json")

    return app


def main() -> None:
    """Serve until terminated."""
    port, arrangement = configured()
    uvicorn.run(create_app(arrangement), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
