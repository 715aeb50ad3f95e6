"""Which addresses may be asked. A list of addresses from the web must not reach what stands behind our own walls."""

import ipaddress
import socket
from collections.abc import Collection

WRAPPING = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are IPv4
GIVEN_OUT = ipaddress.ip_network("2000::/3")  # of IPv6, so far: all else is local, wraps, or leads nowhere
FOR_BOOKS = ipaddress.ip_network("3fff::/20")  # RFC 9637, which Python does not know yet

PRIVATE = "a private address"


class Refused(Exception):
    """An image that is not to be had, and asking again is of no use; says why."""


class Failed(Refused):
    """As `Refused`, but it may be had later."""


def resolve(host: str, port: int, allowed: Collection[str] = ()) -> str:
    """An address of the host, to be connected to as it is: asking for its name again might give another.

    Args:
        allowed: `host:port` that may be private.
    Raises:
        Refused: the name has no address, or one that is not public.
    """
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise Failed("its name has no address") from None
    if f"{host}:{port}" not in allowed and not all(is_public(address) for address in found):
        raise Refused(PRIVATE)
    return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, whatever other address it wraps."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is None and ip in WRAPPING:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip not in GIVEN_OUT or ip in FOR_BOOKS:
            return False
    return ip.is_global and not ip.is_multicast
