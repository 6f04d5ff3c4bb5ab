"""A device that fails under a server: requests are told so, and the next ones are answered."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import uvicorn

from tests.runtime.models import model_on
from tests.runtime.test_scheduler import Taken
from tests.support.device_faults import OwnDevices
from workbench.errors import NoAdapterError, OutOfMemoryError, PromptTooLongError
from workbench.serve.app import Limits, make_app
from workbench.serve.asked import Served
from workbench.serve.engine import Engine
from workbench.serve.errors import QueueFullError, UnavailableError
from workbench.serve.server import _Server

from .conftest import CONTEXT
from .test_requests import ask, refused
from .test_server import text_of, until

PATH = "/v1/completions"


class Doors(OwnDevices):
    """Devices of which another one is given only when the door is open; at the first try there is no adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tries = threading.Event(), 0
        self.open.set()

    def __call__(self):
        if self.opened and self.opened[-1].lost:
            self.tries += 1
            assert self.open.wait(30)
            if self.tries == 1:
                raise NoAdapterError("no adapter at the moment")
        return super().__call__()


def test_a_lost_device_is_told_and_replaced(folder, reference, adapter):
    doors = Doors()
    model = model_on(folder, doors, max_tokens=CONTEXT)
    one = reference.encode_prompt("Once")[:1]
    body = {"prompt": one, "max_tokens": 6, "temperature": 0}
    with closing(Engine(model, 1, 8)) as engine, ThreadPoolExecutor(2) as pool:
        app = make_app(engine, Served(model, "stories"), Limits(10_000))
        before = ask(app, PATH, body).json()["choices"][0]["text"]
        assert before == text_of(reference, one, 6)
        endless = body | {"max_tokens": CONTEXT - 1, "temperature": 100, "seed": 1}
        running = pool.submit(ask, app, PATH, endless)
        until(lambda: engine.running == 1)  # else the other one may be the first
        waiting = pool.submit(ask, app, PATH, endless)
        until(lambda: engine.waiting == 1)
        doors.open.clear()
        with doors.opened[
            0
        ].lock:  # between two steps: wgpu ends the process that submits to a device lost meanwhile
            doors.opened[0].wgpu.destroy()
        lost = running.result(30)
        assert refused(lost, 503)["code"] == "device_lost" and lost.headers["retry-after"] == "1"
        health = ask(app, "/health", None, method="GET")
        assert health.status_code == 503 and "starting again after: the device" in health.json()["reason"]
        assert "starting again" in refused(ask(app, PATH, body), 503)["message"]
        doors.open.set()
        assert "no adapter at the moment" in refused(waiting.result(30), 503)["message"]
        until(lambda: ask(app, "/health", None, method="GET").status_code == 200, 60)
        assert ask(app, PATH, body).json()["choices"][0]["text"] == before
        assert len(doors.opened) == 2 and doors.tries > 1


def test_what_should_not_happen_ends_the_answers_and_not_the_engine(reference, monkeypatch, caplog):
    """A mistake below: whoever runs is told, and the batch is made anew."""
    with closing(Engine(reference, 2, 8)) as engine:
        job = Taken([5], 200)
        real, batch = engine._scheduler.batch.feed, engine._scheduler.batch
        monkeypatch.setattr(batch, "feed", lambda texts: 1 / 0 if len(job.drawn) > 2 else real(texts))
        monkeypatch.setattr(batch, "greedy_after", lambda tokens, count: 1 / 0)
        engine.submit([job])
        until(lambda: job.ends)
        assert isinstance(job.error, ZeroDivisionError) and "should not have happened" in caplog.text
        until(lambda: engine.unavailable is None)
        other = Taken([5], 4)
        engine.submit([other])
        until(lambda: other.ends)
        assert other.tokens == list(reference.generate_ids([5], 4))


def test_a_job_that_is_refused_ends_alone(reference):
    """Requests are checked before; what gets past that must end neither the thread nor the jobs beside it."""
    with closing(Engine(reference, 2, 8)) as engine:
        long, muddled, good = Taken([5] * (CONTEXT + 1)), Taken([5], scored=True), Taken([5], 4)
        engine.submit([long, muddled, good])
        until(lambda: all(job.ends for job in (long, muddled, good)))
        assert isinstance(long.error, PromptTooLongError) and f"{CONTEXT} positions" in str(long.error)
        assert "scored says how many" in str(muddled.error)
        assert good.error is None and good.tokens == list(reference.generate_ids([5], 4))
        assert engine.unavailable is None and engine.waiting == engine.running == 0


def test_jobs_that_wait_can_be_taken_back_and_have_a_bound(reference):
    with closing(Engine(reference, 1, 3)) as engine:
        jobs = [Taken([5], 250) for _ in range(3)]
        engine.submit(jobs)
        until(lambda: engine.running == 1)
        with pytest.raises(
            QueueFullError, match="2 answers are waiting, and 2 more do not fit into a queue of 3"
        ):
            engine.submit([Taken([5]), Taken([5])])
        engine.cancel(jobs[1:])
        assert engine.waiting == 0
        engine.cancel(jobs)
        until(lambda: engine.running == 0)
        assert jobs[0].finish_reason == "cancelled" and not any(job.ends for job in jobs[1:])
        engine.submit([late := Taken([5], 250)])
        engine.refuse("the server is stopping")
        with pytest.raises(UnavailableError, match="stopping"):
            engine.submit([Taken([5])])
        began = time.monotonic()
        engine.end_all()
        until(lambda: late.ends)
    assert isinstance(late.error, UnavailableError) and time.monotonic() - began < 5


def test_a_second_signal_ends_what_is_still_answered(reference):
    with closing(Engine(reference, 1, 3)) as engine:
        app = make_app(engine, Served(reference, "stories"), Limits(10_000))
        server = _Server(uvicorn.Config(app), engine, app.state.bodies, grace=60)
        engine.submit([job := Taken([5], 250)])
        until(lambda: job.drawn)
        server.handle_exit(signal.SIGTERM, None)
        assert server.should_exit and not job.ends
        server.handle_exit(signal.SIGINT, None)
        until(lambda: job.ends)
        assert isinstance(job.error, UnavailableError) and not server.force_exit
        server.handle_exit(signal.SIGINT, None)
        assert server.force_exit


@pytest.mark.parametrize("reuse", [True, False])
def test_prompts_are_read_anew_where_that_is_asked_for(reference, reuse):
    with closing(Engine(reference, 1, 8, reuse=reuse)) as engine:
        for expected in (0, 40 * reuse):
            engine.submit([job := Taken(range(5, 46), 2)])
            until(lambda job=job: job.ends)
            assert job.reused == expected


def test_what_does_not_fit_is_said_when_the_server_starts(folder, adapter):
    own = OwnDevices()
    model = model_on(folder, own, max_tokens=CONTEXT)
    with pytest.raises(OutOfMemoryError, match="ask for fewer sequences"):
        Engine(model, 1_000_000, 8)
    assert own.opened[0].allocated == 0
