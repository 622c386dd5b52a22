"""tests/evidence/fetch_server.py - a server of images that misbehaves as its paths say, and remembers what it did. Standard library.

/KIND/NUMBER: kinds are the methods of Answers. Those that end in _once misbehave at the first request for a path (the first two where
a kind says so) and answer well from then on.
"""
import collections
import gzip
import hashlib
import http.server
import random
import struct
import threading
import time
import zlib

HANG_S = 30


def png(seed, side=64):
    """An image of noise: the same bytes for the same seed."""
    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(side * 3) for _ in range(side))
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused):
        pass

    def do_GET(self):
        server = self.server
        _, kind, number = self.path.split("?")[0].split("/", 2)
        with server.lock:
            server.asked[self.path] += 1
            server.now += 1
            server.most = max(server.most, server.now)
            times = server.asked[self.path]
        try:
            time.sleep(server.delay_s)
            getattr(self, "kind_" + kind)(self.image(number), times)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.now -= 1

    def image(self, number):
        return png(self.path)

    def send(self, status, body=b"", kind="image/png", length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not False:
            self.send_header("Content-Length", str(length or len(body)))
        else:
            self.close_connection = True
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def served(self):
        with self.server.lock:
            self.server.whole[self.path] += 1

    def kind_ok(self, image, times, **headers):
        """With what lets a part be continued."""
        tag = '"%s"' % hashlib.sha256(image).hexdigest()[:16]
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") == tag:
            first = int(asked.split("=")[1].rstrip("-"))
            with self.server.lock:
                self.server.continued += 1
            self.send(206, image[first:], ETag=tag, Content_Range="bytes %d-%d/%d" % (first, len(image) - 1, len(image)))
        else:
            self.send(200, image, ETag=tag, **headers)
        self.served()

    def kind_404(self, image, times):
        self.send(404, b"<html>no such image</html>", "text/html")

    def kind_410(self, image, times):
        self.send(410, b"gone", "text/plain")

    def kind_403(self, image, times):
        self.send(403, b"no", "text/plain")

    def kind_429_once(self, image, times):
        if times == 1:
            self.send(429, b"slower", "text/plain", Retry_After="1")
        else:
            self.kind_ok(image, times)

    def kind_500_once(self, image, times):
        if times <= 2:
            self.send(500, b"oh", "text/plain")
        else:
            self.kind_ok(image, times)

    def kind_500(self, image, times):
        self.send(500, b"oh", "text/plain")

    def kind_hang_once(self, image, times):
        if times == 1:
            self.close_connection = True
            self.server.ended.wait(HANG_S)
        else:
            self.kind_ok(image, times)

    def kind_hang(self, image, times):
        self.close_connection = True
        self.server.ended.wait(HANG_S)

    def kind_cut_once(self, image, times):
        """The connection ends before Content-Length is reached."""
        if times > 1:
            return self.kind_ok(image, times)
        self.send(200, image[:len(image) // 2], length=len(image), ETag='"%s"' % hashlib.sha256(image).hexdigest()[:16])
        self.close_connection = True

    def kind_end_once(self, image, times):
        """The same without a Content-Length: only the image tells."""
        if times > 1:
            return self.kind_ok(image, times)
        self.send(200, image[:len(image) // 2], length=False)

    def kind_html(self, image, times):
        self.send(200, b"<html>this image is unavailable</html>", "text/html")

    def kind_empty(self, image, times):
        self.send(200, b"")

    def kind_redirect(self, image, times):
        self.send(302, b"there", "text/plain", Location="/ok/r%s" % self.path.rsplit("/", 1)[1])

    def kind_to(self, image, times):
        """A redirect to where the server was told."""
        self.send(302, b"there", "text/plain", Location=self.server.to[self.path.rsplit("/", 1)[1]])

    def kind_loop(self, image, times):
        self.send(302, b"", "text/plain", Location=self.path)

    def kind_elsewhere(self, image, times):
        self.send(301, b"", "text/plain", Location="ftp://127.0.0.1/a.png" if self.path.endswith("0.png") else "file:///etc/passwd")

    def kind_drip_once(self, image, times):
        if times > 1:
            return self.kind_ok(image, times)
        self.send(200, length=len(image))
        self.close_connection = True
        for i in range(300):
            self.wfile.write(image[i:i + 1])
            if self.server.ended.wait(0.1):
                break

    def kind_close(self, image, times):
        self.send(200, image, length=False)
        self.served()

    def kind_chunked(self, image, times):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(0, len(image), 5000):
            part = image[i:i + 5000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")
        self.served()

    def kind_gzip(self, image, times):
        self.send(200, gzip.compress(image), Content_Encoding="gzip")
        self.served()

    def kind_large(self, image, times):
        """With the length told, or not."""
        told = self.path.endswith("0.png")
        self.send(200, length=1 << 30 if told else False)
        self.close_connection = True
        for _ in range(1 << 10):
            self.wfile.write(image * 100)

    def kind_same(self, image, times):
        """One image, whatever the number."""
        self.send(200, png("same"))
        self.served()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, delay_s=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.to = {}  # number -> URL, of kind "to"
        self.lock, self.ended, self.delay_s = threading.Lock(), threading.Event(), delay_s
        self.forget()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *unused):
        pass

    def forget(self):
        self.asked, self.whole = collections.Counter(), collections.Counter()
        self.continued = self.now = self.most = 0

    def url(self, kind, number):
        return "http://127.0.0.1:%d/%s/%s" % (self.server_address[1], kind, number)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.ended.set()
        self.shutdown()
        self.server_close()
