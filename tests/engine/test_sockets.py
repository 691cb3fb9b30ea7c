"""Sockets of Ray and of DataLoader workers below temporary folders with long paths."""

import multiprocessing
import socket
import tempfile

import pytest
from ray._private.utils import validate_socket_filepath

from diffmix.errors import UserError
from engine import sockets


@pytest.fixture
def long_folder(tmp_path, monkeypatch):
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_the_limit_is_the_kernels_and_rays(tmp_path_factory):
    folder = tempfile.mkdtemp(prefix="dm", dir="/tmp")
    for length in (sockets.LONGEST, sockets.LONGEST + 1):
        name = "n" * (length - len(folder) - 1)
        fine = sockets.fits(folder, name)
        assert fine == (length == sockets.LONGEST)
        with socket.socket(socket.AF_UNIX) as listener:
            if fine:
                listener.bind(f"{folder}/{name}")
                validate_socket_filepath(f"{folder}/{name}")
            else:
                with pytest.raises(OSError, match="too long"):
                    listener.bind(f"{folder}/{name}")
                with pytest.raises(OSError, match="cannot exceed"):
                    validate_socket_filepath(f"{folder}/{name}")


def test_ray_stays_in_the_temporary_folder_where_its_sockets_fit(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for folder in ("/tmp", "/scratch/job-1234567/tmp"):
        monkeypatch.setenv("TMPDIR", folder)
        assert sockets.ray_folder() is None
    monkeypatch.delenv("TMPDIR")
    assert sockets.ray_folder() is None


def test_a_long_temporary_folder_is_replaced_and_that_is_said(long_folder, caplog):
    assert sockets.ray_folder() == "/tmp/ray"
    assert f"has {len(str(long_folder))} bytes" in caplog.text


def test_a_long_folder_that_was_asked_for_is_refused(long_folder, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(long_folder))
    with pytest.raises(UserError, match="fit below one of at most 39; set RAY_TMPDIR"):
        sockets.ray_folder()


def test_listeners_of_a_process_are_shortened_only_where_they_must_be(long_folder, monkeypatch):
    settings = {}
    process = type("Process", (), {"_config": settings})()
    monkeypatch.setattr(multiprocessing.process, "current_process", lambda: process)
    sockets.shorten_listeners()
    assert sockets.fits(settings["tempdir"], "listener-00000000")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    settings.clear()
    sockets.shorten_listeners()
    assert not settings
