// Two exchanges side by side: what is the same, and what is not.

import { get, request } from "./api.js";
import { messagesOf, parsed } from "./conversation.js";
import { h, render } from "./dom.js";
import { link } from "./rows.js";

export async function show({ main, signal, rest }) {
  const ids = rest.slice(0, 2);
  if (ids.length < 2) throw new Error("two ids are needed: #/compare/A/B");
  const both = await Promise.all(ids.map((id) => get(`/exchanges/${encodeURIComponent(id)}`, { bodies: "no" }, { signal })));
  const texts = await Promise.all(both.map(async (each) => (await request(`/exchanges/${encodeURIComponent(each.id)}/body/request`, { decoded: "yes" }, { signal })).text()));
  const plain = ({ id, request: _, response: __, llm: ___, envoy: ____, ...rest }) => rest;
  render(main,
    h("h1", {}, "Two exchanges"), h("p", {}, link(both[0].id, both[0].id), " and ", link(both[1].id, both[1].id)),
    table("Parameters", ...both.map((each) => each.llm?.params ?? {})),
    table("Headers", ...both.map((each) => Object.fromEntries(each.request?.headers ?? []))),
    table("Messages", ...texts.map((each) => Object.fromEntries(messagesOf(parsed(each)).map((message, index) => [`${index + 1} ${message?.role ?? ""}`, message])))),
    table("What else is known", ...both.map(plain)));
}

function table(title, one, other) {
  const names = [...new Set([...Object.keys(one), ...Object.keys(other)])];
  const text = (value) => value === undefined ? "-" : typeof value === "string" ? value : JSON.stringify(value);
  const rows = names.map((name) => [name, text(one[name]), text(other[name])]).sort((a, b) => (a[1] === a[2]) - (b[1] === b[2]));
  const differ = rows.filter(([, a, b]) => a !== b).length;
  return h("section", { "aria-label": title }, h("h2", {}, title), h("p", { class: "note" }, `${differ} of ${rows.length} differ`),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": title }, h("table", { class: "compare" }, h("tbody", {}, rows.slice(0, 300).map(([name, a, b]) =>
      h("tr", { class: a === b ? "same" : "differs" }, h("th", { scope: "row" }, name), h("td", {}, a.slice(0, 2000)), h("td", {}, a === b ? "the same" : b.slice(0, 2000))))))));
}
