"""Where pictures may be fetched from: exact origins, and public addresses alone.

A URL is accepted in one spelling only: what two readers could take for two hosts is refused, never
repaired. What is refused here reaches neither a resolver nor a socket.
"""

import ipaddress
import re
from dataclasses import dataclass

from service.errors import invalid, shown

MOST_CHARACTERS = 2048
_PORTS = {"https": 443, "http": 80}
_URL = re.compile(r"(https?)://([^/?#]*)(/[^?#]*)?(\?[^#]*)?(#.*)?", re.IGNORECASE)
# Letters, digits and inner hyphens; the last label begins with a letter, so that no spelling of an
# address, decimal, octal or hexadecimal, is a name.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_AUTHORITY = re.compile(rf"((?:{_LABEL}\.)*(?=[a-z]){_LABEL})(?::([0-9]{{1,5}}))?", re.IGNORECASE)
_UNSAFE = re.compile(r"[^\x21-\x7e]|[\\\"<>^`{|}]")

# https://www.iana.org/assignments/iana-ipv4-special-registry, whole, and what `ipaddress` calls
# global there is not taken for it: relays of 6to4, AS112, AMT.
_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    )
)
# Global unicast, but for protocol assignments (Teredo among them), documentation, and 6to4, which
# leads to an IPv4 address. Mapped addresses and NAT64 (64:ff9b::/96) are outside of it.
_V6_UNICAST = ipaddress.IPv6Network("2000::/3")
_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, a host in lower case and a port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own: what a Host header says."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Location:
    """A picture that may be fetched.

    `target` is path and query as sent; `param` is the request field that named it.
    """

    origin: Origin
    target: str
    param: str


def origin(entry: str) -> Origin:
    """An entry of the allow-list: `host`, `host:port`, or either after `http://` or `https://`.

    Raises:
        ValueError: anything else: an address, a pattern, a path, a name that is not ASCII.
    """
    scheme, separator, rest = entry.rpartition("://")
    scheme = scheme.lower() if separator else "https"
    found = _origin(scheme, rest) if scheme in _PORTS else None
    if found is None:
        raise ValueError(
            f"{entry!r} is no host: write a full name, host or host:port, for plain HTTP after"
            " http://; not an address, a pattern or a path; beyond ASCII as xn--..."
        )
    return found


def is_url(text: str) -> bool:
    """Whether a picture was sent as the place where it lies."""
    return text[:256].lstrip().lower().startswith(("http://", "https://"))


def location(url: str, allowed: frozenset[Origin], param: str) -> Location:
    """A URL that may be fetched.

    Raises:
        ServiceError: invalid, naming the field: nothing may be fetched at all, the URL has not the
            one accepted form, or its host is not in the list.
    """
    if not allowed:
        raise invalid("remote image URLs are refused; send the picture itself as base64", param)
    url = url.strip(" ")
    if len(url) > MOST_CHARACTERS:
        raise invalid(f"a URL of more than {MOST_CHARACTERS} characters is not accepted", param)
    if _UNSAFE.search(url) or (parts := _URL.fullmatch(url)) is None:
        raise invalid("not a URL: other than plain ASCII must be percent-encoded", param)
    if "@" in parts[2]:
        raise invalid("a URL with a user name or password is not accepted", param)
    found = _origin(parts[1].lower(), parts[2])
    if found not in allowed or found is None:
        raise invalid(
            f"pictures may not be fetched from {shown(f'{parts[1].lower()}://{parts[2]}')};"
            f" allowed are {', '.join(sorted(map(str, allowed)))}",
            param,
        )
    return Location(found, (parts[3] or "/") + (parts[4] or ""), param)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the Internet at large, and to no network of ours.

    Private, loopback, link-local, shared, multicast and reserved ranges do not, nor does an IPv6
    address that stands for an IPv4 address, whichever that is.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # with a zone, among others
        return False
    if not found.is_global or found.is_multicast or found.is_reserved:
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return not any(found in block for block in _V4)
    if found.scope_id is not None or found not in _V6_UNICAST:
        return False
    return not any(found in block for block in _V6)


def _origin(scheme: str, authority: str) -> Origin | None:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or len(parts[1]) > 253:
        return None
    port = _PORTS[scheme] if parts[2] is None else int(parts[2])
    return Origin(scheme, parts[1].lower(), port) if 0 < port <= 65535 else None
