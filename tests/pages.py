"""A host of pictures for tests of fetching, on this machine, and its own authority.

`python -m tests.pages serve ...` is `fcs` to which `pictures.example` and `elsewhere.example` are
this machine, which it may fetch from.
"""

import datetime
import ipaddress
import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = "pictures.example"


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that breaks off is what the tests are about."""


@contextmanager
def pages(answers, certificate=None):
    """Serves `answers`: path -> function of the handler, or the bytes of a picture.

    Yields the port and the list of (path, headers, local address) of every request.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            seen.append((self.path, dict(self.headers), self.connection.getsockname()[0]))
            answer = answers[self.path.partition("?")[0]]
            if callable(answer):
                answer(self)
            else:
                say(self, answer)

        def log_message(self, *_):
            pass

    server = _Quiet(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def say(handler, body=b"", status=200, **headers):
    """An answer in one piece; underscores in names of headers are hyphens."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def drip(handler):
    """A byte at a time, and never the last: each arrives in time, the whole does not."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def endless(handler):
    """More than anyone wants, in chunks, its length not told."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")


def certificates(folder, name=NAME):
    """An authority, and a certificate of `name` with its key: two PEM files."""
    now = datetime.datetime.now(datetime.UTC)
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])

    def signed(subject, key, *extensions):
        built = x509.CertificateBuilder(issuer, subject, key.public_key())
        built = built.serial_number(x509.random_serial_number())
        built = built.not_valid_before(now - datetime.timedelta(hours=1))
        built = built.not_valid_after(now + datetime.timedelta(hours=1))
        for extension in extensions:
            constraint = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            built = built.add_extension(extension, critical=constraint)
        return built.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    own, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = x509.KeyUsage(*[False] * 5, True, True, False, False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    authority = folder / f"{name}-authority.pem"
    authority.write_bytes(signed(issuer, own, x509.BasicConstraints(True, None), usage, identifier))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    from_own = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    host = folder / f"{name}.pem"
    host.write_bytes(private + signed(subject, key, names, from_own))
    return authority, host


async def here(host, port):
    """A resolver to which every name is this machine."""
    return ["127.0.0.1"]


def is_loopback(address):
    return ipaddress.ip_address(address).is_loopback


if __name__ == "__main__":
    from service.cli.app import main
    from service.fetching import Fetcher

    def nearby(self, settings, init=Fetcher.__init__):
        init(self, settings, here, is_loopback)

    Fetcher.__init__ = nearby
    main()
