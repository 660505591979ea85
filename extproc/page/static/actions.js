// What the page does beside reading. Each asks first, and says what came of it.

import { get, post, request } from "./api.js";
import { button, h, render } from "./dom.js";
import { time } from "./words.js";

/** Whether a person agrees to something, in a dialog that the keyboard can answer. */
function agreed(title, text, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": title }, h("form", { method: "dialog" }, h("h2", {}, title), h("p", {}, text),
      h("div", { class: "actions" }, h("button", { value: "yes" }, yes), h("button", { value: "no", autofocus: true }, "Leave it"))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A button that asks, does, and tells `said`. */
function asking(label, title, text, act, said) {
  const made = button(label, async () => {
    if (!(await agreed(title, text, label))) return;
    made.disabled = true;
    said("Doing it ...");
    try {
      said(await act());
    } catch (error) {
      said(error.message);
    }
    made.disabled = false;
  });
  return made;
}

/** A line that says what came of it, also to those who do not see it. */
function told() {
  const status = h("p", { class: "note", role: "status", "aria-live": "polite" });
  return [status, (text) => { status.textContent = text; }];
}

/** What is in quarantine for an incident or an exchange, and how to change that. `its`: which entries those are. */
export function quarantine(id, its, about, signal) {
  if (about.directories.length > 1) return [h("p", { class: "note" }, "Each data directory has a quarantine of its own: serve a page for one.")];
  const place = h("div", {});
  const [status, say] = told();
  const draw = async () => {
    const held = await get("/quarantine", {}, { signal });
    const own = held.entries.filter(its);
    render(place, own.length
      ? h("ul", {}, own.map((each) => h("li", {}, h("code", {}, each.id), ` ${what(each)}: ${each.mode ?? held.mode ?? "as the settings say"}, ${each.expires_at ? `until ${time(each.expires_at)}` : "for ever"} `,
        about.actions ? asking("Take it out", "Take it out of quarantine?", `Requests like this reach the backends again, within a second: ${what(each)}.`, remove(each.id, draw), say) : null)))
      : h("p", { class: "note" }, "Nothing of it is in quarantine."));
  };
  const add = async () => {
    const entry = await post("/quarantine", { id, mode: "shadow" });
    await draw();
    return `${entry.id}: in quarantine, in mode shadow`;
  };
  const text = "Requests of its shape are counted for a day, and pass: extproc quarantine mode refuse, or route, does more.";
  draw().catch((error) => { if (!signal.aborted) say(error.message); });
  return [place, about.actions ? asking("Put into quarantine", "Put requests like this into quarantine?", text, add, say) : null, status];
}

function remove(entry, draw) {
  return async () => {
    await request(`/quarantine/${encodeURIComponent(entry)}`, {}, { method: "DELETE" });
    await draw();
    return `${entry}: taken out`;
  };
}

function what(entry) {
  if (entry.atom) return `${entry.atom.place} ${entry.atom.value ?? ""}`;
  return entry.fingerprint ? `shape ${entry.fingerprint}` : `body ${entry.body.slice(0, 12)}`;
}

/** Send a request again to each of the servers that are named. */
export function replays(id, about) {
  if (!about.actions || !about.servers.length) return null;
  const [status, say] = told();
  const text = "Its request is sent as it was recorded, without credentials. If it kills, it kills that server.";
  return [h("div", { class: "actions" }, about.servers.map((name) => asking(`Replay to ${name}`, `Send it to ${name}?`, text, async () => {
    const sent = await post(`/exchanges/${encodeURIComponent(id)}/replay`, { to: name });
    return `${name}: ${sent.why}`;
  }, say))), status];
}
