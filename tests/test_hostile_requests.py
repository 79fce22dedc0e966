"""Requests that hold a place and never come, and URLs that would tell a secret or mix files up."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from image_sets import encode, pixels, sample_files
from serving import serving
from test_serve import status_of, wait_for

from daybreak.core.errors import DataError
from daybreak.data import open_dataset, remote
from daybreak.runs.directory import RunDirectory
from daybreak.serve import guard

IMAGE = encode(pixels(1)[0])


# -- to the service ----------------------------------------------------------------------------------------------------


def test_a_whole_request_takes_the_place_of_a_body_that_never_comes(
    digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four in all places, only the one that has been coming for the longest goes."""
    with serving(digits_run) as served:
        never = []
        for count in range(1, 5):
            never.append(served.begin("Content-Length: 1000"))
            under_way = f"daybreak_requests_under_way {count + 1}.0"  # with the one that asks
            wait_for(lambda under_way=under_way: under_way in served.ask("/metrics")[1].decode())
        monkeypatch.setattr(guard, "MAX_REQUESTS", 4)
        assert served.json("/predict", IMAGE)[0] == 200
        assert status_of(never[0]) == 503
        for connection in never[1:]:
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.close()


# -- for data ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.mark.usefixtures("cache")
def test_names_in_a_store_are_what_they_are(memory: MemoryFileSystem) -> None:
    """Only a web server's are quoted: here these are two files."""
    files = sample_files() | {"train/ant/a b.png": IMAGE, "train/ant/a%20b.png": encode(pixels(1, seed=5)[0])}
    for name, content in files.items():
        memory.pipe_file(f"/photos%20of/{name}", content)
    dataset = open_dataset("memory://photos%20of")
    assert dataset.train.names[2:4] == ("train/ant/a b.png", "train/ant/a%20b.png")
    np.testing.assert_array_equal(dataset.train.images_NHWC[2:4], np.concatenate([pixels(1), pixels(1, seed=5)]))


@pytest.mark.parametrize(
    ("url", "names", "twice"),
    [
        ("https://host/set", ("1%202.png", "1 2.png"), "set/1 2.png"),
        ("store://bucket/set", ("1/2.png", "1//2.png"), "set/1/2.png"),
    ],
)
def test_two_files_never_become_one(url: str, names: tuple[str, str], twice: str) -> None:
    system = SimpleNamespace(find=lambda path, detail: {f"{path}/{name}": {"size": 1, "d": detail} for name in names})
    with pytest.raises(DataError, match=rf"^{url}: two files would be called '{twice}' here; try: names"):
        remote._listed(system, url, "set", url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://host/x.zip?accessToken=hidden", "has accessToken in it"),
        ("https://host/x.zip?rlkey=hidden&dl=1", "has rlkey in it"),
        ("https://host/x.zip?id=1&resourcekey=hidden", "has resourcekey in it"),
        ("https://host/x.zip?sv=1&sig=hidden", "has sig in it"),
        ("https://host/x.zip?AWSAccessKeyId=hidden", "has AWSAccessKeyId in it"),
        ("https://host/x.zip?X-Amz-Credential=hidden", "has X-Amz-Credential in it"),
        ("https://host/x.zip?tempauth=hidden", "has tempauth in it"),
        ("https://host/x.zip?APIKEY=hidden", "has APIKEY in it"),
        ("https://host/x.zip?a=1;client_secret=hidden", "has client_secret in it"),
        ("https://host/x.zip#key=hidden", "has key in it"),
        ("https://hidden@host/x.zip", "has a password or a user"),
        ("https://hidden@host/x.zip?token=hidden", "has a password or a user"),
        ("http://me:hidden@host/x.zip", "has a password or a user"),
    ],
)
def test_a_url_that_lets_one_in_is_not_kept(url: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"^https?://host/x\.zip: {why}") as caught:
        open_dataset(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/x.zip?download=1&design=a/b",
        "https://host/x.zip?usp=sharing&authuser=0&id=4&export=download&confirm=t&keyword=signal",
        "https://host/x.zip?mail=a@b",
        "http://host:8080/x.zip?versionId=3#part",
    ],
)
def test_a_url_that_anybody_may_know_is_one(url: str) -> None:
    assert remote._secret_in(url) is None
    assert not remote.LETS_IN.match(url)


def test_a_name_alone_is_no_secret_of_other_services() -> None:
    assert not remote.LETS_IN.match("sftp://me@host/photos")
    assert not remote.LETS_IN.match("hf://datasets/me/photos@main")
    assert remote.LETS_IN.match("sftp://me:hidden@host/photos")
