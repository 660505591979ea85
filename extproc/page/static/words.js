// Times, sizes and outcomes as people read them.

const two = (number) => String(number).padStart(2, "0");

/** A time of day here, to the millisecond; with the date where it is another day's. */
export function time(text) {
  const at = new Date(text);
  if (!text || Number.isNaN(at.getTime())) return "?";
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock}`;
}

/** The same where there is little room: of another day without the year and the milliseconds. */
export function shortTime(text) {
  const whole = time(text);
  return whole.length > 12 ? whole.slice(5, 19) : whole;
}

/** The same to the second. */
export function second(text) {
  return time(text).replace(/\.\d+$/, "");
}

/** Milliseconds in the unit that suits them. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 60000).toFixed(1)} min`;
}

/** Bytes in the unit that suits them. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

/** The end of an id, by which people know it. */
export function shortId(id) {
  return id.slice(id.lastIndexOf("-") + 1);
}

/** Tokens in and out. */
export function tokens(row) {
  if (row.tokens_in === null && row.tokens_out === null) return "";
  return `${row.tokens_in ?? ""}/${row.tokens_out ?? ""}`;
}

/** Outcome classes, in the order of charts. */
export const CLASSES = ["ok", "client", "limited", "upstream", "local", "sidecar", "unknown"];

/** One word of a shell. */
export function quoted(text) {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
