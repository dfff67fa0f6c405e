"""The file itself: whole lines or none, whatever the disk and other processes do."""

import errno
import os
import resource
import stat
import subprocess
import sys
from functools import partial

import pytest

from service.audit.files import numbered
from service.audit.reading import check
from service.errors import ConfigurationError, ServiceError
from tests.audit.sample import log, opened, put

NAMES = tuple(f"r{i}" for i in range(6))


def test_the_chain_goes_on_in_another_process_and_the_file_is_the_owners_alone(tmp_path):
    path = log(tmp_path / "audit.jsonl", "a", "b")
    log(path, "c")
    report = check(path)
    assert (report.records, report.first, report.last) == (3, 1, 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_file_is_numbered_and_its_chain_goes_on_in_the_next(tmp_path):
    path = log(tmp_path / "audit.jsonl", *NAMES, most_bytes=5000)
    full = [one for _, one in numbered(path)]
    assert [one.name for one in full] == [f"audit.jsonl.{i:06d}" for i in range(1, len(full) + 1)]
    assert len(full) >= 2
    assert all(one.stat().st_size <= 5000 for one in full)
    report = check(path)
    assert (report.files, report.records, report.last) == (len(full) + 1, 6, 6)


def test_a_reader_of_a_file_that_is_numbered_meanwhile_keeps_what_it_opened(tmp_path):
    file = opened(tmp_path / "audit.jsonl", most_bytes=5000)
    put(file, "a")
    with (tmp_path / "audit.jsonl").open() as reader:
        put(file, "b", "c", "d", "e")
        file.close()
        assert '"request_id":"a"' in reader.readline()
    assert len(numbered(tmp_path / "audit.jsonl")) >= 1


def test_old_files_are_removed_where_a_number_of_them_is_set_and_that_is_told(tmp_path):
    path = log(tmp_path / "audit.jsonl", *NAMES, most_bytes=4096, keep=1)
    assert len(numbered(path)) == 1
    report = check(path)
    assert report.first > 1
    assert report.last == 6


def test_a_start_right_after_a_file_was_numbered_goes_on_with_its_chain(tmp_path):
    path = log(tmp_path / "audit.jsonl", "a", "b")
    path.rename(tmp_path / "audit.jsonl.000001")  # and then the process was killed
    log(path, "c")
    assert check(path).last == 3


@pytest.mark.parametrize("kept", [1, 40, 1000], ids=str)
def test_a_line_that_a_crash_cut_off_is_ended_skipped_and_counted(tmp_path, kept):
    path = log(tmp_path / "audit.jsonl", "a", "b")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + kept])
    assert (check(path).torn, check(path).records) == (1, 1)
    log(path, "c", "d")
    report = check(path)
    assert (report.torn, report.records, report.last) == (1, 3, 3)


