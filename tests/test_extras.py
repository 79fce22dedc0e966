"""What is not installed is named, with a command that works where daybreak came from."""

import json
import sys
from importlib.metadata import Distribution, PackageNotFoundError

import pytest

from daybreak.core.errors import UsageError
from daybreak.core.extras import install_command, needing


class From:
    """A distribution with the origin that pip writes down (PEP 610), or with none."""

    def __init__(self, origin: dict[str, object] | None) -> None:
        self.origin = origin

    def read_text(self, _name: str) -> str | None:
        return json.dumps(self.origin) if self.origin else None


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'daybreak[serve]'"),
        (
            {"url": "file:///home/me/my%20code", "dir_info": {"editable": True}},
            "pip install -e '/home/me/my code[serve]'",
        ),
        ({"url": "file:///srv/daybreak", "dir_info": {}}, "pip install '/srv/daybreak[serve]'"),
        (
            {"url": "https://git.example/daybreak", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'daybreak[serve] @ git+https://git.example/daybreak'",
        ),
        (
            {"url": "file:///tmp/daybreak-0.2.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'daybreak[serve] @ file:///tmp/daybreak-0.2.0-py3-none-any.whl'",
        ),
    ],
)
def test_the_remedy_installs_from_where_daybreak_came_from(
    origin: dict[str, object] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distribution, "from_name", lambda _name: From(origin))
    assert install_command("serve") == command


def test_a_daybreak_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(Distribution, "from_name", missing)
    assert install_command("serve") == "pip install 'daybreak[serve]'"


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with (
        pytest.raises(UsageError, match=r"^serve: uvicorn is not installed; try: pip install"),
        needing("serve", "serve"),
    ):
        import uvicorn  # noqa: F401
    with needing("serve", "serve"):
        import json as _  # noqa: F401 - what is there is imported
