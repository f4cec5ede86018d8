// Everything can be done by keyboard.

const readerKeys = {
  j: () => move(1),
  k: () => move(-1),
  o: toggleSources,
  d: () => find("differences").click(),
  v: openBallot,
  "/": () => find("search").focus(),
  "?": () => find("help").showModal(),
};
const ballotKeys = {
  1: () => vote("left"),
  2: () => vote("right"),
  3: () => vote("tie"),
  b: goBack,
  s: skip,
  o: () => { const box = find("ballot-extra").querySelector(".sources"); if (box) box.open = !box.open; },
};

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
  if (event.target.matches("input:not([type=checkbox]), select")) {
    if (event.key === "Escape" && event.target === find("search")) {
      event.target.value = "";
      search();
      event.target.blur();
    }
    return;
  }
  const action = (find("ballot").open ? ballotKeys : readerKeys)[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
}
