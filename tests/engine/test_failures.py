"""Errors as Ray's layers wrap them. Real ones are in tests/e2e/test_mixer_errors.py."""

import pytest
import ray
from ray.train import TrainingFailedError

from diffmix.errors import UserError
from engine.failures import user_error, user_errors

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
