// How the recorder is: whether it records, what is on disk, how long that lasts, what Envoy runs on.

import { get } from "./api.js";
import { h, render } from "./dom.js";
import { size, time } from "./words.js";

export async function show({ main, signal, about }) {
  const [all, files] = await Promise.all([get("/status", {}, { signal }), get("/envoy", {}, { signal })]);
  render(main, h("h1", {}, "Recorder"), h("p", { class: "note" }, `extproc ${about.version}`), all.map(directory),
    h("section", { "aria-label": "Envoy" }, h("h2", {}, "Envoy's live configuration"), files.length
      ? h("table", {}, h("thead", {}, h("tr", {}, ["file", "changed", "size"].map((each) => h("th", { scope: "col" }, each)))),
        h("tbody", {}, files.map((each) => h("tr", {}, h("th", { scope: "row" }, each.name), h("td", {}, time(each.changed_at)), h("td", {}, size(each.bytes))))))
      : h("p", { class: "note" }, "None is published beside this journal.")));
}

function directory(found) {
  const running = Object.entries(found.in_flight).map(([name, count]) => `${count} on ${name}`).join(", ") || "nothing";
  const total = found.used_bytes + found.free_bytes;
  const used = total ? (found.used_bytes / total) * 100 : 0;
  const known = new Set(["data_dir", "recording", "workers", "in_flight", "silent", "used_bytes", "free_bytes", "bytes_a_day", "lasts_days", "oldest_record_at", "follower_behind_bytes", "follower_seen_at", "index_behind_bytes", "last_death_at"]);
  const facts = [
    ["in flight", running + (found.silent ? `, ${found.silent} of them silent` : "")],
    ["a day adds", found.bytes_a_day === null ? null : size(found.bytes_a_day)],
    ["room lasts", found.lasts_days === null ? null : `${found.lasts_days} days at that rate, if nothing were deleted`],
    ["oldest record", found.oldest_record_at && time(found.oldest_record_at)],
    ["follower", found.follower_behind_bytes === null ? "none has run here" : `${size(found.follower_behind_bytes)} behind, seen ${time(found.follower_seen_at)}`],
    ["index", found.index_behind_bytes === null ? "none: questions read the whole journal" : `${size(found.index_behind_bytes)} behind`],
    ["last death", found.last_death_at ? time(found.last_death_at) : "none"],
    ...Object.entries(found).filter(([name]) => !known.has(name)).map(([name, value]) => [name.replaceAll("_", " "), value !== null && typeof value === "object" ? JSON.stringify(value) : value]),
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("section", { "aria-label": found.data_dir },
    h("h2", {}, found.data_dir),
    h("p", { class: `state ${found.recording ? "good" : "bad"}` }, found.recording ? "It is recording." : "It is NOT recording: no worker writes here."),
    h("div", { class: "disk" }, h("span", { class: "used", style: { width: `${Math.max(used, 0.5)}%` } })),
    h("p", {}, `${size(found.used_bytes)} used, ${size(found.free_bytes)} of room`),
    h("dl", {}, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
    found.workers.length ? h("table", {}, h("thead", {}, h("tr", {}, ["worker", "pid", "since"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, found.workers.map((each) => h("tr", {}, h("th", { scope: "row" }, each.worker), h("td", {}, each.pid ?? "?"), h("td", {}, time(each.recording_since)))))) : null);
}
