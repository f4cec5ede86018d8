"use strict";
// The side-by-side reader. Text of models and documents is only ever read, cloned or compared, never made into markup.

const find = (id) => document.getElementById(id);
const list = find("cards");
const cards = [...list.children].map((element, place) => ({
  element, place, tags: element.dataset.tags.split(" "), gain: parseFloat(element.dataset.gain), text: null,
}));
const buttons = [...find("filters").children];
const chosen = { filter: "", set: "", category: "", words: [] };

function hasWords(card) {
  if (!chosen.words.length) return true;
  card.text ??= card.element.textContent.toLowerCase(); // once for each card, and only for those who search
  return chosen.words.every((word) => card.text.includes(word));
}

function passes(card) {
  const { set, category } = card.element.dataset;
  return (!chosen.set || set === chosen.set) && (!chosen.category || category === chosen.category) && hasWords(card);
}

// What is in view, and how many each outcome would show with the other choices as they are.
function show() {
  const possible = cards.filter(passes);
  const shown = new Set(possible.filter((card) => !chosen.filter || card.tags.includes(chosen.filter)));
  for (const card of cards) card.element.hidden = !shown.has(card);
  for (const button of buttons) {
    const tag = button.dataset.filter;
    button.setAttribute("aria-pressed", tag === chosen.filter);
    button.lastElementChild.textContent = tag ? possible.filter((card) => card.tags.includes(tag)).length : possible.length;
  }
  find("count").textContent = `${shown.size} of ${cards.length} shown`;
  find("nothing").hidden = shown.size > 0;
}

function choose(changes) {
  Object.assign(chosen, changes);
  show();
}

function clear() {
  for (const name of ["set", "category", "search"]) if (find(name)) find(name).value = "";
  choose({ filter: "", set: "", category: "", words: [] });
}

function search() {
  choose({ words: find("search").value.toLowerCase().split(/\s+/).filter(Boolean) });
}

// Cards without a gain, such as failed ones, come last; equal ones stay as asked.
function sort() {
  const sign = { asked: 0, losses: 1, gains: -1 }[find("order").value];
  const rank = (card) => (Number.isNaN(card.gain) ? Infinity : sign * card.gain);
  cards.sort((a, b) => (sign && rank(a) !== rank(b) ? rank(a) - rank(b) : a.place - b.place));
  list.append(...cards.map((card) => card.element));
}

function fillCategories() {
  const names = new Set(cards.map((card) => card.element.dataset.category).filter(Boolean));
  find("category").append(...[...names].sort().map((name) => new Option(name, name)));
  find("category").parentElement.hidden = names.size < 2;
}

function move(step) {
  const visible = cards.map((card) => card.element).filter((element) => !element.hidden);
  const here = visible.indexOf(document.activeElement.closest("article"));
  goTo(visible[here < 0 ? 0 : Math.min(Math.max(here + step, 0), visible.length - 1)]);
}

function goTo(element) {
  if (!element) return;
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "start", behavior: "instant" });
}

function toggleSources() {
  const box = document.activeElement.closest("article")?.querySelector(".sources");
  if (box) box.open = !box.open;
}

// A citation leads to the source that it names, in the card or in the ballot, wherever it is clicked.
function followCitation(event) {
  const link = event.target.closest("a.cite");
  const box = link?.closest("article, #ballot-body")?.querySelector(".sources");
  const source = box?.querySelector(`[data-number="${link.dataset.source}"]`);
  if (!source) return;
  event.preventDefault();
  box.open = true;
  goTo(source);
}

// A link to a question shows it, whatever the filters say.
function followAddress() {
  const element = /^#q\d+$/.test(location.hash) && document.querySelector(location.hash);
  if (!element) return;
  if (element.hidden) clear();
  goTo(element);
}
