"""Where the trials of a sweep are kept: a journal file, PostgreSQL or Redis, for any number of processes.

A journal is for processes of one machine or of several that share a folder. With a database they need to share
nothing else.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from daybreak.core.errors import StorageError, UsageError
from daybreak.core.extras import needing
from daybreak.core.files import make_folder, storage_errors

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

POSTGRESQL, REDIS = ("postgresql", "postgres"), ("redis", "rediss")
KNOWN = "a file, postgresql://USER@HOST/DATABASE or redis://HOST"
GO_ON = "the same command once it can be reached: nothing that was finished is lost"


def is_url(storage: str) -> bool:
    """Whether a storage is a server, not a file."""
    return "://" in storage


def without_password(storage: str) -> str:
    """A URL as it may be shown."""
    if not is_url(storage):
        return storage
    parts = urlsplit(storage)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=user + host, query="").geturl()


MAKERS = 5  # times to ask for a database that others are setting up


def open_storage(storage: str) -> "BaseStorage":
    """Optuna's storage for a file or URL.

    Raises:
        UsageError: there is no such kind, or its package is not installed.
        StorageError: it cannot be reached, or the file cannot be written.
    """
    import optuna
    from optuna.storages import journal

    optuna.logging.set_verbosity(logging.ERROR)
    with storage_calls(storage), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        scheme = urlsplit(storage).scheme if is_url(storage) else ""
        if scheme in POSTGRESQL:
            return _postgresql(storage)
        if scheme in REDIS:
            with needing("sweep", f"--storage {scheme}://"):
                import redis  # noqa: F401 - Optuna imports it later, and would say less
            return optuna.storages.JournalStorage(journal.JournalRedisBackend(storage))
        if scheme:
            raise UsageError(f"--storage {without_password(storage)}", "no such kind of storage", KNOWN)
        path = Path(storage)
        with storage_errors(path):
            make_folder(path.parent)
            backend = journal.JournalFileBackend(storage)
        return optuna.storages.JournalStorage(backend)


def open_study(storage: "BaseStorage", name: str) -> "Study":
    """The study of this name, made if it is not there."""
    import optuna

    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


@contextmanager
def storage_calls(storage: str) -> Iterator[None]:
    """Turn what a server's client raises into one error that names the storage.

    Raises:
        StorageError: it cannot be reached, or refuses.
    """
    failures = _failures()
    try:
        yield
    except failures as error:
        cause = error.__cause__ or error
        why = " ".join(str(cause).split("\n(Background")[0].split())[:200]
        raise StorageError(without_password(storage), f"the storage fails ({why})", GO_ON) from None


def _failures() -> tuple[type[Exception], ...]:
    """What clients raise, of those that are installed."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    found: list[type[Exception]] = [StorageInternalError, SQLAlchemyError]
    try:
        from redis.exceptions import RedisError
    except ModuleNotFoundError:
        return tuple(found)
    return (*found, RedisError)


def _postgresql(storage: str) -> "BaseStorage":
    """A database. Connections are asked whether they still work before they are used: a trial can take hours, and
    servers drop what is idle for long."""
    import optuna

    with needing("sweep", "--storage postgresql://"):
        import psycopg2  # noqa: F401 - SQLAlchemy imports it later, and would say less
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    url = "postgresql+psycopg2" + storage[storage.index("://") :]
    for _ in range(MAKERS):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError):  # another process is making the tables of an empty database
            time.sleep(1.0)
    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
