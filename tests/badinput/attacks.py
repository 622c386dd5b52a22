"""tests/badinput/attacks.py - what strangers do to a listening socket: floods, silence, halves of messages. Each attack is a function of an endpoint
and a number of seconds, and gives the number of bytes it could send. A connection that is closed on it is made anew."""
import os
import socket
import struct
import threading
import time

import zmtp

CURVE_GREETING = zmtp.GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32)


def curve_hello():
    """The first command of a client with keys, which the server must decrypt to find that it is rubbish."""
    return zmtp.frame(b"\5HELLO\1\0" + bytes(72) + os.urandom(32 + 8 + 80), command=True)


def port_of(pid):
    """Endpoints on which a process listens, from /proc."""
    inodes = set()
    for name in os.listdir("/proc/%d/fd" % pid):
        try:
            link = os.readlink("/proc/%d/fd/%s" % (pid, name))
        except OSError:
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    found = []
    with open("/proc/%d/net/tcp" % pid) as f:
        for line in list(f)[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                address, port = words[1].split(":")
                found.append("tcp://%s:%d" % (socket.inet_ntoa(struct.pack("<I", int(address, 16))), int(port, 16)))
    return found


def address_of(endpoint):
    host, port = endpoint.rsplit("/", 1)[1].rsplit(":", 1)
    return host, int(port)


def identity():
    return os.urandom(15) + b"!"


def until(end, attempt):
    """Repeats the attempt, which gives the bytes it sent, whatever becomes of its connections."""
    sent = 0
    while time.time() < end:
        try:
            sent += attempt(end)
        except OSError:
            time.sleep(0.001)
    return sent


def pour(end, connection, data):
    """Sends the same bytes for as long as they are taken."""
    sent = 0
    connection.stream.settimeout(0.2)
    try:
        while time.time() < end:
            try:
                sent += connection.stream.send(data)
            except TimeoutError:
                pass
    except OSError:
        pass
    connection.close()
    return sent


def in_threads(count, end, attempt):
    sums = [0] * count

    def one(i):
        sums[i] = until(end, attempt)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sums)


def flood(kind, data, connections=1):
    """An attack: that many connections of that kind, each pouring the data."""
    def attack(endpoint, seconds):
        return in_threads(connections, time.time() + seconds,
                          lambda end: pour(end, zmtp.connect(endpoint, kind, identity()), data))
    return attack


def reports():
    ranges = [{1: i, 2: 1} for i in range(1, 4001)] * 5
    return zmtp.frame(zmtp.envelope(17, {1: 5, 8: ranges[:20000]}))


def hellos(endpoint, seconds):
    """A new peer on each connection, one Hello after the other."""
    hello = zmtp.frame(zmtp.envelope(zmtp.HELLO, {1: 1, 2: "stranger:1", 3: "blipren 0 avx9", 4: "tcp://127.0.0.1:9", 6: 1}))

    def attempt(end):
        connection = zmtp.connect(endpoint, b"DEALER", identity())
        connection.stream.sendall(hello)
        connection.close()
        return len(hello)
    return in_threads(4, time.time() + seconds, attempt)


def half_open(endpoint, seconds, count=1500):
    """Connections that say nothing, or half a greeting."""
    held, end = [], time.time() + seconds
    while time.time() < end:
        if len(held) >= count:
            time.sleep(0.05)
            continue
        try:
            held.append(socket.create_connection(address_of(endpoint), timeout=2))
            if len(held) % 2:
                held[-1].sendall(zmtp.GREETING[:11])
        except OSError:
            time.sleep(0.01)
    for stream in held:
        stream.close()
    return len(held)


def drip(kind):
    """One byte a second, on 200 connections."""
    def attack(endpoint, seconds):
        data = zmtp.GREETING + zmtp.ready(kind, identity()) + zmtp.frame(b"x" * 100000)
        held = []
        for second in range(max(1, int(seconds))):
            while len(held) < 200:
                try:
                    held.append(socket.create_connection(address_of(endpoint), timeout=2))
                except OSError:
                    break
            for stream in list(held):
                try:
                    stream.sendall(data[second:second + 1])
                except OSError:
                    held.remove(stream)
            time.sleep(1)
        for stream in held:
            stream.close()
        return 200 * int(seconds)
    return attack


def connects(endpoint, seconds):
    """Connections made and left at once."""
    def attempt(end):
        socket.create_connection(address_of(endpoint), timeout=2).close()
        return 1
    return in_threads(4, time.time() + seconds, attempt)


def feigned_keys(endpoint, seconds):
    """A client that pretends to have the cluster's keys."""
    def attempt(end):
        stream = socket.create_connection(address_of(endpoint), timeout=2)
        stream.sendall(CURVE_GREETING + curve_hello())
        stream.settimeout(1)
        try:
            while stream.recv(4096):
                pass
        except OSError:
            pass
        stream.close()
        return 264
    return in_threads(4, time.time() + seconds, attempt)


def noise(endpoint, seconds):
    def attempt(end):
        stream = socket.create_connection(address_of(endpoint), timeout=2)
        stream.sendall(os.urandom(4096))
        stream.close()
        return 4096
    return in_threads(4, time.time() + seconds, attempt)


BEAT = zmtp.frame(zmtp.envelope(zmtp.BEAT, {1: "train", 4: 7}))
MEGABYTE = zmtp.frame(b"\7" * (1 << 20), more=True)


def attacks(kind):
    """name -> attack, of what a socket of the other kind may be sent: DEALER to the coordinator, PUSH to a worker."""
    large = zmtp.frame(b"\7" * (250 << 10), more=True)
    return {
        "reports": flood(kind, reports(), 8),
        "garbage": flood(kind, zmtp.frame(b"0123456789") * 5000),
        "garbage of many": flood(kind, zmtp.frame(b"0123456789") * 50, 8),
        "beats": flood(kind, BEAT * 2000, 4),
        "hellos": hellos,
        "large frames without end": flood(kind, large if kind == b"DEALER" else MEGABYTE, 2),
        "small frames without end": flood(kind, zmtp.frame(b"x", more=True) * 20000, 2),
        "large frames": flood(kind, zmtp.frame(b"\7" * (250 << 10)), 8),
        "half-open": half_open,
        "one byte a second": drip(kind),
        "connects": connects,
        "noise": noise,
        "feigned keys": feigned_keys,
        "feigned keys without end": flood(None, CURVE_GREETING + curve_hello() + zmtp.frame(b"x" * 60000, command=True) * 20, 4),
        "a greeting without end": flood(None, zmtp.GREETING + zmtp.ready(kind) + b"\4\xff" * 100000, 4),
    }
