// Talking to the server: the key, errors in its own words, and answers as they stream in.

const KEY = "hartley.key"; // kept for this tab alone

/** What the server refused, or that it could not be reached (`status` 0). */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let asking = null;
let askKey = async () => null;

/** Say how a key is asked for: a function that gives one, or null. However many requests wait, it is asked once. */
export function whenKeyIsNeeded(ask) {
  askKey = ask;
}

/** Send a request to a path beside the page and return the response, once it is a good one; throws `Refused`. */
export async function request(path, { body, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await send(path, key, body, signal);
    if (response.ok) return response;
    const message = await messageOf(response);
    if (response.status !== 401) throw new Refused(response.status, message);
    if (sessionStorage.getItem(KEY) !== key) continue; // another request asked meanwhile
    asking ??= askKey(key === null ? "" : message).finally(() => (asking = null));
    const given = await asking;
    if (given === null) throw new Refused(401, message);
    sessionStorage.setItem(KEY, given);
  }
}

async function send(path, key, body, signal) {
  const headers = {};
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached.");
  }
}

async function messageOf(response) {
  const wait = response.headers.get("Retry-After");
  const later = wait && /^\d+$/.test(wait) ? ` Try again in ${wait} s.` : "";
  try {
    const { error } = await response.json();
    return `${error.message}${later}`;
  } catch {
    return `The server answered ${response.status} ${response.statusText}.${later}`;
  }
}

/** The chunks of a streamed answer, one after the other; throws `Refused` where the server ends it with an error. */
export async function* chunks(path, body, signal) {
  const response = await request(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await read(reader);
    if (done) throw new Refused(0, "The connection ended before the answer did.");
    held += value;
    const events = held.split(/\r?\n\r?\n/);
    held = events.pop();
    for (const event of events) {
      const line = event.split(/\r?\n/).find((one) => one.startsWith("data:"));
      if (line === undefined) continue; // a comment that keeps the connection alive
      const data = line.slice("data:".length).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(500, chunk.error.message);
      yield chunk;
    }
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The connection broke off.");
  }
}
