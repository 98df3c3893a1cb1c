// A text of coloured tokens that grows, and that mouse, finger and keyboard can walk along.

import { make, say } from "./dom.js";
import { decimal, nameOf, stepOf, visible } from "./scale.js";

const LEAST = 64; // tokens of a chunk before it ends at a line feed
const MOST = 400; // and where it is cut if no line feed comes; the browser lays out only chunks that are seen

export class TokenView {
  /** `point(i | null)` follows the token under the mouse or the keyboard; `open(i)` is a click or the Enter key. */
  constructor(label, { point, open }) {
    this.point = point;
    this.open = open;
    this.element = make("div", {
      class: "text",
      tabindex: 0,
      role: "group",
      "aria-label": label,
      "aria-describedby": "keys",
    });
    this.element.addEventListener("pointerover", (event) => this.pointed(event));
    this.element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.point(null));
    this.element.addEventListener("click", (event) => this.clicked(event));
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("blur", () => this.point(null));
    this.element.addEventListener("scroll", () => (this.follows = this.atEnd()), { passive: true });
    this.show([]);
  }

  /** Begin anew with these tokens. */
  show(tokens) {
    this.tokens = tokens;
    this.spans = [];
    this.places = new WeakMap();
    this.at = null;
    this.follows = true;
    this.element.replaceChildren();
    this.last = null;
    this.update();
  }

  /** Draw the tokens that have come since: one piece of work however many they are. */
  update() {
    if (this.spans.length === this.tokens.length) return;
    while (this.spans.length < this.tokens.length) {
      const open = new DocumentFragment();
      const room = this.last === null ? 0 : MOST - this.last.childElementCount;
      let taken = 0;
      let ended = false;
      while (taken < room && !ended && this.spans.length < this.tokens.length) {
        const token = this.tokens[this.spans.length];
        open.append(this.span(token));
        taken += 1;
        ended = token.text.endsWith("\n") && this.last.childElementCount + taken >= LEAST;
      }
      this.last?.append(open);
      if (this.last === null || ended || (taken === room && this.spans.length < this.tokens.length)) {
        if (this.last !== null && !ended) this.last.classList.add("cut");
        this.last = make("div", { class: "chunk" });
        this.element.append(this.last);
      }
    }
    if (this.follows) this.element.scrollTop = this.element.scrollHeight;
  }

  span(token) {
    const span = make("span", { class: `t s${stepOf(token.surprisal)}${token.chosen ? " chosen" : ""}` });
    spell(span, token.text);
    this.places.set(span, this.spans.length);
    this.spans.push(span);
    return span;
  }

  /** Outline a token, or none, and say whether it may have to be scrolled to. */
  mark(i, scroll = false) {
    if (this.at !== null) this.spans[this.at]?.classList.remove("at");
    this.at = i;
    if (i === null) return;
    this.spans[i].classList.add("at");
    if (scroll) this.spans[i].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Where token `i` stands on the screen: the part of it that `near` points at, if it is on several lines. */
  box(i, near = null) {
    const boxes = [...this.spans[i].getClientRects()];
    return (
      boxes.find((box) => near && near.y >= box.top && near.y <= box.bottom) ??
      boxes[0] ??
      this.element.getBoundingClientRect()
    );
  }

  placeOf(event) {
    const span = event.target.closest?.(".t");
    return span ? this.places.get(span) : undefined;
  }

  pointed(event) {
    if (event.pointerType !== "mouse") return; // a finger opens at once
    const place = this.placeOf(event);
    this.point(place ?? null, { x: event.clientX, y: event.clientY });
  }

  clicked(event) {
    if (!getSelection().isCollapsed) return; // text is being selected
    const place = this.placeOf(event);
    if (place === undefined) return;
    this.open(place, { x: event.clientX, y: event.clientY });
  }

  key(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey || !this.spans.length) return;
    const last = this.spans.length - 1;
    const from = this.at;
    const moves = {
      ArrowRight: () => (from === null ? 0 : Math.min(from + 1, last)),
      ArrowLeft: () => (from === null ? last : Math.max(from - 1, 0)),
      ArrowDown: () => (from === null ? 0 : this.line(from, 1)),
      ArrowUp: () => (from === null ? last : this.line(from, -1)),
      Home: () => 0,
      End: () => last,
    };
    if (event.key in moves) {
      event.preventDefault();
      this.mark(moves[event.key](), true);
      this.point(this.at);
      this.tell();
    } else if ((event.key === "Enter" || event.key === " ") && from !== null) {
      event.preventDefault();
      this.open(from);
    }
  }

  tell() {
    const token = this.tokens[this.at];
    const numbers = [
      ["surprisal", token.surprisal],
      ["entropy", token.entropy],
    ]
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `${name} ${decimal(value, 2)} nats`);
    say([`token ${this.at + 1}`, nameOf(token).slice(0, 60), ...numbers].join(", "));
  }

  /** The token above or below token `from`, as the eye would go. */
  line(from, way) {
    const here = this.spans[from].getBoundingClientRect();
    let best = from;
    for (let i = from + way; i >= 0 && i < this.spans.length; i += way) {
      const box = this.spans[i].getBoundingClientRect();
      const other = way > 0 ? box.top >= here.bottom - 2 : box.bottom <= here.top + 2;
      if (!other) continue;
      if (best !== from) {
        const line = this.spans[best].getBoundingClientRect();
        if (way > 0 ? box.top >= line.bottom - 2 : box.bottom <= line.top + 2) break; // one line further
      }
      if (
        best === from ||
        Math.abs(box.left - here.left) < Math.abs(this.spans[best].getBoundingClientRect().left - here.left)
      )
        best = i;
    }
    return best;
  }

  atEnd() {
    const { scrollTop, clientHeight, scrollHeight } = this.element;
    return scrollTop + clientHeight >= scrollHeight - 24;
  }
}

/** Write the text of a token into an element: line feeds marked, and a mark where there is nothing to see. */
export function spell(element, text) {
  if (text === "") element.append(make("i", { class: "nil" }));
  visible(text)
    .split("\n")
    .forEach((line, number) => {
      if (number > 0) element.append(make("i", { class: "nl" }), "\n");
      if (line !== "") element.append(line);
    });
}
