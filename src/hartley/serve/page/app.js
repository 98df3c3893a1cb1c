// The page: what is typed and chosen becomes requests, and their answers turns.

import { request, whenKeyIsNeeded } from "./api.js";
import { Card } from "./card.js";
import { make, put, say } from "./dom.js";
import { Editor } from "./editor.js";
import { asHtml, asJson, save } from "./export.js";
import { askKey } from "./key.js";
import { Link } from "./link.js";
import { specsOf } from "./samplers.js";
import { stepNames } from "./scale.js";
import { colours, recall, remember } from "./store.js";
import { Turn } from "./turn.js";

const LETTERS = ["A", "B", "C"];
const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const card = new Card(page.card);
const draft = recall();
const editors = [];
let specs = new Map();
let model = null;
let turns = [];
let stopped = false; // by the button, and not yet at rest

function mode() {
  return page.chat.checked ? "chat" : "complete";
}

// The server: who it is, whether it is there, and its key

whenKeyIsNeeded(askKey);
let models = request("v1/models"); // asked for while it is not known yet whether the server takes work
models.catch(() => {}); // which it is told then
const link = new Link((state, seconds) => {
  document.body.dataset.link = state;
  page.retry.hidden = page.wait.hidden = state === "ready";
  if (state === "ready") learn();
  else {
    const what = state === "draining" ? "The server is not ready" : "The server is away";
    tell(`${what}; what you typed is kept.`);
    page.wait.textContent = `Next try in ${seconds} s.`;
    models = null;
    enable();
  }
});

async function learn() {
  const asked = models ?? request("v1/models");
  models = null;
  try {
    const { data } = await (await asked).json();
    model = data.find((one) => one.hartley) ?? data[0];
  } catch (error) {
    page["key-again"].hidden = error.status !== 401;
    tell(error.message);
    if (error.status !== 401) link.state = "unknown"; // so that it is asked again
    return;
  }
  page["key-again"].hidden = true;
  const about = model.hartley ?? {};
  specs = specsOf(about.samplers ?? {});
  for (const editor of editors) editor.learn(specs);
  if (!editors.length) for (const text of draft.samplers ?? ["temperature=1.2,top_h=0.4"]) addEditor(text);
  page.model.textContent = [model.id, about.engine, about.dtype].filter(Boolean).join(" · ");
  if (about.max_tokens) page["max-tokens"].max = about.max_tokens;
  page.chat.disabled = about.chat === false;
  if (page.chat.disabled && page.chat.checked) page.complete.click();
  tell("ready");
  enable();
  performance.mark("interactive");
}

function tell(text) {
  put(page.status, text);
}

// What is chosen

function addEditor(text) {
  const letter = LETTERS[editors.length];
  const editor = new Editor(letter, specs, text, keep);
  if (editors.length)
    editor.head.append(
      make(
        "button",
        {
          type: "button",
          class: "plain",
          "aria-label": `Remove sampler ${letter}`,
          onclick: () => removeEditor(editor),
        },
        "✕",
      ),
    );
  editors.push(editor);
  page.editors.append(editor.element);
  page.compare.hidden = editors.length === LETTERS.length;
  keep();
  return editor;
}

function removeEditor(editor) {
  const texts = editors.filter((one) => one !== editor).map((one) => one.text);
  editors.splice(0);
  page.editors.replaceChildren();
  texts.forEach(addEditor);
  page.compare.focus();
}

function useMode() {
  const chat = mode() === "chat";
  page["prompt-name"].textContent = chat ? "Message" : "Prompt";
  page.prompt.placeholder = chat
    ? "Ask something; Enter sends, Shift+Enter begins a new line"
    : "Some text to continue; Ctrl+Enter runs";
  page.run.textContent = chat ? "Send" : "Run";
  if (chat) page.turns.after(page.composer);
  else page.turns.before(page.composer);
  page.clear.hidden = !chat || !turns.length;
  keep();
}

function keep() {
  remember({
    mode: mode(),
    prompt: page.prompt.value,
    seed: page.seed.value,
    max: page["max-tokens"].value,
    samplers: editors.length ? editors.map((one) => one.text) : draft.samplers,
  });
}

