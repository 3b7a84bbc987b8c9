// --- Figures ---

const NEAR = 22; // pixels between a tap and a mark: a mark is smaller than a finger

/** The mark under an event, or the nearest one. A line is only under it. */
function markAt(event) {
  const under = event.target.closest(".point");
  if (under) return under;
  let found = null, least = NEAR;
  for (const point of event.currentTarget.querySelectorAll(".point")) {
    const box = point.getBoundingClientRect();
    const distance = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
    if (Math.max(box.width, box.height) < 2 * NEAR && distance < least) [found, least] = [point, distance];
  }
  return found;
}

// What a pointer over a mark shows, for those who tap: in a box below the figure.
for (const drawing of document.querySelectorAll(".panels .drawing")) {
  const figure = drawing.closest("figure");
  const box = figure.querySelector(".words") ?? make("p", { class: "words", "aria-live": "polite", hidden: "" });
  figure.append(box);
  drawing.addEventListener("click", (event) => {
    const mark = markAt(event);
    for (const other of figure.querySelectorAll(".chosen")) other.classList.remove("chosen");
    mark?.classList.add("chosen");
    box.hidden = !mark;
    box.textContent = mark?.querySelector("title").textContent ?? "";
  });
}

