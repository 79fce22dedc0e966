"""The end of a training: what is evaluated and written down, also of one that was stopped or failed."""

from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from daybreak.core import metrics
from daybreak.core.errors import BadStepError, NonFiniteError, StorageError
from daybreak.core.events import OnEvent
from daybreak.core.options import TrainOptions
from daybreak.core.signals import StopRequest
from daybreak.runs.classifier import predict_test
from daybreak.runs.directory import RunDirectory
from daybreak.runs.predictions import Predictions
from daybreak.training import state
from daybreak.training.loop import fit
from daybreak.training.session import Session
from daybreak.training.summary import ended_at_target, model_card, over_budget, summary_of


def to_the_end(
    session: Session,
    run: RunDirectory,
    options: TrainOptions,
    stop: StopRequest,
    on_event: OnEvent,
    by_features: bool = False,
) -> RunDirectory:
    """Train, evaluate, and write down the result."""
    try:
        ending = fit(session, run, stop, options, on_event)
    except NonFiniteError as error:
        with suppress(StorageError):  # the bad step is what the user has to know
            _write_what_is_left(session, run, options, error)
        raise
    finally:
        session.graphs.clear()  # they hold on to the session, and so to the device's memory
    if ending == "validation":
        on_event({"event": "note", "why": ended_at_target(session, options)})
    for why in over_budget(session, options):
        on_event({"event": "note", "why": why})
    keeps_best = options.keep == "best" and not stop.signal
    weights_of_step = _take_best(session, run) if keeps_best else session.step
    _write_model(session, run)
    on_event({"event": "phase", "what": f"evaluating {len(session.dataset.test.labels_N):,} test images"})
    predictions = None if stop.signal else evaluate_finished(session, run, stop, by_features)
    summary = summary_of(
        session,
        options,
        predictions,
        val_acc=_val_acc(session) if predictions else None,
        interrupted=None if predictions else stop.signal,  # what comes later does not undo a finished training
        ending=ending,
        weights_of_step=weights_of_step,
    )
    run.write_summary(summary)
    session.team.say(lambda: "")  # that it is there
    on_event({"event": "end"} | summary)
    for callback in session.extensions.callbacks:
        callback.on_end(summary)
    return run


def _take_best(session: Session, run: RunDirectory) -> int:
    """Give all processes the best epoch's weights; returns its step."""
    step = session.team.say(lambda: state.take_best(session, run.checkpoints))
    session.team.align([*session.net.state_dict().values(), *session.classifier.net.state_dict().values()])
    return step


def _write_what_is_left(session: Session, run: RunDirectory, options: TrainOptions, error: NonFiniteError) -> None:
    """The net before a bad step. Where the net itself is not finite, the result of an earlier part of the run stays."""
    if isinstance(error, BadStepError):
        _write_model(session, run)
    if not run.has_result:
        run.write_summary(summary_of(session, options, error=str(error)))


def _write_model(session: Session, run: RunDirectory) -> None:
    run.remove_results()  # a resumed run may have some, of the weights that are now replaced
    run.write_model(session.classifier.net, model_card(session))


def evaluate_finished(
    session: Session, run: RunDirectory, stop: StopRequest, by_features: bool = False
) -> Predictions | None:
    """Store what the finished net says about the test images; None where a signal came."""
    classifier, test = session.classifier, session.dataset.test

    def on_features() -> Predictions:
        logits_NK = session.logits("test", test, slice(None), classifier.size)
        return Predictions(logits_NK, logits_NK, np.asarray(test.labels_N), np.asarray(test.names, dtype=np.str_))

    ask = on_features if by_features and session.features else partial(_shared_predictions, session)
    with session.watch.timed("evaluate"), session.watch.timed("final"):
        predictions = stop.unless_stopped(ask)
    if predictions:
        run.write_predictions(predictions)
    return predictions


def _shared_predictions(session: Session) -> Predictions:
    """What the finished net says about the test images, of which each process asks it about its share."""
    test, team = session.dataset.test, session.team
    count = len(test.labels_N)
    rows = team.rows(count)
    mine = (
        test
        if team.size == 1
        else replace(test, images_NHWC=test.images_NHWC[rows], labels_N=test.labels_N[rows], names=test.names[rows])
    )
    found = predict_test(session.classifier, mine, session.recipe.tta)
    names = np.asarray(test.names, dtype=np.str_)
    logits, averaged = (team.gathered(part, count) for part in (found.logits, found.logits_tta))
    return Predictions(logits, averaged, np.asarray(test.labels_N), names)


def _val_acc(session: Session) -> float | None:
    """Accuracy of the finished net on the validation part, one view, at full size."""
    part = session.dataset.validation
    if part is None:
        return None
    with session.watch.timed("evaluate"):
        return metrics.accuracy(session.logits("val", part, slice(None), session.classifier.size), part.labels_N)
