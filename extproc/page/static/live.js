// What is in flight this second, on which backend, and what has just ended.

import { events } from "./api.js";
import { button, h, render } from "./dom.js";
import { List } from "./list.js";
import { Rates } from "./rates.js";
import { COLUMNS, where } from "./rows.js";
import { duration, shortId, size } from "./words.js";

const MOST = 2000;
const MINUTE = 60000;
const LAST = 3;

export async function show({ main, signal }) {
  const strips = h("div", { class: "strips" });
  const open = (row) => { location.hash = `#/exchanges/${encodeURIComponent(row.id)}`; };
  const list = new List("Exchanges, the newest first", COLUMNS, open);
  const note = h("p", { class: "note", role: "status" });
  let ended = [];
  let behind = false;
  let held = false;
  let running = [];
  const rates = new Rates();

  const looked = (element) => element.matches(":hover, :focus-within");
  const paused = () => held || list.element.scrollTop > 0 || looked(list.element);
  // A bar that is replaced under the pointer, or the focus, cannot be opened.
  const drawStrips = () => {
    if (!held && !looked(strips)) render(strips, ...backends(running, ended, rates));
  };
  const draw = () => {
    if (paused()) {
      behind = true;
      note.textContent = "The list stands still while you look at it.";
      return;
    }
    if (behind) note.textContent = "";
    behind = false;
    list.set(ended);
  };
  const hold = button("Pause", () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    draw();
    drawStrips();
  }, { "aria-pressed": "false" });

  render(main,
    h("div", { class: "title" }, h("h1", {}, "Live"), hold),
    h("section", { "aria-label": "In flight" }, strips),
    h("section", { class: "fill", "aria-label": "Newest exchanges" }, h("h2", {}, "Newest exchanges"), note, list.element),
  );
  for (const name of ["mouseleave", "focusout", "scrollend"]) {
    list.element.addEventListener(name, () => { if (behind) requestAnimationFrame(draw); });
  }
  strips.addEventListener("mouseleave", () => requestAnimationFrame(drawStrips));

  const connection = document.getElementById("connection");
  const on = (name, data) => {
    if (name === "ended") {
      const known = new Set(ended.map((each) => each.id));
      const fresh = data.filter((each) => !known.has(each.id));
      ended = [...fresh.toReversed(), ...ended].slice(0, MOST);
      rates.ended(fresh, performance.now());
      draw();
    } else if (name === "inflight") {
      running = data;
      rates.running(running, performance.now());
      drawStrips();
    }
  };
  const connect = (connected) => {
    connection.textContent = connected ? "connected" : "The connection is lost. Trying again ...";
    connection.classList.toggle("lost", !connected);
    strips.classList.toggle("stale", !connected);
  };
  events(signal, on, connect);
}

/** A strip for each backend: those with something in flight, and those that something ended on lately. */
function backends(running, ended, rates) {
  const since = Date.now() - MINUTE;
  const recent = ended.filter((each) => new Date(each.ended_at).getTime() >= since);
  const names = [...new Set([...running, ...recent].map(where))].sort();
  if (!names.length) return [h("p", { class: "note" }, "Nothing is in flight, and nothing ended in the last minute.")];
  return names.map((name) => {
    const own = running.filter((each) => where(each) === name);
    const done = recent.filter((each) => where(each) === name);
    const failed = done.filter((each) => each.class !== "ok").length;
    const facts = [`${own.length} in flight`, `${done.length} ended in the last minute`, `${rates.of(name)} tokens/s`];
    const [health, mark] = state(own, done);
    return h("article", { class: "strip", "aria-label": name },
      h("h2", {}, name, " ", h("span", { class: mark }, health)),
      h("p", { class: "facts" }, facts.join(", "), failed ? h("strong", { class: "bad" }, `, ${failed} failed`) : null),
      own.length ? h("ul", { class: "bars" }, own.slice(0, 200).map(bar)) : null,
      own.length > 200 ? h("p", { class: "note" }, `and ${own.length - 200} more`) : null);
  });
}

/** How a backend looks from here, and the class of that. */
function state(own, done) {
  const last = done.slice(0, LAST);
  if (last.length === LAST && last.every((each) => each.class === "upstream")) return [`failed the last ${LAST}`, "bad"];
  if (own.length && own.every((each) => each.state === "silent")) return ["silent", "bad"];
  return done.some((each) => each.class === "upstream") ? ["fails at times", "bad"] : ["well", "good"];
}

function bar(row) {
  const age = Date.now() - new Date(row.started_at).getTime();
  const text = row.state === "waiting" ? `waiting for ${duration(age)}`
    : row.state === "silent" ? `silent for ${duration(row.silent_ms)}`
      : `streaming for ${duration(age)}`;
  return h("li", {}, h("a", {
    href: `#/exchanges/${encodeURIComponent(row.id)}`, class: `bar ${row.state}`,
    title: `${row.model ?? ""} ${row.path ?? ""} ${size(row.response_bytes ?? 0)}`,
  }, h("span", { class: "fillbar", style: { width: `${Math.min(100, 8 + age / 300)}%` } }),
  h("span", { class: "label" }, `${shortId(row.id)} ${text}`)));
}
