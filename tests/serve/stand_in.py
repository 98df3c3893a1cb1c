"""A server that speaks the page's part of the interface with made-up tokens: quick, and the same for a seed."""

import hashlib
import json
import math
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hartley.serve

PAGE = Path(hartley.serve.__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
WORDS = (
    "the", "sea", "and", "a", "ship", "of", "old", "stone", "under", "light", "that", "keeps", "its", "slow", "watch",
    "over", "them", "while", "no", "one,",
)  # fmt: skip
HOSTILE = [
    "<script>document.title='hit'</script>", "<img src=x onerror=alert(1)>", "\u202egnp.exe", "\x00\x1b[31m",
    "&lt;b&gt;", "</span></div><style>*{display:none}</style>", "x" * 20_000, "\ud800", "`${alert(1)}`", "\n\n", "",
    "🙂", "\r\n", "'\"", "\u2028",
]  # fmt: skip
SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
SAMPLERS = {
    "temperature": {"temperature": {"type": "number", "minimum": 0, "maximum": 100, "description": "Divides."}},
    "top_h": {"top_h": SHARE},
    "top_k": {"top_k": {"type": "integer", "minimum": 1, "maximum": 1_000_000}},
    "top_p": {"top_p": SHARE},
    "mirostat": {
        "mirostat": {"type": "integer", "enum": [1, 2]},
        "mirostat_tau": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "mirostat_eta": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    },
}


def draws(*of):
    """Endless shares in [0, 1), the same for the same arguments."""
    count = 0
    while True:
        block = hashlib.sha256(repr((*of, count)).encode()).digest()
        yield from (int.from_bytes(block[at : at + 4], "big") / 2**32 for at in range(0, 32, 4))
        count += 1


def token(seed, position, prompt, sampler):
    """One made-up token: its text, and a row for each of the columns."""
    share = draws(seed, position, sampler)
    hostile = "hostile" in str(prompt)
    word = HOSTILE[position % len(HOSTILE)] if hostile else " " + WORDS[int(next(share) * len(WORDS))]
    if not hostile and position % 17 == 16:
        word = ".\n" if position % 34 == 33 else "."
    surprisal = -math.log(1 - next(share)) * 1.6
    rank = 1 + int(next(share) * 9)
    top = []
    for place in range(8):
        other = HOSTILE[(position + place) % len(HOSTILE)] if hostile else f" other{place}"
        text, log_prob = (word, -surprisal) if place + 1 == rank else (other, -0.7 - 0.8 * place)
        top.append({"token_id": 10 * position + place, "text": text, "log_prob": log_prob})
    drawn = top[rank - 1]["token_id"] if rank <= 8 else 9000 + position
    return word, {
        "token_ids": drawn, "texts": word, "surprisal": surprisal, "entropy": 4 * next(share),
        "varentropy": 6 * next(share), "rank": rank, "kept": 1 + int(200 * next(share) ** 3), "mass": next(share),
        "drawn_entropy": 2 * next(share), "drawn_varentropy": None, "top": top,
    }  # fmt: skip


def fault(message):
    return {"error": {"message": message, "type": "made_up", "param": None, "code": None}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/readyz":
            self.answer(200 if self.server.ready else 503, {"status": "ready" if self.server.ready else "draining"})
        elif path == "/v1/models":
            if self.allowed():
                about = {
                    "engine": "stand-in", "dtype": "none", "vocab_size": 10_000, "context_length": 8192,
                    "max_tokens": 4096, "chat": self.server.chat, "score": False, "ends": [117], "samplers": SAMPLERS,
                }  # fmt: skip
                self.answer(200, {"object": "list", "data": [{"id": "made-up", "object": "model", "hartley": about}]})
        else:
            self.file("index.html" if path == "/" else path.removeprefix("/page/"))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.asked.append((self.path, body))
        prompt = body.get("prompt", body.get("messages"))
        for word, status in (("refuse", 400), ("busy", 429)):
            if word in str(prompt):
                self.answer(status, fault(f"prompt: it says {word}"))
                return
        self.stream(body, prompt)

    def stream(self, body, prompt):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")  # which is where the stream ends
        self.end_headers()
        chat = "messages" in body
        head = {"id": "1", "created": 0, "model": "made-up", "seed": body["seed"], "sampler": body["sampler"]}
        before = len(prompt) if isinstance(prompt, list) and not chat else 0
        for position in range(body["max_tokens"]):
            if self.server.closing.is_set():
                return
            if "break off" in str(prompt) and position == 5:
                self.event(fault("the server is ending"))
                return
            text, row = token(body["seed"], before + position, prompt, body["sampler"])
            last = position + 1 == body["max_tokens"]
            choice = {"index": 0, "finish_reason": "length" if last else None, "logprobs": None}
            choice |= {"delta": {"content": text}} if chat else {"text": text}
            choice["hartley"] = {name: [value] for name, value in row.items()}
            choice["token_ids"] = [row["token_ids"]]
            if position == 0:
                choice["prompt_token_ids"] = [1, 2, 3] if not before else prompt
            if not self.event(head | {"choices": [choice]}):
                self.server.left.append(position)
                return
            if self.server.delay:
                time.sleep(self.server.delay)
        self.event(head | {"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, data):
        try:
            text = json.dumps(data, ensure_ascii=False)
            self.wfile.write(f"data: {text}\r\n\r\n".encode(errors="backslashreplace"))
            self.wfile.flush()
        except OSError:
            return False
        return True

    def allowed(self):
        if self.server.key is None or self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return True
        self.answer(401, fault("the key is missing or wrong"))
        return False

    def file(self, name):
        path = PAGE / name
        if "/" in name or not path.is_file():
            self.answer(404, fault(f"there is no {name}"))
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", TYPES[path.suffix])
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(data)

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status in (429, 503):
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    """Serves until ``stop``; ``asked`` are the requests, ``left`` how far streams came whose reader went away."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port=0, *, key=None, delay=0.0, chat=True):
        super().__init__(("127.0.0.1", port), Handler)
        self.key, self.delay, self.chat, self.ready = key, delay, chat, True
        self.asked, self.left, self.connections = [], [], []
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def stop(self):
        self.closing.set()
        for connection in self.connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()
        self.thread.join()
