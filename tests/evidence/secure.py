"""tests/evidence/secure.py - what tests of HTTPS need: an authority of its own with certificates for hosts, servers that have them, and a
proxy. Standard library and the openssl program."""
import os
import select
import socket
import socketserver
import ssl
import subprocess
import threading


class Authority:
    """Files below `folder`: ca.pem, and for each host HOST.pem with its key."""

    def __init__(self, folder, *hosts):
        self.folder = folder
        os.makedirs(folder)
        self.ca = self.path("ca.pem")
        self.openssl("req", "-x509", "-subj", "/CN=authority of a test", "-days", "2", *self.key("ca"), "-out", self.ca,
                     "-addext", "basicConstraints=critical,CA:TRUE")
        for host in hosts:
            self.certify(host)

    def path(self, name):
        return os.path.join(self.folder, name)

    def openssl(self, *words):
        subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.path(name + ".key")]

    def certify(self, host):
        name = "IP:" if host.replace(".", "").isdigit() else "DNS:"
        self.openssl("req", "-subj", "/CN=" + host, *self.key(host), "-out", self.path("request"))
        with open(self.path("extensions"), "w") as f:
            f.write("subjectAltName=%s%s\n" % (name, host))
        self.openssl("x509", "-req", "-in", self.path("request"), "-CA", self.ca, "-CAkey", self.path("ca.key"), "-days", "2",
                     "-CAcreateserial", "-extfile", self.path("extensions"), "-out", self.path(host + ".pem"))

    def secure(self, server, host):
        """Makes a http.server speak TLS, in the threads of its connections, with the host's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(host + ".pem"), self.path(host + ".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)


class Proxy(socketserver.ThreadingTCPServer):
    """Speaks CONNECT and GET of a whole URL. Whatever host is named, `routes` says where on this machine it is: "host:port" or
    "host" -> port. Remembers what it was asked for."""
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, routes):
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.routes, self.asked, self.lock = routes, [], threading.Lock()
        self.url = "http://127.0.0.1:%d" % self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *unused):
        pass

    def close(self):
        self.shutdown()
        self.server_close()


class Tunnel(socketserver.StreamRequestHandler):
    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        method, target = head.split()[:2]
        target = target.decode()
        with self.server.lock:
            self.server.asked.append("%s %s" % (method.decode(), target))
        host = target if method == b"CONNECT" else target.split("/")[2]
        port = self.server.routes.get(host, self.server.routes.get(host.rpartition(":")[0]))
        if port is None:
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", port)) as there:
            if method == b"CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:  # one exchange a connection is enough
                path = "/" + target.split("/", 3)[3]
                there.sendall(head.replace(target.encode(), path.encode(), 1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            pump(self.connection, there)


def pump(a, b):
    while True:
        for here in select.select([a, b], [], [], 30)[0]:
            data = here.recv(65536)
            if not data:
                return
            (b if here is a else a).sendall(data)
