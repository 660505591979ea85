// What is in flight this second, on which backend, and what has just ended.

import { events } from "./api.js";
import { button, h, render } from "./dom.js";
import { List } from "./list.js";
import { COLUMNS } from "./rows.js";
import { duration, shortId, size } from "./words.js";

const MOST = 2000;
const MINUTE = 60000;

export async function show({ main, signal }) {
  const strips = h("div", { class: "strips" });
  const open = (row) => { location.hash = `#/exchanges/${encodeURIComponent(row.id)}`; };
  const list = new List("Exchanges, the newest first", COLUMNS, open);
  const note = h("p", { class: "note", role: "status" });
  let ended = [];
  let waiting = null;
  let held = false;
  let before = new Map();
  let beforeAt = 0;

  const paused = () => held || list.element.scrollTop > 0 || list.element.matches(":hover, :focus-within");
  const draw = () => {
    if (paused()) {
      waiting = ended.length;
      note.textContent = "The list stands still while you look at it.";
      return;
    }
    if (waiting !== null) note.textContent = "";
    waiting = null;
    list.set(ended);
  };
  const hold = button("Pause", () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    draw();
  }, { "aria-pressed": "false" });

  render(main,
    h("div", { class: "title" }, h("h1", {}, "Live"), hold),
    h("section", { "aria-label": "In flight" }, strips),
    h("section", { class: "fill", "aria-label": "Newest exchanges" }, h("h2", {}, "Newest exchanges"), note, list.element),
  );
  list.element.addEventListener("mouseleave", draw);

  const connection = document.getElementById("connection");
  const on = (name, data) => {
    if (name === "ended") {
      const known = new Set(ended.map((each) => each.id));
      ended = [...data.filter((each) => !known.has(each.id)).reverse(), ...ended].slice(0, MOST);
      draw();
    } else if (name === "inflight" && !held) {
      const at = performance.now();
      render(strips, ...backends(data, ended, before, (at - beforeAt) / 1000));
      before = new Map(data.map((each) => [each.id, each.response_chunks ?? 0]));
      beforeAt = at;
    }
  };
  const state = (connected) => {
    connection.textContent = connected ? "connected" : "The connection is lost. Trying again ...";
    connection.classList.toggle("lost", !connected);
    strips.classList.toggle("stale", !connected);
  };
  events(signal, on, state);
}

/** A strip for each backend: those with something in flight, and those that something ended on lately. */
function backends(running, ended, before, seconds) {
  const since = Date.now() - MINUTE;
  const recent = ended.filter((each) => new Date(each.ended_at).getTime() >= since);
  const names = [...new Set([...running, ...recent].map(where))].sort();
  if (!names.length) return [h("p", { class: "note" }, "Nothing is in flight, and nothing ended in the last minute.")];
  return names.map((name) => {
    const own = running.filter((each) => where(each) === name);
    const done = recent.filter((each) => where(each) === name);
    const failed = done.filter((each) => each.class !== "ok").length;
    const chunks = own.reduce((sum, each) => sum + Math.max(0, (each.response_chunks ?? 0) - (before.get(each.id) ?? each.response_chunks ?? 0)), 0);
    const facts = [`${own.length} in flight`, `${done.length} ended in the last minute`];
    if (chunks && seconds) facts.push(`${Math.round(chunks / seconds)} chunks/s`);
    return h("article", { class: "strip", "aria-label": name },
      h("h2", {}, name),
      h("p", { class: "facts" }, facts.join(", "), failed ? h("strong", { class: "bad" }, `, ${failed} failed`) : null),
      own.length ? h("ul", { class: "bars" }, own.slice(0, 200).map(bar)) : null,
      own.length > 200 ? h("p", { class: "note" }, `and ${own.length - 200} more`) : null);
  });
}

function where(row) {
  return row.upstream ?? row.cluster ?? "not at a backend yet";
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
