// What the page asks of /api/v1. A token, where one is needed, goes with each request and is kept in this tab alone.

const BASE = "api/v1";
const KEY = "extproc-token";

export class Problem extends Error {}

let asking = null;

function headers() {
  const token = sessionStorage.getItem(KEY);
  return token ? { authorization: `Bearer ${token}` } : {};
}

function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("login");
    const input = document.getElementById("token");
    input.value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      sessionStorage.setItem(KEY, input.value);
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** The answer to a request, whatever its type; Problem where it is refused. */
export async function request(path, parameters = {}, options = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) if (each !== null && each !== undefined && each !== "") query.append(name, each);
  }
  const text = query.size ? `${BASE}${path}?${query}` : `${BASE}${path}`;
  for (;;) {
    const response = await fetch(text, { ...options, headers: { ...options.headers, ...headers() } });
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (!response.ok) {
      const said = await response.json().catch(() => ({}));
      throw new Problem(said.error ?? `the page's server answered ${response.status}`);
    }
    return response;
  }
}

/** JSON. */
export async function get(path, parameters, options) {
  return (await request(path, parameters, options)).json();
}

/** JSON for JSON: something that is done. */
export async function post(path, value) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) };
  return (await request(path, {}, options)).json();
}

/** Server-sent events until the signal: `on(name, data)`, and `state(true)` while there is a connection. */
export async function events(signal, on, state) {
  while (!signal.aborted) {
    try {
      const response = await request("/events", {}, { signal });
      state(true);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const lines = text.slice(0, end).split("\n");
          text = text.slice(end + 2);
          on(lines[0].slice(7), JSON.parse(lines[1].slice(6)));
        }
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    state(false);
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

/** Give a file to the browser's downloads. */
export async function download(path, name) {
  const blob = await (await request(path)).blob();
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
