"""Writes a file under a temporary name beside its target, and moves it there."""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import socket
import time

from absl import logging

_PREFIX = ".partial."

# Seconds after which a temporary file is taken for one of a killed process, if its
# process cannot be asked for.
_MAX_AGE = 24 * 3600

# Errors of `fsync` on a file system that has none, e.g. of some network drives.
_NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def write_in_one_step(filepath):
    """Yields a path to write to, and moves the file to its target afterwards.

    The temporary file has a name of its own, so several processes can save to one
    target: the last one wins. If anything fails, the target is unchanged.

    Args:
        filepath: Path of the target.

    Raises:
        OSError: If the file cannot be written; it names the target.
    """
    # This replaces the file that a link points to, not the link.
    target = pathlib.Path(os.path.realpath(filepath))
    remove_partials(target, only_of_killed=True)
    partial = _create_partial(target)
    with _naming(target, partial):
        try:
            yield partial
            if target.exists():
                shutil.copymode(target, partial)
            _flush(partial, os.O_RDWR)
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    if os.name == "posix":
        try:
            _flush(target.parent, os.O_RDONLY)
        except OSError as error:
            # The file is in place; only a crash of the machine could still undo it.
            logging.warning("Saved '%s', but not its folder entry: %s", target, error)


@contextlib.contextmanager
def write_together(filepath):
    """Yields a path in an empty folder, and moves all that is there to the target.

    The path has the target's name. It may become a file or a folder, and other files
    may be written beside it, as OpenVINO does. One file is moved in one step. If
    anything fails before, or while several are moved, the target and the other files
    are unchanged.

    Args:
        filepath: Path of the target.

    Raises:
        OSError: If a file cannot be written.
    """
    target = pathlib.Path(os.path.realpath(filepath))
    remove_partials(target, only_of_killed=True)
    folder = _create_partial(target)
    # The name is that of a folder from here on.
    folder.unlink()
    with _naming(target, folder):
        try:
            folder.mkdir()
            new = folder / "new"
            new.mkdir()
            yield new / target.name
            _move_all(new, folder / "old", target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _move_all(new, old, target):
    """Moves the entries of a folder beside a target; `old` keeps what was there."""
    for path in filter(pathlib.Path.is_file, new.rglob("*")):
        _flush(path, os.O_RDWR)
    # The target comes last, so that whoever finds it finds the other files.
    names = sorted(os.listdir(new), key=lambda name: name == target.name)
    old.mkdir()
    begun = []
    try:
        for name in names:
            place = target.with_name(name)
            if place.is_file():
                shutil.copymode(place, new / name)
            if place.is_dir() or (place.exists() and len(names) > 1):
                os.replace(place, old / name)
            begun.append(name)
            os.replace(new / name, place)
    except BaseException:
        for name in begun:
            place = target.with_name(name)
            if len(names) > 1:
                _remove(place)
            if (old / name).exists():
                os.replace(old / name, place)
        raise


def _remove(path):
    """Removes a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_partials(filepath, only_of_killed=False):
    """Removes temporary files that saving to a target left behind.

    Args:
        filepath: Path of the target.
        only_of_killed: Whether to keep those of processes that may still write.
    """
    target = pathlib.Path(filepath)
    with contextlib.suppress(OSError):
        for path in target.parent.glob(f"{_partial_name(target)}*"):
            with contextlib.suppress(OSError):
                if not only_of_killed or _is_abandoned(path):
                    _remove(path)
                    logging.info("Removed '%s', which a killed process left.", path)


def _partial_name(target):
    """Returns the beginning of a target's temporary names.

    It is short, because the target's own name may be as long as a name can be.
    """
    return f"{_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}."


def _create_partial(target):
    """Creates an empty temporary file, and returns its path."""
    # Keras reads the kind of a file from its name.
    kind = "".join(pathlib.Path(target.name[-20:]).suffixes[-2:])
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    while True:
        unique = f"{_place()}.{os.getpid()}.{secrets.token_hex(4)}{kind}"
        path = target.with_name(f"{_partial_name(target)}{unique}")
        try:
            # It fails where something of this name is, also a link.
            os.close(os.open(path, flags, 0o666))
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error
        return path


def _is_abandoned(path):
    """Returns whether the process that wrote a temporary file does not write it now."""
    found = re.fullmatch(r"[^.]+\.([^.]+)\.([0-9]{1,9})\..*", path.name[len(_PREFIX) :])
    if found and found[1] == _place() and os.name == "posix":
        try:
            # It sends nothing.
            os.kill(int(found[2]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
    return time.time() - path.stat().st_mtime > _MAX_AGE


def _place():
    """Identifies the set of processes of which a process's id is one."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        # Ids restart with the machine, and each container has its own.
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


@contextlib.contextmanager
def _naming(target, partial=None):
    """Turns failures to write into an `OSError` that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            # It is about another file.
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    except RuntimeError as error:
        # HDF5 reports the error of the system as text.
        found = re.search(r"errno = (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(target)) from error


def _flush(path, flags):
    """Waits until a file, or the list of files in a folder, is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
        logging.warning("'%s' cannot be flushed to its disk: %s", path, error)
    finally:
        os.close(descriptor)
