"""Errors as Ray's layers wrap them. Real ones are in tests/e2e/test_mixer_errors.py."""

import pytest
import ray
import torch
from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import ControllerError

from diffmix.errors import UserError
from engine.failures import StopAtUserErrors, fitting_in_memory, user_error, user_errors

SENTENCE = "There is no base model at there; choose another."


def as_task_error(error: Exception) -> Exception:
    """What `ray.get` raises for a task's error: of its type too, with the traceback in its text."""
    wrapped = ray.exceptions.RayTaskError("work", "a traceback\nof many lines", error)
    return wrapped.as_instanceof_cause()


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        UserError(SENTENCE),
        UserError(f"{SENTENCE}\nRay Data retried it."),
        as_task_error(UserError(SENTENCE)),
        as_task_error(as_task_error(UserError(SENTENCE))),
        caused(RuntimeError("the stream broke off"), as_task_error(UserError(SENTENCE))),
    ],
)
def test_the_sentence_alone_is_found(error):
    assert str(user_error(error)) == SENTENCE


def test_a_train_workers_error_is_found():
    class FailedError(TrainingFailedError):
        def __init__(self, worker_failures):
            self.worker_failures = worker_failures

    with pytest.raises(UserError) as found, user_errors():
        raise FailedError({0: RuntimeError("another"), 1: as_task_error(UserError(SENTENCE))})
    assert str(found.value) == SENTENCE


def test_other_errors_stay_as_they_are():
    assert user_error(RuntimeError("no sentence")) is None
    circle = RuntimeError("a")
    assert user_error(caused(circle, caused(RuntimeError("b"), circle))) is None
    with pytest.raises(ray.exceptions.RayTaskError), user_errors():
        raise as_task_error(RuntimeError("no sentence"))
    with pytest.raises(KeyError), user_errors():
        raise KeyError("not of Ray")


def test_a_user_error_ends_a_ray_train_run_at_once():
    stop = StopAtUserErrors()
    stop.after_exception(None, {0: RuntimeError("a node is gone")})
    with pytest.raises(UserError, match=SENTENCE):
        stop.after_exception(None, {1: as_task_error(UserError(SENTENCE))})
    with pytest.raises(UserError) as found, user_errors():
        raise ControllerError(UserError(SENTENCE))
    assert str(found.value) == SENTENCE


def test_memory_that_runs_out_is_a_sentence():
    says = r"^That batch does not fit in memory \(CUDA out of memory\); lower it\.$"
    with pytest.raises(UserError, match=says), fitting_in_memory("That batch", "lower it"):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nand more")
    with pytest.raises(RuntimeError, match="another"), fitting_in_memory("That batch", "lower it"):
        raise RuntimeError("another")
