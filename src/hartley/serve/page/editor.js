// The settings of one sampler chain: sliders and a text that say the same.

import { make } from "./dom.js";
import { parse, targetOf, write } from "./samplers.js";

const STEPS = 200; // of a slider
const UNITS = { mirostat_tau: "bits", top_k: "tokens", entropy_top_k: "tokens" };

export class Editor {
  /** `changed()` is called whenever the chain is another one. */
  constructor(letter, specs, text, changed) {
    this.changed = changed;
    this.chain = [];
    const id = `sampler-${letter}`;
    const typed = {
      id,
      type: "text",
      spellcheck: "false",
      autocapitalize: "off",
      autocomplete: "off",
      maxlength: 1000,
      placeholder: "plain sampling",
      "aria-describedby": `${id}-wrong`,
    };
    this.input = make("input", { ...typed, oninput: () => this.read() });
    this.wrong = make("p", { class: "wrong", id: `${id}-wrong`, role: "status" });
    this.list = make("ol", { class: "chain", "aria-label": `Samplers of ${letter}, in the order they are applied` });
    this.adder = make("select", {
      "aria-label": `Add a sampler to ${letter}`,
      onchange: () => this.add(this.adder.value),
    });
    this.head = make("div", { class: "editor-head" }, make("h3", {}, make("span", { class: "letter" }, letter)));
    const label = make("label", { for: id, class: "label" }, "as text");
    this.element = make(
      "section",
      { class: "editor", "aria-label": `Sampler ${letter}` },
      this.head,
      label,
      this.input,
      this.wrong,
      this.list,
      this.adder,
    );
    this.input.value = text;
    this.learn(specs);
  }

  /** Take over what the server says of its samplers. */
  learn(specs) {
    this.specs = specs;
    const options = [...specs.keys()].map((name) => make("option", { value: name }, name));
    this.adder.replaceChildren(make("option", { value: "" }, "+ add a sampler …"), ...options);
    this.read();
  }

  /** The chain as text, as it will be sent. */
  get text() {
    return this.input.value.trim();
  }

  /** Mirostat's target in bits, or null. */
  get target() {
    return targetOf(this.chain);
  }

  /** Follow the text; where it cannot be read, say why and leave the sliders. */
  read() {
    let message = "";
    try {
      this.chain = parse(this.input.value, this.specs);
      this.build();
    } catch (error) {
      message = error.message;
    }
    this.complain(message);
    this.changed();
  }

  complain(message) {
    this.wrong.textContent = message;
    this.input.setAttribute("aria-invalid", message !== "");
  }

  /** Follow the sliders. */
  wrote() {
    this.input.value = write(this.chain);
    this.complain("");
    this.changed();
  }

  add(name) {
    this.adder.value = "";
    if (!this.specs.has(name)) return;
    this.chain.push({ name, settings: Object.fromEntries(this.specs.get(name).map((spec) => [spec.key, spec.start])) });
    this.wrote();
    this.build();
    this.list.lastElementChild.querySelector("input, select").focus();
  }

  move(place, by) {
    this.chain.splice(place + by, 0, ...this.chain.splice(place, 1));
    this.wrote();
    this.build();
    const [earlier, later] = this.list.children[place + by].querySelectorAll("button");
    const same = by < 0 ? earlier : later;
    (same.disabled ? (by < 0 ? later : earlier) : same).focus();
  }

  remove(place) {
    this.chain.splice(place, 1);
    this.wrote();
    this.build();
    (this.list.children[place]?.querySelector("button:last-of-type") ?? this.adder).focus();
  }

  build() {
    this.list.replaceChildren(...this.chain.map((link, place) => this.item(link, place)));
  }

  item({ name, settings }, place) {
    const button = (sign, title, disabled, onclick) =>
      make(
        "button",
        { type: "button", class: "plain", "aria-label": `${title} ${name}`, title, disabled, onclick },
        sign,
      );
    const head = make(
      "div",
      { class: "item-head" },
      make("b", { class: "name" }, name),
      button("↑", "Earlier", place === 0, () => this.move(place, -1)),
      button("↓", "Later", place === this.chain.length - 1, () => this.move(place, 1)),
      button("✕", "Remove", false, () => this.remove(place)),
    );
    const listed = this.specs.get(name);
    const take = (key, value) => {
      settings[key] = value;
      this.wrote();
    };
    const others = Object.keys(settings).filter((key) => !listed.some((spec) => spec.key === key));
    const more = others.map((key) => make("p", { class: "label" }, `${key}=${settings[key]}`));
    return make(
      "li",
      {},
      head,
      ...listed.map((spec) => setting(spec, settings[spec.key], (value) => take(spec.key, value), spec.key === name)),
      ...more,
    );
  }
}

/** The row of a setting: `value` undefined if it is not written in the chain, `alone` if it bears its sampler's name. */
function setting(spec, value, take, alone) {
  const unit = spec.key in UNITS ? make("span", { class: "label" }, ` ${UNITS[spec.key]}`) : null;
  const name = alone ? make("span", { class: "label" }, spec.help) : make("span", { title: spec.help }, spec.key, unit);
  if (spec.kind === "choice") {
    const unset = value === undefined ? [make("option", { value: "", selected: true }, "default")] : [];
    const options = spec.choices.map((one) => make("option", { value: one, selected: one === value }, String(one)));
    const select = make(
      "select",
      { "aria-label": spec.key, onchange: () => take(spec.choices[select.selectedIndex - unset.length]) },
      ...unset,
      ...options,
    );
    return make("div", { class: "setting" }, name, select);
  }
  const slider = make("input", {
    type: "range",
    min: spec.open ? 1 : 0,
    max: STEPS,
    "aria-label": spec.key,
    title: spec.help,
  });
  const step = spec.kind === "integer" ? 1 : "any";
  const number = make("input", {
    type: "number",
    min: spec.least,
    max: spec.most,
    step,
    placeholder: "default",
    "aria-label": `${spec.key}, number`,
  });
  const follow = (now) => {
    slider.value = stepOf(now, spec);
    slider.setAttribute("aria-valuetext", String(now));
  };
  slider.addEventListener("input", () => {
    const now = atStep(slider.valueAsNumber, spec);
    number.value = now;
    slider.setAttribute("aria-valuetext", String(now));
    take(now);
  });
  number.addEventListener("input", () => {
    if (number.value === "" || !number.checkValidity()) return;
    follow(number.valueAsNumber);
    take(number.valueAsNumber);
  });
  if (value !== undefined) number.value = value;
  follow(value ?? spec.start);
  return make("div", { class: "setting" }, name, number, slider);
}

/** The value at a step of the slider, to three figures. */
function atStep(step, { low, high, log, kind }) {
  const share = step / STEPS;
  const value = log ? low * (high / low) ** share : low + (high - low) * share;
  return kind === "integer" ? Math.round(value) : Number(value.toPrecision(3));
}

function stepOf(value, { low, high, log }) {
  const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return Math.round(STEPS * Math.min(Math.max(share, 0), 1));
}
