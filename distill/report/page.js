"use strict";

const cards = [...document.querySelectorAll("article")].map(
  (element) => ({ element, tags: element.dataset.tags.split(" "), text: element.textContent.toLowerCase() }));
const buttons = [...document.querySelectorAll("#filters button")];
const search = document.getElementById("search");
const count = document.getElementById("count");
let filter = "all";

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const visible = card.tags.includes(filter) && words.every((word) => card.text.includes(word));
    card.element.hidden = !visible;
    shown += visible;
  }
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.filter === filter);
  count.textContent = `${shown} of ${cards.length} shown`;
}

function move(step) {
  const visible = cards.map((card) => card.element).filter((element) => !element.hidden);
  const here = visible.indexOf(document.activeElement.closest("article"));
  const next = visible[here < 0 ? 0 : Math.min(Math.max(here + step, 0), visible.length - 1)];
  if (next) { next.focus(); next.scrollIntoView({ block: "start" }); }
}

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === search) {
    if (event.key === "Escape") { search.value = ""; show(); search.blur(); }
    return;
  }
  const keys = {
    "/": () => search.focus(), j: () => move(1), k: () => move(-1),
    o: () => { const box = document.activeElement.querySelector("details"); if (box) box.open = !box.open; },
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
}

for (const button of buttons) button.addEventListener("click", () => { filter = button.dataset.filter; show(); });
search.addEventListener("input", show);
document.addEventListener("keydown", pressKey);
document.getElementById("tools").hidden = false;
show();
