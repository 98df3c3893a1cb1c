// The dialog that asks for the server's key.

const at = (id) => document.getElementById(id);

/** Ask, saying why the last one was refused; gives the key, or null where there is none. */
export function askKey(refused) {
  const dialog = at("key-dialog");
  at("key-wrong").textContent = refused;
  at("key").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const end = (event, key) => {
      event.preventDefault(); // of a form that must not be sent, and of the closing that follows here
      listening.abort();
      dialog.close();
      resolve(key);
    };
    const listening = new AbortController();
    const { signal } = listening;
    at("key-form").addEventListener("submit", (event) => end(event, at("key").value.trim()), { signal });
    at("key-cancel").addEventListener("click", (event) => end(event, null), { signal });
    dialog.addEventListener("cancel", (event) => end(event, null), { signal });
  });
}
