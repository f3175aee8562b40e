"""Which network interface the processes of several machines meet on."""

import os
import socket
import struct
import sys

_ADDRESS_OF_INTERFACE = 0x8915  # Linux: SIOCGIFADDR


def choose_interface() -> None:
    """Let gloo use the interface that leads to the machine of rank 0, unless the user named one.

    Left alone gloo takes the address that the machine's own name has, which is 127.0.0.1 or 127.0.1.1 on many: processes of
    several machines then never meet. NCCL looks for interfaces itself and is left alone.
    """
    name = interface_towards(os.environ.get("MASTER_ADDR", ""))
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_towards(host: str) -> str | None:
    """Name of the interface whose address this machine has on its way to a host, such as ``eth0``.

    Args:
        host: name or IPv4 address; of this machine itself too.

    Returns:
        None where that cannot be told: no Linux, no such host, IPv6 alone.
    """
    if sys.platform != "linux" or not host:
        return None
    from fcntl import ioctl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing: the system only looks up the way
        except OSError:
            return None
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            try:
                answer = ioctl(probe, _ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()))
            except OSError:  # it has no IPv4 address
                continue
            if answer[20:24] == own:
                return name
    return None
