// Strip charts, one column a token, drawn on a canvas; the same axes as hartley/report/strips.py.

import { make, put } from "./dom.js";
import { decimal, LN2, mean } from "./scale.js";

const FLOOR = 0.7; // where a logarithmic axis begins, so that a count of 1 is seen
const LEFT = 40; // px for the labels of the axis
const EDGE = 7; // px above and below the plot, half a label

/** Two to five round numbers from 0, the last at least `highest`. */
export function marksTo(highest) {
  highest = Math.max(highest, 1e-3);
  const unit = 10 ** Math.floor(Math.log10(highest));
  const gap = unit * [0.25, 0.5, 1, 2, 2.5].find((step) => step * unit * 4 >= highest * (1 - 1e-9));
  return Array.from({ length: Math.ceil(highest / gap - 1e-9) + 1 }, (_, place) => gap * place);
}

/** Powers of ten from 1 up to `highest`, and 10 at least; every other one where they are many. */
export function logMarks(highest) {
  const last = Math.max(1, Math.floor(Math.log10(Math.max(highest, 1)) + 1e-9));
  const powers = Array.from({ length: last + 1 }, (_, power) => power).filter((power) => last <= 3 || power % 2 === 0);
  return powers.map((power) => 10 ** power);
}

/** An axis for values up to `highest`: its marks, and `share(value)`, 0 at the bottom and 1 at the top. */
export function axis(highest, log) {
  const marks = log ? logMarks(highest) : marksTo(highest);
  const top = Math.max(marks.at(-1), highest);
  const share = (value) => (log ? Math.log(value / FLOOR) / Math.log(top / FLOOR) : value / top);
  return { marks, share: (value) => Math.min(Math.max(share(value), 0), 1) };
}

/** The strips of a run. Values and dots are functions of a token; `line` is one of all tokens, drawn over them. */
const STRIPS = [
  {
    title: "Entropy before each token",
    unit: "nats",
    value: (token) => token.entropy,
    dot: (token) => token.surprisal,
    dots: "surprisal of the token drawn",
  },
  { title: "Varentropy", unit: "nats²", value: (token) => token.varentropy },
  { title: "Tokens kept", unit: "tokens, logarithmic", value: (token) => token.kept, log: true },
];

/** The strips of a run, with one more if mirostat steers it, in whose place the others are aligned `beside` other runs. */
export function stripsOf(target, beside = false) {
  if (target === null) return STRIPS;
  return beside ? [...STRIPS, targetStrip(target)] : [targetStrip(target), ...STRIPS];
}

/** Every surprisal of a run that mirostat steers, their running mean, and the target it is to reach. */
function targetStrip(target) {
  return {
    title: "Mirostat: running mean of the surprisal",
    unit: "bits",
    target,
    value: () => null,
    dot: (token) => (token.surprisal === null ? null : token.surprisal / LN2),
    dots: "surprisal of the token drawn",
    line: runningMean,
  };
}

/** The mean surprisal, in bits, of the tokens up to each. */
export function runningMean(tokens) {
  let sum = 0;
  let count = 0;
  return tokens.map((token) => {
    if (token.surprisal !== null) {
      sum += token.surprisal / LN2;
      count += 1;
    }
    return count ? sum / count : null;
  });
}

/** Numbers of a kind in the tokens, none that is missing or endless. */
function numbers(tokens, of) {
  return tokens.map(of).filter((value) => Number.isFinite(value));
}

