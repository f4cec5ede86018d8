// Blind voting: names hidden, sides and questions shuffled, votes kept in this browser until they are exported.

const { base: baseModel, tuned: tunedModel } = document.body.dataset;
const STORE = `votes ${baseModel} ${tunedModel}`;
const votable = cards.map((card) => card.element).filter((element) => "votable" in element.dataset);
let ballot = newBallot();
let order = [];
let current = 0;
let kept = true; // whether this browser keeps votes
let exported = true; // whether every vote is in an exported file

function newBallot() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return { voter: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(""), votes: {} };
}

// A file opened from disk may be refused any storage: then votes last as long as the page.
function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE));
    if (typeof stored?.voter === "string" && stored.votes && typeof stored.votes === "object") ballot = stored;
  } catch {
    kept = false;
  }
}

function save() {
  exported = false;
  try {
    localStorage.setItem(STORE, JSON.stringify(ballot));
    kept = true;
  } catch {
    kept = false;
  }
}

// FNV-1a with a final mixing: the same for one voter and question each time, and else like a coin.
function hash(text) {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193);
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return (value ^ (value >>> 16)) >>> 0;
}

const nameOf = (element) => `${element.dataset.set} ${element.dataset.id}`;
const replyOf = (element, side) => element.querySelector(`.columns > [data-side="${side}"]`);
const shaOf = (element, side) => replyOf(element, side).dataset.sha256;
const leftOf = (element) => (hash(`side ${ballot.voter} ${nameOf(element)}`) & 1 ? "tuned" : "base");
const otherSide = (side) => (side === "base" ? "tuned" : "base");

// A vote on answers that have changed since is none.
function voteOn(element) {
  const cast = ballot.votes[nameOf(element)];
  const same = cast && cast.base_sha256 === shaOf(element, "base") && cast.tuned_sha256 === shaOf(element, "tuned");
  return same ? cast.vote : null;
}

const countVotes = () => votable.filter((element) => voteOn(element)).length;

function shuffle() {
  const rank = new Map(votable.map((element) => [element, hash(`order ${ballot.voter} ${nameOf(element)}`)]));
  order = [...votable].sort((a, b) => rank.get(a) - rank.get(b));
  current = -1;
  seek();
}

function openBallot() {
  if (!votable.length || find("ballot").open) return;
  shuffle();
  find("ballot").showModal();
  draw();
}

// Copies without what could tell the sides apart: no side, no link address, no identifier.
function copy(element) {
  const clone = element.cloneNode(true);
  for (const inner of [clone, ...clone.querySelectorAll("*")]) {
    inner.removeAttribute("id");
    inner.removeAttribute("aria-labelledby");
    if (inner.matches("a.cite")) inner.setAttribute("href", "#");
  }
  return clone;
}

function draw() {
  const done = countVotes();
  const element = order[current];
  find("progress").max = order.length;
  find("progress").value = done;
  find("progress-text").textContent = `${done} of ${order.length} voted`;
  find("export").disabled = !done;
  find("ballot-note").hidden = kept;
  find("ballot-note").textContent = "This browser keeps nothing for pages opened from disk: export your votes before you close this page.";
  find("ballot-body").hidden = !element;
  find("ballot-done").hidden = Boolean(element);
  find("back").disabled = current === 0;
  find("skip").disabled = !element;
  for (const button of document.querySelectorAll(".choice")) {
    button.disabled = !element;
    button.setAttribute("aria-pressed", element ? choiceOf(element) === button.dataset.choice : false);
  }
  if (element) drawQuestion(element);
}

function drawQuestion(element) {
  const left = leftOf(element);
  find("ballot-question").textContent = element.querySelector(".question").textContent;
  for (const [place, side] of [["left", left], ["right", otherSide(left)]]) {
    find(`${place}-answer`).replaceChildren(...copy(replyOf(element, side).querySelector(".said")).childNodes);
  }
  const extra = [...element.querySelectorAll(":scope > .reference, :scope > .sources")].map(copy);
  find("ballot-extra").replaceChildren(...extra);
  find("ballot-body").scrollTop = 0;
}

function choiceOf(element) {
  const cast = voteOn(element);
  return cast && cast !== "tie" ? (cast === leftOf(element) ? "left" : "right") : cast;
}

function vote(choice) {
  const element = order[current];
  if (!element) return;
  const left = leftOf(element);
  ballot.votes[nameOf(element)] = {
    set: element.dataset.set, id: element.dataset.id,
    vote: choice === "tie" ? "tie" : choice === "left" ? left : otherSide(left),
    left, base_sha256: shaOf(element, "base"), tuned_sha256: shaOf(element, "tuned"),
  };
  save();
  skip();
}

// The next question without a vote, first after this one, then from the start; behind the last when all have one.
function seek() {
  const places = order.map((_, place) => place);
  const open = [...places.slice(current + 1), ...places.slice(0, current + 1)].filter((place) => !voteOn(order[place]));
  current = open.length ? open[0] : order.length;
}

function skip() {
  if (current >= order.length) return;
  seek();
  draw();
}

function goBack() {
  if (!current) return;
  current -= 1;
  draw();
}

function exportVotes() {
  if (!countVotes()) return;
  const votes = order.filter(voteOn).map((element) => ballot.votes[nameOf(element)]);
  const content = {
    kind: "blind votes", version: 1, voter: ballot.voter, models: { base: baseModel, tuned: tunedModel },
    made_at: new Date().toISOString(), votes,
  };
  const address = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: "votes.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
  exported = true;
}

function restart() {
  if (countVotes() && !confirm("Forget every vote that this browser keeps for this report?")) return;
  ballot = newBallot();
  save();
  exported = true;
  shuffle();
  draw();
}

function warnBeforeLoss(event) {
  if (!kept && !exported) event.preventDefault();
}
