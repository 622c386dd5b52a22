#!/usr/bin/env python3
"""tests/badinput/peers.py [BUILD] - wrong peers: programs that are pointed at something else, and strangers in a run.

A program at a wrong address says so in one line. A run that strangers shout at, feign to join, and send wrong batches to, names
them and ends with the same weights as one that is left alone. Ends with a line "badinput peers: cases=N failed=M"."""
import hashlib
import os
import pathlib
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import traceback

HERE = pathlib.Path(__file__).resolve().parent
if len(sys.argv) > 1:
    os.environ["BLIPREN_BUILD"] = str(pathlib.Path(sys.argv[1]).resolve())
sys.path[:0] = [str(HERE), str(HERE.parent / "evidence")]
import lib  # noqa: E402
import run  # noqa: E402
import zmtp  # noqa: E402
from zmtp import envelope  # noqa: E402

PEER = 8
OTHER_RUN = bytes(range(16))
WAIT_S = 60  # only a failing test waits so long
failures, cases = [], 0


def case(name, difference):
    global cases
    cases += 1
    if difference:
        failures.append(name)
        print("peers: %s: %s" % (name, difference), flush=True)


# -- a program at a wrong address --


def silent(connection):
    connection.read(1 << 20)


def http(connection):
    connection.stream.recv(4096)
    connection.stream.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    connection.close()


def router(answer):
    """A socket of the right kind that answers a Hello with that."""
    def serve(connection):
        connection.shake_hands(b"ROUTER")
        connection.receive()
        if answer:
            connection.send(*answer)
        connection.read(1 << 20)
    return serve


def worker_socket(connection):
    """What listens at a worker's data port: a mistake that is easily made."""
    connection.shake_hands(b"PULL")
    connection.read(1 << 20)


def welcome(folder):
    return [envelope(zmtp.WELCOME, {1: folder, 2: 300, 3: 2000, 5: 1}, run=OTHER_RUN)]


LOST = "no coordinator answered within --patience: %s; start blipren-coord there, or give its address by --coord"
UNVERSED = LOST % "what is listening there does not speak this protocol, or wants keys (--keys)"
MUTE = LOST % "what is listening there does not answer as a coordinator"
MALFORMED = ("no coordinator answered within --patience: malformed message: %s; "
             "install the same version of BLIPren on every host")
WRONG_PLACES = [
    ("a port that is silent", silent, PEER, UNVERSED),
    ("a web server", http, PEER, UNVERSED),
    ("a socket that never answers", router(None), PEER, MUTE),
    ("a worker's data socket", worker_socket, PEER, UNVERSED),
    ("a coordinator of another version", router([envelope(zmtp.REFUSE, {1: "this coordinator speaks protocol version 9, you speak 1",
                                                           2: "install the same version"}, version=9)]), PEER,
     "refused: this coordinator speaks protocol version 9, you speak 1; install the same version"),
    ("a coordinator of another version that does not refuse", router([envelope(zmtp.WELCOME, {1: "/r", 2: 300, 3: 2000, 5: 1}, version=9)]),
     PEER, MALFORMED % "Envelope.version: expected version 1, found 9"),
    ("a coordinator that talks rubbish", router([b"\xff\xff\xff"]), PEER, MALFORMED % "3 bytes are no message of this protocol"),
    ("a coordinator that sends two frames", router([b"a", b"b"]), PEER, MALFORMED % "expected 1 frame, found 2"),
    ("a coordinator whose run folder is not here", router(welcome("/no/such/run")), 5,
     "cannot be opened: No such file or directory; mount the run folder at the same path on every host"),
    ("a coordinator whose run folder is another here", None, PEER,
     "this is not the run folder that the coordinator sees under this path; mount the same folder at the same path on every host"),
]


