"""The faults: what each one breaks, and what damage it may do.

Each is a function that acts at a random moment and returns what it hit. Its random numbers come from a generator
with a known seed, so that a storm can be repeated, as far as real processes can.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from jobs.job import Ticket
from jobs.store.store import Store

from .servers import wait_until
from .service import LEASE_SECONDS, EngineSeen, Laptop, Node, Part, Service, pause

RIVALS = 16
"""Number of claimants of one job at the same time."""
RIVAL_LEASE_SECONDS = 100_000.0
"""Longer than any clock is wrong: a rival that has a job must not lose it before it requeues it."""


@dataclass(frozen=True)
class Hit:
    """The attempts that a fault may have broken off. Nothing else excuses one that did not succeed."""

    told: str
    """Description for people."""
    engine: Ticket | None = None
    """The attempt whose engine was killed. That attempt must have broken off."""
    workers: tuple[str, ...] = ()
    """Workers that were killed or frozen; their attempts may be lost."""
    everybody: bool = False
    """Whether any attempt that ran at that time may have been broken off, each job's once."""


@dataclass
class Scene:
    """The service and random numbers that a fault uses."""

    service: Service
    draw: Random
    away_seconds: float
    """How long a database is away."""
    submit: Callable[[], str]
    """Submits one more job, however long that takes; returns its id."""
    engines: Callable[[], list[EngineSeen]]
    """Returns the running engines. Where there is none, a job starts before long."""

    def linger(self, least: float, most: float) -> None:
        """Wait for a random time, in seconds."""
        pause(self.draw.uniform(least, most))

    def an_engine(self) -> EngineSeen:
        """Return a running engine, at a random moment of its life."""
        while True:
            wait_until(self.engines, "an engine runs", 180)
            engines = self.service.engines()
            if not engines:
                continue
            engine = self.draw.choice(engines)
            pause(self.draw.uniform(0, 6), while_=engine.is_alive)
            if engine.is_alive():
                return engine

    def a_worker(self) -> Part:
        """Return a worker, more often than not a busy one."""
        busy = [worker for worker in self.service.workers if worker.engines()]
        some = busy if busy and self.draw.random() < 0.85 else self.service.workers
        return self.draw.choice(some)


# ---- processes -------------------------------------------------------------------------------------------


def engine_killed(scene: Scene) -> Hit:
    """Kill an engine with SIGKILL."""
    engine = _hold(scene)
    engine.process.kill()
    return Hit(f"engine of {_description(engine)}", engine=engine.ticket)


def worker_killed(scene: Scene) -> Hit:
    """Kill a worker with SIGKILL.

    Its engine must die with it; it is restarted soon, or after its leases have ended.
    """
    scene.linger(0, 4)
    worker = scene.a_worker()
    name, engines = worker.worker, worker.engines()
    worker.kill()
    wait_until(lambda: not any(engine.is_alive() for engine in engines), "a killed worker's engines die")
    away = scene.draw.choice((scene.draw.uniform(0, 2), LEASE_SECONDS + scene.draw.uniform(1, 3)))
    pause(away)
    worker.start()
    return Hit(f"{worker.name} with {len(engines)} engine(s), away {away:.1f} s", workers=_names(name))


def api_killed(scene: Scene) -> Hit:
    """Kill the API with SIGKILL while a job is being submitted; the client repeats it with the same key."""
    api = scene.service.parts["api"]
    sender = threading.Thread(target=scene.submit)
    sender.start()
    scene.linger(0, 0.15)
    api.kill()
    scene.linger(0, 1)
    api.start()
    sender.join()
    return Hit("the API, while a job was sent")


def redis_killed(scene: Scene) -> Hit:
    """Kill Redis with SIGKILL; it keeps no data."""
    node = _node(scene)
    scene.linger(0, 3)
    node.redis.kill()
    scene.submit()
    scene.linger(0, 3)
    node.redis.start()
    return Hit("Redis, with every message in it; a job was sent meanwhile")


def postgres_killed(scene: Scene) -> Hit:
    """Kill PostgreSQL with SIGKILL."""
    node = _node(scene)
    whole = scene.draw.random() < 0.5
    scene.linger(0, 4)
    node.postgres.kill(whole=whole)
    scene.linger(0, 1.5)
    node.postgres.start()
    return Hit("all of PostgreSQL" if whole else "PostgreSQL's first process", everybody=True)


def worker_frozen(scene: Scene) -> Hit:
    """Stop a worker past its lease with SIGSTOP, while its engine continues."""
    return _frozen(scene, with_engines=False)


