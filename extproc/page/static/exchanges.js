// All exchanges, by one line of words, which are those of `extproc log`: `failed upstream=10.0.0.7 since=1h`.

import { get } from "./api.js";
import { button, h, render, svg } from "./dom.js";
import { List } from "./list.js";
import { COLUMNS } from "./rows.js";
import { CLASSES, duration, quoted, second } from "./words.js";

const PAGE = 200;
const KEYS = ["upstream", "model", "key", "outcome", "status", "client", "route", "api", "fingerprint", "hour"];
const CHIPS = ["failed", "outcome=class:upstream", "outcome=class:client", "status=5xx", "since=10m", "since=1h", "since=24h"];

export async function show({ main, signal, query }) {
  const line = query.get("q") ?? "";
  const search = h("input", {
    id: "search", type: "search", value: line, placeholder: "failed upstream=10.0.0.7 since=1h", autocomplete: "off",
    spellcheck: "false", "aria-label": "Filters, as the options of extproc log", list: "words",
  });
  const go = (words) => { location.hash = address(words); };
  const form = h("form", { class: "query", role: "search", onsubmit: (event) => { event.preventDefault(); go(search.value.trim()); } },
    search, h("button", {}, "Filter"));
  const words = split(line);
  const chips = h("div", { class: "chips", role: "group", "aria-label": "Filters" }, [...new Set([...words, ...CHIPS])].map((word) => {
    const on = words.includes(word);
    return button(word, () => go((on ? words.filter((each) => each !== word) : [...words, word]).map(quoted).join(" ")), { "aria-pressed": String(on) });
  }));
  const chart = h("section", { class: "chart", "aria-label": "Over time" });
  const by = h("select", { "aria-label": "Counted by", onchange: () => count() }, KEYS.map((each) => h("option", {}, each)));
  const counts = h("div", {});
  const found = h("p", { class: "note", role: "status" });
  const open = (row) => { location.hash = `#/exchanges/${encodeURIComponent(row.id)}`; };
  let rows = [];
  let next = null;
  let reading = false;
  const list = new List("Exchanges, the newest first", COLUMNS, open, () => { if (next && !reading) more(); });

  async function more() {
    reading = true;
    try {
      const answer = await get("/exchanges", { q: line, view: "rows", limit: PAGE, before: next }, { signal });
      rows = rows.concat(answer.exchanges);
      next = answer.next;
      found.textContent = rows.length ? `${rows.length} exchanges${next ? ", and more below" : ""}` : "No exchange matches.";
      list.set(rows);
    } finally {
      reading = false;
    }
  }

  async function count() {
    render(counts, h("p", { class: "note" }, "Counting ..."));
    const key = by.value;
    const answer = await get("/counts", { q: line, by: key }, { signal });
    const narrow = (each) => [...words, each[key] === null ? null : `${key}=${each[key]}`].filter(Boolean).map(quoted).join(" ");
    const name = (each) => each[key] === null || key === "hour" ? each[key] ?? "-" : h("a", { href: address(narrow(each)) }, each[key]);
    render(counts, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Counts" }, h("table", {},
      h("thead", {}, h("tr", {}, [key, "exchanges", "errors", "p50", "p99"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, answer.slice(0, 50).map((each) => h("tr", {},
        h("th", { scope: "row" }, name(each)), h("td", {}, each.exchanges),
        h("td", { class: each.errors ? "bad" : null }, each.errors),
        h("td", {}, duration(each.duration_ms.p50)), h("td", {}, duration(each.duration_ms.p99))))))));
  }

  async function histogram() {
    const answer = await get("/histogram", { q: line }, { signal });
    if (answer.bins.length) render(chart, ...bars(answer, words, go));
    else chart.remove();
  }

  render(main,
    h("h1", { class: "quiet" }, "Exchanges"), form, chips, chart,
    h("div", { class: "beside" },
      h("section", { class: "fill", "aria-label": "List" }, found, list.element),
      h("aside", { "aria-label": "Counts" }, h("label", {}, "By ", by), counts)));
  if (query.get("focus") === "search") search.focus();
  const failed = (place) => (error) => {
    if (!signal.aborted) render(place, h("p", { class: "problem", role: "alert" }, error.message));
  };
  await Promise.all([more().catch(failed(found)), histogram().catch(failed(chart)), count().catch(failed(counts))]);
}

function address(line) {
  return line ? `#/exchanges?q=${encodeURIComponent(line)}` : "#/exchanges";
}

/** The words of a line, as a shell has them, as far as that matters here. */
function split(line) {
  return [...line.matchAll(/(?:[^\s'"]|'[^']*'|"[^"]*")+/g)].map(([word]) => word.replace(/^--/, "").replaceAll(/['"]/g, ""));
}

/** One bar for each span, of its classes; to choose one is to ask for that time. */
function bars({ seconds, bins }, words, go) {
  const first = new Date(bins[0].at).getTime();
  const last = new Date(bins.at(-1).at).getTime();
  const width = seconds * 1000;
  const slots = Math.round((last - first) / width) + 1;
  const most = Math.max(...bins.map(({ classes }) => Object.values(classes).reduce((sum, each) => sum + each, 0)));
  const others = words.filter((each) => !/^(since|until)=/.test(each));
  const shown = svg("svg", { viewBox: `0 0 ${Math.max(slots, 24) * 10} 60`, preserveAspectRatio: "none", role: "group", "aria-label": "Exchanges over time, by outcome class" },
    bins.map(({ at, classes }) => {
      const start = new Date(at).getTime();
      const choose = () => go([...others, `since=${new Date(start).toISOString()}`, `until=${new Date(start + width).toISOString()}`].map(quoted).join(" "));
      const text = `${second(at)}: ${CLASSES.filter((each) => classes[each]).map((each) => `${classes[each]} ${each}`).join(", ")}`;
      let top = 60;
      return svg("g", {
        role: "button", tabindex: 0, "aria-label": text, onclick: choose,
        onkeydown: (event) => { if (event.key === "Enter") choose(); },
      }, svg("title", {}, text), CLASSES.filter((each) => classes[each]).map((each) => {
        const high = Math.max((classes[each] / most) * 58, 0.8);
        top -= high;
        return svg("rect", { x: ((start - first) / width) * 10 + 0.5, y: top, width: 9, height: high, class: each });
      }));
    }));
  return [shown, h("p", { class: "scale" }, h("span", {}, second(bins[0].at)), h("span", { class: "legend" },
    CLASSES.filter((each) => bins.some(({ classes }) => classes[each])).map((each) => h("span", { class: `key ${each}` }, each))),
  h("span", {}, second(new Date(last + width).toISOString())))];
}
