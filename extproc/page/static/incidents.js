// What befell backends: the list, and one incident with who was in flight and who may have done it.

import { quarantine } from "./actions.js";
import { get } from "./api.js";
import { h, render } from "./dom.js";
import { link, outcome } from "./rows.js";
import { duration, time } from "./words.js";

const LINES = [[0.95, "almost certain"], [0.8, "likely"], [0.6, "probable"], [0, "possible"]];
const AROUND_MS = 120000;
const LIKELY = 0.05;

export async function show({ main, signal, rest: [id], about }) {
  const all = await get("/incidents", {}, { signal });
  const one = id && all.find((each) => each.id === id);
  if (id && !one) throw new Error(`no incident goes by ${id}`);
  render(main, ...(one ? await page(one, about, signal) : list(all)));
}

function list(all) {
  const title = h("h1", {}, "Incidents");
  if (!all.length) return [title, h("p", {}, "No backend died, hung or froze, as far as the journal tells.")];
  return [title, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Incidents" }, h("table", {},
    h("thead", {}, h("tr", {}, ["when", "what", "how sure", "backend", "in flight", "first suspect"].map((each) => h("th", { scope: "col" }, each)))),
    h("tbody", {}, all.toReversed().map((each) => h("tr", {},
      h("th", { scope: "row" }, h("a", { href: `#/incidents/${each.id}` }, time(each.at))),
      h("td", {}, h("span", { class: `outcome ${each.verdict === "suspects" ? "upstream" : "unknown"}` }, each.class), " ", h("span", { class: "note" }, lasted(each))),
      h("td", {}, sure(each.confidence)), h("td", {}, each.upstream), h("td", {}, each.in_flight.length),
      h("td", {}, each.suspects.length ? link(each.suspects[0].exchange) : "no request")))))) ];
}

/** How long a hang or a freeze lasted; nothing of what does not last. */
function lasted(one) {
  if (one.ended_at) return `for ${duration(new Date(one.ended_at) - new Date(one.at))}`;
  return one.class === "hang" ? "not over" : "";
}

function sure(confidence) {
  return `${LINES.find(([least]) => confidence >= least)[1]} (${confidence.toFixed(2)})`;
}

async function page(one, about, signal) {
  const rows = await flights(one, signal);
  const ranks = new Map(one.suspects.map((each) => [each.exchange, each.rank]));
  const first = one.suspects[0]?.exchange;
  const next = [
    ...(first ? [`extproc show ${first}`, `extproc replay ${one.id} --bisect --to URL-OF-A-TEST-SERVER --restart COMMAND`, `extproc quarantine add ${one.id}`] : []),
    `extproc inflight --at ${one.at} --upstream ${one.upstream}`,
  ];
  return [
    h("h1", {}, `${one.class} of ${one.upstream}`),
    h("p", { class: "verdict" }, time(one.at), ", ", sure(one.confidence), one.backend.engine ? `, ${one.backend.engine} by its message` : "", ended(one), " ", h("code", {}, one.id)),
    h("section", {}, h("h2", {}, "What was seen"), h("ul", {}, one.evidence.map((each) => h("li", {}, each)))),
    h("section", {}, h("h2", {}, one.suspects.length ? "Suspects" : "No request is to blame"),
      h("ol", { class: "suspects" }, one.suspects.slice(0, 5).map((each) => h("li", {}, h("strong", {}, each.score.toFixed(2)), " ", link(each.exchange, each.exchange),
        h("ul", {}, each.reasons.map((reason) => h("li", {}, reason)), each.latch ? h("li", {}, "the earlier one: ", link(each.latch, each.latch)) : null))))),
    h("section", {}, h("h2", {}, `In flight: ${one.in_flight.length}`), gantt(rows, one, ranks)),
    first ? h("section", {}, h("h2", {}, "Quarantine"), quarantine(one.id, (entry) => entry.incident === one.id, about, signal)) : null,
    h("section", {}, h("h2", {}, "Next"), h("pre", {}, next.join("\n"))),
  ];
}

function ended(one) {
  if (one.ended_at) return `, over at ${time(one.ended_at)}, after ${duration(new Date(one.ended_at) - new Date(one.at))}`;
  return one.class === "hang" ? ", not over, as far as is known" : "";
}

/** What was in flight then, and what began a little later on the same backend. */
async function flights(one, signal) {
  const answer = await get("/exchanges", { view: "rows", limit: 300, all: "yes", at: one.at, window: "5s", upstream: one.upstream }, { signal });
  const known = new Set(answer.exchanges.map((each) => each.id));
  const missing = one.in_flight.filter((each) => !known.has(each)).slice(0, 50);
  const more = missing.length ? (await get("/exchanges", { view: "rows", limit: 50, all: "yes", id: missing }, { signal })).exchanges : [];
  return [...answer.exchanges, ...more].sort((a, b) => a.started_at.localeCompare(b.started_at));
}

function gantt(rows, one, ranks) {
  if (!rows.length) return h("p", { class: "note" }, "Nothing is known of them any more.");
  const at = new Date(one.at).getTime();
  const likely = new Set(one.suspects.filter((each) => each.rank === 1 || each.score >= LIKELY).map((each) => each.exchange));
  const start = (row) => new Date(row.started_at).getTime();
  const end = (row) => row.ended_at ? new Date(row.ended_at).getTime() : at + 5000;
  const first = Math.max(Math.min(...rows.map(start)), at - AROUND_MS);
  const last = Math.max(Math.min(Math.max(...rows.map(end)), at + AROUND_MS), at + 1);
  const place = (moment) => ((Math.min(Math.max(moment, first), last) - first) / (last - first)) * 100;
  return h("div", { class: "gantt" }, h("p", { class: "note" }, `${((at - first) / 1000).toFixed(1)} s before to ${((last - at) / 1000).toFixed(1)} s after; the line is the moment`),
    h("ul", {}, rows.map((row) => {
      const rank = ranks.get(row.id);
      return h("li", { class: likely.has(row.id) ? "suspect" : null },
        h("span", { class: "who" }, rank ? `${rank}. ` : "", link(row.id)),
        h("span", { class: "track" }, h("span", { class: "moment", style: { left: `${place(at)}%` } }),
          h("span", { class: `span ${row.class ?? "flight"}`, style: { left: `${place(start(row))}%`, width: `${Math.max(place(end(row)) - place(start(row)), 0.4)}%` } })),
        h("span", { class: "how" }, outcome(row)));
    })));
}

