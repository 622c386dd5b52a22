#!/usr/bin/env python3
"""tests/e2e/https_test.py [NAME…] - downloads by HTTPS and through a proxy: images at URLs, and the Hub. Servers, the authority of their
certificates and the proxy are this test's own (tests/evidence/secure.py); names such as images.test exist in the proxy alone.

Each test is a function whose name is the sentence it proves. Prints one line a test; exit 0 only if all hold, 77 without openssl."""
import os
import shutil
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "evidence"))
import fetch_server
import hub_server
import lib
import secure

CONFIG, IO, DATA = 3, 5, 11
REMEDY = "set CURL_CA_BUNDLE to a file with its certificate"


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


class Place:
    """What all tests use: an authority, a server by http and one by https, at 127.0.0.1 and as images.test."""

    def __init__(self, work):
        self.work = work
        self.authority = secure.Authority(work.path("authority"), "127.0.0.1", "localhost", "images.test", "hub.test")
        self.plain, self.safe, self.named = (fetch_server.Server() for _ in range(3))
        self.authority.secure(self.safe, "127.0.0.1")
        self.authority.secure(self.named, "images.test")
        self.runs = 0

    def environment(self, **more):
        names = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
        kept = {k: v for k, v in os.environ.items() if k not in names and not k.lower().endswith("_proxy") and not k.startswith("HF_")}
        return dict(kept, **more)

    def fetch(self, urls, environment, **changes):
        """`blipren-loader fetch` of these URLs into a cache of their own: exit status and all that it says."""
        self.runs += 1
        name = "run%d" % self.runs
        lib.write_parquet(self.work.path(name + ".parquet"), {"url": urls, "caption": ["a red circle"] * len(urls)})
        lib.write_yaml(self.work.path(name + ".yaml"), self.work.path(name + ".parquet"), self.work.path(name),
                       data__captions="[{column: caption}]", **changes)
        done = subprocess.run([lib.program("blipren-loader"), "fetch", self.work.path(name + ".yaml")], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, env=self.environment(**environment))
        return done.returncode, done.stdout


def url_of(server, kind, number, host="127.0.0.1", scheme="https"):
    return "%s://%s:%d/%s/%s" % (scheme, host, server.server_address[1], kind, number)


# -- images


def images_come_by_https_where_the_authority_is_trusted(place):
    urls = [url_of(place.safe, "ok", "%d.png" % i) for i in range(8)]
    folder = place.work.path("folder")
    os.makedirs(folder)
    shutil.copy(place.authority.ca, folder)
    subprocess.run(["openssl", "rehash", folder], check=True)
    for trust in ({"CURL_CA_BUNDLE": place.authority.ca, "SSL_CERT_FILE": "/none"}, {"SSL_CERT_FILE": place.authority.ca}, {"SSL_CERT_DIR": folder}):
        code, text = place.fetch(urls, trust)
        expect(code == 0 and "         8  fetched\n" in text, "%s: %d\n%s" % (trust, code, text))


def a_certificate_that_is_not_trusted_is_named_at_once_and_voids_nothing(place):
    good, bad = url_of(place.plain, "ok", "1.png", scheme="http"), url_of(place.safe, "ok", "secret.png")
    cases = [({}, bad, "unable to get local issuer certificate"),
             ({"CURL_CA_BUNDLE": "/none/ca.pem"}, bad, "/none/ca.pem"),
             ({"CURL_CA_BUNDLE": place.authority.ca}, url_of(place.named, "ok", "1.png"), "no alternative certificate subject name matches target host name '127.0.0.1'")]
    for trust, url, words in cases:
        code, text = place.fetch([url, good], trust)
        expect(code == IO and "         1  fetched\n" in text, "%d\n%s" % (code, text))
        expect("         1  the server's certificate is not trusted, the first %s: " % url in text and words in text and
               "1 of 2 URLs are of servers that are not trusted" in text and REMEDY in text, text)
    expect(place.safe.asked["/ok/secret.png"] == 0, "an image was asked for on an untrusted connection")
    port = place.named.server_address[1]
    proxy = secure.Proxy({"images.test": port})
    code, text = place.fetch([url_of(place.named, "ok", "2.png", "images.test")], {"https_proxy": proxy.url})
    expect(code == IO and proxy.asked == ["CONNECT images.test:%d" % port], "it was tried again: %s\n%s" % (proxy.asked, text))
    proxy.close()


def a_redirect_may_lead_to_https_and_not_from_it(place):
    place.plain.to["up.png"] = url_of(place.safe, "ok", "up.png")
    place.safe.to["down.png"] = url_of(place.plain, "ok", "down.png", scheme="http")
    trust = {"CURL_CA_BUNDLE": place.authority.ca}
    code, text = place.fetch([url_of(place.plain, "to", "up.png", scheme="http")], trust, data__private_redirects=True)
    expect(code == 0 and "         1  fetched\n" in text, text)
    code, text = place.fetch([url_of(place.safe, "to", "down.png")], trust, data__private_redirects=True)
    expect(code == DATA and "(its samples are void), the first %s: redirected from https to http://127.0.0.1" %
           url_of(place.safe, "to", "down.png") in text, text)
    expect(place.plain.asked["/ok/down.png"] == 0, "it was asked for")


