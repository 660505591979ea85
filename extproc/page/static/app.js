// The address after # says what is shown: #/live, #/exchanges?q=failed, #/exchanges/ID, #/compare/A/B, #/incidents/ID.

import { get, Problem } from "./api.js";
import { h, render } from "./dom.js";
import * as compare from "./compare.js";
import * as exchange from "./exchange.js";
import * as exchanges from "./exchanges.js";
import * as incidents from "./incidents.js";
import * as live from "./live.js";
import * as recorder from "./recorder.js";

const main = document.getElementById("main");
let leaving = new AbortController();

/** What a view gets: where it shows itself, the rest of the address, and a signal that comes when it is left. */
async function show() {
  leaving.abort();
  leaving = new AbortController();
  const signal = leaving.signal;
  const [path, query] = location.hash.slice(1).split("?", 2);
  const [, name, ...rest] = path.split("/").map(decodeURIComponent);
  const view = { live, exchanges: rest.length ? exchange : exchanges, compare, incidents, recorder }[name];
  if (!view) {
    location.replace("#/live");
    return;
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash.slice(2) === (name === "compare" ? "exchanges" : name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.getElementById("connection").textContent = "";
  document.title = `${name} - extproc`;
  render(main, h("p", { class: "waiting", role: "status" }, "Reading ..."));
  try {
    const context = { main, signal, rest, query: new URLSearchParams(query), about: await about() };
    await view.show(context);
  } catch (error) {
    if (signal.aborted) return;
    render(main, h("h1", {}, "It did not work"), h("p", { class: "problem", role: "alert" }, error.message));
    if (!(error instanceof Problem)) console.error(error);
  }
}

let told = null;

async function about() {
  told ??= await get("/about");
  document.getElementById("redacted").hidden = !told.redacted;
  return told;
}

function key(event) {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    const search = document.getElementById("search");
    if (search) search.focus();
    else location.hash = "#/exchanges?focus=search";
  } else if (event.key === "j" || event.key === "k") {
    document.querySelector("[data-list]")?.dispatchEvent(new CustomEvent("step", { detail: event.key === "j" ? 1 : -1 }));
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the view's
  main.focus();
});
addEventListener("hashchange", show);
addEventListener("keydown", key);
show();
