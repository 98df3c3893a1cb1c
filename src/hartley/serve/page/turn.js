// A prompt, or a message of a chat, and the answers to it side by side.

import { Answer } from "./answer.js";
import { make } from "./dom.js";
import { visible } from "./scale.js";

const LETTERS = "ABC";

export class Turn {
  /** `asks` are what `Answer` takes, one for each sampler; `prompt` is what was typed. */
  constructor({ mode, prompt, asks, card, changed }) {
    this.mode = mode;
    this.prompt = prompt;
    this.chosen = 0;
    this.answers = asks.map((ask, i) => new Answer(LETTERS[i], ask, card, changed, asks.length > 1));
    const title = make("h2", { class: "label" }, mode === "chat" ? "You" : "Prompt");
    this.grid = make(
      "div",
      { class: "answers", "data-count": asks.length },
      ...this.answers.map((answer) => answer.element),
    );
    this.element = make(
      "section",
      { class: "turn" },
      title,
      make("p", { class: "prompt" }, visible(prompt)),
      this.grid,
    );
    if (mode === "chat" && asks.length > 1) this.element.append(this.choice());
  }

  /** Run all of it; true if anything came. */
  async start() {
    const runs = await Promise.all(this.answers.map((answer) => answer.start()));
    this.errors = runs.map((run) => run.error).filter((error) => error !== "");
    return runs.some((run) => run.tokens.length > 0 || run.error === "");
  }

  stop() {
    for (const answer of this.answers) answer.stop();
  }

  get running() {
    return this.answers.some((answer) => answer.running);
  }

  /** The answer that the chat goes on from. */
  get answer() {
    return this.answers[this.chosen];
  }

  /** No more branches while a later turn stands on this one. */
  settle(settled) {
    for (const answer of this.answers) answer.editable = !settled;
    this.element.querySelector(".choice")?.toggleAttribute("disabled", settled);
  }

  choice() {
    const name = `choice-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    const radios = this.answers.map((answer, i) => {
      const radio = make("input", { type: "radio", name, checked: i === 0, onchange: () => (this.chosen = i) });
      return make("label", {}, radio, ` ${answer.letter}`);
    });
    return make(
      "fieldset",
      { class: "choice" },
      make("legend", { class: "label" }, "The chat goes on from"),
      ...radios,
    );
  }
}
