"""How the processes of a launcher find each other, also when they have been started again.

torchrun gives all attempts at a training the same store of keys and values, where addresses of processes that have died
are still to be found. So the processes first agree on a name that no attempt had before, and meet under it.
"""

import json
import secrets
import time
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

PAUSE_SECONDS = 0.02


def meet(rank: int, size: int, timeout: timedelta) -> Store:
    """The store at the launcher's address, for these processes and this attempt alone.

    Raises:
        RuntimeError: the others did not come in time.
    """
    store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
    ends = time.monotonic() + timeout.total_seconds()
    name = _invite(store, size, ends) if rank == 0 else _answer(store, rank, ends)
    return PrefixStore(f"daybreak/{name}", store)


def _invite(store: Store, size: int, ends: float) -> str:
    """Propose a new name to all who say hello, until all have accepted it. What is heard first may come from a process
    that has died."""
    name, others = secrets.token_hex(8), range(1, size)
    heard: dict[str, str] = {}
    while not all(_read(store, f"accepted/{rank}") == name for rank in others):
        _check_time(ends)
        now = {str(rank): _read(store, f"hello/{rank}") for rank in others}
        if now != heard or not heard:
            heard = now
            store.set("daybreak/invitation", json.dumps({"name": name, "to": heard}))
        time.sleep(PAUSE_SECONDS)
    return name


def _answer(store: Store, rank: int, ends: float) -> str:
    """Say hello, and accept the name that is proposed to whoever said it."""
    me = secrets.token_hex(8)
    store.set(f"daybreak/hello/{rank}", me)
    while True:
        invitation = json.loads(_read(store, "invitation") or "{}")
        if invitation.get("to", {}).get(str(rank)) == me:
            name = str(invitation["name"])
            store.set(f"daybreak/accepted/{rank}", name)
            return name
        _check_time(ends)
        time.sleep(PAUSE_SECONDS)


def _read(store: Store, key: str) -> str:
    """A value, or nothing where nobody has written one. (`get` alone would wait for it.)"""
    name = f"daybreak/{key}"
    return store.get(name).decode() if store.check([name]) else ""


def _check_time(ends: float) -> None:
    if time.monotonic() > ends:
        raise RuntimeError("the others did not come")