function enable() {
  const running = turns.some((turn) => turn.running);
  page.run.disabled = running || model === null || link.state !== "ready";
  page.stop.hidden = !running;
  page.clear.disabled = running;
  page.clear.hidden = mode() !== "chat" || !turns.length;
  const none = !turns.some((turn) => turn.answers.some((answer) => answer.run?.tokens.length));
  page["save-json"].disabled = page["save-html"].disabled = none;
  if (!running && stopped) page.run.focus(); // the button that had the focus is gone
  stopped &&= running;
}

// Running

function seedOf() {
  return page.seed.value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : page.seed.valueAsNumber;
}

function asksOf(prompt) {
  const base = {
    model: model.id,
    max_tokens: page["max-tokens"].valueAsNumber,
    seed: seedOf(),
    stream: true,
    stream_options: { include_usage: true },
    entropy: true,
    return_token_ids: true,
  };
  const messages = turns.flatMap((turn) => [
    { role: "user", content: turn.prompt },
    { role: "assistant", content: turn.answer.text },
  ]);
  const own = mode() === "chat" ? { messages: [...messages, { role: "user", content: prompt }] } : { prompt };
  const path = mode() === "chat" ? "v1/chat/completions" : "v1/completions";
  const ends = model.hartley?.ends ?? [];
  return editors.map(({ text, target }) => ({ path, body: { ...base, ...own, sampler: text }, target, ends }));
}

async function run() {
  const prompt = page.prompt.value;
  page.wrong.textContent = "";
  if (page.run.disabled) return;
  if (prompt.trim() === "") return refuse("There is nothing to run yet: type some text.", page.prompt);
  if (!page.composer.reportValidity()) return;
  if (mode() === "complete" || turns[0]?.mode === "complete") clear();
  const asks = asksOf(prompt);
  const before = turns.at(-1);
  const turn = new Turn({ mode: mode(), prompt, asks, card, changed: enable });
  before?.settle(true);
  turns.push(turn);
  page.turns.append(turn.element);
  if (mode() === "chat") page.prompt.value = "";
  keep();
  say("Writing");
  turn.element.scrollIntoView({ block: turns.length > 1 ? "start" : "nearest" });
  if (!(await turn.start())) giveBack(turn);
}

/** Nothing came of a turn: say why, and let what was typed be changed and sent again. */
function giveBack(turn) {
  turns = turns.filter((one) => one !== turn);
  turn.element.remove();
  turns.at(-1)?.settle(false);
  if (page.prompt.value === "") page.prompt.value = turn.prompt;
  refuse([...new Set(turn.errors)].join(" "), page.prompt);
  keep();
  enable();
  link.ask();
}

function refuse(message, where) {
  page.wrong.textContent = message;
  where.focus();
}

function clear() {
  card.close();
  card.hide();
  turns = [];
  page.turns.replaceChildren();
  enable();
}

// Listening

page.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
page.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  if (event.ctrlKey || event.metaKey || (mode() === "chat" && !event.shiftKey)) {
    event.preventDefault();
    run();
  }
});
page.composer.addEventListener("input", keep);
page.stop.addEventListener("click", () => {
  stopped = true;
  turns.at(-1)?.stop();
});
page.clear.addEventListener("click", () => {
  clear();
  page.prompt.focus();
});
page.compare.addEventListener("click", () => addEditor(editors.at(-1).text).input.select());
page.chat.addEventListener("change", useMode);
page.complete.addEventListener("change", useMode);
page.retry.addEventListener("click", () => link.ask());
page["key-again"].addEventListener("click", learn);
page["save-json"].addEventListener("click", () => save("run.json", "application/json", asJson(turns, model)));
page["save-html"].addEventListener("click", () => save("run.html", "text/html", asHtml(turns, model)));

page.legend.append(...stepNames().map((name, step) => make("span", { class: `s${step}` }, name)));
page.prompt.value = draft.prompt ?? "";
page.seed.value = draft.seed ?? "";
page["max-tokens"].value = draft.max || "128";
page[draft.mode === "complete" ? "complete" : "chat"].checked = true;
useMode();
colours(page.colours, () => {
  for (const turn of turns) for (const answer of turn.answers) for (const strip of answer.strips) strip.draw();
});
link.ask();