def test_crash_upon_crash_with_nothing_written_between_is_skipped_and_counted(tmp_path):
    path = log(tmp_path / "audit.jsonl", "a", "b")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + 40])
    for kept in (60, 80):
        log(path)  # ends the line that was cut off, and is killed while it writes the next
        path.write_bytes(path.read_bytes() + whole[first : first + kept])
    assert (check(path).torn, check(path).records) == (3, 1)
    log(path, "c")
    report = check(path)
    assert (report.torn, report.records, report.last) == (3, 2, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(ServiceError, match="line 2: no record"):
        check(path)


def torn(path):
    """What a crash leaves of the next record."""
    path.write_bytes(path.read_bytes() + path.read_bytes()[:700])
    return path


def test_a_log_checks_between_a_restart_after_a_crash_and_its_next_record(tmp_path):
    path = log(torn(log(tmp_path / "audit.jsonl", "a", "b")))
    assert (check(path).torn, check(path).records) == (1, 2)


def test_what_is_before_a_line_that_a_crash_cut_off_cannot_be_another_history(tmp_path):
    path = log(torn(log(tmp_path / "audit.jsonl", "a", "b")), "c")
    lines = path.read_bytes().splitlines(keepends=True)
    other = log(tmp_path / "other.jsonl", "x", "y").read_bytes()
    path.write_bytes(other + b"".join(lines[2:]))
    with pytest.raises(ServiceError, match="line 3: no record"):
        check(path)


def test_crashes_before_and_after_a_rotation_are_told_with_the_older_file_and_without(tmp_path):
    path = torn(log(tmp_path / "audit.jsonl", "a", "b"))
    file = opened(path)  # ends the line that was cut off
    beginning = path.read_bytes()[:600]
    file.close()
    path.rename(tmp_path / "audit.jsonl.000001")
    path.write_bytes(beginning)  # killed while it wrote the first record of the next file
    log(path, "c", "d")
    assert (check(path).torn, check(path).records) == (2, 4)
    (tmp_path / "audit.jsonl.000001").unlink()
    report = check(path)
    assert (report.torn, report.records, report.first) == (1, 2, 3)
    path.write_bytes(b"?\n" + path.read_bytes())
    with pytest.raises(ServiceError, match="line 1: no record"):
        check(path)


def test_a_file_of_other_lines_after_a_record_is_not_built_upon(tmp_path):
    path = log(tmp_path / "audit.jsonl", "a")
    path.write_bytes(path.read_bytes() + b"x\n" * 1001)
    with pytest.raises(ConfigurationError, match="no audit log"):
        opened(path)


def test_a_part_of_a_line_that_could_not_be_taken_back_is_so_before_the_next_file(
    tmp_path, monkeypatch
):
    path = tmp_path / "audit.jsonl"
    file = opened(path, most_bytes=4096)
    put(file, "a")
    write, parts = os.write, iter([50])

    def fails_halfway(descriptor, data):
        if (part := next(parts, None)) is None:
            raise OSError(errno.EIO, "input/output error")
        return write(descriptor, bytes(data)[:part])

    def fails(*_):
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", fails_halfway)
        broken.setattr(os, "ftruncate", fails)
        with pytest.raises(OSError, match="input/output"):
            put(file, "b")
    put(file, "c", "d")
    file.close()
    assert [number for number, _ in numbered(path)] == [1]
    assert (check(path).records, check(path).torn) == (3, 0)


def test_the_very_first_line_may_be_cut_off_too_and_the_log_opened_again_and_again(tmp_path):
    path = log(tmp_path / "audit.jsonl", "a")
    path.write_bytes(path.read_bytes()[:50])
    log(path)
    log(path, "b")
    log(path, "c")
    assert (check(path).torn, check(path).records) == (1, 2)


def test_only_its_line_feed_missing_a_line_is_whole(tmp_path):
    path = log(tmp_path / "audit.jsonl", "a")
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    log(path, "b")
    assert (check(path).torn, check(path).records) == (0, 2)


def limited(bytes_):
    """No file of this process may grow over that: what is beyond is a real error of a write."""
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (bytes_, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )


def test_what_was_written_of_a_line_that_failed_is_taken_back_and_the_next_goes_on(tmp_path):
    path, before = tmp_path / "audit.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    file = opened(path)
    put(file, "a")
    whole = path.read_bytes()
    try:
        limited(len(whole) + 100)
        with pytest.raises(OSError, match="File too large"):
            put(file, "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == whole
    put(file, "c")
    file.close()
    report = check(path)
    assert (report.records, report.last, report.torn) == (2, 2, 0)


def test_a_disk_that_is_full_takes_no_part_of_a_line(tmp_path, monkeypatch):
    """A real ENOSPC: the device that is always full stands in for the file's own write."""
    path = tmp_path / "audit.jsonl"
    file = opened(path)
    put(file, "a")
    whole, write = path.read_bytes(), os.write
    full = os.open("/dev/full", os.O_WRONLY)

    def half_then_full(descriptor, data):
        if path.stat().st_size == len(whole):
            return write(descriptor, data[:50])
        return write(full, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half_then_full)
        with pytest.raises(OSError, match="No space left") as raised:
            put(file, "b")
    os.close(full)
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == whole
    put(file, "c")
    file.close()
    assert check(path).records == 2


@pytest.mark.parametrize("what", ["moved", "removed", "appended"])
def test_what_somebody_else_does_to_the_file_fails_one_line_and_shows_in_the_chain(tmp_path, what):
    path = tmp_path / "audit.jsonl"
    file = opened(path)
    put(file, "a")
    if what == "moved":
        path.rename(tmp_path / "elsewhere")
    elif what == "removed":
        path.unlink()
    else:
        with path.open("ab") as stream:
            stream.write(b"and more\n")
    with pytest.raises(OSError, match="somebody else"):
        put(file, "b")
    put(file, "c")
    file.close()
    if what == "appended":
        with pytest.raises(Exception, match="line 2: no record"):
            check(path)
    else:
        assert check(path).first == 2


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    path = tmp_path / "audit.jsonl"
    file = opened(path)
    code = f"from tests.audit.sample import log; import pathlib; log(pathlib.Path({str(path)!r}))"
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, check=False)
    second = run(text=True)
    assert f"another process writes to the audit log {path}: each" in second.stderr
    file.close()
    assert run().returncode == 0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_text("something else\n"), "is no audit log"),
        (lambda path: path.symlink_to("elsewhere"), "symbolic links"),
        (os.mkfifo, "no regular file"),
    ],
    ids=["folder", "text", "link", "pipe"],
)
def test_what_is_no_audit_log_is_not_written_to(tmp_path, make, reason):
    make(tmp_path / "audit.jsonl")
    with pytest.raises(ConfigurationError, match=reason):
        opened(tmp_path / "audit.jsonl")


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        opened(tmp_path / "absent" / "audit.jsonl")
