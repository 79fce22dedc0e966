"""The trials of a sweep as places in a queue: exactly so many results, none twice, whoever dies when.

Every trial asked for is a *place*, and an attempt at it is a trial of Optuna's with the place and the number of the
attempt in its attributes. All places are queued before anything is drawn for them: the sampler draws when a worker
takes one, and so knows all results until then. Three rules make this safe without any lock of ours:

- To take an attempt is to change its state from waiting to running, which every storage lets one worker do alone; to
  finish it likewise. A worker that was taken for dead and comes back finds its trial finished, and its result counts
  for nothing.
- What is to be queued is worked out from what is there (`Queue.refill`), by whoever comes along, again and again. A
  process that dies between two steps leaves nothing that the next one would not complete.
- Two processes may queue the same attempt at the same moment. Of several the one with the lowest number counts: numbers
  are given in one order, so that who sees the higher one sees the lower one too. The others are never taken.

An attempt that failed without a reason is lost with its worker, or was given back by one that was stopped: the next
attempt has its settings. A training whose loss stopped being finite has a reason, and is a result.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daybreak.sweeping.alive import WORKER, Watcher, myself

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

PLACE, ATTEMPT, REASON, GIVEN_BACK = "place", "attempt", "reason", "given_back"  # attributes of a trial
MAX_DEATHS = 3  # of workers by one trial: it may be what kills them
FATAL = f"the worker died {MAX_DEATHS} times"


@dataclass(frozen=True)
class Place:
    """What has become of one of the trials asked for.

    Attributes:
        attempts: in order; without those that were queued twice.
    """

    number: int
    attempts: tuple["FrozenTrial", ...]

    @property
    def last(self) -> "FrozenTrial | None":
        return self.attempts[-1] if self.attempts else None

    @property
    def is_lost(self) -> bool:
        """Whether the last attempt ended without a result."""
        return self.last is not None and _is_lost(self.last) and self.deaths < MAX_DEATHS

    @property
    def is_done(self) -> bool:
        return self.last is not None and self.last.state.is_finished() and not self.is_lost

    @property
    def deaths(self) -> int:
        return sum(_is_lost(t) and not t.user_attrs.get(GIVEN_BACK) for t in self.attempts)

    @property
    def reason(self) -> str | None:
        """Why there is a result without an accuracy."""
        if self.last is None or self.last.state.name != "FAIL":
            return None
        return str(self.last.user_attrs.get(REASON, FATAL))


class Queue:
    """The places of a study, and what may be done with them.

    Args:
        size: how many trials are asked for.
        points: settings of the first places, as Optuna calls their values; of all others the sampler's.
    """

    def __init__(
        self, study: "Study", storage: "BaseStorage", size: int, points: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.study, self.storage, self.size = study, storage, size
        self._points = points
        self._watcher = Watcher()
        self._study_id = storage.get_study_id_from_name(study.study_name)

    def places(self) -> list[Place]:
        """All places with their attempts, as the storage has them now."""
        attempts: dict[tuple[int, int], FrozenTrial] = {}
        for trial in sorted(self.study.get_trials(deepcopy=False), key=lambda t: t.number):
            attempts.setdefault((trial.user_attrs[PLACE], trial.user_attrs[ATTEMPT]), trial)
        by_place: dict[int, list[FrozenTrial]] = {number: [] for number in range(self.size)}
        for (place, _), trial in sorted(attempts.items(), key=lambda item: item[0]):
            if place in by_place:  # the study may have been asked for more before
                by_place[place].append(trial)
        return [Place(number, tuple(found)) for number, found in by_place.items()]

    def refill(self) -> list[Place]:
        """Take trials back from workers that died, queue what is missing, and return the places as they are then."""
        running = [place.last for place in self.places() if place.last and place.last.state.name == "RUNNING"]
        for trial in running:
            if self._watcher.is_dead(trial.number, trial.user_attrs):
                self._end(trial.number, "FAIL")
        places = self.places()
        for place in places:
            if place.last is None:
                known = place.number < len(self._points)
                self._enqueue(self._points[place.number] if known else {}, place.number, 0)
            elif place.is_lost:
                self._enqueue(place.last.params, place.number, place.last.user_attrs[ATTEMPT] + 1)
        return places

    def take(self, make_sampler: Callable[[int], "BaseSampler"]) -> "Trial | None":
        """An attempt that nobody else has, now running; None where none is waiting.

        Args:
            make_sampler: the sampler for a place.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import Trial, TrialState

        for place in self.places():
            if place.last is None or place.last.state != TrialState.WAITING:
                continue
            trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, place.last.number)
            try:
                is_mine = self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            except UpdateFinishedTrialError:
                is_mine = False
            if is_mine:
                self.storage.set_trial_user_attr(trial_id, WORKER, myself())
                self.study.sampler = make_sampler(place.number)
                return Trial(self.study, trial_id)
        return None

    def give_back(self, number: int) -> None:
        """Let others run the trial of this number, with its settings, from its beginning."""
        self._end(number, "FAIL", attrs={GIVEN_BACK: True})
        self.refill()

    def lose(self, number: int) -> None:
        """The same after an error; it counts as a death of the worker."""
        self._end(number, "FAIL")
        self.refill()

    def finish(
        self,
        number: int,
        value: float | None = None,
        *,
        pruned: bool = False,
        reason: str | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> bool:
        """Write down the result of a trial.

        Args:
            value: its accuracy; where it was pruned, the last one that was seen.
            reason: why it has no accuracy.
            attrs: what else there is to say, as plain values.

        Returns:
            Whether it counts; not where the worker was taken for dead meanwhile.
        """
        if reason is not None:
            return self._end(number, "FAIL", attrs={**(attrs or {}), REASON: reason})
        return self._end(number, "PRUNED" if pruned else "COMPLETE", value, attrs)

    def _end(self, number: int, state: str, value: float | None = None, attrs: Mapping[str, Any] | None = None) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        try:
            for key, attr in (attrs or {}).items():
                self.storage.set_trial_user_attr(trial_id, key, attr)
            self.storage.set_trial_state_values(trial_id, TrialState[state], None if value is None else [value])
        except UpdateFinishedTrialError:
            return False
        return True

    def _enqueue(self, params: Mapping[str, Any], place: int, attempt: int) -> None:
        self.study.enqueue_trial(dict(params), user_attrs={PLACE: place, ATTEMPT: attempt})


def is_done(places: Iterable[Place]) -> bool:
    """Whether every place has a result."""
    return all(place.is_done for place in places)


def _is_lost(trial: "FrozenTrial") -> bool:
    return trial.state.name == "FAIL" and REASON not in trial.user_attrs
