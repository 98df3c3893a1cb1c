// A run to keep: as JSON that `hartley report` reads, or as a page that needs nothing but a browser.

import { draw, make } from "./dom.js";
import { HASH, STYLE } from "./exported_style.js";
import { factsOf, decimal, mean, nameOf, percent, stepNames, stepOf, visible } from "./scale.js";
import { axis, stripsOf } from "./strips.js";
import { spell } from "./tokens.js";

/** Hand a text to the browser as a file. */
export function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A list of the answers' tokens, each answer's followed by its totals: the lines of `hartley generate --json`. */
export function asJson(turns, model) {
  const lines = answersOf(turns).flatMap(({ name, turn, answer, run }) => [
    ...run.tokens.map((token, position) => ({ name, position, ...token })),
    {
      name,
      tokens: run.tokens.length,
      mean_surprisal: mean(run.tokens.map((token) => token.surprisal)),
      mean_entropy: mean(run.tokens.map((token) => token.entropy)),
      mean_varentropy: mean(run.tokens.map((token) => token.varentropy)),
      mean_kept: mean(run.tokens.map((token) => token.kept)),
      model: model.id,
      engine: model.hartley?.engine ?? null,
      dtype: model.hartley?.dtype ?? null,
      sampler: run.sampler,
      seed: run.seed,
      max_tokens: run.limit,
      finish: run.finish,
      mode: turn.mode,
      prompt: turn.prompt,
      messages: answer.ask.body.messages ?? null,
      prompt_token_ids: run.promptIds,
      text: run.tokens.map((token) => token.text).join(""),
    },
  ]);
  return JSON.stringify(lines);
}

/** The answers that are shown, with a name each: the number of the turn and the letter of the sampler. */
function answersOf(turns) {
  return turns.flatMap((turn, number) =>
    turn.answers
      .filter((answer) => answer.run?.tokens.length)
      .map((answer) => ({
        name: `${turns.length > 1 ? number + 1 : ""}${answer.letter}`,
        turn,
        answer,
        run: answer.run,
      })),
  );
}

const POLICY = `default-src 'none'; style-src '${HASH}'; img-src data:; base-uri 'none'; form-action 'none'`;

/** The page: its elements are made as the live ones are, and the browser writes them out, every token escaped. */
export function asHtml(turns, model) {
  const main = make("main", {}, legend());
  for (const [number, turn] of turns.entries()) {
    main.append(
      make("h2", {}, turn.mode === "chat" ? "Message" : "Prompt"),
      make("p", { class: "prompt" }, visible(turn.prompt)),
    );
    for (const { name, answer, run } of answersOf(turns).filter((one) => one.turn === turn))
      main.append(section(`${number + 1}${answer.letter}`, name, answer, run, model));
  }
  const head = [
    '<meta charset="utf-8">',
    `<meta http-equiv="Content-Security-Policy" content="${POLICY}">`,
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    '<meta name="referrer" content="no-referrer">',
    "<title>One run · Hartley</title>",
    `<style>${STYLE}</style>`,
  ];
  const header = make("header", {}, make("h1", {}, `One run of ${visible(model.id)}`));
  const about = make(
    "footer",
    {},
    make(
      "p",
      {},
      "Surprisal is −ln p of the token under the model’s own distribution, at temperature 1 and before any sampler; entropy is its expected value and varentropy its variance. “Kept” counts the tokens that could have been drawn. 1 nat = 1.443 bits.",
    ),
  );
  return `<!doctype html>\n<html lang="en">\n<head>\n${head.join("\n")}\n</head>\n<body>\n${[header, main, about].map((part) => part.outerHTML).join("\n")}\n</body>\n</html>\n`;
}

function legend() {
  return make(
    "p",
    { class: "legend" },
    make("span", { class: "label" }, "Surprisal, nats"),
    ...stepNames().map((name, step) => make("span", { class: `s${step}` }, name)),
  );
}

