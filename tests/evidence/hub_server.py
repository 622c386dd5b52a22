"""tests/evidence/hub_server.py - a Hub of its own: repositories in memory behind the API that clients of the Hub ask.

    /api/{models,datasets}/OWNER/NAME[/revision/REVISION]            the commit
    /api/{models,datasets}/OWNER/NAME/tree/COMMIT?recursive=true     files, in pages of PAGE entries
    [/datasets]/OWNER/NAME/resolve/REVISION/PATH                     a file; large ones by a redirect to a second host, the CDN

What is sent is counted, and a path can be told to fail."""
import hashlib
import http.server
import json
import re
import socket
import threading
import time
import urllib.parse

PAGE = 3
LFS_FROM = 100000  # bytes from which a file is kept apart, and known by its SHA-256


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repository:
    def __init__(self, kind, name, files, gated=False, token=None):
        self.kind, self.name, self.gated, self.token = kind, name, gated, token
        self.commits, self.refs = {}, {}
        self.commit(files)

    def commit(self, files, *more_refs):
        commit = hashlib.sha1(repr(sorted((p, git_blob(d)) for p, d in files.items())).encode()).hexdigest()
        self.commits[commit] = dict(files)
        for ref in ("main",) + more_refs:
            self.refs[ref] = commit
        return commit


def is_lfs(data):
    return len(data) >= LFS_FROM


def etag(data):
    return hashlib.sha256(data).hexdigest() if is_lfs(data) else git_blob(data)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *unused):
        """A client that was killed is no error."""


class Hub:
    """Two servers on free ports of loopback: the Hub at 127.0.0.1, the CDN at localhost."""

    def __init__(self, repositories):
        self.repositories = {(r.kind, r.name): r for r in repositories}
        self.lock = threading.Lock()
        self.sent = {}      # path in a repository -> bytes of its content that were sent
        self.requests = []  # (method, path, status)
        self.leaks = 0      # tokens that reached the CDN
        self.faults = {}    # path in a repository -> list of what its next answers do: see Handler.content
        self.rate = None    # bytes a second of each answer of the CDN
        hub = self

        class Handler(BaseHandler):
            pass

        Handler.hub = hub
        self.servers = []
        for host in ("127.0.0.1", "localhost"):
            server = Server((socket.gethostbyname(host), 0), Handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.servers.append(server)
        self.endpoint = "http://127.0.0.1:%d" % self.servers[0].server_port
        self.cdn = "http://localhost:%d" % self.servers[1].server_port

    def clear(self):
        with self.lock:
            self.sent, self.requests, self.faults, self.rate = {}, [], {}, None

    def total(self):
        with self.lock:
            return sum(self.sent.values())

    def close(self):
        for server in self.servers:
            server.shutdown()


class BaseHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    # -- answers

    def reply(self, status, data=b"", **headers):
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def fail(self, status, code, words):
        self.reply(status, json.dumps({"error": words}).encode(), X_Error_Code=code, X_Error_Message=words)

    def answer(self, body):
        if self.server is self.hub.servers[1]:
            return self.from_cdn()
        url = urllib.parse.urlsplit(self.path)
        found = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", url.path)
        if found:
            kind, name, what, revision, path = found.groups()
        else:
            found = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path)
            if not found:
                return self.reply(404)
            kind, name, what, revision, path = "datasets" if found[1] else "models", found[2], "resolve", found[3], found[4]
        revision, path = urllib.parse.unquote(revision or "main"), urllib.parse.unquote(path or "")
        repository = self.hub.repositories.get((kind, name))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not repository or (repository.token and repository.token != token):
            return self.fail(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.gated and what != "revision" and what is not None and token != "granted":
            return self.fail(403 if token else 401, "GatedRepo", "Access to this model is restricted.")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        files = repository.commits[commit]
        if what == "tree" and path: # of a folder that no repository here has
            return self.fail(404, "EntryNotFound", "no such folder")
        if what == "tree":
            return self.tree(url, files)
        if what == "resolve":
            return self.resolve(repository, commit, files, path)
        self.reply(200, json.dumps({"id": name, "sha": commit, "gated": "auto" if repository.gated else False,
                                    "siblings": [{"rfilename": p} for p in sorted(files)]}).encode(), Content_Type="application/json")

    def tree(self, url, files):
        query = dict(urllib.parse.parse_qsl(url.query))
        first = int(query.get("cursor", 0))
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in
                   sorted({p.rpartition("/")[0] for p in files} - {""})]
        for path, data in sorted(files.items()):
            entry = {"type": "file", "oid": git_blob(data), "size": len(data), "path": path}
            if is_lfs(data):
                entry["oid"] = "1" * 40  # the pointer's
                entry["lfs"] = {"oid": etag(data), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        more = {}
        if first + PAGE < len(entries):
            next_page = "%s%s?recursive=true&cursor=%d" % (self.hub.endpoint, url.path, first + PAGE)
            more["Link"] = '<%s>; rel="next"' % next_page
        self.reply(200, json.dumps(entries[first:first + PAGE]).encode(), Content_Type="application/json", **more)

    def resolve(self, repository, commit, files, path):
        if path not in files:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data = files[path]
        headers = {"X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if is_lfs(data):
            place = "%s/%s/%s/%s/%s" % (self.hub.cdn, repository.kind, repository.name, commit, urllib.parse.quote(path))
            return self.reply(302, Location=place, X_Linked_Etag='"%s"' % etag(data), X_Linked_Size=str(len(data)), **headers)
        self.content(path, data, ETag='"%s"' % etag(data), **headers)

    def from_cdn(self):
        if self.headers.get("Authorization"):
            self.hub.leaks += 1
        kind, owner, name, commit, path = urllib.parse.unquote(self.path)[1:].split("/", 4)
        data = self.hub.repositories[kind, owner + "/" + name].commits[commit][path]
        self.content(path, data, ETag='"%s"' % hashlib.md5(data).hexdigest())

    def content(self, path, data, **headers):
        """The faults: a status ("500", "429"), "cut:N" ends the connection after N bytes, "wrong" changes a byte, "whole" ignores
        the range that was asked for."""
        with self.hub.lock:
            list_of = self.hub.faults.get(path, [])
            fault = list_of.pop(0) if list_of and self.command == "GET" else ""
        if fault.isdigit():
            return self.reply(int(fault), Retry_After="1")
        size, first = len(data), 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and fault != "whole":
            first = int(asked[1])
            if first >= size:
                return self.reply(416, Content_Range="bytes */%d" % size)
            headers["Content_Range"] = "bytes %d-%d/%d" % (first, size - 1, size)
        if fault == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, 206 if first or asked and fault != "whole" else 200))
        self.send_response(206 if "Content_Range" in headers else 200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        if self.command != "GET":
            return
        end = first + int(fault[4:]) if fault.startswith("cut:") else size
        try:
            for at in range(first, min(end, size), 16384):
                piece = data[at:min(at + 16384, end)]
                self.wfile.write(piece)
                with self.hub.lock:
                    self.hub.sent[path] = self.hub.sent.get(path, 0) + len(piece)
                if self.hub.rate:
                    time.sleep(len(piece) / self.hub.rate)
        except OSError:
            pass
        if end < size:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