def worker_and_engine_frozen(scene: Scene) -> Hit:
    """Stop a worker and its engine past the lease with SIGSTOP, as when a machine is suspended."""
    return _frozen(scene, with_engines=True)


def _frozen(scene: Scene, *, with_engines: bool) -> Hit:
    worker = scene.a_worker()
    scene.linger(0, 3)
    name, engines = worker.worker, worker.engines() if with_engines else []
    worker.freeze()
    for engine in engines:
        with suppress(psutil.NoSuchProcess):
            engine.process.suspend()
    away = LEASE_SECONDS + scene.draw.uniform(1.5, 5)
    pause(away)
    everything = [*(engine.process.resume for engine in engines), worker.thaw]
    scene.draw.shuffle(everything)  # which continues first is random
    for go_on in everything:
        with suppress(psutil.NoSuchProcess):
            go_on()
    words = f"{worker.name}{f' and {len(engines)} engine(s)' if with_engines else ''} for {away:.1f} s"
    return Hit(words, workers=_names(name), everybody=isinstance(scene.service, Laptop))


# ---- messages --------------------------------------------------------------------------------------------


def redis_emptied(scene: Scene) -> Hit:
    """Send FLUSHALL while a job waits."""
    scene.submit()
    scene.linger(0, 2)
    _node(scene).redis.empty()
    return Hit("Redis, while a job waited")


def messages_lost(scene: Scene) -> Hit:
    """Lose every message for a while, waiting and new ones."""
    with _messages_arrive(scene, times=0) as wire:
        _node(scene).redis.empty()
        sent = _sent_meanwhile(scene, wire)
    return Hit(f"{sent} message(s)")


def messages_tripled(scene: Scene) -> Hit:
    """Deliver every message three times for a while."""
    with _messages_arrive(scene, times=3) as wire:
        sent = _sent_meanwhile(scene, wire)
    return Hit(f"{sent} message(s)")


@contextmanager
def _messages_arrive(scene: Scene, *, times: int) -> Iterator[Node]:
    node = _node(scene)
    node.wire.times = times
    try:
        yield node
    finally:
        node.wire.times = 1


def _sent_meanwhile(scene: Scene, node: Node) -> int:
    before = node.wire.messages
    scene.submit()
    wait_until(lambda: node.wire.messages > before, "a message is sent")
    scene.linger(0, 5)
    return node.wire.messages - before


def claimed_at_once(scene: Scene) -> Hit:
    """Claim one job from many threads at once, beside the workers. At most one may get it, and requeues it."""
    job_id = scene.submit()
    together = threading.Barrier(RIVALS)
    won: list[Ticket] = []

    def claim(name: str) -> None:
        together.wait()
        if claimed := store.commands.claim(job_id, name):
            won.append(claimed.ticket)

    names = tuple(f"rival-{scene.draw.getrandbits(32):08x}" for _ in range(RIVALS))
    threads = [threading.Thread(target=claim, args=(name,)) for name in names]
    with closing(Store(scene.service.database_url, lease_seconds=RIVAL_LEASE_SECONDS)) as store:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for ticket in won:
            store.commands.requeue(ticket, "a rival gives it back")
    if len(won) > 1:
        raise AssertionError(f"{len(won)} of {RIVALS} claims of one job were granted: {won}")
    return Hit(f"{RIVALS} claims of {job_id}, {len(won)} granted", workers=names)


# ---- database and clocks ---------------------------------------------------------------------------------


def database_silent(scene: Scene) -> Hit:
    """Stop the database's processes: connections stay, nothing answers."""
    node = _node(scene)
    scene.linger(0, 3)
    node.postgres.freeze()
    pause(scene.away_seconds)
    node.postgres.thaw()
    return Hit(f"PostgreSQL, for {scene.away_seconds:g} s", everybody=True)


def database_gone(scene: Scene) -> Hit:
    """Take the database away: connections are cut, new ones refused."""
    node = _node(scene)
    scene.linger(0, 3)
    node.postgres.kill(whole=True)
    pause(scene.away_seconds)
    node.postgres.start()
    return Hit(f"PostgreSQL, for {scene.away_seconds:g} s", everybody=True)


def database_locked(scene: Scene) -> Hit:
    """Write to the SQLite file in a transaction that does not end."""
    scene.linger(0, 3)
    path = scene.service.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        pause(scene.away_seconds)
        other.execute("ROLLBACK")
    return Hit(f"SQLite, for {scene.away_seconds:g} s", everybody=True)


