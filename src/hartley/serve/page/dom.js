// Making elements: everything that comes from outside goes in as text, never as markup.

/** An element with attributes (`true` for one without a value; null and false are left out) and children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.filter((child) => child !== null)); // a string becomes a text node
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element; see `make`. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
}

/** Write a text into an element, unless it is there: what is announced is not announced again. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Say something to a screen reader, after what it is saying. */
export function say(text) {
  document.getElementById("spoken").textContent = text;
}