export class Strip {
  /** `point(i | null, box)` follows the mouse, `open(i)` is a click. */
  constructor(kind, { point, open }) {
    this.kind = kind;
    this.tokens = [];
    this.room = 1;
    this.canvas = make("canvas", { role: "img" });
    const caption = make("figcaption", {}, make("b", {}, kind.title), ` (${kind.unit})`);
    if (kind.dots) caption.append(make("span", { class: "key" }, make("i", { class: "key-dot" }), kind.dots));
    this.now = make("span", {});
    if (kind.line)
      caption.append(make("span", { class: "key" }, make("i", { class: "key-line" }), "running mean ", this.now));
    if (kind.target)
      caption.append(make("span", { class: "key" }, make("i", { class: "key-target" }), `target ${kind.target}`));
    this.element = make("figure", { class: "strip" }, caption, this.canvas);
    this.canvas.addEventListener(
      "pointermove",
      (event) => event.pointerType === "mouse" && point(this.placeOf(event), this.column(event)),
    );
    this.canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
    this.canvas.addEventListener("click", (event) => {
      const place = this.placeOf(event);
      if (place !== null) open(place);
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** The screen's part of the strip under the mouse. */
  column(event) {
    const { top, bottom } = this.canvas.getBoundingClientRect();
    return { left: event.clientX, top, bottom };
  }

  placeOf(event) {
    const { left, width } = this.canvas.getBoundingClientRect();
    const place = Math.floor(((event.clientX - left - LEFT) / (width - LEFT)) * this.room);
    return place >= 0 && place < this.tokens.length ? place : null;
  }

  /** Draw `tokens`, of at most `most`; while more may come there is room for them, so that the columns stand still. */
  show(tokens, most = 0) {
    this.tokens = tokens;
    const doubled = Math.max(32, 2 ** Math.ceil(Math.log2(tokens.length + 1)));
    this.room = Math.max(tokens.length, Math.min(doubled, most), 1);
    this.draw();
  }

  draw() {
    const { tokens, kind, canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const colours = getComputedStyle(canvas); // where the style sheet puts them: fill, stroke, color, caret-color
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);

    const values = numbers(tokens, kind.value);
    const dots = kind.dot ? numbers(tokens, kind.dot) : [];
    const { marks, share } = axis(maximum([...values, ...dots, kind.target ?? 0]), kind.log);
    const depth = height - 2 * EDGE;
    const y = (value) => EDGE + depth * (1 - share(value));
    const x = (place) => LEFT + ((width - LEFT) * place) / this.room;

    pen.font = `11px ${colours.fontFamily}`;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const mark of marks) {
      pen.fillStyle = colours.color;
      pen.fillText(mark.toLocaleString("en"), LEFT - 6, y(mark));
      pen.fillStyle = colours.stroke;
      pen.fillRect(LEFT, Math.round(y(mark)) - 0.5, width - LEFT, 1);
    }
    pen.fillStyle = colours.fill;
    this.columns(pen, x, y, height - EDGE, width - LEFT);
    pen.fillStyle = colours.caretColor;
    if (kind.dot) {
      const radius = this.room > width / 2 ? 1 : 1.8;
      pen.beginPath();
      tokens.forEach((token, place) => {
        const dot = kind.dot(token);
        if (!Number.isFinite(dot)) return;
        pen.moveTo(x(place + 0.5), y(dot));
        pen.arc(x(place + 0.5), y(dot), radius, 0, 2 * Math.PI);
      });
      pen.fill();
    }
    pen.strokeStyle = colours.outlineColor;
    if (kind.target) {
      pen.lineWidth = 1.5;
      pen.setLineDash([5, 4]);
      path(pen, [
        [LEFT, y(kind.target)],
        [width, y(kind.target)],
      ]);
      pen.setLineDash([]);
    }
    if (kind.line) {
      pen.lineWidth = 2;
      const course = kind.line(tokens).map((value, place) => [x(place + 0.5), value === null ? null : y(value)]);
      path(
        pen,
        course.filter(([, height]) => height !== null),
      );
    }
    canvas.setAttribute("aria-label", this.summary(values, dots));
    put(this.now, decimal(mean(dots), 2));
  }

  /** One bar a token, or where a pixel holds several the mean of them, with their highest paler over it. */
  columns(pen, x, y, bottom, width) {
    const { tokens, kind, room } = this;
    if (room <= width) {
      tokens.forEach((token, place) => {
        const value = kind.value(token);
        if (Number.isFinite(value)) pen.fillRect(x(place), y(value), x(place + 1) - x(place) + 0.2, bottom - y(value));
      });
      return;
    }
    for (let pixel = 0; pixel < width; pixel += 1) {
      const part = tokens.slice(Math.floor((pixel * room) / width), Math.floor(((pixel + 1) * room) / width));
      const values = numbers(part, kind.value);
      if (!values.length) continue;
      for (const [value, alpha] of [
        [maximum(values), 0.45],
        [mean(values), 1],
      ]) {
        pen.globalAlpha = alpha;
        pen.fillRect(LEFT + pixel, y(value), 1, bottom - y(value));
      }
    }
  }

  summary(values, dots) {
    const all = values.length ? values : dots;
    if (!all.length) return `${this.kind.title}, ${this.kind.unit}: nothing yet`;
    const course = this.kind.line
      ? `now ${decimal(mean(dots), 2)}, target ${this.kind.target}`
      : `mean ${decimal(mean(all), 2)}, highest ${decimal(maximum(all), 2)}`;
    return `${this.kind.title}, ${this.kind.unit}: ${this.tokens.length} tokens, ${course}`;
  }
}

function maximum(values) {
  return values.reduce((highest, value) => Math.max(highest, value), 0);
}

function path(pen, points) {
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
}
