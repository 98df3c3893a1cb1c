// One answer: a text that streams in, its strips and totals, and the other answers that were branched off it.

import { chunks } from "./api.js";
import { tokensOf } from "./columns.js";
import { make, put, say } from "./dom.js";
import { decimal, mean } from "./scale.js";
import { Strip, stripsOf } from "./strips.js";
import { TokenView } from "./tokens.js";

// ms from one writing of the text to the next while it grows, and of its strips and totals: the model needs the processor
const OFTEN = 40;
const CALM = 120;
const ENDED = {
  stop: "the text ended",
  length: "at the limit",
  cancelled: "cancelled",
  stopped: "stopped by you",
  broken: "broke off",
};

export class Answer {
  /**
   * `ask` is `{path, body}` of the first request, mirostat's `target` and the tokens that are `ends`; `card` shows tokens;
   * `changed()` is called when a run begins or ends. A run is `{tokens, promptIds, sampler, seed, finish, error, limit}`,
   * and how many tokens were `drawn` in how many `seconds`.
   */
  constructor(letter, ask, card, changed, beside) {
    Object.assign(this, { letter, ask, card, changed });
    this.runs = [];
    this.place = 0;
    this.editable = true; // until a later turn stands on it
    const hooks = { point: (i, near) => this.pointed(i, near), open: (i, near) => this.openCard(i, near) };
    this.view = new TokenView(`Answer ${letter}`, hooks);
    const charts = {
      point: (i, box) => {
        this.view.mark(i);
        this.pointed(i, null, box);
      },
      open: (i) => this.openCard(i, null),
    };
    const kinds = stripsOf(ask.target, beside);
    this.strips = kinds.map((kind) => new Strip(kind, charts));
    this.totals = totalsOf([]).map(([name, value, unit]) => ({ name, unit, value: make("b", {}, value) }));
    const totals = this.totals.map(({ name, unit, value }) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value, " ", unit)),
    );
    this.state = make("p", { class: "label" });
    this.wrong = make("p", { class: "wrong", role: "alert" });
    this.others = make("div", { class: "runs", hidden: true });
    this.halt = make(
      "button",
      { type: "button", "aria-label": `Stop answer ${letter}`, hidden: true, onclick: () => this.stop() },
      "■ Stop",
    );
    const title = make(
      "h3",
      {},
      make("b", { class: "letter" }, letter),
      " ",
      make("span", { class: "sampler" }, ask.body.sampler || "plain sampling"),
      this.halt,
    );
    this.element = make(
      "article",
      { class: "answer", "aria-label": `Answer ${letter}` },
      title,
      this.others,
      this.view.element,
      this.wrong,
      this.state,
      make("dl", { class: "totals" }, ...totals),
      ...this.strips.map((strip) => strip.element),
    );
  }

  /** The run that is shown. */
  get run() {
    return this.runs[this.place];
  }

  get running() {
    return this.control !== undefined;
  }

  /** The text of the run that is shown. */
  get text() {
    return this.run.tokens.map((token) => token.text).join("");
  }

  /** Stream the answer; resolves when it has ended, however it did. */
  start() {
    return this.stream(this.ask.path, this.ask.body, { tokens: [], promptIds: null });
  }

  /** Go on from token `i` with another one in its place. */
  branch(i, other) {
    const { run } = this;
    const { token_id, text, log_prob } = other;
    const ends = this.ask.ends.includes(token_id); // it has no text of its own then
    const rank = run.tokens[i].top.indexOf(other) + 1;
    const drawn = { token_id, text: ends ? "" : text, piece: text, surprisal: -log_prob, rank };
    const tokens = [...run.tokens.slice(0, i), { ...run.tokens[i], ...drawn, chosen: true }];
    const left = run.limit - tokens.length;
    if (ends || left < 1) return this.show({ ...run, tokens, drawn: 0, finish: ends ? "stop" : "length", error: "" });
    const prompt = [...run.promptIds, ...tokens.map((token) => token.token_id)];
    const { messages: _, ...body } = this.ask.body;
    const begun = { tokens, promptIds: run.promptIds };
    return this.stream("v1/completions", { ...body, prompt, max_tokens: left }, begun);
  }

  stop() {
    this.control?.abort();
  }

  show(run) {
    this.runs.push(run);
    this.place = this.runs.length - 1;
    this.turned();
  }

  async stream(path, body, begun) {
    const before = begun.tokens.length;
    const run = {
      ...begun,
      limit: before + body.max_tokens,
      sampler: body.sampler,
      seed: body.seed,
      finish: null,
      error: "",
    };
    this.control = new AbortController();
    this.show(run);
    this.changed();
    const began = performance.now();
    let first = began;
    try {
      for await (const chunk of chunks(path, body, this.control.signal)) {
        run.sampler = chunk.sampler ?? run.sampler;
        run.seed = chunk.seed ?? run.seed;
        const [choice] = chunk.choices;
        if (!choice) continue; // the usage, at the end
        run.promptIds ??= choice.prompt_token_ids ?? chunk.prompt_token_ids ?? null;
        if (run.tokens.length === before) first = performance.now();
        run.tokens.push(...tokensOf(choice, run.tokens));
        run.drawn = run.tokens.length - before;
        run.seconds = (performance.now() - first) / 1000;
        run.finish = choice.finish_reason ?? run.finish;
        this.writing ??= setTimeout(this.write, OFTEN);
        this.drawing ??= setTimeout(this.draw, CALM);
      }
    } catch (error) {
      if (error.name === "AbortError") run.finish = "stopped";
      else {
        run.finish = "broken";
        run.error =
          run.tokens.length > before
            ? `${error.message} The ${run.tokens.length} tokens that came are kept.`
            : error.message;
        run.status = error.status;
      }
    }
    this.control = undefined;
    this.branches();
    this.draw();
    say(run.error || `Answer ${this.letter}: ${run.tokens.length} tokens, ${ENDED[run.finish] ?? "ended"}`);
    this.changed();
    return run;
  }

  /** Another run is shown. */
  turned() {
    this.card.close();
    this.view.show(this.run.tokens);
    this.branches();
    this.draw();
  }

  branches() {
    const button = (sign, title, by) => {
      const disabled = this.running || this.runs[this.place + by] === undefined;
      return make(
        "button",
        { type: "button", class: "plain", "aria-label": title, title, disabled, onclick: () => this.turn(by) },
        sign,
      );
    };
    this.others.hidden = this.runs.length < 2;
    const which = `branch ${this.place + 1} of ${this.runs.length}`;
    this.others.replaceChildren(button("◂", "Earlier branch", -1), which, button("▸", "Later branch", 1));
  }

  turn(by) {
    this.place += by;
    this.turned();
    this.others.querySelector("button:not(:disabled)").focus();
  }

  write = () => {
    clearTimeout(this.writing);
    this.writing = undefined;
    this.view.update();
  };

  draw = () => {
    const { run } = this;
    clearTimeout(this.drawing);
    this.drawing = undefined;
    this.halt.hidden = !this.running;
    put(this.wrong, run.error);
    put(this.state, stateOf(run, this.running));
    totalsOf(run.tokens).forEach(([, value], i) => put(this.totals[i].value, value));
    this.write(); // asks where things are, so comes after what moves them
    for (const strip of this.strips) strip.show(run.tokens, this.running ? run.limit : 0);
  };

  pointed(i, near, box = i === null ? null : this.view.box(i, near)) {
    if (i === null) this.card.hide();
    else this.card.preview(this.run.tokens[i], i + 1, box);
  }

  openCard(i, near) {
    const { run } = this;
    const pick =
      this.editable && !this.running && run.promptIds !== null && run.tokens[i].top !== null
        ? (other) => this.picked(i, other)
        : null;
    const closed = (within) => within && this.view.element.focus({ preventScroll: true });
    this.view.mark(i, true);
    this.card.open(run.tokens[i], i + 1, this.view.box(i, near), { pick, closed });
  }

  picked(i, other) {
    this.card.close();
    this.branch(i, other);
  }
}

function stateOf(run, running) {
  const speed = run.drawn > 1 && run.seconds > 0 ? `, ${((run.drawn - 1) / run.seconds).toFixed(1)} a second` : "";
  const count = `${run.tokens.length.toLocaleString("en")} token${run.tokens.length === 1 ? "" : "s"}${speed}`;
  return `${count} · ${running ? "writing …" : (ENDED[run.finish] ?? "ended")} · seed ${run.seed}`;
}

function totalsOf(tokens) {
  const of = (name) => mean(tokens.map((token) => token[name]));
  return [
    ["entropy", decimal(of("entropy")), "nats a token"],
    ["surprisal", decimal(of("surprisal")), "nats a token"],
    ["varentropy", decimal(of("varentropy")), "nats² a token"],
    ["kept", decimal(of("kept"), 1), "tokens on average"],
  ];
}
