// From the columns of a streamed chunk to tokens.

const COLUMNS = [
  "surprisal",
  "entropy",
  "varentropy",
  "rank",
  "kept",
  "mass",
  "drawn_entropy",
  "drawn_varentropy",
  "top",
];

/** The tokens of a streamed chunk's choice, given those before; a server that tells no numbers leaves them null. */
export function tokensOf(choice, before) {
  const text = choice.text ?? choice.delta?.content ?? "";
  const { hartley } = choice;
  const unknown = Object.fromEntries(COLUMNS.map((name) => [name, null]));
  if (hartley === undefined) return text === "" ? [] : [{ token_id: null, text, piece: text, ...unknown }];
  if (!hartley.token_ids.length) {
    if (text !== "" && before.length) before.at(-1).text += text; // what was held back
    return [];
  }
  const texts = shares(text, hartley.texts);
  return hartley.token_ids.map((token_id, i) => {
    const numbers = COLUMNS.map((name) => [name, hartley[name]?.[i] ?? null]);
    return { token_id, text: texts[i], piece: hartley.texts[i], ...Object.fromEntries(numbers) };
  });
}

/** Which part of `text` came with each of the pieces; together they are the text. */
function shares(text, pieces) {
  let rest = text;
  return pieces.map((piece, i) => {
    const share = i === pieces.length - 1 ? rest : rest.startsWith(piece) ? piece : "";
    rest = rest.slice(share.length);
    return share;
  });
}
