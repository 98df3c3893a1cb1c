// What is remembered between visits: for this tab what was typed, for the browser the choice of colours.

const DRAFT = "hartley.draft";

/** What was typed when this tab last showed the page. */
export function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(DRAFT)) ?? {};
  } catch {
    return {};
  }
}

export function remember(draft) {
  try {
    sessionStorage.setItem(DRAFT, JSON.stringify(draft));
  } catch {
    // a full or forbidden store costs the draft, not the page
  }
}

const COLOURS = "hartley.colours";

/** Let the `select` choose between the system's colours, light and dark. */
export function colours(select, changed) {
  const use = (value) => {
    document.documentElement.dataset.colours = value;
    changed();
  };
  select.value = localStorage.getItem(COLOURS) ?? "system";
  use(select.value);
  select.addEventListener("change", () => {
    localStorage.setItem(COLOURS, select.value);
    use(select.value);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