JUMPS = (-7200.0, -3600.0, -60.0, -LEASE_SECONDS, LEASE_SECONDS, 60.0, 3600.0, 7200.0)
"""Seconds by which a clock is set wrong."""


def database_clock_jumps(scene: Scene) -> Hit:
    """Set the clock that leases are measured by; it stays wrong until it is set again."""
    node = _node(scene)
    ahead = scene.draw.choice(JUMPS)
    scene.linger(0, 4)
    node.postgres.set_clock(ahead)
    return Hit(f"the database's, now {ahead:+g} s", everybody=True)


def process_clock_jumps(scene: Scene) -> Hit:
    """Set the clock of one process; on a laptop that is the database's too."""
    part = scene.draw.choice(list(scene.service.parts.values()))
    ahead = scene.draw.choice(JUMPS)
    scene.linger(0, 4)
    part.set_clock(ahead)
    return Hit(f"that of {part.name}, now {ahead:+g} s", everybody=isinstance(scene.service, Laptop))


# ---- disk ------------------------------------------------------------------------------------------------


def disk_full(scene: Scene) -> Hit:
    """Fill the disk of runs and published files for a while (on a laptop: of the database, too)."""
    scene.an_engine()
    scene.service.fill_disk()
    scene.linger(1, 5)
    scene.service.make_room()
    return Hit("the home folder's", everybody=True)


def newest_state_torn(scene: Scene) -> Hit:
    """Damage the newest state, and kill the engine that would have written a better one."""
    engine = _hold(scene, lambda engine: _states_of(scene, engine))
    damage = scene.draw.choice((_cut_short, _emptied, _zeroed, _scribbled_on))
    damage(_states_of(scene, engine)[-1], scene.draw)
    engine.process.kill()
    how = damage.__name__.strip("_").replace("_", " ")
    return Hit(f"newest state of {_description(engine)}: {how}", engine=engine.ticket)


def _cut_short(path: Path, draw: Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def _emptied(path: Path, draw: Random) -> None:
    os.truncate(path, 0)


def _zeroed(path: Path, draw: Random) -> None:
    """Overwrite a block with zeros, as a failing disk does."""
    _overwrite(path, draw, bytes(4096))


def _scribbled_on(path: Path, draw: Random) -> None:
    _overwrite(path, draw, draw.randbytes(64))


def _overwrite(path: Path, draw: Random, content: bytes) -> None:
    """Write into the tensors, which are nearly all of the file: changed padding might do no harm."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(draw.randrange(size // 4, size // 2))
        file.write(content)


def _states_of(scene: Scene, engine: EngineSeen) -> list[Path]:
    """Return the states, oldest first."""
    folder = scene.service.home / "runs" / engine.ticket.job_id / "checkpoints"
    return sorted(folder.glob("[!.]*.pt"))


# ---- all of them -----------------------------------------------------------------------------------------


def _hold(scene: Scene, fits: Callable[[EngineSeen], object] = EngineSeen.is_alive) -> EngineSeen:
    """Return an engine that fits, stopped with SIGSTOP, so that it is certainly alive."""
    while True:
        engine = scene.an_engine()
        with suppress(psutil.NoSuchProcess):
            engine.process.suspend()
        pause(1, while_=engine.is_running)
        if engine.is_alive() and fits(engine):
            return engine
        with suppress(psutil.NoSuchProcess):
            engine.process.resume()


def _description(engine: EngineSeen) -> str:
    return f"job {engine.ticket.job_id}, attempt {engine.ticket.attempt}"


def _names(name: str | None) -> tuple[str, ...]:
    return (name,) if name else ()


def _node(scene: Scene) -> Node:
    assert isinstance(scene.service, Node)
    return scene.service


Fault = Callable[[Scene], Hit]


def serve_killed(scene: Scene) -> Hit:
    """Kill API and worker at once with SIGKILL, since they are one process."""
    hit = worker_killed(scene)
    return Hit(hit.told, everybody=True)


ON_A_NODE: tuple[Fault, ...] = (
    engine_killed,
    worker_killed,
    api_killed,
    redis_killed,
    postgres_killed,
    redis_emptied,
    messages_lost,
    messages_tripled,
    worker_frozen,
    worker_and_engine_frozen,
    database_silent,
    database_gone,
    database_clock_jumps,
    process_clock_jumps,
    disk_full,
    newest_state_torn,
    claimed_at_once,
)
ON_A_LAPTOP: tuple[Fault, ...] = (
    engine_killed,
    serve_killed,
    worker_frozen,
    worker_and_engine_frozen,
    database_locked,
    process_clock_jumps,
    disk_full,
    newest_state_torn,
    claimed_at_once,
)
