// Whether the server is there: asked again and again, ever more slowly while it is away.

const EVERY = 5000; // ms between questions while it is there
const FIRST = 500; // ms to the first try after it was lost; each further wait doubles
const LONGEST = 8000;

/** Watches the server; calls `changed(state, seconds)` with "ready", "draining" or "away" and the wait to the next try. */
export class Link {
  constructor(changed) {
    this.changed = changed;
    this.state = "connecting";
    this.wait = FIRST;
    this.timer = 0;
    addEventListener("online", () => this.ask());
    document.addEventListener("visibilitychange", () => document.hidden || this.ask());
  }

  /** Ask now; a question that is under way is the answer to this one too. */
  ask() {
    clearTimeout(this.timer);
    this.asking ??= this.question().finally(() => (this.asking = null));
    return this.asking;
  }

  async question() {
    const state = await ready();
    const lost = state !== "ready";
    if (!lost || this.state === "ready") this.wait = FIRST;
    const wait = lost ? this.wait : EVERY;
    if (lost) this.wait = Math.min(2 * this.wait, LONGEST);
    this.timer = setTimeout(() => (document.hidden && !lost ? null : this.ask()), wait);
    if (lost || this.state !== "ready") {
      this.state = state;
      this.changed(state, wait / 1000);
    }
  }
}

async function ready() {
  try {
    const response = await fetch(new URL("readyz", document.baseURI), {
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(4000),
    });
    return response.ok ? "ready" : "draining";
  } catch {
    return "away";
  }
}
