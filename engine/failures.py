"""Finding the user error in an error that came through Ray's layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray
import ray.train

from diffmix.errors import UserError, reason

_STARTING = "creation task"  # in Ray's text about an actor whose `__init__` raised


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise the `UserError` behind an error of Ray's in the block instead of it. Other errors stay
    as they are.
    """
    try:
        yield
    except (ray.exceptions.RayError, ray.train.TrainingFailedError) as error:
        found = user_error(error)
        if found is None:
            raise
        raise found from error


def user_error(error: BaseException) -> UserError | None:
    """The `UserError` behind an error of Ray's or Ray Train's, with its own sentence alone. None
    where there is none.
    """
    causes: list[BaseException | None] = [error, *getattr(error, "worker_failures", {}).values()]
    seen: set[int] = set()
    while causes:
        cause = causes.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        # Ray raises a task's error as a type of its own that is also the error's type, with the
        # traceback in its text; `cause` is the original.
        inner = getattr(cause, "cause", None) or getattr(cause, "controller_failure", None)
        if isinstance(cause, UserError) and not isinstance(inner, UserError):
            return UserError(str(cause).partition("\n")[0])  # Ray Data adds lines about its retries
        if isinstance(cause, ray.exceptions.ActorDiedError) and _STARTING in str(cause):
            # Every try on every node has failed: starting all again would not help.
            last = str(cause).strip().splitlines()[-1].strip()
            return UserError(
                f"No mixer could start ({last.rstrip('.')}); mend that on the mixing nodes and "
                "give the same command again."
            )
        causes += [inner if isinstance(inner, BaseException) else None, cause.__cause__]
    return None


class StopAtUserErrors(ray.train.UserCallback):
    """Ends a Ray Train run at the first `UserError` of a worker. Another attempt would load
    everything again to raise it again.
    """

    def after_exception(self, run_context: object, worker_exceptions: dict) -> None:
        for error in worker_exceptions.values():
            found = user_error(error)
            if found is not None:
                raise found


@contextlib.contextmanager
def fitting_in_memory(what: str, advice: str) -> Iterator[None]:
    """Raises a `UserError` where a device's memory runs out inside: `what` does not fit; `advice`.
    It knows torch's error by its name, because torch may not be loaded yet.
    """
    try:
        yield
    except RuntimeError as error:
        if "OutOfMemoryError" not in [kind.__name__ for kind in type(error).__mro__]:
            raise
        raise UserError(f"{what} does not fit in memory ({reason(error)}); {advice}.") from error
