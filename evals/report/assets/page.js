"use strict";
// The data that page.py and page_data.py write: {cells, made, names, alpha, kinds, methods, units, counted, tasks,
// shapes, images, identities, flips}.
const data = JSON.parse(document.getElementById("data").textContent);

/** An element with attributes and children (strings become text, null is skipped). */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Whether a text fits what was typed: all words are in it. "a | b": either of them. "-a": a is not in it. */
function query(typed) {
  const terms = typed.toLowerCase().replace(/\s*\|\s*/g, "|").split(/\s+/).map((term) => {
    const not = term.length > 1 && term.startsWith("-");
    return { not, words: (not ? term.slice(1) : term).split("|").filter(Boolean) };
  }).filter(({ words }) => words.length);
  return (text) => {
    const lower = text.toLowerCase();
    return terms.every(({ not, words }) => words.some((word) => lower.includes(word)) !== not);
  };
}

// --- The state of the page in its address ---

// Each part of the page adds {write(parameters), read(parameters)}.
const parts = [];
let reading = false;

/** The address's fragment for the page as it is, with some parameters replaced, or removed by null. */
function fragment(others = {}) {
  const parameters = new URLSearchParams();
  for (const part of parts) part.write(parameters);
  for (const [name, value] of Object.entries(others)) {
    if (value === null) parameters.delete(name);
    else parameters.set(name, value);
  }
  return parameters.toString();
}

function remember() {
  if (reading) return;
  const now = fragment();
  if (!now && !location.hash.includes("=")) return; // as the page opened, perhaps at one of its sections
  try {
    history.replaceState(null, "", now ? `#${now}` : location.pathname + location.search);
  } catch { /* A sandbox without an address: the page works, but has no links. */ }
}

/** Show what the address says. A fragment without "=" is a section, which the browser shows itself. */
function restore() {
  reading = true;
  const parameters = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  try {
    for (const part of parts) part.read(parameters);
  } finally {
    reading = false;
  }
}

addEventListener("hashchange", () => { if (location.hash.includes("=")) restore(); });
