// The text form of a sampler chain, "temperature=1.5,top_h=0.4", read and written as hartley/decoding/text.py does.

// How far a slider reaches where that is less than what is allowed, and where it starts. `log`: by factors, not steps.
const USUAL = {
  temperature: { high: 2, start: 1.2 },
  top_h: { start: 0.4 },
  top_k: { high: 200, start: 50, log: true },
  top_p: { start: 0.9 },
  min_p: { low: 0.005, start: 0.1, log: true },
  typical_p: { start: 0.9 },
  epsilon_cutoff: { low: 1e-4, high: 0.1, start: 6e-4, log: true },
  eta_cutoff: { low: 1e-4, high: 0.1, start: 2e-3, log: true },
  top_n_sigma: { high: 4, start: 1 },
  entropy_top_k: { high: 10_000, start: 2000, log: true },
  mirostat: { start: 2 },
  mirostat_tau: { high: 10, start: 3 },
  mirostat_eta: { low: 0.01, high: 1, start: 0.1, log: true },
};
const TAU = 5; // bits: mirostat's target where none is written

/**
 * What a page needs to know of each sampler, from the server's list of JSON schemas: for each setting its `key` in the
 * text form, the `kind` of its values ("number", "integer" or "choice"), what is allowed and where its slider goes.
 */
export function specsOf(samplers) {
  return new Map(
    Object.entries(samplers).map(([name, settings]) => [
      name,
      Object.entries(settings).map(([key, schema]) => specOf(key, schema)),
    ]),
  );
}

function specOf(key, schema) {
  const usual = USUAL[key] ?? {};
  const least = schema.minimum ?? schema.exclusiveMinimum ?? 0;
  const most = schema.maximum ?? schema.exclusiveMaximum ?? 1;
  const low = Math.max(usual.low ?? least, least);
  return {
    key,
    kind: schema.enum ? "choice" : schema.type,
    choices: schema.enum,
    help: schema.description ?? "",
    least,
    most,
    low,
    high: Math.min(usual.high ?? most, most),
    open: low === schema.exclusiveMinimum, // the lowest value is not one of them
    log: usual.log ?? false,
    start: usual.start ?? schema.enum?.[0] ?? most,
  };
}

/**
 * Read the text form: a list of `{name, settings}`, the settings by key. Settings of a known sampler that the server did
 * not list stay as they are written. Throws an Error that says what cannot be read.
 */
export function parse(text, specs) {
  const chain = [];
  const open = new Map();
  for (const item of text.split(",")) {
    if (item.trim() === "") continue;
    const match = item.match(/^\s*([A-Za-z_0-9]+)\s*=\s*([^,]*?)\s*$/);
    if (!match) throw new Error(`“${item.trim()}” is not of the form name=value`);
    const [, key, value] = match;
    const name = nameOf(key, specs);
    if (name === undefined) throw new Error(`unknown sampler “${key}”; there are ${[...specs.keys()].join(", ")}`);
    if (!open.has(name) || key in open.get(name)) {
      open.set(name, {}); // a second temperature is a sampler of its own
      chain.push({ name, settings: open.get(name) });
    }
    const spec = specs.get(name).find((one) => one.key === key);
    open.get(name)[key] = spec ? valueOf(value, spec) : value;
  }
  return chain;
}

/** The sampler that a key belongs to: the longest name it begins with. */
function nameOf(key, specs) {
  const names = [...specs.keys()].filter((name) => key === name || key.startsWith(`${name}_`));
  return names.sort((one, other) => other.length - one.length)[0];
}

function valueOf(text, { key, kind, choices }) {
  if (kind === "choice") {
    const choice = choices.find((one) => String(one) === text);
    if (choice === undefined) throw new Error(`${key} is one of ${choices.join(", ")}; got “${text}”`);
    return choice;
  }
  const value = text === "" ? NaN : Number(text);
  if (!Number.isFinite(value)) throw new Error(`${key} is a number; got “${text}”`);
  if (kind === "integer" && !Number.isInteger(value)) throw new Error(`${key} is a whole number; got ${text}`);
  return value;
}

/** Write a chain in the text form. */
export function write(chain) {
  return chain.flatMap(({ settings }) => Object.entries(settings).map(([key, value]) => `${key}=${value}`)).join(",");
}

/** The target of the chain's mirostat, in bits, or null. */
export function targetOf(chain) {
  const found = chain.find(({ name }) => name === "mirostat");
  return found ? (found.settings.mirostat_tau ?? TAU) : null;
}