def a_proxy_is_used_as_curl_uses_it(place):
    safe, plain = place.named.server_address[1], place.plain.server_address[1]
    proxy = secure.Proxy({"images.test:%d" % safe: safe, "images.test:%d" % plain: plain})
    urls = [url_of(place.named, "ok", "p.png", "images.test"), url_of(place.plain, "ok", "p.png", "images.test", "http")]
    trust = {"CURL_CA_BUNDLE": place.authority.ca}
    code, text = place.fetch(urls, dict(trust, https_proxy=proxy.url, http_proxy=proxy.url))
    expect(code == 0 and "         2  fetched\n" in text, text)
    expect(sorted(proxy.asked) == ["CONNECT images.test:%d" % safe, "GET " + urls[1]], proxy.asked)
    proxy.asked.clear()
    code, text = place.fetch([url_of(place.safe, "ok", "p.png"), url_of(place.plain, "ok", "q.png", scheme="http")],
                             dict(trust, all_proxy=proxy.url, no_proxy="127.0.0.1,elsewhere.test"))
    expect(code == 0 and "         2  fetched\n" in text and not proxy.asked, "%s\n%s" % (proxy.asked, text))
    code, text = place.fetch([url_of(place.named, "ok", "r.png", "forbidden.test")], dict(trust, https_proxy=proxy.url),
                             data__download_patience_s=0)
    expect(code == IO and "no connection (try again)" in text and "403" in text, text)
    proxy.close()


def a_proxy_at_a_private_address_is_no_redirect_to_one(place):
    """The proxy, at 127.0.0.1, is the user's; a redirect by it to a public name is none to a private address, one to 10.0.0.9 is."""
    port = place.plain.server_address[1]
    proxy = secure.Proxy({"images.test": port, "10.0.0.9": port})
    place.plain.to.update({"away.png": "http://images.test/ok/away.png", "in.png": "http://10.0.0.9/ok/in.png",
                           "home.png": "http://[::1]:%d/ok/home.png" % port})
    ask = lambda number: place.fetch(["http://images.test/to/" + number], {"http_proxy": proxy.url})
    code, text = ask("away.png")
    expect(code == 0 and "         1  fetched\n" in text, text)
    for number in ("in.png", "home.png"):
        code, text = ask(number)
        expect(code == DATA and "redirected to a private address (data.private_redirects)" in text, text)
    expect(not any("10.0.0.9" in line or "::1" in line for line in proxy.asked), proxy.asked)
    proxy.close()


# -- the Hub


def model_files():
    folder = os.path.join(lib.ROOT, "deploy/demo/models/vision")
    return {name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)}


def start_hub(place, name, cdn_is_safe=True):
    """By https as `name`, its CDN at localhost."""
    hub = hub_server.Hub([hub_server.Repository("models", "blip/vision", model_files())])
    place.authority.secure(hub.servers[0], name)
    hub.endpoint = "https://%s:%d" % (name, hub.servers[0].server_port)
    if cdn_is_safe:
        place.authority.secure(hub.servers[1], "localhost")
        hub.cdn = hub.cdn.replace("http:", "https:")
    return hub


def pull(place, hub, home, **environment):
    lib.write_yaml(place.work.path("hub.yaml"), "/", place.work.path("hub-run"), vision__path="blip/vision")
    done = subprocess.run([lib.program("blipren-coord"), "pull", place.work.path("hub.yaml")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60, env=place.environment(HF_HOME=place.work.path(home), HF_ENDPOINT=hub.endpoint, **environment))
    return done.returncode, done.stdout


def the_hub_is_asked_by_https(place):
    hub = start_hub(place, "127.0.0.1")
    code, text = pull(place, hub, "untrusted")
    expect(code == IO and "%s is not trusted: SSL certificate problem: unable to get local issuer certificate" % hub.endpoint in text and
           REMEDY in text and "trying again" not in text, text)
    code, text = pull(place, hub, "trusted", CURL_CA_BUNDLE=place.authority.ca)
    expect(code == 0 and hub.total() == sum(map(len, model_files().values())), text)
    hub.close()
    hub = start_hub(place, "127.0.0.1", cdn_is_safe=False)
    code, text = pull(place, hub, "downgraded", CURL_CA_BUNDLE=place.authority.ca)
    expect(code == IO and "redirects to %s/" % hub.cdn in text and "which is not https" in text, text)
    hub.close()


def the_hub_is_asked_through_a_proxy(place):
    hub = start_hub(place, "hub.test")
    ports = [s.server_port for s in hub.servers]
    proxy = secure.Proxy({"hub.test": ports[0], "localhost": ports[1]})
    code, text = pull(place, hub, "proxied", CURL_CA_BUNDLE=place.authority.ca, HTTPS_PROXY=proxy.url)
    expect(code == 0 and "CONNECT hub.test:%d" % ports[0] in proxy.asked and "CONNECT localhost:%d" % ports[1] in proxy.asked, text)
    proxy.close()
    hub.close()


def a_mistyped_path_is_told_as_a_path_and_as_a_name_on_the_hub(place):
    hub = hub_server.Hub([])
    code, text = pull(place, hub, "mistyped")
    expect(code == IO and "vision.path: no file or folder blip/vision here: taken as a name on the Hub" in text and
           "no file or folder of this name is here, and the Hub has no model of it that everybody may see; if a folder is meant, check the path" in text, text)
    hub.close()


def main():
    if not shutil.which("openssl"):
        print("https: skipped=no_openssl")
        sys.exit(77)
    tests = [f for f in list(globals().values()) if callable(f) and getattr(f, "__code__", None) and
             f.__code__.co_varnames[:1] == ("place",) and f.__code__.co_filename == __file__ and f.__code__.co_argcount == 1]
    failed = 0
    with lib.Workplace("https") as work:
        place = Place(work)
        for test in tests:
            if sys.argv[1:] and test.__name__ not in sys.argv[1:]:
                continue
            begun = time.time()
            try:
                test(place)
                print("ok    %5.1f s  %s" % (time.time() - begun, test.__name__), flush=True)
            except Exception:
                failed += 1
                print("FAIL  %5.1f s  %s" % (time.time() - begun, test.__name__), flush=True)
                traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 0)


main()
