// The card of a token: its numbers and what else could have come. It follows the mouse, and stays when opened.

import { draw, make } from "./dom.js";
import { factsOf, nameOf, percent } from "./scale.js";

const GAP = 8; // px between a token and its card

export class Card {
  constructor(element) {
    this.element = element;
    this.opened = false;
    element.addEventListener("keydown", (event) => this.key(event));
    addEventListener("pointerdown", (event) => this.opened && !element.contains(event.target) && this.close());
    addEventListener("resize", () => this.close());
    for (const scrolled of ["wheel", "touchmove"]) addEventListener(scrolled, () => this.hide(), { passive: true });
  }

  /** Show a token's numbers beside `box` until the mouse moves on. */
  preview(token, number, box) {
    if (this.opened) return;
    this.fill(token, number, null);
    this.element.removeAttribute("role");
    this.place(box);
  }

  /** Take the preview away. */
  hide() {
    if (!this.opened) this.element.hidden = true;
  }

  /** Open for good, with the keyboard inside; `pick(alternative)` is null where nothing can be picked. */
  open(token, number, box, { pick, closed }) {
    this.close();
    this.fill(token, number, pick);
    this.opened = true;
    this.closed = closed;
    this.element.classList.add("opened");
    this.element.setAttribute("role", "dialog");
    this.element.setAttribute("aria-label", `Token ${number}: ${nameOf(token).slice(0, 60)}`);
    this.place(box);
    (this.element.querySelector(".other:not(:disabled)") ?? this.element.querySelector("button")).focus();
  }

  close() {
    if (!this.opened) return;
    const within = this.element.contains(document.activeElement);
    this.opened = false;
    this.element.hidden = true;
    this.element.classList.remove("opened");
    this.closed(within);
  }

  fill(token, number, pick) {
    const shut = make(
      "button",
      { type: "button", class: "plain", "aria-label": "Close", onclick: () => this.close() },
      "✕",
    );
    const head = make(
      "div",
      { class: "card-head" },
      make("b", { class: "name" }, nameOf(token)),
      make("span", { class: "label" }, `token ${number}`),
      shut,
    );
    const facts = factsOf(token).map(([name, value]) =>
      make("div", { class: "fact" }, make("dt", {}, name), make("dd", {}, value)),
    );
    this.element.replaceChildren(head, make("dl", {}, ...facts));
    if (token.chosen)
      this.element.append(
        make("p", { class: "label" }, "chosen by hand; kept and mass are those of the draw it replaces"),
      );
    if (!token.top?.length) return;
    const title = pick ? "the model’s likeliest tokens: pick one to go on from it" : "the model’s likeliest tokens";
    this.element.append(
      make(
        "div",
        { class: "others" },
        make("p", { class: "label" }, title),
        ...token.top.map((other) => row(token, other, pick)),
      ),
    );
  }

  /** Beneath the box, or above it where only there is room or more of it; a narrow screen has the card at its foot. */
  place(box) {
    const { element } = this;
    element.hidden = false;
    element.style.removeProperty("--room");
    const { width, height } = element.getBoundingClientRect();
    const below = innerHeight - box.bottom - 2 * GAP;
    const above = box.top - 2 * GAP;
    const beneath = below >= height || below >= above;
    const room = beneath ? below : above;
    const left = Math.min(Math.max(box.left, GAP), innerWidth - width - GAP);
    const top = beneath ? box.bottom + GAP : box.top - GAP - Math.min(height, room);
    for (const [name, value] of Object.entries({ x: left, y: top, room }))
      element.style.setProperty(`--${name}`, `${value}px`);
  }

  key(event) {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.close();
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    const buttons = [...this.element.querySelectorAll("button:not(:disabled)")];
    const at = buttons.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    buttons[(at + buttons.length) % buttons.length].focus();
  }
}

function row(token, other, pick) {
  const share = Math.exp(other.log_prob);
  const drawn = other.token_id === token.token_id;
  const bar = draw(
    "svg",
    { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("rect", { width: 100 * share, height: 8 }),
  );
  const parts = [make("span", {}, nameOf(other) + (drawn ? " ◂ drawn" : "")), bar, make("span", {}, percent(share))];
  if (!pick) return make("div", { class: `other${drawn ? " drawn" : ""}` }, ...parts);
  return make(
    "button",
    { type: "button", class: `other${drawn ? " drawn" : ""}`, disabled: drawn, onclick: () => pick(other) },
    ...parts,
  );
}
