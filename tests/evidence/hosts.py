"""tests/evidence/hosts.py - hosts on one machine, for evidence about clusters: each a network namespace behind a router, which is one
too and spoils their traffic on demand; and services on them, started again as a service manager would.

Call it inside lib.in_namespaces(…, "--net") after prepare(): however the command ends, all of it ends with its namespaces."""
import fcntl
import heapq
import itertools
import math
import os
import random
import select
import struct
import subprocess
import sys
import time

from lib import program, write_yaml

HERE = os.path.abspath(__file__)


def ip(*words, check=True):
    subprocess.run(["ip", *map(str, words)], check=check, stderr=subprocess.PIPE)


def missing():
    """What is not possible on this machine; None where everything is."""
    if os.geteuid() != 0:
        return "needs root"
    for path in ("/dev/net/tun", "/usr/bin/nsenter", "/sbin/ip", "/sbin/tc"):
        if not os.path.exists(path):
            return "needs " + path
    if subprocess.run(["unshare", "--net", "ip", "rule", "add", "from", "192.0.2.1", "blackhole"], stderr=subprocess.PIPE).returncode:
        return "needs a kernel with policy routing"
    return None


def prepare():
    """Names of network namespaces are files in /run, and libfaketime leaves some in /dev/shm: in our own, nothing is left of them."""
    for path in ("/run", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    ip("link", "set", "lo", "up")


def inside(namespace, *command):
    """COMMAND in that network namespace; the process that is started becomes the command's own."""
    return ["nsenter", "--net=/run/netns/" + namespace, *map(str, command)]


class Host:
    """One network namespace, at the end of a cable to the router."""

    def __init__(self, network, name, number):
        self.network, self.name = network, name
        self.space, self.port = "%s-%d" % (network.name, number), "port%d" % number
        self.address, gateway = "10.77.%d.2" % number, "10.77.%d.1" % number
        router = network.router
        ip("netns", "add", self.space)
        ip("link", "add", self.port, "netns", router, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("-n", router, "addr", "add", gateway + "/24", "dev", self.port)
        ip("-n", router, "link", "set", self.port, "up")
        ip("-n", self.space, "addr", "add", self.address + "/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.space, "link", "set", device, "up")
        ip("-n", self.space, "route", "add", "default", "via", gateway)

    def link(self, state):
        """The cable is pulled ("down") or put back ("up")."""
        ip("-n", self.network.router, "link", "set", self.port, state)

    def lose(self, direction, verb="add"):
        """The router loses all packets "from" or "to" this host, without a word; until verb is "del"."""
        ip("-n", self.network.router, "rule", verb, "priority", 20, direction, self.address, "blackhole")

    def limit(self, mbit):
        """Both ways, no more than so many Mbit/s; 0: no limit."""
        for space, device in ((self.network.router, self.port), (self.space, "eth0")):
            words = ["rate", "%dkbit" % (1000 * mbit), "burst", "32kb", "latency", "200ms", "tbf"] if mbit else []
            kind, words = words[-1:], words[:-1]
            subprocess.run(["tc", "-n", space, "qdisc", "add" if mbit else "del", "dev", device, "root", *kind, *words], check=True)

    def spoil(self, verb="add"):
        """All packets of this host go through the process that Network.spoiler started; until verb is "del"."""
        for direction in ("from", "to"):
            ip("-n", self.network.router, "rule", verb, "priority", 20, direction, self.address, "table", 100)


class Network:
    """A router and hosts of these names. Several networks may exist beside each other."""

    def __init__(self, name, hosts):
        self.name, self.router = name, name + "-r"
        ip("netns", "add", self.router)
        ip("-n", self.router, "link", "set", "lo", "up")
        ip("-n", self.router, "tuntap", "add", "spoil", "mode", "tun")
        ip("-n", self.router, "link", "set", "spoil", "up")
        subprocess.run(inside(self.router, "sh", "-c", "cd /proc/sys/net/ipv4 && echo 1 >ip_forward && echo 0 >conf/all/rp_filter && "
                              "echo 0 >conf/spoil/rp_filter"), check=True)
        ip("-n", self.router, "route", "add", "default", "dev", "spoil", "table", 100)
        ip("-n", self.router, "rule", "add", "priority", 10, "iif", "spoil", "table", "main")
        self.hosts = {name: Host(self, name, number + 1) for number, name in enumerate(hosts)}

    def spoiler(self, delay_s, jitter_s, loss, seed):
        """A process that delays the packets of hosts that are spoilt, each by another time (so they overtake each other), and loses some."""
        return subprocess.Popen(inside(self.router, sys.executable, HERE, "spoil", delay_s, jitter_s, loss, seed))

    def remove(self):
        for space in [h.space for h in self.hosts.values()] + [self.router]:
            ip("netns", "delete", space)


def spoil(delay_s, jitter_s, loss, seed):
    """The spoiler: packets that the router sends to its device are read here, and go back to it later, or never."""
    tun_set_iff, tun, no_header = 0x400454ca, 0x0001, 0x1000
    draw, waiting, order = random.Random(seed), [], itertools.count()
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, tun_set_iff, struct.pack("16sH", b"spoil", tun | no_header))
    while True:
        wait = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([device], [], [], wait)[0]:
            packet = os.read(device, 65536)
            if draw.random() >= loss:
                at = time.monotonic() + delay_s + draw.uniform(0, jitter_s)
                heapq.heappush(waiting, (at, next(order), packet))
        while waiting and waiting[0][0] <= time.monotonic():
            try:
                os.write(device, heapq.heappop(waiting)[2])
            except OSError:
                pass  # of a host whose cable is pulled: lost as well


class Service:
    """A program on a host, started again whenever it ends in another way than well, as a service manager does."""

    def __init__(self, name, host, command, log, environment=None):
        self.name, self.host, self.command, self.log = name, host, command, log
        self.environment = dict(os.environ, **(environment or {}))
        self.starts, self.process, self.again_at = 0, None, None
        self.start()

    def start(self):
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(inside(self.host.space, *self.command), stdout=log, stderr=log, env=self.environment)
        self.starts, self.again_at = self.starts + 1, None

    @property
    def pid(self):
        return self.process.pid

    def ended(self):
        """Whether it has ended well; one that ended otherwise is started again a while later."""
        code = self.process.poll()
        if code and self.again_at is None:
            self.again_at = time.monotonic() + 0.3
        elif code and time.monotonic() >= self.again_at:
            self.start()
        return code == 0

    def kill(self):
        self.process.kill()
        self.process.wait()


class Wrong(Exception):
    """What a run was expected not to do."""


class Run:
    """A run of the demo's models under keys, whose services are on the network's hosts of the same names: coordinator, loader-N, worker-N."""
    PORT, LEAVE_S = 5555, 10

    def __init__(self, place, network, name, **changes):
        self.network, self.folder, self.log = network, place.path(name), place.path(name + ".log")
        self.yaml, self.keys = place.path(name + ".yaml"), place.path("keys")
        address = network.hosts["coordinator"].address
        self.endpoint = "tcp://%s:%d" % (address, self.PORT)
        settings = dict(train__reproducible=True, train__global_batch=8, cluster__bind=address, cluster__port=self.PORT)
        write_yaml(self.yaml, place.path("data"), self.folder, **dict(settings, **changes))
        self.services, self.commits, self.read, self.began = {}, [], 0, time.monotonic()

    def start(self, names, environments=None):
        """Services of these names; `environments`: what some of them have more in theirs."""
        for name in names:
            host, kind = self.network.hosts[name], name.split("-")[0]
            if kind == "coordinator":
                command = [program("blipren-coord"), "train", self.yaml, "--cluster", "--keys", self.keys]
            else:
                command = [program("blipren-" + kind), "--coord", self.endpoint, "--threads", "1", "--keys", self.keys,
                           "--name", name, "--patience", str(self.LEAVE_S)]
                if kind == "worker":
                    command += ["--host", host.address]
            self.services[name] = Service(name, host, command, self.log, (environments or {}).get(name))

    def tend(self, until=math.inf, commits=math.inf, limit_s=900):
        """Looks after all services until a time, or so many commits; True as soon as the run has ended."""
        limit = time.monotonic() + limit_s
        while time.monotonic() < until and len(self.commits) < commits:
            ended = self.services["coordinator"].ended()
            self.count()
            if ended:
                return True
            for service in self.services.values():
                service.ended()
            if time.monotonic() > limit:
                raise Wrong("not at its end after %d s" % limit_s)
            time.sleep(0.01)
        return False

    def count(self):
        """When each commit was seen in the journal."""
        try:
            with open(os.path.join(self.folder, "journal")) as f:
                f.seek(self.read)
                text = f.read()
        except OSError:
            return
        whole = text[:text.rfind("\n") + 1]
        self.read += len(whole)
        self.commits += [time.monotonic()] * whole.count('"COMMIT"')

    def pause(self, since):
        """The longest time without a commit from then on, up to now."""
        times = [since] + [t for t in self.commits if t > since] + [time.monotonic()]
        return max(b - a for a, b in zip(times, times[1:]))

    def leave(self, hung=None):
        """Who took part has heard of the end, or gives up after --patience, but for one that hangs."""
        until = time.monotonic() + 4 * self.LEAVE_S
        for name, service in self.services.items():
            try:
                service.process.wait(max(0.1, until - time.monotonic()) if name != hung else 0)
            except subprocess.TimeoutExpired:
                if name != hung:
                    raise Wrong("%s did not leave" % name) from None

    def stop(self):
        for service in self.services.values():
            service.kill()


if __name__ == "__main__" and sys.argv[1:2] == ["spoil"]:
    spoil(*map(float, sys.argv[2:6]))
