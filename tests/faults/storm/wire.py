"""A proxy to Redis that passes commands on, and loses or doubles the messages among them."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import BinaryIO


class Wire:
    """Passes bytes between the service and Redis while it is open.

    Args:
        port: Of Redis.
    """

    def __init__(self, port: int) -> None:
        self.times = 1
        """How often each message arrives: 0 loses it."""
        self.messages = 0
        """How many were sent so far."""
        self._redis = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, ValueError), socket.create_connection(self._redis) as server:
            threading.Thread(target=self._return, args=(server, client), daemon=True).start()
            try:
                with client.makefile("rb") as commands:
                    while command := _read(commands):
                        server.sendall(_written(self._changed(command)))
            finally:
                _hang_up(server)

    def _return(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _hang_up(client)

    def _changed(self, command: list[bytes]) -> list[bytes]:
        """Return the command to send instead.

        A message is one LPUSH; a lost one is replaced by LLEN, which also returns a number.
        """
        if command[0].upper() != b"LPUSH":
            return command
        self.messages += 1
        name, key, *values = command
        return [name, key, *values * self.times] if self.times else [b"LLEN", key]


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read(file: BinaryIO) -> list[bytes]:
    """Return one command, [] at the end."""
    line = file.readline()
    if not line.startswith(b"*"):
        return []
    return [_read_part(file) for _ in range(int(line[1:]))]


def _read_part(file: BinaryIO) -> bytes:
    size = int(file.readline()[1:])
    return file.read(size + 2)[:-2]


def _written(command: list[bytes]) -> bytes:
    parts = (b"$%d\r\n%s\r\n" % (len(part), part) for part in command)
    return b"*%d\r\n%s" % (len(command), b"".join(parts))
