"""The queue of a sweep: exactly so many results, none twice, whatever dies between two steps. No training here."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from daybreak.sweeping import alive
from daybreak.sweeping.alive import Heartbeat, Watcher, machine
from daybreak.sweeping.queue import FATAL, MAX_DEATHS, Queue, is_done
from daybreak.sweeping.storage import open_storage, open_study

Opened = Callable[[], Queue]


def random(_place: int) -> optuna.samplers.BaseSampler:
    """Draws something else each time: what is drawn twice was not drawn."""
    return optuna.samplers.RandomSampler()


def opener(path: Path, size: int) -> Opened:
    """A queue of a process of its own, as it were: with a connection of its own to the storage."""

    def opened() -> Queue:
        storage = open_storage(str(path))
        return Queue(open_study(storage, "study"), storage, size)

    return opened


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return opener(tmp_path / "journal.log", 3)


def take(queue: Queue) -> tuple[int, float]:
    """Take a trial and draw for it: its number and value."""
    trial = queue.take(random)
    assert trial is not None
    return trial.number, trial.suggest_float("x", 0, 1)


def dead_process() -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    process.kill()
    process.wait()
    return {"machine": machine(), "process": process.pid, "started": started}


def test_filling_it_twice_queues_nothing_twice(opened: Opened) -> None:
    one, other = opened(), opened()
    one.refill()
    other.refill()
    assert [t.user_attrs["place"] for t in one.study.get_trials()] == [0, 1, 2]


def test_of_two_who_queue_the_same_at_once_the_first_counts(opened: Opened) -> None:
    one, other = opened(), opened()
    one.refill()
    other._enqueue({"x": 0.5}, 1, 0)  # it had looked before the first one had written
    taken = [take(queue)[0] for queue in (one, other, one)]
    assert taken == [0, 1, 2]
    assert one.take(random) is None
    for number in taken:
        assert one.finish(number, number / 10)
    assert is_done(one.refill())
    assert [place.last.value for place in other.places() if place.last] == [0.0, 0.1, 0.2]


def test_every_place_is_taken_by_one_alone(tmp_path: Path) -> None:
    """Eight at once, each with a connection of its own, take all of thirty."""
    opened = opener(tmp_path / "journal.log", 30)
    opened().refill()

    def work(_number: int) -> list[int]:
        queue, mine = opened(), []
        while (trial := queue.take(random)) is not None:
            mine.append(trial.number)
            queue.finish(trial.number, 0.5)
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = [number for mine in pool.map(work, range(8)) for number in mine]
    assert sorted(taken) == list(range(30))
    assert is_done(opened().places())


def test_a_dead_workers_trial_is_run_again_with_its_settings(opened: Opened) -> None:
    dead, living = opened(), opened()
    dead.refill()
    number, x = take(dead)
    trial_id = dead.storage.get_trial_id_from_study_id_trial_number(dead._study_id, number)
    dead.storage.set_trial_user_attr(trial_id, "worker", dead_process())
    for _ in range(3):  # again and again it is one more attempt
        places = living.refill()
    assert not is_done(places)
    assert [len(place.attempts) for place in living.places()] == [2, 1, 1]
    again, same = take(living)
    assert (again, same) == (3, x)
    assert not dead.finish(number, 0.9)  # it comes back, and counts for nothing
    assert living.finish(again, 0.4)
    assert living.places()[0].last.value == 0.4  # type: ignore[union-attr]


def test_who_dies_between_two_steps_leaves_nothing_undone(opened: Opened) -> None:
    """A trial was taken from a dead worker, and who took it died before it could queue it again."""
    queue = opened()
    queue.refill()
    number, x = take(queue)
    queue._end(number, "FAIL")
    opened().refill()
    assert take(queue) == (3, x)


def test_a_living_workers_trial_is_left_alone(opened: Opened) -> None:
    queue = opened()
    queue.refill()
    take(queue)
    assert [len(place.attempts) for place in opened().refill()] == [1, 1, 1]
    assert [place.last.state.name for place in queue.places() if place.last] == ["RUNNING", "WAITING", "WAITING"]


def test_elsewhere_a_worker_is_dead_when_its_number_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(alive.time, "monotonic", lambda: clock[0])
    watcher, worker = Watcher(), {"machine": "elsewhere", "process": 1, "started": 1.0}
    seen = []
    for seconds, beat in ((0, None), (59, None), (59, 1), (59, 2), (59, 2), (2, 2), (0, 3)):
        clock[0] += seconds
        seen.append(watcher.is_dead(7, {"worker": worker} | ({} if beat is None else {"beat": beat})))
    assert seen == [False, False, False, False, False, True, False]


def test_a_process_with_the_number_of_a_dead_one_is_another() -> None:
    me = psutil.Process()
    mine = {"machine": machine(), "process": me.pid, "started": me.create_time()}
    assert not Watcher().is_dead(0, {"worker": mine})
    assert Watcher().is_dead(0, {"worker": mine | {"started": me.create_time() - 5}})


def test_a_heartbeat_counts_and_hears_that_the_trial_is_taken(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "BEAT_SECONDS", 0.01)
    queue, other = opened(), opened()
    queue.refill()
    trial = queue.take(random)
    assert trial is not None
    with Heartbeat(trial) as heartbeat:
        while other.places()[0].last.user_attrs.get("beat", 0) < 3:  # type: ignore[union-attr]
            pass
        assert not heartbeat.taken
        other._end(trial.number, "FAIL")
        heartbeat._thread.join(30)
        assert heartbeat.taken


def test_a_trial_that_kills_every_worker_is_given_up(opened: Opened) -> None:
    queue = opened()
    queue.refill()
    for death in range(MAX_DEATHS):
        place = queue.places()[0]
        assert (place.deaths, place.is_done) == (death, False)
        trial = queue.take(random)
        assert trial is not None
        assert trial.number == (0 if not death else 2 + death)
        queue.lose(trial.number)
    place = queue.refill()[0]
    assert place.is_done
    assert place.reason == FATAL
    assert len(place.attempts) == MAX_DEATHS


def test_being_stopped_is_no_death(opened: Opened) -> None:
    queue = opened()
    queue.refill()
    for _ in range(MAX_DEATHS + 1):
        trial = queue.take(random)
        assert trial is not None
        queue.give_back(trial.number)
        assert queue.places()[0].deaths == 0
    assert not is_done(queue.places())


def test_a_reason_is_a_result(opened: Opened) -> None:
    queue = opened()
    queue.refill()
    number, _ = take(queue)
    assert queue.finish(number, reason="step 3: the loss is not finite")
    place = queue.refill()[0]
    assert place.is_done
    assert place.reason == "step 3: the loss is not finite"
    assert len(place.attempts) == 1


def test_fewer_are_a_part_of_more(tmp_path: Path) -> None:
    many, few = opener(tmp_path / "journal.log", 5)(), opener(tmp_path / "journal.log", 2)()
    many.refill()
    for _ in range(2):
        many.finish(take(many)[0], 0.5)
    assert is_done(few.refill())
    assert not is_done(many.refill())
    assert few.take(random) is None


def test_places_with_settings_of_their_own_get_those(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "journal.log"))
    queue = Queue(open_study(storage, "study"), storage, 3, [{"x": 0.25}, {"x": 0.75}])
    queue.refill()
    assert [take(queue)[1] for _ in range(2)] == [0.25, 0.75]
