// Tokens a second of each backend, over the last seconds. A chunk of a stream in flight is counted as a token; when the
// exchange has ended, its usage says how many there were.

import { where } from "./rows.js";

const SPAN_MS = 5000;

export class Rates {
  constructor() {
    this.seen = null; // how many of each exchange in flight have been counted
    this.counted = []; // {at, name, tokens}
    this.began = 0;
  }

  /** What is in flight now. The first time it only says from where to count on. */
  running(rows, at) {
    const before = this.seen;
    if (before === null) this.began = at;
    this.seen = new Map(rows.map((row) => [row.id, row.response_chunks ?? 0]));
    if (before !== null) for (const row of rows) this.add(row, this.seen.get(row.id) - (before.get(row.id) ?? 0), at);
    this.now = at;
    this.counted = this.counted.filter((each) => at - each.at <= SPAN_MS);
  }

  /** What has ended since. */
  ended(rows, at) {
    if (this.seen === null) return;
    for (const row of rows) this.add(row, (row.tokens_out ?? 0) - (this.seen.get(row.id) ?? 0), at);
  }

  add(row, tokens, at) {
    if (tokens > 0) this.counted.push({ at, name: where(row), tokens });
  }

  /** A whole number. */
  of(name) {
    const seconds = Math.max(Math.min(this.now - this.began, SPAN_MS), 1000) / 1000;
    return Math.round(this.counted.reduce((sum, each) => sum + (each.name === name ? each.tokens : 0), 0) / seconds);
  }
}
