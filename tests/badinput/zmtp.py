"""tests/badinput/zmtp.py - just enough of ZMTP 3 and of protobuf to play a peer that keeps no rules."""
import itertools
import socket
import struct
import threading

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
VERSION = 1
# Envelope's bodies, proto/blipren.proto.
HELLO, BEAT, ENDED, WELCOME, REFUSE, PULSE, ORDER = 10, 11, 12, 40, 41, 42, 45


# -- protobuf --


def varint(x):
    out = b""
    while x > 127:
        out += bytes([x & 127 | 128])
        x >>= 7
    return out + bytes([x])


def pack(fields):
    """number -> int, bytes, text, dict or a list of ints; what is 0 or empty is left out, as proto3 does."""
    out = b""
    for number, value in sorted(fields.items()):
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, dict):
            value = pack(value)
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif isinstance(value, list):
            for item in value:
                item = pack(item)
                out += varint(number << 3 | 2) + varint(len(item)) + item
        elif isinstance(value, bytes):
            if value:
                out += varint(number << 3 | 2) + varint(len(value)) + value
        elif value:
            out += varint(number << 3) + varint(value)
    return out


def unpack(data):
    """number -> the last value: an int, or bytes."""
    found, at = {}, 0

    def number():
        nonlocal at
        x = shift = 0
        while True:
            byte = data[at]
            at += 1
            x |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return x

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            found[tag >> 3] = number()
        elif tag & 7 == 1:
            found[tag >> 3] = data[at:at + 8]
            at += 8
        else:
            size = number()
            found[tag >> 3] = data[at:at + size]
            at += size
    return found


def numbers(data):
    """The numbers of a packed list."""
    found, x, shift = [], 0, 0
    for byte in data:
        x |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(x)
            x = shift = 0
    return found


def envelope(body, content=None, **more):
    fields = {1: VERSION, 4: 77, body: content or {}}
    fields.update({{"version": 1, "run": 2, "generation": 3, "peer": 4}[k]: v for k, v in more.items()})
    if not fields[body]:  # an empty message is still there
        del fields[body]
        return pack(fields) + varint(body << 3 | 2) + b"\0"
    return pack(fields)


# -- ZMTP --


def frame(body, more=False, command=False):
    flags = more | command << 2
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


def ready(kind, identity=b""):
    body = b"\x05READY"
    for name, value in ((b"Socket-Type", kind), (b"Identity", identity)):
        body += bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
    return frame(body, command=True)


class Connection:
    def __init__(self, stream):
        self.stream = stream
        self.stream.settimeout(60)

    def read(self, size):
        data = b""
        while len(data) < size:
            part = self.stream.recv(size - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data

    def shake_hands(self, kind, identity=b""):
        self.stream.sendall(GREETING)
        self.read(64)
        self.stream.sendall(ready(kind, identity))
        self.receive_frame()

    def receive_frame(self):
        """(more, body)"""
        flags = self.read(1)[0]
        size = struct.unpack(">Q", self.read(8))[0] if flags & 2 else self.read(1)[0]
        return bool(flags & 1), self.read(size)

    def receive(self):
        frames = []
        more = True
        while more:
            more, body = self.receive_frame()
            frames.append(body)
        return frames

    def send(self, *frames):
        self.stream.sendall(b"".join(frame(f, more=i + 1 < len(frames)) for i, f in enumerate(frames)))

    def close(self):
        self.stream.close()


addresses = itertools.count()


def fresh_address():
    """An address on loopback from which nobody has connected yet: what is logged of one address is limited."""
    number = next(addresses)
    return "127.1.%d.%d" % (number // 240, number % 240 + 1)


def connect(endpoint, kind=None, identity=b"", source=None):
    """A raw connection, or with `kind` one that has shaken hands as that kind of socket; from the address `source`."""
    host, port = endpoint.rsplit("/", 1)[1].rsplit(":", 1)
    connection = Connection(socket.create_connection((host, int(port)), timeout=60, source_address=source and (source, 0)))
    if kind:
        connection.shake_hands(kind, identity)
    return connection


class Server:
    """Whatever somebody might take for a coordinator: `serve` gets each connection, in a thread of its own."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "tcp://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.serve = serve
        self.streams = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                stream = self.listener.accept()[0]
            except OSError:
                return
            self.streams.append(stream)
            threading.Thread(target=self.guarded, args=(stream,), daemon=True).start()

    def guarded(self, stream):
        try:
            self.serve(Connection(stream))
        except OSError:
            pass  # the program has left

    def close(self):
        self.listener.close()
        for stream in self.streams:
            stream.close()
