import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Kind, ServiceError
from service.locations import Origin, is_public, location, origin

ALLOWED = frozenset(
    origin(entry) for entry in ("a.example", "b.example:8443", "http://c.example", "127.example")
)


def refused(url, allowed=ALLOWED):
    with pytest.raises(ServiceError) as caught:
        location(url, allowed, "inputs[0]")
    assert caught.value.kind is Kind.INVALID
    assert caught.value.param == "inputs[0]"
    return caught.value.message


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("https://a.example/cat.png", "a.example", "/cat.png"),
        ("HTTPS://A.Example", "a.example", "/"),
        ("https://a.example:0443/x", "a.example", "/x"),
        ("https://a.example:443/x?y=%20z#top", "a.example", "/x?y=%20z"),
        ("https://b.example:8443?q", "b.example:8443", "/?q"),
        ("http://c.example:80/", "c.example", "/"),
        ("  https://127.example/a/../b ", "127.example", "/a/../b"),
    ],
)
def test_listed_origins_are_accepted_as_they_are_meant(url, authority, target):
    found = location(url, ALLOWED, "inputs[0]")
    assert (found.origin.authority, found.target) == (authority, target)


@pytest.mark.parametrize(
    "url",
    [
        "https://d.example/",
        "https://sub.a.example/",
        "https://a.example.d.example/",
        "https://a.example./",
        "https://a.example:444/",
        "https://b.example/",
        "http://a.example/",
        "https://c.example/",
        "http://c.example:443/",
        "https://a.example:/",
        "https://a.example:99999/",
        "https://a.example:４４３/",
        "https:///cat.png",
        "https://",
        "https:a.example/",
        "https:/a.example/",
    ],
)
def test_what_is_not_listed_is_refused(url):
    refused(url)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0", "1.2.3.4"),
        *("[::1]", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]", "[::]", "169.254.169.254"),
        *("a.example@127.0.0.1", "127.0.0.1#@a.example", "a.example:x@d.example", "@a.example"),
        *("a.example\\@d.example", "d.example\\.a.example", "a.example%2f@d.example"),
        *("a.example%00.d.example", "a.example\t", "a.example\r\nHost: d.example", "a..example"),
        *(
            "ａ.example",
            "а.example",
            "a。example",
            "a.exampleı",
            "xn--a",
            "-a.example",
            "a_.example",
        ),
        *("localhost", "*.example", "a.example,d.example", "a.example d.example"),
    ],
)
def test_tricks_of_hosts_are_refused(host):
    refused(f"https://{host}/cat.png")


def test_errors_name_what_is_allowed_but_repeat_neither_path_nor_password():
    assert "https://b.example:8443, http" not in refused("https://u:secret@a.example/key")
    message = refused("https://d.example/token?secret")
    assert "https://a.example, https://b.example:8443" in message
    assert "token" not in message
    assert "http://c.example" in message


def test_without_a_list_every_url_is_refused():
    assert "remote image URLs are refused" in refused("https://a.example/", frozenset())


def test_long_urls_are_refused():
    assert "2048 characters" in refused("https://a.example/" + "x" * 2048)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("A.Example", Origin("https", "a.example", 443)),
        ("https://a.example", Origin("https", "a.example", 443)),
        ("a.example:8443", Origin("https", "a.example", 8443)),
        ("http://a.example", Origin("http", "a.example", 80)),
        ("http://a.example:8080", Origin("http", "a.example", 8080)),
        ("xn--bcher-kva.example", Origin("https", "xn--bcher-kva.example", 443)),
    ],
)
def test_entries_of_the_list(entry, found):
    assert origin(entry) == found


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.example", ".example", "a.example.", "a.example/", "a.example/pictures"),
        *("127.0.0.1", "[::1]", "::1", "0x7f.1", "2130706433", "ftp://a.example", "://a.example"),
        *("user@a.example", "a.example:0", "a.example:65536", "bücher.example", "a example"),
        "a" * 64 + ".example",
    ],
)
def test_entries_that_are_no_host_are_refused(entry):
    with pytest.raises(ValueError, match="is no host"):
        origin(entry)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1"),
        *("127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1"),
        *("192.0.0.170", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1"),
        *("192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8", "::8.8.8.8"),
        *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "100:0:0:1::1"),
        *("2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:3::1", "2001:10::1", "2001:20::1"),
        *("2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "2620:4f:8000::1", "3fff::1"),
        *("5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
        *("2606:4700::1%eth0", "4000::1", "e000::1", "", "a.example", "127.1", "0x7f000001"),
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1"),
        *("192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.254", "2606:4700::1", "2a00::1"),
    ],
)
def test_addresses_that_are_public(address):
    assert is_public(address)


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://", "https://a.example"]))
def test_any_text_is_an_allowed_place_or_refused(text, before):
    try:
        found = location(before + text, ALLOWED, "inputs[0]")
    except ServiceError:
        return
    assert found.origin in ALLOWED
    assert found.target.startswith("/")
    assert found.target.isascii()
    assert found.target.isprintable()


@given(st.ip_addresses(v=6))
def test_no_address_outside_of_global_unicast_is_public(address):
    if is_public(str(address)):
        assert address.packed[0] >> 5 == 1
        assert address.ipv4_mapped is None
        assert address.sixtofour is None
        assert address.teredo is None