function section(prefix, name, answer, run, model) {
  const settings = [
    ["model", [model.id, model.hartley?.engine, model.hartley?.dtype].filter(Boolean).join(", ")],
    ["sampler", run.sampler || "plain sampling"],
    ["seed", run.seed],
    ["most tokens", run.limit],
    ["ended by", run.finish],
    ["mean entropy", `${decimal(mean(run.tokens.map((token) => token.entropy)))} nats a token`],
    ["mean surprisal", `${decimal(mean(run.tokens.map((token) => token.surprisal)))} nats a token`],
  ];
  const text = make("div", { class: "text" }, ...run.tokens.map((token, i) => cell(token, i + 1, prefix)));
  const kinds = stripsOf(answer.ask.target);
  const rows = settings.map(([key, value]) =>
    make("div", {}, make("dt", {}, key), make("dd", {}, visible(String(value)))),
  );
  return make(
    "section",
    {},
    make("h3", {}, name),
    text,
    ...kinds.map((kind) => strip(kind, run.tokens)),
    make("dl", { class: "settings" }, ...rows),
  );
}

function cell(token, number, prefix) {
  const span = make("span", { class: `t s${stepOf(token.surprisal)}`, tabindex: 0, id: `t${prefix}${number}` });
  spell(span, token.text);
  const panel = make(
    "span",
    { class: "d" },
    make("b", { class: "name" }, nameOf(token)),
    make("span", { class: "number" }, `token ${number}`),
  );
  for (const [key, value] of factsOf(token))
    panel.append(make("span", { class: "fact" }, make("span", {}, key), make("span", {}, value)));
  if (token.top?.length) {
    const others = make("span", { class: "others" }, make("span", { class: "label" }, "the model’s likeliest tokens"));
    for (const other of token.top) {
      const drawn = other.token_id === token.token_id;
      const share = Math.exp(other.log_prob);
      const bar = draw(
        "svg",
        { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
        draw("rect", { width: (100 * share).toFixed(2), height: 8 }),
      );
      others.append(
        make(
          "span",
          { class: `other${drawn ? " drawn" : ""}` },
          make("span", {}, nameOf(other) + (drawn ? " ◂ drawn" : "")),
          bar,
          make("span", {}, percent(share)),
        ),
      );
    }
    panel.append(others);
  }
  span.append(panel);
  return span;
}

/** A strip as SVG, laid out as the reports lay theirs out: 100 units high, one wide for each token. */
function strip(kind, tokens) {
  const values = tokens.map(kind.value);
  const dots = kind.dot ? tokens.map(kind.dot) : [];
  const known = [...values, ...dots, kind.target ?? 0].filter(Number.isFinite);
  const { marks, share } = axis(Math.max(0, ...known), kind.log);
  const y = (value) => (Number.isFinite(value) ? Number((100 * (1 - share(value))).toFixed(2)) : 100);
  const title = `${kind.title}, ${kind.unit}`;
  const chart = draw("svg", {
    class: "chart",
    viewBox: `0 -8 ${tokens.length} 116`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `${title}, for each of ${tokens.length} tokens`,
  });
  const line = (name, d) => chart.append(draw("path", { class: name, d }));
  for (const mark of marks) line("grid", `M0 ${y(mark)}H${tokens.length}`);
  line("area", `M0 100${values.map((value, place) => `V${y(value)}H${place + 1}`).join("")}V100Z`);
  line("dot", dots.map((dot, place) => (Number.isFinite(dot) ? `M${place + 0.5} ${y(dot)}h0` : "")).join(""));
  if (kind.target) line("target", `M0 ${y(kind.target)}H${tokens.length}`);
  if (kind.line)
    line(
      "course",
      `M${kind
        .line(tokens)
        .map((value, place) => `${place + 0.5} ${y(value)}`)
        .join("L")}`,
    );
  const labels = draw(
    "svg",
    { class: "axis", viewBox: "0 -8 52 116", "aria-hidden": "true" },
    ...marks.map((mark) => draw("text", { x: 46, y: y(mark) + 3.5 }, mark.toLocaleString("en"))),
  );
  const caption = make("figcaption", {}, make("b", {}, kind.title), ` (${kind.unit})`);
  if (kind.dots) caption.append(` · dots: ${kind.dots}`);
  if (kind.target) caption.append(` · line: running mean · dashes: target ${kind.target}`);
  return make("figure", { class: "strip" }, caption, make("div", { class: "plot" }, labels, chart));
}
