// The columns of a list of exchanges.

import { h } from "./dom.js";
import { duration, shortId, shortTime, tokens } from "./words.js";

/** A link to an exchange. */
export function link(id, text = shortId(id)) {
  return h("a", { href: `#/exchanges/${encodeURIComponent(id)}`, class: "id" }, text);
}

/** An outcome with the colour of its class; a sign of the class stands before it, for those who see no colours. */
export function outcome(row) {
  const kind = row.class ?? "flight";
  return h("span", { class: `outcome ${kind}` }, row.outcome ?? "in_flight");
}

/** The backend that a row belongs to. */
export function where(row) {
  return row.upstream ?? row.cluster ?? "not at a backend yet";
}

export const COLUMNS = [
  { title: "started", class: "time", cell: (row) => shortTime(row.started_at) },
  { title: "outcome", class: "wide", cell: outcome },
  { title: "status", class: "number narrow", cell: (row) => row.status ?? "" },
  { title: "path", class: "wide extra", cell: (row) => row.path ?? "" },
  { title: "model", class: "wide some", cell: (row) => row.model ?? "" },
  { title: "upstream", class: "wide some", cell: (row) => row.upstream ?? "" },
  { title: "took", class: "number", cell: (row) => duration(row.duration_ms) },
  { title: "tokens", class: "number extra", cell: tokens },
  { title: "id", class: "ids", cell: (row) => link(row.id) },
];
