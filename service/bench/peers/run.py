"""The run of `fcs bench peers`: pilot, arrangement, rounds that visit every server, table, JSON.

One server runs at a time, and every round visits all of them in turn, so that a slow hour of the
machine falls on all alike and no idle server takes a core from another.
"""

import base64
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, track
from threadpoolctl import threadpool_limits

from service.bench.peers.contenders import FCS, PEERS, Question, missing, running
from service.bench.peers.contest import SIGMA, Contest, Plan
from service.bench.peers.pilot import FixedSamples, best_rows, fixed_samples
from service.bench.peers.sampler import Arrangement, Ask, fixed_bound, published_bound
from service.bench.peers.show import show
from service.bench.peers.split import Key, gains, row
from service.bench.peers.traffic import Cell, measure
from service.bench.sampling import Features, sample
from service.config import Settings
from service.errors import ConfigurationError
from service.models.arrangement import available_cores
from service.models.lanes import Lanes
from service.models.store import load_model


def run(contest: Contest, settings: Settings) -> None:
    """Measure, print the table and the split, then one JSON line.

    Raises:
        ConfigurationError: an unknown peer, or a server that did not start or failed a request.
    """
    if unknown := set(contest.peers) - set(PEERS):
        raise ConfigurationError(f"no peer {min(unknown)!r}; there are {', '.join(PEERS)}")
    lacking = {peer: needed for peer in contest.peers if (needed := missing(peer))}
    peers = tuple(peer for peer in contest.peers if peer not in lacking)
    plan = _pilot(contest, settings)
    questions = [_question(path, contest, settings, plan) for path in contest.pictures]
    arrangements = _arrangements(contest, settings)
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        steps = len(peers) * len(arrangements) + contest.rounds * (1 + len(peers))
        bar = progress.add_task("serving", total=steps)

        def step(name: str) -> None:
            progress.update(bar, description=name, advance=1)

        chosen = {
            peer: _best(peer, arrangements, contest, settings, questions, step) for peer in peers
        }
        cells: defaultdict[Key, list[Cell]] = defaultdict(list)
        for turn in range(contest.rounds):
            for name in (FCS, *peers):
                arrangement = chosen.get(name, arrangements[0])
                with running(name, settings, arrangement, questions[0]) as url:
                    for key in _keys(name, contest.clients):
                        bodies = _bodies(key, questions, plan, turn, contest.requests)
                        cells[key].append(measure(name, url, bodies, key.clients))
                step(name)
    rows = {key: row(key, found, contest.bound) for key, found in cells.items()}
    rates = {key: found.requests_per_s for key, found in rows.items()}
    split = [gain for peer in peers for gain in gains(rates, peer, contest.clients)]
    show(contest, plan, list(rows.values()), split, chosen, lacking)


def _pilot(contest: Contest, settings: Settings) -> Plan:
    """Samples for peers, from fresh features of every picture."""
    threadpool_limits(limits=1, user_api="blas")
    model = load_model(settings.model, settings)
    lanes = Lanes(model.lanes)
    console = Console(stderr=True)
    drawn = [
        sample(model, lanes, path, settings, SIGMA, contest.selection, contest.ceiling)
        for path in track(contest.pictures, "pilot: sampling", console=console)
    ]
    lanes.close()
    radius, alpha = contest.shift * SIGMA, 1 - settings.default_confidence

    def by(rule: Callable[[Features, float, float, float], float]) -> FixedSamples:
        def bound(features: Features) -> float:
            return rule(features, SIGMA, radius, alpha)

        return fixed_samples(drawn, bound, contest.bound, contest.ceiling)

    with console.status("pilot: how many samples peers need"):
        return Plan(fixed=by(fixed_bound), paper=by(published_bound))


def _question(path: Path, contest: Contest, settings: Settings, plan: Plan) -> Question:
    ask = Ask(
        inputs=base64.b64encode(path.read_bytes()).decode(),
        way="fixed",
        samples=plan.fixed.samples,
        selection=contest.selection,
        sigma=SIGMA,
        radius=contest.shift * SIGMA,
        confidence=settings.default_confidence,
    )
    return Question(ask, contest.ceiling, contest.bound)


def _arrangements(contest: Contest, settings: Settings) -> list[Arrangement]:
    """All cores in one worker, and one core for each; rows of a call as measured for either."""
    cores = available_cores()
    least = min(contest.clients)
    found = []
    for workers in dict.fromkeys((1, cores)):
        threads = cores // workers
        rows, _ = best_rows(settings, threads)
        # No batch takes the requests that another worker could begin; two make it a batch at all.
        found.append(Arrangement(workers, threads, rows, max(2, -(-least // workers))))
    return found


def _best(
    peer: str,
    arrangements: Sequence[Arrangement],
    contest: Contest,
    settings: Settings,
    questions: Sequence[Question],
    step: Callable[[str], None],
) -> Arrangement:
    """The arrangement in which a peer serves most with the most clients."""
    clients = max(contest.clients)
    found: list[tuple[float, Arrangement]] = []
    for arrangement in arrangements:
        with running(peer, settings, arrangement, questions[0]) as url:
            bodies = [
                questions[i % len(questions)].body(peer, "fixed") for i in range(contest.requests)
            ]
            found.append((measure(peer, url, bodies, clients).elapsed_s, arrangement))
        step(peer)
    return min(found, key=lambda pair: pair[0])[1]


def _keys(name: str, clients: Sequence[int]) -> Iterator[Key]:
    """The cells of one visit."""
    yield Key(name, "fixed", 1)
    for count in clients:
        if count != 1:
            yield Key(name, "fixed", count)
        yield Key(name, "target" if name == FCS else "paper", count)


def _bodies(
    key: Key, questions: Sequence[Question], plan: Plan, turn: int, requests: int
) -> list[bytes]:
    """The same pictures for every key of a round, others in the next round."""
    found = []
    for i in range(requests):
        question = questions[(turn * requests + i) % len(questions)]
        if key.way == "paper":
            question = question.drawing("paper", plan.paper.samples)
        found.append(question.body(key.name, key.way))
    return found
