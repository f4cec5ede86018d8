for (const button of buttons) button.addEventListener("click", () => choose({ filter: button.dataset.filter }));
for (const name of ["set", "category"]) find(name)?.addEventListener("change", (event) => choose({ [name]: event.target.value }));
find("order").addEventListener("change", sort);
find("search").addEventListener("input", search);
find("clear").addEventListener("click", clear);
find("differences").addEventListener("change", (event) => list.classList.toggle("plain", !event.target.checked));
find("help-button").addEventListener("click", () => find("help").showModal());
document.addEventListener("click", followCitation);
document.addEventListener("keydown", pressKey);
window.addEventListener("hashchange", followAddress);
window.addEventListener("beforeunload", warnBeforeLoss);

for (const button of document.querySelectorAll(".choice")) button.addEventListener("click", () => vote(button.dataset.choice));
const actions = { back: goBack, skip, export: exportVotes, restart, "close-ballot": () => find("ballot").close() };
for (const [id, action] of Object.entries(actions)) find(id).addEventListener("click", action);
for (const opener of document.querySelectorAll("[data-open-ballot]")) {
  opener.addEventListener("click", openBallot);
  opener.hidden = !votable.length;
}

find("tools").hidden = false;
// A reload may bring back what stood in the fields.
for (const name of ["set", "category", "order", "search"]) if (find(name)) find(name).value = name === "order" ? "asked" : "";
find("differences").checked = true;
load();
fillCategories();
show();
followAddress();
