
"use strict";
// The facts come written from the node every second and are fitted into what is shown, so that focus, selection
// and open dialogs stay. Switches exist only here: without this script the page cannot change anything.
const EVERY = 1000, PATIENCE = 4000;
const $ = id => document.getElementById(id);
const make = (name, attributes, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
let heard = Date.now();
let token = "";

/// Makes `old` what `fresh` is, with as few changes as that takes.
function fit(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const key = node => node.dataset?.key;
  if (old.nodeName !== fresh.nodeName || key(old) !== key(fresh)) { old.replaceWith(fresh); return; }
  if (old.nodeType !== Node.ELEMENT_NODE) { old.data = fresh.data; return; }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const olds = [...old.childNodes], freshes = [...fresh.childNodes];
  freshes.forEach((node, n) => (n < olds.length ? fit(olds[n], node) : old.append(node)));
  olds.slice(freshes.length).forEach(node => node.remove());
}

/// Puts a button where a switch may be.
function equip(facts) {
  for (const place of facts.querySelectorAll(".switch")) {
    const { path, state } = place.dataset;
    place.append(make("button", { type: "button", "data-path": path, "data-state": state, "aria-haspopup": "dialog", "aria-label": `Switch ${path}` }, "Switch…"));
  }
  return facts;
}

function live(kind, text) {
  const place = $("live");
  // Said once, not every second, to those who listen.
  if (place.className !== kind || place.textContent !== text) { place.className = kind; place.textContent = text; }
  $("facts").classList.toggle("lost", kind === "lost");
}

async function ask() {
  const answer = await fetch("/api/status?format=html", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(answer.status);
  const facts = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  if (!facts) throw new Error("not a status");
  fit($("facts"), equip(facts));
  document.title = $("facts").dataset.title;
  heard = Date.now();
}

async function look() {
  try {
    await ask();
    live("on", "Live");
  } catch {
    live("lost", `The node does not answer: this is of ${new Date(heard).toLocaleTimeString()}`);
  }
}

async function watch() {
  for (;;) {
    const due = Date.now() + EVERY;
    if (document.hidden) {
      live("paused", "Paused");
      await new Promise(go => document.addEventListener("visibilitychange", go, { once: true }));
    }
    await look();
    await new Promise(go => setTimeout(go, Math.max(200, due - Date.now())));
  }
}

const PATH = {
  disable: ["Disable", "Takes it out: no traffic, no trial requests, until it is enabled. What runs is finished.", true],
  open: ["Open", "No traffic until it is closed or enabled.", true],
  enable: ["Enable", "Hands it back to its breaker: traffic comes back in steps.", false],
  close: ["Close", "All of its traffic at once, and what went wrong is forgotten.", true],
};
/// What can be done with a path in a state, the likeliest first.
const offered = state => ({ disabled: ["enable", "close", "open"], open: ["close", "enable", "disable"], closed: ["disable", "open"] }[state] ?? ["close", "disable", "open"]);

/// One dialog for all that changes anything: what, on what, and whether that is meant.
function confirm({ title, text, choices, url, body }) {
  const form = make("form", { method: "dialog" });
  const said = make("p", { class: "said", role: "alert" });
  const act = make("button", { class: "do", type: "submit" });
  const field = make("input", { type: "password", autocomplete: "off", spellcheck: "false", id: "token" });
  const asked = make("label", { class: "token", for: "token" }, "Admin token, kept until this page is closed", field);
  asked.hidden = true;
  const cancel = make("button", { type: "button" }, "Cancel");
  const dialog = make("dialog", { "aria-labelledby": "what" }, form);
  form.append(make("h2", { id: "what" }, title), make("p", {}, text));
  const chosen = () => form.querySelector("input[name=action]:checked")?.value ?? Object.keys(choices)[0];
  const show = () => {
    const [name, , hard] = choices[chosen()];
    act.textContent = `${name} ${title}`.trim();
    act.classList.toggle("hard", hard);
  };
  const names = Object.keys(choices);
  if (names.length > 1) {
    const group = make("fieldset", { "aria-label": "What to do" });
    names.forEach((name, n) => {
      const radio = make("input", { type: "radio", name: "action", value: name });
      radio.checked = n === 0;
      radio.addEventListener("change", show);
      group.append(make("label", { class: "choice" }, radio, make("b", {}, choices[name][0]), make("span", {}, choices[name][1])));
    });
    form.append(group);
  }
  form.append(asked, said, make("div", { class: "ends" }, cancel, act));
  show();
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async event => {
    event.preventDefault();
    if (act.disabled) return;
    if (field.value) token = field.value;
    act.disabled = true;
    said.textContent = "";
    try {
      const headers = { "content-type": "application/json" };
      if (token) headers.authorization = `Bearer ${token}`;
      const answer = await fetch(url, { method: "POST", headers, body: body ? JSON.stringify(body(chosen())) : undefined, signal: AbortSignal.timeout(15000) });
      if (answer.ok) { dialog.close(); look(); return; }
      const fault = await answer.json().catch(() => ({}));
      const rejected = token !== "";
      if (answer.status === 401) { token = ""; asked.hidden = false; field.value = ""; field.focus(); }
      said.textContent = answer.status === 401 && !rejected
        ? "The node asks for its admin token. Without one configured, only loopback may change it."
        : (fault.error?.message ?? `The node refused: ${answer.status}`);
    } catch {
      said.textContent = "The node did not answer; look at its state before trying again.";
    } finally {
      act.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  cancel.focus();
}

document.addEventListener("click", event => {
  const button = event.target.closest("button");
  const node = $("facts").dataset.node;
  if (button?.dataset.path !== undefined) {
    const { path, state } = button.dataset;
    const choices = Object.fromEntries(offered(state).map(name => [name, PATH[name]]));
    confirm({ title: path, text: `It is ${state} now. This holds on ${node} alone.`, choices, url: `/api/paths/${encodeURIComponent(path)}`, body: action => ({ action }) });
  } else if (button?.id === "reload-now") {
    confirm({ title: node, text: "Reads the file again. A faulty one changes nothing; no running request notices.", choices: { reload: ["Reload", "", false] }, url: "/api/reload" });
  } else if (button?.id === "drain-now") {
    confirm({ title: node, text: "It takes nothing new, finishes what runs, and then ends its process. This cannot be undone from here.", choices: { drain: ["Drain", "", true] }, url: "/api/drain" });
  }
});

equip($("facts"));
$("actions").append(make("button", { type: "button", id: "reload-now", "aria-haspopup": "dialog" }, "Reload…"), make("button", { type: "button", id: "drain-now", "aria-haspopup": "dialog" }, "Drain…"));
watch();
