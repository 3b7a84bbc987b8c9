// --- Details of a number ---

const dialog = document.getElementById("detail");

function fixed(value, digits = 1) {
  return typeof value === "number" ? value.toFixed(digits) : "-";
}

function between(pair, digits = 1) {
  return pair ? `${fixed(pair[0], digits)} to ${fixed(pair[1], digits)}` : "-";
}

function listOf(entries) {
  const list = make("dl");
  for (const [name, value] of entries) {
    if (value === null || value === undefined || value === "") continue;
    list.append(make("dt", {}, name), make("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)));
  }
  return list;
}

function numbers(cell) {
  const stats = cell.stats ?? {}, against = stats.against;
  const digits = cell.own_scale && Math.abs(cell.value) <= 1 ? 3 : 1; // a score from 0 to 1
  const entries = [
    [cell.metric, `${cell.unscored ?? fixed(cell.value, digits === 3 ? 4 : 2)} on ${cell.n} samples`],
    ["95 % interval (bootstrap over images)", stats.interval && between(stats.interval, digits)],
    ["samples that failed", cell.n_failed || null],
    ["warnings", (cell.warnings ?? []).join("; ")],
    ["answered yes", stats.yes_ratio === undefined ? null : `${fixed(stats.yes_ratio)} %`],
  ];
  if (against) {
    const p = against.p_holm, verdict = p < data.alpha ? "more than chance" : "may be chance";
    const flips = cell.lower_is_better || typeof against.gained !== "number" ? null : `${against.gained}, ${against.lost}`;
    entries.push(
      [`against ${cell.base}`, `${against.difference > 0 ? "+" : ""}${fixed(against.difference, digits)}`],
      ["95 % interval of the difference", between(against.interval, digits)],
      ["McNemar's p, after Holm", typeof p === "number" ? `${p.toPrecision(2)} (${verdict})` : null],
      ["wrong to right, right to wrong", flips],
      ["same answer as vanilla", `${fixed(against.loyalty)} %`],
    );
  }
  entries.push(["visual tokens entering layers", runs(cell.entering)]);
  return listOf(entries);
}

/** Layers with their tokens, equal neighbors merged: "1-2: 0, 3: 144". */
function runs(entering) {
  const found = [];
  entering.forEach((count, i) => {
    const last = found.at(-1);
    if (last && last.count === count) last.to = i + 1;
    else found.push({ count, from: i + 1, to: i + 1 });
  });
  return found.map((run) => `${run.from === run.to ? run.from : `${run.from}-${run.to}`}: ${run.count}`).join(", ");
}

function showDetail(keys) {
  const [model, label, task] = keys[0].split("/");
  document.getElementById("detail-title").textContent = `${data.names[task]}: ${label} on ${model}`;
  const body = dialog.querySelector("div");
  body.replaceChildren();
  for (const key of keys) {
    const identity = data.identities[key];
    if (keys.length > 1) body.append(make("h3", {}, key.split("/")[1]));
    body.append(numbers(data.cells[key]));
    const own = data.tasks[task]?.rows.includes(key);
    if (own) body.append(make("p", {}, make("button", { type: "button", on: { click: () => visit(key) } }, "Show samples")));
    body.append(make("h3", {}, "Where it comes from"));
    body.append(listOf(identity ? Object.entries(identity) : [["id", data.cells[key].id]]));
    for (const { date, ...session } of data.cells[key].provenance ?? []) {
      body.append(listOf([["answered from", date], ...Object.entries(session)]));
    }
  }
  body.append(make("h3", {}, "The run"), listOf(Object.entries(data.made)));
  shownKeys = keys;
  if (!dialog.open) dialog.showModal();
  remember();
}

let shownKeys = null;
dialog.addEventListener("close", () => { shownKeys = null; remember(); });
parts.push({
  write(parameters) { if (shownKeys) parameters.set("detail", shownKeys.join(" ")); },
  read(parameters) {
    const keys = (parameters.get("detail") ?? "").split(" ").filter((key) => key in data.cells);
    if (keys.length) showDetail(keys);
    else if (dialog.open) dialog.close();
  },
});
