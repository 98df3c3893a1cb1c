// The steps of surprisal, and how text and numbers are written: as in hartley/report/scale.py, which a test holds them to.

export const EDGES = [0.25, 0.5, 1, 2, 4, 8]; // nats: each step doubles
export const LN2 = Math.LN2;

/** The step, 0 to 6, of a surprisal in nats; 0 where there is none. */
export function stepOf(nats) {
  return nats === null ? 0 : EDGES.filter((edge) => edge <= nats).length;
}

/** What each step stands for, in nats. */
export function stepNames() {
  const inner = EDGES.slice(1).map((high, i) => `${EDGES[i]} to ${high}`);
  return [`under ${EDGES[0]}`, ...inner, `${EDGES.at(-1)} and more`];
}

// Control characters, the marks that turn the direction of text around, and halves of a character.
const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]|\p{Cs}/gu;

/** `text` with control and direction characters written out; line feeds and tabs stay. */
export function visible(text) {
  return text.replace(UNSEEN, (found) => {
    if (found === "\r") return "\\r";
    const code = found.charCodeAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  });
}

/** A token on one line, its spaces and line feeds marked. */
export function quoted(text) {
  return visible(text).replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

/** The token on one line: by itself where that is known, since a token that ends the text adds nothing to it. */
export function nameOf(token) {
  return quoted(token.piece || token.text) || `(no text, id ${token.token_id ?? "unknown"})`;
}

/** A number for a table; a dash where there is none. */
export function decimal(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A probability as a percentage, three figures, and what is tiny as a power of ten. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.01) return `${value.toExponential(1)} %`;
  return `${Number(value.toPrecision(value < 99.95 ? 3 : 4))} %`;
}

/** The mean of the numbers there are, or null. */
export function mean(values) {
  let sum = 0;
  let count = 0;
  for (const value of values) {
    if (value === null || value === undefined) continue;
    sum += value;
    count += 1;
  }
  return count ? sum / count : null;
}

/** Name and value of everything known of a token, with units. */
export function factsOf(token) {
  const facts = [["surprisal", "not told"]];
  if (known(token.surprisal)) {
    facts[0][1] = `${decimal(token.surprisal)} nats = ${decimal(token.surprisal / LN2)} bits`;
    facts.push(["probability", percent(Math.exp(-token.surprisal))]);
  }
  if (known(token.entropy)) facts.push(["entropy", `${decimal(token.entropy)} nats`]);
  if (known(token.varentropy)) facts.push(["varentropy", `${decimal(token.varentropy)} nats²`]);
  if (known(token.rank)) facts.push(["rank", decimal(token.rank, 0)]);
  if (known(token.kept)) {
    const mass = known(token.mass) ? `, ${percent(token.mass)} of the mass` : "";
    facts.push(["kept", `${decimal(token.kept, 0)} token${token.kept === 1 ? "" : "s"}${mass}`]);
  }
  if (known(token.drawn_entropy)) facts.push(["entropy drawn from", `${decimal(token.drawn_entropy)} nats`]);
  if (known(token.drawn_varentropy)) facts.push(["varentropy drawn from", `${decimal(token.drawn_varentropy)} nats²`]);
  if (known(token.token_id)) facts.push(["id", String(token.token_id)]);
  return facts;
}

function known(value) {
  return value !== null && value !== undefined;
}
