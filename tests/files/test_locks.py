"""A lock has one owner at a time, among threads and processes, and dies with its process."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from processes import finish, needs_processes, start

from captum_kmex.files import locks
from captum_kmex.files.locks import free_lock, take_lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_lock_is_taken_once_until_it_is_freed(path):
    lock = take_lock(path)
    assert take_lock(path) is None
    free_lock(lock, path)
    assert not path.exists()
    again = take_lock(path)
    assert again is not None
    free_lock(again, path)


def test_lock_of_one_thread_keeps_others_out(path):
    lock, found = take_lock(path), []
    thread = threading.Thread(target=lambda: found.append(take_lock(path)))
    thread.start()
    thread.join()
    free_lock(lock, path)
    assert found == [None]


def test_file_that_was_left_behind_is_no_lock(path):
    path.touch()
    lock = take_lock(path)
    assert lock is not None
    free_lock(lock, path)
    assert not path.exists()


def test_only_one_of_many_threads_holds_a_lock_that_comes_and_goes(path):
    """The file is deleted with every turn: a lock on a deleted file counts for nothing."""
    inside, most, turns = [0], [0], [0]

    def work() -> None:
        for _ in range(200):
            lock = take_lock(path)
            if lock is not None:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                turns[0] += 1
                inside[0] -= 1
                free_lock(lock, path)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert turns[0] > 4
    assert not path.exists()


def take_and_die(path) -> None:
    take_lock(path)
    os.kill(os.getpid(), 9)


@needs_processes
def test_lock_of_a_killed_process_is_free(path):
    assert finish(start(take_and_die, path)) == -9
    assert path.exists()
    lock = take_lock(path)
    assert lock is not None
    free_lock(lock, path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_that_outlives_its_parent_does_not_hold_the_lock(path):
    """Such is a data loader's worker when its process is killed."""
    lock = take_lock(path)
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, b"x")
        threading.Event().wait(30)
        os._exit(0)
    os.read(reads, 1)
    try:
        os.close(lock)  # as the system does for a process that dies
        again = take_lock(path)
        assert again is not None
        free_lock(again, path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_does_not_free_its_parents_lock(path):
    lock = take_lock(path)
    child = os.fork()
    if not child:
        free_lock(lock, path)
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()
    assert take_lock(path) is None
    free_lock(lock, path)


def test_file_system_without_locks_holds_nobody_up(path, monkeypatch):
    def unsupported(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock", unsupported)
    lock = take_lock(path)
    assert lock is not None
    assert take_lock(path, unless_unknown=True) is None
    free_lock(lock, path)
    assert not path.exists()


def test_missing_folder_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "nowhere" / "lock")