def at_a_wrong_address(program, endpoint, code, line):
    done = subprocess.run([lib.program(program), "--coord", endpoint, "--patience", "1"], capture_output=True, text=True,
                          errors="replace", timeout=WAIT_S)
    errors = [m[1] for text in done.stderr.splitlines() if (m := run.ERROR.fullmatch(text))]
    if run.DISTURBED.search(done.stderr):
        return done.stderr
    if len(errors) != 1 or not errors[0].endswith(line) or not (endpoint in errors[0] or errors[0].startswith("/")):
        return "expected \"%s\"\n   found %s" % (line, errors or done.stderr)
    return None if done.returncode == code else "expected exit status %d, found %d" % (code, done.returncode)


def wrong_places(begun):
    for name, serve, code, line in WRONG_PLACES:
        for program in ("blipren-worker", "blipren-loader"):
            server = zmtp.Server(serve or router(welcome(str(begun))))
            case("%s at %s" % (program, name), at_a_wrong_address(program, server.endpoint, code, line))
            server.close()


# -- strangers in a run --


class Process:
    """A program whose lines are read as they come."""

    all = []

    def __init__(self, *command):
        Process.all.append(self)
        self.process = subprocess.Popen([lib.program(command[0]), *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, errors="replace")
        self.lines, self.fresh = [], queue.Queue()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            self.fresh.put(line)
        self.fresh.put(None)

    def expect(self, pattern):
        """The match of the next line with that pattern."""
        while True:
            try:
                line = self.fresh.get(timeout=WAIT_S)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError("no line \"%s\" in:\n%s" % (pattern, "".join(self.lines)))
            found = re.search(pattern, line)
            if found:
                return found

    def end(self):
        code = self.process.wait(timeout=WAIT_S)
        self.reader.join()
        output = "".join(self.lines)
        if code or run.DISTURBED.search(output):
            raise AssertionError("it ended with %d:\n%s" % (code, output))


def hello(role, **more):
    fields = {1: role, 2: "stranger:1", 3: "blipren 0.1.0 avx9", 6: 1}  # 6: -1 in zigzag
    fields.update({{"endpoint": 4, "capacity": 8}[k]: v for k, v in more.items()})
    return fields


def stranger(endpoint, kind=None, identity=b""):
    """A connection of somebody of whom nothing was logged yet."""
    return zmtp.connect(endpoint, kind, identity, zmtp.fresh_address())


def refused(endpoint, message):
    """What a Hello is refused with."""
    connection = stranger(endpoint, b"DEALER", os.urandom(15) + b"!")
    connection.send(message)
    answer = zmtp.unpack(connection.receive()[0])
    connection.close()
    return zmtp.unpack(answer[zmtp.REFUSE])[1].decode()


def shouts(endpoint, coordinator):
    """What is no peer's message; each is named, or its connection is closed."""
    def raw(data):
        connection = stranger(endpoint)
        connection.stream.sendall(data)
        connection.close()

    def said(*frames, identity=None):
        connection = stranger(endpoint, b"DEALER", identity or os.urandom(15) + b"!")
        connection.send(*frames)
        return connection

    def closes(data):
        """Half a message, or one that is larger than any may be: the connection is closed on it, at either end."""
        connection = said(b"x")
        try:
            connection.stream.sendall(data)
            connection.stream.shutdown(socket.SHUT_WR)
            while connection.stream.recv(4096):
                pass
        except TimeoutError:
            raise
        except OSError:
            pass  # closed at once
        connection.close()

    raw(b"")
    raw(b"GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n")
    raw(os.urandom(4096))
    raw(zmtp.GREETING[:20])
    coordinator.expect("warning .* something connected from \\S+ that does not speak this protocol")
    said(b"\xff" * 100).close()
    coordinator.expect("error .* unknown peer at \\S+: 100 bytes are no message of this protocol; install the same version")
    said(b"a", b"b").close()
    coordinator.expect("error .* unknown peer at \\S+: expected 1 frame, found 2; ")
    said(*[b"x"] * 20).close()
    coordinator.expect("warning .* malformed message from \\S+, ignored")
    said(b"x", identity=b"short").close()
    coordinator.expect("warning .* malformed message from \\S+, ignored")
    said(envelope(zmtp.HELLO, hello(9))).close()
    coordinator.expect("error .* Hello.role: unknown peer at \\S+: expected one of the names of Role, found number 9; ")
    said(envelope(zmtp.HELLO, hello(2, capacity=1 << 30))).close()
    coordinator.expect("error .* Hello.capacity: unknown peer at \\S+: expected 1 to 256, found 1073741824; ")
    closes(zmtp.frame(b"x" * (300 << 10)))
    closes(b"\x02" + b"\x7f" + b"\xff" * 7)
    closes(zmtp.frame(b"x" * 200)[:100])
    said(envelope(zmtp.BEAT, {1: "train"})).close()  # of nobody who said Hello
    case("a worker of another version is refused by name", differs(
        refused(endpoint, envelope(zmtp.HELLO, hello(1, endpoint="tcp://127.0.0.1:9"), version=9)),
        "this coordinator speaks protocol version 1, you speak 9"))
    coordinator.expect("warning .* peer=stranger:1 refused: this coordinator speaks protocol version 1, you speak 9")
    case("a worker of another run is refused by name", differs(
        refused(endpoint, envelope(zmtp.HELLO, hello(1, endpoint="tcp://127.0.0.1:9"), run=OTHER_RUN)),
        "this coordinator owns another run"))


def differs(found, expected):
    return None if found == expected else "expected \"%s\", found \"%s\"" % (expected, found)


def proof(welcome, data):
    """The hashes by which a loader shows that it sees the images: sample i is image i of the scenes."""
    images = [pathlib.Path(data, "%06d.png" % sample) for sample in zmtp.numbers(zmtp.unpack(welcome).get(4, b""))]
    return b"".join(hashlib.sha256(image.read_bytes()).digest()[:8] for image in images)


def feign(endpoint, identity, fields, data):
    """A stranger that joins in due form, and then does nothing at all."""
    connection = zmtp.connect(endpoint, b"DEALER", identity)
    peer = int.from_bytes(identity[:8], "little")
    connection.send(envelope(zmtp.HELLO, fields, peer=peer))
    answer = zmtp.unpack(connection.receive()[0])
    assert zmtp.WELCOME in answer, answer
    run_id, generation = answer[2], answer.get(3, 0)
    connection.send(envelope(zmtp.ENDED, {1: 1, 4: proof(answer[zmtp.WELCOME], data)}, run=run_id, generation=generation, peer=peer))
    return connection, run_id


def first_order(connection):
    while True:
        message = zmtp.unpack(connection.receive()[0])
        if zmtp.ORDER in message:
            return message, zmtp.unpack(message[zmtp.ORDER])


def wrong_batches(order, generation, run_id, worker):
    """What a worker's data socket is sent by strangers; each is named, and none is trained on."""
    endpoint = order[8].decode()

    def header(**more):
        fields = {1: zmtp.VERSION, 2: run_id, 3: generation, 4: order[7], 5: order[1], 6: order.get(2, 0), 7: order.get(3, 0),
                  8: order.get(4, 0), 9: 64, 10: [{1: 1, 3: 5, 4: 2, 6: 2}, {1: 2, 3: 5, 4: 2, 6: 2}]}
        fields.update({{"version": 1, "run": 2, "first": 8, "side": 9, "slots": 10, "loader": 11}[k]: v for k, v in more.items()})
        return zmtp.pack(fields)

    def sent(*frames):
        connection = stranger(endpoint, b"PUSH")
        connection.send(*frames)
        connection.close()

    pixels, ids = bytes(2 * 64 * 64 * 3), bytes(2 * 5 * 4)
    raw = zmtp.connect(endpoint)
    raw.stream.sendall(b"GET / HTTP/1.1\r\n\r\n")
    raw.close()
    half = zmtp.connect(endpoint, b"PUSH")
    half.stream.sendall(zmtp.frame(header(), more=True) + zmtp.frame(pixels)[:1000])
    half.close()
    for frames, expected in (
            ([b"x"], "expected 3 frames, found 1"),
            ([b"x"] * 20, None),
            ([b"\xff" * 9, pixels, ids], "9 bytes are no batch header"),
            ([header(version=9), pixels, ids], "expected a batch of protocol version 1, found 9"),
            ([header(run=OTHER_RUN), pixels, ids], "a batch of another run"),
            ([header(side=32), pixels, ids], "expected images of side 64, found 32"),
            ([header(first=1000), pixels, ids], "expected micro-batch 0 with batch indices 0 [+] 2, found 1000 [+] 2"),
            ([header(slots=[{1: 1, 3: 5, 4: 9}] * 2), pixels, ids], "expected 0 to 4, found 9"),
            ([header(), pixels[:-1], ids], "expected 24576 bytes of images and 40 of ids, found 24575 and 40"),
            ([header(), pixels, ids[:-1]], "expected 24576 bytes of images and 40 of ids, found 24576 and 39"),
            ([header(), pixels, b"\xff" * 40], "expected ids below 480, found -1"),
            ([header(loader="stranger:9"), pixels, ids], "micro-batch 0 of step 0 has other samples than assigned")):
        sent(*frames)
        if expected:
            worker.expect("warning .* batch ignored: loader .* at \\S+: .*%s" % expected)
        else:
            worker.expect("warning .* malformed message from \\S+, ignored")


def a_run_among_strangers(place, whole):
    yaml, folder = place.path("strangers.yaml"), place.path("strangers")
    settings(place, yaml, folder)
    coordinator = Process("blipren-coord", "train", yaml, "--cluster")
    endpoint = coordinator.expect(r"listening endpoint=(\S+)")[1]
    shouts(endpoint, coordinator)
    loader, run_id = feign(endpoint, b"loader-stranger-", hello(2, capacity=4), place.path("data"))
    worker = Process("blipren-worker", "--coord", endpoint, "--threads", "1")
    message, order = first_order(loader)  # of step 0, which only the stranger may make
    wrong_batches(order, message[3], run_id, worker)
    mute = hello(1, endpoint="tcp://127.0.0.1:9")
    said = refused(endpoint, envelope(zmtp.HELLO, mute))
    kinds = re.fullmatch("a reproducible run needs workers of one kind: \\S+ is (.*); this one blipren 0.1.0 avx9", said)
    case("a worker of another kind is refused by name", None if kinds else "found \"%s\"" % said)
    mute[3] = kinds[1]
    feign(endpoint, b"worker-stranger-", mute, place.path("data"))  # joins the generation and never forms it
    honest = Process("blipren-loader", "--coord", endpoint, "--threads", "1")
    for process in (coordinator, worker, honest):
        process.end()
    loader.close()
    lib.lineage(folder, STEPS)
    case("a run among strangers ends with the same weights", None if lib.weights_sha(folder) == whole else "other weights")


STEPS = 6


def settings(place, yaml, folder):
    lib.write_yaml(yaml, place.path("data"), folder, train__steps=STEPS, train__checkpoint_every=3, train__global_batch=8,
                   train__reproducible=True, qformer__layers=1, cluster__patience_s=2)


def main():
    with lib.Workplace("peers") as place:
        lib.scenes(place.path("data"), 30)
        yaml, folder = place.path("whole.yaml"), place.path("whole")
        settings(place, yaml, folder)
        lib.train(yaml, "1,1")
        wrong_places(folder)
        try:
            a_run_among_strangers(place, lib.weights_sha(folder))
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            case("a run among strangers", traceback.format_exc())
        for process in Process.all:
            process.process.kill()  # after a failure; else they have ended
    print("badinput peers: cases=%d failed=%d" % (cases, len(failures)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
