"""Chromium with `page.html`, a client; `run` says what it is told and what it prints.

Serves the page, starts the browser without a window, and passes on over the DevTools protocol what
the page is told and what it logs.
"""

import http.server
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import urllib.parse

from websockets.sync.client import connect


class Page(http.server.BaseHTTPRequestHandler):
    text = (pathlib.Path(__file__).parent / "page.html").read_bytes()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *_):
        pass


def main(role, url, heartbeat="frame"):
    assert role == "client"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = urllib.parse.urlencode({"url": url, "heartbeat": heartbeat})
    page = f"http://127.0.0.1:{server.server_port}/?{query}"

    with tempfile.TemporaryDirectory() as profile, connect(start_browser(profile)) as devtools:
        numbers = itertools.count()

        def call(method, session=None, **params):
            request = {"id": next(numbers), "method": method, "params": params}
            devtools.send(json.dumps(request | ({"sessionId": session} if session else {})))

        # The one tab may be there already, or come later.
        call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)
        for event in map(json.loads, devtools):
            method, params = event.get("method"), event.get("params")
            if method == "Target.attachedToTarget" and params["targetInfo"]["type"] == "page":
                tab = params["sessionId"]
                call("Runtime.enable", tab)
                call("Page.navigate", tab, url=page)
                threading.Thread(target=obey, args=(call, tab), daemon=True).start()
            elif method == "Runtime.consoleAPICalled":
                print(params["args"][0]["value"], flush=True)


def start_browser(profile):
    """Starts it with one tab, and gives its DevTools address."""
    browser = subprocess.Popen(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in browser.stderr:
        listening = re.search(r"DevTools listening on (ws://\S+)", line)
        if listening:
            threading.Thread(target=browser.stderr.read, daemon=True).start()
            return listening[1]
    sys.exit("the browser did not start")


def obey(call, tab):
    for line in sys.stdin:
        call("Runtime.evaluate", tab, expression=f"obey({json.dumps(line.strip())})")


main(*sys.argv[1:])
