"""How a file is written: whole, by several processes, on odd disks, for long names."""

import errno
import os
import re
import resource
import secrets
import signal
import subprocess
import sys
import threading
import time

import h5py
import pytest
from absl import logging
from conftest import build_mlp

from keras_pruner import BackupAndResume, load_weights, save_model, save_weights
from keras_pruner.training.saving import partial_files
from keras_pruner.training.saving.partial_files import (
    write_in_one_step,
    write_together,
)

SAVERS = {"model.keras": save_model, "model.weights.h5": save_weights}


@pytest.fixture(params=SAVERS)
def name(request):
    return request.param


def write(path, content="new"):
    with write_in_one_step(path) as partial:
        partial.write_text(content)


def dead_process():
    """Returns the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def partial_of(path, pid, place=None):
    """Creates a temporary file of a target as another process leaves it."""
    place = place or partial_files._place()
    beginning = partial_files._partial_name(path)
    partial = path.with_name(f"{beginning}{place}.{pid}.0123abcd.txt")
    partial.write_text("half")
    return partial


def warnings_of(monkeypatch):
    """Returns the list of warnings that are logged from now on."""
    found = []
    monkeypatch.setattr(
        logging, "warning", lambda message, *values: found.append(message % values)
    )
    return found


# Errors.


def test_full_disk_is_an_oserror_that_names_the_target(name, tmp_path):
    model, path = build_mlp(300, 300), tmp_path / name
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError) as raised:
            SAVERS[name](model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def test_missing_folder_is_an_oserror_that_names_the_target(name, tmp_path):
    path = tmp_path / "nowhere" / name
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        SAVERS[name](build_mlp(), path)


def test_errors_of_other_files_and_of_layers_pass(tmp_path):
    for error in (FileNotFoundError(2, "No", "vocabulary.txt"), RuntimeError("no")):
        with pytest.raises(type(error)) as raised:
            with write_in_one_step(tmp_path / "file"):
                raise error
        assert raised.value is error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_disk_that_cannot_flush_is_told_and_the_file_is_there(
    number, tmp_path, monkeypatch
):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    found = warnings_of(monkeypatch)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"
    assert [f"'{tmp_path}' cannot be flushed" in text for text in found][-1:] == [True]


def test_folder_that_fails_after_the_move_does_not_end_the_run(tmp_path, monkeypatch):
    flush = os.fsync

    def fail(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    found = warnings_of(monkeypatch)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"
    (text,) = found
    assert f"Saved '{tmp_path / 'file'}', but not its folder entry" in text


def test_disk_that_fails_before_the_move_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, "old")

    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as raised:
        write(path)
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(path))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


# Names.


@pytest.mark.parametrize("length", [248, 255])
def test_name_may_be_as_long_as_the_file_system_allows(name, length, tmp_path):
    path = tmp_path / ("x" * (length - len(name)) + name)
    model = build_mlp()
    SAVERS[name](model, path)
    load_weights(model, path)
    assert os.listdir(tmp_path) == [path.name]


def test_link_that_someone_planted_is_not_followed(name, tmp_path, monkeypatch):
    victim, folder = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("precious")
    folder.mkdir()
    tokens = iter(["planted", "free"])
    monkeypatch.setattr(secrets, "token_hex", lambda size: next(tokens))
    place = f"{partial_files._place()}.{os.getpid()}"
    kind = name.removeprefix("model")
    beginning = partial_files._partial_name(folder / name)
    link = folder / f"{beginning}{place}.planted{kind}"
    link.symlink_to(victim)
    SAVERS[name](build_mlp(), folder / name)
    assert victim.read_text() == "precious"
    assert link.is_symlink() and not (folder / name).is_symlink()


def test_target_that_is_a_link_stays_one(name, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / name
    link.symlink_to(tmp_path / "real" / name)
    SAVERS[name](build_mlp(), link)
    assert link.is_symlink() and (tmp_path / "real" / name).is_file()


def test_file_that_must_not_be_overwritten_is_written_if_it_is_not_there(
    name, tmp_path
):
    # Keras would ask about the temporary file.
    SAVERS[name](build_mlp(), tmp_path / name, overwrite=False)
    assert os.listdir(tmp_path) == [name]


def test_mode_is_that_of_the_old_file_or_of_a_new_one(tmp_path):
    old, new, plain = (tmp_path / name for name in ("old", "new", "plain"))
    old.write_text("")
    old.chmod(0o640)
    plain.write_text("")
    write(old)
    write(new)
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


def test_many_writers_of_one_file_all_succeed_and_readers_see_whole_files(tmp_path):
    path, model = tmp_path / "model.weights.h5", build_mlp()
    save_weights(model, path)
    failures, done = [], threading.Event()

    def attempt(function):
        try:
            function()
        except Exception as error:
            failures.append(error)

    def write_often(content):
        for _ in range(20):
            write(path, content)

    contents = [str(number) * 10_000 for number in range(4)]
    write(path, contents[0])

    def read_often():
        while not done.is_set():
            assert path.read_text() in contents

    reader = threading.Thread(target=attempt, args=(read_often,))
    writers = [
        threading.Thread(target=attempt, args=(lambda c=content: write_often(c),))
        for content in contents
    ]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert os.listdir(tmp_path) == ["model.weights.h5"]


# What killed runs leave behind.


def test_next_save_removes_what_a_killed_process_left(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    killed = partial_of(path, dead_process())
    another = partial_of(tmp_path / "another.txt", dead_process())
    alive = partial_of(path, os.getppid())
    elsewhere = partial_of(path, 1, place="00000000")
    odd = tmp_path / f"{partial_files._partial_name(path)}odd"
    odd.write_text("")
    write(path)
    left = {another, alive, elsewhere, odd, path}
    assert set(tmp_path.iterdir()) == left and not killed.exists()
    # Those that nobody can be asked about go after a day.
    for old in left - {another, path}:
        os.utime(old, (time.time() - 90_000,) * 2)
    write(path)
    assert set(tmp_path.iterdir()) == {another, path}


def test_file_that_another_process_writes_stays(tmp_path):
    path = tmp_path / "file.txt"
    with write_in_one_step(path) as outer:
        outer.write_text("outer")
        write(path, "inner")
        assert path.read_text() == "inner"
    assert path.read_text() == "outer"


def test_finished_backup_leaves_nothing(tmp_path):
    backup = BackupAndResume(tmp_path / "run")
    backup.path.parent.mkdir()
    partial_of(backup.path, os.getppid())
    with h5py.File(backup.path, "w"):
        pass
    backup.set_model(build_mlp())
    backup.on_train_end()
    assert os.listdir(tmp_path) == []


def write_pair(path, content="new"):
    with write_together(path) as partial:
        partial.write_text(content)
        partial.with_suffix(".bin").write_text(content)


def test_files_that_belong_together_are_replaced_together(tmp_path):
    path = tmp_path / "model.xml"
    write_pair(path, "old")
    write_pair(path)
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]
    assert {file.read_text() for file in tmp_path.iterdir()} == {"new"}


def test_a_failure_while_several_files_are_moved_undoes_it(tmp_path, monkeypatch):
    path = tmp_path / "model.xml"
    write_pair(path, "old")
    replace = os.replace

    def fails_for_the_target(source, target):
        if str(target) == str(path) and "new" in str(source):
            raise OSError(errno.ENOSPC, "no room")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_target)
    with pytest.raises(OSError, match="no room"):
        write_pair(path)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]
    assert {file.read_text() for file in tmp_path.iterdir()} == {"old"}


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "model"
    for content in ("old", "new"):
        with write_together(path) as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert os.listdir(path) == ["new"] and os.listdir(tmp_path) == ["model"]
    with pytest.raises(RuntimeError, match="fails"), write_together(path) as partial:
        partial.mkdir()
        raise RuntimeError("fails")
    assert os.listdir(path) == ["new"] and os.listdir(tmp_path) == ["model"]


def test_folders_of_killed_processes_are_removed(tmp_path):
    path = tmp_path / "model.xml"
    left = partial_of(path, dead_process())
    left.unlink()
    (left / "new").mkdir(parents=True)
    write_pair(path)
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]
