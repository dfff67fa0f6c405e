"""An audit log on disk, written as the service writes it."""

from datetime import UTC, datetime

from service.audit.files import AuditFile
from service.audit.lines import Entry, Origin, write
from tests.receipts.sample import SIGNER, text

WHEN = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


def opened(path, most_bytes=10**6, keep=0, fsync=False):
    return AuditFile(path, most_bytes, keep, fsync)


def put(file, *names, signer=SIGNER):
    """One record for each request id."""
    for name in names:
        entry = Entry("embedding", 0, text(), None)
        file.append(*write(entry, Origin(name, None, "/embed"), WHEN, file.end, signer))


def log(path, *names, **options):
    """A whole log, written and closed."""
    file = opened(path, **options)
    put(file, *names)
    file.close()
    return path
